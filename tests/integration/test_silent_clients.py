"""Clients that connect and leave without a word, as monitoring does: no record, no line of the log, but a number."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.integration.test_metrics import Page
from tests.support.gateway import Gateway, poll
from tests.support.sink import Sink
from tests.support.wire import ClosedError, Wire

PROXY: dict[str, object] = {"proxy_protocol": {"trusted": ["127.0.0.1"]}}
LISTENERS = ("smtp", "smtps", "proxied", "proxied smtps")
TIMES = 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key."""
    path = tmp_path_factory.mktemp("silent") / "pair.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture(params=[False, True], ids=["unrecorded", "recorded"])
def gateway(request: pytest.FixtureRequest, certificate: Path) -> Iterator[tuple[Gateway, Page]]:
    """Listeners of every kind, with ``silent_clients`` and without, and the page of numbers."""
    page = Page()
    tls: dict[str, object] = {"tls": {"mode": "implicit", "certificate": str(certificate)}}
    settings = {"metrics": page.setting, "records": {"file": "records.jsonl", "silent_clients": request.param}}
    listeners: dict[str, dict[str, object]] = dict(zip(LISTENERS, ({}, tls, PROXY, PROXY | tls), strict=True))
    with Sink() as sink, Gateway(settings, listeners=listeners, backend=sink.port) as running:
        yield running, page


def leave(client: socket.socket, how: str) -> None:
    """Go away."""
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "half closed":
        client.shutdown(socket.SHUT_WR)
        while client.recv(1000):
            pass
    client.close()


def test_who_says_nothing_is_quiet(gateway: tuple[Gateway, Page]) -> None:
    """On every kind of listener, by whatever way it goes; who says something wrong is not."""
    running, page = gateway
    is_recorded = running.settings["records"]["silent_clients"]
    seen = len(running.lines)
    heads = [(name, b"") for name in LISTENERS]
    heads += [("proxied", b"PROXY UNKNOWN\r\n"), ("proxied smtps", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")]
    count = 0
    for name, head in heads:
        for how in ("closed", "reset", "half closed"):
            for _ in range(TIMES):
                client = socket.create_connection(("127.0.0.1", running.ports[name]), 30)
                client.sendall(head)
                if name == "smtp":
                    client.recv(1000)  # its greeting
                leave(client, "closed" if head and how == "reset" else how)  # a reset may overtake the header
                count += 1
    poll(lambda: page.value("silent_clients_total") == count)
    expected = count - 2 * 3 * TIMES if is_recorded else 0  # no session began on a listener that waits for a header
    poll(lambda: len(running.records()) == expected)
    assert all(record["decision"]["result"] == "none" for record in running.records())
    assert not [line for line in running.lines[seen:] if line["logger"] == "lychgate.smtp"]
    assert page.value("decisions_total", result="none") == expected

    with Wire(running.port) as polite:
        polite.command("NOOP")
    with pytest.raises((ClosedError, ValueError, OSError)), Wire(running.ports["smtps"], first=[b"EHLO x\r\n"]):
        pass
    with Wire(running.ports["proxied"], first=[b"EHLO client.example\r\n"], greeted=False) as wrong:
        assert wrong.is_closed()
    running.line("no PROXY header from a trusted peer", after=seen)
    running.line("TLS handshake failed", after=seen)
    poll(lambda: len(running.records()) == expected + 2)
    assert page.value("silent_clients_total") == count


def test_who_is_refused_leaves_a_record_all_the_same() -> None:
    """What was decided is recorded, though the client says nothing to it."""
    settings = {"policies": [{"access": {"deny": {"clients": ["127.0.0.1"]}}}, "relay"], "delay_reject": "none"}
    with Sink() as sink, Gateway(settings, backend=sink.port) as gateway:
        with Wire(gateway.port) as client:
            assert client.greeting is not None
            assert client.greeting.code == 554
        assert gateway.record(kind="connection", result="rejected")["decision"]["policy"] == "access"
