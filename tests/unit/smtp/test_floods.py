"""Nothing can be said for ever: whatever a client repeats, in whatever state, ends the session after some count."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp import reply
from gateway.smtp.events import Data, EndOfData, Event, Fatal, FatalReason, Hello, Quit, Rcpt, StartTls
from gateway.smtp.reply import Reply
from gateway.smtp.server import ServerConnection, ServerOptions, State, TlsState
from tests.support.smtp_engine import engine, feed, welcoming

LIMITS = {
    "errors": 3, "unknown_commands": 2, "idle_commands": 4, "refusals": 5, "transactions": 6, "chunks": 4,
    "empty_chunks": 3, "message_size": 200, "dropped_octets": 300, "auth_line": 512, "command_line": 512,
}  # fmt: skip
RECIPIENTS = 5
ENOUGH = 400
"""Rounds after which the limits above must have ended any session: the product of some of them, and not of all."""

LINES = {
    "HELO": b"HELO c\r\n", "EHLO": b"EHLO c\r\n", "MAIL": b"MAIL FROM:<a@b.example>\r\n",
    "RCPT": b"RCPT TO:<c@d.example>\r\n",
    "DATA": b"DATA\r\n", "a line of data": b"x\r\n", "the end of data": b".\r\n", "an empty chunk": b"BDAT 0\r\n",
    "a chunk": b"BDAT 1\r\nx", "a last chunk": b"BDAT 1 LAST\r\nx", "a chunk too large": b"BDAT 201\r\n" + b"x" * 201,
    "RSET": b"RSET\r\n", "NOOP": b"NOOP\r\n", "VRFY": b"VRFY a\r\n", "HELP": b"HELP\r\n", "EXPN": b"EXPN a\r\n",
    "ETRN": b"ETRN a\r\n", "nothing": b"\r\n", "no command": b"XYZZY\r\n", "a malformed MAIL": b"MAIL FROM:x\r\n",
    "a malformed RCPT": b"RCPT TO:<\r\n", "too long a line": b"x" * 600 + b"\r\n", "a line without an end": b"x" * 600,
    "a bare LF": b"NOOP\nNOOP\r\n", "AUTH": b"AUTH PLAIN AGEAYg==\r\n", "AUTH without a response": b"AUTH PLAIN\r\n",
    "STARTTLS": b"STARTTLS\r\n", "base64": b"AGEAYg==\r\n",
}  # fmt: skip

BEGINNINGS = {
    "greeted": b"",
    "ready": b"EHLO c\r\n",
    "in a transaction": b"EHLO c\r\nMAIL FROM:<a@b.example>\r\n",
    "with a recipient": b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n",
    "between chunks": b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 1\r\nx",
}

Door = Callable[[ServerConnection, Event], Reply]


class _Welcoming:
    """Takes what it may; so many recipients a transaction, as the admission does."""

    def __init__(self) -> None:
        self._recipients = 0

    def __call__(self, connection: ServerConnection, event: Event) -> Reply:
        if isinstance(event, Rcpt):
            self._recipients += 1
            if self._recipients <= RECIPIENTS:
                return reply.RECIPIENT_OK
            is_enough = self._recipients > 2 * RECIPIENTS
            return reply.TOO_MANY_RECIPIENTS.as_disconnection() if is_enough else reply.TOO_MANY_RECIPIENTS
        if not isinstance(event, Data | EndOfData):
            self._recipients = 0
        return reply.TLS_NOT_AVAILABLE if isinstance(event, StartTls) else welcoming(connection, event)


def _refusing(event: type[Event] | None, answer: Reply) -> Callable[[], Door]:
    """Takes everything but one kind of event, or nothing but HELO."""

    def make() -> Door:
        otherwise = _Welcoming()

        def door(connection: ServerConnection, asked: Event) -> Reply:
            if isinstance(asked, Quit) or (isinstance(asked, Hello) and event is not Hello):
                return otherwise(connection, asked)
            return answer if event is None or isinstance(asked, event) else otherwise(connection, asked)

        return door

    return make


NOT_NOW = Reply(451, "4.3.0", "Not now")
NO = Reply(550, "5.7.1", "No")
DOORS: dict[str, Callable[[], Door]] = {
    "takes everything": _Welcoming,
    "refuses the name": _refusing(Hello, NO),
    "refuses recipients": _refusing(Rcpt, NO),
    "defers everything": _refusing(None, NOT_NOW),
    "refuses before the message": _refusing(Data, NO),
    "refuses everything": _refusing(None, NO),
    "defers messages": _refusing(EndOfData, NOT_NOW),
}


def _connection() -> ServerConnection:
    return engine(
        ServerOptions(hostname="x", **LIMITS),  # type: ignore[arg-type]  # a test's kwargs
        tls=TlsState.OPTIONAL,
        auth_mechanisms=("PLAIN", "CRAM-MD5"),
    )


def _rounds(connection: ServerConnection, lines: bytes, door: Door) -> int:
    """How often the lines are taken before the session has ended."""
    for count in range(ENOUGH):
        if connection.state is State.CLOSED:
            return count
        feed(connection, lines, door)
        connection.data_to_send()
    return ENOUGH


def _cycles() -> Iterator[tuple[str, ...]]:
    yield from product(LINES, repeat=1)
    yield from product(LINES, repeat=2)
    for middle in LINES:  # what a transaction or message can hold
        yield ("MAIL", "RCPT", middle)
        yield ("MAIL", "RCPT", middle, "RSET")
        yield ("MAIL", "RCPT", "DATA", "the end of data", middle)
        yield ("MAIL", "RCPT", "an empty chunk", middle)


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("door", DOORS)
def test_whatever_is_repeated_ends_the_session(door: str, beginning: str) -> None:
    """One line, or any two, or what can stand in a transaction, over and over, in every state: it ends with 421.

    A message that goes on, line by line, is bounded by its time (``timeouts.message``), which is the door's.
    """
    for cycle in _cycles():
        connection, answers = _connection(), DOORS[door]()
        feed(connection, BEGINNINGS[beginning], answers)
        rounds = _rounds(connection, b"".join(LINES[name] for name in cycle), answers)
        assert rounds < ENOUGH or connection.state is State.DATA, (cycle, connection.state)


@given(st.lists(st.sampled_from(sorted(LINES)), min_size=3, max_size=9), st.sampled_from(sorted(DOORS)))
def test_so_does_any_longer_round(cycle: list[str], door: str) -> None:
    """Any longer cycle, too."""
    connection, answers = _connection(), DOORS[door]()
    feed(connection, BEGINNINGS["ready"], answers)
    assert (
        _rounds(connection, b"".join(LINES[name] for name in cycle), answers) < ENOUGH or connection.state is State.DATA
    )


CASES = {
    "refused senders": (FatalReason.REFUSALS, {"refusals": 3}, "refuses everything", b"MAIL FROM:<a@b.example>\r\n", 4),
    "transactions": (FatalReason.TRANSACTIONS, {"transactions": 3}, "takes everything", b"MAIL FROM:<>\r\nRSET\r\n", 4),
    "empty chunks": (FatalReason.CHUNKS, {"empty_chunks": 3}, "takes everything", b"BDAT 0\r\n", 4),
    "small chunks": (FatalReason.CHUNKS, {"chunks": 3}, "takes everything", b"BDAT 1\r\nx", 4),
    "octets of a line": (
        FatalReason.DROPPED_OCTETS,
        {"command_line": 512, "dropped_octets": 4000},
        "takes everything",
        b"x" * 1024,
        4,
    ),
    "octets of a chunk": (FatalReason.DROPPED_OCTETS, {"dropped_octets": 40}, "refuses recipients", b"BDAT 41\r\n", 1),
    "lines of an AUTH exchange": (FatalReason.IDLE_COMMANDS, {"idle_commands": 3}, "asks on", b"AGEAYg==\r\n", 3),
}
ASKS_ON = _refusing(None, Reply(334, None, "QQ=="))


@pytest.mark.parametrize("case", CASES)
def test_the_limit_is_exact(case: str) -> None:
    """As many as the limit are taken, and the next one ends the session, for the reason that the record gives."""
    reason, limits, door, lines, fatal_at = CASES[case]
    beginning = {
        FatalReason.CHUNKS: BEGINNINGS["with a recipient"],
        FatalReason.IDLE_COMMANDS: BEGINNINGS["ready"] + b"AUTH CRAM-MD5\r\n",
    }.get(reason, BEGINNINGS["ready"])
    answers = DOORS.get(door, ASKS_ON)()
    connection = engine(
        ServerOptions(hostname="x", **limits),  # type: ignore[arg-type]  # a test's kwargs
        auth_mechanisms=("CRAM-MD5",),
    )
    feed(connection, beginning, answers)
    ends = [
        [event.reason for event in feed(connection, lines, answers) if isinstance(event, Fatal)]
        for _ in range(fatal_at)
    ]
    assert ends == [[]] * (fatal_at - 1) + [[reason]]
    assert connection.state is State.CLOSED
    assert connection.data_to_send().rpartition(b"\r\n421")[2].startswith(b" 4.7.0 ")


def test_a_message_in_a_reasonable_number_of_chunks_is_taken() -> None:
    """A thousand chunks of any size, and one more for each 32 octets: enough for whoever sends each line as a chunk."""
    connection = engine(ServerOptions(hostname="x", chunks=10))
    feed(connection, BEGINNINGS["with a recipient"])
    assert not [
        event
        for _ in range(500)
        for event in feed(connection, b"BDAT 40\r\n" + b"x" * 38 + b"\r\n")
        if isinstance(event, Fatal)
    ]
    assert connection.state is State.BDAT
