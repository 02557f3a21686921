"""The text of SPF records as values (RFC 7208 4.5, 4.6.1, 5, 6).

Nothing is asked for and nothing is raised: what is wrong with a record stands in its ``problem``. Time is linear in the
text, whatever it is. Records and terms are remembered by their text, since many domains have the same ones.

Limits of our own, where the RFC has none: ``MAX_RECORD`` and ``MAX_MACROS``.
"""

import re
from enum import StrEnum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import msgspec

from gateway.mailauth.results import SpfResult
from gateway.mailauth.spf_macros import MacroString, RecordError, domain_spec, macro_string

MAX_RECORD: Final = 8192
"""Octets of a record: RFC 7208 3.4 wants them to fit in a UDP packet of 512, the longest in use have about 4,000."""
MAX_MACROS: Final = 100
"""Macros in one record. Records in use have fewer than ten."""
MAX_CACHED: Final = 1024
"""Octets of a record that is remembered: those of the large providers have about 500."""
_MAX_CACHED_TERM: Final = 200

# record = version terms *SP ; version = "v=spf1"; RFC 7208 4.5: the version ends at a space or the end of the record
_VERSION: Final = "v=spf1"
# modifier = redirect / explanation / unknown-modifier ; name = ALPHA *( ALPHA / DIGIT / "-" / "_" / "." )
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)")
# directive = [ qualifier ] mechanism ; ip4-cidr-length = "/" ("0" / %x31-39 0*1DIGIT), ip6-cidr-length alike
# dual-cidr-length = [ ip4-cidr-length ] [ "/" ip6-cidr-length ]
_DIRECTIVE = re.compile(
    r"([+?~-]?)(all\Z|(?:include|exists|ip4|ip6)(?=:)|a|mx|ptr)"
    r"(?::(.+?))?(?:/(0|[1-9][0-9]{0,2}))?(?://(0|[1-9][0-9]{0,2}))?",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """The mechanisms (RFC 7208 5)."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


_KINDS: Final = {kind.value: kind for kind in Kind}
_RESULTS: Final = dict(
    zip("+-~?", (SpfResult.PASS, SpfResult.FAIL, SpfResult.SOFTFAIL, SpfResult.NEUTRAL), strict=True)
)
_WITH_BOTH: Final = frozenset({Kind.A, Kind.MX})
_WITHOUT_LENGTH: Final = frozenset({Kind.PTR, Kind.INCLUDE, Kind.EXISTS})


class Term(msgspec.Struct, frozen=True):
    """A directive (RFC 7208 4.6.1): a mechanism, and what it gives if it matches.

    Attributes:
        text: As written.
        result: What it gives.
        kind: The mechanism.
        spec: Its domain-spec, None without one.
        host_bits: Bits of an IPv4 and of an IPv6 address that are not compared.
        prefix: The others of ``ip4`` and ``ip6`` as a number, None for other mechanisms.
    """

    text: str
    result: SpfResult
    kind: Kind
    spec: MacroString | None
    host_bits: tuple[int, int]
    prefix: int | None = None


class Record(msgspec.Struct, frozen=True):
    """A record (RFC 7208 4.6.1).

    Attributes:
        terms: Its mechanisms in order.
        redirect: Where ``redirect`` points to, None without it.
        explanation: Where ``exp`` says that the explanation is, None without it.
        problem: What is wrong with it, None if nothing is; then there is nothing else.
    """

    terms: tuple[Term, ...] = ()
    redirect: MacroString | None = None
    explanation: MacroString | None = None
    problem: str | None = None


def is_record(text: str) -> bool:
    """Whether a TXT record is an SPF record: it begins with the version (RFC 7208 4.5)."""
    return text[:6].lower() == _VERSION and text[6:7] in {"", " "}


def read_record(text: str) -> Record:
    """Read a text for which ``is_record`` holds."""
    return _read_cached(text) if len(text) <= MAX_CACHED else _read(text)


def _read(text: str) -> Record:
    if len(text) > MAX_RECORD:
        return Record(problem=f"the record is longer than {MAX_RECORD} octets")
    if text.count("%{") > MAX_MACROS:
        return Record(problem=f"the record has more than {MAX_MACROS} macros")
    if not (text.isascii() and text.isprintable()):
        return Record(problem="the record has characters that are not printable US-ASCII")
    terms: list[Term] = []
    pointers: dict[str, MacroString] = {}
    try:
        for word in text[len(_VERSION) :].split():
            modifier = _MODIFIER.fullmatch(word) if "=" in word else None
            if modifier is None:
                terms.append(_term_cached(word) if len(word) <= _MAX_CACHED_TERM else _term(word))
                continue
            name = modifier[1].lower()
            if name not in {"redirect", "exp"}:
                macro_string(modifier[2])  # it is ignored if its form is right (RFC 7208 6)
            elif name in pointers:
                return Record(problem=f"{name}= is there twice")
            else:
                pointers[name] = domain_spec(modifier[2])
    except RecordError as error:
        return Record(problem=str(error))
    return Record(tuple(terms), pointers.get("redirect"), pointers.get("exp"))


def _term(text: str) -> Term:
    """Read a directive.

    Raises:
        RecordError: It is none.
    """
    match = _DIRECTIVE.fullmatch(text)
    if match is None:
        raise RecordError(f"unknown or malformed mechanism: {text}")
    qualifier, name, argument, length, length6 = match.groups()
    result, kind = _RESULTS[qualifier or "+"], _KINDS[name.lower()]
    if (length is not None and kind in _WITHOUT_LENGTH) or (length6 is not None and kind not in _WITH_BOTH):
        raise RecordError(f"a prefix length is out of place: {text}")
    spec = prefix = None
    host_bits = 32 - int(length or 32), 128 - int(length6 or 128)
    if kind is Kind.IP4 or kind is Kind.IP6:
        try:  # Python's IPv6 addresses may have a zone, those of records may not
            address = IPv4Address(argument) if kind is Kind.IP4 else IPv6Address(argument.replace("%", " "))
        except AddressValueError:
            raise RecordError(f"invalid address: {text}") from None
        bits = address.max_prefixlen - int(length or address.max_prefixlen)
        host_bits, prefix = (bits, bits), int(address) >> max(bits, 0)
    elif argument is not None:
        spec = domain_spec(argument)
    if min(host_bits) < 0:
        raise RecordError(f"invalid prefix length: {text}")
    return Term(text, result, kind, spec, host_bits, prefix)


_term_cached = lru_cache(maxsize=4096)(_term)
_read_cached = lru_cache(maxsize=512)(_read)  # 10 MB at most
