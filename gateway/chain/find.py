"""Finding: running one policy's hooks, whatever they do. What follows from it is ruled elsewhere (``rule``).

A policy that raises or runs out of time finds ``ERROR``: what happens then is the operator's ``on_error``, never a
refusal for good and never silence (design, promise 2).
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog

from gateway.chain.asking import Question, ask
from gateway.chain.rule import ERROR, Terms
from gateway.policy import Policy, Result
from gateway.session import Message, Transaction
from gateway.state import Asking, State, StateUnavailableError
from gateway.units import format_duration
from gateway.verdict import Finding, Stage

log = structlog.get_logger("lychgate.chain")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One policy with the settings that hold in a variant, ready to run.

    Attributes:
        terms: What holds for it.
        policy: The policy.
        timeout: Seconds that a hook may wait.
        hooks: What is called at each stage.
        waits: The stages whose hooks have to wait for something.
        asks: Whether its hooks return an ``Asking``.
    """

    terms: Terms
    policy: Policy[Any]
    timeout: float
    hooks: Mapping[Stage, Callable[..., Any]]
    waits: frozenset[Stage]
    asks: bool

    def run(self, stage: Stage, arguments: tuple[object, ...]) -> Result:
        """Call the hook; an exception becomes a finding of ``ERROR``."""
        try:
            result: Result = self.hooks[stage](*arguments)
            return None if result is None else self._declared(result)
        except Exception as error:  # noqa: BLE001 - whatever a policy raises must neither refuse mail nor end the session
            return self.failed(stage, error)

    async def wait(self, stage: Stage, arguments: tuple[object, ...]) -> Result:
        """The same for a hook of ``waits``; running out of time becomes a finding of ``ERROR``, too."""
        timer: asyncio.Timeout | None = None
        try:
            coroutine: Coroutine[Any, Any, Result] = self.hooks[stage](*arguments)
            try:
                awaited = coroutine.send(None)
            except StopIteration as done:  # it did not have to wait, so it needs no timer
                return self._declared(done.value)
            async with asyncio.timeout(self.timeout) as timer:
                return self._declared(await _resume(coroutine, awaited))
        except Exception as error:  # noqa: BLE001 - as above
            if timer is not None and timer.expired():
                log.warning("policy timed out", policy=self.terms.id, stage=stage.value, timeout=self.timeout)
                return ERROR(error=f"no result within {format_duration(self.timeout)}")
            return self.failed(stage, error)

    def concluded(self, stage: Stage, found: Finding | Exception | None) -> Finding | None:
        """What is found by its asking."""
        try:
            if isinstance(found, Exception):
                return self.failed(stage, found)
            return cast("Finding | None", self._declared(found))
        except Exception as error:  # noqa: BLE001 - as above
            return self.failed(stage, error)

    def look_ahead(self, transaction: Transaction, message: Message) -> None:
        """Let the policy ask for what it is going to need."""
        try:
            self.policy.look_ahead(transaction, message)
        except Exception:  # what it wanted to know is asked for later
            log.exception("policy failed", policy=self.terms.id, stage="look ahead")

    def _declared(self, result: Result) -> Result:
        if result is None:
            return None
        if isinstance(result, Asking):
            if not self.asks:
                raise TypeError("this policy does not say that it asks")
            outcome = result.refusal
        else:
            outcome = result.outcome
            if result.fields:
                self.policy.check_fields(result)
        if outcome.name not in self.terms.responses:
            raise ValueError(f"the outcome {outcome.name!r} is not declared")
        return result

    def failed(self, stage: Stage, error: Exception) -> Finding:
        """What is found of a policy that raised."""
        if isinstance(error, StateUnavailableError):  # the log has the outage, and needs no line a message
            return ERROR(error=str(error))
        log.error("policy failed", policy=self.terms.id, stage=stage.value, exc_info=error)
        return ERROR(error=f"{type(error).__name__}: {error}")


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    """Go on with a coroutine that awaits something already."""
    while True:
        try:
            try:
                sent = yield awaited
            except BaseException as error:  # noqa: BLE001 - whatever is thrown in is the coroutine's to handle
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(sent)
        except StopIteration as done:
            return cast("Result", done.value)


async def find_together(
    steps: Sequence[Step], stage: Stage, arguments: tuple[object, ...], state: State
) -> dict[int, Finding | None]:
    """What policies find that ask the state, in one round trip. An asking binds where its refusal would end the stage.

    Returns:
        What each found, by the identity of its step.
    """
    found: dict[int, Finding | None] = {}
    waiting: list[Step] = []
    questions: list[Question] = []
    for step in steps:
        result = await step.wait(stage, arguments) if stage in step.waits else step.run(stage, arguments)
        if isinstance(result, Asking):
            waiting.append(step)
            questions.append(Question(result, result.refusal.name in step.terms.ending))
        else:
            found[id(step)] = result
    for step, concluded in zip(waiting, await ask(state, questions), strict=True):
        found[id(step)] = step.concluded(stage, concluded)
    return found
