"""Mail through the gateway, sent by peers that others wrote, into a real Postfix: nothing is lost, nothing changed."""

import re
import smtplib
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from functools import partial
from random import Random

import pytest

from tests.support.gateway import Gateway, poll
from tests.support.postfix import Postfix
from tests.support.sink import Sink
from tests.support.wire import Wire

pytestmark = pytest.mark.peer("postfix")


@pytest.fixture(scope="module")
def gateway(postfix: Postfix) -> Iterator[Gateway]:
    """A listener in front of Postfix, which is told of the client by XCLIENT."""
    limits = {"message_size": "60MB", "session_memory": "4MB"}
    settings = {"limits": limits, "policies": ["relay", "recipient", "size", "loop"]}
    with Gateway(settings, backend=postfix.ports["xclient"], backend_options={"client_info": "xclient"}) as running:
        yield running


def queue_id(text: str) -> str:
    """The queue id in Postfix's reply to a message."""
    found = re.search(r"queued as (\w+)", text)
    assert found, text
    return found[1]


def without_received(message: bytes) -> bytes:
    """A queued message without the Received fields on top."""
    return re.sub(rb"\A(Received:[^\n]*\n([ \t][^\n]*\n)*)+", b"", message)


@pytest.mark.peer("swaks")
def test_swaks_delivers_and_the_message_is_unchanged(gateway: Gateway, postfix: Postfix) -> None:
    """What swaks sends is in Postfix's queue as it was sent, below a Received field that names the client."""
    text = "Subject: from swaks\\n\\n.a line with a dot\\n..and two\\n"
    command = ["swaks", "--server", f"127.0.0.1:{gateway.port}", "--from", "you@example.org", "--ehlo", "swaks.example",
               "--to", "alice@example.com,bob@example.com", "--data", text]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    message = postfix.message(queue_id(told))
    assert without_received(message).rstrip(b"\n") == b"Subject: from swaks\n\n.a line with a dot\n..and two"
    added = message.split(b"Received:")[2].decode()
    assert added.startswith(" from swaks.example (unknown [127.0.0.1])\n\tby gateway.example (Lychgate) with ESMTP id ")
    recipients = re.findall(r"^recipient: (\S+)", postfix.envelope(queue_id(told)), re.MULTILINE)
    assert recipients == ["alice@example.com", "bob@example.com"]


@pytest.mark.peer("smtp-source")
def test_smtp_source_sends_many_at_once(gateway: Gateway, postfix: Postfix) -> None:
    """Two hundred messages over ten sessions at a time all arrive, and each has its record."""
    before, recorded = postfix.queue_ids(), len(gateway.records())
    command = ["smtp-source", "-s", "10", "-m", "200", "-l", "4096", "-f", "s@example.org", "-t", "any@example.com",
               f"127.0.0.1:{gateway.port}"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    arrived = postfix.queue_ids() - before
    assert len(arrived) == 200
    assert {record["backend"]["queue_id"] for record in gateway.records()[recorded:]} == arrived


def test_smtplib_gets_the_words_of_postfix(gateway: Gateway, postfix: Postfix) -> None:
    """A message of smtplib arrives, and the replies to RCPT and to the end of data are Postfix's own."""
    message = EmailMessage()
    message["Subject"] = "from smtplib"
    message.set_content("hello\n")
    with smtplib.SMTP("127.0.0.1", gateway.port) as client:
        client.ehlo()
        assert client.mail("you@example.org")[0] == 250
        assert client.rcpt("alice@example.com") == (250, b"2.1.5 Ok")
        code, text = client.data(message.as_string())
    assert code == 250
    assert re.fullmatch(rb"2\.0\.0 Ok: queued as \w+", text)
    assert b"Subject: from smtplib\n" in postfix.message(queue_id(text.decode()))


def test_a_pipelined_session_is_answered_in_order(gateway: Gateway) -> None:
    """Two transactions in one packet are answered one by one, the refused recipients among them (RFC 2920)."""
    commands = (
        "MAIL FROM:<you@example.org>\r\nRCPT TO:<nobody@example.com>\r\nRCPT TO:<alice@example.com>\r\n"
        "RCPT TO:<x@elsewhere.example>\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n"
    )
    with Wire(gateway.port) as client:
        client.hello()
        client.send(commands.encode())
        assert [answer.code for answer in client.replies(8)] == [250, 550, 250, 554, 250, 250, 250, 354]
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\nNOOP\r\nQUIT\r\n")
        assert [answer.code for answer in client.replies(3)] == [250, 250, 221]
        assert client.is_closed()


def test_chunks_become_one_message(gateway: Gateway, postfix: Postfix) -> None:
    """BDAT in several chunks, cut in a line and in a CRLF, ended by BDAT 0 LAST, is the message (RFC 3030)."""
    with Wire(gateway.port) as client:
        assert "CHUNKING" in client.hello().lines
        client.command("MAIL FROM:<you@example.org>")
        client.command("RCPT TO:<alice@example.com>")
        for chunk in (b"Subject: chu", b"nks\r", b"\n\r\n.\r\n..\r\n", b"end\r\n"):
            client.send(b"BDAT %d\r\n" % len(chunk) + chunk)
            assert client.reply().code == 250
        answer = client.command("BDAT 0 LAST")
    assert answer.code == 250
    assert without_received(postfix.message(queue_id(answer.text))) == b"Subject: chunks\n\n.\n..\nend\n"


def test_dsn_parameters_reach_postfix(gateway: Gateway, postfix: Postfix) -> None:
    """RET, ENVID, NOTIFY and ORCPT stand in the envelope of Postfix's queue (RFC 3461)."""
    with Wire(gateway.port) as client:
        assert "DSN" in client.hello().lines
        assert client.command("MAIL FROM:<you@example.org> RET=HDRS ENVID=QQ+2B1").code == 250
        command = "RCPT TO:<alice@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;alias@example.com"
        assert client.command(command).code == 250
        assert client.command("DATA").code == 354
        client.send(b"Subject: dsn\r\n\r\nx\r\n.\r\n")
        envelope = postfix.envelope(queue_id(client.reply().text))
    assert "named_attribute: envelope_id=QQ+1" in envelope
    assert "named_attribute: ret_flags=2" in envelope
    assert "named_attribute: dsn_orig_rcpt=rfc822;alias@example.com" in envelope
    assert "named_attribute: notify_flags=10" in envelope  # 2 for success, 8 for delay


def test_an_internationalized_address_reaches_postfix(gateway: Gateway, postfix: Postfix) -> None:
    """Python's smtplib sends to jörg@ with SMTPUTF8, and Postfix gets address and header as UTF-8 (RFC 6531)."""
    message = EmailMessage()
    message["To"] = "jörg@example.com"
    message["Subject"] = "Grüße"
    message.set_content("hallo\n")
    before = postfix.queue_ids()
    with smtplib.SMTP("127.0.0.1", gateway.port) as client:
        client.send_message(message, "jürgen@example.org", ["jörg@example.com"])
    (arrived,) = postfix.queue_ids() - before
    envelope = postfix.envelope(arrived)
    assert "sender: jürgen@example.org" in envelope
    assert "recipient: jörg@example.com" in envelope
    queued = postfix.message(arrived)
    assert "To: jörg@example.com\n".encode() in queued
    assert b"(Lychgate) with UTF8SMTP id" in queued


def test_octets_above_127_arrive_as_they_are(gateway: Gateway, postfix: Postfix) -> None:
    """With BODY=8BITMIME every octet but NUL, CR and LF arrives as it was sent (RFC 6152)."""
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    text = b"Subject: eight\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + octets + b"\r\n"
    with Wire(gateway.port) as client:
        client.hello()
        assert client.command("MAIL FROM:<you@example.org> BODY=8BITMIME").code == 250
        client.send(b"RCPT TO:<alice@example.com>\r\nDATA\r\n")
        assert [answer.code for answer in client.replies(2)] == [250, 354]
        client.send(text + b".\r\n")
        arrived = queue_id(client.reply().text)
    assert without_received(postfix.message(arrived)) == text.replace(b"\r\n", b"\n")
    assert "body_type=8BITMIME" in postfix.envelope(arrived) or "encoding=8bit" in postfix.envelope(arrived)


def test_a_thousand_recipients_are_taken_and_one_more_deferred(gateway: Gateway, postfix: Postfix) -> None:
    """A message has up to 1,000 recipients; the next one is told 452 4.5.3, and comes in another transaction."""
    recipients = [f"any{number}@example.com" for number in range(1000)]
    before = postfix.queue_ids()
    with smtplib.SMTP("127.0.0.1", gateway.port) as client:
        refused = client.sendmail("you@example.org", [*recipients, "alice@example.com"], b"Subject: many\r\n\r\nx\r\n")
    assert {address: code for address, (code, _) in refused.items()} == {"alice@example.com": 452}
    assert refused["alice@example.com"][1].startswith(b"4.5.3 ")
    (arrived,) = postfix.queue_ids() - before
    assert re.findall(r"^recipient: (\S+)", postfix.envelope(arrived), re.MULTILINE) == recipients


def test_fifty_megabytes_arrive_octet_by_octet() -> None:
    """A message of 50 MB, dots at the beginnings of lines among it, is at the backend as it was sent, a field more."""
    random = Random(20)  # noqa: S311 - not for secrets
    lines = [b"." * random.randrange(3) + random.randbytes(36).hex().encode() + b"\r\n" for _ in range(4096)]
    text = b"Subject: large\r\n\r\n" + b"".join(lines) * (50_000_000 // sum(map(len, lines)) + 1)
    settings = {"limits": {"message_size": "60MB"}}
    with Sink() as sink, Gateway(settings, backend=sink.port) as gateway:
        with smtplib.SMTP("127.0.0.1", gateway.port) as client:
            assert client.sendmail("you@example.org", ["alice@example.com"], text) == {}
        (message,) = sink.messages
        record = gateway.record(result="accepted")
    assert len(text) > 50_000_000
    received, _, rest = message.content.partition(b"Subject: large\r\n")
    assert received.startswith(b"Received: from ")
    assert received.count(b"Received:") == 1
    assert rest == text.removeprefix(b"Subject: large\r\n")
    assert record["message"]["size"] == len(text)


def test_postfix_logs_the_real_client(gateway: Gateway, postfix: Postfix) -> None:
    """With XCLIENT Postfix logs the client's own address for a message, over a connection that others used before."""
    for number in (2, 3, 2):
        with Wire(gateway.port, source=f"127.0.0.{number}") as client:
            client.hello()
            arrived = queue_id(client.transaction().text)
        pattern = re.compile(rf"xclient/smtpd.*: {arrived}: client=\S*\[127\.0\.0\.{number}\]")
        poll(partial(_is_logged, pattern, postfix))


def test_a_recipient_that_only_postfix_knows_not_is_refused_in_its_words(gateway: Gateway) -> None:
    """The gateway has no list for this domain: Postfix refuses the recipient at RCPT, and its reply is the client's."""
    with Wire(gateway.port) as client:
        client.hello()
        client.command("MAIL FROM:<you@example.org>")
        answer = client.command("RCPT TO:<nobody@example.com>")
        expected = "5.1.1 <nobody@example.com>: Recipient address rejected: User unknown in virtual mailbox table"
        assert (answer.code, answer.text) == (550, expected)
        assert client.command("DATA").code in {503, 554}
        assert client.command("QUIT").code == 221
    record = gateway.record(kind="transaction")
    assert record["recipients"][0]["decided_by"] == "backend"
    assert record["recipients"][0]["reply"] == {"code": 550, "enhanced": "5.1.1", "text": expected[6:]}


def test_replies_of_several_lines_reach_the_client_unchanged() -> None:
    """A backend's reply of several lines comes as it is: at RCPT, refusing and accepting, and at the end of data."""
    answers = {
        "no@example.com": "550-5.7.1 Not here\r\n550-5.7.1 Not now\r\n550 5.7.1 Not ever",
        "DATA": "451-4.7.1 Come\r\n451 4.7.1 again",
    }
    with Sink(answers) as sink, Gateway(backend=sink.port) as gateway, Wire(gateway.port) as client:
        client.hello()
        client.command("MAIL FROM:<you@example.org>")
        answer = client.command("RCPT TO:<no@example.com>")
        assert (answer.code, answer.lines) == (550, ("5.7.1 Not here", "5.7.1 Not now", "5.7.1 Not ever"))
        client.command("RCPT TO:<yes@example.com>")
        client.command("DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        answer = client.reply()
        assert (answer.code, answer.lines) == (451, ("4.7.1 Come", "4.7.1 again"))
        assert sink.messages == []


def _is_logged(pattern: re.Pattern[str], postfix: Postfix) -> bool:
    return pattern.search(postfix.log()) is not None


def split_settings(one: Sink, two: Sink) -> dict[str, object]:
    """Two domains of ours with a backend each."""
    return {
        "backends": {
            "one": {"servers": [f"127.0.0.1:{one.port}"]},
            "two": {"servers": [f"127.0.0.1:{two.port}"]},
        },
        "domains": {"one.example": {"backend": "one"}, "two.example": {"backend": "two"}},
    }


def test_recipients_of_two_backends_come_in_two_transactions_by_smtplib() -> None:
    """The second backend's recipient is told 452 4.5.3; sent again alone it arrives where it belongs."""
    with Sink() as one, Sink() as two, Gateway(split_settings(one, two)) as gateway:
        with smtplib.SMTP("127.0.0.1", gateway.port) as client:
            recipients = ["a@one.example", "b@two.example", "c@one.example"]
            text = b"Subject: split\r\n\r\nx\r\n"
            refused = client.sendmail("you@example.org", recipients, text)
            assert list(refused) == ["b@two.example"]
            assert refused["b@two.example"][0] == 452
            assert refused["b@two.example"][1].startswith(b"4.5.3 ")
            assert client.sendmail("you@example.org", list(refused), text) == {}
        assert [message.recipients for message in one.messages] == [("a@one.example", "c@one.example")]
        assert [message.recipients for message in two.messages] == [("b@two.example",)]


def test_recipients_of_two_backends_come_in_two_transactions_by_postfix() -> None:
    """A Postfix that sends to both brings the later recipient by itself in a transaction of its own."""
    restrictions = "permit_mynetworks, reject_unauth_destination"
    service = {
        "mynetworks": "127.0.0.0/8",
        "smtpd_relay_restrictions": restrictions,
        "smtpd_recipient_restrictions": restrictions,
    }
    with Sink() as one, Sink() as two, Gateway(split_settings(one, two)) as gateway:
        relay = {"relayhost": f"[127.0.0.1]:{gateway.port}", "minimal_backoff_time": "1s", "queue_run_delay": "1s"}
        with Postfix({"sending": service}, relay) as sending, Wire(sending.port) as client:
            client.hello()
            client.transaction("you@example.org", "a@one.example", "b@two.example")
            for sink in (one, two):
                for _ in range(20):
                    if sink.has(1, within=4):
                        break
                    sending.flush()  # a busy machine may have made it wait for its next turn
            assert [message.recipients for message in one.messages] == [("a@one.example",)], sending.log()
            assert [message.recipients for message in two.messages] == [("b@two.example",)], sending.log()


@pytest.mark.parametrize(("recipient", "code", "count"), [("nobody", 550, 40), ("alice", 250, 150)])
def test_other_clients_errors_do_not_wear_a_kept_connection(
    postfix: Postfix, recipient: str, code: int, count: int
) -> None:
    """Unknown recipients, and transactions given up, of many sessions never bring Postfix to its error limits."""
    before = len(postfix.log())
    with Gateway({"policies": ["relay"]}, backend=postfix.ports["strict"]) as gateway:
        for _ in range(count):
            with Wire(gateway.port) as client:
                client.hello()
                client.send(f"MAIL FROM:<you@example.org>\r\nRCPT TO:<{recipient}@example.com>\r\nRSET\r\n".encode())
                assert [answer.code for answer in client.replies(3)] == [250, code, 250]
        with Wire(gateway.port) as client:
            client.hello()
            assert client.transaction().code == 250
    log = postfix.log()[before:]
    assert "strict/smtpd" in log
    assert "too many errors" not in log
