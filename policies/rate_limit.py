"""rate_limit: so much in so much time, for each client, sender, recipient or whatever ``key`` says.

Counts connections, attempts, messages, recipients or octets in token buckets, which all workers and machines share
(``state:``). A bucket holds ``burst`` and regains ``limit``; what does not fit is deferred, and the reply says when to
come back. In any period a client gets at most ``burst`` and ``limit`` together.

What has happened is counted. ``messages``, ``recipients`` and ``bytes`` are counted in advance, so that no more come at
the same time than may, and given back when the mail does not come through: when another policy, the protocol or the
backend refuses or defers it, or the client gives it up. What was accepted or discarded stays counted, and so does what
the backend may have accepted without saying so. ``attempts`` and ``connections`` stay counted in any case.

It runs at the first stage at which what it counts has come and its key is known: ``COUNTED_AT`` has it for each count
and key. ``bytes`` also looks, before a message is sent, whether there is room for anything.

Several instances that stand next to one another in the chain are asked in one round trip, and count all or none: what
one of them refuses costs nothing in the others. Where a part of the key is not there (``login`` without one,
``spf_domain`` without a pass) nothing is counted. When the state is away ``on_error`` holds, or with ``approximate``
each worker counts by itself.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Final, Self

from pydantic import Field, field_validator, model_validator

from gateway.buckets import UNVERIFIABLE, BucketOptions, Buckets
from gateway.policy import Context, OnError, Options, Policy
from gateway.session import Message, Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Asking, Counting
from gateway.subjects import ORDER, Key
from gateway.verdict import Action, Outcome, Stage

_LOOK: Final = Counting.LOOK  # members of an enum are slow to find before Python 3.12
_TAKE: Final = Counting.TAKE


class Count(StrEnum):
    """What is counted."""

    CONNECTIONS = "connections"
    ATTEMPTS = "attempts"
    MESSAGES = "messages"
    RECIPIENTS = "recipients"
    BYTES = "bytes"


_KEYS: Final[Sequence[Sequence[Key]]] = (
    (Key.CLIENT_ADDRESS, Key.CLIENT_NAME, Key.CLIENT_DOMAIN),
    (Key.HELO_NAME,),
    (Key.LOGIN, Key.REVERSE_PATH, Key.REVERSE_PATH_DOMAIN, Key.SPF_DOMAIN),
    (Key.RECIPIENT, Key.RECIPIENT_DOMAIN),
    (Key.DKIM_DOMAIN,),
)
"""The columns of the tables: the client's keys, HELO's, the sender's, the recipient's and the signature's."""


def _table(rows: Mapping[Count, Sequence[Stage | None]]) -> Mapping[tuple[Count, Key], Stage | None]:
    return {
        (count, key): stage
        for count, row in rows.items()
        for keys, stage in zip(_KEYS, row, strict=True)
        for key in keys
    }


_CONNECT, _MAIL, _RCPT, _MESSAGE = Stage.CONNECT, Stage.MAIL, Stage.RCPT, Stage.MESSAGE

COUNTED_AT: Final = _table(
    {
        #                  client    HELO      sender    recipient signature
        Count.CONNECTIONS: (_CONNECT, None, None, None, None),
        Count.ATTEMPTS: (_MAIL, _MAIL, _MAIL, _RCPT, _MESSAGE),
        Count.MESSAGES: (_MAIL, _MAIL, _MAIL, _RCPT, _MESSAGE),
        Count.RECIPIENTS: (_RCPT, _RCPT, _RCPT, _RCPT, _MESSAGE),
        Count.BYTES: (_MESSAGE, _MESSAGE, _MESSAGE, _MESSAGE, _MESSAGE),
    }
)
"""The stage at which each is counted by each key, the last one for several keys; None where it can't be."""

LOOKED_AT: Final = _table(
    {
        #                  client    HELO      sender    recipient signature
        Count.CONNECTIONS: (None, None, None, None, None),
        Count.ATTEMPTS: (None, None, None, None, None),
        Count.MESSAGES: (None, None, None, None, None),
        Count.RECIPIENTS: (None, None, None, None, None),
        Count.BYTES: (_MAIL, _MAIL, _MAIL, _RCPT, None),
    }
)
"""The stage at which it is looked before whether there is any room, in the same way; None where it is not."""

RESERVED: Final = frozenset({Count.MESSAGES, Count.RECIPIENTS, Count.BYTES})
"""What is given back when the mail does not come through."""


class RateLimitOptions(BucketOptions):
    """The options of ``rate_limit``."""

    count: Count = Field(default=Count.MESSAGES, description="What is counted.")

    @field_validator("count", mode="before")
    @classmethod
    def _is_no_other_policy(cls, value: object) -> object:
        if value == "refusals":
            raise ValueError(
                "refusals are counted by a policy of their own, with the same settings but for 'count': "
                "write 'refusals: {limit: ...}' in place of 'rate_limit: {count: refusals, limit: ...}'"
            )
        return value

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if self.counted_at is None:
            known = [key.value for key in Key if COUNTED_AT[self.count, key] is not None]
            raise ValueError(f"{self.count.value} are counted by {', '.join(known[:-1])} or {known[-1]}")
        if self.count is Count.BYTES and self.cost != 1:
            raise ValueError("octets are counted as they are: leave out 'cost'")
        return self

    @property
    def counted_at(self) -> Stage | None:
        """The stage at which it counts; None where it can't."""
        return self._last(COUNTED_AT)

    @property
    def looked_at(self) -> Stage | None:
        """The stage at which it looks whether there is room; None where it does not."""
        return self._last(LOOKED_AT)

    def _last(self, table: Mapping[tuple[Count, Key], Stage | None]) -> Stage | None:
        """The stage at which what all keys need is there."""
        stages = [table[self.count, key] for key in self.key]
        known = [stage for stage in stages if stage is not None]
        return max(known, key=ORDER.index) if len(known) == len(stages) else None


class RateLimit(Policy[RateLimitOptions]):
    """Bounds what a client, a sender or a recipient may do in a time."""

    name = "rate_limit"
    on_error = OnError.PASS
    timeout = 10.0
    uses_state = True
    asks = True

    exceeded = Outcome(
        "exceeded",
        Action.DEFER,
        Reply(450, "4.7.1", "Rate limit exceeded, try again later"),
        "There was too much of it; the reply says in how many seconds to come back.",
    )
    unverifiable = UNVERIFIABLE
    within = Outcome(
        "within",
        Action.PASS,
        Reply(450, "4.7.1", "Rate limited"),
        "The limit is not reached; the record shows how full the bucket is.",
    )

    def __init__(self, options: RateLimitOptions, context: Context) -> None:
        super().__init__(options, context)
        self._looked_at = options.looked_at
        self._reserves = options.count in RESERVED
        self._in_octets = options.count is Count.BYTES
        self._in_recipients = options.count is Count.RECIPIENTS

    @cached_property
    def _buckets(self) -> Buckets:
        """Where it counts; made when its id is known."""
        count = self.options.count.value
        what = "octets" if self._in_octets else count
        return Buckets(
            self.id,
            self.options,
            count=count,
            what=what,
            exceeded=self.exceeded,
            unverifiable=self.unverifiable,
            within=self.within,
        )

    @property
    def names_clients(self) -> bool:
        """A part of the key, or a list of clients that are not counted, has names."""
        return self._buckets.names_clients

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:
        """Only those at which something is counted or looked at."""
        assert isinstance(options, RateLimitOptions)  # noqa: S101 - its own
        wanted = {options.looked_at, options.counted_at}
        return {stage: hook for stage, hook in cls.hooks().items() if stage in wanted}

    # The stages.

    def on_connect(self, session: Session) -> Asking | None:
        """Connections."""
        return self._ask(_CONNECT, session)

    def on_mail(self, transaction: Transaction) -> Asking | None:
        """Attempts and messages; whether there is room for octets."""
        return self._ask(_MAIL, transaction.session, transaction)

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Asking | None:
        """Recipients; attempts, messages and octets by recipient."""
        if recipient.path in self.options.allow_recipients:
            return None
        return self._ask(_RCPT, transaction.session, transaction, [recipient])

    def on_message(self, transaction: Transaction, message: Message) -> Asking | None:
        """Octets, and whatever is counted by a signature's domain."""
        allowed = self.options.allow_recipients
        recipients = [recipient for recipient in transaction.accepted if recipient.path not in allowed]
        return self._ask(_MESSAGE, transaction.session, transaction, recipients, message.size)

    def _ask(
        self,
        stage: Stage,
        session: Session,
        transaction: Transaction | None = None,
        recipients: Sequence[Recipient] = (),
        size: int = 0,
    ) -> Asking | None:
        buckets = self._buckets
        found = buckets.subjects(session, transaction, recipients)
        costs = self._costs(found, stage, size)
        counting = _LOOK if stage is self._looked_at else _TAKE
        reservations = transaction.reservations if self._reserves and transaction is not None else None
        return buckets.ask(session, costs, counting, reservations, recipients[0] if stage is _RCPT else None)

    def _costs(self, found: dict[str, int], stage: Stage, size: int) -> dict[str, int]:
        """What is counted of each."""
        cost = self.options.cost
        if self._in_octets:
            cost = max(size, 1) if stage is _MESSAGE else 1
        elif self._in_recipients:
            return {about: cost * recipients for about, recipients in found.items()}
        return dict.fromkeys(found, cost)
