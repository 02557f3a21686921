"""Which DKIM-Signature fields of a message are looked at, where it has more than are verified.

Anyone can put signatures on top, and a limit that counts from the top would hide the author's own below them. So the
fields whose ``d=`` is nearest to an author's domain come first: the domain itself, then those that share most labels
with it, from the right; of equals those further up. Nothing is asked of the DNS for that, and no list of public
suffixes is needed: domains of one organization share more labels than a public suffix has, and others at most those
(with authors under suffixes of different length a stranger's may come to stand beside one of theirs). It is an order
and nothing else; what is aligned DMARC finds out by itself.

Limits: whoever writes junk signatures with the author's own ``d=`` on top still hides the good one, as it would be
with any number. Of the values that are not US-ASCII only ``MAX_CONVERTED`` are made A-labels, from the top; the others
rank last.

``d=`` is looked for in the octets, each different value once, in time linear in the header; ``signature`` reads the
fields that are chosen.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gateway.header import HeaderField
from gateway.mailauth.author import a_label_domain, read_author

MAX_CONVERTED: Final = 50
"""Different values of ``d=`` that are made A-labels: each takes as long as a hundred others."""

_NAME: Final = "dkim-signature"
_DOMAIN: Final = re.compile(rb"(?:\A[^:]*:|;)[ \t\r\n]*d[ \t\r\n]*=([^;]*)")

_WHITE_SPACE: Final = b" \t\r\n\f\v"

Rank = tuple[int, bool]
_LAST: Final[Rank] = 0, True


class Selection:
    """The DKIM-Signature fields of one header, which are put in order once, and only if they are too many.

    Args:
        fields: The header.
    """

    __slots__ = ("_fields", "_found", "_order")

    def __init__(self, fields: Sequence[HeaderField]) -> None:
        self._fields = fields
        self._found = [each for each in fields if each.name == _NAME]
        self._order: list[int] | None = None

    def first(self, limit: int) -> list[HeaderField]:
        """Those that are looked at, from the top of the header.

        Args:
            limit: How many they are at most. What is selected with a smaller limit is part of this.
        """
        found = self._found
        if len(found) <= limit:
            return found
        if self._order is None:
            ranks = _ranks(found, read_author(self._fields).domains)
            self._order = sorted(range(len(found)), key=ranks.__getitem__)
        return [found[index] for index in sorted(self._order[:limit])]


def _ranks(found: Sequence[HeaderField], authors: Collection[str]) -> list[Rank]:
    """How far from an author's domain the ``d=`` of each is: what compares as less is nearer."""
    ends = {end for author in authors for end in _ends(author)}
    known: dict[bytes, Rank] = {}
    ranks: list[Rank] = []
    left = MAX_CONVERTED
    for field in found:
        match = _DOMAIN.search(field.raw)
        text = b"" if match is None else match[1]
        rank = known.get(text)
        if rank is None:
            left -= not text.isascii()
            rank = known[text] = _rank(text, authors, ends) if text.isascii() or left >= 0 else _LAST
        ranks.append(rank)
    return ranks


def _rank(text: bytes, authors: Collection[str], ends: Collection[str]) -> Rank:
    domain: str | None = text.translate(None, _WHITE_SPACE).decode("utf-8", "replace").lower()
    if domain and (domain.removesuffix(".").rpartition(".")[2] in ends or not domain.isascii()):  # others share nothing
        domain = a_label_domain(domain)
        if domain is not None:
            return -_shared(domain, ends), domain not in authors
    return _LAST


def _shared(domain: str, ends: Collection[str]) -> int:
    """How many labels a domain shares with an author's, from the right."""
    shared, start = 0, len(domain)
    while start > 0:
        start = domain.rfind(".", 0, start)
        if domain[start + 1 :] not in ends:
            break
        shared += 1
    return shared


def _ends(domain: str) -> Iterator[str]:
    """A domain and those that it is below."""
    while domain:
        yield domain
        domain = domain.partition(".")[2]
