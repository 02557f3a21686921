"""The client's side of SMTP and LMTP, without I/O: commands out, replies in.

``ClientConnection`` knows which commands wait for a reply, in order (RFC 2920 pipelining), takes replies apart at any
framing, and reads the EHLO reply into ``Capabilities`` (RFC 5321 4.1.1.1). What comes out of ``receive_data`` are pairs
of a command and its reply. A server that breaks the protocol raises ``ReplyError``; the connection is of no use then.

Replies end at LF, with or without CR: that is no danger in this direction. Limits: a reply line may have 8 KiB and a
reply 200 lines (RFC 5321 4.5.3.1.5 allows 512 octets, which real servers exceed; what is passed on is cut to that).
"""

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, Self

from gateway.smtp.reply import Reply

MAX_LINE: Final = 8192
MAX_LINES: Final = 200

SERVICE_CLOSING: Final = 421
"""The reply code after which a server closes the connection, whatever was asked (RFC 5321 3.8)."""

# Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF   (RFC 5321 4.2)
_REPLY_LINE: Final = re.compile(rb"([2-5][0-5][0-9])(?:([ -])([^\n]*))?\r?\n")


class ReplyError(Exception):
    """The server sent what is no reply, or a reply to nothing."""


class Command(StrEnum):
    """What a reply answers."""

    GREETING = "greeting"
    HELLO = "hello"
    STARTTLS = "starttls"
    AUTH = "auth"
    XCLIENT = "xclient"
    XFORWARD = "xforward"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    RESET = "reset"
    NOOP = "noop"
    QUIT = "quit"


# What a server may say besides 4yz and 5yz (RFC 5321 4.3.2, RFC 3207, RFC 4954, Postfix XCLIENT_README). Anything else
# means that replies and commands are out of step, so that no reply can be believed any more.
_POSITIVE: Final[dict[Command, frozenset[int]]] = {
    Command.GREETING: frozenset({220}),
    Command.HELLO: frozenset({250}),
    Command.STARTTLS: frozenset({220}),
    Command.AUTH: frozenset({235, 334}),
    Command.XCLIENT: frozenset({220, 250}),
    Command.XFORWARD: frozenset({250}),
    Command.MAIL: frozenset({250}),
    Command.RCPT: frozenset({250, 251}),
    Command.DATA: frozenset({354}),
    Command.CONTENT: frozenset({250}),
    Command.RESET: frozenset({250}),
    Command.NOOP: frozenset({250}),
    Command.QUIT: frozenset({221, 250}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server offers.

    Attributes:
        keywords: The EHLO keywords in upper case.
        size: The largest message it announces; 0 for no fixed limit, None when it does not offer SIZE (RFC 1870).
        auth: The mechanisms of AUTH, in its order.
        xclient: The attributes it takes by XCLIENT.
        xforward: The attributes it takes by XFORWARD.
    """

    keywords: frozenset[str] = frozenset()
    size: int | None = None
    auth: tuple[str, ...] = ()
    xclient: frozenset[str] = frozenset()
    xforward: frozenset[str] = frozenset()

    @classmethod
    @lru_cache(maxsize=64)
    def parse(cls, text: str) -> Self:
        """Read the text of an EHLO reply, whose first line is the greeting."""
        offers: dict[str, list[str]] = {}
        for line in text.split("\n")[1:]:
            keyword, *arguments = line.upper().replace("AUTH=", "AUTH ", 1).split() or [""]
            offers.setdefault(keyword, []).extend(arguments)
        offers.pop("", None)
        size = offers.get("SIZE")
        return cls(
            keywords=frozenset(offers),
            size=None if size is None else int(size[0]) if size and size[0].isascii() and size[0].isdecimal() else 0,
            auth=tuple(dict.fromkeys(offers.get("AUTH", ()))),
            xclient=frozenset(offers.get("XCLIENT", ())),
            xforward=frozenset(offers.get("XFORWARD", ())),
        )

    def common(self, other: Self) -> Self:
        """What both offer."""
        limits = [size for size in (self.size, other.size) if size]
        return type(self)(
            keywords=self.keywords & other.keywords,
            size=None if self.size is None or other.size is None else min(limits, default=0),
            auth=tuple(mechanism for mechanism in self.auth if mechanism in other.auth),
            xclient=self.xclient & other.xclient,
            xforward=self.xforward & other.xforward,
        )


@lru_cache(maxsize=512)
def _one_line(code: bytes, text: bytes) -> Reply:
    """The reply of one line; the common ones are remembered, because checking one costs as much as a command."""
    return Reply.from_backend(int(code), [text])


class ClientConnection:
    """One connection's conversation.

    Attributes:
        capabilities: What the last EHLO or LHLO reply offered; empty before it.
        pending: The commands that wait for a reply, in order.
        content_sent: Whether the end of the last message was sent: from then on the server may have accepted it.
    """

    __slots__ = ("_buffer", "_code", "_lines", "capabilities", "content_sent", "pending")

    def __init__(self) -> None:
        self.capabilities = Capabilities()
        self.pending: deque[Command] = deque((Command.GREETING,))
        self.content_sent = False
        self._buffer = b""
        self._code = b""
        self._lines: list[bytes] = []

    @property
    def has_early_bytes(self) -> bool:
        """Whether anything stands behind the last reply: before TLS an injection (RFC 3207 section 6)."""
        return bool(self._buffer or self._lines)

    def receive_data(self, data: bytes) -> list[tuple[Command, Reply]]:
        """Take octets; returns the replies that they complete.

        Raises:
            ReplyError: They are no reply, or one out of step.
        """
        if self._buffer:
            data = self._buffer + data
        answers: list[tuple[Command, Reply]] = []
        position = 0
        while match := _REPLY_LINE.match(data, position):
            position = match.end()
            code, separator, text = match.groups()
            text = b"" if text is None else text.rstrip(b"\r")
            if len(text) > MAX_LINE:
                raise ReplyError(f"a reply line of more than {MAX_LINE} octets")
            if not self._lines:
                if separator != b"-":
                    answers.append(self._answer(_one_line(code, text)))
                    continue
                self._code = code
            elif code != self._code:
                raise ReplyError(f"a reply of two codes, {self._code.decode()} and {code.decode()}")
            self._lines.append(text)
            if len(self._lines) > MAX_LINES:
                raise ReplyError(f"a reply of more than {MAX_LINES} lines")
            if separator != b"-":
                lines, self._lines = self._lines, []
                answers.append(self._answer(Reply.from_backend(int(code), lines)))
        self._buffer = data[position:]
        if self._buffer and (b"\n" in self._buffer or len(self._buffer) > MAX_LINE):
            raise ReplyError(f"{self._buffer[:60]!r} is no reply")
        return answers

    def _answer(self, reply: Reply) -> tuple[Command, Reply]:
        if not self.pending:
            raise ReplyError(f"a reply to nothing: {reply}")
        command = self.pending.popleft()
        if reply.is_positive and reply.code not in _POSITIVE[command]:
            raise ReplyError(f"{reply} is no reply to {command}")
        if command is Command.HELLO:
            self.capabilities = Capabilities.parse(reply.text) if reply.is_positive else Capabilities()
        return command, reply

    def command(self, command: Command, line: str) -> bytes:
        """The octets of a command, whose reply is then expected.

        Raises:
            ValueError: The line holds CR, LF or NUL, which would make it another command.
        """
        if "\r" in line or "\n" in line or "\0" in line:
            raise ValueError(f"a control character in the command {line!r}")
        self.pending.append(command)
        return line.encode("utf-8", "surrogateescape") + b"\r\n"

    def content(self, line: str | None, replies: int) -> bytes:
        """The message follows: behind this command (BDAT), or without one after the reply to DATA.

        Args:
            line: The command, None without one.
            replies: How many replies its end has (LMTP: one a recipient, RFC 2033 4.2).
        """
        self.content_sent = False
        self.pending.extend((Command.CONTENT,) * replies)
        return b"" if line is None else line.encode("ascii") + b"\r\n"
