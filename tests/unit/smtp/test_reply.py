"""Replies are checked when they are made, and read and written as RFC 5321 says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp import reply
from gateway.smtp.reply import MAX_REPLY_LINE, Reply

STOCK = {name: value for name, value in vars(reply).items() if isinstance(value, Reply)}


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (199, None, "x"),
        (560, None, "x"),
        (266, None, "x"),
        (250, "5.0.0", "x"),
        (354, "3.0.0", "x"),
        (550, "5.1", "x"),
        (550, "5.1.1234", "x"),
        (550, None, "a\rb"),
        (550, None, "a\0b"),
        (550, None, "a\x1b[31m"),
        (550, None, "a\x85b"),
        (550, None, "x" * (MAX_REPLY_LINE - 5)),
        (550, "5.1.1", "x" * (MAX_REPLY_LINE - 11)),
        (550, None, "ok\n" + "\u00fc" * 254),
    ],
)
def test_a_reply_that_breaks_a_rule_is_not_made(code: int, enhanced: str | None, text: str) -> None:
    """Codes, classes, control characters and the length of each line are checked."""
    with pytest.raises(ValueError, match=r".+"):
        Reply(code, enhanced, text)


@pytest.mark.parametrize(
    ("given_reply", "octets"),
    [
        (Reply(250, None, "Ok"), b"250 Ok\r\n"),
        (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n"),
        (Reply(250, None, ""), b"250 \r\n"),
        (Reply(250, None, "a\nb\nc"), b"250-a\r\n250-b\r\n250 c\r\n"),
        (Reply(550, "5.7.1", "a\nb"), b"550-5.7.1 a\r\n550 5.7.1 b\r\n"),
        (Reply(550, "5.7.1", "\u00fc"), b"550 5.7.1 \xc3\xbc\r\n"),
        (Reply(550, None, "x" * (MAX_REPLY_LINE - 6)), b"550 " + b"x" * (MAX_REPLY_LINE - 6) + b"\r\n"),
    ],
)
def test_a_reply_on_the_wire(given_reply: Reply, octets: bytes) -> None:
    """Each line has the code, the enhanced code and CRLF, and all but the last a hyphen (RFC 5321 4.2.1, RFC 2034)."""
    assert given_reply.wire == octets


@pytest.mark.parametrize("name", STOCK)
def test_stock_replies_keep_their_rules(name: str) -> None:
    """A stock reply is one line of ASCII; all but intermediate ones have an enhanced code (RFC 2034)."""
    stock = STOCK[name]
    assert stock.text.isascii()
    assert "\n" not in stock.text
    assert (stock.enhanced is None) is (stock.code // 100 == 3)


def test_reading_what_people_write() -> None:
    """A reply is read back from its text; what is no reply is refused."""
    assert Reply.parse("550 5.7.1 Go away") == Reply(550, "5.7.1", "Go away")
    assert Reply.parse("421 Later") == Reply(421, None, "Later")
    assert Reply.parse("250") == Reply(250, None, "")
    for text in ("", "55", "5.7.1 no", "550-no", "abc"):
        with pytest.raises(ValueError, match="is not a reply"):
            Reply.parse(text)


@pytest.mark.parametrize(
    ("code", "lines", "expected"),
    [
        (250, [b"2.0.0 Ok: queued as 4XYZ"], Reply(250, "2.0.0", "Ok: queued as 4XYZ")),
        (550, [b"5.1.1 one", b"5.1.1 two"], Reply(550, "5.1.1", "one\ntwo")),
        (550, [b"5.1.1 one", b"5.1.2 two"], Reply(550, None, "5.1.1 one\n5.1.2 two")),
        (550, [b"4.1.1 odd"], Reply(550, None, "4.1.1 odd")),
        (250, [b"a\x00b\x1bc"], Reply(250, None, "a?b?c")),
        (250, [], Reply(250, None, "")),
        (250, [b"x" * 600], Reply(250, None, "x" * 506)),
    ],
)
def test_a_backends_reply_is_kept_and_made_harmless(code: int, lines: list[bytes], expected: Reply) -> None:
    """Code and text stay; an enhanced code is taken out where all lines agree; what could break the reading is not."""
    assert Reply.from_backend(code, lines) == expected


@given(st.integers(200, 559).filter(lambda code: code // 10 % 10 <= 5), st.lists(st.binary(max_size=600), max_size=4))
def test_any_reply_of_a_backend_can_be_passed_on(code: int, lines: list[bytes]) -> None:
    """Whatever the octets, a reply comes of them, and each of its lines fits."""
    wire = Reply.from_backend(code, [line.replace(b"\n", b"") for line in lines]).wire
    assert all(len(line) <= MAX_REPLY_LINE - 2 for line in wire.split(b"\r\n"))
    assert wire.endswith(b"\r\n")
    assert b"\r\n\r\n" not in wire


@pytest.mark.parametrize("name", STOCK)
def test_a_reply_changes_its_class(name: str) -> None:
    """Deferred, rejected or disconnecting, subject and detail of the enhanced code stay."""
    stock = STOCK[name]
    if stock.is_positive:
        return
    deferral, rejection, disconnection = stock.as_deferral(), stock.as_rejection(), stock.as_disconnection()
    assert (deferral.is_transient, rejection.is_permanent, disconnection.code) == (True, True, 421)
    assert stock.enhanced is not None
    for changed in (deferral, rejection, disconnection):
        assert changed.enhanced is not None
        assert changed.enhanced[1:] == stock.enhanced[1:]
        assert changed.text == stock.text
    assert (stock.as_deferral() if stock.is_transient else stock.as_rejection()) == stock


def test_a_reference_stands_behind_the_last_line() -> None:
    """The reference is what the client's administrator quotes."""
    assert Reply(550, "5.7.1", "a\nb").with_reference("R1").text == "a\nb [R1]"
    assert str(Reply(550, "5.7.1", "a\nb")) == "550 5.7.1 a / b"
