"""The client's side of SMTP and LMTP, without I/O: commands out, replies in.

``ClientConnection`` knows which commands wait for a reply, in order (RFC 2920 pipelining), takes replies apart at any
framing, and reads the EHLO reply into ``Capabilities`` (RFC 5321 4.1.1.1). A server that breaks the protocol leaves a
``problem``; replies before it still count, the connection is of no use after it.

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


# By names of this module, because members of an enum are slow to find before Python 3.12.
_HELLO: Final = Command.HELLO
_DATA: Final = Command.DATA
_CONTENT: Final = Command.CONTENT

_PACKET: Final = 128
"""Octets of a packet that ``_replies_of`` looks at; most hold the same few replies again and again."""


@lru_cache(maxsize=256)
def _replies_of(packet: bytes) -> tuple[Reply, ...] | None:
    """The replies in a packet of nothing but whole one-line replies, None for any other.

    Remembered, because making and checking a reply costs more than all the rest of a command.
    """
    found: list[Reply] = []
    position = 0
    while match := _REPLY_LINE.match(packet, position):
        code, separator, text = match.groups()
        if separator == b"-":
            return None
        found.append(Reply.from_backend(int(code), [b"" if text is None else text.rstrip(b"\r")]))
        position = match.end()
    return tuple(found) if position == len(packet) else None


class ClientConnection:
    """One connection's conversation.

    Attributes:
        capabilities: What the last EHLO or LHLO reply offered; empty before it.
        pending: The commands that wait for a reply, in order.
        content_sent: Whether the end of the last message was sent: from then on the server may have accepted it.
        problem: How the server broke the protocol, None while it has not.
    """

    __slots__ = ("_buffer", "_code", "_lines", "capabilities", "content_sent", "pending", "problem")

    def __init__(self) -> None:
        self.capabilities = Capabilities()
        self.pending: deque[Command] = deque((Command.GREETING,))
        self.content_sent = False
        self.problem: str | None = None
        self._buffer = b""
        self._code = b""
        self._lines: list[bytes] = []

    @property
    def has_early_bytes(self) -> bool:
        """Whether anything stands behind the last reply: before TLS an injection (RFC 3207 section 6)."""
        return bool(self._buffer or self._lines)

    def receive_data(self, data: bytes) -> list[Reply]:
        """Take octets; returns the replies that they complete, in the order of the commands."""
        if not self._buffer and not self._lines and len(data) <= _PACKET:
            known = _replies_of(data)
            if known is not None:
                return list(filter(self._answers, known))
        return self._parse(self._buffer + data)

    def _parse(self, data: bytes) -> list[Reply]:
        replies: list[Reply] = []
        position = 0
        while self.problem is None and (match := _REPLY_LINE.match(data, position)):
            position = match.end()
            code, separator, text = match.groups()
            if self._lines and code != self._code:
                self.problem = f"a reply of two codes, {self._code.decode()} and {code.decode()}"
            elif len(self._lines) >= MAX_LINES or (text is not None and len(text) > MAX_LINE):
                self.problem = f"a reply of more than {MAX_LINES} lines or {MAX_LINE} octets a line"
            else:
                self._code = code
                self._lines.append(b"" if text is None else text.rstrip(b"\r"))
                if separator != b"-":
                    lines, self._lines = self._lines, []
                    reply = Reply.from_backend(int(code), lines)
                    if self._answers(reply):
                        replies.append(reply)
        self._buffer = data[position:]
        if self.problem is None and (b"\n" in self._buffer or len(self._buffer) > MAX_LINE):
            self.problem = f"{self._buffer[:60]!r} is no reply"
        return replies

    def _answers(self, reply: Reply) -> bool:
        """Match a reply with its command; False when it fits none."""
        if self.problem is not None:
            return False
        if not self.pending:
            self.problem = f"a reply to nothing: {reply}"
            return False
        command = self.pending.popleft()
        if reply.code < 400 and reply.code not in _POSITIVE[command]:  # noqa: PLR2004 - is_positive, in the hottest place
            self.problem = f"{reply} is no reply to {command}"
            return False
        if command is _HELLO:
            self.capabilities = Capabilities.parse(reply.text) if reply.is_positive else Capabilities()
        return True

    def commands(self, commands: list[tuple[Command, str]]) -> bytes:
        """The octets of commands, whose replies are then expected.

        Raises:
            ValueError: One holds CR, LF or NUL, which would make it another command.
        """
        text = ""
        for _, line in commands:
            text += line + "\r\n"
        if text.count("\n") != len(commands) or text.count("\r") != len(commands) or "\0" in text:
            raise ValueError(f"a control character in the commands {text!r}")
        for kind, _ in commands:
            self.pending.append(kind)
        return text.encode("utf-8", "surrogateescape")

    def data(self) -> bytes:
        """The octets of DATA, whose reply is then expected."""
        self.pending.append(_DATA)
        return b"DATA\r\n"

    def content(self, line: str | None, replies: int) -> bytes:
        """The message follows: behind this command (BDAT), or without one after the reply to DATA.

        Args:
            line: The command, None without one.
            replies: How many replies its end has (LMTP: one a recipient, RFC 2033 4.2).
        """
        self.pending.extend((_CONTENT,) * replies)
        return b"" if line is None else line.encode("ascii") + b"\r\n"
