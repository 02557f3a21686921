"""The control sockets: by them commands ask the processes of the service, and tell them what to do.

Each worker has a UNIX socket of its own, ``worker-PID.sock`` in the folder that ``runtime_folder`` names, for what it
holds in memory; the supervisor has ``supervisor.sock``. Only the service's own user and root can use them: the folder,
if it is made here, and the sockets are theirs alone. A connection carries one request and its reply, each a line of
JSON: ``{"command": NAME, ...}``, and ``{"reply": ...}`` or ``{"error": TEXT}``. That a socket can't be opened is told
in the log, and mail goes on without it.
"""

import asyncio
import fcntl
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

log = structlog.get_logger("lychgate.control")

MAX_REQUEST: Final = 65_536
"""Octets of a request: a command and an address."""

REQUEST_WITHIN: Final = 10.0
"""Seconds that a client has for its request, and for taking the reply."""

SUPERVISOR: Final = "supervisor.sock"
"""The name of the supervisor's socket."""

SAID_AT_ONCE: Final = 1.0
"""Seconds that a client of the supervisor has, which does nothing else meanwhile."""

Handler: TypeAlias = Callable[[Mapping[str, Any]], Any]
"""Carries a command out: takes the request, returns what JSON can hold. Raises ``ValueError`` for a wrong request."""


class ControlDoor:
    """The control socket of a worker.

    Args:
        folder: Where it is.
        handlers: The commands by name.
    """

    def __init__(self, folder: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = folder / f"worker-{os.getpid()}.sock"
        self._folder = folder
        self._handlers = handlers
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        try:
            for path in self._folder.glob("worker-*.sock"):
                _sweep(path)
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
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                answer = _answer(self._handlers, await reader.readline())
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, ValueError):  # ValueError: a line that is too long
            writer.transport.abort()


class SupervisorDoor:
    """The control socket of the supervisor, which waits for signals alone: the kernel sends it SIGIO for a connection.

    Args:
        folder: Where it is.
        handlers: The commands by name.
    """

    def __init__(self, folder: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = folder / SUPERVISOR
        self._handlers = handlers
        self._listening: socket.socket | None = None
        self._asking: socket.socket | None = None

    def open(self) -> None:
        """Listen."""
        try:
            _sweep(self.path)
            listening = _bound(self.path)
        except OSError as error:
            log.warning("no control socket", path=str(self.path), reason=error.strerror or str(error))
            return
        fcntl.fcntl(listening, fcntl.F_SETOWN, os.getpid())  # whom to send SIGIO: fcntl(2)
        fcntl.fcntl(listening, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        listening.listen()
        self._listening = listening

    def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            with suppress(OSError):
                self.path.unlink()
            self._listening.close()
            self._listening = None

    def leave_to_supervisor(self) -> None:
        """In a worker: keep nothing open, so that who asks sees the supervisor's end."""
        for connection in (self._listening, self._asking):
            if connection is not None:
                connection.close()

    def answer(self) -> None:
        """Answer everyone who has asked."""
        while self._listening is not None:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # BlockingIOError: that was everyone
                return
            with connection, suppress(OSError):
                self._asking = connection
                connection.settimeout(SAID_AT_ONCE)
                reply = _answer(self._handlers, connection.recv(MAX_REQUEST))
                connection.sendall(json.dumps(reply).encode() + b"\n")
            self._asking = None


def _bound(path: Path) -> socket.socket:
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
    """A socket that listens as soon as it has its name: one that does not ``_sweep`` takes for one left behind.

    Raises:
        OSError: It can't be made.
    """
    unnamed = path.with_name(f".{path.name}")
    unnamed.unlink(missing_ok=True)
    listening = _bound(unnamed)
    try:
        listening.listen()
        unnamed.rename(path)
    except BaseException:
        listening.close()
        raise
    return listening


def _sweep(path: Path) -> None:
    """Remove a socket that was left behind by a process that was killed."""
    with socket.socket(socket.AF_UNIX) as tried, suppress(OSError):
        try:
            tried.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def _answer(handlers: Mapping[str, Handler], line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        handler = handlers.get(request["command"])
    except (ValueError, KeyError, TypeError):
        return {"error": "no request"}
    if handler is None:
        return {"error": f"no command {request['command']!r}"}
    try:
        return {"reply": handler(request)}
    except ValueError as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("control command failed", command=request["command"])
        return {"error": f"{type(error).__name__}: {error}"}
