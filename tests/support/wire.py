"""An SMTP client that sends exactly the octets it is told, in the pieces it is told, and reads replies one by one.

    with Wire(gateway.port) as client:
        client.hello()
        assert client.command("MAIL FROM:<a@example.org>").code == 250

Replies are read by the final line of each, so that a reply too many is seen as the answer to the next command.
"""

import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

WITHIN: Final = 30.0
"""Seconds for any reply."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: its code, and its lines without code, separator and CRLF."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)


class ClosedError(Exception):
    """The server closed the connection where a reply was expected."""


class Wire:
    """One connection; a context manager.

    Args:
        port: On 127.0.0.1.
        source: The client's own address.
        context: TLS from the first octet (implicit TLS).
        first: Octets to send before anything else, such as a PROXY header, in these pieces.
        greeted: Whether to read the greeting.

    Attributes:
        greeting: The server's first reply, None where it was not read.
    """

    def __init__(
        self,
        port: int,
        *,
        source: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
        first: Iterable[bytes] = (),
        greeted: bool = True,
    ) -> None:
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), WITHIN, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        try:
            self.send(*first)
            if context is not None:
                self.start_tls(context)
            self.greeting = self.reply() if greeted else None
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def end(self) -> None:
        """Send nothing more, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        """Cut the connection with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._socket.close()

    @property
    def address(self) -> tuple[str, int]:
        """The client's own address and port."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def start_tls(self, context: ssl.SSLContext, name: str = "localhost") -> None:
        """Do the handshake."""
        self._socket = context.wrap_socket(self._socket, server_hostname=name)

    def peer_certificate(self) -> bytes:
        """The server's certificate, under TLS."""
        assert isinstance(self._socket, ssl.SSLSocket)
        return self._socket.getpeercert(binary_form=True) or b""

    def send(self, *pieces: bytes) -> None:
        """Send octets, each piece in a packet of its own."""
        for piece in pieces:
            self._socket.sendall(piece)

    def reply(self) -> Answer:
        """The next reply.

        Raises:
            ClosedError: The server closed the connection.
        """
        lines: list[str] = []
        while True:
            line = self._line()
            lines.append(line[4:])
            if line[3:4] != "-":
                return Answer(int(line[:3]), tuple(lines))

    def replies(self, count: int) -> list[Answer]:
        """The next replies."""
        return [self.reply() for _ in range(count)]

    def rest(self) -> list[Answer]:
        """The replies that come until the server closes the connection."""
        answers: list[Answer] = []
        try:
            while True:
                answers.append(self.reply())
        except ClosedError:
            return answers

    def command(self, line: str | bytes) -> Answer:
        """Send a command and read its reply."""
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def hello(self) -> Answer:
        """EHLO, which must be accepted."""
        answer = self.command("EHLO client.example")
        assert answer.code == 250, answer
        return answer

    def transaction(
        self, sender: str = "sender@example.org", *recipients: str, text: bytes = b"Subject: x\r\n\r\nx\r\n"
    ) -> Answer:
        """A message with DATA to recipients that are all accepted; returns the reply to the end of data."""
        lines = [
            f"MAIL FROM:<{sender}>",
            *(f"RCPT TO:<{each}>" for each in recipients or ["alice@example.com"]),
            "DATA",
        ]
        self.send("".join(line + "\r\n" for line in lines).encode())
        answers = self.replies(len(lines))
        assert [answer.code for answer in answers] == [250] * (len(lines) - 1) + [354], answers
        self.send(text + b".\r\n")
        return self.reply()

    def is_closed(self) -> bool:
        """Whether the server has closed, or closes, the connection without another octet."""
        try:
            return self._buffer == b"" and self._socket.recv(1) == b""
        except (ConnectionResetError, ssl.SSLEOFError):
            return True

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            try:
                octets = self._socket.recv(65536)
            except (ConnectionResetError, ssl.SSLEOFError) as error:
                raise ClosedError from error
            if not octets:
                raise ClosedError(self._buffer)
            self._buffer += octets
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode("utf-8", "replace")
