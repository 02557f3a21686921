"""Server groups: order, health, what they offer, what they need."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.backend import ServerGroup
from gateway.backend.group import ASKING_PAUSE
from gateway.resolver import Answer, RecordType, Status
from gateway.smtp import reply as replies
from tests.support import backend
from tests.support.backend import Zone, short
from tests.support.fault_server import EXTENSIONS, FaultServer, kill, say, stall
from tests.support.ports import free_port


async def test_failover_order() -> None:
    """The first server takes all mail while it is up."""
    async with FaultServer() as first, FaultServer() as second, backend.group(first.port, second.port) as servers:
        for _ in range(3):
            await backend.deliver(servers)
        assert (len(first.messages), len(second.messages)) == (3, 0)


async def test_round_robin() -> None:
    """Messages go to the servers in turn."""
    async with (
        FaultServer() as first,
        FaultServer() as second,
        backend.group(first.port, second.port, order="round_robin") as servers,
    ):
        for _ in range(6):
            await backend.deliver(servers)
        assert (len(first.messages), len(second.messages)) == (3, 3)


async def test_a_full_server_is_passed_over() -> None:
    """When all connections to the first server are taken the second helps out."""
    async with (
        FaultServer() as first,
        FaultServer() as second,
        backend.group(first.port, second.port, connections=1) as servers,
    ):
        held = servers.delivery(backend.transaction())
        await held.recipient(backend.recipient())
        assert (await backend.deliver(servers))[1].server == f"127.0.0.1:{second.port}"
        held.abort()


async def test_a_server_is_down_after_so_many_faults() -> None:
    """Faults in a row make a server down; one that succeeds between them starts the count again."""
    async with FaultServer() as server, FaultServer({"mail": say("450 4.3.0 Not me")}) as other:
        health = {"failures": 2, "interval": "1h"}
        async with backend.group(server.port, other.port, idle="0s", health=health) as servers:
            for act, up in ((kill(), True), (None, True), (kill(), True), (kill(), False)):
                server.script = {} if act is None else {"mail": act}
                answer, _ = await backend.deliver(servers)
                assert answer.is_positive == (act is None)
                assert servers.servers[0].is_up == up
            connections = server.connections
            assert (await backend.deliver(servers))[0].code == 450
            assert server.connections == connections, "one that is down is not asked by mail that another can take"


async def test_a_server_that_is_up_again_is_on_probation_until_it_has_taken_a_message() -> None:
    """Until then one fault makes it down again, afterwards as many as ``failures`` says."""
    async with FaultServer() as server, FaultServer() as other:
        health = {"failures": 3, "interval": "1h"}
        async with backend.group(server.port, other.port, idle="0s", health=health) as servers:
            probed = servers.servers[0]

            async def fail(times: int) -> list[bool]:
                server.script = {"mail": kill()}
                states: list[bool] = []
                for _ in range(times):
                    await backend.deliver(servers)
                    states.append(probed.is_up)
                server.script = {}
                return states

            assert await fail(3) == [True, True, False]
            for _ in range(2):
                await probed.probe()
                assert probed.is_up
                assert await fail(1) == [False]
            await probed.probe()
            assert (await backend.deliver(servers))[1].server == probed.name
            assert await fail(3) == [True, True, False]


async def test_a_server_that_was_down_at_the_start_is_on_probation() -> None:
    """One fault after its first sign of life makes it down again."""
    server = FaultServer(port=free_port())
    async with FaultServer() as other:
        health = {"failures": 3, "interval": "1h"}
        async with backend.group(server.port, other.port, idle="0s", health=health) as servers:
            probed = servers.servers[0]
            states = [probed.is_up]
            async with server:
                await probed.probe()
                states.append(probed.is_up)
                server.script = {"mail": kill()}
                assert (await backend.deliver(servers))[0].code == 250
                states.append(probed.is_up)
            assert states == [False, True, False]


async def test_mail_flows_as_soon_as_the_only_server_is_back() -> None:
    """When no server is up, mail that comes asks again, however long the next regular probe is away."""
    server = FaultServer(port=free_port())
    async with backend.group(server.port, health={"interval": "1h"}) as servers:
        assert (await backend.deliver(servers))[0] == replies.BACKEND_UNAVAILABLE
        async with server:
            assert (await backend.deliver(servers))[0].code == 250
            assert servers.is_up
    assert len(server.messages) == 1


async def test_a_server_that_fails_again_and_again_is_not_stormed() -> None:
    """Mail that comes one after the other while the only server cuts each transaction asks it at a bounded pace."""
    health = {"failures": 1, "interval": "1h"}
    async with FaultServer() as server, backend.group(server.port, health=health) as servers:
        server.script = {"mail": kill()}
        await backend.deliver(servers)
        assert not servers.is_up
        begun, known = asyncio.get_running_loop().time(), server.connections
        for _ in range(10):
            assert (await backend.deliver(servers))[0].code == 451
        probes = (asyncio.get_running_loop().time() - begun) / ASKING_PAUSE + 1
        assert server.connections - known <= 2 * probes  # a probe's connection carries a transaction, then a new one


async def test_mail_that_finds_no_server_up_asks_each_once_at_a_time() -> None:
    """Many messages at once are one question to a server that stalls, waited for once, and others are still asked."""
    back = FaultServer(port=free_port())
    async with FaultServer({"greeting": stall()}) as stalled:
        fields: dict[str, Any] = {"timeouts": short(connect="150ms", greeting="1h"), "health": {"interval": "1h"}}
        async with backend.group(stalled.port, back.port, **fields) as servers:
            known = stalled.connections
            answers = await asyncio.gather(*(backend.deliver(servers) for _ in range(20)))
            assert [answer for answer, _ in answers] == [replies.BACKEND_UNAVAILABLE] * 20
            assert stalled.connections == known + 1
            async with back:
                assert (await backend.deliver(servers))[0].code == 250
            assert stalled.connections == known + 1


async def test_a_server_that_comes_up_is_found() -> None:
    """A server that was down at the start gets mail once it is up."""
    server = FaultServer(port=free_port())
    async with backend.group(server.port, health={"interval": "40ms"}) as servers:
        assert not servers.is_up
        async with server:
            await server.until("EHLO")
            async with asyncio.timeout(10):
                while not (await backend.deliver(servers))[0].is_positive:
                    await asyncio.wait([asyncio.ensure_future(server.until("EHLO"))])
            assert servers.is_up


async def test_a_silent_server_is_asked() -> None:
    """A server without a connection that was not heard of for the interval is asked, and is found to be down."""
    async with FaultServer() as server, backend.group(server.port, idle="0s", health={"interval": "40ms"}) as servers:
        await server.until("EHLO", 3)
        assert servers.is_up


async def test_a_stalled_probe_does_not_hold_up_the_others() -> None:
    """While one server's greeting stalls another that was down is found again."""
    back = FaultServer(port=free_port())
    async with FaultServer({"greeting": stall()}) as stalled:
        fields: dict[str, Any] = {"timeouts": short(connect="50ms", greeting="1h"), "health": {"interval": "40ms"}}
        async with backend.group(stalled.port, back.port, **fields) as servers:
            await stalled.until_open(1)
            async with back, asyncio.timeout(10):
                await back.until("EHLO")
                assert not servers.servers[0].is_up


async def test_capabilities_are_what_all_offer() -> None:
    """A group offers what each of its servers that is up offers, and the last known when none is."""
    async with (
        FaultServer(extensions=("PIPELINING", "DSN", "SIZE 1000", "AUTH PLAIN LOGIN")) as first,
        FaultServer(extensions=("DSN", "SMTPUTF8", "SIZE 500", "AUTH LOGIN")) as second,
        backend.group(first.port, second.port, health={"failures": 1, "interval": "1h"}) as servers,
    ):
        offered = servers.capabilities
        assert offered is not None
        assert offered.keywords == {"DSN", "SIZE", "AUTH"}
        assert offered.size == 500
        assert offered.auth == ("LOGIN",)
        await first.stop()
        await backend.deliver(servers)
        assert servers.capabilities is not None
        assert servers.capabilities.keywords == {"DSN", "SMTPUTF8", "SIZE", "AUTH"}
        await second.stop()
        await backend.deliver(servers)
        assert not servers.is_up
        assert servers.capabilities is not None
        assert servers.capabilities.size == 500


@pytest.mark.parametrize(
    ("mail", "rcpt", "lacking"),
    [
        ("BODY=8BITMIME", "", "8BITMIME"),
        ("SMTPUTF8", "", "SMTPUTF8"),
        ("RET=FULL", "", "DSN"),
        ("", "NOTIFY=NEVER", "DSN"),
    ],
)
async def test_what_a_server_lacks(mail: str, rcpt: str, lacking: str) -> None:
    """A message goes to a server that offers what it needs; without one it is deferred and costs no MAIL."""
    extensions = [each for each in EXTENSIONS if each != lacking]
    async with FaultServer(extensions=extensions) as poor, FaultServer() as rich:
        for ports, code in (((poor.port,), 451), ((poor.port, rich.port), 250)):
            async with backend.group(*ports) as servers:
                delivery = servers.delivery(backend.transaction(words=mail))
                answer = await delivery.recipient(backend.recipient(words=rcpt))
                assert answer.code == code
                if code == 451:
                    assert answer == replies.BACKEND_LACKS_EXTENSION
                delivery.abort()
        assert not any(command.startswith("MAIL") for command in poor.commands)


async def test_a_later_recipient_needs_more() -> None:
    """A later recipient with DSN parameters is deferred where the server has no DSN; the first one stays accepted."""
    async with FaultServer(extensions=("PIPELINING",)) as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        answer = await delivery.recipient(backend.recipient("bob@example.com", "NOTIFY=NEVER"))
        assert answer == replies.BACKEND_LACKS_EXTENSION
        assert (await delivery.send(backend.ADDED, backend.Bytes(backend.BODY))).code == 250
        assert server.messages[0].recipients == ("RCPT TO:<alice@example.com>",)


async def test_unix_socket(tmp_path: Path) -> None:
    """A server can listen on a UNIX socket."""
    path = str(tmp_path / "smtp")
    async with FaultServer(path=path) as server, backend.group(f"unix:{path}") as servers:
        answer, delivery = await backend.deliver(servers)
        assert answer.code == 250
        assert delivery.server == f"unix:{path}"
        assert len(server.messages) == 1


async def test_a_name() -> None:
    """A server can be named; the name is looked up by the system."""
    async with FaultServer() as server, backend.group(f"localhost:{server.port}") as servers:
        assert (await backend.deliver(servers))[1].server == f"localhost:{server.port}"


async def test_mx() -> None:
    """The MX hosts of a domain are tried in the order of preference."""
    zone = Zone(
        {
            ("example.com", RecordType.MX): Answer(Status.FOUND, ("10 mx1.example.com", "20 mx2.example.com"), 300),
            ("mx1.example.com", RecordType.A): Answer(Status.FOUND, ("127.0.0.2",), 300),
            ("mx2.example.com", RecordType.A): Answer(Status.FOUND, ("127.0.0.1",), 300),
        }
    )
    async with FaultServer() as server, backend.group(f"mx:example.com:{server.port}", zone=zone) as servers:
        assert [each.name for each in servers.servers] == [
            f"mx1.example.com:{server.port}",
            f"mx2.example.com:{server.port}",
        ]
        assert (await backend.deliver(servers))[1].server == f"mx2.example.com:{server.port}"


async def test_a_look_up_that_fails_keeps_what_was_known() -> None:
    """When the MX look-up fails later, the servers known before stay; their pools too."""
    key = ("example.com", RecordType.MX)
    zone = Zone(
        {key: Answer(Status.NO_DATA, (), 0), ("example.com", RecordType.A): Answer(Status.FOUND, ("127.0.0.1",), 0)}
    )
    async with FaultServer() as server, backend.group(f"mx:example.com:{server.port}", zone=zone) as servers:
        before = servers.servers
        for answer in (Answer(Status.SERVFAIL), Answer(Status.NO_DATA)):
            zone.answers[key] = answer
            servers._found = {hop: type(found)(found.endpoints, 0.0) for hop, found in servers._found.items()}
            await servers._look_up()
            assert servers.servers == before
        zone.answers[key] = Answer(Status.FOUND, ("0 .",), 300)
        servers._found = {hop: type(found)(found.endpoints, 0.0) for hop, found in servers._found.items()}
        await servers._look_up()
        assert servers.servers == ()
        assert not servers.is_up
        assert (await backend.deliver(servers))[0] == replies.BACKEND_UNAVAILABLE
        await server.until_open(0)


async def test_an_old_server_without_ehlo() -> None:
    """A server that knows HELO only is used without extensions."""
    async with FaultServer({"ehlo": say("502 5.5.1 What?", times=1)}, extensions=()) as server:
        async with backend.group(server.port) as servers:
            answer, _ = await backend.deliver(servers, words="SIZE=10 BODY=7BIT")
            assert answer.code == 250
        assert server.commands[:3] == ["EHLO gateway.example", "HELO gateway.example", "MAIL FROM:<a@sender.example>"]


@pytest.mark.parametrize("text", ["450 4.3.2 Busy", "554 5.3.2 Go away", "421 4.3.2 Closing"])
async def test_a_greeting_that_refuses_is_never_a_refusal(text: str) -> None:
    """A server that refuses at its greeting makes 4xx, and is down."""
    async with FaultServer({"greeting": say(text)}) as server, backend.group(server.port) as servers:
        assert not servers.is_up
        assert (await backend.deliver(servers))[0].code == 451


async def test_stopping_twice_and_without_start() -> None:
    """A group that was not started, or was stopped, can be stopped."""
    servers = ServerGroup("x", backend.options(1), Zone(), "gateway.example")
    await servers.stop()
    await servers.stop()
