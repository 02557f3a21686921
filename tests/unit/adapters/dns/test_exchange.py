"""How questions travel: ids and ports, what is passed over, TCP, fail-over; against real servers on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any, TypeAlias

import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from gateway.adapters.dns.exchange import SLOW_SHARE
from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.dns.server import PORT_LIFETIME, PORT_QUESTIONS, PORTS, PROBING, NameServer
from gateway.resolver import Answer, RecordType, Status
from tests.support.dns_server import DnsServer, Zone
from tests.support.ports import free_port

Make: TypeAlias = Callable[..., DnsResolver]
ZONE: Zone = {
    "example.com": {"A": ["192.0.2.1"], "TXT": [f'"{"x" * 200}{number}"' for number in range(200)]},
    "other.example": {"A": ["198.51.100.66"]},
} | {f"n{number}.example": {"A": ["192.0.2.9"]} for number in range(600)}


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes resolvers, and closes them in the end."""
    async with AsyncExitStack() as stack:

        def one(*servers: str, patience: float | None = None, **options: Any) -> DnsResolver:
            resolver = DnsResolver(servers, **options)
            if patience is not None:
                resolver._exchange.patience = patience
            stack.push_async_callback(resolver.close)
            return resolver

        yield one


async def ask(resolver: DnsResolver, *names: str) -> list[Answer]:
    """Ask for the names' A records at the same time."""
    return await asyncio.gather(*(resolver.lookup(name, RecordType.A) for name in names))


async def test_queries_are_plain_and_announce_a_small_payload(make: Make) -> None:
    """A query has one question, asks for recursion and announces 1232 octets by EDNS 0."""
    async with DnsServer(ZONE) as server:
        await ask(make(server.address), "example.com")
    message = dns.message.from_wire(server.queries[0][0])
    assert [str(question) for question in message.question] == ["example.com. IN A"]
    assert message.flags == dns.flags.RD
    assert (message.edns, message.ednsflags, message.payload) == (0, 0, 1232)


async def test_ids_and_ports_can_not_be_foreseen(make: Make) -> None:
    """Ids differ all over their range, and questions leave from many ports, none of which serves many questions."""
    async with DnsServer(ZONE) as server:
        resolver = make(server.address)
        for start in range(0, 600, 100):
            await ask(resolver, *(f"n{number}.example" for number in range(start, start + 100)))
    ids = [int.from_bytes(query[:2]) for query, _ in server.queries]
    ports = [port for _, port in server.queries]
    assert len(set(ids)) > 550
    assert max(ids) - min(ids) > 50_000
    assert abs(sum(after > before for before, after in pairwise(ids)) - 300) < 100
    assert len(set(ports)) > PORTS
    assert all(ports.count(port) <= PORT_QUESTIONS for port in set(ports))
    assert len({after - before for before, after in pairwise(ports)}) > PORTS


async def test_a_port_is_given_up_after_a_while() -> None:
    """Ten seconds: who has found it out by then has to begin again, also where little is asked."""
    loop = asyncio.get_running_loop()
    server = NameServer("127.0.0.1", free_port())
    ports = {server.port(loop, 0.0) for _ in range(PORTS)}
    assert {server.port(loop, PORT_LIFETIME - 0.1) for _ in range(200)} <= ports
    assert ports.isdisjoint(server.port(loop, PORT_LIFETIME) for _ in range(200))
    server.close()


def _spoofs(right: bytes) -> Iterable[bytes]:
    """Answers that do not belong to the question, each with an address that would be taken if it did."""
    forged = dns.message.from_wire(right)
    forged.answer[0] = dns.rrset.from_text("example.com.", 300, "IN", "A", "203.0.113.66")
    octets = forged.to_wire()
    yield b""
    yield right[:2]
    yield octets[:11]
    yield bytes([octets[0] ^ 1]) + octets[1:]  # another id
    yield octets[:2] + bytes([octets[2] & 0x7F]) + octets[3:]  # a question
    yield octets[:2] + bytes([octets[2] | 0x10]) + octets[3:]  # another kind of message
    yield octets.replace(b"\x07example", b"\x07exbmple")  # another name
    yield octets[:12] + octets[12:].replace(b"\0\x01\0\x01", b"\0\x1c\0\x01", 1)  # another type
    yield octets[:12] + octets[12:].replace(b"\0\x01\0\x01", b"\0\x01\0\x03", 1)  # another class
    yield octets[:4] + b"\0\0" + octets[6:]  # no question
    yield octets[:4] + b"\0\2" + octets[6:]  # two
    yield b"\xff" * 600


async def test_what_does_not_answer_the_question_is_passed_over(make: Make) -> None:
    """Forged and broken messages before the right answer change nothing, and cost no second query."""
    async with DnsServer(ZONE) as server:
        server.spoofs = _spoofs
        (answer,) = await ask(make(server.address), "example.com")
    assert answer.records == ("192.0.2.1",)
    assert len(server.questions) == 1


async def test_what_another_server_sends_is_passed_over(make: Make) -> None:
    """An answer with the right id and question counts only from the address that was asked."""
    async with DnsServer(ZONE) as server:
        server.released.clear()
        asking = asyncio.create_task(ask(make(server.address), "example.com"))
        await server.asked.wait()
        query, port = server.queries[0]
        forged = dns.message.make_response(dns.message.from_wire(query))
        forged.answer.append(dns.rrset.from_text("example.com.", 300, "IN", "A", "203.0.113.66"))
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            for _ in range(3):
                stranger.sendto(forged.to_wire(), ("127.0.0.1", port))
        server.released.set()
        assert (await asking)[0].records == ("192.0.2.1",)


async def test_a_large_answer_comes_over_tcp_even_an_octet_at_a_time(make: Make) -> None:
    """An answer of 40 KB comes whole."""
    async with DnsServer(ZONE) as server:
        server.truncate = True
        server.single_octets = True
        answer = await make(server.address, timeout=60).lookup("example.com", RecordType.TXT)
    assert len(answer.records) == 200
    assert sum(map(len, answer.records)) > 40_000


@pytest.mark.parametrize("fault", ["closed", "silent", "garbage", "truncated again"])
async def test_when_tcp_fails_the_next_server_is_asked(make: Make, fault: str) -> None:
    """A server whose TCP does not work is no server for large answers; with no other the question fails."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        first.truncate = True
        match fault:
            case "closed":
                first._tcp.close()
            case "silent":
                first.silent_over = {"tcp"}
            case "garbage":
                first.spoofs = lambda answer: (answer,)
                first.rewrite = lambda answer: answer[:2] + b"\xff" * 30
            case _:
                first.rewrite = lambda answer: answer[:2] + bytes([answer[2] | 2]) + answer[3:]
        resolver = make(first.address, second.address, timeout=3)
        assert (await ask(resolver, "example.com"))[0].records == ("192.0.2.1",)
        assert (await ask(make(first.address, timeout=5), "example.com"))[0].status is Status.SERVFAIL


async def test_of_servers_that_are_all_down_the_one_heard_last_is_asked_first(make: Make) -> None:
    """It is the likeliest to be there again, wherever it stands in the configuration."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        resolver = make(first.address, second.address)
        for heard, server in enumerate(resolver._exchange.servers):
            server.down, server.probe_at, server.heard = True, float("inf"), float(heard)
        assert (await ask(resolver, "example.com"))[0].records == ("192.0.2.1",)
        assert (len(first.queries), len(second.queries)) == (0, 1)


async def test_a_server_without_edns_is_asked_without_it(make: Make) -> None:
    """FORMERR for EDNS leads to the same question without it (RFC 6891 7); FORMERR for that, too, is a failure."""
    async with DnsServer(ZONE) as server:
        server.edns = False
        assert (await ask(make(server.address), "example.com"))[0].records == ("192.0.2.1",)
        assert [dns.message.from_wire(query).edns for query, _ in server.queries] == [0, -1]
        server.rcode = dns.rcode.FORMERR
        assert (await ask(make(server.address), "example.com"))[0].status is Status.SERVFAIL


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.YXDOMAIN])
async def test_failures_end_at_once_when_every_server_says_so(make: Make, rcode: dns.rcode.Rcode) -> None:
    """Two servers that fail make a SERVFAIL without waiting for the time-out; NOTIMP may be about EDNS."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        first.rcode = second.rcode = rcode
        (answer,) = await ask(make(first.address, second.address, timeout=3600), "example.com")
        assert answer.status is Status.SERVFAIL
        assert len(first.questions) == (2 if rcode is dns.rcode.NOTIMP else 1)
        assert len(second.questions) == 1


async def test_an_answer_that_can_not_be_read_is_its_servers_failure(make: Make) -> None:
    """The next server is asked; with none left it is a SERVFAIL, at once."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        first.rewrite = lambda answer: answer[:-15]  # within the address
        assert (await ask(make(first.address, second.address, timeout=3600), "example.com"))[0].records
        assert (await ask(make(first.address, timeout=3600), "example.com"))[0].status is Status.SERVFAIL


async def test_a_server_that_refuses_connections_costs_no_time(make: Make) -> None:
    """Where nothing listens the next server is asked at once; with no other the question fails at once."""
    async with DnsServer(ZONE) as server:
        dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        (answer,) = await ask(make(*dead, server.address, timeout=3600), "example.com")
        assert answer.records == ("192.0.2.1",)
        (answer,) = await ask(make(*dead, timeout=3600), "example.com")
        assert answer.status is Status.SERVFAIL


async def test_a_silent_server_delays_one_question_only(make: Make) -> None:
    """Once the first server was silent the others are asked; it is looked after, and asked when it is back."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        first.silent_over = {"udp"}
        resolver = make(first.address, second.address, timeout=3)
        await ask(resolver, "n0.example")
        assert [len(first.questions), len(second.questions)] == [1, 1]
        answers = await ask(resolver, *(f"n{number}.example" for number in range(1, 101)))
        assert {answer.status for answer in answers} == {Status.FOUND}
        assert [len(first.questions), len(second.questions)] == [1, 101]
        down = resolver._exchange.servers[0]
        down.probe_at -= PROBING  # as if the time had passed
        first.silent_over = set()
        await ask(resolver, "n101.example", "n102.example")
        while down.down:  # noqa: ASYNC110 - its answer is on the way, and nothing tells of it
            await asyncio.sleep(0)
        assert [len(first.questions), len(second.questions)] == [2, 103]
        await ask(resolver, "n103.example")
        assert [len(first.questions), len(second.questions)] == [3, 103]


async def test_a_silent_name_does_not_make_a_server_silent(make: Make) -> None:
    """A server that answers other questions meanwhile is not down because one name's owner never answers."""
    async with DnsServer({**ZONE, "silent.example": "TIMEOUT"}) as first, DnsServer(ZONE) as second:
        resolver = make(first.address, second.address, timeout=0.9)
        waiting = asyncio.create_task(ask(resolver, "silent.example"))
        await first.asked.wait()
        await ask(resolver, "n0.example")
        assert (await waiting)[0].status is Status.NXDOMAIN  # what the second server says
        await ask(resolver, "n1.example")
        assert [name for _, name, _ in second.questions] == ["silent.example"]


async def test_a_lost_datagram_is_sent_again(make: Make) -> None:
    """The same server is asked again within the time-out, under another id."""
    async with DnsServer(ZONE) as server:
        server.silent_over = {"udp"}
        asking = asyncio.create_task(ask(make(server.address, timeout=30, patience=0.2), "example.com"))
        await server.asked.wait()
        server.silent_over = set()
        assert (await asking)[0].records == ("192.0.2.1",)
    assert len({query[:2] for query, _ in server.queries}) == 2


async def test_a_late_answer_counts(make: Make) -> None:
    """The first server's answer is taken even after the second was asked."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        first.released.clear()
        second.silent_over = {"udp"}
        asking = asyncio.create_task(ask(make(first.address, second.address, timeout=30, patience=0.2), "example.com"))
        await second.asked.wait()
        first.released.set()
        assert (await asking)[0].records == ("192.0.2.1",)
        assert len(first.questions) == 1


async def test_a_failure_is_told_though_another_server_is_silent(make: Make) -> None:
    """One server down and the other failing is a failure, not an hour of waiting."""
    async with DnsServer(ZONE) as first, DnsServer(ZONE) as second:
        first.silent_over = {"udp"}
        second.rcode = dns.rcode.SERVFAIL
        resolver = make(first.address, second.address, timeout=3600, patience=0.5)
        assert (await ask(resolver, "example.com"))[0].status is Status.SERVFAIL
        assert (await ask(resolver, "n1.example"))[0].status is Status.SERVFAIL
        assert [len(first.questions), len(second.questions)] == [1, 2]


async def test_those_who_wait_for_a_place_get_it(make: Make) -> None:
    """More questions than places are answered one after the other, also when those before them fail at once."""
    async with DnsServer(ZONE) as server:
        names = [f"n{number}.example" for number in range(300)]
        assert {answer.status for answer in await ask(make(server.address, concurrency=3), *names)} == {Status.FOUND}
    dead = make(f"127.0.0.1:{free_port()}", concurrency=3)
    assert {answer.status for answer in await ask(dead, *names)} == {Status.SERVFAIL}


async def test_silent_names_keep_nobody_waiting(make: Make) -> None:
    """Questions that get no answer leave their places to others, and go on; there is a bound for them, too."""
    silent = [f"silent{number}.example" for number in range(2 + 2 * SLOW_SHARE)]
    async with DnsServer({**ZONE, **dict.fromkeys(silent, "TIMEOUT")}) as server:
        resolver = make(server.address, concurrency=2, timeout=3600, patience=0.3)
        resolver._exchange.slow = 0.02
        names = (*silent[1:], "n1.example", "n2.example")
        *asking, one, two = [asyncio.create_task(ask(resolver, name)) for name in names]
        assert [(await each)[0].status for each in (one, two)] == [Status.FOUND] * 2
        assert resolver._exchange.started == len(silent) + 1
        first = asyncio.create_task(ask(resolver, silent[0]))
        late = asyncio.create_task(ask(resolver, "n3.example"))
        await asyncio.wait([*asking, first, late], timeout=0.2)
        assert resolver._exchange.started == len(silent) + 2
        assert not late.done()
        later = asyncio.create_task(resolver.lookup("n4.example", RecordType.A))
        await asyncio.wait([later], timeout=0)
        assert resolver._exchange.started == len(silent) + 2
        server.zone = {**ZONE, **{key: {"A": ["192.0.2.7"]} for key in silent}}  # they are asked again
        assert [(await each)[0].status for each in (*asking, first, late)] == [Status.FOUND] * (len(silent) + 1)
        assert (await later).status is Status.FOUND


async def test_sockets_are_given_back(make: Make) -> None:
    """Of all the ports that were used only the few in use stay open, and none after the end."""
    async with DnsServer(ZONE) as server:
        resolver = make(server.address)
        for start in range(0, 600, 100):
            await ask(resolver, *(f"n{number}.example" for number in range(start, start + 100)))
        (asked,) = resolver._exchange.servers
        assert len(asked._ports) == PORTS
        assert all(not port.waiting for port in asked._ports)
        ports = list(asked._ports)
        await resolver.close()
        assert [port._socket.fileno() for port in ports] == [-1] * PORTS
