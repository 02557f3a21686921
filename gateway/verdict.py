"""What a policy finds, and what the gateway does about it.

A policy declares ``Outcome`` values and returns a ``Finding`` made of one of them; the chain maps the outcome to an
``Action`` by the operator's settings and gives the door a ``Verdict``. Every policy that ran leaves a ``Check`` for the
decision record. Nothing here does anything: these are values.

Whoever distinguishes actions does so by a ``match`` that ends in ``assert_never``, so that a further action does not
type-check before every place knows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final, TypeAlias, assert_never

import msgspec

from gateway.smtp.reply import Reply

Evidence: TypeAlias = Mapping[str, object]
"""What a policy saw, for the decision record: names to JSON values."""


class Stage(StrEnum):
    """The stages of an SMTP session at which policies run, in their order."""

    CONNECT = "connect"
    HELO = "helo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    MESSAGE = "message"
    CLOSE = "close"


class Action(StrEnum):
    """What the gateway does about an outcome."""

    PASS = "pass"  # noqa: S105 - not a password
    TAG = "tag"
    DEFER = "defer"
    REJECT = "reject"
    DISCARD = "discard"
    QUARANTINE = "quarantine"
    DISCONNECT = "disconnect"

    @property
    def ends_stage(self) -> bool:
        """Whether the mail does not come through by it, so that later policies of the stage do not run."""
        return self in _ENDING

    @property
    def reply_class(self) -> int | None:
        """The first digit of the reply that it gives, None where it gives none of its own (RFC 5321 4.2.1)."""
        match self:
            case Action.PASS | Action.TAG | Action.DISCARD | Action.QUARANTINE:
                return None
            case Action.DEFER | Action.DISCONNECT:
                return 4
            case Action.REJECT:
                return 5
            case _:
                assert_never(self)


def _ends_stage(action: Action) -> bool:
    match action:
        case Action.PASS | Action.TAG | Action.QUARANTINE:
            return False
        case Action.DEFER | Action.REJECT | Action.DISCARD | Action.DISCONNECT:
            return True
        case _:
            assert_never(action)


_ENDING: Final = frozenset(filter(_ends_stage, Action))  # members of an enum are slow to find before Python 3.12


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that a policy can find, declared as a class attribute of the policy.

    Attributes:
        name: The word by which the operator's ``on:`` names it; the standard's own word where there is one.
        action: What is done about it unless the operator says otherwise.
        reply: What the client is told when the action is defer, reject or disconnect; put in the class the action
            needs.
        help: One sentence for the documentation.
    """

    name: str
    action: Action
    reply: Reply
    help: str

    def __call__(self, *, reply: Reply | None = None, fields: Sequence[str] = (), **evidence: object) -> "Finding":
        """A finding of this outcome.

        Args:
            reply: A reply that says more than the outcome's own.
            fields: Header fields for the message, ``Name: text`` without a line end; the policy's ``writes`` has their
                names.
            evidence: What was seen, for the record.
        """
        return Finding(self, evidence, reply or self.reply, tuple(fields))


class Finding(msgspec.Struct, frozen=True):
    """An outcome that was found, with what was seen.

    Attributes:
        outcome: The outcome.
        evidence: What was seen.
        reply: The reply to a client that is refused for this.
        fields: Header fields that are added if the message is forwarded.
    """

    outcome: Outcome
    evidence: Evidence
    reply: Reply
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """What the operator set for an outcome.

    Attributes:
        action: The action.
        reply: The reply to the client, None for the policy's own reply.
        header: The header field of a tag, None for the gateway's own.
        delay: Seconds by which the reply of the step is held back.
    """

    action: Action
    reply: Reply | None = None
    header: str | None = None
    delay: float = 0.0


class Party(Enum):
    """Who decides besides policies; the values are the words of the decision record, and no policy has them as its id.

    Attributes:
        PROTOCOL: SMTP itself: its rules, the gateway's limits and its own faults.
        BACKEND: The mail server.
    """

    PROTOCOL = "smtp"
    BACKEND = "backend"


PROTOCOL: Final = Party.PROTOCOL  # members of an enum are slow to find before Python 3.12
BACKEND: Final = Party.BACKEND

RESERVED_IDS: Final = frozenset(party.value for party in Party)
"""What no policy may have as its id: the record would not tell it from a ``Party``."""


@dataclass(frozen=True, slots=True)
class ByPolicy:
    """A policy decided.

    Attributes:
        id: The policy's id.
    """

    id: str


Decider: TypeAlias = Party | ByPolicy
"""Who decided: the protocol, the backend, or a policy."""


def decider_text(decider: Decider | None) -> str | None:
    """Who decided, in the words of the decision record."""
    match decider:
        case None:
            return None
        case ByPolicy(id=policy):
            return policy
        case Party():
            return str(decider.value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stage came to.

    Attributes:
        action: The action to carry out; ``PASS`` when the client may go on.
        reply: The reply to the client, None for ``PASS``.
        by: Who decided, None for ``PASS``.
        outcome: The outcome's name, or ``error`` when the policy could not run.
        stage: The stage at which the policy ran (earlier than the present one for a delayed refusal).
    """

    action: Action
    reply: Reply | None = None
    by: Decider | None = None
    outcome: str | None = None
    stage: Stage | None = None


GO_ON: Final = Verdict(Action.PASS)


class Check(msgspec.Struct, kw_only=True):
    """One policy's run at one stage, as the decision record shows it.

    Attributes:
        policy: The policy's id.
        stage: Where it ran.
        recipient: The recipient that it ran for, at RCPT.
        outcome: What it found; None when it had nothing to say; ``error`` when it raised or timed out.
        action: What was done, or with ``observed`` what would have been.
        observed: Whether the mode was observe, so that nothing was applied.
        exempted: The reason of the exception that kept the policy from running.
        evidence: What it saw.
        duration_us: Microseconds.
        delay_ms: By how many milliseconds the reply was to be held back; left out where it was not.
    """

    policy: str
    stage: Stage
    recipient: str | None
    outcome: str | None = None
    action: Action = Action.PASS
    observed: bool = False
    exempted: str | None = None
    evidence: dict[str, Any] = {}
    duration_us: int = 0
    delay_ms: int | msgspec.UnsetType = msgspec.UNSET
