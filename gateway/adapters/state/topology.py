"""The Redis that the configuration names: a server, the master that sentinels name, or a cluster."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.adapters.state.call import CONNECT, Call, Result, Script
from gateway.adapters.state.cluster import Cluster
from gateway.adapters.state.server import Server
from gateway.config.state import StateKind, StateOptions
from gateway.tls import OFF

SENTINEL: Final = 0.4
"""Seconds that one sentinel has to name the master: several may have to be asked within ``CONNECT``."""


class Topology(Protocol):
    """The servers of a Redis, one or many.

    Attributes:
        spread: Whether keys are on several servers, so that only those of one slot can be used together.
    """

    spread: bool

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """Carry calls out together, whatever that takes: a new connection, the whole script, another server.

        What fails is a result, too: an exception in the place of the answer.

        Args:
            calls: Calls whose first keys have the same home.
            timeout: The seconds that they may take.
        """
        ...

    def home(self, key: str) -> str:
        """The name of the server that has a key: what fails and recovers as one."""
        ...

    async def renew(self, key: str) -> None:
        """Disconnect from the server that has a key, and connect again, or raise: it may be another one by now."""
        ...

    def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """All keys of a pattern; raises when an answer does not come within ``CONNECT``."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete a key within ``CONNECT``, or raise; says whether it was there."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def _loading(scripts: Sequence[Script]) -> Callable[[Connection], Awaitable[None]]:
    """What redis-py calls for a new connection: the server has the scripts before it is asked for the first."""

    async def connected(connection: Connection) -> None:
        await connection.on_connect()
        commands = [("SCRIPT", "LOAD", script.text) for script in scripts]
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        for _ in commands:
            with suppress(ResponseError):  # a user who may not load them: they are sent whole
                await connection.read_response()

    return connected


def _settings(options: StateOptions) -> dict[str, Any]:
    """What every client of redis-py is given."""
    place = options.place
    password = options.password.get_secret_value() if options.password is not None else place.password
    settings: dict[str, Any] = {
        "username": options.username or place.username or None,
        "password": password or None,
        "socket_timeout": None,  # see ``server.within``
        "socket_connect_timeout": CONNECT,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "lychgate",
        "protocol": 2,  # in which nothing comes that was not asked for
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if place.tls:
        authorities = None if options.ca is None else str(options.ca)
        settings |= {"ssl": True, "ssl_ca_certs": authorities, "ssl_exclude_verify_flags": list(OFF)}
    return settings


def make_topology(options: StateOptions, scripts: Sequence[Script]) -> Topology:
    """What the options name, for these scripts; nothing is connected yet."""
    place = options.place
    settings = _settings(options)
    server = settings | {"redis_connect_func": _loading(scripts)}
    if place.kind is StateKind.CLUSTER:
        return Cluster(place.servers, lambda host, port: Server(Redis(host=host, port=port, **server)))
    if place.kind is StateKind.SENTINEL:
        secret = options.sentinel_password
        manager = Sentinel(  # type: ignore[no-untyped-call]  # its annotations are missing
            list(place.servers),
            sentinel_kwargs={
                "username": options.sentinel_username,
                "password": None if secret is None else secret.get_secret_value(),
                **{name: value for name, value in settings.items() if name not in {"username", "password"}},
                "socket_timeout": SENTINEL,
                "socket_connect_timeout": SENTINEL,
            },
        )
        return Server(manager.master_for(place.master, db=place.database, **server), manager.sentinels)
    if place.socket is not None:
        return Server(Redis(unix_socket_path=place.socket, db=place.database, **server))
    host, port = place.servers[0]
    return Server(Redis(host=host, port=port, db=place.database, **server))
