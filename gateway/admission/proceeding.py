"""What an open transaction has of its own in the admission, from MAIL to its end, beside what policies see of it.

Here lives the rule that recipients share a transaction only where they agree on all that follows RCPT: the backend that
the mail really goes to, the largest message, the header fields that are added, the settings of the policies that look
at the data. The later ones that differ get ``452 4.5.3``, because the end of data has one answer for all; the sender
brings them in a transaction of their own (RFC 5321 4.5.3.1.10).
"""

import pickle
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from gateway.admission import weight
from gateway.admission.rules import Rules
from gateway.chain.rule import Envelope, Ruling, applied
from gateway.chain.variants import Variant
from gateway.session import Recipient, Transaction
from gateway.verdict import Action, Stage, Verdict

if TYPE_CHECKING:
    from gateway.chain.chain import Found


_PACKED_ABOVE: Final = 8
"""Checks that take more than this part of a transaction's room are packed."""


class Candidate(NamedTuple):
    """A recipient that the chain lets through.

    Attributes:
        recipient: The recipient.
        variant: The settings that hold for it.
        envelope: Its envelope.
        rulings: What was ruled on it.
    """

    recipient: Recipient
    variant: Variant
    envelope: Envelope
    rulings: list[Ruling]


class _Shared(NamedTuple):
    """What recipients must have in common to share a transaction."""

    backend: str
    limit: int | None
    fields: frozenset[bytes]
    after_data: object


class Proceeding:
    """One open transaction.

    Args:
        transaction: The transaction.
        rules: What holds for it.

    Attributes:
        transaction: The transaction.
        turned_away: How many recipients found no room.
        started: When it began, of ``time.perf_counter``.
        common: What was found before RCPT with the options that hold for all.
        found: What policies with a domain's own options found before RCPT.
        candidate: The recipient whose answer the backend is asked for.
        first: The first recipient that was accepted; by its settings the message is looked at.
        discarded: The verdict of a message that is to be discarded, known before it has come.
        fields: The header fields of tags, of the quarantine and of findings, each once.
        quarantine: What put the message into quarantine, None where nothing did.
    """

    __slots__ = (
        "_authentication", "_checks", "_packed", "_recipients", "_rules", "_shared", "_weighed", "candidate",
        "common", "discarded", "fields", "first", "found", "quarantine", "started", "transaction", "turned_away",
    )  # fmt: skip

    def __init__(self, transaction: Transaction, rules: Rules) -> None:
        self.transaction = transaction
        self.turned_away = 0
        self.started = time.perf_counter()
        self.common = transaction.authentication
        self.found: dict[tuple[Stage, int], Found] = {}
        self.candidate: Candidate
        self.first: Candidate | None = None
        self.discarded: Verdict | None = None
        self.fields: list[bytes] = []
        self.quarantine: Ruling | None = None
        self._rules = rules
        self._authentication = transaction.authentication  # with the options of those who were accepted
        self._shared: _Shared | None = None  # with the first one, once there is another
        self._recipients = 0  # octets, as far as they were weighed; so are the checks
        self._checks = 0
        self._weighed = 0  # checks
        self._packed: list[bytes] = []  # checks that came before

    def has_room(self, waiting: int) -> bool:
        """Whether there may be one more recipient: by their number, and by what the transaction holds already.

        Args:
            waiting: Octets that the client has sent ahead: what it holds, too.
        """
        transaction, rules = self.transaction, self._rules
        recipients, checks = transaction.recipients, transaction.checks
        if not recipients:
            return True
        self._recipients += weight.of_recipient(*recipients[-1:-3:-1])
        self._checks += weight.of_checks(checks[self._weighed :])
        self._weighed = len(checks)
        if self._checks > rules.transaction_memory // _PACKED_ABOVE:
            self._pack()
        octets = self._recipients + self._checks + sum(map(len, self._packed)) + waiting
        octets += weight.of_reservations(transaction.reservations)
        return len(recipients) < rules.recipient_limit and octets < rules.transaction_memory

    def _pack(self) -> None:
        """Keep the checks so far in a tenth of the room: most of a long list of recipients are alike."""
        checks = self.transaction.checks
        self._packed.append(zlib.compress(pickle.dumps(checks), 1))
        checks.clear()
        self._checks = self._weighed = 0

    def unpack(self) -> None:
        """Give the transaction all its checks again, for its record."""
        packed, self._packed = self._packed, []
        for each in reversed(packed):
            self.transaction.checks[:0] = pickle.loads(zlib.decompress(each))  # noqa: S301 - they never left this process

    def look_at(self, variant: Variant) -> None:
        """Policies look at a recipient: what was found before is what the options that hold for it found."""
        self.transaction.authentication = self.common.copy() if variant.own_early else self.common

    def look_at_message(self) -> None:
        """The message is asked for: what holds is what holds for those who were accepted."""
        self.transaction.authentication = self._authentication

    def accept(self) -> None:
        """The backend takes the candidate."""
        if self.first is None:
            self.first = self.candidate
        self._authentication = self.transaction.authentication
        self.note(self.candidate.rulings)

    def note(self, rulings: Sequence[Ruling]) -> None:
        """Note what is to become of the message: the header fields that are added, and whether it is held."""
        if not rulings:
            return
        self.fields += [field for field in _fields(rulings) if field not in self.fields]
        self.quarantine = self.quarantine or _quarantine(rulings)

    @property
    def backend(self) -> str:
        """The name of the backend that the mail goes to: the present candidate's, and at the end the message's."""
        return self._backend(self.candidate.recipient, is_held=self.is_held)

    @property
    def is_held(self) -> bool:
        """Whether the mail goes to the quarantine: the present candidate's, and at the end the message."""
        return self.quarantine is not None or _quarantine(self.candidate.rulings) is not None

    def _backend(self, recipient: Recipient, *, is_held: bool) -> str:
        if not is_held:
            return self._rules.backend(self.transaction.session, recipient)
        if self._rules.quarantine is None:
            raise RuntimeError("there is no quarantine")  # the configuration does not load without it
        return self._rules.quarantine

    def can_share(self, candidate: Candidate) -> bool:
        """Whether a recipient can share the transaction with those who were accepted before."""
        if self.first is None:
            return True
        if self._shared is None:
            self._shared = self._sharing(self.first)
        shared = self._sharing(candidate)
        return shared == self._shared and shared.backend not in self._rules.single_recipient

    def _sharing(self, candidate: Candidate) -> _Shared:
        recipient, variant, envelope, rulings = candidate
        rules, domain = self._rules, recipient.domain
        return _Shared(
            backend=self._backend(recipient, is_held=_quarantine(rulings) is not None),
            limit=None if domain is None else domain.message_size,
            # What is added to the mail of one recipient another must not get.
            fields=frozenset(_fields(rulings)),
            after_data=rules.chain.after_data(variant, envelope),
        )


def _quarantine(rulings: Iterable[Ruling]) -> Ruling | None:
    """What puts mail into quarantine, None where nothing does."""
    return next(iter(applied(rulings, Action.QUARANTINE)), None)


def _fields(rulings: Iterable[Ruling]) -> list[bytes]:
    """The header fields that are added, in order, each once: those of the actions, and those of the findings."""
    fields: dict[str, None] = {}
    for ruling in rulings:
        if ruling.applies:
            fields |= dict.fromkeys((*_of_action(ruling), *ruling.finding.fields))
    return [field.encode() + b"\r\n" for field in fields]


def _of_action(ruling: Ruling) -> tuple[str, ...]:
    """The header field of an action, if it adds one: the operator's own, or one that names policy and outcome."""
    action = ruling.response.action
    why = f"policy={ruling.policy}; outcome={ruling.finding.outcome.name}"
    match action:
        case Action.TAG:
            return (ruling.response.header or f"X-Lychgate-Tag: {why}",)
        case Action.QUARANTINE:
            return (f"X-Lychgate-Quarantine: {why}",)
        case Action.PASS | Action.DEFER | Action.REJECT | Action.DISCARD | Action.DISCONNECT:
            return ()
        case _:
            assert_never(action)
