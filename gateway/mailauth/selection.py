"""Which DKIM-Signature fields of a message are looked at, where it has more than are verified.

Anyone can put signatures on top, and a limit that counts from the top would hide the author's own below them. So the
fields whose ``d=`` is nearest to an author's domain come first: the domain itself, then those that share most labels
with it, from the right; of equals those further up. Nothing is asked of the DNS for that, and no list of public
suffixes is needed: domains of one organization share more labels than a public suffix has, and others at most those
(with authors under suffixes of different length a stranger's may come to stand beside one of theirs). It is an order
and nothing else; what is aligned DMARC finds out by itself.

Limit: whoever writes junk signatures with the author's own ``d=`` on top still hides the good one, as it would be with
any number.

``d=`` is looked for in the octets, each different value once, in time linear in the header; ``signature`` reads the
fields that are chosen.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final

from gateway.header import HeaderField
from gateway.mailauth.author import a_label_domain, read_author

_NAME: Final = "dkim-signature"
_DOMAIN: Final = re.compile(rb"[:;][ \t\r\n]*d[ \t\r\n]*=([^;]*)")


def selected(fields: Sequence[HeaderField], limit: int) -> list[HeaderField]:
    """The DKIM-Signature fields that are looked at, from the top of the header.

    Args:
        fields: The message's header.
        limit: How many they are at most. What is selected with a smaller limit is part of this.
    """
    found = [each for each in fields if each.name == _NAME]
    if len(found) <= limit:
        return found
    authors = read_author(fields).domains
    distances: dict[bytes, tuple[int, bool]] = {}
    ranked: list[tuple[tuple[int, bool], int]] = []
    for index, field in enumerate(found):
        match = _DOMAIN.search(field.raw)
        text = b"" if match is None else match[1]
        if text not in distances:
            distances[text] = _distance(text, authors)
        ranked.append((distances[text], index))
    return [found[index] for index in sorted(index for _, index in sorted(ranked)[:limit])]


def _distance(text: bytes, authors: Collection[str]) -> tuple[int, bool]:
    """How far from an author's domain a value of ``d=`` is: what compares as less is nearer."""
    domain = a_label_domain(b"".join(text.split()).decode("utf-8", "replace"))
    if domain is None:
        return 0, True
    return min(((-_shared(domain, author), domain != author) for author in authors), default=(0, True))


def _shared(one: str, other: str) -> int:
    """How many labels two domains share, from the right."""
    count = 0
    for mine, theirs in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
