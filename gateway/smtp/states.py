"""The SMTP server's state machine as one table: state x command is a transition or a refusal (RFC 5321 4.1.4, 4.3.2).

``TABLE[state][command]`` is either the ``Reply`` that refuses the command in that state, or a ``Transition``: where the
reply to the command leads. A 421 reply leads to ``CLOSED`` from everywhere (RFC 5321 3.8). States that read no commands
(the message is coming in, a handshake is due) have rows of the few things that can end them, and nothing else.

What depends on more than the state stands in ``server`` and ``commands``: TLS and authentication that are required,
extensions that are not offered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from gateway.smtp import reply
from gateway.smtp.reply import Reply


class State(StrEnum):
    """Where the conversation stands."""

    START = "start"
    """Connected; the greeting is not decided."""
    REFUSED = "refused"
    """Greeted with 554: only QUIT is taken (RFC 5321 3.1)."""
    CONNECTED = "connected"
    """Greeted; HELO or EHLO is due."""
    READY = "ready"
    """No transaction."""
    MAIL = "mail"
    """A transaction without a RCPT."""
    NO_RECIPIENT = "no-recipient"
    """A transaction whose recipients were all refused so far."""
    RCPT = "rcpt"
    """A transaction with a recipient."""
    DATA = "data"
    """The message is coming in after DATA."""
    CHUNK = "chunk"
    """The octets of a BDAT chunk are coming in."""
    BDAT = "bdat"
    """Between two BDAT chunks."""
    VOID = "void"
    """A BDAT chunk was refused: nothing but RSET, HELO and EHLO gets the session on (RFC 3030 2)."""
    AUTH = "auth"
    """The client's next line answers a 334 (RFC 4954)."""
    TLS = "tls"
    """STARTTLS was answered 220: the handshake is due."""
    CLOSED = "closed"
    """Nothing is read any more."""


class Command(StrEnum):
    """What a client can say: a command, or (in lower case) what ends a state that reads no commands."""

    HELO = "HELO"
    EHLO = "EHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BDAT = "BDAT"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"
    VRFY = "VRFY"
    HELP = "HELP"
    EXPN = "EXPN"
    ETRN = "ETRN"
    TURN = "TURN"
    SEND = "SEND"
    SOML = "SOML"
    SAML = "SAML"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    UNKNOWN = "unknown command"
    END_OF_CHUNK = "end of chunk"
    END_OF_DATA = "end of data"
    AUTH_RESPONSE = "auth response"


@dataclass(frozen=True, slots=True)
class Transition:
    """Where the reply to a command leads.

    Attributes:
        completed: The state after 2yz.
        refused: The state after 4yz and 5yz.
        intermediate: The state after 3yz.
    """

    completed: State
    refused: State
    intermediate: State


Row: TypeAlias = Mapping[Command, Transition | Reply]


def _row(state: State, entries: Mapping[Command, State | Transition | Reply]) -> Row:
    """Write ``STATE`` for 'there after 2yz, else stay', and add what is the same in every state that reads commands."""
    common: dict[Command, State | Transition | Reply] = {
        Command.NOOP: state,
        Command.HELP: state,
        Command.VRFY: state,
        Command.QUIT: Transition(State.CLOSED, State.CLOSED, State.CLOSED),
        # Obsolete (RFC 5321 appendix F), or telling strangers who reads a list (RFC 5321 7.3).
        Command.EXPN: reply.NOT_IMPLEMENTED,
        Command.ETRN: reply.NOT_IMPLEMENTED,
        Command.TURN: reply.NOT_IMPLEMENTED,
        Command.SEND: reply.NOT_IMPLEMENTED,
        Command.SOML: reply.NOT_IMPLEMENTED,
        Command.SAML: reply.NOT_IMPLEMENTED,
        Command.UNKNOWN: reply.UNKNOWN_COMMAND,
    }
    return {
        command: Transition(entry, state, state) if isinstance(entry, State) else entry
        for command, entry in (common | dict(entries)).items()
    }


_ONLY_QUIT: Final[Row] = {
    command: reply.BAD_SEQUENCE
    for command in Command
    if command not in {Command.END_OF_CHUNK, Command.END_OF_DATA, Command.AUTH_RESPONSE}
} | {Command.QUIT: Transition(State.CLOSED, State.CLOSED, State.CLOSED)}

_OVER: Final = Transition(State.READY, State.READY, State.READY)
"""The transaction ends whatever the reply says: the message's end; HELO and EHLO, which a policy may refuse."""

TABLE: Final[Mapping[State, Row]] = {
    State.START: {},
    State.REFUSED: _ONLY_QUIT,
    State.CONNECTED: _row(
        State.CONNECTED,
        {
            Command.HELO: State.READY,
            Command.EHLO: State.READY,
            Command.RSET: State.CONNECTED,
            Command.MAIL: reply.HELO_FIRST,
            Command.RCPT: reply.HELO_FIRST,
            Command.DATA: reply.HELO_FIRST,
            Command.BDAT: reply.HELO_FIRST,
            Command.STARTTLS: reply.HELO_FIRST,
            Command.AUTH: reply.HELO_FIRST,
        },
    ),
    State.READY: _row(
        State.READY,
        {
            Command.HELO: State.READY,
            Command.EHLO: State.READY,
            Command.RSET: State.READY,
            Command.MAIL: State.MAIL,
            Command.RCPT: reply.NEED_MAIL,
            Command.DATA: reply.NEED_MAIL,
            Command.BDAT: reply.NEED_MAIL,
            Command.STARTTLS: State.TLS,
            Command.AUTH: Transition(State.READY, State.READY, intermediate=State.AUTH),
        },
    ),
    State.MAIL: _row(
        State.MAIL,
        {
            Command.HELO: _OVER,
            Command.EHLO: _OVER,
            Command.RSET: State.READY,
            Command.MAIL: reply.NESTED_MAIL,
            Command.RCPT: Transition(State.RCPT, refused=State.NO_RECIPIENT, intermediate=State.NO_RECIPIENT),
            Command.DATA: reply.NEED_RECIPIENT,
            Command.BDAT: reply.NEED_RECIPIENT,
            Command.STARTTLS: reply.BAD_SEQUENCE,
            Command.AUTH: reply.BAD_SEQUENCE,
        },
    ),
    State.NO_RECIPIENT: _row(
        State.NO_RECIPIENT,
        {
            Command.HELO: _OVER,
            Command.EHLO: _OVER,
            Command.RSET: State.READY,
            Command.MAIL: reply.NESTED_MAIL,
            Command.RCPT: State.RCPT,
            Command.DATA: reply.NO_VALID_RECIPIENTS,
            Command.BDAT: reply.NO_VALID_RECIPIENTS,
            Command.STARTTLS: reply.BAD_SEQUENCE,
            Command.AUTH: reply.BAD_SEQUENCE,
        },
    ),
    State.RCPT: _row(
        State.RCPT,
        {
            Command.HELO: _OVER,
            Command.EHLO: _OVER,
            Command.RSET: State.READY,
            Command.MAIL: reply.NESTED_MAIL,
            Command.RCPT: State.RCPT,
            Command.DATA: Transition(State.READY, refused=State.READY, intermediate=State.DATA),
            Command.BDAT: State.CHUNK,
            Command.STARTTLS: reply.BAD_SEQUENCE,
            Command.AUTH: reply.BAD_SEQUENCE,
        },
    ),
    State.DATA: {Command.END_OF_DATA: _OVER},
    State.CHUNK: {
        Command.END_OF_CHUNK: Transition(State.BDAT, refused=State.VOID, intermediate=State.VOID),
        Command.END_OF_DATA: _OVER,
    },
    State.BDAT: _row(
        State.BDAT,
        {
            Command.HELO: _OVER,
            Command.EHLO: _OVER,
            Command.RSET: State.READY,
            Command.MAIL: reply.NESTED_MAIL,
            Command.RCPT: reply.BDAT_PENDING,
            Command.DATA: reply.DATA_AFTER_BDAT,
            Command.BDAT: State.CHUNK,
            Command.STARTTLS: reply.BAD_SEQUENCE,
            Command.AUTH: reply.BAD_SEQUENCE,
        },
    ),
    State.VOID: _row(
        State.VOID,
        {
            Command.HELO: _OVER,
            Command.EHLO: _OVER,
            Command.RSET: State.READY,
            Command.MAIL: reply.NESTED_MAIL,
            Command.RCPT: reply.BAD_SEQUENCE,
            Command.DATA: reply.DATA_AFTER_BDAT,
            Command.BDAT: reply.BAD_SEQUENCE,
            Command.STARTTLS: reply.BAD_SEQUENCE,
            Command.AUTH: reply.BAD_SEQUENCE,
        },
    ),
    State.AUTH: {Command.AUTH_RESPONSE: Transition(State.READY, State.READY, intermediate=State.AUTH)},
    State.TLS: {},
    State.CLOSED: {},
}

COMMAND_STATES: Final = frozenset(state for state in State if Command.QUIT in TABLE[state])
"""The states that read commands."""
