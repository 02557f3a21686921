"""The buckets of a policy that limits how much may happen in a time. They have its options, subjects and replies.

A bucket holds ``burst`` and regains ``limit``. What policies that count in buckets have in common is here: the limits
of some clients, who is not counted, the question to the state, and the finding with the reply that says when to come
back. What is counted, and when, is the policy's.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.policy import Options
from gateway.session import Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Answer, Asking, Counting, Reservation, Take
from gateway.subjects import SEPARATORS, SUBADDRESS, Key, Subjects
from gateway.tables import AddressTable, NameTable, NetworkTable
from gateway.units import Duration, Rate, Size, counted
from gateway.verdict import Action, Finding, Outcome

UNVERIFIABLE: Final = Outcome(
    "unverifiable",
    Action.DEFER,
    Reply(451, "4.4.3", "Your host name can't be looked up now, try again later"),
    "The limit is reached, and whether the client's name is in `allow_names` could not be found out now.",
)
"""What policies with ``allow_names`` find of a client above their limit whose name may be one of these."""

_TAKE: Final = Counting.TAKE  # members of an enum are slow to find before Python 3.12


def _as_list(value: object) -> object:
    """A word is short for a list of one."""
    return [value] if isinstance(value, str) else value


class ClientLimit(Options):
    """The limit of some clients."""

    clients: NetworkTable = Field(description="The clients it is for.")
    limit: Rate = Field(description="How much in which time.")
    burst: Size | None = Field(default=None, ge=1, description="How much at once; as much as in the limit without it.")


class BucketOptions(Options):
    """The options of all policies that count in buckets."""

    key: Annotated[tuple[Key, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=(Key.CLIENT_ADDRESS,), description="By what is counted; several together make one key."
    )
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
    subaddress: str = Field(default="+", pattern=SEPARATORS, description=SUBADDRESS)
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
    def _keys_differ(self) -> Self:
        if len(set(self.key)) != len(self.key):
            raise ValueError("'key' names something twice")
        return self


class _Limit(NamedTuple):
    """A limit in the state's words: its name there, units a second, what it holds; and as it is written."""

    name: str
    rate: float
    burst: int
    text: str


class Buckets:
    """See the module.

    Args:
        name: The policy's id.
        options: Its options.
        count: What is counted, for the record.
        what: The same for the client, behind "Too many".
        exceeded: The outcome when there is no room.
        unverifiable: The same where the client's name may be one that is not counted.
        within: The outcome when there is.
    """

    def __init__(
        self,
        name: str,
        options: BucketOptions,
        *,
        count: str,
        what: str,
        exceeded: Outcome,
        unverifiable: Outcome,
        within: Outcome,
    ) -> None:
        self._options = options
        self._count = count
        self._what = what
        self._exceeded = exceeded
        self._unverifiable = unverifiable
        self._within = within
        self._subjects = Subjects(options.key, options.ipv4_prefix, options.ipv6_prefix, options.subaddress)
        self._common = _limit(name, options.limit, options.burst)
        self._own = [(own.clients, _limit(name, own.limit, own.burst)) for own in options.limits]
        self._allows = not (options.allow.is_empty and options.allow_names.is_empty and options.allow_senders.is_empty)

    @property
    def names_clients(self) -> bool:
        """A part of the key, or a list of clients that are not counted, has names."""
        return self._subjects.asks_dns or not self._options.allow_names.is_empty

    def subjects(
        self, session: Session, transaction: Transaction | None, recipients: Sequence[Recipient]
    ) -> dict[str, int]:
        """Who is counted, each with the number of its recipients; nobody where the client or sender is allowed."""
        found: dict[str, int] = {}
        if self._allows and self._is_allowed(session, transaction):
            return found
        for recipient in recipients or (None,):
            about = self._subjects.of(session, transaction, recipient)
            if about is not None:
                found[about] = found.get(about, 0) + 1
        return found

    def _is_allowed(self, session: Session, transaction: Transaction | None) -> bool:
        options = self._options
        name = None if session.client_name is None else session.client_name.name
        return (
            session.client_address in options.allow
            or (name is not None and name in options.allow_names)
            or (transaction is not None and transaction.reverse_path in options.allow_senders)
        )

    def ask(
        self,
        session: Session,
        costs: Mapping[str, int],
        counting: Counting = _TAKE,
        reservations: list[Reservation] | None = None,
        recipient: Recipient | None = None,
    ) -> Asking | None:
        """The question whether there is room.

        Args:
            session: The session.
            costs: What is counted of each subject; without any nothing is asked.
            counting: Whether it is counted.
            reservations: Where to note what was counted in advance; None where it stays counted.
            recipient: For which recipient it is.
        """
        if not costs:
            return None
        limit = self._for(session)
        takes = [self._take(limit, about, counting, cost) for about, cost in costs.items()]
        is_told = self._options.allow_names.is_empty or session.has_told_name
        exceeded = self._exceeded if is_told else self._unverifiable
        return Asking(takes, exceeded, partial(self._conclude, limit, takes, exceeded), reservations, recipient)

    def add(self, session: Session, about: str) -> Take:
        """What is counted in any case."""
        return self._take(self._for(session), about, Counting.ADD, self._options.cost)

    def _take(self, limit: _Limit, about: str, counting: Counting, cost: int) -> Take:
        options = self._options
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
        evidence: dict[str, Any] = {
            "key": take.subject,
            "count": self._count,
            "level": round(answer.level, 1),
            "burst": limit.burst,
            "limit": limit.text,
        }
        if answer.approximate:
            evidence["approximate"] = True
        if answer.granted:
            return self._within(**evidence)
        seconds = max(1, math.ceil(answer.wait))
        if exceeded is self._unverifiable:
            return exceeded(wait=seconds, **evidence)
        told = Reply(450, "4.7.1", f"Too many {self._what}, try again in {counted(seconds, 'second')}")
        return exceeded(reply=told, wait=seconds, **evidence)


def _limit(name: str, limit: Rate, burst: int | None) -> _Limit:
    return _Limit(f"{name}:{limit}", limit.count / limit.period, burst or limit.count, str(limit))


def _fullness(asked: tuple[Take, Answer]) -> tuple[bool, float, float]:
    """What is refused comes first, and of that what has to wait longest."""
    take, answer = asked
    return not answer.granted, answer.wait, answer.level / take.burst
