"""The backend layer against a real Postfix."""

import asyncio
import smtplib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.resolver import ClientName, NameStatus
from gateway.smtp.reply import Reply
from tests.support import backend
from tests.support.backend import ADDED, Bytes
from tests.support.loops import on_uvloop
from tests.support.postfix import Postfix

pytestmark = pytest.mark.peer("postfix")

# Postfix knows no name of 192.0.2.7; what XCLIENT says it takes.
TRUSTED = {"smtpd_authorized_xclient_hosts": "127.0.0.1", "smtpd_authorized_xforward_hosts": "127.0.0.1"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, ``ca.pem``, and a certificate for ``localhost``, ``cert.pem`` and ``key.pem``."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for index, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(folder / "cert.pem"), append=index > 0)
    return folder


@pytest.fixture(scope="module")
def postfix(certificates: Path) -> Iterator[Postfix]:
    """One Postfix with a service for each kind of client."""
    services = {
        "plain": {"smtpd_discard_ehlo_keywords": "chunking"},
        "chunking": {},
        "trusting": TRUSTED,
        "ipv4": TRUSTED | {"inet_protocols": "ipv4"},
        "strict": TRUSTED
        | {"smtpd_delay_reject": "no", "smtpd_helo_restrictions": "check_helo_access inline:{{bad.example=REJECT}}"},
        "tls": {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": str(certificates / "cert.pem"),
            "smtpd_tls_key_file": str(certificates / "key.pem"),
            "smtpd_tls_received_header": "yes",
        },
        "wrapped": {
            "smtpd_tls_wrappermode": "yes",
            "smtpd_tls_cert_file": str(certificates / "cert.pem"),
            "smtpd_tls_key_file": str(certificates / "key.pem"),
            "smtpd_tls_received_header": "yes",
        },
        "lockstep": {"smtpd_discard_ehlo_keywords": "pipelining, chunking"},
        "closing": {"smtpd_hard_error_limit": "1", "smtpd_soft_error_limit": "1", "smtpd_error_sleep_time": "0"},
    }
    with Postfix(services) as instance:
        yield instance


@pytest.mark.parametrize("service", ["plain", "lockstep"])
async def test_a_message_arrives(postfix: Postfix, service: str) -> None:
    """Postfix has the message, with the added field on top, under the queue id that the client is told."""
    async with backend.group(postfix.ports[service]) as servers:
        answer, delivery = await backend.deliver(servers, b"Subject: x\r\n\r\n.dot\r\n..two\r\n.\r\nend\r\n")
    assert answer == Reply(250, "2.0.0", f"Ok: queued as {delivery.queue_id}")
    assert delivery.queue_id is not None
    assert delivery.server == f"127.0.0.1:{postfix.ports[service]}"
    message = postfix.message(delivery.queue_id)
    assert b"\nReceived: from client.example\nSubject: x\n" in message
    assert message.endswith(b"\n\n.dot\n..two\n.\nend\n")


async def test_many_messages_use_one_connection(postfix: Postfix) -> None:
    """Messages one after the other go over one connection, a refused recipient and an abandoned transaction between."""
    async with backend.group(postfix.ports["plain"]) as servers:
        for _ in range(3):
            assert (await backend.deliver(servers))[0].code == 250
            assert (await backend.deliver(servers, to="nobody@example.com"))[0].code == 550
            delivery = servers.delivery(backend.transaction())
            await delivery.recipient(backend.recipient())
            delivery.abort()
            delivery.abort()
        assert servers.servers[0].pool.count == 1


async def test_the_reply_to_rcpt_is_unchanged(postfix: Postfix) -> None:
    """Postfix's refusal of a recipient comes back in code, enhanced code and text."""
    with smtplib.SMTP("127.0.0.1", postfix.ports["plain"]) as client:
        client.ehlo()
        client.mail("a@sender.example")
        code, text = client.rcpt("nobody@example.com")
    async with backend.group(postfix.ports["plain"]) as servers:
        answer, _ = await backend.deliver(servers, to="nobody@example.com")
    assert answer.wire == b"%d %s\r\n" % (code, text)


async def test_the_reply_to_mail_is_that_of_the_recipient(postfix: Postfix) -> None:
    """A sender that Postfix refuses at MAIL is refused at RCPT, with its reply."""
    async with backend.group(postfix.ports["plain"]) as servers:
        answer, _ = await backend.deliver(servers, words="SIZE=999999999")
        assert answer == Reply(552, "5.3.4", "Message size exceeds fixed limit")
        assert (await backend.deliver(servers))[0].code == 250


async def test_several_recipients(postfix: Postfix) -> None:
    """Accepted recipients share a message, a refused one between them does no harm."""
    async with backend.group(postfix.ports["plain"]) as servers:
        delivery = servers.delivery(backend.transaction(None))
        codes = [
            (await delivery.recipient(backend.recipient(f"{name}@example.com"))).code
            for name in ("alice", "nobody", "bob")
        ]
        assert codes == [250, 550, 250]
        assert (await delivery.send(ADDED, Bytes(backend.BODY))).code == 250
    assert delivery.queue_id is not None
    envelope = postfix.envelope(delivery.queue_id)
    assert "\nsender: \n" in envelope
    assert "\nrecipient: alice@example.com\n" in envelope
    assert "\nrecipient: bob@example.com\n" in envelope
    assert "nobody" not in envelope


async def test_parameters_are_forwarded(postfix: Postfix) -> None:
    """BODY, SIZE, SMTPUTF8, RET, ENVID, NOTIFY and ORCPT reach Postfix as the client wrote them."""
    async with backend.group(postfix.ports["plain"]) as servers:
        delivery = servers.delivery(backend.transaction(words="BODY=8BITMIME SIZE=100 SMTPUTF8 RET=HDRS ENVID=E+2B1"))
        answer = await delivery.recipient(
            backend.recipient("jörg@example.com", "NOTIFY=FAILURE,DELAY ORCPT=utf-8;j\\x{F6}rg@example.com")
        )
        assert answer.code == 250
        assert (await delivery.send(ADDED, Bytes("Subject: grün\r\n\r\nx\r\n".encode()))).code == 250
    assert delivery.queue_id is not None
    envelope = postfix.envelope(delivery.queue_id)
    assert "envelope_id=E+1\n" in envelope  # Postfix keeps it decoded
    assert "ret_flags=2\n" in envelope
    assert "notify_flags=12\n" in envelope
    assert "encoding=8bit\n" in envelope
    assert "dsn_orig_rcpt=utf-8;jörg@example.com\n" in envelope
    assert "Subject: grün" in postfix.message(delivery.queue_id).decode()


async def test_xclient(postfix: Postfix) -> None:
    """Postfix logs the client that XCLIENT names, one connection for each client, and LOGIN."""
    async with backend.group(postfix.ports["trusting"], client_info="xclient") as servers:
        _, first = await backend.deliver(servers)
        _, again = await backend.deliver(servers)
        assert servers.servers[0].pool.count == 1
        of = backend.session("2001:db8::7", client_name=None, helo_name="[IPv6:2001:db8::7]", login="jo e+x")
        _, second = await backend.deliver(servers, of=of)
    for delivery, expected in (
        (first, "client=client.example[192.0.2.7]"),
        (again, "client=client.example[192.0.2.7]"),
        (second, "client=unknown[2001:db8::7], sasl_method=XCLIENT, sasl_username=jo e+x"),
    ):
        assert expected in await postfix.log_line(f"trusting/smtpd.* {delivery.queue_id}: client=")
    assert second.queue_id is not None
    assert b"Received: from [IPv6:2001:db8::7] (unknown [IPv6:2001:db8::7])" in postfix.message(second.queue_id)


async def test_xclient_of_an_address_that_postfix_does_not_speak(postfix: Postfix) -> None:
    """A Postfix with IPv4 only takes an IPv6 client's mail as from an unknown address, not as from the gateway."""
    async with backend.group(postfix.ports["ipv4"], client_info="xclient") as servers:
        answer, delivery = await backend.deliver(servers, of=backend.session("2001:db8::7"))
    assert answer.code == 250
    assert "client=client.example[unknown]" in await postfix.log_line(f"ipv4/smtpd.* {delivery.queue_id}: client=")


async def test_xclient_with_long_names(postfix: Postfix) -> None:
    """Names that need more than one XCLIENT command arrive too: the address goes last."""
    name = ".".join(["n" * 60] * 4)
    of = backend.session(helo_name="h" * 250, client_name=ClientName(name, NameStatus.CONFIRMED))
    async with backend.group(postfix.ports["trusting"], client_info="xclient") as servers:
        _, delivery = await backend.deliver(servers, of=of)
    assert f"client={name}[192.0.2.7]" in await postfix.log_line(f"trusting/smtpd.* {delivery.queue_id}: client=")


async def test_xclient_clients_take_turns(postfix: Postfix) -> None:
    """With one connection allowed, another client's message gets a new connection, not the wrong name."""
    async with backend.group(postfix.ports["trusting"], client_info="xclient", connections=1) as servers:
        found = [await backend.deliver(servers, of=backend.session(f"192.0.2.{n}")) for n in (1, 2, 1)]
        assert servers.servers[0].pool.count == 1
    for (answer, delivery), n in zip(found, (1, 2, 1), strict=True):
        assert answer.code == 250
        assert f"[192.0.2.{n}]" in await postfix.log_line(f"trusting/smtpd.* {delivery.queue_id}: client=")


async def test_xclient_at_once(postfix: Postfix) -> None:
    """Clients that wait for the only connection each get their own name."""
    async with backend.group(postfix.ports["trusting"], client_info="xclient", connections=1) as servers:
        found = await asyncio.gather(
            *(backend.deliver(servers, of=backend.session(f"192.0.2.{n}")) for n in range(1, 6))
        )
    for n, (answer, delivery) in enumerate(found, start=1):
        assert answer.code == 250
        assert f"[192.0.2.{n}]" in await postfix.log_line(f"trusting/smtpd.* {delivery.queue_id}: client=")


async def test_postfix_refuses_the_announced_client(postfix: Postfix) -> None:
    """A refusal of the client's own HELO name goes to the client, and the server stays up."""
    async with backend.group(postfix.ports["strict"], client_info="xclient") as servers:
        for _ in range(3):
            answer, _ = await backend.deliver(servers, of=backend.session(helo_name="bad.example"))
            assert (answer.code, answer.enhanced) == (554, "5.7.1")
            assert "bad.example" in answer.text
        assert servers.is_up
        assert (await backend.deliver(servers))[0].code == 250


async def test_xforward(postfix: Postfix) -> None:
    """Postfix logs the client that XFORWARD names, for each message of a kept connection."""
    async with backend.group(postfix.ports["trusting"], client_info="xforward") as servers:
        first = [(await backend.deliver(servers))[1] for _ in range(2)]
        abandoned = servers.delivery(backend.transaction())
        await abandoned.recipient(backend.recipient())
        abandoned.abort()
        other = (await backend.deliver(servers, of=backend.session("192.0.2.8")))[1]
        nameless = [
            (await backend.deliver(servers, of=backend.session("192.0.2.9", client_name=name)))[1]
            for name in (None, *(ClientName(None, status) for status in (NameStatus.TEMPORARY, NameStatus.UNKNOWN)))
        ]
        assert servers.servers[0].pool.count == 1
    for delivery, address in ((first[0], "192.0.2.7"), (first[1], "192.0.2.7"), (other, "192.0.2.8")):
        line = await postfix.log_line(f"trusting/smtpd.* {delivery.queue_id}: client=")
        assert f"orig_client=client.example[{address}]" in line
    for delivery in nameless:
        line = await postfix.log_line(f"trusting/smtpd.* {delivery.queue_id}: client=")
        assert "orig_client=unknown[192.0.2.9]" in line, "also where the name is not known yet"


async def test_xforward_of_an_address_that_postfix_does_not_speak(postfix: Postfix) -> None:
    """A Postfix with IPv4 only refuses XFORWARD for an IPv6 client, and takes the mail all the same."""
    async with backend.group(postfix.ports["ipv4"], client_info="xforward", health={"failures": 1}) as servers:
        for _ in range(3):
            assert (await backend.deliver(servers, of=backend.session("2001:db8::7")))[0].code == 250
        assert servers.is_up


async def test_without_permission_to_announce(postfix: Postfix) -> None:
    """A Postfix that does not offer XCLIENT gets no mail: it would trust the gateway in the client's place."""
    async with backend.group(postfix.ports["plain"], client_info="xclient") as servers:
        assert (await backend.deliver(servers))[0].code == 451
        assert servers.is_up


@pytest.mark.parametrize("mode", ["opportunistic", "required", "verified"])
@on_uvloop
async def test_tls(postfix: Postfix, certificates: Path, mode: str) -> None:
    """With STARTTLS the message arrives under TLS."""
    tls = {"mode": mode, "ca": str(certificates / "ca.pem"), "name": "localhost"}
    async with backend.group(postfix.ports["tls"], tls=tls) as servers:
        _, delivery = await backend.deliver(servers)
        assert servers.servers[0].pool.count == 1
    assert delivery.queue_id is not None
    assert b"(using TLSv1.3" in postfix.message(delivery.queue_id)


@pytest.mark.parametrize("mode", ["required", "verified"])
@on_uvloop
async def test_implicit_tls(postfix: Postfix, certificates: Path, mode: str) -> None:
    """TLS from the first octet, as on port 465; several messages over one connection."""
    tls = {"mode": mode, "implicit": True, "ca": str(certificates / "ca.pem"), "name": "localhost"}
    async with backend.group(postfix.ports["wrapped"], tls=tls) as servers:
        for _ in range(2):
            answer, delivery = await backend.deliver(servers)
            assert answer.code == 250
            assert delivery.queue_id is not None
            assert b"(using TLSv1.3" in postfix.message(delivery.queue_id)
        assert servers.servers[0].pool.count == 1


@pytest.mark.parametrize(
    ("service", "tls"),
    [
        ("wrapped", {"mode": "verified", "name": "localhost"}),
        ("wrapped", {"mode": "off"}),
        ("plain", {"mode": "required"}),
    ],
    ids=["unknown authority", "plain client", "plain server"],
)
@on_uvloop
async def test_implicit_tls_that_fails_defers(postfix: Postfix, service: str, tls: dict[str, Any]) -> None:
    """What goes wrong with implicit TLS makes 4xx, in good time."""
    tls = tls if tls["mode"] == "off" else tls | {"implicit": True}
    timeouts = backend.short(connect="2s", greeting="500ms")
    async with backend.group(postfix.ports[service], tls=tls, timeouts=timeouts) as servers:
        assert not servers.is_up
        assert (await backend.deliver(servers))[0].is_transient


@on_uvloop
async def test_tls_of_a_kept_connection_is_used_again(postfix: Postfix) -> None:
    """Several messages, one of them large, go over one TLS connection."""
    async with backend.group(postfix.ports["tls"], tls={"mode": "required"}) as servers:
        body = b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 100_000
        for content in (backend.BODY, body, backend.BODY):
            answer, delivery = await backend.deliver(servers, content)
            assert answer.code == 250
            assert delivery.queue_id is not None
            assert postfix.message(delivery.queue_id).endswith(content[-5:].replace(b"\r\n", b"\n"))
        assert servers.servers[0].pool.count == 1


@pytest.mark.parametrize(
    "tls",
    [{"mode": "verified"}, {"mode": "verified", "name": "other.example"}],
    ids=["unknown authority", "another name"],
)
@on_uvloop
async def test_tls_that_can_not_be_verified(postfix: Postfix, certificates: Path, tls: dict[str, str]) -> None:
    """A certificate that does not verify is a server that is down, and the client gets 4xx."""
    authority = {"ca": str(certificates / "ca.pem")} if "name" in tls else {}
    async with backend.group(postfix.ports["tls"], tls=tls | authority) as servers:
        assert not servers.is_up
        answer, _ = await backend.deliver(servers)
    assert answer.is_transient


@pytest.mark.parametrize(("mode", "code"), [("opportunistic", 250), ("required", 451), ("verified", 451)])
async def test_tls_not_offered(postfix: Postfix, mode: str, code: int) -> None:
    """Without STARTTLS opportunistic TLS goes on in plain text, the others defer."""
    async with backend.group(postfix.ports["plain"], tls={"mode": mode}) as servers:
        assert (await backend.deliver(servers))[0].code == code


async def test_a_message_without_final_newline_uses_bdat(postfix: Postfix) -> None:
    """With CHUNKING a message without its last CRLF goes by BDAT."""
    async with backend.group(postfix.ports["chunking"]) as servers:
        answer, delivery = await backend.deliver(servers, b"Subject: x\r\n\r\n.no end")
        assert answer.code == 250
    assert delivery.queue_id is not None
    assert postfix.message(delivery.queue_id).endswith(b"\n\n.no end\n")
    assert "bdat=1" in await postfix.log_line("chunking/smtpd.* disconnect .*bdat=")


async def test_a_message_without_final_newline_is_completed(postfix: Postfix) -> None:
    """Without CHUNKING its last line is completed."""
    async with backend.group(postfix.ports["plain"]) as servers:
        answer, delivery = await backend.deliver(servers, b"Subject: x\r\n\r\n.no end")
        assert answer.code == 250
    assert delivery.queue_id is not None
    assert postfix.message(delivery.queue_id).endswith(b"\n\n.no end\n")


async def test_postfix_hangs_up(postfix: Postfix) -> None:
    """A 421 after too many errors is not the client's: the next message goes over a new connection."""
    async with backend.group(postfix.ports["closing"]) as servers:
        for _ in range(3):
            answer, _ = await backend.deliver(servers, to="nobody@example.com")
            assert answer.code == 550
            assert (await backend.deliver(servers))[0].code == 250


@on_uvloop
async def test_postfix_restarts(postfix: Postfix) -> None:
    """After a restart of Postfix kept connections are replaced, unseen by the client."""
    async with backend.group(postfix.ports["plain"]) as servers:
        parked = servers.delivery(backend.transaction())
        assert (await parked.recipient(backend.recipient())).code == 250
        assert (await backend.deliver(servers))[0].code == 250
        await asyncio.to_thread(postfix.stop)
        await asyncio.to_thread(postfix.start)
        assert (await backend.deliver(servers))[0].code == 250
        assert (await parked.send(ADDED, Bytes(backend.BODY))).code == 250


async def test_what_postfix_offers_is_known_before_the_first_client(postfix: Postfix) -> None:
    """The group's capabilities are those of Postfix after the start."""
    async with backend.group(postfix.ports["chunking"]) as servers:
        assert servers.is_up
        assert servers.capabilities is not None
        assert {"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING"} <= servers.capabilities.keywords
        assert servers.capabilities.size == 200_000_000


async def test_half_a_message_is_never_accepted(postfix: Postfix) -> None:
    """A delivery that is cancelled in the middle of the message leaves nothing in Postfix."""
    before = postfix.queue_ids()
    reached = asyncio.Event()

    class Endless:
        size = 10_000_000
        ends_with_newline = True
        parts = None

        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"Subject: half\r\n\r\n" + b"x" * 70_000 + b"\r\n"
            reached.set()
            await asyncio.Event().wait()

    async with backend.group(postfix.ports["plain"]) as servers:
        delivery = servers.delivery(backend.transaction())
        await delivery.recipient(backend.recipient())
        sending = asyncio.ensure_future(delivery.send(ADDED, Endless()))
        await reached.wait()
        sending.cancel()
        await asyncio.wait([sending])
        delivery.abort()
        assert "lost connection after DATA" in await postfix.log_line("plain/smtpd.*lost connection after DATA")
    assert postfix.queue_ids() == before
