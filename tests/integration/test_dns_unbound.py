"""The resolver and a real recursive server, Debian's unbound, which forwards to the tests' own."""

import asyncio
from collections.abc import Iterator

import pytest

from gateway.adapters.dns.resolver import DnsResolver
from gateway.resolver import RecordType, Status
from tests.support.dns_server import DnsServer, Zone
from tests.support.dns_thread import Unbound, dns_thread

pytestmark = pytest.mark.peer("unbound")

LONG = [f'"{number} {"x" * 200}"' for number in range(50)]
ZONE: Zone = {
    "example.com": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": ["10 mx.example.com."], "TXT": LONG},
    "alias.example": {"CNAME": ["other.example."]},
    "other.example": {"CNAME": ["example.com."]},
    "dangling.example": {"CNAME": ["nowhere.example."]},
    "broken.example": "SERVFAIL",
}


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    """The server behind unbound."""
    with dns_thread(ZONE, ttl=120) as running:
        yield running


@pytest.fixture(scope="module")
def address(server: DnsServer) -> Iterator[str]:
    """Unbound's address."""
    with Unbound(server) as running:
        yield running.address


@pytest.mark.parametrize(
    ("name", "record_type", "status", "records"),
    [
        ("example.com", RecordType.A, Status.FOUND, {"192.0.2.1"}),
        ("Example.COM", RecordType.AAAA, Status.FOUND, {"2001:db8::1"}),
        ("example.com", RecordType.MX, Status.FOUND, {"10 mx.example.com"}),
        ("alias.example", RecordType.A, Status.FOUND, {"192.0.2.1"}),
        ("example.com", RecordType.PTR, Status.NO_DATA, set()),
        ("nowhere.example", RecordType.A, Status.NXDOMAIN, set()),
        ("dangling.example", RecordType.A, Status.NXDOMAIN, set()),
        ("broken.example", RecordType.A, Status.SERVFAIL, set()),
    ],
)
async def test_each_kind_of_answer(
    address: str, name: str, record_type: RecordType, status: Status, records: set[str]
) -> None:
    """What is found, what is not there, and what fails come as they are, with the time for which they hold."""
    resolver = DnsResolver([address], timeout=30)
    answer = await resolver.lookup(name, record_type)
    await resolver.close()
    assert (answer.status, set(answer.records)) == (status, records)
    assert 0 < answer.ttl <= 120


async def test_many_records_come_over_tcp(address: str) -> None:
    """A set of 10 KB does not fit into a datagram, so unbound truncates it and gives it over TCP."""
    resolver = DnsResolver([address], timeout=30)
    answer = await resolver.lookup("example.com", RecordType.TXT)
    await resolver.close()
    assert len(answer.records) == len(LONG)


async def test_many_questions_at_a_time(address: str) -> None:
    """Five hundred questions at once are all answered."""
    resolver = DnsResolver([address], timeout=30)
    answers = await asyncio.gather(*(resolver.lookup(f"n{n}.example.com", RecordType.A) for n in range(500)))
    await resolver.close()
    assert {answer.status for answer in answers} == {Status.NXDOMAIN}
