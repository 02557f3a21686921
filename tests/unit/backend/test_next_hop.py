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


async def test_a_domain_that_takes_no_mail() -> None:
    """A domain with a null MX (RFC 7505) has no servers, and no address is asked for."""
    zone = Zone({("example.com", MX): found("0 ."), ("example.com", A): found("192.0.2.1")})
    expanded = await expand(zone, HOP, 25)
    assert expanded is not None
    assert expanded.endpoints == ()
    assert zone.asked == [("example.com", MX)]


async def test_a_domain_does_not_exist_when_all_questions_say_so() -> None:
    """NXDOMAIN to the MX question alone is a broken name server: an address counts, and its fault tells nothing."""
    gone = Answer(Status.NXDOMAIN)
    zone = {("example.com", record_type): gone for record_type in (MX, A, AAAA)}
    expanded = await expand(Zone(zone), HOP, 25)
    assert expanded is not None
    assert expanded.endpoints == ()
    expanded = await expand(Zone(zone | {("example.com", A): found("192.0.2.1")}), HOP, 25)
    assert expanded is not None
    assert [each.addresses for each in expanded.endpoints] == [("192.0.2.1",)]
    assert await expand(Zone(zone | {("example.com", AAAA): Answer(Status.SERVFAIL)}), HOP, 25) is None


async def test_hosts_of_which_nothing_is_told_do_not_count_as_none() -> None:
    """A host that can't be looked up beside one without addresses tells nothing; a part of the hosts is not kept."""
    records = {("example.com", MX): found("1 a.example.com", "2 b.example.com")}
    fault = {("b.example.com", A): Answer(Status.TIMEOUT)}
    assert await expand(Zone(records | fault | {("a.example.com", A): Answer(Status.NO_DATA)}), HOP, 25) is None
    part = await expand(Zone(records | fault | {("a.example.com", A): found("192.0.2.1")}), HOP, 25)
    assert part is not None
    assert [each.name for each in part.endpoints] == ["a.example.com"]
    assert part.expires == 0


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
