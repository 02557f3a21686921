"""TLS of the listeners: STARTTLS, required and implicit TLS, a certificate renewed under way, and early octets."""

import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.support.gateway import Gateway, poll
from tests.support.sink import Sink
from tests.support.wire import ClosedError, Wire


@dataclass(frozen=True, slots=True)
class Tls:
    """An authority, and where the gateway's certificate is."""

    authority: trustme.CA
    folder: Path

    @property
    def files(self) -> dict[str, str]:
        """The listener's settings."""
        return {"certificate": str(self.folder / "cert.pem"), "key": str(self.folder / "key.pem")}

    def issue(self) -> None:
        """Write a new certificate in the place of the old one, the way that renewal tools do."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        for name, blobs in (("key.pem", [issued.private_key_pem]), ("cert.pem", issued.cert_chain_pems)):
            fresh = self.folder / f"{name}.new"
            fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
            fresh.replace(self.folder / name)

    def client(self) -> ssl.SSLContext:
        """A client that verifies the gateway."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate in a folder."""
    made = Tls(trustme.CA(), tmp_path_factory.mktemp("tls"))
    made.issue()
    return made


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tls: Tls, sink: Sink) -> Iterator[Gateway]:
    """A listener for each mode."""
    modes = ("none", "starttls", "starttls_required", "implicit")
    listeners = {mode: {"tls": {"mode": mode, **(tls.files if mode != "none" else {})}} for mode in modes}
    with Gateway({"timeouts": {"tls_handshake": "3s"}}, listeners=listeners, backend=sink.port) as running:
        yield running


TEXT = b"Subject: x\r\n\r\nx\r\n"


@pytest.mark.parametrize("listener", ["starttls", "starttls_required"])
def test_starttls_protects_a_message_of_smtplib(gateway: Gateway, tls: Tls, sink: Sink, listener: str) -> None:
    """After STARTTLS, with the certificate verified, mail goes through, and Received says so (ESMTPS)."""
    with smtplib.SMTP("localhost", gateway.ports[listener]) as client:
        client.starttls(context=tls.client())
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.sendmail("you@example.org", ["alice@example.com"], TEXT) == {}
    assert b"(using TLSv1.3 with cipher" in sink.messages[-1].content
    assert b"with ESMTPS id" in sink.messages[-1].content
    assert gateway.record(kind="transaction", result="accepted")["client"]["tls"]["version"] == "TLSv1.3"


def test_implicit_tls_protects_from_the_first_octet(gateway: Gateway, tls: Tls, sink: Sink) -> None:
    """The listener of port 465 greets within TLS."""
    with smtplib.SMTP_SSL("localhost", gateway.ports["implicit"], context=tls.client()) as client:
        assert client.sendmail("you@example.org", ["alice@example.com"], TEXT) == {}
        assert not client.has_extn("starttls")
    assert b"with ESMTPS id" in sink.messages[-1].content


@pytest.mark.peer("swaks", "swaks-tls")
@pytest.mark.parametrize(("listener", "option"), [("starttls", "--tls"), ("implicit", "--tls-on-connect")])
def test_swaks_sends_under_tls(gateway: Gateway, listener: str, option: str) -> None:
    """The TLS of another library gets through as well."""
    command = ["swaks", "--server", f"127.0.0.1:{gateway.ports[listener]}", option, "--to", "alice@example.com",
               "--from", "you@example.org"]  # fmt: skip
    assert "~> QUIT" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_required_tls_refuses_mail_without_it(gateway: Gateway) -> None:
    """Without TLS, MAIL gets 530 5.7.0 and everything that starts TLS works (RFC 3207 4)."""
    with Wire(gateway.ports["starttls_required"]) as client:
        assert "STARTTLS" in client.hello().lines
        answer = client.command("MAIL FROM:<you@example.org>")
        assert (answer.code, answer.text[:5]) == (530, "5.7.0")
        assert client.command("NOOP").code == 250
        assert client.command("QUIT").code == 221


def test_a_listener_without_tls_offers_none(gateway: Gateway) -> None:
    """Mode none neither offers nor takes STARTTLS."""
    with Wire(gateway.ports["none"]) as client:
        assert "STARTTLS" not in client.hello().lines
        assert client.command("STARTTLS").code in {454, 502, 503}


def test_what_was_said_before_tls_is_forgotten(gateway: Gateway, tls: Tls) -> None:
    """After the handshake the client has to greet again (RFC 3207 4.2)."""
    with Wire(gateway.ports["starttls"]) as client:
        client.hello()
        assert client.command("STARTTLS").code == 220
        client.start_tls(tls.client())
        assert client.command("RCPT TO:<alice@example.com>").code == 503
        assert client.command("MAIL FROM:<you@example.org>").code == 503
        client.hello()
        assert client.transaction().code == 250


@pytest.mark.parametrize(
    "early", [b"EHLO evil.example\r\n", b"N", b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<alice@example.com>\r\n"]
)
@pytest.mark.parametrize("listener", ["starttls", "starttls_required"])
def test_octets_sent_with_starttls_end_the_connection(gateway: Gateway, listener: str, early: bytes) -> None:
    """What comes in one packet with STARTTLS is never executed: the connection ends (CVE-2011-0411)."""
    before = len(gateway.records())  # an earlier client may have had the same port
    with Wire(gateway.ports[listener]) as client:
        client.hello()
        port = client.address[1]
        client.send(b"STARTTLS\r\n" + early)
        assert [answer.code for answer in client.rest()] == [421]
    (record,) = poll(lambda: [record for record in gateway.records()[before:] if record["client"]["port"] == port])
    assert gateway.line("session ended", session=record["session_id"])["reason"] == "octets_before_tls_handshake"
    assert record["kind"] == "connection"
    assert record["reverse_path"] is None
    assert record["decision"]["result"] == "disconnected"


def test_a_renewed_certificate_is_used_without_a_restart(gateway: Gateway, tls: Tls) -> None:
    """Once the files are replaced new handshakes show the new certificate, and a session under way goes on."""

    def shown() -> bytes:
        with Wire(gateway.ports["implicit"], context=tls.client()) as client:
            return client.peer_certificate()

    old = shown()
    with Wire(gateway.ports["starttls"]) as client:
        client.hello()
        assert client.command("STARTTLS").code == 220
        client.start_tls(tls.client())
        worker = gateway.worker().pid
        tls.issue()
        assert poll(lambda: shown() != old)
        assert client.command("NOOP").code == 250
        assert client.peer_certificate() == old
    assert gateway.worker().pid == worker
    assert gateway.line("certificate reloaded")["level"] == "info"


def handshake_due(gateway: Gateway, listener: str) -> Wire:
    """A connection on which the next octets are those of a handshake."""
    if listener == "implicit":
        return Wire(gateway.ports[listener], greeted=False)
    client = Wire(gateway.ports[listener])
    client.hello()
    assert client.command("STARTTLS").code == 220
    return client


@pytest.mark.parametrize(
    ("fault", "reason", "listener"),
    [
        ("no handshake", "wrong version number", "starttls"),
        ("no handshake", "wrong version number", "implicit"),
        ("untrusted", "unknown ca", "starttls"),
        ("untrusted", "unknown ca", "implicit"),
        ("silent", "longer than", "starttls"),
        ("silent", "longer than", "implicit"),
        ("gone", "Connection", "starttls"),
        ("gone in it", "Connection", "starttls"),
        ("gone in it", "Connection", "implicit"),
    ],
)
def test_a_failed_handshake_leaves_a_record_that_says_so(
    gateway: Gateway, listener: str, fault: str, reason: str
) -> None:
    """SMTP in clear, a client that does not trust the certificate, one that says nothing, and one that goes away."""
    before = len(gateway.records())  # an earlier client may have had the same port
    with handshake_due(gateway, listener) as client:
        port = client.address[1]
        if fault == "no handshake":
            client.send(b"EHLO client.example\r\n")
        elif fault == "untrusted":
            with pytest.raises(ssl.SSLCertVerificationError):
                client.start_tls(ssl.create_default_context())
        elif fault in {"gone", "gone in it"}:
            if fault == "gone in it":
                client.send(b"\x16\x03\x01\x02\x00\x01")
            client.close()
        if fault in {"no handshake", "silent"}:
            with pytest.raises((ClosedError, ValueError)):  # perhaps an alert, which is no reply
                client.reply()
    (record,) = poll(lambda: [record for record in gateway.records()[before:] if record["client"]["port"] == port])
    session = record["session_id"]  # others' handshakes may fail just now, too
    assert reason in gateway.line("TLS handshake failed", session=session, level="info")["error"]
    assert (record["kind"], record["client"]["tls"], record["reply"]) == ("connection", None, None)
    decision = record["decision"]
    if fault in {"gone", "gone in it"}:
        assert (decision["result"], decision["policy"]) == ("none", None)
    else:
        assert (decision["result"], decision["policy"]) == ("disconnected", "smtp")
        assert (decision["stage"], decision["outcome"]) == ("connect", "tls_handshake_failed")
    (check,) = record["checks"]
    assert (check["policy"], check["outcome"], check["action"]) == ("smtp", "tls_handshake_failed", "disconnect")
    assert reason in check["evidence"]["reason"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_protocol_versions_are_refused(gateway: Gateway, tls: Tls) -> None:
    """TLS 1.1 finds no common version; TLS 1.2 does (RFC 8996)."""
    with Wire(gateway.ports["implicit"], context=limited(tls, ssl.TLSVersion.TLSv1_2)) as client:
        assert client.hello().code == 250
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        Wire(gateway.ports["implicit"], context=limited(tls, ssl.TLSVersion.TLSv1_1))


def limited(tls: Tls, most: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that speaks nothing newer."""
    context = tls.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = most
    return context
