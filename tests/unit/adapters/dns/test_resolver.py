"""The resolver against a real DNS server on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from gateway.adapters.dns.cache import Lifetimes
from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.dns.zone import ZoneResolver
from gateway.config.names import parse_server
from gateway.config.options import DnsOptions
from gateway.resolver import Answer, ClientName, NameStatus, RecordType, Status, client_name, known_client_name
from tests.support.dns_server import DnsServer, Zone

Make: TypeAlias = Callable[..., DnsResolver]

ZONE: Zone = {
    "example.com": {
        "A": ["192.0.2.1", "192.0.2.2"],
        "AAAA": ["2001:db8::1"],
        "MX": ["10 mx1.example.com.", "20 mx2.example.com."],
        "TXT": ['"v=spf1 " "ip4:192.0.2.0/24" " -all"', '"caf\\195\\169"'],
        "NS": ["ns1.example.com."],
        "SOA": ["ns1.example.com. hostmaster.example.com. 7 3600 600 86400 60"],
    },
    "null.example": {"MX": ["0 ."]},
    "alias.example": {"CNAME": ["example.com."]},
    "dangling.example": {"CNAME": ["nowhere.example."]},
    "broken.example": "SERVFAIL",
    "silent.example": "TIMEOUT",
    "mixed.example": {"A": "SERVFAIL", "TXT": ['"here"']},
    "1.2.0.192.in-addr.arpa": {"PTR": ["liar.example.com.", "Example.com."]},
    "liar.example.com": {"A": ["198.51.100.1"]},
    "9.2.0.192.in-addr.arpa": "SERVFAIL",
}


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes resolvers, and closes them in the end."""
    async with AsyncExitStack() as stack:

        def one(*arguments: Any, **options: Any) -> DnsResolver:
            resolver = DnsResolver(*arguments, **options)
            stack.push_async_callback(resolver.close)
            return resolver

        yield one


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def free_udp_port() -> int:
    """A port on which nothing listens."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "record_type", "status", "records"),
    [
        ("example.com", RecordType.A, Status.FOUND, {"192.0.2.1", "192.0.2.2"}),
        ("EXAMPLE.com.", RecordType.AAAA, Status.FOUND, {"2001:db8::1"}),
        ("example.com", RecordType.MX, Status.FOUND, {"10 mx1.example.com", "20 mx2.example.com"}),
        ("example.com", RecordType.TXT, Status.FOUND, {"v=spf1 ip4:192.0.2.0/24 -all", "caf\xc3\xa9"}),
        ("example.com", RecordType.NS, Status.FOUND, {"ns1.example.com"}),
        (
            "example.com",
            RecordType.SOA,
            Status.FOUND,
            {"ns1.example.com. hostmaster.example.com. 7 3600 600 86400 60"},
        ),
        ("null.example", RecordType.MX, Status.FOUND, {"0 ."}),
        ("alias.example", RecordType.A, Status.FOUND, {"192.0.2.1", "192.0.2.2"}),
        ("alias.example", RecordType.CNAME, Status.FOUND, {"example.com"}),
        ("example.com", RecordType.PTR, Status.NO_DATA, set()),
        ("alias.example", RecordType.PTR, Status.NO_DATA, set()),
        ("nowhere.example", RecordType.A, Status.NXDOMAIN, set()),
        ("dangling.example", RecordType.A, Status.NXDOMAIN, set()),
        ("broken.example", RecordType.A, Status.SERVFAIL, set()),
        ("mixed.example", RecordType.A, Status.SERVFAIL, set()),
        ("mixed.example", RecordType.TXT, Status.FOUND, {"here"}),
        ("silent.example", RecordType.A, Status.TIMEOUT, set()),
    ],
)
async def test_each_kind_of_answer(
    make: Make, name: str, record_type: RecordType, status: Status, records: set[str]
) -> None:
    """Found records come as their text, and each way of finding none is told apart."""
    async with DnsServer(ZONE) as server:
        patience = 0.3 if status is Status.TIMEOUT else 10.0
        answer = await make([server.address], timeout=patience).lookup(name, record_type)
        assert answer.status is status
        assert set(answer.records) == records
        assert answer.ttl > 0


@pytest.mark.parametrize("name", ["a..example", "a" * 64 + ".example", "x." * 140 + "example", "caf\xe9.example"])
async def test_names_that_can_not_be(make: Make, name: str) -> None:
    """A name that the DNS can't hold does not exist, and no server is asked."""
    async with DnsServer(ZONE) as server:
        resolver = make([server.address])
        assert (await resolver.lookup(name, RecordType.A)).status is Status.NXDOMAIN
        assert server.questions == []
        assert resolver.queries == 0


async def test_a_truncated_answer_is_fetched_over_tcp(make: Make) -> None:
    """The TC bit leads to the same question over TCP."""
    async with DnsServer(ZONE) as server:
        server.truncate = True
        answer = await make([server.address]).lookup("example.com", RecordType.AAAA)
        assert answer.records == ("2001:db8::1",)
        assert [question[0] for question in server.questions] == ["udp", "tcp"]


async def test_garbage_is_no_answer(make: Make) -> None:
    """A server that sends no DNS message is a failure, never an exception."""
    async with DnsServer(ZONE) as server:
        server.garbage = True
        answer = await make([server.address], timeout=0.3).lookup("example.com", RecordType.A)
        assert answer.status.is_temporary


async def test_the_next_server_is_asked_when_one_fails(make: Make) -> None:
    """SERVFAIL of one server is not the answer while another has one; nor is silence."""
    broken: Zone = {"example.com": "SERVFAIL", "null.example": "TIMEOUT"}
    async with DnsServer(broken) as first, DnsServer(ZONE) as second:
        resolver = make([first.address, second.address], timeout=1)
        assert (await resolver.lookup("example.com", RecordType.A)).status is Status.FOUND
        assert (await resolver.lookup("null.example", RecordType.MX)).records == ("0 .",)


async def test_no_server_at_all_is_temporary(make: Make) -> None:
    """Where nothing listens the resolver can be made, and its answers are temporary failures."""
    resolver = make([f"127.0.0.1:{free_udp_port()}"], timeout=0.2)
    assert (await resolver.lookup("example.com", RecordType.A)).status.is_temporary


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "nameserver not-an-address\n", "\xff\xfe"])
async def test_a_missing_or_broken_resolv_conf_does_not_stop_the_start(tmp_path: Path, content: str | None) -> None:
    """Without name servers of the system the local machine is asked, as resolv.conf(5) says."""
    path = tmp_path / "resolv.conf"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    resolver = DnsResolver(resolv_conf=path)
    assert resolver.servers == ("127.0.0.1:53",)


async def test_the_systems_servers_are_used(tmp_path: Path) -> None:
    """Without servers of its own the resolver takes those of resolv.conf, in their order."""
    path = tmp_path / "resolv.conf"
    path.write_text("search example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    assert DnsResolver(resolv_conf=path).servers == ("192.0.2.53:53", "[2001:db8::53]:53")


@pytest.mark.parametrize("half", ["nameserver\n", "nameserver 192.0.\n", "nameserver 2001:db8::zz\n", "nam"])
async def test_half_a_line_of_resolv_conf_hides_no_server(tmp_path: Path, half: str) -> None:
    """A line that is no name server, at the begin or at the end, leaves the others in use."""
    path = tmp_path / "resolv.conf"
    for text in (f"{half}\nnameserver 192.0.2.53\n", f"nameserver 192.0.2.53\n{half}"):
        path.write_text(text)
        assert DnsResolver(resolv_conf=path).servers == ("192.0.2.53:53",)


async def test_answers_are_kept_for_their_ttl(make: Make) -> None:
    """A second question is answered from the cache with the time that is left, until the TTL is over."""
    clock = Clock()
    async with DnsServer(ZONE, ttl=300) as server:
        resolver = make([server.address], clock=clock)
        first = await resolver.lookup("example.com", RecordType.A)
        assert first.ttl == 300
        clock.time += 299
        assert await resolver.lookup("Example.COM", RecordType.A) == Answer(Status.FOUND, first.records, 1.0)
        assert len(server.questions) == 1
        clock.time += 1
        await resolver.lookup("example.com", RecordType.A)
        assert len(server.questions) == 2


async def test_negative_answers_are_kept_by_the_soa_but_not_for_ever(make: Make) -> None:
    """NXDOMAIN and no data hold as long as the SOA's minimum says, three hours at most (RFC 2308 5)."""
    clock = Clock()
    async with DnsServer(ZONE, ttl=60) as server:
        resolver = make([server.address], clock=clock)
        for name, record_type in [("nowhere.example", RecordType.A), ("example.com", RecordType.PTR)]:
            asked = len(server.questions)
            assert (await resolver.lookup(name, record_type)).ttl == 60
            clock.time += 59
            await resolver.lookup(name, record_type)
            assert len(server.questions) == asked + 1
            clock.time += 2
            await resolver.lookup(name, record_type)
            assert len(server.questions) == asked + 2
    async with DnsServer(ZONE, ttl=1_000_000) as server:
        resolver = make([server.address])
        assert (await resolver.lookup("example.com", RecordType.PTR)).ttl == 3600  # the SOA record's own
        server.soa_ttl = 1_000_000
        assert (await resolver.lookup("nowhere.example", RecordType.A)).ttl == Lifetimes().negative_cap


async def test_failures_are_kept_for_a_short_while(make: Make) -> None:
    """A failing name is not asked again at once, but soon (RFC 9520)."""
    clock = Clock()
    async with DnsServer(ZONE) as server:
        resolver = make([server.address], clock=clock)
        assert (await resolver.lookup("broken.example", RecordType.A)).status is Status.SERVFAIL
        server.zone["broken.example"] = {"A": ["192.0.2.7"]}
        assert (await resolver.lookup("broken.example", RecordType.A)).status is Status.SERVFAIL
        clock.time += Lifetimes().failure
        assert (await resolver.lookup("broken.example", RecordType.A)).records == ("192.0.2.7",)


async def test_an_answer_without_ttl_is_kept_as_long_as_the_floor_says(make: Make) -> None:
    """TTL 0 means for this question only (RFC 1035 3.2.1); with a floor nobody asks all the time."""
    for floor, asked in ((0.0, 2), (5.0, 1)):
        async with DnsServer(ZONE, ttl=0) as server:
            resolver = make([server.address], lifetimes=Lifetimes(floor=floor))
            await resolver.lookup("example.com", RecordType.A)
            await resolver.lookup("example.com", RecordType.A)
            assert len(server.questions) == asked


async def test_an_answer_is_not_kept_longer_than_the_cap(make: Make) -> None:
    """Whatever a record says of its own lifetime, it is asked for again after a day."""
    async with DnsServer(ZONE, ttl=1_000_000) as server:
        assert (await make([server.address]).lookup("example.com", RecordType.A)).ttl == Lifetimes().cap


async def test_the_settings_reach_the_resolver() -> None:
    """Each of the section ``dns``, but for those of a session: they are the door's."""
    async with DnsServer(ZONE, ttl=1) as server:
        options = DnsOptions.model_validate(
            {"servers": [server.address], "timeout": "100ms", "cache": 1, "min_ttl": "7s", "max_ttl": "8s",
             "max_negative_ttl": "9s", "failure_ttl": "3s", "concurrency": 1}
        )  # fmt: skip
        resolver = DnsResolver.from_options(options)
        try:
            assert resolver.servers == (server.address,)
            assert (await resolver.lookup("example.com", RecordType.A)).ttl == 7
            assert (await resolver.lookup("silent.example", RecordType.A)).status is Status.TIMEOUT
            asked = len(server.questions)
            await resolver.lookup("example.com", RecordType.A)
            assert len(server.questions) == asked + 1, "the cache has one place, and the time-out took it"
            server.soa_ttl = server.ttl = 1000
            assert (await resolver.lookup("nowhere.example", RecordType.A)).ttl == 9
            assert (await resolver.lookup("example.com", RecordType.MX)).ttl == 8
            assert (await resolver.lookup("broken.example", RecordType.A)).ttl == 3
        finally:
            await resolver.close()


async def test_the_cache_is_bounded(make: Make) -> None:
    """The longest unused answer goes first."""
    async with DnsServer(ZONE) as server:
        resolver = make([server.address], cache=2)
        for name in ("example.com", "null.example", "example.com", "alias.example", "example.com", "null.example"):
            await resolver.lookup(name, RecordType.TXT)
        asked = [name for _, name, _ in server.questions]
        assert asked == ["example.com", "null.example", "alias.example", "null.example"]


async def test_identical_questions_are_asked_once(make: Make) -> None:
    """Fifty askers of one name share one question, and one who gives up does not spoil it for the others."""
    async with DnsServer(ZONE) as server:
        server.released.clear()
        resolver = make([server.address])
        askers = [asyncio.create_task(resolver.lookup("example.com", RecordType.A)) for _ in range(50)]
        await server.asked.wait()
        askers[0].cancel()
        server.released.set()
        first, *others = await asyncio.gather(*askers, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert all(isinstance(answer, Answer) and answer.status is Status.FOUND for answer in others)
        assert len(server.questions) == 1


async def test_questions_in_flight_are_bounded(make: Make) -> None:
    """With one place taken by a silent name another question waits, and gives up at its own time-out."""
    async with DnsServer(ZONE) as server:
        resolver = make([server.address], timeout=0.2, concurrency=1)
        answers = await asyncio.gather(
            resolver.lookup("silent.example", RecordType.A), resolver.lookup("example.com", RecordType.A)
        )
        assert [answer.status for answer in answers] == [Status.TIMEOUT, Status.TIMEOUT]
        assert {name for _, name, _ in server.questions} == {"silent.example"}
        assert (await resolver.lookup("example.com", RecordType.MX)).status is Status.FOUND


async def test_closing_ends_what_is_in_flight(make: Make) -> None:
    """After close nothing waits for the network any more."""
    async with DnsServer(ZONE) as server:
        resolver = make([server.address])
        asker = asyncio.create_task(resolver.lookup("silent.example", RecordType.A))
        await server.asked.wait()
        await resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await asker


async def test_client_names_are_confirmed(make: Make) -> None:
    """The client's name is the PTR name that has the client's address itself; a failing zone leaves it open."""
    async with DnsServer(ZONE) as server:
        resolver = make([server.address])
        assert (await client_name(resolver, "192.0.2.1")).name == "example.com"
        assert (await client_name(resolver, "192.0.2.3")).status is NameStatus.UNKNOWN
        assert (await client_name(resolver, "192.0.2.9")).status is NameStatus.TEMPORARY


@pytest.mark.parametrize(
    ("address", "status", "seconds"),
    [
        ("192.0.2.1", NameStatus.CONFIRMED, 120),
        ("192.0.2.3", NameStatus.UNKNOWN, 120),
        ("192.0.2.9", NameStatus.TEMPORARY, 5),
    ],
)
async def test_a_client_name_is_known_as_long_as_its_answers_hold(
    make: Make, address: str, status: NameStatus, seconds: float
) -> None:
    """By their time-to-live, that there is none as well; that it could not be looked up for a few seconds."""
    clock = Clock()
    async with DnsServer(ZONE, ttl=120) as server:
        resolver = make([server.address], clock=clock, lifetimes=Lifetimes(failure=5.0))
        assert known_client_name(resolver, address) is None
        found = await client_name(resolver, address)
        assert (found.status, known_client_name(resolver, address)) == (status, found)
        clock.time += seconds - 0.1
        assert known_client_name(resolver, address) == found
        clock.time += 0.1
        assert known_client_name(resolver, address) is None


@pytest.mark.parametrize(
    "name", ["1.2.3.4", "x(mail.bank.example", "a/b.example", "-a.example", "a-.example", "a" * 64 + ".example"]
)
async def test_a_client_name_that_is_no_host_name_is_none(name: str) -> None:
    """What a client's owner wrote into the DNS is not taken for a name where it is none, though it is confirmed."""
    forward = f"{name}." if name == "1.2.3.4" else name  # a key that is an address stands for its reverse name
    resolver = ZoneResolver({"192.0.2.1": {"PTR": name}, forward: {"A": "192.0.2.1"}})
    assert await client_name(resolver, "192.0.2.1") == ClientName(None, NameStatus.UNKNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_server_addresses(text: str, expected: tuple[str, int]) -> None:
    """A server is an address with or without a port."""
    assert parse_server(text) == expected


@pytest.mark.parametrize(
    "text", ["", "ns.example.com", "192.0.2.1:x", "192.0.2.1:70000", "[::1", "[::1]53", "[::1]:0", ":53"]
)
def test_what_is_no_server_address(text: str) -> None:
    """Anything else is refused with words for the administrator."""
    with pytest.raises(ValueError, match=r"name server|port"):
        parse_server(text)


def _without_target(octets: bytes) -> bytes:
    """What a forwarder makes of an answer that follows an alias no further, and has no SOA."""
    answer = dns.message.from_wire(octets)
    answer.answer = [each for each in answer.answer if each.name == answer.question[0].name]
    answer.authority = []
    for each in answer.answer:
        if each.rdtype == dns.rdatatype.CNAME:
            each.ttl = 20 if each.name.labels[0] == b"www" else 40
    answer.set_rcode(dns.rcode.NOERROR)
    return answer.to_wire()


async def test_an_alias_alone_is_followed(make: Make) -> None:
    """Its target is asked for, at the same server; the answer holds no longer than any alias."""
    zone: Zone = {
        "www.example": {"CNAME": ["host.example."]},
        "host.example": {"CNAME": ["deep.example."]},
        "deep.example": {"A": ["192.0.2.1"]},
        "dead.example": {"CNAME": ["empty.example."]},
        "empty.example": {"TXT": ['"x"']},
    }
    async with DnsServer(zone) as server:
        server.rewrite = _without_target
        resolver = make([server.address], lifetimes=Lifetimes(floor=0.0, failure=7.0))
        answer = await resolver.lookup("www.example", RecordType.A)
        assert (answer.status, answer.records, answer.ttl) == (Status.FOUND, ("192.0.2.1",), 20)
        assert [name for _, name, _ in server.questions] == ["www.example", "host.example", "deep.example"]
        assert resolver.known("www.example", RecordType.A) is not None
        assert (await resolver.lookup("dead.example", RecordType.A)).status is Status.NO_DATA


async def test_an_unknown_version_of_edns_is_asked_without(make: Make) -> None:
    """BADVERS to a question with EDNS leads to the same without, and to its answer."""

    def badvers(octets: bytes) -> bytes:
        answer = dns.message.from_wire(octets)
        if answer.edns >= 0:
            answer.set_rcode(dns.rcode.BADVERS)
            answer.answer = []
        return answer.to_wire()

    async with DnsServer({"example.com": {"A": ["192.0.2.1"]}}) as server:
        server.rewrite = badvers
        answer = await make([server.address]).lookup("example.com", RecordType.A)
        assert answer.records == ("192.0.2.1",)
        assert len(server.questions) == 2
