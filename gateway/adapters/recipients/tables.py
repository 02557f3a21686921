"""Recipients in a table that a server looks up: Postfix's socketmap_table(5) and tcp_table(5).

Connections are kept, and each carries one question at a time. One that turns out to be closed when it is used again is
replaced once, unseen; anything else that goes wrong closes it.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeAlias

from gateway.config.recipients import Key, TcpOptions
from gateway.lookup.answer import Answer, UnansweredError, UnverifiableError

_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class TableProtocol(Protocol):
    """One of the protocols (``gateway.lookup``)."""

    def request(self, key: str) -> bytes:
        """The octets that ask for a key."""
        ...

    def reply(self, received: bytes) -> Answer | None:
        """What the server answered, None while that is not whole."""
        ...


class _ClosedError(Exception):
    """The server closed the connection before it said anything."""


class TableLookup:
    """Asks a server.

    Args:
        options: Where it is, and what is looked up.
        protocol: What it speaks.
    """

    folds_case = True

    def __init__(self, options: TcpOptions, protocol: TableProtocol) -> None:
        self._options = options
        self._protocol = protocol
        self._places = asyncio.Semaphore(options.connections)
        self._free: list[_Streams] = []

    async def ask(self, local_part: str, domain: str) -> Answer:
        """See ``Lookup``."""
        match self._options.key:
            case Key.ADDRESS:
                key = f"{local_part}@{domain}"
            case Key.LOCAL_PART:
                key = local_part
            case Key.DOMAIN:
                key = domain
        request = self._protocol.request(key)
        async with self._places:
            if self._free:
                try:
                    return await self._exchange(self._free.pop(), request)
                except (_ClosedError, OSError):
                    pass  # it had grown old: the server closes what is unused for a while
            try:
                return await self._exchange(await self._open(), request)
            except _ClosedError:
                raise UnansweredError("the server closed the connection without an answer") from None

    def forget(self, domain: str | None) -> None:
        """Nothing is remembered here."""

    async def close(self) -> None:
        """See ``Lookup``."""
        for _, writer in self._free:
            writer.transport.abort()
        self._free.clear()

    def _open(self) -> Awaitable[_Streams]:
        server = self._options.server
        if server.startswith("unix:"):
            return asyncio.open_unix_connection(server.removeprefix("unix:"))
        host, _, port = server.rpartition(":")
        return asyncio.open_connection(host.strip("[]"), int(port))

    async def _exchange(self, streams: _Streams, request: bytes) -> Answer:
        """One question; the connection is kept where it is still good."""
        reader, writer = streams
        keep = False
        try:
            writer.write(request)
            received = b""
            while True:
                data = await reader.read(65_536)
                if not data:
                    if received:
                        raise UnansweredError("the server closed the connection within its answer")
                    raise _ClosedError
                received += data
                try:
                    answer = self._protocol.reply(received)
                except UnverifiableError:
                    keep = True
                    raise
                if answer is not None:
                    keep = True
                    return answer
        finally:
            if keep:
                self._free.append(streams)
            else:
                writer.transport.abort()
