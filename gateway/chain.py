"""The chain: runs one stage's policies and says what follows.

For each policy of a stage, in the operator's order: look whether an exception keeps it from running, call its hook,
map what it found to an action by the settings that hold here, leave a ``Check``, and stop at the first action that
ends the stage. A policy that raises or runs out of time does what its ``on_error`` says; it never refuses for good and
never passes silently (design, promise 2).

A ``Chain`` belongs to a listener. Its ``Variant``s are the same policies with other settings: one for all, and one for
each set of per-domain overrides. Chains hold no state of a session; ``reception`` walks a session through them.
"""

import asyncio
import inspect
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from time import perf_counter_ns
from typing import Any, Final, NamedTuple, cast

import msgspec
import structlog

from gateway.asking import Question, ask
from gateway.config.model import ExceptionEntry, Mode, PolicySettings
from gateway.mailauth.results import Spf
from gateway.policy import Context, OnError, Policy, Result
from gateway.session import Domain, Message, Recipient, Session, Transaction
from gateway.smtp import reply as replies
from gateway.smtp.path import Mailbox, ReversePath
from gateway.state import Asking, StateUnavailableError
from gateway.tables.addresses import normalize_local_part
from gateway.units import format_duration
from gateway.verdict import Action, Check, Finding, Outcome, Response, Stage

log = structlog.get_logger("lychgate.chain")

_RCPT: Final = Stage.RCPT  # members of an enum are slow to find before Python 3.12

EARLY: Final = (Stage.CONNECT, Stage.HELO, Stage.MAIL)
"""The stages at which no recipient is known yet, so that the common settings hold."""

_DATA_STAGES: Final = frozenset({Stage.DATA, Stage.MESSAGE})

ERROR: Final = Outcome("error", Action.DEFER, replies.POLICY_UNAVAILABLE, "The policy could not run.")
"""What a policy comes to that raised or ran out of time; ``on_error`` maps it."""


class Seen(msgspec.Struct, frozen=True):
    """The envelope so far."""

    session: Session
    reverse_path: ReversePath | None = None
    recipient: Mailbox | None = None


@dataclass(frozen=True, slots=True)
class Exemption:
    """One exception of the operator, ready to match: every criterion that is given must hold."""

    entry: ExceptionEntry

    def holds(self, seen: Seen, today: date) -> bool:
        """Whether it exempts this envelope. A criterion on a part that is not known yet does not hold."""
        entry = self.entry
        if entry.until is not None and today > entry.until:
            return False
        if entry.client is not None and seen.session.client_address not in entry.client:
            return False
        if entry.sender is not None and not _matches(seen.reverse_path, entry.sender):
            return False
        if entry.recipient is not None and not _matches(seen.recipient, entry.recipient):
            return False
        return entry.domain is None or (seen.recipient is not None and seen.recipient.domain == entry.domain)


def _matches(path: ReversePath | None, pattern: str) -> bool:
    """Whether a path is the address, or in the ``@domain``, that the pattern names; ``<>`` is the null reverse-path."""
    if not isinstance(path, Mailbox):
        return path is not None and pattern == "<>"
    local_part, _, domain = pattern.rpartition("@")
    return path.domain == domain and local_part in {"", normalize_local_part(path.local_part)}


@dataclass(slots=True, kw_only=True)
class Step:
    """One policy with the settings that hold in a variant, ready to run."""

    id: str
    policy: Policy[Any]
    responses: Mapping[str, Response]
    observe: bool
    timeout: float
    exemptions: Sequence[Exemption]
    hooks: Mapping[Stage, Callable[..., Any]] = field(default_factory=dict)
    waits: frozenset[Stage] = frozenset()
    asks: bool = field(init=False)
    ending: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.asks = self.policy.asks
        ending = (name for name, response in self.responses.items() if response.action.ends_stage)
        self.ending = frozenset() if self.observe else frozenset(ending)

    def exemption(self, seen: Seen, today: date) -> str | None:
        """The reason of the exception that holds, or None."""
        for exemption in self.exemptions:
            if exemption.holds(seen, today):
                return exemption.entry.reason
        return None

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
                log.warning("policy timed out", policy=self.id, stage=stage.value, timeout=self.timeout)
                return ERROR(error=f"no result within {format_duration(self.timeout)}")
            return self.failed(stage, error)

    def concluded(self, stage: Stage, found: Finding | Exception | None) -> Finding | None:
        """What came of its asking."""
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
            log.exception("policy failed", policy=self.id, stage="look ahead")

    def _declared(self, result: Result) -> Result:
        if result is None:
            return None
        if isinstance(result, Asking):
            if not self.asks:
                raise TypeError("this policy does not say that it asks")
            outcome = result.refusal
        else:
            outcome = result.outcome
        if outcome.name not in self.responses:
            raise ValueError(f"the outcome {outcome.name!r} is not declared")
        return result

    def failed(self, stage: Stage, error: Exception) -> Finding:
        """What an exception of the policy comes to."""
        if isinstance(error, StateUnavailableError):  # the log has the outage, and needs no line a message
            return ERROR(error=str(error))
        log.error("policy failed", policy=self.id, stage=stage.value, exc_info=error)
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


@dataclass(slots=True)
class Variant:
    """The chain's policies with the settings that hold for some domains.

    Attributes:
        steps: Each stage's policies in order.
        by_id: Every policy of the chain.
        after_data: What distinguishes it from other variants once the data has come: recipients whose values differ
            can not share a transaction, because the end of data has one answer for all.
        anew: The early stages and ids of the policies whose options are not the common ones: what the common options
            found there says nothing about these domains.
        ahead: The policies that look ahead when a message has come.
    """

    steps: Mapping[Stage, Sequence[Step]]
    by_id: Mapping[str, Step]
    after_data: object
    anew: frozenset[tuple[Stage, str]]
    ahead: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Ruling:
    """A finding with the response that was given to it."""

    step: Step
    stage: Stage
    finding: Finding
    response: Response
    applies: bool


class Found(NamedTuple):
    """What a policy found at an early stage with a domain's own options.

    Attributes:
        finding: The finding.
        spf: What it left on the transaction; a tuple of one, None where it left that alone.
    """

    finding: Finding | None
    spf: tuple[Spf | None] | None


class Chain:
    """A listener's chain.

    Args:
        settings: The policies in order, as configured.
        overrides: For each of our domains that has settings of its own: the whole chain's settings there.
        exceptions: The operator's exceptions.
        context: What every policy is handed.
        mode: ``observe`` applies nothing of any policy.
    """

    def __init__(
        self,
        settings: Sequence[PolicySettings],
        overrides: Mapping[str, Sequence[PolicySettings]],
        exceptions: Sequence[ExceptionEntry],
        context: Context,
        mode: Mode = Mode.ENFORCE,
    ) -> None:
        self._context = context
        self._mode = mode
        self._exceptions = exceptions
        self._made: list[tuple[PolicySettings, Step]] = []
        self.common = self._variant(settings, settings)
        self._by_domain = {name: self._variant(own, settings) for name, own in overrides.items()}
        # A refusal of these can't be lifted for a single recipient, so nothing needs to run behind it.
        varied = {
            mine.id for own in overrides.values() for mine, common in zip(own, settings, strict=True) if mine != common
        }
        varied |= {entry.policy for entry in exceptions}
        self._varied = frozenset(varied)
        self._watching = [step for step in self.common.by_id.values() if step.policy.watches_refusals]

    @property
    def signatures(self) -> int | None:
        """For how many DKIM signatures a message's body is hashed while it streams in; None where nobody wants it."""
        counts = [step.policy.signatures for _, step in self._made if step.policy.hashes_body]
        return max(counts, default=None)

    def variant(self, domain: Domain | None) -> Variant:
        """The settings that hold for recipients of a domain."""
        return self.common if domain is None else self._by_domain.get(domain.name, self.common)

    async def start(self) -> None:
        """Start every policy."""
        for _, step in self._made:
            await step.policy.start()

    async def stop(self) -> None:
        """Stop every policy."""
        for _, step in self._made:
            await step.policy.stop()

    async def run(
        self,
        stage: Stage,
        variant: Variant,
        seen: Seen,
        arguments: tuple[object, ...],
        checks: list[Check],
        *,
        to_the_end: bool = False,
    ) -> list[Ruling]:
        """Run a stage.

        Args:
            stage: The stage.
            variant: The settings that hold.
            seen: What exceptions are matched against.
            arguments: What the hooks of this stage take.
            checks: Where each run leaves its check.
            to_the_end: Go on behind a refusal that a recipient's own settings or exceptions may lift. Behind a discard
                of the early stages it goes on in any case.

        Returns:
            The rulings in order; ``pass`` only where a recipient's settings may say something else.
        """
        rulings: list[Ruling] = []
        steps = variant.steps.get(stage)
        if not steps:
            return rulings
        recipient = seen.recipient.text if stage is _RCPT and seen.recipient is not None else None
        asked: dict[int, Finding | None] = {}
        started = perf_counter_ns()
        for index, step in enumerate(steps):
            check = Check(policy=step.id, stage=stage, recipient=recipient)
            checks.append(check)
            if step.exemptions:
                check.exempted = step.exemption(seen, self.today())
                if check.exempted is not None:
                    continue
            finding: Any
            if step.asks:
                finding = await self._ask(steps[index:], stage, seen, arguments, asked)
            elif stage in step.waits:
                finding = await step.wait(stage, arguments)
            else:
                finding = step.run(stage, arguments)
            ended = perf_counter_ns()
            check.duration_us = (ended - started) // 1000
            started = ended
            if finding is None:
                continue
            ruling = self._rule(step, stage, finding, check)
            if ruling.response.action is Action.PASS and (stage not in EARLY or step.id not in self._varied):
                continue
            rulings.append(ruling)
            # What is discarded must look accepted: it waits for RCPT, where it may be lifted, whatever else does.
            to_the_end = to_the_end or (stage in EARLY and ruling.applies and ruling.response.action is Action.DISCARD)
            if self.is_final(ruling) if to_the_end else ruling.applies and ruling.response.action.ends_stage:
                break
        return rulings

    def look_ahead(self, variant: Variant, seen: Seen, transaction: Transaction, message: Message) -> None:
        """Before the message stage: let policies ask for what they are going to need, all at the same time."""
        for step in variant.ahead:
            if not step.exemptions or step.exemption(seen, self.today()) is None:
                step.look_ahead(transaction, message)

    async def _ask(
        self,
        steps: Sequence[Step],
        stage: Stage,
        seen: Seen,
        arguments: tuple[object, ...],
        found: dict[int, Finding | None],
    ) -> Finding | None:
        """What the first of these policies finds; those behind it that ask the state, too, share its round trip.

        Args:
            steps: The policies.
            stage: The stage.
            seen: What exceptions are matched against.
            arguments: What the hooks take.
            found: What was found that way at this stage; added to here.
        """
        if id(steps[0]) in found:
            return found[id(steps[0])]
        waiting: list[Step] = []
        questions: list[Question] = []
        for step in steps:
            if not step.asks:
                break
            if step.exemptions and step.exemption(seen, self.today()) is not None:
                continue
            result = await step.wait(stage, arguments) if stage in step.waits else step.run(stage, arguments)
            if isinstance(result, Asking):
                waiting.append(step)
                questions.append(Question(result, result.refusal.name in step.ending))
            else:
                found[id(step)] = result
        for step, concluded in zip(waiting, await ask(self._context.state, questions), strict=True):
            found[id(step)] = step.concluded(stage, concluded)
        return found[id(steps[0])]

    def refused(self, transaction: Transaction, recipient: Recipient | None, by: str | None) -> None:
        """Tell the policies that want to know that something was refused for good.

        Args:
            transaction: The transaction.
            recipient: The recipient, None for the sender or the message.
            by: The policy's id, None for the backend.
        """
        for step in self._watching:
            seen = Seen(transaction.session, transaction.reverse_path, None if recipient is None else recipient.path)
            if step.exemptions and step.exemption(seen, self.today()) is not None:
                continue
            try:
                step.policy.on_refusal(transaction.session, transaction, recipient, by)
            except Exception:  # the refusal stands, whatever a policy makes of it
                log.exception("policy failed", policy=step.id, stage="refusal")

    def give_back(self, transaction: Transaction, recipient: Recipient | None = None) -> None:
        """Give back what was counted in advance: for a recipient that is refused, or all that there is. Does not wait.

        What is given back is no longer among the reservations, so it is given back once.
        """
        reservations = transaction.reservations
        back = [each for each in reservations if recipient is None or each.recipient is recipient]
        reservations[:] = [each for each in reservations if recipient is not None and each.recipient is not recipient]
        for each in back:
            try:
                self._context.state.give_back(each.operation, each.answer)
            except Exception:  # what was decided stands; the bucket loses it by and by
                log.exception("not given back", subject=each.operation.subject)

    def is_final(self, ruling: Ruling) -> bool:
        """Whether a refusal stands for every recipient: none has settings or exceptions that could lift it."""
        return ruling.applies and ruling.response.action.ends_stage and ruling.step.id not in self._varied

    async def early(
        self,
        variant: Variant,
        held: Sequence[Ruling],
        seen: Seen,
        transaction: Transaction,
        found: dict[tuple[Stage, int], Found],
    ) -> list[Ruling]:
        """What the early stages come to for a recipient, in the chain's order and to the first that ends one.

        Args:
            variant: The settings that hold for it.
            held: What the common settings came to.
            seen: The envelope.
            transaction: Its transaction, which gets the checks; with what the common options left on it.
            found: What policies with options of the domain's own found earlier in this transaction; added to here.
        """
        rulings: list[Ruling] = []
        known = {(ruling.stage, ruling.step.id): ruling for ruling in held}
        for stage in EARLY:
            for step in variant.steps.get(stage, ()):
                if (stage, step.id) in variant.anew:
                    ruling = await self._anew(step, stage, seen, transaction, found)
                else:
                    ruling = known.get((stage, step.id))
                    if ruling is not None:
                        ruling = self._rule_again(ruling, step, seen, transaction.checks)
                if ruling is None:
                    continue
                rulings.append(ruling)
                if ruling.applies and ruling.response.action.ends_stage:
                    return rulings
        return rulings

    async def _anew(
        self,
        step: Step,
        stage: Stage,
        seen: Seen,
        transaction: Transaction,
        found: dict[tuple[Stage, int], Found],
    ) -> Ruling | None:
        """What an early stage's policy comes to with options of the domain's own."""
        check = Check(policy=step.id, stage=stage, recipient=seen.recipient.text if seen.recipient else None)
        transaction.checks.append(check)
        check.exempted = step.exemption(seen, self.today()) if step.exemptions else None
        if check.exempted is not None:
            return None
        key = (stage, id(step))
        if key not in found:
            started = perf_counter_ns()
            arguments = (transaction if stage is Stage.MAIL else transaction.session,)
            common = transaction.spf
            if step.asks:
                finding = await self._ask([step], stage, seen, arguments, {})
            else:
                result = await step.wait(stage, arguments) if stage in step.waits else step.run(stage, arguments)
                finding = cast("Finding | None", result)
            found[key] = Found(finding, None if transaction.spf is common else (transaction.spf,))
            check.duration_us = (perf_counter_ns() - started) // 1000
        finding, spf = found[key]
        if spf is not None:
            (transaction.spf,) = spf
        return None if finding is None else self._rule(step, stage, finding, check)

    def _rule_again(self, ruling: Ruling, step: Step, seen: Seen, checks: list[Check]) -> Ruling | None:
        """What an early stage's ruling comes to by a recipient's step; None when an exception lifts it.

        A check is left only where the recipient's settings say something else than the common ones.
        """
        reason = step.exemption(seen, self.today()) if step.exemptions else None
        if reason is None and step is ruling.step:
            return ruling
        recipient = seen.recipient.text if seen.recipient is not None else None
        check = Check(policy=step.id, stage=ruling.stage, recipient=recipient)
        check.exempted = reason
        checks.append(check)
        return None if reason is not None else self._rule(step, ruling.stage, ruling.finding, check)

    def after_data(self, variant: Variant, seen: Seen) -> object:
        """What recipients must have in common to share a transaction, by their policies' settings and exceptions."""
        if not self._exceptions:
            return variant.after_data
        today = self.today()
        exempt = tuple(
            step.id
            for step in variant.by_id.values()
            if step.exemptions and _looks_at_data(step.policy) and step.exemption(seen, today) is not None
        )
        return (variant.after_data, exempt)

    def today(self) -> date:
        """Today's date in UTC, by which exceptions expire."""
        return datetime.fromtimestamp(self._context.clock.now(), UTC).date()

    def _rule(self, step: Step, stage: Stage, finding: Finding, check: Check) -> Ruling:
        response = step.responses[finding.outcome.name]
        check.outcome = finding.outcome.name
        check.action = response.action
        check.observed = step.observe
        evidence = finding.evidence
        check.evidence = evidence if isinstance(evidence, dict) else dict(evidence)
        return Ruling(step, stage, finding, response, applies=not step.observe)

    def _variant(self, own: Sequence[PolicySettings], common: Sequence[PolicySettings]) -> Variant:
        steps = [self._step(settings) for settings in own]
        by_stage = {
            stage: tuple(step for step in steps if stage in step.hooks)
            for stage in Stage
            if any(stage in step.hooks for step in steps)
        }
        differing = tuple(
            (mine.id, _behind_data(mine))
            for mine, theirs in zip(own, common, strict=True)
            if _behind_data(mine) != _behind_data(theirs)
        )
        anew = frozenset(
            (stage, step.id)
            for step, mine, theirs in zip(steps, own, common, strict=True)
            if mine.options != theirs.options
            for stage in EARLY
            if stage in step.hooks
        )
        ahead = tuple(step for step in steps if type(step.policy).look_ahead is not Policy.look_ahead)
        return Variant(by_stage, {step.id: step for step in steps}, differing, anew, ahead)

    def _step(self, settings: PolicySettings) -> Step:
        for known, step in self._made:
            if known == settings:
                return step
        policy = settings.policy(settings.options, self._context)
        policy.id = settings.id
        hooks = {stage: policy.hook(stage, name) for stage, name in policy.stages(settings.options).items()}
        step = Step(
            id=settings.id,
            policy=policy,
            responses=_responses(settings),
            observe=settings.mode is Mode.OBSERVE or self._mode is Mode.OBSERVE,
            timeout=settings.timeout,
            exemptions=tuple(Exemption(entry) for entry in self._exceptions if entry.policy == settings.id),
            hooks=hooks,
            waits=frozenset(stage for stage, hook in hooks.items() if inspect.iscoroutinefunction(hook)),
        )
        self._made.append((settings, step))
        return step


def _responses(settings: PolicySettings) -> dict[str, Response]:
    """The response to each declared outcome and to an error."""
    on_error = Action.PASS if settings.on_error is OnError.PASS else Action.DEFER
    defaults = {name: Response(outcome.action) for name, outcome in settings.policy.outcomes.items()}
    return {**defaults, **settings.on, ERROR.name: Response(on_error)}


def _looks_at_data(policy: Policy[Any]) -> bool:
    return not _DATA_STAGES.isdisjoint(policy.stages(policy.options))


def _behind_data(settings: PolicySettings) -> object:
    """What of a policy's settings matters once the data has come, to be compared; None where nothing does."""
    stages = settings.policy.stages(settings.options)
    if not _DATA_STAGES.isdisjoint(stages):
        return (settings.on, settings.mode, settings.on_error, settings.timeout, settings.options)
    if not set(EARLY).isdisjoint(stages):  # later policies may read what it leaves on the transaction
        return settings.options
    return None


def recipient_seen(transaction: Transaction, recipient: Recipient) -> Seen:
    """The whole envelope for one recipient."""
    return Seen(transaction.session, transaction.reverse_path, recipient.path)


def applied(rulings: Iterable[Ruling], *actions: Action) -> list[Ruling]:
    """The rulings that are applied and whose action is one of these."""
    return [ruling for ruling in rulings if ruling.applies and ruling.response.action in actions]
