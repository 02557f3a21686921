"""One Redis server, or the one that is master now, by redis-py: its pool, its pipelines, its sentinels.

Scripts are called by their digests; one that the server does not have (somebody flushed them) is sent whole, and the
server has it from then on. redis-py retries nothing here (``topology``): a call that was
repeated after its connection was lost would count twice.

A call whose answer does not come in time is cancelled. redis-py closes the connection then, so that an answer that
comes later is taken for no other's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from gateway.adapters.state.call import CONNECT, Call, Result

LAG: Final = 0.005
"""Seconds that a time-out waits once it is due: what came while the event loop was busy is read first."""

_Answer = TypeVar("_Answer")


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
    """See the module; a ``Topology`` by itself.

    Args:
        client: redis-py's client of the server.
        sentinels: They are asked which server is the master; closed with it.

    Attributes:
        is_there: Whether it answered the last time.
    """

    spread = False

    def __init__(self, client: Redis, sentinels: Sequence[Redis] = ()) -> None:
        self.is_there = False
        self._client = client
        self._sentinels = sentinels
        self._closed = False

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """See ``Topology``."""
        try:
            async with within(timeout):
                return await self.run(calls)
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(calls)

    async def run(self, calls: Sequence[Call], before: Sequence[str] = ()) -> list[Result]:
        """Carry calls out in one round trip, and in another one those whose scripts are not there.

        Args:
            calls: The calls.
            before: A command that each call needs before it, if any.

        Raises:
            RedisError: The server can't be reached.
            OSError: The same.
        """
        results = await self._exchange((call.command() for call in calls), before)
        again = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if again:
            repeated = await self._exchange((calls[index].command(whole=True) for index in again), before)
            for index, result in zip(again, repeated, strict=True):
                results[index] = result
        return results

    async def _exchange(self, commands: Iterable[tuple[Any, ...]], before: Sequence[str]) -> list[Result]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            if before:
                pipeline.execute_command(*before)
            pipeline.execute_command(*command)
        results = await self._answer(pipeline.execute(raise_on_error=False))
        return results[1::2] if before else results

    async def _answer(self, answer: Awaitable[_Answer]) -> _Answer:
        self.is_there = False
        try:
            found = await answer
        finally:
            if self._closed:  # meanwhile
                await self._client.connection_pool.disconnect(inuse_connections=False)
        self.is_there = True
        return found

    async def slots(self) -> list[Any]:
        """CLUSTER SLOTS within ``CONNECT``, or raise: ranges, each with its servers, the master first."""
        async with within(CONNECT):
            found: list[Any] = await self._answer(self._client.cluster("SLOTS"))
            return found

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """See ``Topology``; by SCAN."""
        cursor = 0
        while True:
            async with within(CONNECT):
                found: tuple[int, list[Any]] = await self._answer(self._client.scan(cursor, match=pattern, count=1000))
            cursor, keys = found
            for key in keys:
                yield key
            if not cursor:
                return

    async def delete(self, key: str) -> bool:
        """See ``Topology``."""
        async with within(CONNECT):
            return bool(await self._answer(self._client.delete(key)))

    def home(self, key: str) -> str:  # noqa: ARG002 - there is but one
        """There is but one."""
        return ""

    async def renew(self, key: str = "") -> None:  # noqa: ARG002 - there is but one
        """See ``Topology``."""
        async with within(CONNECT):
            await self._client.connection_pool.disconnect(inuse_connections=False)
            await self._answer(self._client.ping())

    async def close(self) -> None:
        """Disconnect; connections that are in use when that is over."""
        self._closed = True
        await self._client.connection_pool.disconnect(inuse_connections=False)
        for sentinel in self._sentinels:
            await sentinel.aclose()
