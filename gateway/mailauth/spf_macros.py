"""The names in SPF records: macros, domain-specs, and what can be asked for (RFC 7208 4.3, 7).

Pure functions, each in time linear in its input, whatever the input is. A macro-string is read once and expanded as
often as it is needed.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import idna
import msgspec

MAX_NAME: Final = 253
"""Characters of a domain name in a question (RFC 7208 7.3)."""
MAX_LABEL: Final = 63
"""Octets of a label (RFC 1035 2.3.4)."""
_MAX_DIGITS: Final = 4  # a name has fewer labels than five digits say

# macro-expand = ( "%{" macro-letter transformers *delimiter "}" ) / "%%" / "%_" / "%-"
_MACRO = re.compile(r"%(?:\{([slodiphcrtv])([0-9]*)(r?)([.+,/_=-]*)\}|([%_-]))", re.IGNORECASE)
_PLAIN: Final = {"%": "%", "_": " ", "-": "%20"}
_EXPLANATION_ONLY: Final = frozenset("crt")  # RFC 7208 7.2
# toplabel = ( *alphanum ALPHA *alphanum ) / ( 1*alphanum "-" *( alphanum / "-" ) alphanum )
_TOP_LABEL = re.compile(r"(?![0-9]+$)[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*")
_DOMAIN = re.compile(rf"(?:[!-\-/-Z^-~]{{1,{MAX_LABEL}}}\.)+(?![0-9]+$)[A-Za-z0-9_-]{{1,{MAX_LABEL}}}")
_ASKABLE = re.compile(rf"(?:[ -\-/-\[\]-~]{{1,{MAX_LABEL}}}\.)*[ -\-/-\[\]-~]{{1,{MAX_LABEL}}}")


class RecordError(ValueError):
    """A text breaks a rule of RFC 7208; says in a few words which."""


class Macro(msgspec.Struct, frozen=True):
    """One macro (RFC 7208 7.1).

    Attributes:
        letter: What it stands for, in lower case.
        is_escaped: Whether its value is URL-escaped: the letter is a capital.
        kept: How many of the rightmost parts are kept, 0 for all.
        is_reversed: Whether the parts are reversed.
        delimiters: Where the value is split.
    """

    letter: str
    is_escaped: bool
    kept: int
    is_reversed: bool
    delimiters: str

    def expand(self, value: str) -> str:
        """Split a value, reverse it, take the rightmost parts and join them by dots (RFC 7208 7.3)."""
        if self.kept or self.is_reversed or self.delimiters:
            for delimiter in self.delimiters or ".":
                value = value.replace(delimiter, "\0")
            parts = value.split("\0")
            value = ".".join((parts[::-1] if self.is_reversed else parts)[-self.kept :])
        return quote(value, safe="~") if self.is_escaped else value


class MacroString(msgspec.Struct, frozen=True):
    """A macro-string (RFC 7208 7.1).

    Attributes:
        parts: Texts and macros in order; the last one is a text, empty where a macro stands at the end.
        letters: The letters of the macros.
    """

    parts: tuple[str | Macro, ...]
    letters: frozenset[str] = frozenset()

    def expand(self, values: Mapping[str, str]) -> str:
        """The text with the values of the letters in it."""
        return "".join([part if isinstance(part, str) else part.expand(values[part.letter]) for part in self.parts])

    def name(self, values: Mapping[str, str]) -> str:
        """The text as a name to ask for; of a long one labels are taken off at the left (RFC 7208 7.3)."""
        name = self.expand(values).removesuffix(".").lower()
        cut = name.find(".", len(name) - MAX_NAME - 1) if len(name) > MAX_NAME else -1
        return name[cut + 1 :]


def macro_string(text: str, *, for_explanation: bool = True) -> MacroString:
    """Read a macro-string, in which ``c``, ``r`` and ``t`` are allowed for an explanation.

    Raises:
        RecordError: It is none.
    """
    if "%" not in text:
        return MacroString((text,))
    if "%" in _MACRO.sub("", text):
        raise RecordError(f"invalid macro: {text}")
    parts: list[str | Macro] = []
    end = 0
    for match in _MACRO.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        letter, digits, reverse, delimiters, plain = match.groups()
        if plain is not None:
            parts.append(_PLAIN[plain])
            continue
        number = digits.lstrip("0")
        if (digits and not number) or (letter.lower() in _EXPLANATION_ONLY and not for_explanation):
            raise RecordError(f"{match[0]} is not allowed: {text}")
        kept = int(number or 0) if len(number) <= _MAX_DIGITS else 0
        delimiters = "".join(dict.fromkeys(delimiters))
        parts.append(Macro(letter.lower(), letter.isupper(), kept, bool(reverse), delimiters))
    parts.append(text[end:])
    return MacroString(tuple(parts), frozenset(part.letter for part in parts if isinstance(part, Macro)))


def domain_spec(text: str) -> MacroString:
    """Read a domain-spec (RFC 7208 7.1).

    Raises:
        RecordError: It is none.
    """
    spec = macro_string(text, for_explanation=False)
    # domain-spec = macro-string domain-end ; domain-end = ( "." toplabel [ "." ] ) / macro-expand
    end = str(spec.parts[-1])
    dot, top = end.removesuffix(".").rpartition(".")[1:]
    if (end or not text) and not (dot and _TOP_LABEL.fullmatch(top)):
        raise RecordError(f"invalid domain: {text}" if text else "a domain is missing")
    return spec


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
    return name if len(name) <= MAX_NAME and _DOMAIN.fullmatch(name) else None


def is_askable(name: str) -> bool:
    """Whether a name can be asked for: labels of 1 to 63 printable characters without a backslash."""
    return len(name) <= MAX_NAME and _ASKABLE.fullmatch(name) is not None
