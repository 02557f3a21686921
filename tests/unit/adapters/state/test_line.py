"""A line to Redis: replies in any pieces, and whatever a server or its absence can do to an exchange."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, RedisError

from gateway.adapters.state.line import Line, Result, packed
from tests.support.loops import on_uvloop

PING = ("PING",)
REPLIES = b"+PONG\r\n*2\r\n:1\r\n$5\r\nhello\r\n-NOSCRIPT No matching script\r\n$-1\r\n"
SOON = 0.05
LONG = 10.0


class Peer:
    """The other end of a line: it says what the test wants, and never answers by itself."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The line is there."""
        self._reader, self._writer = reader, writer

    async def hear(self) -> None:
        """Wait for a command."""
        self.heard += await self._reader.read(4096)

    def say(self, octets: bytes) -> None:
        """Send octets."""
        self._writer.write(octets)

    def hang_up(self) -> None:
        """Close."""
        self._writer.close()

    async def see_the_end(self) -> None:
        """Wait until the line is closed."""
        with suppress(ConnectionResetError):
            await self._reader.read()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Line, Peer]]:
    """A line and its other end."""
    peer = Peer()
    begun = asyncio.Event()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.begin(reader, writer)
        begun.set()

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await begun.wait()
    line = Line(writer)
    try:
        yield line, peer
    finally:
        line.close()
        peer.hang_up()
        server.close()


async def results_of(line: Line, commands: Sequence[tuple[object, ...]], within: float) -> list[Result]:
    """What an exchange comes to, faults among the results."""
    bell, found = asyncio.get_running_loop().create_future(), list[Result]()

    def arrived(results: list[Result]) -> None:
        found.extend(results)
        bell.set_result(None)

    line.exchange(packed(commands), len(commands), within, arrived)
    await bell
    return found


@pytest.mark.parametrize("size", [1, 2, 7, len(REPLIES)])
async def test_replies_come_in_any_pieces(size: int) -> None:
    """Errors are results, and so is nothing."""
    async with connected() as (line, peer):
        asked = asyncio.create_task(line.ask([PING] * 4, LONG))
        await peer.hear()
        assert peer.heard == b"*1\r\n$4\r\nPING\r\n" * 4
        for start in range(0, len(REPLIES), size):
            peer.say(REPLIES[start : start + size])
            await asyncio.sleep(0)
        pong, answer, refusal, nothing = await asked
        assert (pong, answer, nothing) == (b"PONG", [1, b"hello"], None)
        assert isinstance(refusal, NoScriptError)
        assert line.fault is None


async def test_exchanges_follow_one_another() -> None:
    """One line serves many."""
    async with connected() as (line, peer):
        for number in range(3):
            asked = asyncio.create_task(line.ask([PING], LONG))
            await peer.hear()
            peer.say(b":%d\r\n" % number)
            assert await asked == [number]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        pytest.param(b"hello\r\n", RedisError, id="none of Redis's words"),
        pytest.param(b"*1\r\n:x\r\n", RedisError, id="no number"),
        pytest.param(b":1\r\n:2\r\n:3\r\n", InvalidResponse, id="more than was asked for"),
    ],
)
async def test_a_server_that_speaks_otherwise_is_left(said: bytes, fault: type[Exception]) -> None:
    """Replies and commands are out of step."""
    async with connected() as (line, peer):
        asked = asyncio.create_task(results_of(line, [PING, PING], LONG))
        await peer.hear()
        peer.say(said)
        results = await asked
        assert len(results) == 2
        assert isinstance(line.fault, fault)
        await peer.see_the_end()


async def test_what_comes_unasked_ends_the_line() -> None:
    """It would be taken for the answer to the next."""
    async with connected() as (line, peer):
        peer.say(b"+OK\r\n")
        await peer.see_the_end()
        assert isinstance(line.fault, InvalidResponse)


async def test_a_server_that_hangs_up_leaves_what_it_said() -> None:
    """What has come counts; the rest is the fault."""
    async with connected() as (line, peer):
        asked = asyncio.create_task(results_of(line, [PING, PING], LONG))
        await peer.hear()
        peer.say(b":1\r\n:")
        peer.hang_up()
        first, second = await asked
        assert first == 1
        assert isinstance(second, RedisConnectionError)
        assert line.fault is second


async def test_a_late_answer_is_nobodys() -> None:
    """The line is closed: an answer that comes later must not be taken for another's."""
    async with connected() as (line, peer):
        (result,) = await results_of(line, [PING], SOON)
        assert isinstance(result, TimeoutError)
        assert line.fault is result
        await peer.see_the_end()


async def test_time_outs_are_each_exchanges_own() -> None:
    """The timer of one that is over does not end the next."""
    async with connected() as (line, peer):
        asked = asyncio.create_task(line.ask([PING], SOON))
        await peer.hear()
        peer.say(b":1\r\n")
        assert await asked == [1]
        asked = asyncio.create_task(line.ask([PING], LONG))
        await peer.hear()
        await asyncio.wait([asked], timeout=3 * SOON)  # the first one's timer goes off meanwhile
        assert not asked.done()
        peer.say(b":2\r\n")
        assert await asked == [2]


@on_uvloop
async def test_an_answer_in_the_last_half_of_a_millisecond_leaves_the_timer_to_the_next() -> None:
    """What is due so soon uvloop calls at once, and such a timer can't say when it is due."""
    async with connected() as (line, _):
        found: list[list[Result]] = []
        for within in (0.0004, LONG, 0.0004):
            line.exchange(packed([PING]), 1, within, found.append)
            line.data_received(b":1\r\n")
        assert found == [[1]] * 3
        assert line.is_open


async def test_a_busy_event_loop_is_not_taken_for_a_slow_server() -> None:
    """What has come while the loop was busy is read before anybody is late."""
    async with connected() as (line, peer):
        asked = asyncio.create_task(results_of(line, [PING], SOON))
        await peer.hear()
        peer.say(b":1\r\n")
        time.sleep(2 * SOON)  # noqa: ASYNC251 - it is what the test is about
        assert await asked == [1]


async def test_who_gives_up_closes_the_line() -> None:
    """The answer may still come."""
    async with connected() as (line, peer):
        asked = asyncio.create_task(line.ask([PING], LONG))
        await peer.hear()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert isinstance(line.fault, RedisConnectionError)
        await peer.see_the_end()


async def test_a_connection_that_is_lost_already_is_known_to_be() -> None:
    """It was lost between redis-py and here."""
    async with connected() as (first, _):
        writer = first._writer
        writer.transport.abort()
        assert isinstance(Line(writer).fault, RedisConnectionError)


async def test_a_connection_whose_end_is_known_takes_no_more() -> None:
    """The protocol is told one turn of the event loop later; what is sent until then would be lost."""
    async with connected() as (line, _):
        assert line.is_open
        line._transport.close()
        assert line.fault is None
        assert not line.is_open
