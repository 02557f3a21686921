"""The lifeline: what the supervisor and one of its workers say to each other, by a pair of sockets of their own.

Each thing said is one datagram that is kept in order (SOCK_SEQPACKET). When one of the two has ended the other reads an
end: a worker drains then. Neither ever waits for the other.

The supervisor says ``RETIRE`` or ``STOP``; a worker says ``READY`` when it serves connections, ``CLOSED`` when it
accepts no more, and while it retires how many transactions are left (``LEFT`` and the number).
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

RETIRE: Final = b"retire"
STOP: Final = b"stop"
READY: Final = b"ready"
CLOSED: Final = b"closed"
LEFT: Final = b"left "

_LONGEST: Final = 64  # octets of anything that is said


class Lifeline:
    """One end.

    Args:
        end: A connected, non-blocking socket.

    Attributes:
        is_open: Whether the other has not ended.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.is_open = True
        self._end = end

    @classmethod
    def pair(cls) -> tuple["Lifeline", "Lifeline"]:
        """Both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """What to select on."""
        return self._end.fileno()

    def say(self, what: bytes) -> bool:
        """Say something; returns whether it has gone out: not to one that has ended, or has read nothing for long."""
        try:
            self._end.send(what)
        except OSError:
            return False
        return True

    def heard(self) -> Iterator[bytes]:
        """What was said since; it ends where there is nothing more, or where the other has ended."""
        while self.is_open:
            try:
                said = self._end.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if said:
                yield said
            else:
                self.is_open = False

    def obey(self, loop: asyncio.AbstractEventLoop, *, retire: Callable[[], None], stop: Callable[[], None]) -> None:
        """In a worker: call what the supervisor says; its end is ``stop``."""
        orders = {RETIRE: retire, STOP: stop}

        def hear() -> None:
            for said in self.heard():
                orders[said]()
            if not self.is_open:
                loop.remove_reader(self._end)
                stop()

        loop.add_reader(self._end, hear)

    def close(self) -> None:
        """Let go of it."""
        self.is_open = False
        with suppress(OSError):
            self._end.close()
