"""A name server, the ports from which it is asked, and whether it answers.

Every question has an id from the system's random numbers and leaves from one of a few ports of its server, chosen at
random, each of which the system chose at random and which is given up after some questions or seconds (RFC 5452 9.2,
10). Sockets are connected, so that what others send does not arrive. A server is down when it refuses the connection,
or when it did not answer and sent nothing else either; whatever comes from it says that it is back.

Owned state: the sockets, and the questions that wait for an answer on each.
"""

import asyncio
import random
import socket
from contextlib import suppress
from typing import Final, Protocol

PORTS: Final = 8
"""Ports of a server that are in use at a time."""
PORT_QUESTIONS: Final = 50
"""Questions that leave from one port, before another takes its place."""
PORT_LIFETIME: Final = 10.0
"""Seconds for which questions leave from one port."""
PROBING: Final = 10.0
"""Seconds between two looks whether a server that is down is back."""

_LARGEST: Final = 4096  # octets of a UDP answer; 1232 are asked for
_AT_ONCE: Final = 100  # datagrams read before others have their turn
_random: Final = random.SystemRandom()


def random_id() -> int:
    """An id for a query that nobody can foresee."""
    return _random.getrandbits(16)


class Asker(Protocol):
    """A question that is asked from a port."""

    def query(self, number: int) -> bytes:
        """The message that asks it."""
        ...

    def received(self, server: "NameServer", number: int, message: bytes) -> None:
        """Take what came under one of the question's ids."""
        ...

    def failed(self, server: "NameServer", problem: str) -> None:
        """Take it that there is no way to the server."""
        ...


class NameServer:
    """A recursive name server, and what is known of it.

    Attributes:
        address: Its address and port, as ``socket.connect`` takes them.
        down: Whether it does not answer.
        heard: When it sent something last.
        probe_at: When to look whether it is back.
    """

    __slots__ = ("_family", "_ports", "address", "down", "heard", "probe_at")

    def __init__(self, address: str, port: int) -> None:
        self.address = (address, port)
        self.down = False
        self.heard = float("-inf")
        self.probe_at = 0.0
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._ports: list[Port] = []

    def __str__(self) -> str:
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def port(self, loop: asyncio.AbstractEventLoop, now: float) -> "Port":
        """A port from which the next question leaves.

        Raises:
            OSError: There is no way to the server.
        """
        ports = self._ports
        if len(ports) < PORTS:
            port = Port(self, self._family, loop, now)
            ports.append(port)
            return port
        index = int(_random.random() * PORTS)
        port = ports[index]
        if port.left <= 0 or now >= port.until:
            new = Port(self, self._family, loop, now)
            port.retire()
            port = ports[index] = new
        return port

    def lost(self, now: float) -> None:
        """It does not answer."""
        if not self.down:
            self.down = True
            self.probe_at = now + PROBING

    def forget(self, port: "Port") -> None:
        """Use a port no more."""
        with suppress(ValueError):
            self._ports.remove(port)

    def close(self) -> None:
        """Close all ports."""
        for port in self._ports:
            port.close()
        self._ports.clear()


class Port:
    """A UDP socket, connected to one server.

    Attributes:
        waiting: The questions that wait for an answer on it, by id.
        left: How many more questions may leave from it.
        until: Until when they may.
    """

    __slots__ = ("_loop", "_retired", "_server", "_socket", "left", "until", "waiting")

    def __init__(
        self, server: NameServer, family: socket.AddressFamily, loop: asyncio.AbstractEventLoop, now: float
    ) -> None:
        self.waiting: dict[int, Asker] = {}
        self.left = PORT_QUESTIONS
        self.until = now + PORT_LIFETIME
        self._server = server
        self._loop = loop
        self._retired = False
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(server.address)  # here the system chooses a port at random
            loop.add_reader(self._socket, self._readable)
        except BaseException:  # whatever it is, the socket is not left open
            self._socket.close()
            raise

    def send(self, question: "Asker") -> int:
        """Send a question; its id."""
        waiting = self.waiting
        number = random_id()
        while number in waiting:
            number = random_id()
        self.left -= 1
        with suppress(BlockingIOError):  # as good as lost on the way
            self._socket.send(question.query(number))
        waiting[number] = question
        return number

    def release(self, number: int) -> None:
        """Wait for this answer no more."""
        self.waiting.pop(number, None)
        if self._retired and not self.waiting:
            self.close()

    def retire(self) -> None:
        """No further question leaves from here; close when the last one is answered or given up."""
        self._retired = True
        if not self.waiting:
            self.close()

    def close(self) -> None:
        """Close it."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def fail(self, problem: str) -> None:
        """The system says that there is no way to the server."""
        self._server.forget(self)
        self.close()
        self._server.lost(self._loop.time())
        for question in set(self.waiting.values()):
            question.failed(self._server, problem)

    def _readable(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                message = self._socket.recv(_LARGEST)
                self._server.heard = self._loop.time()
                self._server.down = False
                number = int.from_bytes(message[:2])
                question = self.waiting.get(number)
                if question is not None:
                    question.received(self._server, number, message)
                if not self.waiting:
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            self.fail(error.strerror or str(error))
