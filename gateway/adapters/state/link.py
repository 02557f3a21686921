"""Connections to Redis: one server, the master that sentinels name, or a cluster.

A ``Link`` carries calls of scripts there and their answers back; those given to it together travel together, in one
round trip to each server. redis-py connects, authenticates and asks the sentinels; what then travels goes over a
``line``. Retries of redis-py are switched off: they take seconds, and a message waits for none of that (``lane`` has a
breaker).

Scripts are loaded when a connection is made and called by their digests; one that Redis does not have after all
(``NOSCRIPT``: somebody flushed them, or a slot has moved) is sent whole.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.adapters.state.line import LAG, Line, Result, packed
from gateway.config.state import StateKind, StateOptions

CONNECT: Final = 2.0
"""Seconds in which a connection must stand that is made while no message waits for it."""

SENTINEL: Final = 0.4
"""Seconds that one sentinel has to name the master: several may have to be asked within ``CONNECT``."""

REDIRECTS: Final = 5
"""Servers of a cluster to which one call is sent on: one that has moved on, and some that have not heard of it yet."""


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


class ElsewhereError(Exception):
    """A call was not carried out because its key is moving, or because of another server than the one it was for."""


class Link(Protocol):
    """A way to Redis. What fails is a result, too: an exception in the place of the answer.

    Attributes:
        spread: Whether keys are on several servers, so that only those of one slot can be used together.
    """

    spread: bool

    def depart(self, calls: Sequence[Call], timeout: float, arrived: Callable[[list[Result]], None]) -> bool:
        """Send calls at once, where a connection is at hand.

        What the server did not carry out because the script or the key is not there is for ``execute``: ``is_astray``.

        Args:
            calls: Calls whose first keys have the same home.
            timeout: The seconds that they may take.
            arrived: Gets the results in a callback of the event loop.

        Returns:
            Whether they were sent.
        """
        ...

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """Carry calls out, whatever that takes: a new connection, the whole script, another server."""
        ...

    def home(self, key: str) -> str:
        """The name of the server that has a key: what fails and recovers as one."""
        ...

    async def renew(self, key: str) -> None:
        """Disconnect from the server that has a key, and connect anew, or raise: it may be another one by now."""
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


def is_astray(result: Result) -> bool:
    """Whether the server did not carry a call out because the script or the key is not there."""
    return isinstance(result, NoScriptError | AskError | TryAgainError)  # MovedError is an AskError


class within:  # noqa: N801 - reads like asyncio's
    """A time-out that does not take the event loop's own delay for the server's."""

    __slots__ = ("_due", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        self._timer = asyncio.timeout(None)
        await self._timer.__aenter__()
        self._due = asyncio.get_running_loop().call_later(self._seconds, self._lag)

    def _lag(self) -> None:
        self._timer.reschedule(asyncio.get_running_loop().time() + LAG)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._due.cancel()
        await self._timer.__aexit__(kind, error, trace)


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
        "protocol": 2,  # in which nothing comes that was not asked for
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
        return ClusterLink(place.servers, lambda host, port: Server(Redis(host=host, port=port, **settings), scripts))
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
        client = manager.master_for(place.master, db=place.database, **settings)
        return ServerLink(Server(client, scripts), manager.sentinels)
    if place.socket is not None:
        return ServerLink(Server(Redis(unix_socket_path=place.socket, db=place.database, **settings), scripts))
    host, port = place.servers[0]
    return ServerLink(Server(Redis(host=host, port=port, db=place.database, **settings), scripts))


class Server:
    """Connections to one server, each used by one caller at a time.

    Args:
        client: Makes the connections.
        scripts: What is going to be called.
    """

    def __init__(self, client: Redis, scripts: Sequence[Script]) -> None:
        self._client: Any = client
        self._scripts = scripts
        self._idle: list[Line] = []
        self._closed = False

    @property
    def is_connected(self) -> bool:
        """Whether a connection is at hand."""
        return any(line.is_open for line in self._idle)

    def depart(self, calls: Sequence[Call], timeout: float, arrived: Callable[[list[Result]], None]) -> bool:
        """See ``Link``."""
        octets = packed([call.command() for call in calls])
        line = self._at_hand()
        if line is None:
            return False

        def landed(results: list[Result]) -> None:
            self._keep(line)
            arrived(results)

        line.exchange(octets, len(calls), timeout, landed)
        return True

    async def run(self, calls: Sequence[Call], before: Sequence[tuple[Any, ...]] = ()) -> list[Result]:
        """Carry calls out on one connection, one after the other without waiting between them.

        Args:
            calls: The calls.
            before: Commands that each call needs before it.

        Raises:
            Exception: The server can't be reached.
        """
        line = self._at_hand() or await self._connect()
        try:
            results = await _called(line, calls, before, whole=False)
            again = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
            if again:
                repeated = await _called(line, [calls[index] for index in again], before, whole=True)
                for index, result in zip(again, repeated, strict=True):
                    results[index] = result
        except BaseException:  # cancelled, too: nobody else knows of the line
            line.close()
            raise
        self._keep(line)
        return results

    async def ask(self, *command: object) -> Result:
        """Carry one command out, within ``CONNECT``, or raise."""
        async with within(CONNECT):
            line = self._at_hand() or await self._connect()
            try:
                (result,) = await line.ask([command], CONNECT)
            except BaseException:  # cancelled, too: nobody else knows of the line
                line.close()
                raise
        self._keep(line)
        if isinstance(result, Exception):
            raise result
        return result

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """All keys of a pattern."""
        cursor = b"0"
        while True:
            cursor, keys = await self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for key in keys:
                yield key
            if cursor == b"0":
                return

    async def renew(self) -> None:
        """Have one new connection ready, and none else."""
        self._drop()
        async with within(CONNECT):
            self._keep(await self._connect())

    async def close(self) -> None:
        """Disconnect; connections that are in use when that is over."""
        self._closed = True
        self._drop()
        await self._client.aclose()

    def _at_hand(self) -> Line | None:
        """A kept connection."""
        while self._idle:
            line = self._idle.pop()
            if line.is_open:
                return line
        return None

    def _keep(self, line: Line) -> None:
        if self._closed:
            line.close()
        elif line.is_open:
            self._idle.append(line)

    async def _connect(self) -> Line:
        connection = self._client.connection_pool.make_connection()
        try:
            await connection.connect()
        except BaseException:  # cancelled, too: nobody else knows of the connection
            await connection.disconnect(nowait=True)
            raise
        line = Line(connection._writer)  # noqa: SLF001 - no public way
        connection._writer = connection._reader = None  # noqa: SLF001 - it would close what is the line's now
        await line.ask([("SCRIPT", "LOAD", script.text) for script in self._scripts], CONNECT)
        return line

    def _drop(self) -> None:
        while self._idle:
            self._idle.pop().close()


async def _called(line: Line, calls: Sequence[Call], before: Sequence[tuple[Any, ...]], *, whole: bool) -> list[Result]:
    commands = [command for call in calls for command in (*before, call.command(whole=whole))]
    results = await line.ask(commands, CONNECT)
    return results[len(before) :: len(before) + 1]


class ServerLink:
    """One server, or the one that is master now.

    Args:
        server: The server.
        sentinels: Whom redis-py asks for the master.
    """

    spread = False

    def __init__(self, server: Server, sentinels: Sequence[Redis] = ()) -> None:
        self._server = server
        self._sentinels = sentinels

    def depart(self, calls: Sequence[Call], timeout: float, arrived: Callable[[list[Result]], None]) -> bool:
        """See ``Link``."""
        return self._server.depart(calls, timeout, arrived)

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """See ``Link``."""
        try:
            async with within(timeout):
                return await self._server.run(calls)
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(calls)

    def home(self, key: str) -> str:  # noqa: ARG002 - there is but one
        """There is but one."""
        return ""

    async def renew(self, key: str) -> None:  # noqa: ARG002 - there is but one
        """See ``Link``."""
        await self._server.renew()

    def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """By SCAN."""
        return self._server.scan(pattern)

    async def delete(self, key: str) -> bool:
        """See ``Link``."""
        return bool(await self._server.ask("DEL", key))

    async def close(self) -> None:
        """Disconnect."""
        await self._server.close()
        for sentinel in self._sentinels:
            await sentinel.aclose()


class ClusterLink:
    """A Redis Cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).

    Which server has which slot is asked of whichever server answers, at the beginning and whenever one was away;
    what ``MOVED`` says in between is kept. Servers fail one by one: what is away of one keeps nobody from the others.

    Args:
        servers: Some of its servers.
        make: Makes a server of its host and port.
    """

    spread = True

    def __init__(self, servers: Sequence[tuple[str, int]], make: Callable[[str, int], Server]) -> None:
        self._first = [f"{host}:{port}" for host, port in servers]
        self._make = make
        self._servers: dict[str, Server] = {}
        self._homes = [""] * REDIS_CLUSTER_HASH_SLOTS

    def depart(self, calls: Sequence[Call], timeout: float, arrived: Callable[[list[Result]], None]) -> bool:
        """See ``Link``."""
        server = self._servers.get(self.home(calls[0].keys[0]))
        return server is not None and server.depart(calls, timeout, arrived)

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """All on the server that has the first key; what it does not have (any more) where it says."""
        try:
            async with within(timeout):
                home = await self._home(calls[0].keys[0])
                results = await self._server(home).run(calls)
                for _ in range(REDIRECTS):
                    if not await self._follow(calls, results, home):
                        break
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(calls)
        return [
            ElsewhereError(str(result)) if isinstance(result, AskError | TryAgainError) else result
            for result in results
        ]

    async def _follow(self, calls: Sequence[Call], results: list[Result], home: str) -> bool:
        """Send what is with other servers there, and put in what comes of it; says whether there was any."""
        groups: dict[tuple[str, bool], list[int]] = {}
        for index, result in enumerate(results):
            if isinstance(result, AskError):
                name = f"{result.host or home.rpartition(':')[0]}:{result.port}"
                has_moved = isinstance(result, MovedError)
                if has_moved:
                    self._homes[result.slot_id] = name
                groups.setdefault((name, has_moved), []).append(index)
        for (name, has_moved), indexes in groups.items():
            some = [calls[index] for index in indexes]
            try:
                found = await self._server(name).run(some, () if has_moved else [("ASKING",)])
            except (RedisError, OSError) as error:
                found = [ElsewhereError(f"{name}: {error}")] * len(some)
            for index, result in zip(indexes, found, strict=True):
                results[index] = result
        return bool(groups)

    def home(self, key: str) -> str:
        """The server that has the key's slot, as far as is known."""
        return self._homes[key_slot(key.encode())]

    async def _home(self, key: str) -> str:
        if not self.home(key):
            await self._learn()
        if not self.home(key):
            raise RedisConnectionError("no server of the cluster has the slot")
        return self.home(key)

    def _server(self, name: str) -> Server:
        server = self._servers.get(name)
        if server is None:
            host, _, port = name.rpartition(":")
            server = self._servers[name] = self._make(host, int(port))
        return server

    async def _learn(self) -> None:
        """Ask who has which slot, those first that were there just now."""
        names = dict.fromkeys([*self._servers, *self._first])
        problem: Exception | None = None
        for name in sorted(names, key=lambda name: not self._server(name).is_connected):
            try:
                found = await self._server(name).ask("CLUSTER", "SLOTS")
            except (RedisError, OSError, TimeoutError) as error:
                problem = problem or error
            else:
                await self._know(found, name.rpartition(":")[0])
                return
        raise problem or RedisConnectionError("the cluster has no servers")

    async def _know(self, slots: Sequence[Any], host: str) -> None:
        """Keep what CLUSTER SLOTS said: ranges, each with its servers, the master first."""
        homes = [""] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, master, *_ in slots:
            name = f"{(master[0] or b'').decode() or host}:{master[1]}"
            homes[first : last + 1] = [name] * (last + 1 - first)
        self._homes = homes
        for name in set(self._servers) - set(homes) - set(self._first):
            server = self._servers.pop(name, None)
            if server is not None:  # nobody else did meanwhile
                await server.close()

    async def renew(self, key: str) -> None:
        """Learn the slots anew, and connect to the server that has the key's."""
        await self._learn()
        await self._server(await self._home(key)).renew()

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """By SCAN on every server that has slots."""
        await self._learn()
        for name in sorted(set(self._homes) - {""}):
            async for key in self._server(name).scan(pattern):
                yield key

    async def delete(self, key: str) -> bool:
        """See ``Link``."""
        await self._learn()
        return bool(await self._server(await self._home(key)).ask("DEL", key))

    async def close(self) -> None:
        """Disconnect."""
        for server in list(self._servers.values()):
            await server.close()
