"""Opening a connection: a server with several addresses, and one whose TLS fails."""

import asyncio
import socket
import struct

from gateway.backend.opening import Endpoint, Opener, tls_context
from tests.support import backend
from tests.support.backend import short
from tests.support.fault_server import FaultServer
from tests.support.loops import on_uvloop


async def test_an_address_that_never_answers_leaves_time_for_the_next() -> None:
    """A server whose first address swallows every packet is reached by its second one."""
    async with FaultServer() as server:
        with socket.socket() as hole, socket.socket() as first, socket.socket() as second:
            hole.bind(("127.0.0.9", server.port))
            hole.listen(0)
            for filling in (first, second):  # a full queue drops further attempts without a word
                filling.setblocking(False)
                filling.connect_ex(("127.0.0.9", server.port))
            endpoint = Endpoint(name="mx.example", addresses=("127.0.0.9", "127.0.0.1"), port=server.port)
            options = backend.options(server.port, timeouts=short(connect="400ms"))
            connection = await Opener(endpoint, options, None, "gateway.example").open()
            assert connection.fault is None
            connection.abort("test")


@on_uvloop
async def test_a_server_that_resets_in_the_handshake_is_not_remembered() -> None:
    """Each opening falls back to plain text, and nothing of the connection that was lost is kept."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.example ESMTP\r\n")
        await reader.readline()
        writer.write(b"250-mx.example\r\n250 STARTTLS\r\n")
        if await reader.readline():
            writer.write(b"220 Go ahead\r\n")
            await reader.readexactly(1)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = backend.options(port, tls={"mode": "opportunistic"})
        endpoint = Endpoint(name="127.0.0.1", addresses=("127.0.0.1",), port=port)
        opener = Opener(endpoint, options, tls_context(options.tls), "gateway.example")
        kept: list[int] = []
        for _ in range(3):
            connection = await opener.open()
            kept.append(len(opener.connections))
            connection.abort("test")
            await connection.lost
    assert kept == [1, 1, 1]
