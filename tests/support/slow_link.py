"""A way to a server that can be made slow.

async with Slow(server.port) as slow:
    ... 127.0.0.1:slow.port ...
    slow.delay = 0.1
"""

import asyncio
from contextlib import suppress
from typing import Self

from tests.support.ports import free_port


class Slow:
    """The way: what the server answers comes later.

    Args:
        port: The server's.

    Attributes:
        port: The way's own.
        delay: Seconds that each answer is late.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.delay = 0.0
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, to = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:  # it is away
            writer.transport.abort()
            return
        self._writers += [writer, to]
        pumps = [self._pump(reader, to, answers=False), self._pump(back, writer, answers=True)]
        self._tasks |= {asyncio.ensure_future(pump) for pump in pumps}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if answers and self.delay:
                    await asyncio.sleep(self.delay)
                sink.write(data)
        sink.close()
