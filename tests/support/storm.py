"""Many clients at once whose sessions are cut at a chosen step, and the mail server that counts what came of them.

``Keeper`` is an SMTP server that keeps each message under its ``X-Id`` before it says 250; ``late`` holds its answers
to the end of data back. ``Client`` is one session that walks to a ``Step`` and stops there; ``send`` makes whole
transactions and notes in ``Ledger`` which of them were acknowledged: every one of those must be with the keeper.
"""

import asyncio
import re
from collections import defaultdict
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

WITHIN: Final = 60.0
"""Seconds for any wait."""

_ID: Final = re.compile(rb"^X-Id: (\S+)\r\n", re.MULTILINE)


class Step(StrEnum):
    """How far a session has come."""

    CONNECTED = "connected"
    EHLO = "ehlo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    IN_DATA = "in data"
    AFTER_DOT = "after the final dot"


def text_of(number: str, lines: int = 40) -> bytes:
    """The message of a number: with dots at the beginnings of lines, and an end by which a half one is known."""
    body = b"".join(b".%s line %d\r\n" % (number.encode(), line) for line in range(lines))
    return b"X-Id: %s\r\nSubject: storm\r\n\r\n%send of %s\r\n" % (number.encode(), body, number.encode())


class Keeper:
    """The server; an asynchronous context manager.

    Attributes:
        port: On 127.0.0.1.
        kept: The text of each message by its ``X-Id``, as often as it came, without the Received field.
        late: While cleared, messages are kept but not answered.
        unanswered: How many messages wait for their answer.
        transactions: How many transactions are open.
    """

    def __init__(self) -> None:
        self.kept: defaultdict[str, list[bytes]] = defaultdict(list)
        self.late = asyncio.Event()
        self.late.set()
        self.unanswered = 0
        self.port = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**22)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_unanswered(self, count: int) -> None:
        """Wait until so many messages wait for their answer."""
        async with asyncio.timeout(WITHIN), self._changed:
            await self._changed.wait_for(lambda: self.unanswered >= count)

    async def until_kept(self, count: int) -> None:
        """Wait until so many different messages are kept."""
        async with asyncio.timeout(WITHIN), self._changed:
            await self._changed.wait_for(lambda: len(self.kept) >= count)

    def cut(self) -> None:
        """Cut all connections with a TCP reset, wherever they stand."""
        for writer in self._writers:
            writer.transport.abort()

    def check(self, acknowledged: set[str]) -> None:
        """What was acknowledged is here, whole; and so is everything else that is here."""
        assert acknowledged <= set(self.kept), f"lost: {acknowledged - set(self.kept)}"
        for number, texts in self.kept.items():
            assert set(texts) == {text_of(number)}

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # asyncio's streams would log a task that ends by being cancelled
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 keeper.example ESMTP\r\n")
        while True:
            verb = (await reader.readuntil(b"\r\n")).split()[0].upper()
            if verb == b"EHLO":
                writer.write(b"250-keeper.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                await self._keep((await reader.readuntil(b"\r\n.\r\n"))[:-3].replace(b"\r\n..", b"\r\n."))
                writer.write(b"250 2.0.0 kept\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 ok\r\n")

    async def _keep(self, content: bytes) -> None:
        found = _ID.search(content)
        assert found is not None
        self.kept[found[1].decode()].append(content[found.start() :])
        waits = not self.late.is_set()
        async with self._changed:
            self.unanswered += waits
            self._changed.notify_all()
        if waits:
            await self.late.wait()
            self.unanswered -= 1


class CutError(Exception):
    """The connection is gone."""


class Client:
    """One session.

    Args:
        port: The gateway's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def walk(self, number: str, step: Step) -> None:
        """Go as far as a step and stop there, the message of this number under way.

        Raises:
            CutError: The connection is gone.
        """
        try:
            async with asyncio.timeout(WITHIN):
                await self._walk(number, step)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise CutError from error

    async def _walk(self, number: str, step: Step) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        await self._reply(220)
        order = list(Step)
        commands = {
            Step.EHLO: ("EHLO client.example", 250),
            Step.MAIL: ("MAIL FROM:<sender@example.org>", 250),
            Step.RCPT: ("RCPT TO:<any@example.com>", 250),
            Step.DATA: ("DATA", 354),
        }
        for each in order[1 : order.index(step) + 1]:
            if each in commands:
                command, code = commands[each]
                self._writer.write(command.encode() + b"\r\n")
                await self._reply(code)
            elif each is Step.IN_DATA:
                self._stuffed = text_of(number).replace(b"\r\n.", b"\r\n..")
                self._writer.write(self._stuffed[:-500])
                await self._writer.drain()
            else:
                self._writer.write(self._stuffed[-500:] + b".\r\n")
                await self._writer.drain()

    async def finish(self) -> bool:
        """Read the reply to the end of data: whether the message was acknowledged.

        Raises:
            CutError: The connection is gone.
        """
        try:
            async with asyncio.timeout(WITHIN):
                return await self._reply() == 250
        except (OSError, asyncio.IncompleteReadError) as error:
            raise CutError from error

    async def resume(self, rest: bytes) -> bool:
        """Send what is left of a message under way: whether it was acknowledged."""
        assert self._writer is not None
        self._writer.write(rest)
        return await self.finish()

    async def closed(self) -> None:
        """Wait until the gateway's end of the connection is gone, and close this one."""
        with suppress(OSError):
            async with asyncio.timeout(WITHIN):
                while await self._reader.read(65536):
                    pass
        await self.vanish()

    async def vanish(self) -> None:
        """Cut the connection, without a word."""
        if self._writer is not None:
            self._writer.transport.abort()
            with suppress(OSError):
                await self._writer.wait_closed()

    async def _reply(self, code: int = 0) -> int:
        while True:
            line = await self._reader.readuntil(b"\r\n")
            if line[3:4] != b"-":
                break
        found = int(line[:3])
        if code and found != code:
            raise CutError(line)
        return found
