"""The server engine's conversations, each at three framings: whole, octet by octet, with trailing data."""

import pytest

from gateway.smtp import reply
from gateway.smtp.events import (
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
)
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, Parameter
from gateway.smtp.reply import Reply
from gateway.smtp.server import BareNewlines, NulOctets, ServerConnection, ServerOptions
from gateway.smtp.states import State
from tests.support.smtp_engine import Framing, engine, feed, feed_pieces, octets, play, welcoming

ALICE = Mailbox("alice@example.org", "alice", "example.org")
BOB = Mailbox("bob@example.com", "bob", "example.com")

SCRIPTS = {
    "a message": """
        C: EHLO client.example
        S: 250-mx.example.com
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-ENHANCEDSTATUSCODES
        S: 250 SIZE 50000000
        C: MAIL FROM:<alice@example.org> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=x
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<bob@example.com> NOTIFY=NEVER ORCPT=rfc822;bob@example.com
        S: 250 2.1.5 Recipient ok
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C: Subject: x
        C:
        C: ..
        C: .
        S: 250 2.0.0 Message accepted
    """,
    "an old client": """
        C: helo client.example
        S: 250 mx.example.com
        C: mail from: <alice@example.org>
        S: 250 2.1.0 Sender ok
        C: Rcpt To:<@relay.example:bob@example.com>
        S: 250 2.1.5 Recipient ok
        C: data
        S: 354 End data with <CR><LF>.<CR><LF>
        C: .
        S: 250 2.0.0 Message accepted
    """,
    "what the engine answers itself": """
        C: NOOP
        S: 250 2.0.0 Ok
        C: NOOP some words
        S: 250 2.0.0 Ok
        C: VRFY bob
        S: 252 2.5.0 Cannot VRFY, but will accept the message and attempt delivery
        C: VRFY
        S: 501 5.5.4 Syntax error in parameters or arguments
        C: HELP MAIL
        S: 214 2.0.0 Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT HELP STARTTLS AUTH
        C: EXPN staff
        S: 502 5.5.1 Command not implemented
        C: ETRN example.com
        S: 502 5.5.1 Command not implemented
        C: TURN
        S: 502 5.5.1 Command not implemented
        C: XYZZY
        S: 500 5.5.2 Command not recognized
        C:
        S: 500 5.5.2 Command not recognized
        C: \\xff\\xfe
        S: 500 5.5.2 Command not recognized
    """,
    "commands with arguments that take none": """
        C: EHLO
        S: 501 5.5.4 Syntax error in parameters or arguments
        C: RSET now
        S: 501 5.5.4 This command takes no arguments
        C: QUIT now
        S: 501 5.5.4 This command takes no arguments
        C: RSET \\t
        S: 250 2.0.0 Ok
    """,
    "parameters after HELO": """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<alice@example.org> SIZE=1
        S: 555 5.5.4 Unsupported option
        C: MAIL FROM:<alice@example.org>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<bob@example.com> NOTIFY=NEVER
        S: 555 5.5.4 Unsupported option
        C: RCPT TO:<bob@example.com>
        S: 250 2.1.5 Recipient ok
    """,
    "chunks": """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<postmaster>
        S: 250 2.1.5 Recipient ok
        C: BDAT 4
        C* .\\r\\n\\r
        S: 250 2.0.0 Chunk received
        C: BDAT 0
        S: 250 2.0.0 Chunk received
        C: BDAT 5
        C* \\n.\\r\\nx
        S: 250 2.0.0 Chunk received
        C: BDAT 0 LAST
        S: 250 2.0.0 Message accepted
    """,
    "chunks that nobody asked for": """
        C: BDAT 6
        C* QUIT\\r\\n
        S: 503 5.5.1 Send HELO or EHLO first
        C: HELO c
        S: 250 mx.example.com
        C: BDAT 6 LAST
        C* QUIT\\r\\n
        S: 503 5.5.1 Need MAIL before this command
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: BDAT 0
        S: 503 5.5.1 Need RCPT before this command
    """,
    "DATA and BDAT mixed": """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<bob@example.com>
        S: 250 2.1.5 Recipient ok
        C: BDAT 1
        C* x
        S: 250 2.0.0 Chunk received
        C: DATA
        S: 503 5.5.1 DATA is not allowed after BDAT
        C: RCPT TO:<bob@example.com>
        S: 503 5.5.1 A BDAT transfer is pending: send the last chunk or RSET
        C: RSET
        S: 250 2.0.0 Ok
        C: BDAT 1
        C* x
        S: 503 5.5.1 Need MAIL before this command
    """,
    "a refused chunk voids the transaction": """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<bob@example.com>
        S: 250 2.1.5 Recipient ok
        C: BDAT 3
        C* a\\nb
        S: 554 5.6.0 Message refused: it contains a bare CR or LF (RFC 5321 2.3.8)
        C: BDAT 6
        C* QUIT\\r\\n
        S: 503 5.5.1 Bad sequence of commands
        C: BDAT 6 LAST
        C* QUIT\\r\\n
        S: 503 5.5.1 Bad sequence of commands
        C: DATA
        S: 503 5.5.1 DATA is not allowed after BDAT
        C: EHLO
        S: 501 5.5.4 Syntax error in parameters or arguments
        C: MAIL FROM:<>
        S: 503 5.5.1 Nested MAIL command
        C: RSET
        S: 250 2.0.0 Ok
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
    """,
    "a new EHLO ends the transaction": """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: HELO c
        S: 250 mx.example.com
        C: RCPT TO:<bob@example.com>
        S: 503 5.5.1 Need MAIL before this command
    """,
    "bare newlines in commands": """
        C: NOOP\\nNOOP
        S: 500 5.5.2 Commands end with <CR><LF>; a bare CR or LF is not allowed
        C: NOOP\\rQUIT
        S: 500 5.5.2 Commands end with <CR><LF>; a bare CR or LF is not allowed
        C: NOOP\\r
        S: 500 5.5.2 Commands end with <CR><LF>; a bare CR or LF is not allowed
        C: \\nNOOP
        S: 500 5.5.2 Commands end with <CR><LF>; a bare CR or LF is not allowed
    """,
    "addresses beyond ASCII": """
        C: EHLO client.example
        S: 250-mx.example.com
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-ENHANCEDSTATUSCODES
        S: 250 SIZE 50000000
        C: MAIL FROM:<\\xc3\\xbc@example.org>
        S: 553 5.6.7 A non-ASCII address needs the SMTPUTF8 parameter
        C: MAIL FROM:<\\xfc@example.org> SMTPUTF8
        S: 501 5.5.4 Syntax error in parameters or arguments
        C: MAIL FROM:<alice@example.org>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<\\xc3\\xbc@example.com>
        S: 553 5.6.7 A non-ASCII address needs the SMTPUTF8 parameter
        C: RSET
        S: 250 2.0.0 Ok
        C: MAIL FROM:<\\xc3\\xbc@example.org> SMTPUTF8
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<\\xc3\\xbc@b\\xc3\\xbccher.example> ORCPT=utf-8;\\xc3\\xbc@x.y
        S: 250 2.1.5 Recipient ok
    """,
}


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("name", SCRIPTS)
def test_conversation(name: str, framing: Framing) -> None:
    """The replies are exactly these, in this order, however the client's octets arrive."""
    play(SCRIPTS[name], framing, engine())


@pytest.mark.parametrize("framing", Framing)
def test_events_of_a_message(framing: Framing) -> None:
    """The events carry what the client said: names, paths, parameters as written, and the message unstuffed."""
    assert play(SCRIPTS["a message"], framing, engine()) == [
        Hello("client.example", extended=True),
        Mail(
            ALICE,
            (
                Parameter("SIZE", "100"),
                Parameter("BODY", "8BITMIME"),
                Parameter("RET", "HDRS"),
                Parameter("ENVID", "x"),
            ),
        ),
        Rcpt(BOB, (Parameter("NOTIFY", "NEVER"), Parameter("ORCPT", "rfc822;bob@example.com"))),
        Data(),
        Chunk(b"Subject: x\r\n\r\n.\r\n"),
        EndOfData(None),
    ]


def test_a_small_message_is_one_event() -> None:
    """What comes with the end of the data comes in its event; what came before it in chunks."""
    connection = engine()
    feed(connection, b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n")
    connection.receive_data(b"a\r\n..b\r\n.\r\nQUIT\r\n")
    assert connection.next_event() == EndOfData(None, b"a\r\n.b\r\n")
    connection.reply(reply.OK)
    assert connection.next_event() == Quit()


def test_a_refused_message_has_no_last_octets() -> None:
    """What precedes the problem is not handed on."""
    connection = engine()
    feed(connection, b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n")
    connection.receive_data(b"a\r\nb\nc\r\n.\r\n")
    assert connection.next_event() == EndOfData(reply.BARE_NEWLINE_DATA)


@pytest.mark.parametrize("framing", Framing)
def test_events_of_an_old_client(framing: Framing) -> None:
    """Verbs come in any case, a space may follow the colon, a source route is kept apart, a message may be empty."""
    assert play(SCRIPTS["an old client"], framing, engine()) == [
        Hello("client.example", extended=False),
        Mail(ALICE, ()),
        Rcpt(Mailbox("bob@example.com", "bob", "example.com", ("relay.example",)), ()),
        Data(),
        EndOfData(None),
    ]


@pytest.mark.parametrize("framing", Framing)
def test_events_of_chunks(framing: Framing) -> None:
    """Chunks are message octets with their dots; a CRLF may be cut by two of them, and the last may be empty."""
    assert play(SCRIPTS["chunks"], framing, engine()) == [
        Hello("c", extended=False),
        Mail(NULL_REVERSE_PATH, ()),
        Rcpt(Mailbox("postmaster", "postmaster", ""), ()),
        Bdat(4, last=False),
        Chunk(b".\r\n"),
        EndOfChunk(None),
        Bdat(0, last=False),
        EndOfChunk(None),
        Bdat(5, last=False),
        Chunk(b"\r\n.\r\nx"),
        EndOfChunk(None),
        Bdat(0, last=True),
        EndOfData(None),
    ]


@pytest.mark.parametrize("framing", Framing)
def test_octets_of_refused_chunks_are_no_commands(framing: Framing) -> None:
    """The octets of a refused BDAT are read and dropped: the QUIT in them is not obeyed."""
    for name in ("chunks that nobody asked for", "a refused chunk voids the transaction"):
        events = play(SCRIPTS[name], framing, engine())
        assert "Quit" not in [type(event).__name__ for event in events]


@pytest.mark.parametrize("framing", Framing)
def test_refusals_are_told_to_the_door(framing: Framing) -> None:
    """Each refusal of the engine is an event with its reply and verb, and is counted."""
    connection = engine()
    events = play(SCRIPTS["what the engine answers itself"], framing, connection)
    assert [(event.reply.code, event.verb) for event in events if isinstance(event, Refused)] == [
        (501, "VRFY"),
        (502, "EXPN"),
        (502, "ETRN"),
        (502, "TURN"),
        (500, "XYZZY"),
        (500, ""),
        (500, "\\xff\\xfe"),
    ]
    assert connection.error_count == 7


@pytest.mark.parametrize("framing", Framing)
def test_with_normalize_a_bare_newline_in_a_command_is_white_space(framing: Framing) -> None:
    """It ends nothing: what stands behind it is an argument, never a second command."""
    events = play(
        """
        C: NOOP\\nQUIT
        S: 250 2.0.0 Ok
        C: RSET\\r
        S: 250 2.0.0 Ok
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<alice@example.org>\\nRCPT TO:<bob@example.com>
        S: 501 5.5.4 Syntax error in parameters or arguments
        """,
        framing,
        engine(ServerOptions(hostname="mx.example.com", bare_newlines=BareNewlines.NORMALIZE)),
    )
    assert [type(event) for event in events] == [Reset, Hello, Refused]


BEFORE_DATA = b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.com>\r\n"


def receive(body: bytes, pieces: bool, **options: object) -> list[Event]:  # noqa: FBT001 - two framings
    """The events of one message in DATA."""
    connection = engine(ServerOptions(hostname="mx.example.com", **options))  # type: ignore[arg-type]  # a test's kwargs
    feed(connection, BEFORE_DATA + b"DATA\r\n")
    events = feed_pieces(connection, octets(body) if pieces else [body])
    assert connection.state is State.READY
    return events


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(
    ("message", "options", "problem"),
    [
        (b"a\nb", {}, reply.BARE_NEWLINE_DATA),
        (b"a\rb", {}, reply.BARE_NEWLINE_DATA),
        (b"a\r\r\nb", {}, reply.BARE_NEWLINE_DATA),
        (b"a\0b", {}, reply.NUL_IN_DATA),
        (b"a\0b", {"nul": NulOctets.ACCEPT}, None),
        (b"x" * 97, {"message_size": 100}, None),
        (b"x" * 99, {"message_size": 100}, reply.MESSAGE_TOO_BIG),
        (b"x" * 99, {"message_size": 0}, None),
        (b"x: y\r\n\r\n" + b"x" * 99, {"header_size": 10}, None),
        (b"x: y\r\nxxxxxx: z\r\n\r\n" + b"x" * 99, {"header_size": 10}, reply.HEADER_TOO_BIG),
        (b"xxxxxxxxx: \0", {"header_size": 10}, reply.HEADER_TOO_BIG),
        (b"x: y\r\nx: z\r\n\r\n" + b"x\r\n" * 9, {"header_lines": 2}, None),
        (b"x: y\r\nx: z\r\nx: a\r\n\r\nx", {"header_lines": 2}, reply.HEADER_TOO_BIG),
        (b"x\ny" * 50, {"message_size": 100}, reply.BARE_NEWLINE_DATA),
        (b"x" * 101 + b"\n", {"message_size": 100}, reply.MESSAGE_TOO_BIG),
    ],
)
def test_problems_of_a_message(
    message: bytes,
    options: dict[str, object],
    problem: Reply | None,
    pieces: bool,  # noqa: FBT001 - two framings
) -> None:
    """A message with a problem is read to its end and refused there, by its first problem, at any framing."""
    events = receive(message + b"\r\n.\r\n", pieces, **options)
    assert events[-1] == EndOfData(problem)
    assert events[:-1] == ([Chunk(message + b"\r\n")] if problem is None else [])


def test_normalized_newlines() -> None:
    """With NORMALIZE the door gets CRLF for each bare CR or LF, and a dot behind one is text."""
    assert receive(b"a\n.\nb\r.\rc\r\n.\r\n", pieces=False, bare_newlines=BareNewlines.NORMALIZE) == [
        Chunk(b"a\r\n.\r\nb\r\n.\r\nc\r\n"),
        EndOfData(None),
    ]


@pytest.mark.parametrize("pieces", [False, True])
def test_problem_in_a_chunk_is_told_again_at_the_end(pieces: bool) -> None:  # noqa: FBT001 - two framings
    """A door that goes on after a chunk with a problem learns of it at the end of data, too."""
    connection = engine(ServerOptions(hostname="x", message_size=4))
    feed(connection, BEFORE_DATA)
    sent = b"BDAT 5\r\n12345BDAT 1 LAST\r\n6"
    events = feed_pieces(connection, octets(sent) if pieces else [sent], lambda _connection, _event: reply.OK)
    assert events == [
        Bdat(5, last=False),
        EndOfChunk(reply.MESSAGE_TOO_BIG),
        Bdat(1, last=True),
        EndOfData(reply.MESSAGE_TOO_BIG),
    ]


@pytest.mark.parametrize(("setting", "message"), [(BareNewlines.REJECT, None), (BareNewlines.NORMALIZE, b"ab\r\n")])
def test_a_cr_at_the_end_of_the_last_chunk_is_bare(setting: BareNewlines, message: bytes | None) -> None:
    """The CR that was held back for an LF is judged when the message ends without one."""
    connection = engine(ServerOptions(hostname="x", bare_newlines=setting))
    feed(connection, BEFORE_DATA)
    events = feed_pieces(connection, [b"BDAT 3 LAST\r\nab\r"])
    problem = reply.BARE_NEWLINE_DATA if message is None else None
    assert events == [Bdat(3, last=True), *([Chunk(message)] if message else []), EndOfData(problem)]
    assert connection.state is State.READY


def test_a_message_that_is_refused_leaves_nothing_behind() -> None:
    """The next transaction of the session starts with a clean decoder and clean counts."""
    connection = engine(ServerOptions(hostname="x", message_size=10))
    feed(connection, BEFORE_DATA)
    assert feed(connection, b"DATA\r\n0123456789\n\r\n.\r\n")[-1] == EndOfData(reply.BARE_NEWLINE_DATA)
    events = feed(connection, b"MAIL FROM:<>\r\nRCPT TO:<b@c>\r\nDATA\r\n01234567\r\n.\r\n")
    assert events[-2:] == [Chunk(b"01234567\r\n"), EndOfData(None)]
    feed(connection, b"MAIL FROM:<>\r\nRCPT TO:<b@c>\r\nBDAT 20\r\n" + b"x" * 20 + b"RSET\r\n")
    events = feed(connection, b"MAIL FROM:<>\r\nRCPT TO:<b@c>\r\nBDAT 2 LAST\r\nxy")
    assert events[-3:] == [Bdat(2, last=True), Chunk(b"xy"), EndOfData(None)]


def test_the_door_answers_in_turn() -> None:
    """An answer that nothing awaits, and reading on while one is due, are the door's errors."""
    connection = engine()
    with pytest.raises(RuntimeError):
        connection.reply(reply.OK)
    connection.receive_data(b"HELO c\r\nNOOP\r\n")
    assert connection.next_event() == Hello("c", extended=False)
    with pytest.raises(RuntimeError):
        connection.next_event()
    connection.reply(reply.OK)
    assert connection.next_event() is None
    assert connection.data_to_send() == b"250 2.0.0 Ok\r\n" * 2
    assert connection.data_to_send() == b""


def test_data_without_a_valid_recipient() -> None:
    """DATA and BDAT after nothing but refused recipients get 554, and a later good recipient makes them right."""

    def answer(connection: ServerConnection, event: Event) -> Reply:
        if isinstance(event, Rcpt) and event.path.local_part == "nobody":
            return Reply(550, "5.1.1", "No such user")
        return welcoming(connection, event)

    play(
        """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: RCPT TO:<nobody@example.com>
        S: 550 5.1.1 No such user
        C: DATA
        S: 554 5.5.1 No valid recipients
        C: BDAT 1 LAST
        C* x
        S: 554 5.5.1 No valid recipients
        C: RCPT TO:<bob@example.com>
        S: 250 2.1.5 Recipient ok
        C: RCPT TO:<nobody@example.com>
        S: 550 5.1.1 No such user
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C: .
        S: 250 2.0.0 Message accepted
        """,
        Framing.WHOLE,
        engine(),
        answer,
    )
