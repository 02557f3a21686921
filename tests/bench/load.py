"""The load: smtp-source for throughput, clients of our own for latency and memory.

smtp-source writes one message at a time, so that it can't have many under way: ``hold_messages`` does that, with a
thread for each. All clients speak plain SMTP on 127.0.0.1 and raise ``BenchError`` for any reply but the expected one.
"""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from tests.bench.processes import BenchError
from tests.bench.servers import RECIPIENT, SENDER

SESSIONS: Final = 20
HELO: Final = "client.example.org"
_TIMEOUT: Final = 60.0
_BLOCK: Final = 65_536


def smtp_source(port: int, *, messages: int, size: int | Path, sessions: int, kept: bool) -> float:
    """Send messages with smtp-source.

    Args:
        port: Where to.
        messages: How many.
        size: Octets of each; or a file with the message, in LF lines.
        sessions: How many at a time.
        kept: Whether the connections are kept, or each message has a new one.

    Returns:
        The seconds that it took.
    """
    command = ["smtp-source", *(["-d"] if kept else []), "-s", str(sessions), "-m", str(messages), "-M", HELO]
    command += ["-F", str(size)] if isinstance(size, Path) else ["-l", str(size)]
    command += ["-f", SENDER, "-t", RECIPIENT, f"127.0.0.1:{port}"]
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    seconds = time.perf_counter() - started
    if result.returncode or result.stderr:
        raise BenchError(f"smtp-source: {result.stderr.strip() or result.returncode}")
    return seconds


def message(size: int) -> bytes:
    """A message of about so many octets, dot-stuffed, without the end of data."""
    header = b"From: <" + SENDER.encode() + b">\r\nTo: <" + RECIPIENT.encode() + b">\r\nSubject: measured\r\n\r\n"
    line = b"x" * 76 + b"\r\n"
    return header + line * max(1, (size - len(header)) // len(line))


class Client:
    """One SMTP session, command by command; a context manager."""

    def __init__(self, port: int, helo_name: str = HELO) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect(b"220")
        self.command(f"EHLO {helo_name}", b"250")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def command(self, line: str, expected: bytes) -> None:
        """Send a command and read its reply."""
        self._socket.sendall(line.encode("ascii") + b"\r\n")
        self._expect(expected)

    def begin(self, sender: str = SENDER) -> None:
        """The commands of a transaction up to DATA."""
        self.command(f"MAIL FROM:<{sender}>", b"250")
        self.command(f"RCPT TO:<{RECIPIENT}>", b"250")
        self.command("DATA", b"354")

    def send(self, data: bytes) -> None:
        """Send octets of the message."""
        self._socket.sendall(data)

    def end(self) -> None:
        """End the message and read the reply."""
        self._socket.sendall(b".\r\n")
        self._expect(b"250")

    def transact(self, data: bytes, sender: str = SENDER) -> None:
        """One whole transaction; the message leaves in one write with its end."""
        self.begin(sender)
        self._socket.sendall(data + b".\r\n")
        self._expect(b"250")

    def _expect(self, code: bytes) -> None:
        reply = b""
        while not reply.endswith(b"\n") or reply[reply.rfind(b"\n", 0, -1) + 1 :][3:4] == b"-":
            octets = self._socket.recv(4096)
            if not octets:
                raise BenchError(f"the connection was closed; before that: {reply!r}")
            reply += octets
        if not reply.startswith(code):
            raise BenchError(f"{reply!r} instead of {code.decode()}")


def alternate(ports: Sequence[int], *, messages: int, size: int) -> list[list[float]]:
    """Send message after message, one to each port in turn, on kept connections.

    Returns:
        For each port the seconds of every transaction, from MAIL to the reply at its end.
    """
    data = message(size)
    clients = [Client(port) for port in ports]
    times: list[list[float]] = [[] for _ in ports]
    try:
        for _ in range(messages):
            for client, taken in zip(clients, times, strict=True):
                started = time.perf_counter()
                client.transact(data)
                taken.append(time.perf_counter() - started)
    finally:
        for client in clients:
            client.__exit__()
    return times


@contextmanager
def idle_connections(port: int, count: int, *, after_message: bool) -> Iterator[None]:
    """Hold open connections that have said EHLO, and on demand have sent a small message."""
    data = message(1000)
    clients: list[Client] = []
    try:
        for _ in range(count):
            client = Client(port)
            clients.append(client)
            if after_message:
                client.transact(data)
        yield
    finally:
        for client in clients:
            client.__exit__()


def hold_messages(port: int, *, count: int, size: int) -> float:
    """Send messages all at the same time: each is complete but for its end before the first one ends.

    Args:
        port: Where to.
        count: How many.
        size: Octets of each.

    Returns:
        The seconds from the first octet to the last reply.
    """
    data = message(size)
    barrier = threading.Barrier(count)

    def send() -> None:
        try:
            with Client(port) as client:
                client.begin()
                for start in range(0, len(data), _BLOCK):
                    client.send(data[start : start + _BLOCK])
                barrier.wait(_TIMEOUT)
                client.end()
        except BaseException:
            barrier.abort()
            raise

    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        for sent in [pool.submit(send) for _ in range(count)]:
            sent.result()
    return time.perf_counter() - started
