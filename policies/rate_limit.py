"""rate_limit: so much in so much time, for each client, sender, recipient or whatever ``key`` says.

Counts connections, messages, recipients, octets or refusals in token buckets, which all workers and machines share
(``state:``). A bucket holds ``burst`` and regains ``limit``; what does not fit is deferred, and the reply says when to
come back. In any period a client gets at most ``burst`` and ``limit`` together.

It runs at the first stage at which what it counts has come and its key is known:

- ``connections``: at connect. Keys: the client's.
- ``messages``: at MAIL; with a key of the recipient at each RCPT; with ``dkim_domain`` when the message has come.
- ``recipients``: at RCPT, or when the message has come. Only those that earlier policies let through.
- ``bytes``: when the message has come, and before it is sent whether there is room for anything.
- ``refusals``: what any policy, or the backend at RCPT, refused for good (5xx). Who has too many of them is put off at
  connect, MAIL and RCPT: so those who try out addresses are slowed down, or with ``hold`` shut out for a while. What
  this policy refuses itself does not count.

Several instances that stand next to one another in the chain are asked in one round trip, and count all or none: what
one of them refuses costs nothing in the others. Where a part of the key is not there (``login`` without one,
``spf_domain`` without a pass) nothing is counted. When the state is away ``on_error`` holds, or with ``approximate``
each worker counts by itself.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property, partial
from typing import Annotated, Final, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.policy import Context, OnError, Options, Policy
from gateway.session import Message, Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Answer, Asking, Counting, Take
from gateway.subjects import ORDER, Key, Subjects, known_at
from gateway.tables import AddressTable, NameTable, NetworkTable
from gateway.units import Duration, Rate, Size, counted
from gateway.verdict import Action, Finding, Outcome, Stage

_CLIENT_KEYS: Final = frozenset({Key.CLIENT_ADDRESS, Key.CLIENT_NAME, Key.CLIENT_DOMAIN})
_LOOK: Final = Counting.LOOK  # members of an enum are slow to find before Python 3.12
_TAKE: Final = Counting.TAKE


class Count(StrEnum):
    """What is counted."""

    CONNECTIONS = "connections"
    MESSAGES = "messages"
    RECIPIENTS = "recipients"
    BYTES = "bytes"
    REFUSALS = "refusals"


def _as_list(value: object) -> object:
    """A word is short for a list of one."""
    return [value] if isinstance(value, str) else value


class ClientLimit(Options):
    """The limit of some clients."""

    clients: NetworkTable = Field(description="The clients it is for.")
    limit: Rate = Field(description="How much in which time.")
    burst: Size | None = Field(default=None, ge=1, description="How much at once; as much as in the limit without it.")


class RateLimitOptions(Options):
    """The options of ``rate_limit``."""

    key: Annotated[tuple[Key, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=(Key.CLIENT_ADDRESS,), description="By what is counted; several together make one key."
    )
    count: Count = Field(default=Count.MESSAGES, description="What is counted.")
    limit: Rate = Field(description="How much in which time: `100/h`, `10/5m`, or with bytes `500MB/h`.")
    burst: Size | None = Field(
        default=None,
        ge=1,
        description="How much at once; as much as in the limit without it: `100/h` takes 100 at once.",
    )
    cost: Annotated[int, Field(ge=1)] = Field(
        default=1, description="What each counts; octets are counted as they are."
    )
    hold: Duration = Field(
        default=0.0, description="For how long nothing passes once something was refused; 0 for no longer than needed."
    )
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = Field(
        default=32, description="IPv4 clients of one network of this length count together."
    )
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = Field(
        default=64, description="The same for IPv6; a customer has at least a /64."
    )
    limits: tuple[ClientLimit, ...] = Field(
        default=(), description="Other limits for lists of clients; the first whose list has the client holds."
    )
    allow: NetworkTable = Field(default=NetworkTable(), description="Clients that are not counted.")
    allow_names: NameTable = Field(default=NameTable(), description="Clients that are not counted, by their names.")
    allow_senders: AddressTable = Field(default=AddressTable(), description="Senders that are not counted.")
    allow_recipients: AddressTable = Field(default=AddressTable(), description="Recipients that are not counted.")
    approximate: bool = Field(
        default=False,
        description="While the state is away each worker counts by itself, with its share of the limit; "
        "without this, `on_error` holds.",
    )

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if len(set(self.key)) != len(self.key):
            raise ValueError("'key' names something twice")
        if self.count is Count.CONNECTIONS and not _CLIENT_KEYS.issuperset(self.key):
            raise ValueError("connections are counted by client_address, client_name or client_domain")
        if self.count is Count.REFUSALS and Key.DKIM_DOMAIN in self.key:
            raise ValueError("refusals are not counted by dkim_domain: most come before a signature is seen")
        if self.count is Count.BYTES and self.cost != 1:
            raise ValueError("octets are counted as they are: leave out 'cost'")
        return self

    @property
    def counted_at(self) -> Stage:
        """The stage at which it counts; with refusals, the first at which it looks."""
        earliest = {
            Count.CONNECTIONS: Stage.CONNECT,
            Count.MESSAGES: Stage.MAIL,
            Count.RECIPIENTS: Stage.RCPT,
            Count.BYTES: Stage.MESSAGE,
            Count.REFUSALS: Stage.CONNECT,
        }[self.count]
        return max(earliest, known_at(self.key), key=ORDER.index)

    @property
    def looked_at(self) -> frozenset[Stage]:
        """The stages at which it only looks whether there is room."""
        if self.count is Count.BYTES and known_at(self.key) is not Stage.MESSAGE:
            return frozenset({max(Stage.MAIL, known_at(self.key), key=ORDER.index)})
        if self.count is Count.REFUSALS:
            first = ORDER.index(self.counted_at)
            return frozenset({self.counted_at} | {s for s in (Stage.MAIL, Stage.RCPT) if ORDER.index(s) >= first})
        return frozenset()


class _Limit(NamedTuple):
    """A limit in the state's words: its name there, units a second, what it holds; and as it is written."""

    name: str
    rate: float
    burst: int
    text: str


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
    unverifiable = Outcome(
        "unverifiable",
        Action.DEFER,
        Reply(451, "4.4.3", "Your host name can't be looked up now, try again later"),
        "The limit is reached, and whether the client's name is in `allow_names` could not be found out now.",
    )
    within = Outcome(
        "within",
        Action.PASS,
        Reply(450, "4.7.1", "Rate limited"),
        "The limit is not reached; the record shows how full the bucket is.",
    )

    def __init__(self, options: RateLimitOptions, context: Context) -> None:
        super().__init__(options, context)
        self._subjects = Subjects(options.key, options.ipv4_prefix, options.ipv6_prefix)
        self._looked_at = options.looked_at
        self._count = str(options.count)
        self._in_octets = options.count is Count.BYTES
        self._in_recipients = options.count is Count.RECIPIENTS

    @property
    def names_clients(self) -> bool:
        """A part of the key, or a list of clients that are not counted, has names."""
        return self._subjects.asks_dns or not self.options.allow_names.is_empty

    @cached_property
    def _allows(self) -> bool:
        """Whether anybody may be left out."""
        options = self.options
        return not (options.allow.is_empty and options.allow_names.is_empty and options.allow_senders.is_empty)

    @cached_property
    def _common(self) -> _Limit:
        """The limit of most clients."""
        return self._limit(self.options.limit, self.options.burst)

    @cached_property
    def _own(self) -> list[tuple[NetworkTable, _Limit]]:
        """The others."""
        return [(own.clients, self._limit(own.limit, own.burst)) for own in self.options.limits]

    def _limit(self, limit: Rate, burst: int | None) -> _Limit:
        return _Limit(f"{self.id}:{limit}", limit.count / limit.period, burst or limit.count, str(limit))

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:
        """Only those at which something is counted or looked at."""
        assert isinstance(options, RateLimitOptions)  # noqa: S101 - its own
        wanted = options.looked_at | (frozenset() if options.count is Count.REFUSALS else {options.counted_at})
        return {stage: hook for stage, hook in cls.hooks().items() if stage in wanted}

    @property
    def watches_refusals(self) -> bool:
        """Refusals are what it may count."""
        return self.options.count is Count.REFUSALS

    # The stages.

    def on_connect(self, session: Session) -> Asking | None:
        """Connections, and the refusals of earlier ones."""
        return self._ask(Stage.CONNECT, session)

    def on_helo(self, session: Session) -> Asking | None:
        """Refusals by the HELO name."""
        return self._ask(Stage.HELO, session)

    def on_mail(self, transaction: Transaction) -> Asking | None:
        """Messages; whether there is room for octets and refusals."""
        return self._ask(Stage.MAIL, transaction.session, transaction)

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Asking | None:
        """Recipients; messages and octets by recipient; further refusals."""
        if self.watches_refusals and not transaction.session.refusals and self.options.counted_at is not Stage.RCPT:
            return None  # nothing has changed since MAIL
        if recipient.path in self.options.allow_recipients:
            return None
        return self._ask(Stage.RCPT, transaction.session, transaction, [recipient])

    def on_message(self, transaction: Transaction, message: Message) -> Asking | None:
        """Octets, and whatever is counted by a signature's domain."""
        allowed = self.options.allow_recipients
        recipients = [recipient for recipient in transaction.accepted if recipient.path not in allowed]
        return self._ask(Stage.MESSAGE, transaction.session, transaction, recipients, message.size)

    def on_refusal(
        self, session: Session, transaction: Transaction, recipient: Recipient | None, by: str | None
    ) -> None:
        """Count what others refused."""
        if by == self.id or self._is_allowed(session, transaction):
            return
        if recipient is not None and recipient.path in self.options.allow_recipients:
            return
        about = self._subjects.of(session, transaction, recipient)
        if about is not None:
            self.context.state.post(self._take(self._for(session), about, Counting.ADD, self.options.cost))

    # What is asked.

    def _ask(
        self,
        stage: Stage,
        session: Session,
        transaction: Transaction | None = None,
        recipients: Sequence[Recipient] = (),
        size: int = 0,
    ) -> Asking | None:
        if self._is_allowed(session, transaction):
            return None
        abouts = self._abouts(session, transaction, recipients)
        if not abouts:
            return None
        limit = self._for(session)
        counting = _LOOK if stage in self._looked_at else _TAKE
        takes = [
            self._take(limit, about, counting, self._cost(stage, number, size)) for about, number in abouts.items()
        ]
        is_told = self.options.allow_names.is_empty or session.has_told_name
        exceeded = self.exceeded if is_told else self.unverifiable
        return Asking(takes, exceeded, partial(self._conclude, limit, takes, exceeded))

    def _abouts(
        self, session: Session, transaction: Transaction | None, recipients: Sequence[Recipient]
    ) -> dict[str, int]:
        """The subjects, each with the number of its recipients."""
        found: dict[str, int] = {}
        subjects = self._subjects
        for recipient in recipients or (None,):
            about = subjects.of(session, transaction, recipient)
            if about is not None:
                found[about] = found.get(about, 0) + 1
        return found

    def _cost(self, stage: Stage, recipients: int, size: int) -> int:
        if self._in_octets:
            return max(size, 1) if stage is Stage.MESSAGE else 1
        return self.options.cost * recipients if self._in_recipients else self.options.cost

    def _is_allowed(self, session: Session, transaction: Transaction | None) -> bool:
        options = self.options
        if not self._allows:
            return False
        name = None if session.client_name is None else session.client_name.name
        return (
            session.client_address in options.allow
            or (name is not None and name in options.allow_names)
            or (transaction is not None and transaction.reverse_path in options.allow_senders)
        )

    def _take(self, limit: _Limit, about: str, counting: Counting, cost: int) -> Take:
        options = self.options
        return Take(
            name=limit.name,
            subject=about,
            rate=limit.rate,
            burst=limit.burst,
            cost=cost,
            counting=counting,
            hold=options.hold,
            approximate=options.approximate,
        )

    def _for(self, session: Session) -> _Limit:
        """The limit that holds for a client."""
        if not self._own:
            return self._common
        return next((own for clients, own in self._own if session.client_address in clients), self._common)

    def _conclude(self, limit: _Limit, takes: Sequence[Take], exceeded: Outcome, answers: Sequence[Answer]) -> Finding:
        """The fullest bucket speaks for all."""
        take, answer = takes[0], answers[0]
        if len(takes) > 1:
            take, answer = max(zip(takes, answers, strict=True), key=_fullness)
        evidence: dict[str, object] = {
            "key": take.subject,
            "count": self._count,
            "level": round(answer.level, 1),
            "burst": limit.burst,
            "limit": limit.text,
        }
        if answer.approximate:
            evidence["approximate"] = True
        if answer.granted:
            return self.within(reply=None, **evidence)
        seconds = max(1, math.ceil(answer.wait))
        if exceeded is self.unverifiable:
            return exceeded(reply=None, wait=seconds, **evidence)
        told = Reply(450, "4.7.1", f"Too many {_WORDS[self.options.count]}, try again in {counted(seconds, 'second')}")
        return self.exceeded(reply=told, wait=seconds, **evidence)


def _fullness(asked: tuple[Take, Answer]) -> tuple[bool, float, float]:
    """What is refused comes first, and of that what has to wait longest."""
    take, answer = asked
    return not answer.granted, answer.wait, answer.level / take.burst


_WORDS: Final[Mapping[Count, str]] = {count: count.value for count in Count} | {
    Count.BYTES: "octets",
    Count.REFUSALS: "refused commands",
}
