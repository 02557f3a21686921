"""Limits and time-outs of the listeners, on the wire: each ends what it should, with its reply, and nothing else."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.gateway import Gateway, poll
from tests.support.sink import Sink
from tests.support.wire import Wire

LIMITS = {
    "message_size": 10_000,
    "header_size": 2_000,
    "command_line": 600,
    "parameters": 3,
    "errors": 4,
    "unknown_commands": 3,
    "idle_commands": 8,
    "recipients": 100,
}


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(sink: Sink) -> Iterator[Gateway]:
    """A gateway with small limits."""
    with Gateway({"limits": LIMITS, "policies": ["relay", "size"]}, backend=sink.port) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(sink: Sink) -> Iterator[Gateway]:
    """A gateway with short time-outs: for a command, in data, and for the whole."""
    timeouts = {"command": "200ms", "data": "400ms", "session": "800ms"}
    with Gateway({"timeouts": timeouts, "limits": {"idle_commands": 1_000_000}}, backend=sink.port) as running:
        yield running


def begun(client: Wire) -> None:
    """Come to the data of a message."""
    client.hello()
    client.send(b"MAIL FROM:<you@example.org>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
    assert [answer.code for answer in client.replies(3)] == [250, 250, 354]


# Sizes.


def test_a_declared_size_above_the_limit_is_refused_at_rcpt_or_mail(gateway: Gateway) -> None:
    """SIZE is announced, and a message that says it is larger is refused before it is sent (RFC 1870 6.1)."""
    with Wire(gateway.port) as client:
        assert "SIZE 10000" in client.hello().lines
        mail = client.command("MAIL FROM:<you@example.org> SIZE=10001")
        answer = mail if mail.code >= 400 else client.command("RCPT TO:<alice@example.com>")
        assert (answer.code, answer.text[:5]) == (552, "5.3.4")


def test_a_message_above_the_limit_is_read_to_its_end_and_refused(gateway: Gateway, sink: Sink) -> None:
    """More octets than allowed are 552 at the end of data; the session goes on, and the backend has nothing."""
    count = len(sink.messages)
    with Wire(gateway.port) as client:
        begun(client)
        client.send(b"Subject: x\r\n\r\n" + (b"x" * 78 + b"\r\n") * 5000 + b".\r\n")
        answer = client.reply()
        assert (answer.code, answer.text[:5]) == (552, "5.3.4")
        assert client.transaction().code == 250
    assert len(sink.messages) == count + 1


def test_a_header_above_the_limit_is_refused(gateway: Gateway) -> None:
    """A header section larger than allowed is refused, though the message is not too large."""
    with Wire(gateway.port) as client:
        client.hello()
        answer = client.transaction(text=b"X-Long: x\r\n" * 300 + b"\r\nx\r\n")
        assert answer.code in {552, 554}


def test_a_command_line_above_the_limit_is_refused_once(gateway: Gateway) -> None:
    """However long the line, it is one error, and the next command is read as one."""
    with Wire(gateway.port) as client:
        client.hello()
        client.send(b"MAIL FROM:<" + b"x" * 100_000 + b"@example.org>\r\nNOOP\r\n")
        long, noop = client.replies(2)
        assert long.code == 500
        assert noop.code == 250


def test_too_many_parameters_are_refused(gateway: Gateway) -> None:
    """A MAIL with more parameters than allowed is refused."""
    with Wire(gateway.port) as client:
        client.hello()
        assert client.command("MAIL FROM:<you@example.org> SIZE=1 BODY=8BITMIME RET=HDRS ENVID=x").code // 100 == 5


# Counts.


def test_too_many_errors_end_the_session(gateway: Gateway) -> None:
    """The client is told 421 and the connection closes; the record says why."""
    with Wire(gateway.port) as client:
        client.hello()
        client.send(b"RCPT TO:<alice@example.com>\r\n" * 10)
        codes = [answer.code for answer in client.rest()]
        port = client.address[1]
    assert codes[-1] == 421
    assert set(codes[:-1]) == {503}
    assert len(codes) in {4, 5}
    records = [record for record in gateway.records() if record["client"]["port"] == port]
    assert records[-1]["decision"]["result"] == "disconnected"


def test_too_many_unknown_commands_end_the_session(gateway: Gateway) -> None:
    """A client that speaks another language is sent away."""
    with Wire(gateway.port) as client:
        client.send(b"BLAH\r\n" * 10)
        codes = [answer.code for answer in client.rest()]
    assert codes[-1] == 421
    assert len(codes) in {3, 4}


def test_a_client_that_only_idles_is_sent_away(gateway: Gateway) -> None:
    """NOOP, RSET and the like in a row end the session; between messages they do not add up."""
    with Wire(gateway.port) as client:
        client.hello()
        for _ in range(3):
            for _ in range(5):
                assert client.command("NOOP").code == 250
            assert client.transaction().code == 250
        client.send(b"NOOP\r\n" * 20)
        codes = [answer.code for answer in client.rest()]
    assert codes[-1] == 421
    assert len(codes) in {8, 9, 10}


def test_http_ends_the_session_at_once(gateway: Gateway) -> None:
    """A browser that was made to speak to a mail server gets nothing executed."""
    with Wire(gateway.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO evil\r\nMAIL FROM:<evil@example.org>\r\n")
        assert [answer.code for answer in client.rest()] in ([421], [554], [502])


# Connections.


def test_connections_of_a_client_are_limited(sink: Sink) -> None:
    """One client's third connection is told 421, another's is taken, and a closed one makes room."""
    with Gateway({"limits": {"connections_per_client": 2}}, backend=sink.port) as gateway:
        with Wire(gateway.port) as one, Wire(gateway.port) as two:
            one.hello()
            two.hello()
            with Wire(gateway.port) as three:
                assert three.greeting is not None
                assert (three.greeting.code, three.greeting.text[:3]) == (421, "4.7")
                assert three.is_closed()
            with Wire(gateway.port, source="127.0.0.2") as other:
                other.hello()
            assert one.command("QUIT").code == 221
            assert poll(lambda: greeting(gateway) == 220)
        record = gateway.record(kind="connection", result="disconnected")
        assert record["decision"]["policy"] == "smtp"


def test_connections_in_all_are_limited(sink: Sink) -> None:
    """Beyond the limit every client is told 421, and mail of those that are in goes on."""
    with Gateway({"limits": {"connections": 5}}, backend=sink.port) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(Wire(gateway.port, source=f"127.0.0.{number}")) for number in range(1, 6)]
        for client in clients:
            client.hello()
        assert greeting(gateway) == 421
        assert clients[0].transaction().code == 250


def greeting(gateway: Gateway) -> int:
    """The code that a new connection is greeted with."""
    with Wire(gateway.port) as client:
        assert client.greeting is not None
        return client.greeting.code


# Time.


def test_a_client_that_says_nothing_is_told_so(impatient: Gateway) -> None:
    """After the time for a command 421 4.4.2, and the connection closes."""
    with Wire(impatient.port) as client:
        client.hello()
        answers = client.rest()
    assert [(answer.code, answer.text[:5]) for answer in answers] == [(421, "4.4.2")]


def test_a_client_that_stops_in_its_data_is_told_so(impatient: Gateway, sink: Sink) -> None:
    """After the time for data the same, and the backend has no half message."""
    count = len(sink.messages)
    with Wire(impatient.port) as client:
        begun(client)
        client.send(b"Subject: half\r\n")
        assert [answer.code for answer in client.rest()] == [421]
        sender_port = client.address[1]
    records = [record for record in impatient.records() if record["client"]["port"] == sender_port]
    assert records[-1]["decision"]["result"] != "accepted"
    assert len(sink.messages) == count


def test_a_session_has_an_end(impatient: Gateway) -> None:
    """A client that is never idle is told 421 when the time for a whole session is over."""
    with Wire(impatient.port) as client:
        client.hello()
        assert client.transaction().code == 250
        while (answer := client.command("NOOP")).code == 250:
            pass
        assert (answer.code, answer.text[:5]) == (421, "4.4.2")
