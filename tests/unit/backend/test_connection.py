"""A connection to a server: what wakes whoever waits for it, and what does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.backend.connection import Connection
from gateway.smtp.client import Command

SHORT = 0.05
LONG = 10.0
LARGE = "NOOP " + "x" * 8_000_000
"""More than the kernel takes of what nobody reads."""


class Server:
    """The other end; it says what the test wants."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, Server]]:
    """A connection that was greeted, and its other end."""
    server, there = Server(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.reader, server.writer = reader, writer
        writer.write(b"220 mx.example ESMTP\r\n")
        there.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(loop), *listener.sockets[0].getsockname())
        await there.wait()
        await connection.replies(1, LONG)
        try:
            yield connection, server
        finally:
            connection.abort("the test is over")
            server.writer.close()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


async def test_room_to_write_wakes_nobody_who_waits_for_a_reply() -> None:
    """A server that takes a long command late has not answered it by that."""
    async with connected() as (connection, server):
        asked = asyncio.create_task(connection.command(Command.NOOP, LARGE, LONG))
        await _until(lambda: connection.is_paused)
        await server.reader.readexactly(len(LARGE) + 2)
        await _until(lambda: not connection.is_paused)
        assert not asked.done()
        server.writer.write(b"250 2.0.0 Ok\r\n")
        assert (await asked).code == 250


async def test_a_time_out_that_nobody_waits_for_ends_nothing() -> None:
    """The timer of an answer that came goes off over a connection that is idle."""
    async with connected() as (connection, server):
        asked = asyncio.create_task(connection.command(Command.NOOP, "NOOP", SHORT))
        await server.reader.readline()
        server.writer.write(b"250 2.0.0 Ok\r\n")
        assert (await asked).code == 250
        await asyncio.wait([connection.lost], timeout=3 * SHORT)
        assert connection.fault is None


async def test_who_gives_up_leaves_the_wait_to_the_next() -> None:
    """A task that is cancelled in the moment in which the connection is lost, and what is asked then."""
    async with connected() as (connection, _):
        asked = asyncio.create_task(connection.command(Command.NOOP, "NOOP", LONG))
        await asyncio.sleep(0)
        asked.cancel()
        connection.abort("lost")
        with pytest.raises(asyncio.CancelledError):
            await asked
        await connection.lost
