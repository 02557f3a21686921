"""What an earlier hop recorded in an ARC-Authentication-Results field, and whether it makes up for a DMARC failure.

``recorded_results`` reads the value of the field (RFC 8601 2.2, RFC 8617 4.1.1) tolerantly: comments and quoted strings
anywhere, any white space, unknown methods and properties. What can't be read is left out. ``trusted_pass`` looks for a
set of a chain whose sealer the operator trusts and whose recorded results authenticate the Author Domain.

Which sets count: the chain passes, which proves that each set says what its sealer wrote (RFC 8617 5.2). A set's
results hold for the message as its sealer saw it. So they are used only if the message is still that one (the set's
own message signature verifies), or if every sealer since then is trusted, too: what changed it since are hops that the
operator trusts. Where a hop that is not trusted sealed last and changed the message, nothing before it counts. And the
message signature that is relied on must cover the From field: else anybody could put another author under the seal.

Time is linear in the fields; never raises.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.mailauth.author import a_label_domain
from gateway.mailauth.cfws import comment_end
from gateway.mailauth.results import Arc, ArcResult, ArcSet

# An unclosed quoted string reaches to the end.
_TOKEN: Final = re.compile(r"[ \t\r\n]+|\"(?:[^\"\\]|\\.)*(?:\"|\\?$)|[(;=]|[^ \t\r\n\"(;=]+", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)

_GOOD: Final = "pass"


@dataclass(frozen=True, slots=True)
class RecordedResult:
    """One result of an Authentication-Results field (RFC 8601 2.2).

    Attributes:
        method: In lower case, without its version.
        result: In lower case.
        properties: Such as ``header.from``, in lower case, with their values; the first of a name counts.
    """

    method: str
    result: str
    properties: Mapping[str, str]

    def domain(self, *names: str) -> str | None:
        """The domain in the first of these properties that is there: a domain, or what stands behind an ``@``."""
        for name in names:
            if name in self.properties:
                return a_label_domain(self.properties[name].rpartition("@")[2])
        return None


@dataclass(frozen=True, slots=True)
class TrustedPass:
    """The set of a chain that makes up for a failure, and by what.

    Attributes:
        sealer: Who sealed it.
        instance: Its instance.
        method: The method that it records as passing: dmarc, dkim or spf.
    """

    sealer: str
    instance: int
    method: str


def recorded_results(value: str) -> tuple[RecordedResult, ...]:
    """The results in the value of a field, which begins with the authserv-id."""
    results = []
    segments = _segments(value)
    next(segments, None)  # the authserv-id
    for pairs in segments:
        if pairs:
            (method, result), *properties = pairs
            named: dict[str, str] = {}
            for name, text in properties:
                named.setdefault(name.lower(), text)
            results.append(RecordedResult(method.partition("/")[0].lower(), result.lower(), named))
    return tuple(results)


async def trusted_pass(
    arc: Arc,
    domain: str,
    *,
    is_trusted: Callable[[str], bool],
    spf_aligned: Callable[[str], Awaitable[bool]],
    dkim_aligned: Callable[[str], Awaitable[bool]],
) -> TrustedPass | None:
    """The newest set of a chain by which the Author Domain counts as authenticated.

    Args:
        arc: What the chain came to.
        domain: The Author Domain.
        is_trusted: Whether the operator trusts a sealer.
        spf_aligned: Whether a domain that SPF passes for is aligned with the Author Domain.
        dkim_aligned: The same for a signing domain.
    """
    if arc.result is not ArcResult.PASS:
        return None
    trusted_since = arc.sets[-1].signs_from
    for arc_set in reversed(arc.sets):
        trusted = is_trusted(arc_set.domain)
        unchanged = arc_set.signs_from and arc.oldest_pass is not None and arc.oldest_pass <= arc_set.instance
        if trusted and (trusted_since or unchanged):
            method = await _recorded_pass(arc_set, domain, spf_aligned, dkim_aligned)
            if method is not None:
                return TrustedPass(arc_set.domain, arc_set.instance, method)
        trusted_since = trusted_since and trusted
    return None


async def _recorded_pass(
    arc_set: ArcSet,
    domain: str,
    spf_aligned: Callable[[str], Awaitable[bool]],
    dkim_aligned: Callable[[str], Awaitable[bool]],
) -> str | None:
    """The method by which a set says that the Author Domain is authenticated: DMARC, else DKIM or SPF in alignment."""
    results = recorded_results(arc_set.authentication_results)
    # A result without header.from is of the message that the sealer saw, and so of its only From field.
    dmarc = {each.result for each in results if each.method == "dmarc" and each.domain("header.from") in {domain, None}}
    if _GOOD in dmarc:
        return "dmarc"
    if "fail" in dmarc:
        return None
    for each in results:
        if each.result == _GOOD and each.method == "dkim":
            signer = each.domain("header.d", "header.i")
            if signer is not None and await dkim_aligned(signer):
                return "dkim"
        if each.result == _GOOD and each.method == "spf":
            sender = each.domain("smtp.mailfrom", "smtp.mfrom")
            if sender is not None and await spf_aligned(sender):
                return "spf"
    return None


def _segments(value: str) -> Iterator[list[tuple[str, str]]]:
    """The parts between semicolons, each as pairs of what stands before and behind an equals sign."""
    pairs: list[tuple[str, str]] = []
    name = ""  # the last word, which is a name if an equals sign follows
    text: list[str] | None = None  # a value that is being read; None where there is none
    for piece in _tokens(value):
        if piece == ";" or piece.isspace():
            if text or (text is not None and piece == ";"):
                pairs.append((name, "".join(text)))
                name, text = "", None
            if piece == ";":
                yield pairs
                pairs, name, text = [], "", None
        elif text is not None:
            text.append(_ESCAPED.sub(r"\1", piece[1:].removesuffix('"')) if piece[0] == '"' else piece)
        elif piece == "=":
            text = []
        else:
            name = piece
    if text:
        pairs.append((name, "".join(text)))
    yield pairs


def _tokens(value: str) -> Iterator[str]:
    """Words, quoted strings, semicolons, equals signs and white space; a comment is white space."""
    position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:  # a lone sign that no token has
            position += 1
        elif match[0] == "(":
            position = _after_comment(value, match.end())
            yield " "
        else:
            position = match.end()
            yield match[0]


def _after_comment(value: str, position: int) -> int:
    """Where a comment ends; an unclosed one reaches to the end."""
    end = comment_end(value, position)
    return len(value) if end is None else end
