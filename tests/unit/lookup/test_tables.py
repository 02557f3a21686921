"""socketmap and tcp_table without I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.answer import Answer, UnverifiableError
from gateway.lookup.socketmap import ReplyError, Socketmap
from gateway.lookup.tcp_table import TcpTable

SOCKETMAP = Socketmap("virtual")
TCP = TcpTable()


def test_socketmap_asks_by_a_netstring() -> None:
    """The map's name, a space, the key; the length counts octets."""
    assert SOCKETMAP.request("alice@example.com") == b"25:virtual alice@example.com,"
    assert SOCKETMAP.request("jörg@x") == b"15:virtual j\xc3\xb6rg@x,"


@pytest.mark.parametrize(
    ("received", "wanted"),
    [
        (b"9:OK a@b.cd,", Answer(True, "OK a@b.cd")),
        (b"3:OK ,", Answer(True, "OK")),
        (b"2:OK,", Answer(True, "OK")),
        (b"9:NOTFOUND ,", Answer(False, "NOTFOUND")),
        (b"8:NOTFOUND,", Answer(False, "NOTFOUND")),
        (b"", None),
        (b"9", None),
        (b"9:", None),
        (b"9:NOTFOUND ", None),
    ],
)
def test_socketmap_answers(received: bytes, wanted: Answer | None) -> None:
    """Found, not found, or not whole yet."""
    assert SOCKETMAP.reply(received) == wanted


@pytest.mark.parametrize("status", ["TEMP", "TIMEOUT", "PERM"])
def test_socketmap_errors_say_nothing_of_the_key(status: str) -> None:
    """Not even a permanent one: asking went wrong."""
    text = f"{status} no database"
    with pytest.raises(UnverifiableError, match="no database"):
        SOCKETMAP.reply(f"{len(text)}:{text},".encode())


@pytest.mark.parametrize(
    "received",
    [
        b"x",
        b"OK",
        b"-1:",
        b"03:OK ,",
        b"1000000:",
        b"200000:OK",
        b"2:OK;",
        b"2:OK,2:OK,",
        b"5:MAYBE,",
        b"0:,",
    ],
)
def test_what_is_no_socketmap_is_an_error(received: bytes) -> None:
    """Wrong lengths, unknown words, and more than was asked for."""
    with pytest.raises(ReplyError):
        SOCKETMAP.reply(received)


def test_tcp_table_asks_by_a_line() -> None:
    """With white space, percent signs and what can't be printed escaped."""
    assert TCP.request("alice@example.com") == b"get alice@example.com\n"
    assert TCP.request("a b%c\nö") == b"get a%20b%25c%0A%C3%B6\n"
    with pytest.raises(UnverifiableError):
        TCP.request("ö" * 2000)


@pytest.mark.parametrize(
    ("received", "wanted"),
    [
        (b"200 a%20b\n", Answer(True, "200 a b")),
        (b"200 x\r\n", Answer(True, "200 x")),
        (b"200\n", Answer(True, "200")),
        (b"500 no%20such\n", Answer(False, "500 no such")),
        (b"500 no", None),
        (b"", None),
    ],
)
def test_tcp_table_answers(received: bytes, wanted: Answer | None) -> None:
    """Found, not found, or not whole yet."""
    assert TCP.reply(received) == wanted


def test_tcp_table_errors_say_nothing_of_the_key() -> None:
    """400 is an error of the server."""
    with pytest.raises(UnverifiableError, match="no database"):
        TCP.reply(b"400 no%20database\n")


@pytest.mark.parametrize("received", [b"hello\n", b"300 x\n", b"2000 x\n", b"200 x\n200 y\n", b"200" + b"x" * 5000])
def test_what_is_no_tcp_table_is_an_error(received: bytes) -> None:
    """Unknown codes, lines that are too long, and more than was asked for."""
    with pytest.raises(ReplyError):
        TCP.reply(received)


@given(st.sampled_from([SOCKETMAP, TCP]), st.binary(max_size=40))
def test_any_octets_are_an_answer_or_an_error(protocol: Socketmap | TcpTable, received: bytes) -> None:
    """Nothing else comes of them, and never a no that was not said."""
    try:
        answer = protocol.reply(received)
    except (ReplyError, UnverifiableError):
        return
    if answer is not None and not answer.exists:
        assert b"NOTFOUND" in received or received.startswith(b"500")


@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_no_key_becomes_another_request(key: str) -> None:
    """Whatever stands in an address is one key."""
    line = TCP.request(key)
    assert line.count(b"\n") == 1
    assert line.count(b" ") == 1
    length, _, rest = SOCKETMAP.request(key).partition(b":")
    assert rest[int(length) :] == b","
    assert rest[:-1] == b"virtual " + key.encode()
