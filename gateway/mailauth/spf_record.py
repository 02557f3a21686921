"""The text of SPF records: their form, their macros and their networks (RFC 7208 4.5, 4.6.1, 6, 7).

Pure functions, each in time linear in its input, whatever the input is. They stand in front of pyspf, whose own ways
with these are quadratic for some records, or not what the RFC says; ``docs/decisions/spf.md`` has the list. What breaks
a rule raises pyspf's ``PermError``, whose text says in a few words what it was.

Limits of our own, where the RFC has none: ``MAX_RECORD`` and ``MAX_MACROS``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Self, TypeAlias
from urllib.parse import quote

import idna
from spf import RESULTS, PermError

MAX_RECORD: Final = 8192
"""Octets of a record: RFC 7208 3.4 wants them to fit in a UDP packet of 512, the longest in use have about 4,000."""
MAX_MACROS: Final = 100
"""Macros in one record. Records in use have fewer than ten."""
MAX_FIXED: Final = 200
"""Characters of a term that ``fixed`` is to read, which remembers what it was given. Terms in use have up to 60."""
MAX_NAME: Final = 253
"""Characters of a domain name in a question (RFC 7208 7.3)."""
MAX_LABEL: Final = 63
"""Octets of a label (RFC 1035 2.3.4)."""

# record = version terms *SP ; version = "v=spf1"; RFC 7208 4.5: the version ends at a space or the end of the record
_VERSION: Final = "v=spf1"
_PRINTABLE = re.compile(r"[ -~]*")
# modifier = redirect / explanation / unknown-modifier ; name = ALPHA *( ALPHA / DIGIT / "-" / "_" / "." )
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
# macro-expand = ( "%{" macro-letter transformers *delimiter "}" ) / "%%" / "%_" / "%-"
_MACRO = re.compile(r"%(?:\{([slodiphcrtv])([0-9]*)(r?)([.+,/_=-]*)\}|([%_-]))", re.IGNORECASE)
_PLAIN = {"%": "%", "_": " ", "-": "%20"}
# toplabel = ( *alphanum ALPHA *alphanum ) / ( 1*alphanum "-" *( alphanum / "-" ) alphanum )
_TOP_LABEL = re.compile(r"(?![0-9]+$)[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*")
# ip4 = "ip4" ":" ip4-network [ ip4-cidr-length ] ; ip4-cidr-length = "/" ("0" / %x31-39 0*1DIGIT), ip6 alike
# include = "include" ":" domain-spec ; all = "all"
_FIXED = re.compile(
    r"([+?~-]?)(?:all|ip([46]):([0-9A-Fa-f.:]{2,45})(?:/(0|[1-9][0-9]{0,2}))?|include:([!-$&-.0-~]+))", re.IGNORECASE
)
_LABELS = re.compile(rf"(?:[!-\-/-Z^-~]{{1,{MAX_LABEL}}}\.)+(?![0-9]+$)[A-Za-z0-9_-]{{1,{MAX_LABEL}}}")

_EXPLANATION_ONLY: Final = frozenset("crt")  # RFC 7208 7.2
_MAX_DIGITS: Final = 4


class Qualified(str):
    """The result that a mechanism gives if it matches, which still knows the mechanism.

    Attributes:
        term: The mechanism as the record has it.
    """

    __slots__ = ("term",)

    def __new__(cls, result: str, term: str) -> Self:
        """A result of pyspf, from a term."""
        made = super().__new__(cls, result)
        made.term = term
        return made

    term: str


Mechanism: TypeAlias = tuple[str, str, str | int, int, Qualified]
"""What pyspf makes of a term: the term, its name, its argument, the prefix length, its result. For a network that
``fixed`` read the argument is the prefix as a number, and instead of the length stand the bits behind it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A record as pyspf is given it.

    Attributes:
        text: The mechanisms, and those modifiers that are known, their names in lower case.
        has_redirect: Whether there is a ``redirect``.
        problem: What is wrong with it, None if nothing is so far.
    """

    text: str
    has_redirect: bool = False
    problem: str | None = None


def is_record(text: str) -> bool:
    """Whether a TXT record is an SPF record: it begins with the version (RFC 7208 4.5)."""
    return text[:6].lower() == _VERSION and text[6:7] in {"", " "}


@lru_cache(maxsize=512)
def prepare(text: str) -> Prepared:
    """Check what pyspf would not, and take out what is to be ignored (RFC 7208 4.6.1, 6)."""
    if len(text) > MAX_RECORD:
        return Prepared(text, problem=f"the record is longer than {MAX_RECORD} octets")
    if _PRINTABLE.fullmatch(text) is None:
        return Prepared(text, problem="the record has characters that are not printable US-ASCII")
    if text.count("%{") > MAX_MACROS:
        return Prepared(text, problem=f"the record has more than {MAX_MACROS} macros")
    terms = [_VERSION]
    seen = set()
    for term in text[len(_VERSION) :].split(" "):
        match = _MODIFIER.fullmatch(term)
        if match is None:
            terms.append(term)
            continue
        name = match[1].lower()
        if name not in {"redirect", "exp"}:
            try:
                expand(match[2], _letter)
            except PermError as error:
                return Prepared(text, problem=str(error.msg))
            continue
        if name in seen:
            return Prepared(text, problem=f"{name}= is there twice")
        seen.add(name)
        terms.append(f"{name}={match[2]}")
    return Prepared(" ".join(term for term in terms if term), "redirect" in seen)


def _letter(_: str) -> str:
    """A value for macros of which only the form is looked at."""
    return "x"


def expand(template: str, value: Callable[[str], str], *, for_explanation: bool = True) -> str:
    """Replace the macros of a macro-string (RFC 7208 7.3).

    Args:
        template: The macro-string.
        value: Gives the value of a macro letter in lower case.
        for_explanation: Whether ``c``, ``r`` and ``t`` are allowed.

    Raises:
        PermError: It is no macro-string.
    """
    if "%" not in template:
        return template
    parts = []
    end = 0
    for match in _MACRO.finditer(template):
        literal = template[end : match.start()]
        end = match.end()
        if "%" in literal:
            raise PermError(f"invalid macro in {template}")
        parts.append(literal)
        if match[5] is not None:
            parts.append(_PLAIN[match[5]])
            continue
        letter = match[1].lower()
        if letter in _EXPLANATION_ONLY and not for_explanation:
            raise PermError(f"macro {match[0]} is for explanations only, in {template}")
        text = _transform(value(letter), match[2], reverse=bool(match[3]), delimiters=match[4])
        parts.append(text if letter == match[1] else quote(text, safe="~"))
    literal = template[end:]
    if "%" in literal:
        raise PermError(f"invalid macro in {template}")
    parts.append(literal)
    return "".join(parts)


def _transform(value: str, digits: str, *, reverse: bool, delimiters: str) -> str:
    """Split, reverse, take the rightmost parts and join by dots."""
    if not (digits or reverse or delimiters):
        return value
    if digits and not digits.strip("0"):
        raise PermError("a macro asks for 0 labels")
    for delimiter in set(delimiters or "."):
        value = value.replace(delimiter, "\0")
    parts = value.split("\0")
    if reverse:
        parts.reverse()
    if digits and len(digits.lstrip("0")) <= _MAX_DIGITS:
        parts = parts[-int(digits.lstrip("0")) :]
    return ".".join(parts)


def expand_domain(spec: str, value: Callable[[str], str]) -> str:
    """Check a domain-spec and expand it to the name to ask for (RFC 7208 7.1, 7.3).

    Raises:
        PermError: It is no domain-spec.
    """
    # domain-spec = macro-string domain-end ; domain-end = ( "." toplabel [ "." ] ) / macro-expand
    dot, top = spec.removesuffix(".").rpartition(".")[1:]
    if not (dot and _TOP_LABEL.fullmatch(top)) and not _ends_with_macro(spec):
        raise PermError(f"invalid domain: {spec}" if spec else "a domain is missing")
    name = expand(spec, value, for_explanation=False).removesuffix(".")
    if len(name) <= MAX_NAME:
        return name
    cut = name.find(".", len(name) - MAX_NAME - 1)  # labels are taken off at the left
    return name if cut < 0 else name[cut + 1 :]


def _ends_with_macro(spec: str) -> bool:
    if spec[-1:] not in {"}", "%", "_", "-"}:
        return False
    end = -1
    for match in _MACRO.finditer(spec):
        end = match.end()
    return end == len(spec)


@lru_cache(maxsize=4096)
def fixed(term: str) -> Mechanism | None:
    """Read a term that means the same in every check: ``all``, a network, an include of a name without macros.

    None if it is another one, or wrong: then pyspf says what it is. These are nearly all terms of the records in use.
    """
    match = _FIXED.fullmatch(term)
    if match is None:
        return None
    qualifier, bits_of, address_text, length_text, name = match.groups()
    result = Qualified(RESULTS[qualifier or "+"], term)
    if name is not None:
        try:
            return term, "include", expand_domain(name, _letter), 0, result
        except PermError:
            return None
    if address_text is None:
        return term, "all", "", 0, result
    try:
        address = ip_address(address_text)
    except ValueError:
        return None
    bits = address.max_prefixlen
    length = bits if length_text is None else int(length_text)
    if str(address.version) != bits_of or length > bits:
        return None
    shift = bits - length
    return term, f"ip{bits_of}", int(address) >> shift, shift, result


def domain_name(text: str) -> str | None:
    """The form in which a domain is checked: lower case, A-labels; None if it is no domain (RFC 7208 4.3).

    A domain has at least two labels of at most 63 octets, none of them empty. An address, in brackets or not, is none.
    """
    name = text.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            return None
    return name if len(name) <= MAX_NAME and _LABELS.fullmatch(name) else None


def is_askable(name: str) -> bool:
    """Whether a name can be asked for: labels of 1 to 63 printable characters without a backslash."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


_NAME = re.compile(rf"(?:[ -\-/-\[\]-~]{{1,{MAX_LABEL}}}\.)*[ -\-/-\[\]-~]{{1,{MAX_LABEL}}}")
