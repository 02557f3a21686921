"""The client's side of SMTP: replies at every framing, capabilities, what breaks the protocol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp.client import MAX_LINE, MAX_LINES, Capabilities, ClientConnection, Command
from gateway.smtp.reply import Reply

EHLO = (
    b"250-backend.example\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-XCLIENT NAME ADDR\r\n250-XFORWARD NAME\r\n"
    b"250-AUTH PLAIN LOGIN\r\n250-AUTH=LOGIN CRAM-MD5\r\n250-8bitmime\r\n250 DSN\r\n"
)

# commands that wait, octets, the replies
CASES = [
    pytest.param([Command.GREETING], b"220 ok\r\n", [Reply(220, None, "ok")], id="greeting"),
    pytest.param([Command.MAIL], b"250 2.1.0 Ok\r\n", [Reply(250, "2.1.0", "Ok")], id="enhanced"),
    pytest.param([Command.MAIL], b"250\r\n", [Reply(250, None, "")], id="code alone"),
    pytest.param([Command.MAIL], b"250 \r\n", [Reply(250, None, "")], id="empty text"),
    pytest.param([Command.MAIL], b"250 ok\n", [Reply(250, None, "ok")], id="LF alone"),
    pytest.param(
        [Command.MAIL, Command.RCPT],
        b"250 2.1.0 Ok\r\n550 5.1.1 No such user\r\n",
        [Reply(250, "2.1.0", "Ok"), Reply(550, "5.1.1", "No such user")],
        id="two",
    ),
    pytest.param(
        [Command.RCPT],
        b"550-5.7.1 One\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n",
        [Reply(550, "5.7.1", "One\ntwo\nthree")],
        id="three lines",
    ),
    pytest.param(
        [Command.RCPT, Command.DATA],
        b"450-one\r\n450 two\r\n354 go\r\n",
        [Reply(450, None, "one\ntwo"), Reply(354, None, "go")],
        id="two lines, one line",
    ),
    pytest.param([Command.RCPT], b"550 5.1.1 a\x00b\x1bc\r\n", [Reply(550, "5.1.1", "a?b?c")], id="control characters"),
    pytest.param([Command.RCPT], "550 5.1.1 grün\r\n".encode(), [Reply(550, "5.1.1", "grün")], id="UTF-8"),
]

PROBLEMS = [
    pytest.param([Command.MAIL], b"hello\r\n", id="no code"),
    pytest.param([Command.MAIL], b"250x\r\n", id="no separator"),
    pytest.param([Command.MAIL], b"650 ok\r\n", id="code 6yz"),
    pytest.param([Command.MAIL], b"199 ok\r\n", id="code 1yz"),
    pytest.param([Command.MAIL], b"\r\n", id="empty line"),
    pytest.param([Command.MAIL], b"250-a\r\n251 b\r\n", id="two codes"),
    pytest.param([Command.MAIL], b"354 go\r\n", id="354 to MAIL"),
    pytest.param([Command.RCPT], b"220 hi\r\n", id="220 to RCPT"),
    pytest.param([Command.DATA], b"250 ok\r\n", id="250 to DATA"),
    pytest.param([Command.CONTENT], b"251 ok\r\n", id="251 to the end of data"),
    pytest.param([], b"250 ok\r\n", id="a reply to nothing"),
    pytest.param([Command.MAIL], b"250 " + b"x" * (MAX_LINE + 1) + b"\r\n", id="a line without bound"),
    pytest.param([Command.MAIL], b"2" * (MAX_LINE + 1), id="a line without end"),
    pytest.param([Command.MAIL], b"250-x\r\n" * (MAX_LINES + 1), id="lines without bound"),
]


def connection(*commands: Command) -> ClientConnection:
    """An engine whose commands wait for their replies."""
    engine = ClientConnection()
    engine.pending.clear()
    engine.pending.extend(commands)
    return engine


def feed(engine: ClientConnection, octets: bytes, size: int) -> list[Reply]:
    """Feed octets in pieces of a size."""
    found: list[Reply] = []
    for start in range(0, len(octets), size):
        found += engine.receive_data(octets[start : start + size])
    return found


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(("commands", "octets", "expected"), CASES)
def test_replies(commands: list[Command], octets: bytes, expected: list[Reply], size: int) -> None:
    """Replies come out the same however they are cut."""
    engine = connection(*commands)
    assert feed(engine, octets, size) == expected
    assert engine.problem is None
    assert not engine.pending
    assert not engine.has_early_bytes


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(("commands", "octets"), PROBLEMS)
def test_problems(commands: list[Command], octets: bytes, size: int) -> None:
    """What is no reply, or out of step, is a problem and yields no reply."""
    engine = connection(*commands)
    assert feed(engine, octets, size) == []
    assert engine.problem is not None


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_reply_before_garbage_counts(size: int) -> None:
    """The end-of-data 250 is not lost when the server says something senseless behind it."""
    engine = connection(Command.CONTENT)
    assert feed(engine, b"250 2.0.0 queued\r\n421 4.3.2 going down\r\n", size) == [Reply(250, "2.0.0", "queued")]
    assert engine.problem is not None


@pytest.mark.parametrize("size", [1, 10_000])
def test_half_a_reply_is_kept(size: int) -> None:
    """A reply whose line has not ended is none yet, and shows as early bytes."""
    engine = connection(Command.STARTTLS, Command.HELLO)
    assert feed(engine, b"220 go\r\n250-inj", size) == [Reply(220, None, "go")]
    assert engine.has_early_bytes


def test_lines_of_an_unfinished_reply_are_early_bytes() -> None:
    """Whole lines of a reply that has not ended show as early bytes too."""
    engine = connection(Command.STARTTLS, Command.HELLO)
    engine.receive_data(b"220 go\r\n250-inj\r\n")
    assert engine.has_early_bytes


@pytest.mark.parametrize("size", [1, 10_000])
def test_capabilities(size: int) -> None:
    """The EHLO reply is read into capabilities, in any case and with the old form of AUTH."""
    engine = connection(Command.HELLO)
    feed(engine, EHLO, size)
    assert engine.capabilities == Capabilities(
        keywords=frozenset({"PIPELINING", "SIZE", "XCLIENT", "XFORWARD", "AUTH", "8BITMIME", "DSN"}),
        size=10_240_000,
        auth=("PLAIN", "LOGIN", "CRAM-MD5"),
        xclient=frozenset({"NAME", "ADDR"}),
        xforward=frozenset({"NAME"}),
    )


def test_a_refused_ehlo_offers_nothing() -> None:
    """After a refused EHLO nothing that an earlier one offered is left."""
    engine = connection(Command.HELLO, Command.HELLO)
    engine.receive_data(EHLO)
    engine.receive_data(b"550 no\r\n")
    assert engine.capabilities == Capabilities()


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [(None, 5, None), (0, 5, 5), (7, 5, 5), (0, 0, 0), (7, None, None)],
)
def test_common_size(first: int | None, second: int | None, common: int | None) -> None:
    """Two servers' common SIZE is the smaller limit, none where one does not offer it."""
    assert Capabilities(size=first).common(Capabilities(size=second)).size == common


def test_common_capabilities() -> None:
    """What two servers offer in common is what both do."""
    one = Capabilities(keywords=frozenset("AB"), auth=("PLAIN", "LOGIN"), xclient=frozenset("N"))
    two = Capabilities(keywords=frozenset("BC"), auth=("LOGIN",), xclient=frozenset("NA"))
    assert one.common(two) == Capabilities(keywords=frozenset("B"), auth=("LOGIN",), xclient=frozenset("N"))


def test_commands() -> None:
    """Commands leave as one piece of octets and wait for their replies in order."""
    engine = connection()
    octets = engine.commands([(Command.MAIL, "MAIL FROM:<jörg@example.com> SMTPUTF8"), (Command.RCPT, "RCPT TO:<a@b>")])
    assert octets == "MAIL FROM:<jörg@example.com> SMTPUTF8\r\nRCPT TO:<a@b>\r\n".encode()
    assert list(engine.pending) == [Command.MAIL, Command.RCPT]


@pytest.mark.parametrize("text", ["a\r\nDATA", "a\nb", "a\rb", "a\0b"])
def test_no_command_hides_in_another(text: str) -> None:
    """A line end or NUL in a command is refused and leaves nothing waiting."""
    engine = connection()
    with pytest.raises(ValueError, match="control character"):
        engine.commands([(Command.MAIL, f"MAIL FROM:<{text}>")])
    assert not engine.pending


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"250 ok\r\n", b"250-", b"421 x\r\n"]), max_size=20))
def test_any_octets(pieces: list[bytes]) -> None:
    """Any octets give replies or a problem, nothing else, and no more replies than commands."""
    engine = connection(*[Command.RCPT] * 3)
    found = [reply for piece in pieces for reply in engine.receive_data(piece)]
    assert len(found) + len(engine.pending) <= 3
