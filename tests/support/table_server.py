"""Servers of Postfix's socketmap_table(5) and tcp_table(5), written from the manual pages apart from the client.

    async with TableServer({"alice@example.com": "box"}, socketmap="virtual") as server:
        ... 127.0.0.1:server.port ...

Without ``socketmap`` it speaks tcp_table. ``replies`` has replies for keys that are sent as they are.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote_from_bytes, unquote_to_bytes


class TableServer:
    """One server; an asynchronous context manager.

    Args:
        table: Keys and what is found.
        socketmap: The name of the map, None for tcp_table.
        replies: Octets to send for a key, in place of the right ones; empty to close the connection.
        path: A UNIX socket to listen on, besides the port.

    Attributes:
        port: Its port.
        asked: The keys it was asked for.
        connections: How many there were.
    """

    def __init__(
        self,
        table: Mapping[str, str],
        *,
        socketmap: str | None = None,
        replies: Mapping[str, bytes] | None = None,
        path: Path | None = None,
    ) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.connections = 0
        self._table = table
        self._map = socketmap
        self._replies = replies or {}
        self._path = path
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.listen(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def listen(self, port: int) -> None:
        """Listen on a port of 127.0.0.1; 0 for any."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]
        if self._path is not None:
            self._servers.append(await asyncio.start_unix_server(self._serve, self._path))

    async def stop(self) -> None:
        """Listen no more, and cut the connections."""
        for server in self._servers:
            server.close()
        self.cut()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        if self._handlers:
            await asyncio.wait(self._handlers)

    def cut(self) -> None:
        """Cut the connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                key = await (self._line(reader) if self._map is None else self._netstring(reader))
                self.asked.append(key)
                reply = self._replies.get(key)
                if reply == b"":
                    break
                writer.write(self._answer(key) if reply is None else reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _line(self, reader: asyncio.StreamReader) -> str:
        line = await reader.readuntil(b"\n")
        assert line.startswith(b"get "), line
        return unquote_to_bytes(line[4:-1]).decode()

    async def _netstring(self, reader: asyncio.StreamReader) -> str:
        length = int((await reader.readuntil(b":"))[:-1])
        text = await reader.readexactly(length + 1)
        assert text.endswith(b","), text
        name, _, key = text[:-1].decode().partition(" ")
        assert name == self._map
        return key

    def _answer(self, key: str) -> bytes:
        found = self._table.get(key)
        if self._map is None:
            text = "not found" if found is None else found
            return (b"500 " if found is None else b"200 ") + quote_from_bytes(text.encode(), "").encode() + b"\n"
        reply = b"NOTFOUND " if found is None else b"OK " + found.encode()
        return b"%d:%b," % (len(reply), reply)
