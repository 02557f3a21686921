"""MX hosts as endpoints."""

import pytest

from gateway.backend.next_hop import MAX_HOSTS, expand
from gateway.config.backend import NextHop
from gateway.resolver import Answer, RecordType, Status
from tests.support.backend import Zone

HOP = NextHop.parse("mx:example.com")
A, AAAA, MX = RecordType.A, RecordType.AAAA, RecordType.MX


def found(*records: str) -> Answer:
    """An answer with records."""
    return Answer(Status.FOUND, records, 600)


async def test_the_order_is_that_of_the_preferences() -> None:
    """Hosts come by preference, each with its IPv6 and IPv4 addresses."""
    zone = Zone(
        {
            ("example.com", MX): found("20 mx2.example.com", "10 MX1.example.com.", "30 mx3.example.com"),
            ("mx1.example.com", A): found("192.0.2.1"),
            ("mx1.example.com", AAAA): found("2001:db8::1"),
            ("mx2.example.com", A): found("192.0.2.2", "192.0.2.3"),
        }
    )
    answer = await expand(zone, HOP, 25)
    assert answer is not None
    assert [(each.name, each.addresses, each.port) for each in answer.endpoints] == [
        ("mx1.example.com", ("2001:db8::1", "192.0.2.1"), 25),
        ("mx2.example.com", ("192.0.2.2", "192.0.2.3"), 25),
    ]
    assert answer.expires == 600


async def test_a_domain_without_mx_is_its_own() -> None:
    """Where there is no MX the domain's own addresses are used (RFC 5321 5.1)."""
    zone = Zone({("example.com", MX): Answer(Status.NO_DATA), ("example.com", A): found("192.0.2.1")})
    answer = await expand(zone, HOP, 2525)
    assert answer is not None
    assert [str(each) for each in answer.endpoints] == ["example.com:2525"]


@pytest.mark.parametrize("answer", [found("0 ."), Answer(Status.NXDOMAIN)], ids=["null MX", "no such domain"])
async def test_domains_that_take_no_mail(answer: Answer) -> None:
    """A null MX (RFC 7505) and a domain that does not exist have no servers, and no address is asked for."""
    zone = Zone({("example.com", MX): answer, ("example.com", A): found("192.0.2.1")})
    expanded = await expand(zone, HOP, 25)
    assert expanded is not None
    assert expanded.endpoints == ()
    assert zone.asked == [("example.com", MX)]


@pytest.mark.parametrize("status", [Status.SERVFAIL, Status.TIMEOUT])
async def test_nothing_is_known(status: Status) -> None:
    """A failing look-up of the MX, or of all addresses, tells nothing."""
    assert await expand(Zone({("example.com", MX): Answer(status)}), HOP, 25) is None
    zone = Zone({("example.com", MX): found("1 mx.example.com"), ("mx.example.com", A): Answer(status)})
    assert await expand(zone, HOP, 25) is None


async def test_equal_preferences_share_the_load() -> None:
    """Hosts of one preference do not always come in one order, and at most so many are used."""
    names = [f"mx{index}.example.com" for index in range(MAX_HOSTS + 5)]
    zone = Zone(
        {("example.com", MX): found(*(f"10 {name}" for name in names))} | {(n, A): found("192.0.2.1") for n in names}
    )
    orders = set()
    for _ in range(20):
        answer = await expand(zone, HOP, 25)
        assert answer is not None
        assert len(answer.endpoints) == MAX_HOSTS
        orders.add(tuple(each.name for each in answer.endpoints))
    assert len(orders) > 1
