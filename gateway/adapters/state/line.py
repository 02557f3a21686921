"""A line to a Redis server: one connection, over which commands go out and their replies come in, in order.

redis-py connects, authenticates and chooses the database; from then on its connection's transport is this protocol's.
redis-py's own reading and writing, by streams, took 100 µs of a message's time for a question of 20 µs: here the reply
runs whoever waits for it at once, without a task, and one timer serves all time-outs (as in ``backend.connection``).

One exchange at a time. A line that had a fault, or whose answer did not come in time, is closed and keeps the reason in
``fault``: an answer that comes later must not be taken for another's.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

from hiredis import ProtocolError, Reader, pack_command
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

LAG: Final = 0.005
"""Seconds that a time-out waits once it is due: what came while the event loop was busy is read first."""

Result: TypeAlias = Any
"""What a command came to; an exception where it failed."""

_NEVER: Final = float("inf")
_NOTHING: Final = object()


def packed(commands: Iterable[tuple[Any, ...]]) -> bytes:
    """Commands as they travel."""
    return b"".join(map(pack_command, commands))


class Line(asyncio.Protocol):
    """See the module.

    Args:
        writer: Of a connection that redis-py has made, and does not know any more.

    Attributes:
        fault: Why it is of no use any more, None as long as that is not known.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.fault: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._writer = writer  # which would close the transport if it were collected
        self._transport = cast("asyncio.Transport", writer.transport)
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOTHING
        )
        self._arrived: Callable[[list[Result]], None] | None = None
        self._wanted = 0
        self._results: list[Result] = []
        self._deadline = self._due = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER  # one of uvloop's that is due at once can't say
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.fault = RedisConnectionError("the server closed the connection")

    @property
    def is_open(self) -> bool:
        """Whether it is of use: it is not between the server's last octet and the end of the connection, either."""
        return self.fault is None and not self._transport.is_closing()

    def exchange(self, octets: bytes, count: int, within: float, arrived: Callable[[list[Result]], None]) -> None:
        """Send commands.

        Args:
            octets: The commands, ``packed``.
            count: How many they are.
            within: The seconds that all replies together may take.
            arrived: Gets the results, one for each command, as the last thing in a callback of the loop.
        """
        self._wanted = count
        self._arrived = arrived
        self._deadline = self._loop.time() + within
        if self._timer_at > self._deadline:
            self._set_timer(self._deadline)
        self._transport.write(octets)

    async def ask(self, commands: Sequence[tuple[Any, ...]], within: float) -> list[Result]:
        """Send commands and await their results.

        Raises:
            Exception: The line is of no use any more.
        """
        future: asyncio.Future[list[Result]] = self._loop.create_future()

        def arrived(results: list[Result]) -> None:
            if not future.done():
                future.set_result(results)

        self.exchange(packed(commands), len(commands), within, arrived)
        try:
            results = await future
        except BaseException:  # cancelled
            self.fail(RedisConnectionError("given up"))
            raise
        if self.fault is not None:
            raise self.fault
        return results

    def close(self) -> None:
        """Disconnect."""
        self.fail(RedisConnectionError("closed"))

    def fail(self, fault: Exception) -> None:
        """Close the connection at once, for this reason; whoever waits gets it in place of what has not come."""
        if self.fault is None:
            self.fault = fault
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        self._land()

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio.Protocol
        reader, results = self._reader, self._results
        try:
            reader.feed(data)
            while (result := reader.gets()) is not _NOTHING:
                results.append(result)
        except (InvalidResponse, ProtocolError) as error:
            self.fail(error)
            return
        if self._arrived is None or len(results) > self._wanted:
            results.clear()  # which of them answers what?
            self.fail(InvalidResponse("a reply to nothing"))
        elif len(results) == self._wanted:
            self._land()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 - asyncio.Protocol
        self.fail(
            RedisConnectionError(f"the connection was lost: {exc}" if exc else "the server closed the connection")
        )

    def _land(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            results, self._results = self._results, []
            results += [self.fault] * (self._wanted - len(results))
            arrived(results)

    # Time-outs.

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)
        self._timer_at = at

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = _NEVER
        if self._arrived is None:
            return
        now = self._loop.time()
        if now < self._deadline:  # of a later exchange; or uvloop, which rounds, is early
            self._set_timer(self._deadline)
        elif self._due != self._deadline:
            self._due = self._deadline
            self._set_timer(now + LAG)
        else:
            self.fail(TimeoutError())
