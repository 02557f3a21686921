"""A Redis server: replies in any pieces, and whatever it or its absence can do to a round trip."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from hiredis import Reader
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from gateway.adapters.state.call import Call, Script
from gateway.adapters.state.topology import Topology, make_topology
from gateway.config.state import StateOptions

SCRIPT: Final = Script.of("return 1")
CALL: Final = Call(SCRIPT, ["key"], ["argument"])
SHORT: Final = 0.05
LONG: Final = 10.0


class Peer:
    """The other end: it agrees to everything while a connection is made, and says then what the test wants.

    Attributes:
        heard: Commands of calls, in order, with the connection that each came by.
        connections: How many there were.
    """

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[int, list[bytes]]] = asyncio.Queue()
        self.connections = 0
        self.ended: list[asyncio.Event] = []
        self._writer: asyncio.StreamWriter

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        number, self._writer = self.connections, writer
        self.connections += 1
        self.ended.append(asyncio.Event())
        parser = Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                while command := parser.gets():
                    if command[0] in {b"EVALSHA", b"EVAL"}:
                        self.heard.put_nowait((number, command))
                    else:
                        writer.write(b"+OK\r\n")
        except ConnectionError:
            pass
        finally:
            self.ended[number].set()
            writer.close()

    async def hear(self, count: int) -> list[list[bytes]]:
        """Wait for so many calls; the connections that they came by do not matter."""
        return [(await self.heard.get())[1] for _ in range(count)]

    def say(self, octets: bytes) -> None:
        """Send octets by the newest connection."""
        self._writer.write(octets)

    def hang_up(self) -> None:
        """Close the newest connection."""
        self._writer.close()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Topology, Peer]]:
    """A server as the gateway sees it, and what it is."""
    peer = Peer()
    listener = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = make_topology(StateOptions(url=f"redis://127.0.0.1:{port}/0"), (SCRIPT,))
    await server.renew("key")
    try:
        yield server, peer
    finally:
        await server.close()
        listener.close()
        for ended in peer.ended:
            await ended.wait()


async def _answered(server: Topology, peer: Peer) -> None:
    """It serves the next call, with its own answer."""
    asked = asyncio.create_task(server.execute([CALL], LONG))
    await peer.hear(1)
    peer.say(b":42\r\n")
    assert await asked == [42]


REPLIES: Final = b"+PONG\r\n*2\r\n:1\r\n$5\r\nhello\r\n-WRONGTYPE Operation\r\n$-1\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, len(REPLIES)])
async def test_replies_come_in_any_pieces(size: int) -> None:
    """Errors are results, and so is nothing; all commands were sent together."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL] * 4, LONG))
        assert await peer.hear(4) == [[b"EVALSHA", SCRIPT.digest.encode(), b"1", b"key", b"argument"]] * 4
        for start in range(0, len(REPLIES), size):
            peer.say(REPLIES[start : start + size])
            await asyncio.sleep(0)
        pong, answer, refusal, nothing = await asked
        assert (pong, answer, nothing) == (b"PONG", [1, b"hello"], None)
        assert isinstance(refusal, ResponseError)
        await _answered(server, peer)
        assert peer.connections == 1


async def test_a_script_that_is_not_there_is_sent_whole() -> None:
    """Only that of the call which failed."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL] * 3, LONG))
        await peer.hear(3)
        peer.say(b":1\r\n-NOSCRIPT No matching script\r\n:3\r\n")
        assert await peer.hear(1) == [[b"EVAL", SCRIPT.text.encode(), b"1", b"key", b"argument"]]
        peer.say(b":2\r\n")
        assert await asked == [1, 2, 3]


@pytest.mark.parametrize("said", [b"hello\r\n", b"*1\r\n:x\r\n"], ids=["none of Redis's words", "no number"])
async def test_a_server_that_speaks_otherwise_is_left(said: bytes) -> None:
    """It is to blame, and the next call has another connection."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL, CALL], LONG))
        await peer.hear(2)
        peer.say(said)
        assert [isinstance(result, RedisError) for result in await asked] == [True, True]
        await peer.ended[0].wait()
        await _answered(server, peer)


async def test_what_comes_unasked_ends_the_connection() -> None:
    """It would be taken for the answer to the next call."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL], LONG))
        await peer.hear(1)
        peer.say(b":1\r\n:2\r\n")
        assert await asked == [1]
        await _answered(server, peer)
        assert peer.connections == 2


async def test_a_server_that_hangs_up_in_an_answer_is_to_blame() -> None:
    """For all of the round trip."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL, CALL], LONG))
        await peer.hear(2)
        peer.say(b":1\r\n:")
        peer.hang_up()
        assert [isinstance(result, RedisConnectionError) for result in await asked] == [True, True]
        await _answered(server, peer)


async def test_a_server_that_hung_up_meanwhile_costs_nothing() -> None:
    """The pool sees it, and the call is sent by another connection."""
    async with connected() as (server, peer):
        peer.hang_up()
        await peer.ended[0].wait()
        await _answered(server, peer)


async def test_a_late_answer_is_nobodys() -> None:
    """The connection is closed: an answer that comes later must not be taken for another's."""
    async with connected() as (server, peer):
        results = await server.execute([CALL, CALL], SHORT)
        assert [isinstance(result, TimeoutError) for result in results] == [True, True]
        peer.say(b":1\r\n:2\r\n")
        await peer.ended[0].wait()
        await peer.hear(2)
        await _answered(server, peer)


async def test_who_gives_up_closes_the_connection() -> None:
    """The answer may still come."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL], LONG))
        await peer.hear(1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        peer.say(b":1\r\n")
        await peer.ended[0].wait()
        await _answered(server, peer)


async def test_a_busy_event_loop_is_not_taken_for_a_slow_server() -> None:
    """What has come while the loop was busy is read before anybody is late."""
    async with connected() as (server, peer):
        asked = asyncio.create_task(server.execute([CALL], SHORT))
        await peer.hear(1)
        peer.say(b":1\r\n")
        time.sleep(2 * SHORT)  # noqa: ASYNC251 - it is what the test is about
        assert await asked == [1]
