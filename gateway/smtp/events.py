"""What a client did, as values: the events that ``server.ServerConnection.next_event`` yields.

Each event says in its docstring whether it awaits a reply. Nothing here has behaviour; a door reads the fields and
answers with ``ServerConnection.reply``.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec

from gateway.smtp.path import Mailbox, Parameter, ReversePath
from gateway.smtp.reply import Reply


class Hello(msgspec.Struct, frozen=True):
    """HELO or EHLO; awaits a reply. A transaction that was open is over (RFC 5321 4.1.4), even if it is refused.

    Attributes:
        name: The client's argument, printable US-ASCII without spaces.
        extended: Whether it was EHLO.
    """

    name: str
    extended: bool


class Mail(msgspec.Struct, frozen=True):
    """MAIL; awaits a reply. A positive one begins a transaction."""

    path: ReversePath
    parameters: tuple[Parameter, ...]


class Rcpt(msgspec.Struct, frozen=True):
    """RCPT; awaits a reply. A positive one makes it a recipient."""

    path: Mailbox
    parameters: tuple[Parameter, ...]


class Data(msgspec.Struct, frozen=True):
    """DATA, with at least one accepted recipient; awaits a reply: 354 to receive the message, or a refusal."""


class Bdat(msgspec.Struct, frozen=True):
    """A BDAT command (RFC 3030); awaits no reply, which comes after its octets.

    Attributes:
        size: The octets of this chunk, which follow as ``Chunk`` events.
        last: Whether the message ends with it.
    """

    size: int
    last: bool


class Chunk(msgspec.Struct, frozen=True):
    """Octets of the message, dot-stuffing removed; awaits no reply."""

    data: bytes


class EndOfChunk(msgspec.Struct, frozen=True):
    """A BDAT chunk that is not the last has arrived; awaits a reply. A refusal voids the transaction until RSET.

    Attributes:
        problem: The refusal that the engine found while receiving, None if there is none. Where the door answers
            something else, ``EndOfData`` says it again.
    """

    problem: Reply | None


class EndOfData(msgspec.Struct, frozen=True):
    """The message is complete; awaits a reply, after which the transaction is over.

    Attributes:
        problem: The refusal that the engine found while receiving (too big, a bare newline, a NUL), None if there is
            none. ``Chunk`` events have then stopped before the end of the message.
        data: The message's last octets, where they came with its end: a small message is one event, and no chunk.
    """

    problem: Reply | None
    data: bytes = b""


class Reset(msgspec.Struct, frozen=True):
    """RSET; awaits a reply. A positive one ends the transaction if one is open."""


class Quit(msgspec.Struct, frozen=True):
    """QUIT; awaits a reply, after which the connection is to be closed."""


class StartTls(msgspec.Struct, frozen=True):
    """STARTTLS; awaits a reply. After 220 the handshake is due, and then ``tls_started``."""


class Auth(msgspec.Struct, frozen=True):
    """AUTH (RFC 4954); awaits a reply: 334 to go on, 235, or a refusal.

    Attributes:
        mechanism: In upper case; one of those offered.
        initial_response: As sent, in base64 (``=`` for an empty one), None if there is none.
    """

    mechanism: str
    initial_response: bytes | None


class AuthResponse(msgspec.Struct, frozen=True):
    """The client's line after a 334 reply; awaits a reply.

    Attributes:
        line: Base64 as sent, or ``*``: the client cancels. A line that is neither, or too long, is read as ``*``.
    """

    line: bytes


class Refused(msgspec.Struct, frozen=True):
    """The engine refused a malformed, unknown or out-of-order command and has queued its reply; awaits none.

    Attributes:
        reply: What the client is told.
        verb: The command's verb in upper case; for an unknown one its first octets, escaped to US-ASCII.
    """

    reply: Reply
    verb: str


class FatalReason(StrEnum):
    """Why the engine ended a connection."""

    TOO_MANY_ERRORS = "too_many_errors"
    UNKNOWN_COMMANDS = "too_many_unknown_commands"
    IDLE_COMMANDS = "too_many_idle_commands"
    REFUSALS = "too_many_refusals"
    TRANSACTIONS = "too_many_transactions"
    CHUNKS = "too_many_chunks"
    DROPPED_OCTETS = "too_many_dropped_octets"
    EARLY_TLS_OCTETS = "octets_before_tls_handshake"
    FORBIDDEN_COMMAND = "forbidden_command"
    MALFORMED_BDAT = "malformed_bdat"


class Fatal(msgspec.Struct, frozen=True):
    """The engine ended the session and has queued its last reply: send it and close; awaits none.

    Attributes:
        reply: What the client is told.
        reason: For the log and the record.
    """

    reply: Reply
    reason: FatalReason


Event: TypeAlias = (
    Hello
    | Mail
    | Rcpt
    | Data
    | Bdat
    | Chunk
    | EndOfChunk
    | EndOfData
    | Reset
    | Quit
    | StartTls
    | Auth
    | AuthResponse
    | Refused
    | Fatal
)
