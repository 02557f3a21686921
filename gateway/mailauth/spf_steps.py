"""What an SPF check tried, and how that is told to an administrator.

A check leaves a ``Frame`` for each record that it evaluated. ``steps`` makes of it a line for each mechanism that was
tried, in order; those of an included record stand indented below it. A row of networks that did not match is one line,
so the limit of terms that ask the DNS bounds the lines as well. Their length is bounded, and they hold nothing but
printable US-ASCII.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from gateway.mailauth.results import SpfResult
from gateway.mailauth.spf_record import Record, Term
from gateway.resolver import Answer, RecordType

_MAX_LINE: Final = 200
_MAX_SHOWN: Final = 4
_ROW: Final = 3
_UNPRINTABLE = re.compile(r"[^ -~]")

Question: TypeAlias = tuple[str, RecordType]


class Match(msgspec.Struct, frozen=True):
    """That a mechanism matched, and whose address did so where it had several to compare."""

    compared: str = ""


class Fault(msgspec.Struct, frozen=True):
    """Why a check can't go on: ``result`` is temperror or permerror."""

    result: SpfResult
    reason: str


Outcome: TypeAlias = Match | Fault | None
"""What became of a mechanism: it matched, it could not be told, or it did not match."""


class Tried(msgspec.Struct, frozen=True):
    """One mechanism that was tried: what became of it, what it asked, and the record that an include led to."""

    outcome: Outcome
    questions: tuple[Question, ...] = ()
    included: "Frame | None" = None


class Frame(msgspec.Struct):
    """One record, as far as it was evaluated.

    Attributes:
        domain: Where the record stands.
        text: The record, None where there is none.
        record: The same, read.
        result: What check_host() says for the domain.
        fault: Why it is an error, None if it is none.
        reached: How many of its terms were tried.
        tried: What became of them, by number from 1; those that are not there needed no asking, and did not match.
        redirect: The record that ``redirect`` led to, None where it was not followed.
        untold: Why the result is a temperror whatever matched: the DNS did not tell the client's names.
    """

    domain: str
    text: str | None = None
    record: Record = Record()
    result: SpfResult = SpfResult.NONE
    fault: Fault | None = None
    reached: int = 0
    tried: dict[int, Tried] = {}
    redirect: "Frame | None" = None
    untold: Fault | None = None

    @property
    def last(self) -> "Frame":
        """The frame that the result is from: where the redirects end."""
        return self if self.redirect is None else self.redirect.last

    @property
    def match(self) -> tuple[Term, Match] | None:
        """The mechanism that matched, None where none did."""
        tried = self.tried.get(self.reached)
        if tried is None or not isinstance(tried.outcome, Match):
            return None
        return self.record.terms[self.reached - 1], tried.outcome


def one_line(text: str, length: int = _MAX_LINE) -> str:
    """A text of any origin as one line of printable US-ASCII, cut to a length."""
    text = text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub("?", text)
    return text if len(text) <= length else text[: length - 3] + "..."


def steps(frame: Frame, answers: Mapping[Question, Answer]) -> tuple[str, ...]:
    """The lines about a record and those that it led to."""
    lines = list(_lines(frame, answers, ""))
    if frame.untold is not None:
        lines.append(f"the client's names could not be told, so {frame.result}")
    return tuple(map(one_line, lines))


def _lines(frame: Frame, answers: Mapping[Question, Answer], indent: str) -> Iterator[str]:
    row: list[str] = []
    for number, term in enumerate(frame.record.terms[: frame.reached], 1):
        tried = frame.tried.get(number)
        if tried is None:
            row.append(term.text)
            continue
        yield from _networks(row, indent)
        row.clear()
        became = "did not match"
        if isinstance(tried.outcome, Match):
            became = f"matched, so {term.result}"
        elif tried.outcome is not None:
            is_known = tried.outcome.result is SpfResult.PERMERROR
            became = "can't be evaluated, so permerror" if is_known else "could not be told"
        yield f"{indent}{term.text}: {became}{_answered(tried, answers)}"
        if tried.included is not None:
            yield from _lines(tried.included, answers, indent + "  ")
    yield from _networks(row, indent)
    if frame.redirect is not None:
        yield f"{indent}redirect={frame.redirect.domain}: taken, as nothing matched"
        yield from _lines(frame.redirect, answers, indent + "  ")
    elif frame.fault is None and frame.match is None:
        yield f"{indent}nothing matched, so neutral" if frame.text else f"{indent}{frame.domain} has no SPF record"


def _networks(row: list[str], indent: str) -> Iterator[str]:
    if len(row) >= _ROW:
        row = [f"{row[0]} to {row[-1]}: none of these {len(row)} matched"]
    else:
        row = [f"{text}: did not match" for text in row]
    yield from (indent + line for line in row)


def _answered(tried: Tried, answers: Mapping[Question, Answer]) -> str:
    """What the DNS said to a mechanism; of an included record there are lines of its own."""
    said = []
    for name, record_type in tried.questions[:_MAX_SHOWN]:
        answer = answers[name, record_type]
        shown = ", ".join(answer.records[:_MAX_SHOWN]) + (", ..." if len(answer.records) > _MAX_SHOWN else "")
        said.append(f"{name} has {record_type}: {shown or answer.status}")
    more = "; ..." if len(tried.questions) > _MAX_SHOWN else ""
    return f" ({'; '.join(said)}{more})" if said else ""
