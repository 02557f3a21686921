"""Asking the state for what several policies want to know, in one round trip.

A hook that needs to know of limits returns an ``Asking``. The chain gathers those of policies that stand next to one
another and hands them here: their operations are asked together, so that all are counted or none, and each policy makes
its finding of its own answers. What was counted in advance is noted with the transaction.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from gateway.state import Answer, Asking, Operation, Reservation, State, StateUnavailableError, Take
from gateway.verdict import Finding


class Question(NamedTuple):
    """One policy's asking.

    Attributes:
        asking: What it wants to know.
        binds: Whether its refusal would end the stage, so that nothing else is to be counted then.
    """

    asking: Asking
    binds: bool = True


async def ask(state: State, questions: Sequence[Question]) -> list[Finding | Exception | None]:
    """Ask for all.

    Returns:
        What each policy found, in order; the exception of one that could not: ``StateUnavailableError``, or its own.
    """
    operations: list[Operation] = []
    for asking, binds in questions:
        operations += asking.operations if binds else [replace(each, binding=False) for each in asking.operations]
    try:
        answers = await state.ask(operations) if operations else ()
    except Exception as error:  # noqa: BLE001 - not an outage, but what is wrong with an entry; on_error holds all the same
        return [error] * len(questions)
    refused = _is_refused(operations, answers)
    found: list[Finding | Exception | None] = []
    start = 0
    for asking, _ in questions:
        end = start + len(asking.operations)
        found.append(_concluded(asking, answers[start:end], refused=refused))
        start = end
    return found


def _is_refused(operations: Sequence[Operation], answers: Sequence[Answer | StateUnavailableError]) -> bool:
    """Whether one that binds is not granted, so that none was counted."""
    for operation, answer in zip(operations, answers, strict=True):
        if operation.binding and type(answer) is Answer and not answer.granted:
            return True
    return False


def _concluded(
    asking: Asking, answers: Sequence[Answer | StateUnavailableError], *, refused: bool
) -> Finding | Exception | None:
    """What a policy finds; what was counted in advance is noted, also where others of its limits can't be told."""
    known: list[Answer] = []
    error: StateUnavailableError | None = None
    for operation, answer in zip(asking.operations, answers, strict=True):
        if isinstance(answer, StateUnavailableError):
            error = answer
            continue
        known.append(answer)
        if answer.at and not refused and asking.reservations is not None and type(operation) is Take:
            asking.reservations.append(Reservation(operation, answer, asking.recipient))
    if error is not None:
        return error
    try:
        return asking.conclude(known)
    except Exception as failure:  # noqa: BLE001 - a policy's own; the chain does what its on_error says
        return failure
