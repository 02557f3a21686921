"""The DMARC Policy Record: the text at ``_dmarc.example.com`` as a value (RFC 9989 4.7 and 4.8).

A record begins with ``v=DMARC1``, exactly; anything else is no record. Behind that nothing is fatal: unknown tags are
ignored, and so is a known tag with a value that it can't have, or one that was there before. Records as RFC 7489 wrote
them are read the same way: ``pct``, ``rf`` and ``ri`` have no meaning any more, ``p`` may stand anywhere, and the size
limit of a reporting address (``!10m``) is kept apart from it. Names of tags and their values may be in any case, as the
ABNF has them; ``DMARC1`` may not.

CR and LF before a tag, the first one too, after it and around its equals sign count as white space, which RFC 9989 4.8
does not have:
people paste them into the DNS, and a record that does not count lets every forgery through that it was published
against.

A record that has no valid ``p``, or an ``sp`` or ``np`` that is none, asks for nothing: with a usable ``rua`` it stands
for ``p=none``, and without one DMARC does not apply to the message (RFC 9989 4.10.1).

Parsed records are remembered by their text. Time is linear in the text; never raises.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeVar

from gateway.mailauth.results import AlignmentMode, Disposition, PolicyRecord, Psd, ReportUri

CACHED_RECORDS: Final = 4096
"""Parsed records that are remembered: a few MB at most, and more domains than a worker meets in an hour."""

MAX_CACHED: Final = 1024
"""Octets of a record that is remembered. Real ones are far shorter; what is longer is parsed each time."""

MAX_REPORT_URIS: Final = 20
"""Reporting addresses that are kept; nobody has more, and they go into the decision record."""

_BLANKS: Final = " \t\r\n"
# dmarc-version = "v" equals %s"DMARC1"; equals = *WSP "=" *WSP (RFC 9989 4.8)
_VERSION: Final = re.compile(r"(?:[\r\n][ \t\r\n]*)?[vV][ \t\r\n]*=[ \t\r\n]*DMARC1[ \t\r\n]*(?:;|\Z)")
# dmarc-uri (RFC 3986 3.1: a scheme and something; an exclamation mark in it is written %21), and the size limit that
# RFC 7489 6.2 had
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:[\"-~]+)(?:!([0-9]+)([kmgt]?))?", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DIGITS: Final = 15
_LARGEST: Final = 2**63 - 1  # what a JSON reader takes for a number


def policy_record(texts: Iterable[str]) -> PolicyRecord | None:
    """The one DMARC Policy Record among the TXT records of a name; with several, none counts (RFC 9989 4.10)."""
    found = [text for text in texts if _VERSION.match(text)]
    return parse_record(found[0]) if len(found) == 1 else None


def parse_record(text: str) -> PolicyRecord | None:
    """Read a record; None if the text is none."""
    return _parse_cached(text) if len(text) <= MAX_CACHED else _parse(text)


def _parse(text: str) -> PolicyRecord | None:
    version = _VERSION.match(text)
    if version is None:
        return None
    errors: list[str] = []
    tags: dict[str, str] = {}
    for part in text[version.end() :].split(";"):
        name, equals, value = part.partition("=")
        name = name.strip(_BLANKS).lower()
        if name in _KNOWN and equals:
            if name in tags:
                errors.append(f"{name} is there twice")
            tags.setdefault(name, value.strip(_BLANKS))
    reader = _Reader(tags, errors)
    policies = [reader.word(Disposition, name) for name in ("p", "sp", "np")]
    aggregate = reader.uris("rua")
    asks_for_nothing = policies[0] is None or any(
        name in tags and policy is None for name, policy in zip(("sp", "np"), policies[1:], strict=True)
    )
    if policies[0] is None and "p" not in tags:
        errors.append("no p")
    policy, subdomain_policy, nonexistent_policy = (None, None, None) if asks_for_nothing else policies
    return PolicyRecord(
        text=text,
        applies=not asks_for_nothing or bool(aggregate),
        policy=policy or Disposition.NONE,
        subdomain_policy=subdomain_policy,
        nonexistent_policy=nonexistent_policy,
        psd=reader.word(Psd, "psd") or Psd.UNSAID,
        testing=reader.word(_YesNo, "t") is _YesNo.YES,
        dkim_mode=_MODES[reader.word(_Mode, "adkim") or _Mode.RELAXED],
        spf_mode=_MODES[reader.word(_Mode, "aspf") or _Mode.RELAXED],
        failure_options=reader.failure_options(),
        aggregate_reports=aggregate,
        failure_reports=reader.uris("ruf"),
        errors=tuple(errors[:MAX_REPORT_URIS]),
    )


def _octets(number: str, unit: str) -> int:
    """A size limit in octets."""
    return min(_LARGEST, int(number) << 10 * _UNITS[unit.lower()]) if len(number) <= _DIGITS else _LARGEST


_parse_cached = lru_cache(CACHED_RECORDS)(_parse)

_KNOWN: Final = frozenset({"p", "sp", "np", "psd", "t", "adkim", "aspf", "fo", "rua", "ruf"})


class _YesNo(StrEnum):
    YES = "y"
    NO = "n"


class _Mode(StrEnum):
    RELAXED = "r"
    STRICT = "s"


_MODES: Final = {_Mode.RELAXED: AlignmentMode.RELAXED, _Mode.STRICT: AlignmentMode.STRICT}


_WordT = TypeVar("_WordT", bound=StrEnum)


class _Reader:
    """Reads the values of tags and notes what it can't."""

    def __init__(self, tags: dict[str, str], errors: list[str]) -> None:
        self._tags = tags
        self._errors = errors

    def word(self, words: type[_WordT], name: str) -> _WordT | None:
        """The word that a tag has, None without the tag or if it is none of them."""
        value = self._tags.get(name)
        if value is None:
            return None
        try:
            return words(value.lower())
        except ValueError:
            self._errors.append(f"{name} has none of its values")
            return None

    def uris(self, name: str) -> tuple[ReportUri, ...]:
        """The reporting addresses that a tag lists, as far as they can be read."""
        found: list[ReportUri] = []
        for part in self._tags.get(name, "").split(","):
            match = _URI.fullmatch(part.strip(_BLANKS))
            if match is None or (match[1][:7].lower() == "mailto:" and "@" not in match[1][8:-1]):
                if part.strip(_BLANKS):
                    self._errors.append(f"{name} has an address that can't be read")
            elif len(found) < MAX_REPORT_URIS:
                found.append(ReportUri(match[1], None if match[2] is None else _octets(match[2], match[3])))
        return tuple(found)

    def failure_options(self) -> tuple[str, ...]:
        """What ``fo`` lists."""
        if "fo" not in self._tags:
            return ("0",)
        options = [option.strip(_BLANKS).lower() for option in self._tags["fo"].split(":")]
        if any(option not in {"0", "1", "d", "s"} for option in options):
            self._errors.append("fo has none of its values")
        return tuple(dict.fromkeys(option for option in options if option in {"0", "1", "d", "s"})) or ("0",)
