"""The control socket of the supervisor, which has no event loop of asyncio: it selects, and never waits for a client.

A request is read as it comes, and carried out when its line is whole; the answer may come much later. Those who ask at
a time are bounded (``CLIENTS``): one more takes the place of the one that has said nothing for longest. Each has a time
for its request, and again for taking the answer (``REQUEST_WITHIN``).
"""

import selectors
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.doors.control import (
    CLIENTS,
    MAX_REQUEST,
    REQUEST_WITHIN,
    SUPERVISOR,
    Command,
    answered,
    bound,
    parsed,
    refused,
    sweep,
)

log = structlog.get_logger("lychgate.control")

_NEVER: Final = float("inf")

REST: Final = 1.0
"""Seconds without accepting after it could not be done: out of descriptors."""


class Asker:
    """One client.

    Args:
        door: Its door.
        connection: To the client.

    Attributes:
        deadline: The time (``time.monotonic``) until which it must go on.
    """

    def __init__(self, door: "SupervisorDoor", connection: socket.socket) -> None:
        self.deadline = time.monotonic() + REQUEST_WITHIN
        self.connection = connection
        self._door = door
        self._came = bytearray()
        self._left = b""

    def hear(self) -> None:
        """Read what came; carry out the request when it is there."""
        try:
            octets = self.connection.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            self._door.drop(self)
            return
        self._came += octets
        if b"\n" in self._came or len(self._came) > MAX_REQUEST or not octets:
            self.deadline = _NEVER  # it waits for the service, and not the service for it
            self._door.watch(self, 0)
            self._door.carry_out(self, bytes(self._came[:MAX_REQUEST]).partition(b"\n")[0])

    def reply(self, value: Any) -> None:
        """Answer. One that has left hears nothing."""
        self._send(answered(lambda: value))

    def refuse(self, reason: str) -> None:
        """Say why not."""
        self._send(refused(reason))

    def go_on(self) -> None:
        """Send what is left."""
        try:
            self._left = self._left[self.connection.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError:
            self._left = b""
        if not self._left:
            self._door.drop(self)
            return
        self._door.watch(self, selectors.EVENT_WRITE)

    def _send(self, line: bytes) -> None:
        self._left = line
        self.deadline = time.monotonic() + REQUEST_WITHIN
        self.go_on()


class SupervisorDoor:
    """The control socket of the supervisor.

    Args:
        selector: What the supervisor selects by; each key's data is called when it is ready.
        commands: The commands by name; each gets its request and the ``Asker``, and answers that.
    """

    def __init__(self, selector: selectors.BaseSelector, commands: Mapping[str, Command]) -> None:
        self._selector = selector
        self._commands = commands
        self._path: Path | None = None
        self._listening: socket.socket | None = None
        self._askers: list[Asker] = []
        self._rests_until = _NEVER

    def open(self, folder: Path) -> None:
        """Listen in a folder."""
        path = folder / SUPERVISOR
        try:
            sweep(path)
            listening = bound(path)
        except OSError as error:
            log.warning("no control socket", path=str(path), reason=error.strerror or str(error))
            return
        listening.setblocking(False)
        listening.listen()
        self._path, self._listening = path, listening
        self._selector.register(listening, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Stop listening; those who have asked are still answered."""
        if self._listening is not None and self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            with suppress(KeyError):  # it rests
                self._selector.unregister(self._listening)
            self._listening.close()
            self._listening = None

    def leave_to_supervisor(self) -> None:
        """In a worker: keep nothing open, so that who asks sees the supervisor's end."""
        if self._listening is not None:
            self._listening.close()
        for asker in self._askers:
            asker.connection.close()

    @property
    def due(self) -> float:
        """When ``expire`` is to be called next (``time.monotonic``)."""
        return min((self._rests_until, *(asker.deadline for asker in self._askers)))

    def expire(self, now: float) -> None:
        """Drop those whose time is over, and listen again after a rest."""
        if self._rests_until <= now:
            self._rests_until = _NEVER
            if self._listening is not None:
                self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        for asker in [asker for asker in self._askers if asker.deadline <= now]:
            self.drop(asker)

    # What an asker calls.

    def watch(self, asker: Asker, events: int) -> None:
        """Call it when it can be read or written, or not at all (0)."""
        call: Callable[[], None] = asker.go_on if events & selectors.EVENT_WRITE else asker.hear
        with suppress(KeyError):
            self._selector.unregister(asker.connection)
        if events:
            self._selector.register(asker.connection, events, call)

    def carry_out(self, asker: Asker, line: bytes) -> None:
        """Do what a line asks for, or say why not."""
        try:
            command, request = parsed(self._commands, line)
            command.run(request, asker)
        except ValueError as error:
            asker.refuse(str(error))
        except Exception as error:
            log.exception("control command failed")
            asker.refuse(f"{type(error).__name__}: {error}")

    def drop(self, asker: Asker) -> None:
        """It is gone, or has been answered."""
        if asker in self._askers:
            self._askers.remove(asker)
            self.watch(asker, 0)
            asker.connection.close()

    def _accept(self) -> None:
        assert self._listening is not None  # noqa: S101 - it is what is selected
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has left
            return
        except OSError as error:  # out of descriptors: who asks would be seen again at once, and for ever
            log.warning("accept failed", listener="control", error=str(error))
            self._selector.unregister(self._listening)
            self._rests_until = time.monotonic() + REST
            return
        connection.setblocking(False)
        if len(self._askers) >= CLIENTS:
            self._make_room()
        if len(self._askers) >= CLIENTS:  # all wait for the service
            connection.close()
            return
        asker = Asker(self, connection)
        self._askers.append(asker)
        self.watch(asker, selectors.EVENT_READ)

    def _make_room(self) -> None:
        idle = [asker for asker in self._askers if asker.deadline < _NEVER]
        if idle:
            self.drop(min(idle, key=lambda asker: asker.deadline))
