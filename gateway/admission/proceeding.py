"""What an open transaction has of its own in the admission, from MAIL to its end, beside what policies see of it.

Here lives the rule that recipients share a transaction only where they agree on all that follows RCPT: the backend, the
largest message, the header fields of tags, the settings of the policies that look at the data. The later ones that
differ get ``452 4.5.3``, because the end of data has one answer for all; the sender brings them in a transaction of
their own (RFC 5321 4.5.3.1.10).
"""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gateway.admission import weight
from gateway.admission.rules import Rules
from gateway.chain.rule import Envelope, Ruling, applied
from gateway.chain.variants import Variant
from gateway.session import Recipient, Transaction
from gateway.verdict import Action, Stage, Verdict

if TYPE_CHECKING:
    from gateway.chain.chain import Found


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
    tags: frozenset[bytes]
    after_data: object


class Proceeding:
    """One open transaction.

    Args:
        transaction: The transaction.
        rules: What holds for it.

    Attributes:
        transaction: The transaction.
        started: When it began, of ``time.perf_counter``.
        common: What was found before RCPT with the options that hold for all.
        found: What policies with a domain's own options found before RCPT.
        candidate: The recipient whose answer the backend is asked for.
        first: The first recipient that was accepted; by its settings the message is looked at.
        discarded: The verdict of a message that is to be discarded, known before it has come.
        tags: The header fields of tags, each once.
    """

    __slots__ = (
        "_authentication", "_octets", "_rules", "_shared", "_weighed", "candidate", "common", "discarded", "first",
        "found", "started", "tags", "transaction",
    )  # fmt: skip

    def __init__(self, transaction: Transaction, rules: Rules) -> None:
        self.transaction = transaction
        self.started = time.perf_counter()
        self.common = transaction.authentication
        self.found: dict[tuple[Stage, int], Found] = {}
        self.candidate: Candidate
        self.first: Candidate | None = None
        self.discarded: Verdict | None = None
        self.tags: list[bytes] = []
        self._rules = rules
        self._authentication = transaction.authentication  # with the options of those who were accepted
        self._shared: _Shared | None = None  # with the first one, once there is another
        self._octets = 0  # of recipients and checks, as far as they were weighed
        self._weighed = 0  # checks

    def has_room(self, waiting: int) -> bool:
        """Whether there may be one more recipient: by their number, and by what the transaction holds already.

        Args:
            waiting: Octets that the client has sent ahead: what it holds, too.
        """
        transaction, rules = self.transaction, self._rules
        recipients, checks = transaction.recipients, transaction.checks
        if not recipients:
            return True
        self._octets += weight.of_recipient(*recipients[-1:-3:-1]) + weight.of_checks(checks[self._weighed :])
        self._weighed = len(checks)
        octets = waiting + self._octets + weight.of_reservations(transaction.reservations)
        return len(recipients) < rules.recipient_limit and octets < rules.transaction_memory

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
        self.tag(self.candidate.rulings)

    def tag(self, rulings: Iterable[Ruling]) -> None:
        """Note the header fields of tags."""
        for field in map(_tag_field, applied(rulings, Action.TAG)):
            if field not in self.tags:
                self.tags.append(field)

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
            backend=rules.backend(self.transaction.session, recipient),
            limit=None if domain is None else domain.message_size,
            # What one recipient is tagged with another must not get.
            tags=frozenset(map(_tag_field, applied(rulings, Action.TAG))),
            after_data=rules.chain.after_data(variant, envelope),
        )


def _tag_field(ruling: Ruling) -> bytes:
    """The header field of a tag: the operator's own, or one that names policy and outcome."""
    default = f"X-Lychgate-Tag: policy={ruling.policy}; outcome={ruling.finding.outcome.name}"
    return (ruling.response.header or default).encode() + b"\r\n"
