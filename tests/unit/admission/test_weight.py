"""What a transaction holds is counted as no less than it is."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from gateway.admission import weight
from gateway.session import Recipient, RecipientState
from gateway.smtp import reply
from gateway.smtp.grammar import parse_rcpt
from gateway.smtp.reply import Reply
from gateway.state import Answer, Counting, Reservation, Take
from gateway.verdict import Action, ByPolicy, Check, Finding, Outcome, Stage, Verdict

COUNT = 400
LONG = "x" * 200
OUTCOME = Outcome("exceeded", Action.DEFER, reply.TOO_MANY_RECIPIENTS, "A test's.")


def _recipient(argument: str, text: str | None = None) -> Callable[[int], Recipient]:
    def make(number: int) -> Recipient:
        path, parameters = parse_rcpt(argument.format(f"{number:06}"), 20)
        recipient = Recipient(path=path, parameters=parameters)
        if text is not None:
            recipient.state = RecipientState.REJECTED
            recipient.reply = Reply(550, "5.1.1", f"{text} {number}")
            recipient.verdict = Verdict(Action.REJECT, recipient.reply, ByPolicy("x"), "unknown", Stage.RCPT)
        return recipient

    return make


RECIPIENTS = {
    "an address": _recipient("TO:<user{}@example.com>"),
    "a long one": _recipient(f"TO:<{LONG}{{}}@example.com>"),
    "one outside of ASCII": _recipient("TO:<{}\U0001f40d@b\u00fccher.example>"),
    "a source route": _recipient("TO:<@one.example,@two.example:user{}@example.com>"),
    "with parameters": _recipient(
        f"TO:<u{{0}}@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;u{{0}}{LONG}@example.com"
    ),
    "refused": _recipient("TO:<user{}@example.com>", "User unknown"),
    "refused at length": _recipient("TO:<user{}@example.com>", f"{LONG}\n{LONG}\n{LONG}"),
}


def _traced(make: Callable[[int], Any]) -> tuple[list[Any], float]:
    """Some things, and the octets that were allocated for each."""
    make(-1)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = [make(number) for number in range(COUNT)]
        return made, (tracemalloc.get_traced_memory()[0] - before) / COUNT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", RECIPIENTS)
def test_recipients_weigh_what_they_take(case: str) -> None:
    """No recipient takes more memory than is counted, and none is counted as three times what it takes."""
    made, octets = _traced(RECIPIENTS[case])
    counted = sum(weight.of_recipient(each) for each in made) / COUNT
    assert octets <= counted <= 3 * octets + 200


CHECKS: dict[str, dict[str, Any]] = {
    "silent": {},
    "with evidence": {"level": 1.5, "burst": 20, "limit": "100/h", "key": "k"},
    "with much evidence": {f"name{number}": LONG * number for number in range(20)},
    "with lists": {"steps": [f"{LONG}{number}" for number in range(10)], "more": {"deep": [[LONG * 2]]}},
}


@pytest.mark.parametrize("case", CHECKS)
def test_checks_weigh_what_they_take(case: str) -> None:
    """The same of checks: evidence at any depth."""
    given = CHECKS[case]

    def make(number: int) -> tuple[Check, Finding | None]:
        check = Check(policy="p", stage=Stage.RCPT, recipient="r", duration_us=100_000 + number)
        if not given:
            return check, None
        finding = OUTCOME(reply=None, **{name: _own(value, number) for name, value in given.items()})
        assert isinstance(finding.evidence, dict)
        check.evidence = finding.evidence
        return check, finding

    made, octets = _traced(make)
    counted = sum(weight.of_checks([check]) for check, _ in made) / COUNT
    assert octets - 64 <= counted <= 3 * octets + 200  # the pair that the test keeps


def _own(value: Any, number: int) -> Any:
    """The same with texts and numbers that nothing else has."""
    match value:
        case str():
            return value + str(number)
        case int() | float():
            return value + number * 1000
        case list():
            return [_own(each, number) for each in value]
        case _:
            return {name: _own(each, number) for name, each in value.items()}


def test_reservations_weigh_what_they_take() -> None:
    """The same of what was counted in advance."""

    def make(number: int) -> Reservation:
        take = Take(
            name="n", subject=f"recipient{number}@example.com", rate=0.1 + number, burst=20, cost=1,
            counting=Counting.TAKE, hold=0.0, approximate=False,
        )  # fmt: skip
        return Reservation(take, Answer(granted=True, level=number + 0.5, wait=number + 0.1, at=number + 0.2), None)

    made, octets = _traced(make)
    assert octets <= weight.of_reservations(made) / COUNT <= 3 * octets
