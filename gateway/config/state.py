"""``state:`` where the gateway keeps what its workers count together.

One word is enough (``memory:``, ``redis://127.0.0.1/0``); a section takes the URL and what does not belong into one. A
password may stand in the URL or beside it, best as ``${env:NAME}`` or ``${file:PATH}``; nothing prints it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qs, unquote

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from gateway.config.fields import File, Section
from gateway.units import Duration

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_FORMS: Final = (
    "memory:, redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS), unix:///PATH?db=DB, "
    "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis+cluster://HOST:PORT,HOST:PORT"
)
_URL: Final = re.compile(r"(?P<scheme>[a-z+]+):(?://(?P<place>[^/?#]*))?(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?")


class StateKind(StrEnum):
    """What keeps the state."""

    MEMORY = "memory"
    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final[Mapping[str, tuple[StateKind, bool]]] = {
    "memory": (StateKind.MEMORY, False),
    "redis": (StateKind.SERVER, False),
    "rediss": (StateKind.SERVER, True),
    "unix": (StateKind.SERVER, False),
    "redis+sentinel": (StateKind.SENTINEL, False),
    "rediss+sentinel": (StateKind.SENTINEL, True),
    "redis+cluster": (StateKind.CLUSTER, False),
    "rediss+cluster": (StateKind.CLUSTER, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePlace:
    """What a URL says.

    Attributes:
        kind: What keeps the state.
        tls: Whether connections use TLS.
        servers: Hosts and ports; of the sentinels, or of some nodes of the cluster.
        socket: The path of a UNIX socket, None for TCP.
        master: The name by which the sentinels know the master.
        database: The number of the database.
        username: The user; empty without one.
        password: Its password; empty without one.
    """

    kind: StateKind
    tls: bool = False
    servers: tuple[tuple[str, int], ...] = ()
    socket: str | None = None
    master: str = ""
    database: int = 0
    username: str = ""
    password: str = ""

    def __str__(self) -> str:
        """Where it is, without secrets."""
        if self.kind is StateKind.MEMORY:
            return "memory:"
        if self.socket is not None:
            return f"unix://{self.socket}?db={self.database}"
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind is StateKind.SERVER else f"+{self.kind}")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.servers)
        path = {StateKind.SENTINEL: f"/{self.master}/{self.database}", StateKind.CLUSTER: ""}
        return f"{scheme}://{hosts}{path.get(self.kind, f'/{self.database}')}"


def parse_state(url: str) -> StatePlace:
    """Read a URL.

    Raises:
        ValueError: It is none that names a state; the text holds no password.
    """
    match = _URL.fullmatch(url)
    if match is None or match["scheme"] not in _SCHEMES:
        raise ValueError(f"is no place for the state; write {_FORMS}")
    kind, tls = _SCHEMES[match["scheme"]]
    if kind is StateKind.MEMORY:
        if match["place"] or match["path"] or match["query"]:
            raise ValueError("'memory:' takes nothing behind it")
        return StatePlace(kind=kind)
    login, _, hosts = (match["place"] or "").rpartition("@")
    username, _, password = login.partition(":")
    path = [unquote(part) for part in (match["path"] or "").split("/")[1:]]
    query = parse_qs(match["query"] or "", keep_blank_values=True)
    if set(query) - ({"db"} if match["scheme"] == "unix" else set()):
        raise ValueError("has settings behind '?'; write them beside 'url:'")
    if match["scheme"] == "unix":
        found: dict[str, Any] = {"socket": "/" + "/".join(path), "database": _database(query.get("db", ["0"])[-1])}
        if hosts or not path or not path[0]:
            raise ValueError("a UNIX socket is written unix:///PATH")
    else:
        found = _remote(kind, hosts, path)
    return StatePlace(kind=kind, tls=tls, username=unquote(username), password=unquote(password), **found)


def _remote(kind: StateKind, hosts: str, path: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"servers": _servers(hosts, _SENTINEL_PORT if kind is StateKind.SENTINEL else _PORT)}
    if kind is StateKind.SENTINEL:
        found["master"] = path.pop(0) if path else ""
        if not found["master"]:
            raise ValueError("names no master: write redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB")
    elif kind is StateKind.SERVER and len(found["servers"]) > 1:
        raise ValueError("one server only; several are redis+sentinel:// or redis+cluster://")
    found["database"] = _database(path.pop(0) if path else "")
    if path:
        raise ValueError("has too much behind its servers")
    if kind is StateKind.CLUSTER and found["database"]:
        raise ValueError("a cluster has only the database 0")
    return found


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"the database must be a number, not {text!r}")
    return int(text)


def _servers(text: str, port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for one in text.split(","):
        match = re.fullmatch(
            r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d{1,5}))?", one, re.ASCII
        )
        if match is None or int(match["port"] or port) > 65_535:  # noqa: PLR2004 - the largest port
            raise ValueError(f"{one!r} is not a server such as 127.0.0.1:6379")
        found.append((match["six"] or match["host"], int(match["port"] or port)))
    return tuple(found)


class StateOptions(Section):
    """What workers and machines count together; `memory:` or a Redis."""

    url: str = "memory:"
    """`memory:` (one worker), `redis://HOST:PORT/DB`, `rediss://` (TLS), `unix:///PATH?db=DB`,
    `redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB` or `redis+cluster://HOST:PORT,HOST:PORT`."""
    username: str | None = None
    """The user, if Redis has several (ACL)."""
    password: SecretStr | None = None
    """The password; `${file:PATH}` and `${env:NAME}` keep it out of this file."""
    sentinel_username: str | None = None
    """The user at the sentinels."""
    sentinel_password: SecretStr | None = None
    """The password at the sentinels."""
    ca: File | None = None
    """PEM file with the authorities that may have signed the servers' certificates; the system's without it."""
    prefix: str = Field(default="lychgate", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """What keys begin with. Gateways that share a prefix count together."""
    timeout: Duration = Field(default=0.05, gt=0)
    """How long one question may take. Slower than this is away: policies then do what their `on_error` says."""
    entries: int = Field(default=100_000, ge=1000)
    """With `memory:`, the most entries of each kind."""

    @field_validator("url")
    @classmethod
    def _readable(cls, value: str) -> str:
        parse_state(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        place = parse_state(self.url)
        if self.ca is not None and not place.tls:
            raise ValueError("'ca' is for rediss://, rediss+sentinel:// or rediss+cluster://")
        if place.kind is not StateKind.SENTINEL and (self.sentinel_username or self.sentinel_password):
            raise ValueError("'sentinel_username' and 'sentinel_password' are for redis+sentinel://")
        if place.password and self.password is not None:
            raise ValueError("there are two passwords, in 'url' and in 'password'")
        return self

    @cached_property
    def place(self) -> StatePlace:
        """What the URL says."""
        return parse_state(self.url)

    @property
    def is_shared(self) -> bool:
        """Whether several workers count together."""
        return self.place.kind is not StateKind.MEMORY


def _as_section(value: object) -> object:
    """A URL alone is short for ``{url: URL}``."""
    return {"url": value} if isinstance(value, str) else value


StateField = Annotated[StateOptions, BeforeValidator(_as_section)]
"""``state:`` as it stands in the file."""
