"""Ruling: what follows from what a policy found, by the settings that hold, the exceptions, the envelope and the date.

Nothing here runs a policy, asks for the time or remembers anything: what was found once and recorded can be ruled on
again, by the same settings or by others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import msgspec

from gateway.config.model import ExceptionEntry
from gateway.session import Address
from gateway.smtp import reply as replies
from gateway.smtp.path import Mailbox, ReversePath
from gateway.tables.addresses import normalize_local_part
from gateway.verdict import Action, Check, Finding, Outcome, Response, Stage

ERROR: Final = Outcome("error", Action.DEFER, replies.POLICY_UNAVAILABLE, "The policy could not run.")
"""What is found of a policy that raised or ran out of time; ``on_error`` maps it."""

_PASS: Final = Action.PASS  # members of an enum are slow to find before Python 3.12


class Envelope(msgspec.Struct, frozen=True):
    """The envelope so far."""

    client_address: Address
    reverse_path: ReversePath | None = None
    recipient: Mailbox | None = None


@dataclass(frozen=True, slots=True)
class Exemption:
    """One exception of the operator, ready to match: every criterion that is given must hold."""

    entry: ExceptionEntry

    def holds(self, envelope: Envelope, today: date) -> bool:
        """Whether it exempts this envelope. A criterion on a part that is not known yet does not hold."""
        entry = self.entry
        if entry.until is not None and today > entry.until:
            return False
        if entry.client is not None and envelope.client_address not in entry.client:
            return False
        if entry.sender is not None and not _matches(envelope.reverse_path, entry.sender):
            return False
        if entry.recipient is not None and not _matches(envelope.recipient, entry.recipient):
            return False
        return entry.domain is None or (envelope.recipient is not None and envelope.recipient.domain == entry.domain)


def _matches(path: ReversePath | None, pattern: str) -> bool:
    """Whether a path is the address, or in the ``@domain``, that the pattern names; ``<>`` is the null reverse-path."""
    if not isinstance(path, Mailbox):
        return path is not None and pattern == "<>"
    local_part, _, domain = pattern.rpartition("@")
    return path.domain == domain and local_part in {"", normalize_local_part(path.local_part)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for one policy: its settings for some domains, and the operator's exceptions.

    Attributes:
        id: The policy's id.
        responses: What is done about each outcome, ``error`` among them.
        observe: Whether its outcomes are only recorded.
        exemptions: The exceptions that name it.
        ending: The outcomes that end a stage.
    """

    id: str
    responses: Mapping[str, Response]
    observe: bool = False
    exemptions: Sequence[Exemption] = ()
    ending: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        ending = (name for name, response in self.responses.items() if response.action.ends_stage)
        object.__setattr__(self, "ending", frozenset() if self.observe else frozenset(ending))

    def exemption(self, envelope: Envelope, today: date) -> str | None:
        """The reason of the exception that holds, or None."""
        for exemption in self.exemptions:
            if exemption.holds(envelope, today):
                return exemption.entry.reason
        return None


class Ruling(msgspec.Struct, frozen=True):
    """What follows from a finding.

    Attributes:
        policy: The policy's id.
        stage: Where it ran.
        finding: What it found.
        response: What is done about it, or with ``observed`` what would be.
        observed: Whether nothing is applied, because the mode is observe.
        exempted: The reason of the exception that holds; then nothing is done.
    """

    policy: str
    stage: Stage
    finding: Finding
    response: Response
    observed: bool = False
    exempted: str | None = None

    @property
    def applies(self) -> bool:
        """Whether the response is applied."""
        return not self.observed and self.exempted is None

    @property
    def ends_stage(self) -> bool:
        """Whether it is applied and no later policy of the stage runs."""
        return self.response.action.ends_stage and self.applies

    @property
    def does_nothing(self) -> bool:
        """Whether nothing would follow from it if it were applied."""
        return self.response.action is _PASS and not self.response.delay and not self.finding.fields

    @property
    def delay(self) -> float:
        """Seconds by which it holds the reply back."""
        return self.response.delay if self.applies else 0.0

    def note(self, check: Check) -> None:
        """Write it down."""
        check.exempted = self.exempted
        if self.exempted is not None:
            return
        check.outcome = self.finding.outcome.name
        check.action = self.response.action
        check.observed = self.observed
        evidence = self.finding.evidence
        check.evidence = evidence if isinstance(evidence, dict) else dict(evidence)
        if self.response.delay:
            check.delay_ms = round(self.response.delay * 1000)


def rule(terms: Terms, stage: Stage, finding: Finding, envelope: Envelope, today: date) -> Ruling:
    """What follows from what a policy found.

    Args:
        terms: What holds for the policy.
        stage: Where it ran.
        finding: What it found. Nothing follows from nothing.
        envelope: What exceptions are matched with.
        today: By which they expire, in UTC.
    """
    exempted = terms.exemption(envelope, today) if terms.exemptions else None
    return Ruling(terms.id, stage, finding, terms.responses[finding.outcome.name], terms.observe, exempted)


def applied(rulings: Iterable[Ruling], action: Action) -> list[Ruling]:
    """The rulings that are applied and whose action is this."""
    return [ruling for ruling in rulings if ruling.applies and ruling.response.action is action]


def ending(rulings: Iterable[Ruling]) -> Ruling | None:
    """The ruling that ends the stage, None if none does."""
    for ruling in rulings:
        if ruling.ends_stage:
            return ruling
    return None
