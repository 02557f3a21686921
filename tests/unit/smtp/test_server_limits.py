"""The engine's limits, STARTTLS and AUTH."""

import pytest

from gateway.smtp import reply
from gateway.smtp.events import Auth, AuthResponse, Event, Fatal, FatalReason, Hello, Mail, Quit, Refused, StartTls
from gateway.smtp.path import NULL_REVERSE_PATH, Parameter
from gateway.smtp.reply import Reply
from gateway.smtp.server import ServerConnection, ServerOptions, State, TlsState
from tests.support.smtp_engine import Framing, engine, feed, feed_pieces, octets, play, welcoming

FRAMINGS = [False, True]


def run(connection: ServerConnection, data: bytes, *, pieces: bool) -> list[Event]:
    """Feed at once or octet by octet."""
    return feed_pieces(connection, octets(data) if pieces else [data])


@pytest.mark.parametrize("pieces", FRAMINGS)
def test_a_line_over_the_limit_is_dropped_and_answered_once(pieces: bool) -> None:  # noqa: FBT001 - two framings
    """A line of exactly the limit is read; one octet more gets one 500, and the next command is read as usual."""
    connection = engine(ServerOptions(hostname="x", command_line=20))
    data = b"NOOP " + b"x" * 13 + b"\r\n" + b"NOOP " + b"x" * 14 + b"\r\n" + b"QUIT" * 1000 + b"\r\nNOOP\r\n"
    assert run(connection, data, pieces=pieces) == [Refused(reply.LINE_TOO_LONG, "")] * 2
    assert connection.data_to_send() == (reply.OK.wire + reply.LINE_TOO_LONG.wire * 2 + reply.OK.wire)


def test_a_line_without_an_end_takes_no_memory() -> None:
    """However much comes without CRLF, the engine keeps no more than a line."""
    connection = engine(ServerOptions(hostname="x", command_line=2048))
    for _ in range(1000):
        assert feed(connection, b"x" * 1500 + b"\r\n"[:1]) == []
        assert len(connection.unread) <= 2048
    assert feed(connection, b"\nNOOP\r\n") == [Refused(reply.LINE_TOO_LONG, "")]


@pytest.mark.parametrize("pieces", FRAMINGS)
@pytest.mark.parametrize(
    ("options", "lines", "allowed", "fatal"),
    [
        ({"errors": 3}, b"MAIL FROM:<>\r\n", 3, Fatal(reply.TOO_MANY_ERRORS, FatalReason.TOO_MANY_ERRORS)),
        ({"unknown_commands": 3}, b"XYZZY\r\n", 3, Fatal(reply.TOO_MANY_ERRORS, FatalReason.UNKNOWN_COMMANDS)),
        ({"idle_commands": 3}, b"NOOP\r\n", 3, Fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)),
        ({"idle_commands": 3}, b"VRFY x\r\n", 3, Fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)),
        ({"idle_commands": 3}, b"RSET\r\n", 3, Fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)),
        ({"idle_commands": 3}, b"EHLO x\r\n", 3, Fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)),
    ],
)
def test_too_much_of_something_ends_the_session(
    options: dict[str, int],
    lines: bytes,
    allowed: int,
    fatal: Fatal,
    pieces: bool,  # noqa: FBT001 - two framings
) -> None:
    """As many as the limit allows are answered; the next gets 421, the session is closed and the rest not read."""
    connection = engine(ServerOptions(hostname="x", **options))  # type: ignore[arg-type]  # a test's kwargs
    events = run(connection, lines * allowed, pieces=pieces)
    assert not [event for event in events if isinstance(event, Fatal)]
    connection.data_to_send()
    assert run(connection, lines * 2, pieces=pieces) == [fatal]
    assert connection.data_to_send() == fatal.reply.wire
    assert connection.state is State.CLOSED


def test_an_accepted_message_is_progress() -> None:
    """The count of commands that do nothing begins again with each accepted message, and with nothing less."""
    connection = engine(ServerOptions(hostname="x", idle_commands=4))
    accepted = b"HELO c\r\nNOOP\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nNOOP\r\nDATA\r\n.\r\n"
    assert not [event for _ in range(20) for event in feed(connection, accepted) if isinstance(event, Fatal)]
    given_up = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRSET\r\n"
    fatal = Fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)
    assert [event for _ in range(5) for event in feed(connection, given_up) if isinstance(event, Fatal)] == [fatal]


@pytest.mark.parametrize("pieces", FRAMINGS)
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"connect x:25 HTTP/1.1"])
def test_commands_of_http_end_the_session(line: bytes, pieces: bool) -> None:  # noqa: FBT001 - two framings
    """A browser that was made to speak to a mail server is cut off before the body that it carries."""
    connection = engine()
    data = line + b"\r\nHost: x\r\n\r\nHELO c\r\nMAIL FROM:<>\r\n"
    assert run(connection, data, pieces=pieces) == [Fatal(reply.FORBIDDEN_COMMAND, FatalReason.FORBIDDEN_COMMAND)]


@pytest.mark.parametrize("pieces", FRAMINGS)
@pytest.mark.parametrize("line", [b"BDAT", b"BDAT x", b"BDAT -1 LAST", b"BDAT 10 FIRST", b"BDAT \xff"])
def test_a_bdat_without_a_size_ends_the_session(line: bytes, pieces: bool) -> None:  # noqa: FBT001 - two framings
    """Nobody knows where its octets end, so none of them may be read as a command."""
    connection = engine()
    assert run(connection, line + b"\r\nQUIT\r\n", pieces=pieces) == [
        Fatal(reply.MALFORMED_BDAT, FatalReason.MALFORMED_BDAT)
    ]


def test_chunking_that_is_not_offered_is_refused_with_its_octets() -> None:
    """Without CHUNKING, BDAT gets 502 and its octets are dropped."""
    connection = engine(extensions=frozenset())
    feed(connection, b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")
    assert feed(connection, b"BDAT 6 LAST\r\nQUIT\r\n") == [Refused(reply.NOT_IMPLEMENTED, "BDAT")]


def test_the_door_can_end_the_session_with_421_while_data_is_due() -> None:
    """421 to DATA closes, and the message that follows is not read."""
    connection = engine()
    feed(connection, b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")
    feed(connection, b"DATA\r\nMAIL FROM:<>\r\n.\r\n", lambda _connection, _event: reply.SHUTTING_DOWN)
    assert connection.state is State.CLOSED
    assert connection.next_event() is None


# -- STARTTLS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [Framing.WHOLE, Framing.OCTETS])
def test_required_tls_lets_nothing_else_through(framing: Framing) -> None:
    """Before TLS only NOOP, EHLO, HELO, STARTTLS and QUIT are taken (RFC 3207 4)."""
    connection = engine(tls=TlsState.REQUIRED)
    events = play(
        """
        C: NOOP
        S: 250 2.0.0 Ok
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 530 5.7.0 Must issue a STARTTLS command first
        C: RSET
        S: 530 5.7.0 Must issue a STARTTLS command first
        C: VRFY x
        S: 530 5.7.0 Must issue a STARTTLS command first
        C: BDAT 6 LAST
        C* QUIT\\r\\n
        S: 530 5.7.0 Must issue a STARTTLS command first
        C: STARTTLS now
        S: 501 5.5.4 This command takes no arguments
        C: STARTTLS
        S: 220 2.0.0 Ready to start TLS
        """,
        framing,
        connection,
    )
    assert events[-1] == StartTls()
    connection.tls_started()
    play(
        """
        C: MAIL FROM:<>
        S: 503 5.5.1 Send HELO or EHLO first
        C: EHLO c
        S: 250-mx.example.com
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-ENHANCEDSTATUSCODES
        S: 250 SIZE 50000000
        C: STARTTLS
        S: 503 5.5.1 TLS is already active
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        """,
        framing,
        connection,
    )


def test_starttls_is_offered_where_it_is_possible() -> None:
    """EHLO lists STARTTLS while TLS is possible and not active; where it is not, the command gets 502."""
    for tls, offered in (
        (TlsState.NONE, False),
        (TlsState.OPTIONAL, True),
        (TlsState.REQUIRED, True),
        (TlsState.ACTIVE, False),
    ):
        connection = engine(tls=tls)
        feed(connection, b"EHLO c\r\n")
        assert (b"STARTTLS" in connection.data_to_send()) is offered
    connection = engine()
    feed(connection, b"HELO c\r\n")
    assert feed(connection, b"STARTTLS\r\n") == [Refused(reply.NOT_IMPLEMENTED, "STARTTLS")]


EARLY = Fatal(reply.EARLY_TLS_OCTETS, FatalReason.EARLY_TLS_OCTETS)


def test_octets_in_the_packet_of_starttls_end_the_session() -> None:
    """A command injected behind STARTTLS is never read, neither before nor after the handshake."""
    connection = engine(tls=TlsState.OPTIONAL)
    feed(connection, b"EHLO c\r\n")
    connection.data_to_send()
    assert feed(connection, b"STARTTLS\r\nMAIL FROM:<evil@example.org>\r\n") == [EARLY]
    assert connection.data_to_send() == reply.EARLY_TLS_OCTETS.wire
    assert connection.state is State.CLOSED


def test_octets_before_the_220_of_starttls_end_the_session() -> None:
    """They came before the client could know that TLS would start: 220 is not said any more."""
    connection = engine(tls=TlsState.OPTIONAL)
    feed(connection, b"EHLO c\r\n")
    connection.data_to_send()
    connection.receive_data(b"STARTTLS\r\n")
    assert connection.next_event() == StartTls()
    connection.receive_data(b"M")
    connection.reply(reply.READY_FOR_TLS)
    assert connection.next_event() == EARLY
    assert connection.data_to_send() == reply.EARLY_TLS_OCTETS.wire


def test_plain_octets_between_220_and_the_handshake_end_the_session() -> None:
    """What reaches the engine before ``tls_started`` did not come through TLS, even if the handshake then succeeds."""
    connection = engine(tls=TlsState.OPTIONAL)
    feed(connection, b"EHLO c\r\n")
    feed(connection, b"STARTTLS\r\n")
    connection.receive_data(b"MAIL FROM:<evil@example.org>\r\n")
    connection.tls_started()
    assert connection.next_event() == EARLY


def test_a_refused_starttls_changes_nothing() -> None:
    """After 454 the session goes on without TLS; tls_started is then the door's error."""
    connection = engine(tls=TlsState.OPTIONAL)
    feed(connection, b"EHLO c\r\n")
    feed(connection, b"STARTTLS\r\n", lambda _connection, _event: reply.TLS_NOT_AVAILABLE)
    with pytest.raises(RuntimeError):
        connection.tls_started()
    assert feed(connection, b"MAIL FROM:<>\r\n") == [Mail(NULL_REVERSE_PATH, ())]


# -- AUTH ---------------------------------------------------------------------------------------------------------


def authentication(connection: ServerConnection, event: Event) -> Reply:
    """A backend that asks once and takes ``eA==``."""
    if isinstance(event, AuthResponse):
        return Reply(235, "2.7.0", "Welcome") if event.line == b"eA==" else reply.AUTH_CANCELLED
    return welcoming(connection, event)


@pytest.mark.parametrize("framing", Framing)
def test_auth_goes_through_challenges_to_success(framing: Framing) -> None:
    """A cancelled exchange leaves the session unauthenticated; a good one opens MAIL, once and not within mail."""
    events = play(
        """
        C: HELO c
        S: 250 mx.example.com
        C: MAIL FROM:<>
        S: 530 5.7.0 Authentication required
        C: AUTH OTHER
        S: 504 5.5.4 Unrecognized authentication type
        C: AUTH PLAIN !
        S: 501 5.5.4 Syntax error in parameters or arguments
        C: AUTH login
        S: 334 VXNlcm5hbWU6
        C: *
        S: 501 5.7.0 Authentication cancelled
        C: AUTH PLAIN =
        S: 334 VXNlcm5hbWU6
        C: MAIL FROM:<>
        S: 501 5.7.0 Authentication cancelled
        C: MAIL FROM:<>
        S: 530 5.7.0 Authentication required
        C: AUTH PLAIN
        S: 334 VXNlcm5hbWU6
        C: eA==
        S: 235 2.7.0 Welcome
        C: AUTH PLAIN
        S: 503 5.5.1 Already authenticated
        C: MAIL FROM:<>
        S: 250 2.1.0 Sender ok
        C: AUTH PLAIN
        S: 503 5.5.1 Bad sequence of commands
        """,
        framing,
        engine(tls=TlsState.ACTIVE, auth_mechanisms=("PLAIN", "LOGIN"), auth_required=True),
        authentication,
    )
    assert [event for event in events if isinstance(event, Auth | AuthResponse)] == [
        Auth("LOGIN", None),
        AuthResponse(b"*"),
        Auth("PLAIN", b"="),
        AuthResponse(b"*"),
        Auth("PLAIN", None),
        AuthResponse(b"eA=="),
    ]


@pytest.mark.parametrize("pieces", FRAMINGS)
def test_lines_of_auth_have_a_limit_of_their_own(pieces: bool) -> None:  # noqa: FBT001 - two framings
    """AUTH lines may be long (RFC 4954 4); an answer that is too long is a cancellation, a command too long is 500."""
    options = ServerOptions(hostname="x", command_line=30, auth_line=100)
    connection = engine(options, tls=TlsState.ACTIVE, auth_mechanisms=("PLAIN",))
    run(connection, b"HELO c\r\n", pieces=pieces)
    good = b"A" * 84
    assert run(connection, b"AUTH PLAIN " + good + b"\r\n", pieces=pieces) == [Auth("PLAIN", good)]
    assert run(connection, b"A" * 96 + b"\r\n", pieces=pieces) == [AuthResponse(b"A" * 96)]
    assert connection.authenticated
    connection = engine(options, tls=TlsState.ACTIVE, auth_mechanisms=("PLAIN",))
    run(connection, b"HELO c\r\n", pieces=pieces)
    assert run(connection, b"AUTH PLAIN " + b"A" * 100 + b"\r\n", pieces=pieces) == [Refused(reply.LINE_TOO_LONG, "")]
    run(connection, b"AUTH PLAIN\r\n", pieces=pieces)
    assert run(connection, b"A" * 100 + b"\r\n", pieces=pieces) == [AuthResponse(b"*")]


def test_mechanisms_that_show_the_password_need_tls() -> None:
    """Without TLS only other mechanisms are offered; PLAIN and LOGIN get 538."""
    connection = engine(tls=TlsState.OPTIONAL, auth_mechanisms=("PLAIN", "SCRAM-SHA-256"))
    feed(connection, b"EHLO c\r\n")
    assert b"AUTH SCRAM-SHA-256\r\n" in connection.data_to_send()
    assert feed(connection, b"AUTH PLAIN AGEAYg==\r\n") == [Refused(reply.AUTH_NEEDS_TLS, "AUTH")]
    connection = engine(tls=TlsState.ACTIVE, auth_mechanisms=("PLAIN", "SCRAM-SHA-256"))
    feed(connection, b"EHLO c\r\n")
    assert b"AUTH PLAIN SCRAM-SHA-256\r\n" in connection.data_to_send()


def test_auth_that_is_not_offered() -> None:
    """Without mechanisms AUTH gets 502, and the AUTH parameter of MAIL gets 555."""
    connection = engine()
    feed(connection, b"EHLO c\r\n")
    assert b"AUTH" not in connection.data_to_send()
    assert feed(connection, b"AUTH PLAIN\r\n") == [Refused(reply.NOT_IMPLEMENTED, "AUTH")]
    assert feed(connection, b"MAIL FROM:<> AUTH=<>\r\n") == [Refused(reply.UNSUPPORTED_PARAMETER, "MAIL")]
    connection = engine(tls=TlsState.ACTIVE, auth_mechanisms=("PLAIN",))
    feed(connection, b"EHLO c\r\n")
    assert feed(connection, b"MAIL FROM:<> AUTH=<>\r\n") == [Mail(NULL_REVERSE_PATH, (Parameter("AUTH", "<>"),))]


def test_starttls_after_auth_is_refused() -> None:
    """What the client proved without TLS would have to be forgotten, so the order is refused."""
    connection = engine(tls=TlsState.OPTIONAL, auth_mechanisms=("CRAM-MD5",))
    feed(connection, b"EHLO c\r\n")
    feed(connection, b"AUTH CRAM-MD5\r\n", lambda _connection, _event: Reply(235, "2.7.0", "Welcome"))
    assert feed(connection, b"STARTTLS\r\n") == [Refused(reply.BAD_SEQUENCE, "STARTTLS")]


def test_a_refused_greeting_leaves_only_quit() -> None:
    """After 554 everything but QUIT gets 503 (RFC 5321 3.1), TLS or not."""
    connection = ServerConnection(ServerOptions(hostname="x"), tls=TlsState.REQUIRED, extensions=frozenset())
    connection.greet(Reply(554, "5.3.2", "No"))
    assert feed(connection, b"EHLO c\r\nNOOP\r\n") == [
        Refused(reply.BAD_SEQUENCE, "EHLO"),
        Refused(reply.BAD_SEQUENCE, "NOOP"),
    ]
    assert feed(connection, b"QUIT\r\n") == [Quit()]
    assert connection.state is State.CLOSED


def test_what_is_offered_can_change_within_a_session() -> None:
    """Extensions follow what the door sets: a backend may have changed between two EHLOs."""
    connection = engine(extensions=frozenset({"8BITMIME"}))
    feed(connection, b"EHLO c\r\n")
    assert b"8BITMIME" in connection.data_to_send()
    connection.extensions = frozenset()
    assert feed(connection, b"EHLO c\r\n") == [Hello("c", extended=True)]
    assert b"8BITMIME" not in connection.data_to_send()
    assert feed(connection, b"MAIL FROM:<> BODY=8BITMIME\r\n") == [Refused(reply.UNSUPPORTED_PARAMETER, "MAIL")]
