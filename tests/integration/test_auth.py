"""AUTH passed through to a mail server that knows the users: who has authenticated may relay, nobody else."""

import base64
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.gateway import Gateway
from tests.support.sink import Sink
from tests.support.wire import Wire

TEXT = b"Subject: x\r\n\r\nx\r\n"
USER, PASSWORD, WRONG = "alice@example.com", "open sesame", "open barley"


@pytest.fixture(scope="module")
def client_tls() -> trustme.CA:
    """The authority that clients trust."""
    return trustme.CA()


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server that knows the users."""
    with Sink(auth=True) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(sink: Sink, client_tls: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Submission on 587 and 465, and a listener where authentication is a matter of choice."""
    folder: Path = tmp_path_factory.mktemp("auth")
    issued = client_tls.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
    certificate = str(folder / "cert.pem")
    listeners: dict[str, dict[str, Any]] = {
        "submission": {"tls": {"mode": "starttls_required", "certificate": certificate}, "auth": {}},
        "submissions": {"tls": {"mode": "implicit", "certificate": certificate}, "auth": {}},
        "either": {"tls": {"mode": "starttls", "certificate": certificate}, "auth": {"required": False}},
    }
    with Gateway(listeners=listeners, backend=sink.port) as running:
        yield running


def context(authority: trustme.CA) -> ssl.SSLContext:
    """A client that verifies the gateway."""
    made = ssl.create_default_context()
    authority.configure_trust(made)
    return made


def plain(user: str = USER, password: str = PASSWORD) -> str:
    """The response of AUTH PLAIN (RFC 4616)."""
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def test_smtplib_logs_in_behind_starttls_and_relays(gateway: Gateway, sink: Sink, client_tls: trustme.CA) -> None:
    """After the backend's 235 mail to any domain goes through, over the backend's authenticated connection."""
    with smtplib.SMTP("localhost", gateway.ports["submission"]) as client:
        client.starttls(context=context(client_tls))
        assert client.login(USER, PASSWORD)[0] == 235
        assert client.sendmail(USER, ["someone@elsewhere.example"], TEXT) == {}
        assert client.sendmail(USER, ["another@elsewhere.example"], TEXT) == {}
    assert [message.login for message in sink.messages[-2:]] == [USER, USER]
    assert sink.messages[-1].recipients == ("another@elsewhere.example",)
    assert b"with ESMTPSA id" in sink.messages[-1].content
    assert gateway.record(kind="transaction", result="accepted")["client"]["login"] == USER


@pytest.mark.peer("swaks", "swaks-tls")
def test_swaks_logs_in_under_implicit_tls(gateway: Gateway, sink: Sink) -> None:
    """The same by swaks on the port of implicit TLS."""
    command = ["swaks", "--server", f"127.0.0.1:{gateway.ports['submissions']}", "--tls-on-connect", "--auth", "PLAIN",
               "--auth-user", USER, "--auth-password", PASSWORD, "--from", USER,
               "--to", "x@elsewhere.example"]  # fmt: skip
    assert "235 " in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert sink.messages[-1].login == USER


def test_mail_needs_authentication_where_it_is_required(gateway: Gateway, client_tls: trustme.CA) -> None:
    """Before AUTH, MAIL gets 530 5.7.0 on a submission listener (RFC 4954 6)."""
    with Wire(gateway.ports["submissions"], context=context(client_tls)) as client:
        assert any(line.startswith("AUTH ") for line in client.hello().lines)
        answer = client.command(f"MAIL FROM:<{USER}>")
        assert (answer.code, answer.text[:5]) == (530, "5.7.0")


def test_auth_is_neither_offered_nor_taken_before_tls(gateway: Gateway) -> None:
    """No password is asked for in clear text: AUTH before STARTTLS is refused, and EHLO does not name it."""
    for listener in ("submission", "either"):
        with Wire(gateway.ports[listener]) as client:
            assert not any(line.startswith("AUTH") for line in client.hello().lines)
            assert client.command(f"AUTH PLAIN {plain()}").code // 100 == 5


def test_nobody_relays_before_authentication(gateway: Gateway, client_tls: trustme.CA, sink: Sink) -> None:
    """Where AUTH is a choice, relaying is refused before it and taken after it, in one session."""
    count = len(sink.messages)
    with Wire(gateway.ports["either"]) as client:
        client.hello()
        assert client.command("STARTTLS").code == 220
        client.start_tls(context(client_tls))
        client.hello()
        assert client.command("MAIL FROM:<you@example.org>").code == 250
        answer = client.command("RCPT TO:<someone@elsewhere.example>")
        assert (answer.code, answer.text[:5]) == (554, "5.7.1")
        assert client.command("RSET").code == 250
        assert client.transaction("you@example.org", "alice@example.com").code == 250
        assert client.command(f"AUTH PLAIN {plain()}").code == 235
        assert client.transaction(USER, "someone@elsewhere.example").code == 250
        assert client.command(f"AUTH PLAIN {plain()}").code == 503  # once a session (RFC 4954 4)
    assert [message.login for message in sink.messages[count:]] == [None, USER]


def test_a_wrong_password_gets_the_backends_words_and_another_try(
    gateway: Gateway, client_tls: trustme.CA, sink: Sink
) -> None:
    """The backend's 535 reaches the client, which may not relay then, and may try again."""
    count = len(sink.messages)
    with Wire(gateway.ports["submissions"], context=context(client_tls)) as client:
        client.hello()
        answer = client.command(f"AUTH PLAIN {plain(password=WRONG)}")
        assert (answer.code, answer.text) == (535, "5.7.8 Authentication credentials invalid")
        assert client.command(f"MAIL FROM:<{USER}>").code == 530
        assert client.command("AUTH PLAIN").code == 334
        assert client.command("*").code == 501  # the client gives up (RFC 4954 4)
        assert client.command("AUTH PLAIN").code == 334
        assert client.command(plain()).code == 235
        assert client.transaction(USER, "someone@elsewhere.example").code == 250
    assert len(sink.messages) == count + 1
    assert any(line["event"] == "authentication failed" for line in gateway.lines)
    assert PASSWORD not in gateway.log_text()
    assert plain() not in gateway.log_text()


def test_a_vanished_backend_defers_the_login(client_tls: trustme.CA, tmp_path: Path) -> None:
    """When the server that knows the users is gone AUTH gets 454, never a refusal of the password."""
    client_tls.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    listeners = {
        "submissions": {"tls": {"mode": "implicit", "certificate": str(tmp_path / "cert.pem")}, "auth": {}},
    }
    with (
        Sink(auth=True) as vanishing,
        Gateway(listeners=listeners, backend=vanishing.port) as gateway,
        Wire(gateway.port, context=context(client_tls)) as client,
    ):
        client.hello()
        vanishing.stop()
        assert client.command(f"AUTH PLAIN {plain()}").code == 454
        assert client.command("NOOP").code == 250
