"""An SMTP or LMTP server that fails on purpose, at any step and in any way; it counts what it accepted.

    async with FaultServer({"rcpt": kill()}) as server:
        ... 127.0.0.1:server.port ...
    assert server.messages == []

A script says what happens at a step: ``greeting``, ``ehlo`` (also HELO, LHLO), ``starttls``, ``auth``, ``xclient``,
``xforward``, ``mail``, ``rcpt``, ``data``, ``content`` (the first octets of a message have come), ``end`` (the whole
message has come), ``rset``, ``noop``, ``quit``. Steps without an entry go well. An action may be limited to its first
``times`` times. A message counts as accepted (``messages``) when its end went well, or the action says so.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Self


class Then(StrEnum):
    """What follows what was said."""

    CONTINUE = "continue"
    CLOSE = "close"
    KILL = "kill"
    STALL = "stall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What happens at a step.

    Attributes:
        say: Octets to send, None for what a good server says.
        then: Go on with the next command, close, kill (with a TCP reset), or never read or say anything again.
        times: How often; later the step goes well. None: always.
        accept: At ``end``: whether the message counts as accepted.
    """

    say: bytes | None = b""
    then: Then = Then.CONTINUE
    times: int | None = None
    accept: bool = False


def kill(times: int | None = None, *, accept: bool = False) -> Act:
    """Cut the connection without a word."""
    return Act(then=Then.KILL, times=times, accept=accept)


def stall(times: int | None = None, *, accept: bool = False) -> Act:
    """Say nothing more, ever."""
    return Act(then=Then.STALL, times=times, accept=accept)


def say(text: str | bytes, times: int | None = None, *, then: Then = Then.CONTINUE, accept: bool = False) -> Act:
    """Say this in place of the right reply; a text gets its CRLF, octets are sent as they are."""
    octets = text.encode() + b"\r\n" if isinstance(text, str) else text
    return Act(say=octets, then=then, times=times, accept=accept)


def say_and_close(text: str, times: int | None = None) -> Act:
    """Say this and close the connection, as with a 421."""
    return say(text, times, then=Then.CLOSE)


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was accepted.

    Attributes:
        mail: The MAIL command.
        recipients: The RCPT commands that were accepted.
        data: The octets, dot-stuffing removed.
    """

    mail: str
    recipients: tuple[str, ...]
    data: bytes


@dataclass(slots=True)
class _Transaction:
    mail: str = ""
    recipients: list[str] = field(default_factory=list)
    chunks: bytes = b""


class _EndedError(Exception):
    """The connection is over."""


class _StalledError(Exception):
    """Nothing is said any more."""


EXTENSIONS: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 50000000", "DSN", "ENHANCEDSTATUSCODES")


class FaultServer:
    """The server; an asynchronous context manager.

    Args:
        script: Step to action; can be changed while it runs.
        extensions: What EHLO offers.
        lmtp: Whether each recipient gets a reply to the end of data.
        context: TLS settings for STARTTLS.
        path: A UNIX socket to listen on in place of a port.

    Attributes:
        port: Where it listens on 127.0.0.1.
        messages: What was accepted.
        commands: The commands that came, in order, of all connections.
        connections: How many connections came.
        open: How many are open.
    """

    def __init__(
        self,
        script: Mapping[str, Act] | None = None,
        *,
        extensions: Sequence[str] = EXTENSIONS,
        lmtp: bool = False,
        context: ssl.SSLContext | None = None,
        path: str | None = None,
        port: int = 0,
    ) -> None:
        self.script = dict(script or {})
        self.extensions = extensions
        self.port = port
        self.messages: list[Received] = []
        self.commands: list[str] = []
        self.connections = 0
        self.open = 0
        self._lmtp = lmtp
        self._context = context
        self._path = path
        self._counts: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a ``stop`` again on the same port."""
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._accept, self._path)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def shout(self, text: str) -> None:
        """Say something unasked on every connection."""
        for writer in self._writers:
            writer.write(text.encode() + b"\r\n")

    async def until(self, command: str, count: int = 1) -> None:
        """Wait until a command that begins so has come so many times."""
        await self._until(lambda: sum(each.upper().startswith(command) for each in self.commands) >= count)

    async def until_step(self, step: str, count: int = 1) -> None:
        """Wait until a step was reached so many times."""
        await self._until(lambda: self._counts.get(step, 0) >= count)

    async def until_open(self, count: int) -> None:
        """Wait until so many connections are open."""
        await self._until(lambda: self.open == count)

    async def _until(self, condition: Callable[[], bool]) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((condition, future))
        self._notify()
        async with asyncio.timeout(30):
            await future

    def _notify(self) -> None:
        for condition, future in self._waiters:
            if not future.done() and condition():
                future.set_result(None)
        self._waiters = [each for each in self._waiters if not each[1].done()]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self._opened(1)
        self.connections += 1
        try:
            try:
                await self._serve(reader, writer)
            except _StalledError:
                while await reader.read(65536):
                    pass
        except (_EndedError, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            self._writers.discard(writer)
            self._opened(-1)

    def _opened(self, change: int) -> None:
        self.open += change
        self._notify()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transaction = _Transaction()
        await self._step("greeting", "220 fault.example ESMTP", writer)
        while line := await reader.readline():
            command = line.decode("utf-8", "replace").rstrip("\r\n")
            self.commands.append(command)
            self._notify()
            match command.upper().split(" ")[0]:
                case "EHLO" | "HELO" | "LHLO":
                    await self._step("ehlo", self._hello(writer), writer)
                case "STARTTLS":
                    if await self._step("starttls", "220 2.0.0 Go ahead", writer):
                        assert self._context is not None
                        await writer.start_tls(self._context)
                case "AUTH":
                    await self._auth(command, reader, writer)
                case "XCLIENT":
                    await self._step("xclient", "220 fault.example ESMTP", writer)
                case "XFORWARD":
                    await self._step("xforward", "250 2.0.0 Ok", writer)
                case "MAIL":
                    transaction = _Transaction(mail=command)
                    await self._step("mail", "250 2.1.0 Sender ok", writer)
                case "RCPT":
                    if await self._step("rcpt", "250 2.1.5 Recipient ok", writer):
                        transaction.recipients.append(command)
                case "DATA":
                    if await self._step("data", "354 Go on", writer):
                        await self._content(transaction, reader, writer)
                        transaction = _Transaction()
                case "BDAT":
                    await self._bdat(command, transaction, reader, writer)
                case "RSET":
                    transaction = _Transaction()
                    await self._step("rset", "250 2.0.0 Ok", writer)
                case "QUIT":
                    await self._step("quit", "221 2.0.0 Bye", writer)
                    return
                case _:
                    await self._step("noop", "250 2.0.0 Ok", writer)

    def _hello(self, writer: asyncio.StreamWriter) -> str:
        offers = list(self.extensions)
        if self._context is not None and writer.get_extra_info("ssl_object") is None:
            offers.append("STARTTLS")
        lines = ["fault.example", *offers]
        return "\r\n".join([f"250-{each}" for each in lines[:-1]] + [f"250 {lines[-1]}"])

    async def _auth(self, command: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(command.split()) < 3:
            await self._step("auth", "334 ", writer)
            response = await reader.readline()
            self.commands.append(response.decode("latin-1").rstrip("\r\n"))
        await self._step("auth", "235 2.7.0 Welcome", writer)

    async def _content(
        self, transaction: _Transaction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        data = b"\r\n"
        refused = False
        while not data.endswith(b"\r\n.\r\n"):
            chunk = await reader.read(65536)
            if not chunk:
                raise _EndedError
            if data == b"\r\n":
                try:
                    refused = not await self._step("content", None, writer)
                except _StalledError:
                    await asyncio.Event().wait()  # until the server is stopped: what is not read makes the sender wait
            data += chunk
        if refused:
            return
        message = data[2:-3].replace(b"\r\n..", b"\r\n.")
        await self._end(transaction, message[1:] if message.startswith(b"..") else message, writer)

    async def _bdat(
        self, command: str, transaction: _Transaction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        _, size, *last = command.split()
        transaction.chunks += await reader.readexactly(int(size))
        if last:
            await self._end(transaction, transaction.chunks, writer)
        else:
            await self._step("noop", "250 2.0.0 Chunk ok", writer)

    async def _end(self, transaction: _Transaction, data: bytes, writer: asyncio.StreamWriter) -> None:
        received = Received(transaction.mail, tuple(transaction.recipients), data)
        act = self._act("end")
        if act is not None:
            if act.accept:
                self.messages.append(received)
            await self._do(act, "250 2.0.0 Ok", writer)
            return
        self.messages.append(received)
        for _ in transaction.recipients if self._lmtp else [""]:
            writer.write(b"250 2.0.0 Ok: queued as Q%d\r\n" % len(self.messages))
        await writer.drain()

    def _act(self, step: str) -> Act | None:
        act = self.script.get(step)
        count = self._counts[step] = self._counts.get(step, 0) + 1
        self._notify()
        return None if act is None or (act.times is not None and count > act.times) else act

    async def _step(self, step: str, good: str | None, writer: asyncio.StreamWriter) -> bool:
        """Do what the script says; returns whether the step went well."""
        act = self._act(step)
        if act is not None:
            await self._do(act, good, writer)
            return False
        if good is not None:
            writer.write(good.encode() + b"\r\n")
            await writer.drain()
        return True

    async def _do(self, act: Act, good: str | None, writer: asyncio.StreamWriter) -> None:
        octets = (good or "").encode() + b"\r\n" if act.say is None else act.say
        if octets:
            writer.write(octets)
            await writer.drain()
        match act.then:
            case Then.CLOSE:
                writer.close()
                raise _EndedError
            case Then.KILL:
                writer.transport.abort()
                raise _EndedError
            case Then.STALL:
                raise _StalledError
            case Then.CONTINUE:
                pass
