"""Any octets in any framing give events or protocol errors, the same at any split, within bounded memory."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp import reply
from gateway.smtp.events import AuthResponse, Chunk, EndOfChunk, EndOfData, Event, Fatal, Rcpt, Refused, StartTls
from gateway.smtp.reply import Reply
from gateway.smtp.server import BareNewlines, NulOctets, ServerConnection, ServerOptions, State, TlsState
from tests.support.smtp_engine import engine, feed, joined, octets, welcoming

COMMANDS = [
    b"EHLO c\r\n",
    b"HELO c\r\n",
    b"MAIL FROM:<a@b> SIZE=1\r\n",
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<\xc3\xbc@b> SMTPUTF8\r\n",
    b'RCPT TO:<"a b"@[IPv6:::1]> NOTIFY=NEVER\r\n',
    b"RCPT TO:<refused@b>\r\n",
    b"RCPT TO:<a@b>\r\n",
    b"DATA\r\n",
    b"BDAT 3\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 7 last\r\n",
    b"BDAT\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"VRFY x\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH PLAIN AAAA\r\n",
    b"STARTTLS\r\n",
    b"GET / HTTP/1.0\r\n",
    b"XYZZY\r\n",
]
LIMIT = 60
text = st.sampled_from(
    [b"\r\n", b"\r\n.\r\n", b".", b"\r", b"\n", b"\0", b" ", b"<", b">", b"@", b"abc", b"\xff", b"*", b"x" * LIMIT]
)
talk = st.lists(st.sampled_from(COMMANDS) | text | st.binary(max_size=6), max_size=40).map(b"".join)
mail = st.builds(
    lambda start, body, rest: start + body + rest,
    st.sampled_from(
        [b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"]
    ),
    st.lists(text, max_size=20).map(b"".join),
    talk,
)
settings = st.builds(
    ServerOptions,
    hostname=st.just("x"),
    message_size=st.sampled_from([0, 20, 1000]),
    header_size=st.sampled_from([0, 10]),
    command_line=st.just(LIMIT),
    auth_line=st.just(2 * LIMIT),
    errors=st.sampled_from([3, 100]),
    bare_newlines=st.sampled_from(BareNewlines),
    nul=st.sampled_from(NulOctets),
)


def fussy(connection: ServerConnection, event: Event) -> Reply:
    """A door that refuses something of everything, always the same."""
    if isinstance(event, Rcpt) and event.path.local_part == "refused":
        return Reply(550, "5.1.1", "No")
    if isinstance(event, AuthResponse):
        return Reply(235, "2.7.0", "Yes") if len(event.line) == 4 else reply.AUTH_CANCELLED
    if isinstance(event, EndOfChunk | EndOfData):
        return event.problem or reply.OK
    return welcoming(connection, event)


def converse(options: ServerOptions, tls: TlsState, pieces: list[bytes]) -> tuple[list[Event], bytes, State]:
    """Events (joined), replies and the last state; checks the bounds on the way."""
    connection = engine(options, tls=tls, auth_mechanisms=("PLAIN",))
    events: list[Event] = []
    for piece in pieces:
        events += feed(connection, piece, fussy)
        assert len(connection.unread) <= 2 * LIMIT
    out = connection.data_to_send()
    assert out == b"" or out.endswith(b"\r\n")
    fatal = [index for index, event in enumerate(events) if isinstance(event, Fatal)]
    assert fatal in ([], [len(events) - 1])
    assert connection.error_count >= sum(isinstance(event, Refused) for event in events)
    events = joined(events)
    if events and isinstance(events[-1], Chunk):
        events.pop()  # of a message without an end: how much of it is given out before a problem depends on the framing
    return events, out, connection.state


@given(
    talk | mail, st.lists(st.integers(0, 400), max_size=6), settings, st.sampled_from([TlsState.NONE, TlsState.ACTIVE])
)
def test_any_octets_give_the_same_events_at_any_split(
    data: bytes, cuts: list[int], options: ServerOptions, tls: TlsState
) -> None:
    """Whole, octet by octet and cut anywhere: same events, same replies, same state; never an exception."""
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    whole = converse(options, tls, [data])
    assert converse(options, tls, octets(data)) == whole
    assert converse(options, tls, [data[start:end] for start, end in pairwise(places)]) == whole


@given(talk, settings, st.sampled_from(TlsState))
def test_any_octets_with_starttls_give_events(data: bytes, options: ServerOptions, tls: TlsState) -> None:
    """Where STARTTLS is possible the framing matters, but nothing is raised and nothing is read behind it."""
    for pieces in ([data], octets(data)):
        events, _, _ = converse(options, tls, pieces)
        kinds = [type(event) for event in events]
        if StartTls in kinds:
            assert kinds[kinds.index(StartTls) + 1 :] in ([], [Fatal])


@given(st.binary(max_size=300))
def test_a_message_is_what_stands_before_the_first_end(body: bytes) -> None:
    """Random octets in DATA: the message is the octets before the first CRLF.CRLF, unstuffed, or it is refused."""
    connection = engine(ServerOptions(hostname="x", nul=NulOctets.ACCEPT))
    feed(connection, b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n")
    events = joined(feed(connection, body + b"\r\n.\r\n"))
    message = (b"\r\n" + body + b"\r\n.\r\n").partition(b"\r\n.\r\n")[0].removeprefix(b"\r\n")
    end = next(event for event in events if isinstance(event, EndOfData))
    if end.problem is None and message:
        assert events[0] == Chunk((b"\r\n" + message + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])
