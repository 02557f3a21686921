"""The Author Domain: the one domain of a message's From field (RFC 9989 3.2.2 and 5.3.1, RFC 5322 3.6.2).

``read_author`` gives that domain in lower case as A-labels, or says why there is none. What people write is read
tolerantly: display names without quotes, commas and 8-bit octets in them, groups, comments, empty list elements, a
final dot. But where a mail reader could see another domain than this one does, the field counts as malformed, and no
domain is taken from it: DMARC would protect one domain while people see another. So these are malformed:

- control characters (a NUL ends the text for some readers), bare CR and LF, unclosed quotes and comments;
- encoded words in an address (RFC 2047 5 forbids them; readers that decode them show what they like);
- routes, several ``@`` or angle brackets in one address, text behind it, white space or comments within it;
- a display name without quotes that is an address of another domain; a quoted local part with an address in it;
- address literals: they have no domain.

A From field that a reader might find where this gateway sees none (behind a line that ends the header, or behind a
bare CR or LF) counts as one more. Time is linear in the field; never raises.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import idna

from gateway.header import HeaderField

MAX_FIELD: Final = 10_000
"""Octets of a From field that are read; ten times what RFC 5322 2.1.1 allows one line. More counts as malformed."""

MAX_ADDRESSES: Final = 50
"""Addresses that are read; more count as malformed, so that a field can't cost more than its length."""

MAX_DOMAIN: Final = 253
"""Octets of a domain name as text (RFC 1035 2.3.4: 255 on the wire)."""


class AuthorFault(StrEnum):
    """Why a message has no Author Domain."""

    MISSING = "missing"
    REPEATED = "repeated"
    MALFORMED = "malformed"
    NO_ADDRESS = "no_address"
    SEVERAL_DOMAINS = "several_domains"


@dataclass(frozen=True, slots=True)
class Author:
    """What the From field says.

    Attributes:
        domain: The Author Domain in lower case, A-labels; empty with a fault.
        fault: Why there is none.
        reason: The same in words.
    """

    domain: str
    fault: AuthorFault | None = None
    reason: str = ""


class _MalformedError(Exception):
    """The field can't be read safely; the text says why."""


_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]"  # RFC 5322 3.2.3

# By far the most fields: nothing, a quoted string or plain words, and an address in angle brackets or alone. What the
# quantifiers took they keep (``+`` behind them), so that time is linear in spaces, too.
_COMMON: Final = re.compile(
    rb"[ \t]*+(?:(?:\"[^\"\\\x00-\x1f\x7f]*+\"[ \t]*+|[A-Za-z0-9 !#$%&'*+\-/=?^_`{|}~.]*+)"
    rb"<([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]++@[A-Za-z0-9_.-]++)>"
    rb"|([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]++@[A-Za-z0-9_.-]++))[ \t]*+\r\n"
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN: Final = re.compile(
    r"(?P<gap>[ \t]+)|(?P<quoted>\"(?:[^\"\\]|\\.)*\")|(?P<literal>\[[^\[\]\\<>@ \t]*\])|(?P<special>[<>,;:@(\"])"
    r"|(?P<word>(?:[^ \t\"<>,;:@(\[]|\[(?![^\[\]\\<>@ \t]*\]))+)"
)
_COMMENT: Final = re.compile(r"[^()\\]+|\\.|[()]")
_LOCAL_PART: Final = re.compile(rf"(?:{_ATEXT}|\.|[^\x00-\x7f])+")
_LOOKS_LIKE_AT: Final = frozenset("\uff20\ufe6b")  # full-width and small @, which readers may show or map as one
_LABELS: Final = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)")

_HIDDEN_BEHIND_BARE: Final = re.compile(rb"(?:(?<!\r)\n|\r(?!\n))[ \t]*from[ \t]*:", re.IGNORECASE)
_HIDDEN_IN_REST: Final = re.compile(rb"(?:^|[\r\n])[ \t]*from[ \t]*:", re.IGNORECASE)


def read_author(fields: Sequence[HeaderField], header: bytes) -> Author:
    """The Author Domain of a message.

    Args:
        fields: The header fields in order.
        header: The octets that they were read from; what the fields don't cover is searched for a hidden From field.
    """
    found = [field for field in fields if field.name == "from"]
    if len(found) > 1:
        return Author("", AuthorFault.REPEATED, f"{len(found)} From fields")
    if _has_hidden_from(fields, header):
        return Author("", AuthorFault.REPEATED, "a From field that only some mail readers see")
    if not found:
        return Author("", AuthorFault.MISSING, "no From field")
    return read_from(found[0].raw)


def read_from(raw: bytes) -> Author:
    """The Author Domain of one From field, given with its name and final CRLF."""
    colon = raw.find(b":") + 1
    common = _COMMON.fullmatch(raw, colon) if len(raw) <= MAX_FIELD else None
    if common is not None:
        local_part, _, domain = (common[1] or common[2]).decode("ascii").partition("@")
        domain = domain.lower()
        if _is_domain(domain) and "=?" not in local_part:
            return Author(domain)
    if len(raw) > MAX_FIELD:
        return Author("", AuthorFault.MALFORMED, f"a From field of {len(raw)} octets")
    value = raw[colon:].replace(b"\r\n", b"")
    if _CONTROL.search(value) is not None:
        return Author("", AuthorFault.MALFORMED, "a control character in the From field")
    try:
        domains = _domains(value.decode("utf-8", "surrogateescape"))
    except _MalformedError as error:
        return Author("", AuthorFault.MALFORMED, str(error))
    if not domains:
        return Author("", AuthorFault.NO_ADDRESS, "the From field has no address with a domain")
    if len(domains) > 1:
        return Author("", AuthorFault.SEVERAL_DOMAINS, f"the From field has addresses of {len(domains)} domains")
    return Author(domains[0])


def a_label_domain(domain: str) -> str | None:
    """A domain as it is compared: lower case, A-labels (RFC 5890 2.3), no final dot; None if it is no domain name."""
    domain = domain.removesuffix(".")
    if len(domain) > MAX_DOMAIN:
        return None
    if not domain.isascii():
        try:
            # UTS 46 first, as for the envelope: people write U-labels in capitals, too
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except UnicodeError:  # IDNAError is one
            return None
    domain = domain.lower()
    return domain if _is_domain(domain) else None


def _is_domain(domain: str) -> bool:
    return len(domain) <= MAX_DOMAIN and _LABELS.fullmatch(domain) is not None


def _has_hidden_from(fields: Sequence[HeaderField], header: bytes) -> bool:
    lines = header.count(b"\r\n")
    if (header.count(b"\n") != lines or header.count(b"\r") != lines) and _HIDDEN_BEHIND_BARE.search(header):
        return True
    covered = sum(len(field.raw) for field in fields)
    return covered < len(header) and _HIDDEN_IN_REST.search(header, covered) is not None


class _Token(NamedTuple):
    """A token, and whether white space or a comment stands before it."""

    kind: str
    text: str
    gap: bool


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    gap = False
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match["special"] == '"':
            raise _MalformedError("an unclosed quoted string in the From field")
        position = match.end()
        if match["gap"] is not None:
            gap = True
        elif match["special"] == "(":
            position = _after_comment(text, position)
            gap = True
        else:
            kind = match["special"] or str(match.lastgroup)
            yield _Token(kind, match[0], gap)
            gap = False


def _after_comment(text: str, position: int) -> int:
    """Where a comment ends, given the octet behind its parenthesis (RFC 5322 3.2.2; comments nest)."""
    depth = 1
    while depth:
        match = _COMMENT.match(text, position)
        if match is None:
            raise _MalformedError("an unclosed comment in the From field")
        depth += (match[0] == "(") - (match[0] == ")")
        position = match.end()
    return position


def _domains(text: str) -> list[str]:
    """The distinct domains of the addresses in a From field, in order; reading ends at the second."""
    domains: list[str] = []
    for number, element in enumerate(_elements(text)):
        if number >= MAX_ADDRESSES:
            raise _MalformedError(f"more than {MAX_ADDRESSES} addresses in the From field")
        domain = _element_domain(element)
        if domain is not None and domain not in domains:
            domains.append(domain)
            if len(domains) > 1:
                break
    return domains


def _elements(text: str) -> Iterator[list[_Token]]:
    """The elements of an address list (RFC 5322 3.4), groups opened; ``;`` parts them as ``,`` does."""
    element: list[_Token] = []
    in_angle = False
    in_group = False
    for token in _tokens(text):
        if token.kind in {"<", ">"}:
            in_angle = token.kind == "<"
        elif in_angle and token.kind in {",", ":", ";"}:
            raise _MalformedError("a route in the From field")
        elif token.kind == ":" and element and not in_group:
            if any(part.kind in {"@", "<"} for part in element):
                raise _MalformedError("an address before a colon in the From field")
            in_group = True
            element = []
            continue
        elif token.kind in {",", ";"}:
            in_group = in_group and token.kind == ","
            if element:
                yield element
            element = []
            continue
        element.append(token)
    if element:
        yield element


def _element_domain(element: list[_Token]) -> str | None:
    """The domain of one mailbox (RFC 5322 3.4), None if the element is no address at all."""
    kinds = [token.kind for token in element]
    if "<" not in kinds and ">" not in kinds:
        return _address_domain(element) if "@" in kinds else None
    if kinds.count("<") != 1 or kinds.count(">") != 1 or kinds[-1] != ">":
        raise _MalformedError("angle brackets in the From field that do not hold one address")
    start = kinds.index("<")
    address = element[start + 1 : -1]
    domain = _address_domain(address) if address else None
    phrase = kinds[:start]
    if ":" in phrase:
        raise _MalformedError("a colon in a display name of the From field")
    if "@" in phrase:
        shown = element[phrase.index("@") + 1].text
        if phrase.count("@") > 1 or domain is None or a_label_domain(shown) != domain:
            raise _MalformedError("a display name in the From field that is another address")
    return domain


def _address_domain(tokens: list[_Token]) -> str:
    """The domain of an addr-spec (RFC 5322 3.4.1) without what readers see differently."""
    if [token.kind for token in tokens] not in (["word", "@", "word"], ["quoted", "@", "word"]):
        raise _MalformedError("not one address with a domain where the From field should have it")
    local_part, at, domain = tokens
    if at.gap or domain.gap:
        raise _MalformedError("white space or a comment within an address of the From field")
    text = local_part.text
    if "=?" in text or not text.isprintable() or not _LOOKS_LIKE_AT.isdisjoint(text):
        raise _MalformedError("an encoded word or hidden characters in an address of the From field")
    if local_part.kind == "quoted" and any(character in "@<>,;" for character in text):
        raise _MalformedError("an address within a quoted local part of the From field")
    if local_part.kind == "word" and _LOCAL_PART.fullmatch(text) is None:
        raise _MalformedError("a local part in the From field that is none")
    name = a_label_domain(domain.text)
    if name is None:
        raise _MalformedError("a domain in the From field that is none")
    return name
