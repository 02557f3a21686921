"""The door: who is let in, and what is remembered of clients."""

import asyncio
import gc
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.dns.zone import ZoneResolver
from gateway.admission import weight
from gateway.config.model import Limits
from gateway.doors import smtp
from gateway.resolver import Answer, RecordType
from tests.support.counting_resolver import CountingResolver
from tests.support.dns_server import DnsServer, Zone
from tests.support.serving import Site, serving

TRUSTED = {"listeners": [{"smtp": "127.0.0.1:0", "proxy_protocol": {"trusted": ["127.0.0.0/8"]}}]}
FOREIGN = {"listeners": [{"smtp": "127.0.0.1:0", "proxy_protocol": {"trusted": ["198.51.100.0/24"]}}]}


class Asked(ZoneResolver):
    """Has nothing at hand."""

    def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - the interface
        return None


class Counting(ZoneResolver):
    """Counts the questions, those that are answered at hand among them."""

    def __init__(self) -> None:
        super().__init__({"127.0.0.1": {"PTR": ["localhost"]}, "localhost": {"A": ["127.0.0.1"]}})
        self.asked: list[str] = []

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        self.asked.append(name)
        return await super().lookup(name, record_type)

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        self.asked.append(name)
        return super().known(name, record_type)


class Looking(DnsResolver):
    """Notes what it is asked to look up, at hand or not."""

    def __init__(self, server: DnsServer) -> None:
        super().__init__([server.address])
        self.looked_up: list[str] = []

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        self.looked_up.append(name)
        return await super().lookup(name, record_type)


async def _is_named(site: Site) -> None:
    while site.door._naming:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


async def test_connections_of_one_client_share_its_questions_and_later_ones_have_its_name_at_once(
    tmp_path: Path,
) -> None:
    """However many come before the DNS answers, each name is asked for once; with the answers at hand nothing is."""
    zone: Zone = {"1.0.0.127.in-addr.arpa": {"PTR": ["client.example."]}, "client.example": {"A": ["127.0.0.1"]}}
    async with DnsServer(zone) as server, serving(tmp_path, resolver=(resolver := Looking(server))) as site:
        server.released.clear()
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(site.client()) for _ in range(5)]
            server.released.set()
            await _is_named(site)
            looked_up = len(resolver.looked_up)
            clients.append(await stack.enter_async_context(site.client()))
            for client in clients:
                assert (await client.say("QUIT")).startswith("221")
        await site.empty()
        await resolver.close()
    assert [record.client.name for record in site.records] == ["client.example"] * 6
    assert [name for _, name, _ in server.questions] == list(zone)
    assert len(resolver.looked_up) == looked_up == 10


async def test_so_many_clients_are_named_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the DNS is silent no more look-ups wait than may; further clients go without a name."""
    monkeypatch.setattr(smtp, "NAMING", 2)
    async with DnsServer({}) as server, serving(tmp_path, resolver=(resolver := Looking(server))) as site:
        server.released.clear()
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(site.client())
            assert len(site.door._naming) == 2
            server.released.set()
            await _is_named(site)
        await resolver.close()


async def test_without_client_names_nothing_is_asked(tmp_path: Path) -> None:
    """``dns: {client_names: false}`` spares the questions."""
    resolver = Counting()
    async with serving(tmp_path, {"dns": {"client_names": False}}, resolver=resolver) as site:
        async with site.client() as client:
            await client.begin()
        await site.empty()
    assert resolver.asked == []
    assert site.records[0].client.name is None


async def test_a_client_that_is_refused_at_once_is_not_named(tmp_path: Path) -> None:
    """Its session ends before the look-up begins, and that is no fault."""
    resolver = CountingResolver({})
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with serving(tmp_path, {"limits": {"connections": 1}}, resolver=resolver) as site, site.client():
        reader, writer = await asyncio.open_connection("127.0.0.1", site.ports[0], local_addr=("127.0.0.2", 0))
        assert (await reader.readline()).startswith(b"421")
        writer.close()
        await writer.wait_closed()
        gc.collect()  # by which a task's fault that nobody asked for is told
    assert faults == []
    assert "2.0.0.127.in-addr.arpa" not in resolver.asked


async def test_a_trusted_peer_without_a_header_is_closed_with_a_log_line(tmp_path: Path) -> None:
    """It must say who the client is: nothing is answered, no record is left."""
    async with serving(tmp_path, TRUSTED) as site, site.client(greeting=None) as client:
        with capture_logs() as logs, suppress(ConnectionResetError):
            client.writer.write(b"EHLO client.example.org\r\n")
            assert await client.reply() == ""
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["no PROXY header from a trusted peer"]
    assert site.records == []


async def test_a_trusted_peer_that_says_nothing_is_closed_in_time(tmp_path: Path) -> None:
    """The wait for the header has its own limit."""
    async with serving(tmp_path, TRUSTED | {"timeouts": {"proxy": "100ms"}}) as site:
        async with site.client(greeting=None) as client:
            assert await client.reply() == ""
        assert not site.door._proxying


async def test_a_shutdown_does_not_wait_for_headers(tmp_path: Path) -> None:
    """A connection whose header is awaited gets 421, and is closed with the door."""
    config = TRUSTED | {"timeouts": {"proxy": "1h"}}
    async with serving(tmp_path, config) as site, site.client(greeting=None) as client:
        while not site.door._proxying:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        await site.door.drain(0.0)
        assert await client.reply() == "421 4.3.2 Service closing, try again later"
        assert await client.is_closed()


async def test_a_sessions_questions_have_the_limits_of_the_file(tmp_path: Path) -> None:
    """``session_queries`` bounds how many a session asks, ``session_time`` how long it waits in all."""
    zone = Asked({f"n{number}.example": {"A": ["192.0.2.1"]} for number in range(3)})
    for limit, answered in (({"session_queries": 2}, 2), ({"session_time": "0s"}, 0)):
        async with serving(tmp_path, {"dns": limit}, resolver=zone) as site:
            resolver = site.door.session_resolver()
            answers = [await resolver.lookup(f"n{number}.example", RecordType.A) for number in range(3)]
            assert [bool(answer.records) for answer in answers] == [number < answered for number in range(3)]


async def test_other_peers_are_served_as_they_are(tmp_path: Path) -> None:
    """Whoever is not trusted is the client itself, and can't claim to be another."""
    async with serving(tmp_path, FOREIGN) as site:
        async with site.client() as client:
            assert (await client.say("PROXY TCP4 192.0.2.1 198.51.100.25 40000 25")).startswith("500")
            await client.begin()
        await site.empty()
    assert site.records[0].client.address == "127.0.0.1"


async def test_a_health_check_is_served_as_the_load_balancer(tmp_path: Path) -> None:
    """UNKNOWN names nobody else."""
    async with serving(tmp_path, TRUSTED) as site:
        async with site.client(greeting=None) as client:
            client.writer.write(b"PROXY UNKNOWN\r\n")
            assert (await client.reply()).startswith("220 ")
            assert (await client.say("NOOP")).startswith("250 ")
        await site.empty()
    assert site.records[0].client.address == "127.0.0.1"


@pytest.mark.parametrize("limit", ["connections", "connections_per_client"])
async def test_one_connection_too_many_is_told_to_come_again(tmp_path: Path, limit: str) -> None:
    """421 with a record, and room again once one has ended; behind a proxy the client counts, not the proxy."""
    async with serving(tmp_path, TRUSTED | {"limits": {limit: 1}}) as site:
        async with site.client(greeting=None) as first:
            first.writer.write(b"PROXY TCP4 192.0.2.1 198.51.100.25 40000 25\r\n")
            assert (await first.reply()).startswith("220 ")
            await _greeted(site, "192.0.2.1", "421 4.7.0 Too many connections")
            await _greeted(site, "192.0.2.2", "421 4.7.0" if limit == "connections" else "220 ")
        await site.empty()
        await _greeted(site, "192.0.2.1", "220 ")
    assert ("disconnected", "too_many_connections") in [
        (record.decision.result, record.decision.outcome) for record in site.records
    ]


@pytest.mark.parametrize("limit", ["connections", "connections_per_client"])
async def test_listeners_count_together(tmp_path: Path, limit: str) -> None:
    """A limit is one for all listeners; a connection to one takes a place that another would have given."""
    config = {"listeners": [{"smtp": "127.0.0.1:0"}] * 2, "limits": {limit: 1}}
    async with serving(tmp_path, config) as site:
        for _ in range(2):
            async with (
                site.client(port=site.ports[0]),
                site.client(port=site.ports[1], greeting="421 4.7.0 Too many connections"),
            ):
                pass
            await site.empty()


async def _greeted(site: Site, address: str, greeting: str) -> None:
    async with site.client(greeting=None) as client:
        client.writer.write(f"PROXY TCP4 {address} 198.51.100.25 40000 25\r\n".encode())
        assert (await client.reply()).startswith(greeting)


OF_THE_ENGINE = {
    "header_size", "header_lines", "command_line", "auth_line", "parameters", "errors", "unknown_commands",
    "idle_commands", "refusals", "transactions", "chunks", "empty_chunks", "dropped_octets",
}  # fmt: skip
OF_THE_ADMISSION = {"recipients": 234, "recipient_overshoot": 345, "session_memory": 300_000, "session_delay": "7s"}
ELSEWHERE = {"connections", "connections_per_client", "message_size"}
"""Of all listeners together (``places``), and of each listener."""


async def test_every_limit_of_the_file_is_in_force(tmp_path: Path) -> None:
    """Each value of ``limits`` is the one by which the engine and the admission of a listener go."""
    values = {name: 2000 + number for number, name in enumerate(sorted(OF_THE_ENGINE))}
    async with serving(tmp_path, {"limits": values | OF_THE_ADMISSION}) as site:
        options, rules = site.door.engine_options, site.door.rules
    assert set(Limits.model_fields) == OF_THE_ENGINE | set(OF_THE_ADMISSION) | ELSEWHERE
    assert {name: getattr(options, name) for name in OF_THE_ENGINE} == values
    assert (rules.recipient_limit, rules.recipient_overshoot) == (234, 345)
    assert rules.transaction_memory == 300_000 - weight.SESSION
    assert rules.session_delay == 7.0
