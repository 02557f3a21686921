"""SMTP replies: a checked value, and every reply the gateway gives of its own, by name.

A ``Reply`` is checked when it is made, so that whatever is logged, recorded or sent is well-formed: the code is one
that RFC 5321 4.2.1 allows, the enhanced status code (RFC 2034, RFC 3463) has the same class, no line holds a control
character, and no line is longer than RFC 5321 4.5.3.1.5 allows. This is the one place where a verdict becomes text.

Raises ``ValueError`` for a reply that breaks a rule. Text of a backend is made harmless first (``from_backend``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

MAX_REPLY_LINE: Final = 512
"""Octets of one reply line with its CRLF (RFC 5321 4.5.3.1.5)."""

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})", re.ASCII)  # RFC 3463 2: class "." subject "." detail
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # HTAB is allowed in textstring (RFC 5321 4.2)

# What a code becomes in the other class, where the same two digits do not exist or mean something else there.
_DEFERRED = {550: 450, 551: 451, 552: 452, 553: 451, 554: 451, 521: 421, 535: 454, 555: 455, 556: 451}
_REJECTED = {450: 550, 451: 554, 452: 552, 421: 554, 454: 554, 455: 555}


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply.

    Attributes:
        code: The three-digit reply code.
        enhanced: The enhanced status code such as ``5.7.1``, or None (3xx and greeting replies have none).
        text: The text without codes; the lines of a multiline reply are joined by LF.
        is_positive: Whether it says yes: 2yz, or 3yz for 'go on' (RFC 5321 4.2.1).
        is_transient: Whether it says 'not now': 4yz.
        is_permanent: Whether it says no for good: 5yz.
        wire: The octets for the wire, CRLF included.
    """

    code: int
    enhanced: str | None
    text: str
    is_positive: bool = field(init=False, repr=False, compare=False)
    is_transient: bool = field(init=False, repr=False, compare=False)
    is_permanent: bool = field(init=False, repr=False, compare=False)
    wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 559 or self.code // 10 % 10 > 5:  # RFC 5321 4.2: %x32-35 %x30-35 %x30-39
            raise ValueError(f"{self.code} is not a reply code")
        if self.enhanced is not None:
            match = _ENHANCED.fullmatch(self.enhanced)
            if match is None:
                raise ValueError(f"{self.enhanced!r} is not an enhanced status code")
            if int(match[1]) != self.code // 100:
                raise ValueError(f"the class of {self.enhanced} differs from that of {self.code}")
        for line in self.text.split("\n"):
            if _CONTROL.search(line):
                raise ValueError(f"a control character in the reply text {line!r}")
        wire = self._encode()
        for octets in wire.split(b"\r\n"):
            if len(octets) + 2 > MAX_REPLY_LINE:
                raise ValueError(f"a reply line of more than {MAX_REPLY_LINE} octets: {octets[:40]!r}...")
        # What a reply is asked for over and over is found once: the same few are given to every client.
        object.__setattr__(self, "is_positive", self.code < 400)
        object.__setattr__(self, "is_transient", 400 <= self.code < 500)
        object.__setattr__(self, "is_permanent", self.code >= 500)
        object.__setattr__(self, "wire", wire)

    def _encode(self) -> bytes:
        prefix = "" if self.enhanced is None else f"{self.enhanced} "
        *lines, last = self.text.split("\n")
        text = "".join([f"{self.code}-{prefix}{line}\r\n" for line in lines]) + f"{self.code} {prefix}{last}\r\n"
        return text.encode("utf-8", "surrogateescape")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reply as people write it: ``550 5.7.1 Text`` or ``550 Text``.

        Raises:
            ValueError: It is not a reply.
        """
        match = re.fullmatch(r"(\d{3})(?: ([245]\.\d{1,3}\.\d{1,3}))?(?: (.*))?", text, re.ASCII | re.DOTALL)
        if match is None:
            raise ValueError(f"{text!r} is not a reply such as '550 5.7.1 Text'")
        return cls(int(match[1]), match[2], match[3] or "")

    @staticmethod
    def from_backend(code: int, lines: Sequence[bytes]) -> "Reply":
        """Make a reply of what a backend sent: the lines after the code and its separator, without CRLF.

        Code, enhanced code and text stay as they are. Where all lines begin with one enhanced code of the code's class
        it becomes ``enhanced``; otherwise it stays part of the text. Control characters become ``?``, and a line that
        is too long is cut, because both could break the client's reading of the reply.
        """
        return _from_backend(code, tuple(lines))

    def __str__(self) -> str:
        codes = str(self.code) if self.enhanced is None else f"{self.code} {self.enhanced}"
        return f"{codes} {self.text}".replace("\n", " / ")

    def with_reference(self, reference: str) -> "Reply":
        """The same reply with ``[reference]`` behind its last line, by which an administrator finds the record."""
        return _referenced(self, reference)

    def as_deferral(self) -> Self:
        """The same in class 4, keeping subject and detail of the enhanced code."""
        return self._in_class(4, self.code if self.is_transient else _DEFERRED.get(self.code, 450))

    def as_rejection(self) -> Self:
        """The same in class 5, keeping subject and detail of the enhanced code."""
        return self._in_class(5, self.code if self.is_permanent else _REJECTED.get(self.code, 550))

    def as_disconnection(self) -> Self:
        """The same as ``421``, after which the connection is closed (RFC 5321 3.8)."""
        return self._in_class(4, 421)

    def _in_class(self, digit: int, code: int) -> Self:
        enhanced = None if self.enhanced is None else f"{digit}{self.enhanced[1:]}"
        return replace(self, code=code, enhanced=enhanced)


@lru_cache(maxsize=256)
def _referenced(reply: Reply, reference: str) -> Reply:
    """One for all recipients of a transaction that get the same refusal."""
    prefix = 6 if reply.enhanced is None else 7 + len(reply.enhanced)
    last = reply.text.rpartition("\n")[2].encode("utf-8", "surrogateescape")
    separator = " " if prefix + len(last) + len(reference) + 3 <= MAX_REPLY_LINE else "\n"
    return replace(reply, text=f"{reply.text}{separator}[{reference}]")


@lru_cache(maxsize=512)
def _from_backend(code: int, lines: tuple[bytes, ...]) -> Reply:
    """Read a backend's reply; most are the same few over and over."""
    texts = [_CONTROL.sub("?", line.decode("utf-8", "surrogateescape")) for line in lines] or [""]
    enhanced: str | None = None
    first = re.match(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)", texts[0], re.ASCII)
    if (
        first is not None
        and int(first[1][0]) == code // 100
        and all(text == first[1] or text.startswith(first[1] + " ") for text in texts)
    ):
        enhanced = first[1]
        texts = [text[len(enhanced) + 1 :] for text in texts]
    room = MAX_REPLY_LINE - (6 if enhanced is None else 7 + len(enhanced))
    cut = [text.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "surrogateescape") for text in texts]
    return Reply(code, enhanced, "\n".join(cut))


# The replies of the protocol engine (RFC 5321 4.2.2, 4.3.2; enhanced codes by RFC 3463 and RFC 5248).
OK: Final = Reply(250, "2.0.0", "Ok")
SENDER_OK: Final = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Recipient ok")
CHUNK_OK: Final = Reply(250, "2.0.0", "Chunk received")
START_MAIL_INPUT: Final = Reply(354, None, "End data with <CR><LF>.<CR><LF>")
BYE: Final = Reply(221, "2.0.0", "Bye")
CANNOT_VERIFY: Final = Reply(252, "2.5.0", "Cannot VRFY, but will accept the message and attempt delivery")
HELP: Final = Reply(214, "2.0.0", "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT HELP STARTTLS AUTH")
READY_FOR_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")

UNKNOWN_COMMAND: Final = Reply(500, "5.5.2", "Command not recognized")
LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Command line too long")
BARE_NEWLINE_COMMAND: Final = Reply(500, "5.5.2", "Commands end with <CR><LF>; a bare CR or LF is not allowed")
SYNTAX_ERROR: Final = Reply(501, "5.5.4", "Syntax error in parameters or arguments")
NO_ARGUMENTS: Final = Reply(501, "5.5.4", "This command takes no arguments")
BAD_SENDER_ADDRESS: Final = Reply(501, "5.1.7", "Syntax error in the sender address")
BAD_RECIPIENT_ADDRESS: Final = Reply(501, "5.1.3", "Syntax error in the recipient address")
UTF8_WITHOUT_SMTPUTF8: Final = Reply(553, "5.6.7", "A non-ASCII address needs the SMTPUTF8 parameter")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")
BAD_SEQUENCE: Final = Reply(503, "5.5.1", "Bad sequence of commands")
HELO_FIRST: Final = Reply(503, "5.5.1", "Send HELO or EHLO first")
NESTED_MAIL: Final = Reply(503, "5.5.1", "Nested MAIL command")
NEED_MAIL: Final = Reply(503, "5.5.1", "Need MAIL before this command")
NEED_RECIPIENT: Final = Reply(503, "5.5.1", "Need RCPT before this command")
DATA_AFTER_BDAT: Final = Reply(503, "5.5.1", "DATA is not allowed after BDAT")
BDAT_PENDING: Final = Reply(503, "5.5.1", "A BDAT transfer is pending: send the last chunk or RSET")
NO_VALID_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")
UNSUPPORTED_PARAMETER: Final = Reply(555, "5.5.4", "Unsupported option")
TLS_REQUIRED: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
TLS_ACTIVE: Final = Reply(503, "5.5.1", "TLS is already active")
TLS_NOT_AVAILABLE: Final = Reply(454, "4.7.0", "TLS is not available now")
AUTH_REQUIRED: Final = Reply(530, "5.7.0", "Authentication required")
AUTH_NEEDS_TLS: Final = Reply(538, "5.7.11", "Encryption is required for the requested authentication mechanism")
AUTH_TWICE: Final = Reply(503, "5.5.1", "Already authenticated")
AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_UNKNOWN_MECHANISM: Final = Reply(504, "5.5.4", "Unrecognized authentication type")
AUTH_UNAVAILABLE: Final = Reply(454, "4.7.0", "Temporary authentication failure")

MESSAGE_TOO_BIG: Final = Reply(552, "5.3.4", "Message size exceeds the limit")
HEADER_TOO_BIG: Final = Reply(552, "5.3.4", "Message header size exceeds the limit")
BARE_NEWLINE_DATA: Final = Reply(554, "5.6.0", "Message refused: it contains a bare CR or LF (RFC 5321 2.3.8)")
NUL_IN_DATA: Final = Reply(554, "5.6.0", "Message refused: it contains a NUL octet (RFC 5321 4.1.1.4)")
MALFORMED_HEADER: Final = Reply(550, "5.6.0", "Message refused: its header can be read in two ways (RFC 5322 2.2)")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients")
SPLIT_RECIPIENTS: Final = Reply(452, "4.5.3", "Send this recipient in a transaction of its own")

TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors, closing the connection")
TOO_MANY_COMMANDS: Final = Reply(421, "4.7.0", "Too many commands without mail, closing the connection")
TOO_MANY_REFUSALS: Final = Reply(421, "4.7.0", "Too many refused commands, closing the connection")
TOO_MANY_TRANSACTIONS: Final = Reply(421, "4.7.0", "Too many messages, come back on a new connection")
TOO_MANY_CHUNKS: Final = Reply(421, "4.7.0", "Too many small chunks, closing the connection")
TOO_MUCH_DROPPED: Final = Reply(421, "4.7.0", "Too many octets that nobody asked for, closing the connection")
EARLY_TLS_OCTETS: Final = Reply(421, "4.7.0", "Octets before the TLS handshake, closing the connection")
FORBIDDEN_COMMAND: Final = Reply(421, "4.7.0", "This is a mail server, closing the connection")
MALFORMED_BDAT: Final = Reply(501, "5.5.4", "Syntax: BDAT size [LAST]; closing the connection")
TIMEOUT: Final = Reply(421, "4.4.2", "Timeout exceeded, closing the connection")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "Service closing, try again later")
TOO_MANY_CONNECTIONS: Final = Reply(421, "4.7.0", "Too many connections, try again later")
LOCAL_ERROR: Final = Reply(451, "4.3.0", "Local error in processing, try again later")
POLICY_UNAVAILABLE: Final = Reply(451, "4.7.1", "A check is not available now, try again later")
INSUFFICIENT_STORAGE: Final = Reply(452, "4.3.1", "Insufficient system storage, try again later")
BACKEND_UNAVAILABLE: Final = Reply(
    451, "4.4.1", "The mail server behind this gateway is not available, try again later"
)
BACKEND_UNKNOWN: Final = Reply(451, "4.4.2", "The mail server behind this gateway gave no answer, try again later")
BACKEND_LACKS_EXTENSION: Final = Reply(451, "4.3.3", "The mail server behind this gateway cannot take this now")
BACKEND_FAULTS: Final = frozenset({BACKEND_UNAVAILABLE, BACKEND_UNKNOWN, BACKEND_LACKS_EXTENSION})
"""What the gateway says in the backend's place; everything else that comes from there is the backend's own reply."""
ACCEPTED: Final = Reply(250, "2.0.0", "Message accepted")
"""End-of-data reply where no backend's own exists: a discarded message."""
