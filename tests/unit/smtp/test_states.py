"""The state table, exhaustively: what it says, and that the engine does what it says."""

import pytest

from gateway.smtp import reply
from gateway.smtp.events import (
    Auth,
    Bdat,
    Chunk,
    Data,
    EndOfChunk,
    EndOfData,
    Event,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Reset,
    StartTls,
)
from gateway.smtp.reply import Reply
from gateway.smtp.server import ServerConnection, ServerOptions, TlsState
from gateway.smtp.states import COMMAND_STATES, TABLE, Command, State, Transition
from tests.support.smtp_engine import ALL_EXTENSIONS, GREETING, engine, feed

ENDS = {Command.END_OF_CHUNK, Command.END_OF_DATA, Command.AUTH_RESPONSE}
SPOKEN = sorted(set(Command) - ENDS)

HELLO = b"EHLO c\r\n"
IN_TRANSACTION = HELLO + b"MAIL FROM:<a@b>\r\n"
WITH_RECIPIENT = IN_TRANSACTION + b"RCPT TO:<c@d>\r\n"

WAY: dict[State, bytes] = {
    State.REFUSED: b"",
    State.CONNECTED: b"",
    State.READY: HELLO,
    State.MAIL: IN_TRANSACTION,
    State.NO_RECIPIENT: IN_TRANSACTION + b"RCPT TO:<refused@d>\r\n",
    State.RCPT: WITH_RECIPIENT,
    State.BDAT: WITH_RECIPIENT + b"BDAT 1\r\nx",
    State.VOID: WITH_RECIPIENT + b"BDAT 1\r\n\n",
}
"""What a client sends to get to each state that reads commands."""

LINES: dict[Command, bytes] = {
    Command.HELO: b"HELO c",
    Command.EHLO: b"EHLO c",
    Command.MAIL: b"MAIL FROM:<a@b>",
    Command.RCPT: b"RCPT TO:<c@d>",
    Command.BDAT: b"BDAT 1\r\ny",
    Command.VRFY: b"VRFY x",
    Command.EXPN: b"EXPN x",
    Command.ETRN: b"ETRN x",
    Command.SEND: b"SEND FROM:<a@b>",
    Command.SOML: b"SOML FROM:<a@b>",
    Command.SAML: b"SAML FROM:<a@b>",
    Command.AUTH: b"AUTH X",
    Command.UNKNOWN: b"XYZZY",
}
"""A good line of each command that is more than its verb."""

EVENTS: dict[Command, type[Event]] = {
    Command.HELO: Hello,
    Command.EHLO: Hello,
    Command.MAIL: Mail,
    Command.RCPT: Rcpt,
    Command.DATA: Data,
    Command.BDAT: EndOfChunk,
    Command.RSET: Reset,
    Command.QUIT: Quit,
    Command.STARTTLS: StartTls,
    Command.AUTH: Auth,
}
"""What a command yields where the table lets it through (for BDAT: what awaits its reply)."""


def answer(connection: ServerConnection, event: Event) -> Reply:
    """Take everything but the recipient ``refused`` and a chunk with a problem."""
    if isinstance(event, Rcpt) and event.path.local_part == "refused":
        return reply.BAD_RECIPIENT_ADDRESS
    if isinstance(event, EndOfChunk | EndOfData) and event.problem is not None:
        return event.problem
    return connection.hello_reply() if isinstance(event, Hello) else reply.OK


def arrive(state: State) -> ServerConnection:
    """An engine in a state that reads commands."""
    if state is State.REFUSED:
        connection = ServerConnection(
            ServerOptions(hostname="mx.example.com"), tls=TlsState.OPTIONAL, extensions=ALL_EXTENSIONS
        )
        connection.greet(Reply(554, "5.3.2", "No"))
    else:
        connection = engine(tls=TlsState.OPTIONAL, auth_mechanisms=("X",))
    feed(connection, WAY[state], answer)
    connection.data_to_send()
    assert connection.state is state
    return connection


def test_every_state_that_reads_commands_has_a_word_on_every_command() -> None:
    """The table is complete, and states that read no commands know only what ends them."""
    assert set(TABLE) == set(State)
    for state, row in TABLE.items():
        if state in COMMAND_STATES:
            assert set(row) == set(SPOKEN), state
        else:
            assert set(row) <= ENDS, state
    assert set(WAY) == COMMAND_STATES


@pytest.mark.parametrize("command", SPOKEN)
@pytest.mark.parametrize("state", sorted(COMMAND_STATES))
def test_the_engine_does_what_the_table_says(state: State, command: Command) -> None:
    """In every state, every command gets the table's refusal, or its event and then the state of the reply's class."""
    entry = TABLE[state][command]
    line = LINES.get(command, command.value.encode()) + b"\r\n"
    if command is Command.BDAT:
        line = LINES[command]  # its octets end it
    if isinstance(entry, Reply):
        connection = arrive(state)
        (refusal,) = feed(connection, line)
        assert isinstance(refusal, Refused)
        assert refusal.reply == entry
        assert connection.data_to_send() == entry.wire
        assert connection.state is state
        return
    if command not in EVENTS:
        connection = arrive(state)
        assert feed(connection, line) == []
        assert connection.data_to_send()[:1] == b"2"
        assert connection.state is state
        return
    if command is Command.BDAT:
        assert entry.completed is State.CHUNK
        entry = TABLE[State.CHUNK][Command.END_OF_CHUNK]
        assert isinstance(entry, Transition)
    for code, target in ((250, entry.completed), (350, entry.intermediate), (450, entry.refused), (550, entry.refused)):
        connection = arrive(state)
        connection.receive_data(line)
        event: Event | None = connection.next_event()
        while isinstance(event, Bdat | Chunk):
            event = connection.next_event()
        assert isinstance(event, EVENTS[command])
        connection.reply(Reply(code, None, "so"))
        assert connection.state is target
        assert connection.data_to_send() == b"%d so\r\n" % code


@pytest.mark.parametrize("command", sorted(EVENTS))
@pytest.mark.parametrize("state", sorted(COMMAND_STATES))
def test_a_421_closes_from_everywhere(state: State, command: Command) -> None:
    """Whatever awaits its reply, 421 ends the session: nothing is read after it (RFC 5321 3.8)."""
    if isinstance(TABLE[state][command], Reply):
        return
    connection = arrive(state)
    events = feed(
        connection,
        LINES.get(command, command.value.encode()) + (b"" if command is Command.BDAT else b"\r\n"),
        lambda _connection, _event: reply.SHUTTING_DOWN,
    )
    assert events
    assert connection.state is State.CLOSED
    assert connection.data_to_send() == reply.SHUTTING_DOWN.wire
    assert feed(connection, b"NOOP\r\n") == []
    assert connection.data_to_send() == b""
    assert len(connection.unread) == 0


def test_greetings_lead_to_their_states() -> None:
    """220 opens, 554 leaves only QUIT, 421 closes; a client is greeted once, and nothing is read before it."""
    for greeting, state in ((GREETING, State.CONNECTED), (Reply(554, None, "No"), State.REFUSED)):
        connection = ServerConnection(ServerOptions(hostname="x"), tls=TlsState.NONE, extensions=frozenset())
        connection.receive_data(b"NOOP\r\n")
        assert connection.next_event() is None
        assert connection.data_to_send() == b""
        connection.greet(greeting)
        assert connection.state is state
        with pytest.raises(RuntimeError):
            connection.greet(greeting)
    connection = ServerConnection(ServerOptions(hostname="x"), tls=TlsState.NONE, extensions=frozenset())
    connection.greet(reply.TOO_MANY_CONNECTIONS)
    assert connection.state is State.CLOSED
