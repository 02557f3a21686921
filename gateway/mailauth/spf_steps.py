"""What an SPF check tried, and how that is told to an administrator.

``Frame`` is what a check leaves for each record that it evaluated: the terms, how far it came, and the records that
they led to. ``steps`` makes of it a line for each mechanism that was tried, in order; those of an included record stand
indented below it. A row of networks that did not match is one line, so the limit of terms that ask the DNS bounds the
lines as well. Their length is bounded, and they hold nothing but printable US-ASCII.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.mailauth.spf_record import Mechanism, Qualified
from gateway.resolver import RecordType

_MAX_LINE: Final = 200
_MAX_SHOWN: Final = 4
_ROW: Final = 3

ASKING: Final = frozenset({"a", "mx", "ptr", "exists", "include"})
"""The mechanisms that ask the DNS (RFC 7208 4.6.4)."""
_UNPRINTABLE = re.compile(r"[^ -~]")

Known: TypeAlias = Callable[[str, RecordType], tuple[str, tuple[str, ...]] | None]
"""What a question of the check was answered, None if it was not asked."""


@dataclass(slots=True)
class Frame:
    """One record, as far as it was evaluated.

    Attributes:
        domain: Where the record stands.
        is_missing: Whether there is none.
        has_redirect: Whether it has a ``redirect``.
        redirect_seen: Whether pyspf has come by it while it read the record.
        terms: Its mechanisms as pyspf reads them.
        asking: Those that ask the DNS.
        begun: How many of these were tried.
        matched: What the mechanism that matched gave, None where none did.
        ended: Whether the evaluation came to a result.
        explanation: Where ``exp`` says that the explanation is.
        included: The record behind an include, by its number among ``asking``.
        redirect: The record behind ``redirect``.
    """

    domain: str
    is_missing: bool = False
    has_redirect: bool = False
    redirect_seen: bool = False
    terms: list[Mechanism] = field(default_factory=list)
    asking: list[Mechanism] = field(default_factory=list)
    begun: int = 0
    matched: Qualified | None = None
    ended: bool = False
    explanation: str | None = None
    included: "dict[int, Frame]" = field(default_factory=dict)
    redirect: "Frame | None" = None

    @property
    def is_including(self) -> bool:
        """Whether the mechanism that is being tried is an include, whose record was not evaluated yet."""
        return self.begun > 0 and self.begun not in self.included and self.asking[self.begun - 1][1] == "include"


def one_line(text: str, length: int = _MAX_LINE) -> str:
    """A text of any origin as one line of printable US-ASCII, cut to a length."""
    text = text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub("?", text)
    return text if len(text) <= length else text[: length - 3] + "..."


def steps(frame: Frame | None, known: Known) -> tuple[str, ...]:
    """The lines about a record and those that it led to."""
    return () if frame is None else tuple(_lines(frame, known, ""))


def _lines(frame: Frame, known: Known, indent: str) -> Iterator[str]:
    yield from _mechanisms(frame, known, indent)
    if frame.matched is not None:
        return
    if frame.redirect is not None:
        yield one_line(f"{indent}redirect={frame.redirect.domain}: taken, as nothing matched")
        yield from _lines(frame.redirect, known, indent + "  ")
    elif frame.is_missing:
        yield one_line(f"{indent}{frame.domain} has no SPF record")
    elif frame.ended:
        yield f"{indent}nothing matched, so neutral"


def _mechanisms(frame: Frame, known: Known, indent: str) -> Iterator[str]:
    row: list[Mechanism] = []
    asking = 0
    for term in frame.terms[: _reached(frame)]:
        is_asking = term[1] in ASKING
        asking += is_asking
        matched = frame.matched is term[4]
        if not is_asking and not matched:
            row.append(term)
            continue
        yield from _row(row, indent)
        row = []
        if matched:
            became = f"matched, so {frame.matched}"
        elif frame.ended or asking < frame.begun:
            became = "did not match"
        else:
            became = "could not be told"
        yield one_line(f"{indent}{term[0]}: {became}{_what(term, known)}")
        if is_asking and asking in frame.included:
            yield from _lines(frame.included[asking], known, indent + "  ")
    yield from _row(row, indent)


def _reached(frame: Frame) -> int:
    """How many of the terms were tried: up to the match, or to the one that ended in an error."""
    if frame.matched is not None:
        return next(number for number, term in enumerate(frame.terms, 1) if term[4] is frame.matched)
    if frame.ended or frame.redirect is not None:
        return len(frame.terms)
    if not frame.begun:
        return 0  # it failed before, while it was read
    failed = frame.asking[frame.begun - 1]
    return next(number for number, term in enumerate(frame.terms, 1) if term is failed)


def _row(row: list[Mechanism], indent: str) -> Iterator[str]:
    if len(row) >= _ROW:
        yield one_line(f"{indent}{row[0][0]} to {row[-1][0]}: none of these {len(row)} networks matched")
        return
    for term in row:
        yield one_line(f"{indent}{term[0]}: did not match")


def _what(term: Mechanism, known: Known) -> str:
    """What the DNS said to a mechanism."""
    _, kind, argument, *_ = term
    name = str(argument).lower()
    if kind == "include":
        return "" if "%" not in term[0] else f" (asked for {name})"
    types = {"mx": (RecordType.MX,), "exists": (RecordType.A,), "a": (RecordType.A, RecordType.AAAA)}.get(kind, ())
    for record_type in types:
        answer = known(name, record_type)
        if answer is not None:
            status, records = answer
            shown = ", ".join(records[:_MAX_SHOWN]) + (", ..." if len(records) > _MAX_SHOWN else "")
            return f" ({name} has {record_type}: {shown or status})"
    return ""
