"""concurrency: how many connections a client may have at a time, over all workers and machines.

Runs at connect, and at close, when it makes room again. The count is exact: it is kept in the shared state
(``state:``), and a connection is in it from its beginning to its end. When a worker dies its connections stop counting
after half a minute; when Redis is restarted empty the workers tell it of theirs within ten seconds.

``limits.connections_per_client`` of the gateway is another one: it holds in each machine by itself, needs no state, and
refuses before anything else is done. Keep it above this one.

Next to ``rate_limit`` for connections it shares its round trip, and a connection that one of them refuses is counted by
neither. When the state is away ``on_error`` holds, or with ``approximate`` each worker counts by itself.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gateway.buckets import UNVERIFIABLE
from gateway.policy import Context, OnError, Options, Policy
from gateway.session import Session
from gateway.smtp.reply import Reply
from gateway.state import Answer, Asking, Enter
from gateway.subjects import Key, Subjects
from gateway.tables import NameTable, NetworkTable
from gateway.verdict import Action, Finding, Outcome


class ClientKey(StrEnum):
    """By what connections are counted."""

    CLIENT_ADDRESS = "client_address"
    CLIENT_NAME = "client_name"
    CLIENT_DOMAIN = "client_domain"


def _as_list(value: object) -> object:
    """A word is short for a list of one."""
    return [value] if isinstance(value, str) else value


class ClientConnections(Options):
    """The limit of some clients."""

    clients: NetworkTable = Field(description="The clients it is for.")
    limit: Annotated[int, Field(ge=1)] = Field(description="Connections at a time.")


class ConcurrencyOptions(Options):
    """The options of ``concurrency``."""

    key: Annotated[tuple[ClientKey, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=(ClientKey.CLIENT_ADDRESS,), description="By what is counted; several together make one key."
    )
    limit: Annotated[int, Field(ge=1)] = Field(default=20, description="Connections at a time.")
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = Field(
        default=32, description="IPv4 clients of one network of this length count together."
    )
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = Field(
        default=64, description="The same for IPv6; a customer has at least a /64."
    )
    limits: tuple[ClientConnections, ...] = Field(
        default=(), description="Other limits for lists of clients; the first whose list has the client holds."
    )
    allow: NetworkTable = Field(default=NetworkTable(), description="Clients that are not counted.")
    allow_names: NameTable = Field(default=NameTable(), description="Clients that are not counted, by their names.")
    approximate: bool = Field(
        default=False,
        description="While the state is away each worker counts by itself, with its share of the limit; "
        "without this, `on_error` holds.",
    )


class Concurrency(Policy[ConcurrencyOptions]):
    """Bounds the connections that a client has at a time."""

    name = "concurrency"
    on_error = OnError.PASS
    uses_state = True
    asks = True

    exceeded = Outcome(
        "exceeded",
        Action.DISCONNECT,
        Reply(421, "4.7.0", "Too many connections from your host, try again later"),
        "The client has as many connections as it may.",
    )
    unverifiable = UNVERIFIABLE
    within = Outcome(
        "within",
        Action.PASS,
        Reply(421, "4.7.0", "Connections are limited"),
        "The limit is not reached; the record shows how many connections there are.",
    )

    def __init__(self, options: ConcurrencyOptions, context: Context) -> None:
        super().__init__(options, context)
        self._subjects = Subjects([Key(key) for key in options.key], options.ipv4_prefix, options.ipv6_prefix)

    @property
    def names_clients(self) -> bool:
        """A part of the key, or a list of clients that are not counted, has names."""
        return self._subjects.asks_dns or not self.options.allow_names.is_empty

    def on_connect(self, session: Session) -> Asking | None:
        """Come in, if there is room."""
        enter = self._enter(session)
        if enter is None:
            return None
        exceeded = self.exceeded if self.options.allow_names.is_empty or session.has_told_name else self.unverifiable
        return Asking([enter], exceeded, lambda answers: self._conclude(enter, answers[0], exceeded))

    def on_close(self, session: Session) -> None:
        """Make room."""
        enter = self._enter(session)
        if enter is not None:
            self.context.state.leave(enter)

    def _enter(self, session: Session) -> Enter | None:
        options = self.options
        name = None if session.client_name is None else session.client_name.name
        if session.client_address in options.allow or (name is not None and name in options.allow_names):
            return None
        about = self._subjects.of(session)
        if about is None:
            return None
        limits = (own.limit for own in options.limits if session.client_address in own.clients)
        return Enter(
            name=self.id,
            subject=about,
            member=session.id,
            limit=next(limits, options.limit),
            approximate=options.approximate,
        )

    def _conclude(self, enter: Enter, answer: Answer, exceeded: Outcome) -> Finding:
        evidence: dict[str, Any] = {"key": enter.subject, "connections": round(answer.level), "limit": enter.limit}
        if answer.approximate:
            evidence["approximate"] = True
        return (self.within if answer.granted else exceeded)(**evidence)
