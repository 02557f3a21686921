"""The PROXY protocol: a trusted load balancer tells who the client is, and nobody else may."""

import ipaddress
import ssl
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trustme

from tests.support.gateway import Gateway, poll
from tests.support.sink import Sink
from tests.support.wire import Wire

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 45678 25\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 45678 25\r\n"


def v2(client: str, server: str, *, command: int = 0x21, extra: bytes = b"") -> bytes:
    """A header of version 2."""
    one, two = ipaddress.ip_address(client), ipaddress.ip_address(server)
    body = one.packed + two.packed + struct.pack("!HH", 45678, 25) + extra
    return SIGNATURE + struct.pack("!BBH", command, 0x11 if one.version == 4 else 0x21, len(body)) + body


V2 = v2("192.0.2.7", "198.51.100.1")
V2_6 = v2("2001:db8::7", "2001:db8::1", extra=b"\x04\x00\x05noise")  # PP2_TYPE_NOOP


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that clients trust."""
    return trustme.CA()


@pytest.fixture(scope="module")
def gateway(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Listeners that trust 127.0.0.1 alone: in clear, and with implicit TLS."""
    certificate = tmp_path_factory.mktemp("proxy") / "cert.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    proxy = {"proxy_protocol": {"trusted": ["127.0.0.1"]}}
    listeners: dict[str, dict[str, Any]] = {
        "smtp": proxy,
        "smtps": {**proxy, "tls": {"mode": "implicit", "certificate": str(certificate)}},
    }
    settings = {"timeouts": {"proxy": "500ms"}, "limits": {"connections_per_client": 2}}
    with Sink() as sink, Gateway(settings, listeners=listeners, backend=sink.port) as running:
        yield running


def seen_client(gateway: Gateway, client: Wire) -> tuple[str, int]:
    """The client of a message by its record."""
    sender = f"sender-{client.address[1]}@example.org"
    client.hello()
    assert client.transaction(sender).code == 250
    (record,) = [record for record in gateway.records() if record["reverse_path"] == sender]
    return record["client"]["address"], record["client"]["port"]


@pytest.mark.parametrize(
    ("header", "address"), [(V1, "192.0.2.7"), (V1_6, "2001:db8::7"), (V2, "192.0.2.7"), (V2_6, "2001:db8::7")]
)
@pytest.mark.parametrize("split", ["whole", "in halves", "octet by octet"])
def test_a_trusted_peer_tells_the_client(gateway: Gateway, header: bytes, address: str, split: str) -> None:
    """Version 1 and 2, IPv4 and IPv6, however the header is cut into packets."""
    half = len(header) // 2
    pieces = {
        "whole": [header],
        "in halves": [header[:half], header[half:]],
        "octet by octet": [header[at : at + 1] for at in range(len(header))],
    }
    with Wire(gateway.port, first=pieces[split]) as client:
        assert seen_client(gateway, client) == (address, 45678)


def record_of_port(gateway: Gateway, port: int) -> dict[str, Any] | None:
    """The record of a client's port, None before there is one."""
    found = (record for record in gateway.records() if record["client"]["port"] == port)
    return next(found, None)


@pytest.mark.parametrize("header", [V1, V2])
def test_tls_follows_the_header(gateway: Gateway, authority: trustme.CA, header: bytes) -> None:
    """With implicit TLS the header comes in clear, and the handshake behind it, in the same packet or not."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Wire(gateway.ports["smtps"], first=[header], context=context) as client:
        assert seen_client(gateway, client) == ("192.0.2.7", 45678)


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", v2("192.0.2.7", "198.51.100.1", command=0x20)],
)
def test_a_connection_of_the_load_balancer_itself_keeps_its_address(gateway: Gateway, header: bytes) -> None:
    """UNKNOWN and LOCAL are health checks: the peer is the client."""
    with Wire(gateway.port, first=[header]) as client:
        assert seen_client(gateway, client) == client.address


@pytest.mark.parametrize("header", [V1, V2])
def test_an_untrusted_peer_is_served_as_itself_and_its_header_is_no_header(gateway: Gateway, header: bytes) -> None:
    """127.0.0.2 is not trusted: it is greeted without a header, and one that it sends does not change who it is."""
    with Wire(gateway.port, source="127.0.0.2") as client:
        assert seen_client(gateway, client)[0] == "127.0.0.2"
    with Wire(gateway.port, source="127.0.0.2", first=[header]) as client:
        client.send(b"\r\n")
        assert client.reply().code == 500
        host, port = client.address
    record = poll(partial(record_of_port, gateway, port))
    assert record["client"]["address"] == host == "127.0.0.2"


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO client.example\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 45678\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 45678 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 25\r\n",
        b"PROXY TCP4 " + b"9" * 200 + b"\r\n",
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(100),
        bytes(range(256)),
    ],
)
def test_a_trusted_peer_without_a_header_is_not_served(gateway: Gateway, header: bytes) -> None:
    """Garbage where a header must be closes the connection without a word, and the log says so."""
    seen = len(gateway.lines)
    with Wire(gateway.port, first=[header], greeted=False) as client:
        assert client.is_closed()
    assert gateway.line("no PROXY header from a trusted peer", after=seen)["level"] == "warning"


@pytest.mark.parametrize("header", [b"", V1[:10], V2[:20]])
def test_a_header_that_does_not_come_closes_the_connection(gateway: Gateway, header: bytes) -> None:
    """A trusted peer that sends nothing, or half a header, is cut off when the time is over."""
    with Wire(gateway.port, first=[header] if header else [], greeted=False) as client:
        assert client.is_closed()


def test_connections_are_counted_by_the_client_that_was_told_of(gateway: Gateway) -> None:
    """Two connections of one client through the load balancer are taken and a third is not; another client's is."""
    header = b"PROXY TCP4 192.0.2.99 198.51.100.1 45678 25\r\n"
    with Wire(gateway.port, first=[header]) as one, Wire(gateway.port, first=[header]) as two:
        one.hello()
        two.hello()
        with Wire(gateway.port, first=[header]) as three:
            assert three.greeting is not None
            assert three.greeting.code == 421
        with Wire(gateway.port, first=[V1]) as other:
            other.hello()


def test_mapped_addresses_are_counted_as_the_clients_they_carry(gateway: Gateway) -> None:
    """A load balancer that writes IPv4 clients as IPv4-mapped ones does not make one client of all of them."""

    def header(client: str) -> bytes:
        return f"PROXY TCP6 ::ffff:{client} 2001:db8::1 45678 25\r\n".encode()

    with Wire(gateway.port, first=[header("192.0.2.1")]) as one, Wire(gateway.port, first=[header("192.0.2.2")]) as two:
        one.hello()
        two.hello()
        with Wire(gateway.port, first=[header("192.0.2.3")]) as three:
            three.hello()
        with Wire(gateway.port, first=[header("192.0.2.1")]) as again:
            again.hello()
            with Wire(gateway.port, first=[b"PROXY TCP4 192.0.2.1 198.51.100.1 45678 25\r\n"]) as too_many:
                assert too_many.greeting is not None
                assert too_many.greeting.code == 421


def test_the_client_is_in_the_received_field_and_may_be_denied() -> None:
    """Policies see the client that was told of: one that is denied is refused, though the peer is not."""
    listeners = {"smtp": {"proxy_protocol": {"trusted": ["127.0.0.0/8"]}}}
    settings = {"policies": [{"access": {"deny": {"clients": ["192.0.2.0/24"]}}}, "relay"]}
    with Sink() as sink, Gateway(settings, listeners=listeners, backend=sink.port) as gateway:
        with Wire(gateway.port, first=[V1]) as client:
            client.hello()
            client.command("MAIL FROM:<you@example.org>")
            assert client.command("RCPT TO:<alice@example.com>").code >= 500
        with Wire(gateway.port, first=[V1_6]) as client:
            client.hello()
            assert client.transaction().code == 250
        assert b"[IPv6:2001:db8::7]" in sink.messages[0].content
