"""The control socket of a worker: by it commands look at what the worker holds in memory, and change it.

Each worker has a UNIX socket of its own, ``worker-PID.sock`` in the folder that ``runtime_folder`` names. Only the
service's own user and root can use it: the folder, if it is made here, and the socket are theirs alone. A connection
carries one request and its reply, each a line of JSON: ``{"command": NAME, ...}``, and ``{"reply": ...}`` or
``{"error": TEXT}``. That the socket can't be opened is told in the log, and mail goes on without it.
"""

import asyncio
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

Handler: TypeAlias = Callable[[Mapping[str, Any]], Any]
"""Carries a command out: takes the request, returns what JSON can hold. Raises ``ValueError`` for a wrong request."""


class ControlDoor:
    """The control socket of this process.

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
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._sweep()
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listening.bind(str(self.path))
                self.path.chmod(0o600)  # before it listens, so that nobody else can ever connect
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

    def _sweep(self) -> None:
        """Remove the sockets that workers left behind which were killed."""
        for path in self._folder.glob("worker-*.sock"):
            with socket.socket(socket.AF_UNIX) as tried, suppress(OSError):
                try:
                    tried.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                answer = self._answer(await reader.readline())
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, ValueError):  # ValueError: a line that is too long
            writer.transport.abort()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers.get(request["command"])
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
