"""The control sockets: by them commands ask the processes of the service, and tell them what to do.

Each worker has a UNIX socket of its own, ``worker-PID.sock`` in the folder that ``runtime_folder`` names, for what it
holds in memory; the supervisor has ``supervisor.sock`` (``doors.supervisor``). Only the service's own user and root can
use them: the folder, if it is made here, and the sockets are theirs alone. A connection carries one request and its
reply, each a line of JSON: ``{"command": NAME, ...}``, and ``{"reply": ...}`` or ``{"error": TEXT}``. That a socket
can't be opened is said in the log, and mail goes on without it.

Whatever is sent, the reply is an error and nothing more; requests, their time and those who ask at a time are bounded.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

log = structlog.get_logger("lychgate.control")

MAX_REQUEST: Final = 65_536
"""Octets of a request: a command and an address."""

REQUEST_WITHIN: Final = 10.0
"""Seconds that a client has for its request, and for taking the reply."""

CLIENTS: Final = 32
"""Clients of one socket at a time."""

SUPERVISOR: Final = "supervisor.sock"
"""The name of the supervisor's socket."""


@dataclass(frozen=True, slots=True)
class Command:
    """What can be asked for.

    Attributes:
        request: The type of its request; fields that it does not have are passed over.
        run: Carries it out: takes the request, returns what JSON can hold. Raises ``ValueError`` for a wrong request.
    """

    request: type[msgspec.Struct]
    run: Callable[..., Any]


class Nothing(msgspec.Struct):
    """The request of a command that asks for nothing more."""


class _Named(msgspec.Struct):
    command: str


def parsed(commands: Mapping[str, Command], line: bytes) -> tuple[Command, msgspec.Struct]:
    """What a line asks for.

    Raises:
        ValueError: It is no request for one of these commands.
    """
    try:
        asked = json.loads(line)  # and not msgspec's own reader: a path can have octets that are no UTF-8 (PEP 383)
        name = msgspec.convert(asked, _Named).command
        command = commands.get(name)
        if command is not None:
            return command, msgspec.convert(asked, command.request)
    except msgspec.ValidationError as error:
        raise ValueError(f"a wrong request: {error}") from None
    except Exception:  # noqa: BLE001 - any octets may come: no JSON, JSON without an end, nested too deeply
        raise ValueError("no request") from None
    raise ValueError(f"no command {name[:100]!r}")


def answer(commands: Mapping[str, Command], line: bytes) -> bytes:
    """The line that answers a line, whatever it is."""
    try:
        command, request = parsed(commands, line)
    except ValueError as error:
        return refused(str(error))
    return answered(command.run, request)


def answered(run: Callable[..., Any], *arguments: Any) -> bytes:
    """The line that answers a request: what carries it out returns, or why it does not."""
    try:
        return json.dumps({"reply": run(*arguments)}).encode() + b"\n"
    except ValueError as error:
        return refused(str(error))
    except Exception as error:
        log.exception("control command failed")
        return refused(f"{type(error).__name__}: {error}")


def refused(reason: str) -> bytes:
    """The line that says why not."""
    return json.dumps({"error": reason}).encode() + b"\n"


class ControlDoor:
    """The control socket of a worker.

    Args:
        folder: Where it is.
        commands: The commands by name.
    """

    def __init__(self, folder: Path, commands: Mapping[str, Command]) -> None:
        self.path = folder / f"worker-{os.getpid()}.sock"
        self._folder = folder
        self._commands = commands
        self._clients: dict[asyncio.StreamWriter, None] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        try:
            for path in self._folder.glob("worker-*.sock"):
                sweep(path)
            listening = _listening(self.path)
            try:
                self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=MAX_REQUEST)
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            log.warning("no control socket", path=str(self.path), reason=error.strerror or str(error))

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS:
            next(iter(self._clients)).transport.abort()  # it has said nothing for longest
        self._clients[writer] = None
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                writer.write(answer(self._commands, await _line(reader)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, RuntimeError):  # RuntimeError: uvloop's, of a connection that is closed
            writer.transport.abort()
        finally:
            self._clients.pop(writer, None)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """A request; nothing where it is too long."""
    try:
        return await reader.readline()
    except ValueError:
        return b""


def bound(path: Path) -> socket.socket:
    """A socket that does not listen yet.

    Raises:
        OSError: It can't be made.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(0o600)  # before it listens, so that nobody else can ever connect
    except BaseException:
        bound.close()
        raise
    return bound


def _listening(path: Path) -> socket.socket:
    """A socket that listens as soon as it has its name: one that does not ``sweep`` takes for one left behind.

    Raises:
        OSError: It can't be made.
    """
    unnamed = path.with_name(f".{path.name}")
    unnamed.unlink(missing_ok=True)
    listening = bound(unnamed)
    try:
        listening.listen()
        unnamed.rename(path)
    except BaseException:
        listening.close()
        raise
    return listening


def sweep(path: Path) -> None:
    """Remove a socket that was left behind by a process that was killed."""
    with socket.socket(socket.AF_UNIX) as tried, suppress(OSError):
        tried.setblocking(False)  # one that listens and accepts nobody is there all the same
        try:
            tried.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
