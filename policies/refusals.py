"""refusals: who is refused too often is put off for a while; this slows down those who try out addresses.

Counts what any policy, or the backend at RCPT, refused for good (5xx), in token buckets that all workers and machines
share (``state:``). A bucket holds ``burst`` and regains ``limit``. Who has filled it is deferred at connect, MAIL and
RCPT until it has regained, or with ``hold`` for that long whatever he does. At RCPT it looks only when something was
refused in the session.

What is deferred does not count, nor what this policy refuses itself, nor what the protocol refuses by itself (a
malformed address). A refusal stays counted, whatever becomes of the rest of the mail. Counting waits for nothing.

Put it before the policies that refuse: then who is put off is not asked about by them. It counts what they refuse
wherever it stands. When the state is away ``on_error`` holds, or with ``approximate`` each worker counts by itself.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, Self

from pydantic import model_validator

from gateway.buckets import UNVERIFIABLE, BucketOptions, Buckets
from gateway.policy import OnError, Options, Policy
from gateway.session import Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Asking, Counting
from gateway.subjects import ORDER, Key, known_at
from gateway.verdict import Action, Outcome, Stage

LOOKED_AT: Final[Mapping[Stage, Sequence[Stage]]] = {
    Stage.CONNECT: (Stage.CONNECT, Stage.MAIL, Stage.RCPT),
    Stage.HELO: (Stage.HELO, Stage.MAIL, Stage.RCPT),
    Stage.MAIL: (Stage.MAIL, Stage.RCPT),
    Stage.RCPT: (Stage.RCPT,),
}
"""The stages at which it looks, by the first at which the key is known."""


class RefusalsOptions(BucketOptions):
    """The options of ``refusals``."""

    @model_validator(mode="after")
    def _come_after_the_key(self) -> Self:
        if Key.DKIM_DOMAIN in self.key:
            raise ValueError("refusals are not counted by dkim_domain: most come before a signature is seen")
        return self

    @property
    def first_at(self) -> Stage:
        """The first stage at which it looks."""
        return max(known_at(self.key), Stage.CONNECT, key=ORDER.index)


class Refusals(Policy[RefusalsOptions]):
    """Puts off clients, senders or recipients of which too much was refused."""

    name = "refusals"
    on_error = OnError.PASS
    timeout = 10.0
    uses_state = True
    asks = True

    exceeded = Outcome(
        "exceeded",
        Action.DEFER,
        Reply(450, "4.7.1", "Too many refused commands, try again later"),
        "Too much was refused; the reply says in how many seconds to come back.",
    )
    unverifiable = UNVERIFIABLE
    within = Outcome(
        "within",
        Action.PASS,
        Reply(450, "4.7.1", "Refusals are limited"),
        "The limit is not reached; the record shows how full the bucket is.",
    )

    @cached_property
    def _buckets(self) -> Buckets:
        """Where it counts; made when its id is known."""
        return Buckets(
            self.id,
            self.options,
            count="refusals",
            what="refused commands",
            exceeded=self.exceeded,
            unverifiable=self.unverifiable,
            within=self.within,
        )

    @property
    def names_clients(self) -> bool:
        """A part of the key, or a list of clients that are not counted, has names."""
        return self._buckets.names_clients

    @property
    def watches_refusals(self) -> bool:
        """They are what it counts."""
        return True

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:
        """Only those at which it looks."""
        assert isinstance(options, RefusalsOptions)  # noqa: S101 - its own
        return {stage: hook for stage, hook in cls.hooks().items() if stage in LOOKED_AT[options.first_at]}

    def on_connect(self, session: Session) -> Asking | None:
        """What was refused on earlier connections."""
        return self._ask(session)

    def on_helo(self, session: Session) -> Asking | None:
        """By the HELO name."""
        return self._ask(session)

    def on_mail(self, transaction: Transaction) -> Asking | None:
        """What was refused before, here or elsewhere."""
        return self._ask(transaction.session, transaction)

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Asking | None:
        """What was refused since MAIL."""
        if not transaction.session.refusals and self.options.first_at is not Stage.RCPT:
            return None  # nothing has changed
        if recipient.path in self.options.allow_recipients:
            return None
        return self._ask(transaction.session, transaction, [recipient])

    def on_refusal(
        self, session: Session, transaction: Transaction, recipient: Recipient | None, by: str | None
    ) -> None:
        """Count what others refused."""
        if by == self.id or (recipient is not None and recipient.path in self.options.allow_recipients):
            return
        for about in self._buckets.subjects(session, transaction, () if recipient is None else [recipient]):
            self.context.state.post(self._buckets.add(session, about))

    def _ask(
        self, session: Session, transaction: Transaction | None = None, recipients: Sequence[Recipient] = ()
    ) -> Asking | None:
        found = self._buckets.subjects(session, transaction, recipients)
        return self._buckets.ask(session, dict.fromkeys(found, self.options.cost), Counting.LOOK)
