"""Connections to Redis: one server, the master that sentinels name, or a cluster.

A ``Link`` carries calls of scripts there and their answers back; those given to it together travel together, in one
round trip to each server. redis-py connects, authenticates, asks the sentinels and knows the cluster's slots. Its
retries are switched off: they take seconds, and a message waits for none of that (``redis_state`` has a breaker).

Scripts are loaded when a connection is made and called by their digests; one that Redis does not have after all
(``NOSCRIPT``: somebody flushed them, or a slot has moved) is sent whole.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.config.state import StateKind, StateOptions

CONNECT: Final = 2.0
"""Seconds in which a connection must stand that is made while no message waits for it."""

LAG: Final = 0.005
"""Seconds that a time-out waits once it is due: what came while the event loop was busy is read first."""

IDLE: Final = 1.0
"""Seconds after which a connection is looked at before it is used: the server may have closed it."""

Result: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> "Script":
        """A script of its text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[object]

    def command(self, *, whole: bool = False) -> tuple[Any, ...]:
        """The command, with the digest or with the whole script."""
        how = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.digest)
        return (*how, len(self.keys), *self.keys, *self.arguments)


class Link(Protocol):
    """A way to Redis. What fails is a result, too: an exception in the place of the answer.

    Attributes:
        spread: Whether keys are on several servers, so that only those of one slot can be used together.
    """

    spread: bool

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """Carry calls out."""
        ...

    def home(self, key: str) -> str:
        """The name of the server that has a key: what fails and recovers as one."""
        ...

    async def renew(self) -> None:
        """Disconnect, and connect anew, or raise: what is connected may be with the wrong server by now."""
        ...

    def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """All keys of a pattern; raises when one is ``CONNECT`` late."""
        ...

    async def command(self, *command: object) -> Result:
        """Carry out one command that names a key within ``CONNECT``, or raise."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """A time-out that does not take the event loop's own delay for the server's."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timer:
        due = loop.call_later(seconds, lambda: timer.reschedule(loop.time() + LAG))
        try:
            yield
        finally:
            due.cancel()


async def _in_time(found: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What comes, as long as each comes in time."""
    while True:
        async with within(CONNECT):
            try:
                one = await anext(found)
            except StopAsyncIteration:
                return
        yield one


def _settings(options: StateOptions) -> dict[str, Any]:
    """What every client of redis-py is given."""
    place = options.place
    password = options.password.get_secret_value() if options.password is not None else place.password
    settings: dict[str, Any] = {
        "username": options.username or place.username or None,
        "password": password or None,
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "lychgate",
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if place.tls:
        settings |= {"ssl": True, "ssl_ca_certs": None if options.ca is None else str(options.ca)}
    return settings


def make_link(options: StateOptions, scripts: Sequence[Script]) -> Link:
    """The way to what the options name, for these scripts; nothing is connected yet."""
    place = options.place
    settings = _settings(options)
    if place.kind is StateKind.CLUSTER:
        return ClusterLink(options, settings, scripts)
    if place.kind is StateKind.SENTINEL:
        secret = options.sentinel_password
        manager = Sentinel(  # type: ignore[no-untyped-call]  # its annotations are missing
            list(place.servers),
            sentinel_kwargs={
                "username": options.sentinel_username,
                "password": None if secret is None else secret.get_secret_value(),
                **{name: value for name, value in settings.items() if name not in {"username", "password"}},
                "socket_timeout": CONNECT,
            },
        )
        client = manager.master_for(place.master, db=place.database, **settings)
        return ServerLink(client, scripts, manager.sentinels)
    if place.socket is not None:
        return ServerLink(Redis(unix_socket_path=place.socket, db=place.database, **settings), scripts)
    host, port = place.servers[0]
    return ServerLink(Redis(host=host, port=port, db=place.database, **settings), scripts)


class ServerLink:
    """One server, or the one that is master now.

    Args:
        client: Makes the connections.
        scripts: What is going to be called.
        sentinels: Whom redis-py asks for the master.
    """

    spread = False

    def __init__(self, client: Redis, scripts: Sequence[Script], sentinels: Sequence[Redis] = ()) -> None:
        self._client: Any = client
        self._sentinels = sentinels
        self._scripts = scripts
        self._pool: Any = client.connection_pool
        self._idle: list[tuple[Any, float]] = []

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """All on one connection, one after the other without waiting between them."""
        try:
            async with within(timeout):
                connection = await self._connection()
                try:
                    results = await _exchange(connection, [call.command() for call in calls])
                    again = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
                    if again:
                        repeated = await _exchange(connection, [calls[index].command(whole=True) for index in again])
                        for index, result in zip(again, repeated, strict=True):
                            results[index] = result
                except BaseException:  # cancelled too: an answer that comes later must not be taken for another's
                    await connection.disconnect(nowait=True)
                    raise
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(calls)
        if connection.is_connected:
            self._idle.append((connection, asyncio.get_running_loop().time()))
        return results

    async def _connection(self) -> Any:
        while self._idle:
            connection, since = self._idle.pop()
            if asyncio.get_running_loop().time() - since < IDLE or not await _is_stale(connection):
                return connection
            await connection.disconnect(nowait=True)
        connection = self._pool.make_connection()
        try:
            await connection.connect()
            await _exchange(connection, [("SCRIPT", "LOAD", script.text) for script in self._scripts])
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def home(self, key: str) -> str:  # noqa: ARG002 - there is but one
        """There is but one."""
        return ""

    async def renew(self) -> None:
        """Have one new connection ready."""
        await self._drop()
        async with within(CONNECT):
            self._idle.append((await self._connection(), asyncio.get_running_loop().time()))

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """By SCAN."""
        async for key in _in_time(self._client.scan_iter(match=pattern, count=1000)):
            yield key

    async def command(self, *command: object) -> Result:
        """By the pool of redis-py."""
        async with within(CONNECT):
            return await self._client.execute_command(*command)

    async def close(self) -> None:
        """Disconnect."""
        await self._drop()
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def _drop(self) -> None:
        while self._idle:
            await self._idle.pop()[0].disconnect()


async def _exchange(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Result]:
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    results: list[Result] = []
    for _ in commands:
        try:
            results.append(await connection.read_response())
        except ResponseError as error:
            results.append(error)
    return results


async def _is_stale(connection: Any) -> bool:
    """Whether something came unasked: the connection's end."""
    try:
        return bool(await connection.can_read())
    except (RedisError, OSError):
        return True


class ClusterLink:
    """A Redis Cluster. Calls that travel together are for keys of one ``home``.

    Args:
        options: Where it is.
        settings: For redis-py.
        scripts: What is going to be called.
    """

    spread = True

    def __init__(self, options: StateOptions, settings: dict[str, Any], scripts: Sequence[Script]) -> None:
        nodes = [ClusterNode(host, port) for host, port in options.place.servers]
        self._scripts = scripts
        self._client: Any = RedisCluster(startup_nodes=nodes, **settings)

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """In one pipeline; redis-py follows a slot that has moved."""
        try:
            async with within(timeout):
                results = await self._together([call.command() for call in calls])
                again = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
                if again:
                    repeated = await self._together([calls[index].command(whole=True) for index in again])
                    for index, result in zip(again, repeated, strict=True):
                        results[index] = result
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(calls)
        return results

    async def _together(self, commands: Sequence[tuple[Any, ...]]) -> list[Result]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    def home(self, key: str) -> str:
        """The node that is master of the key's slot, as far as is known."""
        client = self._client
        try:
            node = client.nodes_manager.get_node_from_slot(client.keyslot(key))
        except (RedisError, LookupError):
            return ""
        return str(node.name)

    async def renew(self) -> None:
        """Learn the slots anew."""
        async with within(CONNECT):
            await self._client.aclose()
            await self._client.initialize()
            for script in self._scripts:
                await self._client.script_load(script.text)

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """By SCAN on every master."""
        async for key in _in_time(self._client.scan_iter(match=pattern, count=1000)):
            yield key

    async def command(self, *command: object) -> Result:
        """By redis-py."""
        async with within(CONNECT):
            return await self._client.execute_command(*command)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()
