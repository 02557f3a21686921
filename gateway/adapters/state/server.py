"""Connections to one Redis server, and the way there if it is the only one, or the one that is master now.

redis-py connects, authenticates and asks the sentinels; what then travels goes over a ``line``. Retries of redis-py are
switched off: they take seconds, and a message waits for none of that (``lane`` has a breaker).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from gateway.adapters.state.line import LAG, Line, Result, packed
from gateway.adapters.state.link import CONNECT, Call, Script


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
        octets = packed([call.command() for call in calls])  # raises what can't be, before a connection is taken
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
