"""Addresses as text and what is global: the same on every Python, wherever an address is written."""

from ipaddress import ip_address, ip_network

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.address import address_text, is_global, network_text
from gateway.backend.client_info import identity
from gateway.backend.next_hop import _addresses
from gateway.cli.explain import _address
from gateway.config.backend import NextHop
from gateway.config.names import Endpoint, parse_server
from gateway.resolver import RecordType
from gateway.smtp.grammar import parse_mailbox
from gateway.subjects import network
from gateway.testing import Site

DOTS, HEXADECIMAL = "::ffff:192.0.2.1", "::ffff:c000:201"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::192.0.2.1", "::c000:201"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
        (DOTS, HEXADECIMAL),
        (HEXADECIMAL, HEXADECIMAL),
        ("::ffff:0.0.0.0", "::ffff:0:0"),
        ("::ffff:0.10.255.255", "::ffff:a:ffff"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        (DOTS + "%eth0", HEXADECIMAL + "%eth0"),
    ],
)
def test_an_address_has_one_text(address: str, text: str) -> None:
    """However it was written; the text is read as the same address."""
    assert address_text(ip_address(address)) == text
    assert ip_address(text) == ip_address(address)


def test_a_network_has_one_text() -> None:
    """With its length."""
    assert network_text(ip_network("192.0.2.0/24")) == "192.0.2.0/24"
    assert network_text(ip_network("2001:db8::/32")) == "2001:db8::/32"
    assert network_text(ip_network("::ffff:192.0.2.0/120")) == "::ffff:c000:200/120"


async def test_a_mapped_address_is_written_alike_everywhere() -> None:
    """In address literals, the configuration, the DNS, what a backend is told, and what is counted."""
    site = Site()
    session = site.session(DOTS)
    resolver = ZoneResolver({"mx.example": {"AAAA": DOTS}})
    for text in (DOTS, HEXADECIMAL):
        assert parse_mailbox(f"a@[IPv6:{text}]").domain == f"[ipv6:{HEXADECIMAL}]"
    assert str(Endpoint.parse(f"[{DOTS}]:25")) == f"[{HEXADECIMAL}]:25"
    assert NextHop.parse(f"[{DOTS}]:25").target == HEXADECIMAL
    assert parse_server(f"[{DOTS}]:53") == (HEXADECIMAL, 53)
    assert _address(DOTS) == HEXADECIMAL
    assert (await resolver.lookup("mx.example", RecordType.AAAA)).records == (HEXADECIMAL,)
    assert await _addresses(resolver, "mx.example") == (HEXADECIMAL,)
    assert identity(session).attributes["ADDR"] == f"IPV6:{HEXADECIMAL}"
    assert network(session.client_address, 32, 128) == HEXADECIMAL
    assert network(session.client_address, 32, 112) == "::ffff:c000:0/112"


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ("1.1.1.1 8.8.8.8 99.255.255.255 100.128.0.0 192.0.0.9 192.0.0.10 192.88.99.1 192.0.1.0 223.255.255.255", True),
        ("0.0.0.1 10.0.0.1 100.64.0.1 127.0.0.1 169.254.0.1 172.31.255.255 192.0.0.8 192.0.0.170 192.0.2.1", False),
        ("192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255", False),
        ("2001:4860:4860::8888 2a00::1 2001:200::1 2002:102:304::1 2001:4:112::1 2001:1::1 2001:20::1 2001:3::1", True),
        ("::1 :: 2001::1 2001:2::1 2001:db8::1 2001:10::1 3fff::1 fc00::1 fe80::1 fec0::1 ff02::1 64:ff9b:1::1", False),
        ("100::1 ::1.2.3.4 4000::1", False),
        ("::ffff:8.8.8.8 ::ffff:192.0.0.9", True),
        ("::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:192.0.0.8", False),
    ],
)
def test_what_is_global_goes_by_the_registries(addresses: str, *, expected: bool) -> None:
    """The special-purpose registries of IANA, with the exceptions that stand in them; all else can be reached."""
    for address in addresses.split():
        assert is_global(ip_address(address)) is expected, address
