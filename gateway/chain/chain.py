"""The chain: runs one stage's policies, one after the other: what each finds, and what is ruled on it.

For each policy of a stage, in the operator's order: look whether an exception keeps it from running, run its hook
(``find``), rule on what it found by the settings that hold here (``rule``), leave a ``Check``, and stop at the first
ruling that ends the stage.

A ``Chain`` belongs to a listener. Its ``Variant``s are the same policies with other settings: one for all, and one for
each set of per-domain overrides. Chains hold no state of a session; ``admission`` walks a session through them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import takewhile
from operator import attrgetter
from time import perf_counter_ns
from typing import Any, Final, NamedTuple, cast

import structlog

from gateway.chain.find import Step, find_together
from gateway.chain.rule import Envelope, Ruling, rule
from gateway.chain.variants import EARLY, Variant, Variants, looks_at_data
from gateway.config.model import ExceptionEntry, Mode, PolicySettings
from gateway.policy import Context
from gateway.session import Domain, Message, Recipient, Transaction
from gateway.verdict import Action, Check, Finding, Stage

log = structlog.get_logger("lychgate.chain")

_RCPT: Final = Stage.RCPT  # members of an enum are slow to find before Python 3.12
_ASKS: Final = attrgetter("asks")


class Found(NamedTuple):
    """What a policy found at an early stage with a domain's own options.

    Attributes:
        finding: The finding.
        authentication: The fields of ``Transaction.authentication`` that it changed.
    """

    finding: Finding | None
    authentication: Mapping[str, Any]


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
        self._exceptions = exceptions
        variants = Variants(exceptions, context, mode)
        self.common = variants.variant(settings, settings)
        self._by_domain = {name: variants.variant(own, settings) for name, own in overrides.items()}
        self._steps = variants.steps
        # A refusal of these can't be lifted for a single recipient, so nothing needs to run after it.
        varied = {
            mine.id for own in overrides.values() for mine, common in zip(own, settings, strict=True) if mine != common
        }
        varied |= {entry.policy for entry in exceptions}
        self._varied = frozenset(varied)
        self._watching = [step for step in self.common.by_id.values() if step.policy.watches_refusals]

    @property
    def signatures(self) -> int | None:
        """For how many DKIM signatures a message's body is hashed while it streams in; None where nobody wants it."""
        counts = [step.policy.signatures for step in self._steps if step.policy.hashes_body]
        return max(counts, default=None)

    def variant(self, domain: Domain | None) -> Variant:
        """The settings that hold for recipients of a domain."""
        return self.common if domain is None else self._by_domain.get(domain.name, self.common)

    async def start(self) -> None:
        """Start every policy."""
        for step in self._steps:
            await step.policy.start()

    async def stop(self) -> None:
        """Stop every policy."""
        for step in self._steps:
            await step.policy.stop()

    async def run(
        self,
        stage: Stage,
        variant: Variant,
        envelope: Envelope,
        arguments: tuple[object, ...],
        checks: list[Check],
        *,
        to_the_end: bool = False,
    ) -> list[Ruling]:
        """Run a stage.

        Args:
            stage: The stage.
            variant: The settings that hold.
            envelope: What exceptions are matched with.
            arguments: What the hooks of this stage take.
            checks: Where each run leaves its check.
            to_the_end: Go on after a refusal that a recipient's own settings or exceptions may lift. After a discard
                of the early stages it goes on in any case.

        Returns:
            The rulings in order; those that do nothing only where a recipient's settings may say something else.
        """
        rulings: list[Ruling] = []
        steps = variant.steps.get(stage)
        if not steps:
            return rulings
        recipient = envelope.recipient.text if stage is _RCPT and envelope.recipient is not None else None
        asked: dict[int, Finding | None] = {}
        started = perf_counter_ns()
        for index, step in enumerate(steps):
            terms = step.terms
            check = Check(policy=terms.id, stage=stage, recipient=recipient)
            checks.append(check)
            if terms.exemptions and (reason := terms.exemption(envelope, self.today())) is not None:
                check.exempted = reason
                continue
            finding: Any
            if step.asks:
                if id(step) not in asked:
                    asked |= await self._find_together(steps[index:], stage, envelope, arguments)
                finding = asked[id(step)]
            elif stage in step.waits:
                finding = await step.wait(stage, arguments)
            else:
                finding = step.run(stage, arguments)
            ended = perf_counter_ns()
            check.duration_us = (ended - started) // 1000
            started = ended
            if finding is None:
                continue
            ruling = rule(terms, stage, finding, envelope, self.today())
            ruling.note(check)
            if ruling.does_nothing and (stage not in EARLY or terms.id not in self._varied):
                continue
            rulings.append(ruling)
            # What is discarded must look accepted: it waits for RCPT, where it may be lifted, whatever else does.
            to_the_end = to_the_end or (stage in EARLY and ruling.applies and ruling.response.action is Action.DISCARD)
            if self.is_final(ruling) if to_the_end else ruling.ends_stage:
                break
        return rulings

    def look_ahead(self, variant: Variant, envelope: Envelope, transaction: Transaction, message: Message) -> None:
        """Before the message stage: let policies ask for what they are going to need, all at the same time."""
        for step in variant.ahead:
            if not self._is_exempted(step, envelope):
                step.look_ahead(transaction, message)

    async def _find_together(
        self, steps: Sequence[Step], stage: Stage, envelope: Envelope, arguments: tuple[object, ...]
    ) -> dict[int, Finding | None]:
        """What the first of these policies finds, and those next to it that ask the state, too."""
        asking = [step for step in takewhile(_ASKS, steps) if not self._is_exempted(step, envelope)]
        return await find_together(asking, stage, arguments, self._context.state)

    def _is_exempted(self, step: Step, envelope: Envelope) -> bool:
        return bool(step.terms.exemptions) and step.terms.exemption(envelope, self.today()) is not None

    def refused(self, transaction: Transaction, recipient: Recipient | None, by: str | None) -> None:
        """Tell the policies that want to know that something was refused for good.

        Args:
            transaction: The transaction.
            recipient: The recipient, None for the sender or the message.
            by: The policy's id, None for the backend.
        """
        for step in self._watching:
            if self._is_exempted(step, envelope_of(transaction, recipient)):
                continue
            try:
                step.policy.on_refusal(transaction.session, transaction, recipient, by)
            except Exception:  # the refusal stands, whatever a policy makes of it
                log.exception("policy failed", policy=step.terms.id, stage="refusal")

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
        return ruling.ends_stage and ruling.policy not in self._varied

    async def early(
        self,
        variant: Variant,
        held: Sequence[Ruling],
        envelope: Envelope,
        transaction: Transaction,
        found: dict[tuple[Stage, int], Found],
    ) -> list[Ruling]:
        """What is ruled on the early stages for a recipient, in the chain's order and to the first that ends one.

        Args:
            variant: The settings that hold for it.
            held: What the common settings ruled.
            envelope: The envelope.
            transaction: Its transaction, which gets the checks; with what the common options left on it.
            found: What policies with options of the domain's own found earlier in this transaction; added to here.
        """
        rulings: list[Ruling] = []
        known = {(ruling.stage, ruling.policy): ruling for ruling in held}
        for stage, step in _early(variant):
            if (stage, step.terms.id) in variant.own_early:
                ruling = await self._found_for_domain(step, stage, envelope, transaction, found)
            else:
                ruling = known.get((stage, step.terms.id))
                if ruling is not None:
                    ruling = self._for_recipient(ruling, step, envelope, transaction.checks)
            if ruling is None:
                continue
            rulings.append(ruling)
            if ruling.ends_stage:
                break
        return rulings

    async def _found_for_domain(
        self,
        step: Step,
        stage: Stage,
        envelope: Envelope,
        transaction: Transaction,
        found: dict[tuple[Stage, int], Found],
    ) -> Ruling | None:
        """What is ruled on an early stage's policy with options of the domain's own, which runs once a transaction."""
        check = Check(policy=step.terms.id, stage=stage, recipient=_recipient_text(envelope))
        transaction.checks.append(check)
        check.exempted = step.terms.exemption(envelope, self.today())
        if check.exempted is not None:
            return None
        key = (stage, id(step))
        if key not in found:
            started = perf_counter_ns()
            arguments = (transaction if stage is Stage.MAIL else transaction.session,)
            before = transaction.authentication.copy()
            if step.asks:
                result: Any = (await find_together([step], stage, arguments, self._context.state))[id(step)]
            else:
                result = await step.wait(stage, arguments) if stage in step.waits else step.run(stage, arguments)
            found[key] = Found(cast("Finding | None", result), transaction.authentication.differs_from(before))
            check.duration_us = (perf_counter_ns() - started) // 1000
        finding, authentication = found[key]
        transaction.authentication.take(authentication)
        if finding is None:
            return None
        ruling = rule(step.terms, stage, finding, envelope, self.today())
        ruling.note(check)
        return ruling

    def _for_recipient(self, ruling: Ruling, step: Step, envelope: Envelope, checks: list[Check]) -> Ruling | None:
        """An early stage's finding, ruled by a recipient's settings; None where an exception lifts it.

        A check is left only where the recipient's settings say something else than the common ones.
        """
        terms = step.terms
        again = rule(terms, ruling.stage, ruling.finding, envelope, self.today())
        if again == ruling:
            return ruling
        check = Check(policy=terms.id, stage=ruling.stage, recipient=_recipient_text(envelope))
        again.note(check)
        checks.append(check)
        return None if again.exempted is not None else again

    def after_data(self, variant: Variant, envelope: Envelope) -> object:
        """What recipients must have in common to share a transaction, by their policies' settings and exceptions."""
        if not self._exceptions:
            return variant.after_data
        exempt = tuple(
            step.terms.id
            for step in variant.by_id.values()
            if looks_at_data(step.policy) and self._is_exempted(step, envelope)
        )
        return (variant.after_data, exempt)

    def today(self) -> date:
        """Today's date in UTC, by which exceptions expire."""
        return datetime.fromtimestamp(self._context.clock.now(), UTC).date()


def _early(variant: Variant) -> Iterator[tuple[Stage, Step]]:
    """The policies of the early stages, in their order."""
    for stage in EARLY:
        for step in variant.steps.get(stage, ()):
            yield stage, step


def _recipient_text(envelope: Envelope) -> str | None:
    return None if envelope.recipient is None else envelope.recipient.text


def envelope_of(transaction: Transaction, recipient: Recipient | None) -> Envelope:
    """The envelope of a transaction, for one recipient."""
    path = None if recipient is None else recipient.path
    return Envelope(transaction.session.client_address, transaction.reverse_path, path)
