"""Kept connections: how many, for how long, for whom."""

import asyncio
from typing import Any

import pytest

from gateway.smtp import reply as replies
from tests.support import backend
from tests.support.backend import ADDED, Bytes, short
from tests.support.fault_server import FaultServer, stall
from tests.support.loops import on_uvloop


async def test_connections_are_kept_and_limited() -> None:
    """Messages at once use no more connections than allowed; one after the other they use one."""
    async with FaultServer() as server, backend.group(server.port, connections=3) as servers:
        for _ in range(5):
            assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == 1
        answers = await asyncio.gather(*(backend.deliver(servers) for _ in range(20)))
        assert {answer.code for answer, _ in answers} == {250}
        assert server.connections == 3
        assert len(server.messages) == 25


async def test_a_connection_carries_so_many_messages() -> None:
    """After ``messages`` messages a connection is closed with QUIT."""
    async with FaultServer() as server, backend.group(server.port, messages=2) as servers:
        for _ in range(5):
            assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == 3
        assert server.commands.count("QUIT") == 2


async def test_a_connection_with_fifty_given_up_transactions_is_closed() -> None:
    """Postfix slows down who says RSET a hundred times without a message; one that is taken starts the count again."""
    async with FaultServer() as server, backend.group(server.port, health={"interval": "1h"}) as servers:

        async def give_up(times: int) -> None:
            for _ in range(times):
                delivery = servers.delivery(backend.transaction())
                assert (await delivery.recipient(backend.recipient())).code == 250
                delivery.abort()

        await give_up(50)
        assert (await backend.deliver(servers))[0].code == 250  # says the 50th RSET, and is a message
        await give_up(50)
        assert (server.connections, server.commands.count("QUIT")) == (1, 0)
        await give_up(1)
        await give_up(1)
        await server.until("QUIT")
        assert (server.connections, server.commands.count("QUIT")) == (2, 1)


async def test_unused_connections_are_closed() -> None:
    """A free connection is closed with QUIT after ``idle``."""
    async with FaultServer() as server, backend.group(server.port, idle="50ms", health={"interval": "1h"}) as servers:
        await backend.deliver(servers)
        await server.until("QUIT")
        await server.until_open(0)
        assert servers.servers[0].pool.count == 0
        assert (await backend.deliver(servers))[0].code == 250


async def test_nothing_is_kept_with_idle_0() -> None:
    """With ``idle: 0s`` every message has a connection of its own."""
    async with FaultServer() as server, backend.group(server.port, idle="0s") as servers:
        before = server.connections
        for _ in range(2):
            assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == before + 2


@on_uvloop
async def test_connections_can_be_given_back_while_others_are_about_to_be_closed() -> None:
    """Uvloop's handle for what is due at once can't say when that is; a message that was taken must not fail by it."""
    async with FaultServer() as server, backend.group(server.port, connections=2) as servers:
        await asyncio.gather(*(backend.deliver(servers) for _ in range(2)))
        pool = servers.servers[0].pool
        connections = [pool.take(None), pool.take(None)]
        pool._idle_time = 0.0001
        for connection in connections:
            assert connection is not None
            pool.give_back(connection)
        assert pool.idle == 2
        await server.until_open(0)


async def test_stopping_says_quit() -> None:
    """When the group stops its free connections are closed with QUIT."""
    async with FaultServer() as server:
        async with backend.group(server.port, connections=2) as servers:
            await asyncio.gather(*(backend.deliver(servers) for _ in range(2)))
        await server.until_open(0)
        assert server.commands.count("QUIT") == server.connections == 2


@pytest.mark.parametrize("text", ["421 4.3.2 Going down", "250 2.0.0 What?", "hello"])
async def test_what_is_said_on_a_free_connection_ends_it(text: str) -> None:
    """A free connection on which the server says something unasked, such as 421, is closed and not used again."""
    async with FaultServer() as server, backend.group(server.port, health={"interval": "1h"}) as servers:
        await backend.deliver(servers)
        server.shout(text)
        await server.until_open(0)
        assert servers.servers[0].pool.count == 0
        assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == 2


async def test_a_free_connection_that_is_closed_is_noticed() -> None:
    """A connection that the server closed is not used for the next message."""
    async with FaultServer() as server, backend.group(server.port) as servers:
        await backend.deliver(servers)
        await server.stop()
        await server.start()
        assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == 2


async def test_nobody_waits_longer_than_queue() -> None:
    """When no connection becomes free in time the recipient is deferred, and the place in line is given up."""
    fields: dict[str, Any] = {"connections": 1, "queue": "50ms", "health": {"interval": "1h"}}
    async with FaultServer({"mail": stall(times=1)}) as server, backend.group(server.port, **fields) as servers:
        stalled = asyncio.ensure_future(backend.deliver(servers))
        await server.until_step("mail")
        assert (await backend.deliver(servers))[0] == replies.BACKEND_UNAVAILABLE
        stalled.cancel()
        await asyncio.wait([stalled])
        assert (await backend.deliver(servers))[0].code == 250
        assert servers.servers[0].pool.count == 1


async def test_those_who_wait_are_served_in_order() -> None:
    """Waiting deliveries get the connection in the order in which they came."""
    async with FaultServer() as server, backend.group(server.port, connections=1) as servers:
        order: list[str] = []

        async def one(name: str) -> None:
            assert (await backend.deliver(servers, to=f"{name}@example.com"))[0].code == 250
            order.append(name)

        await asyncio.gather(*(one(name) for name in "abcdef"))
        assert order == list("abcdef")


async def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    """A delivery that is cancelled while it waits does not take a connection with it."""
    async with FaultServer() as server, backend.group(server.port, connections=1) as servers:
        holding = servers.delivery(backend.transaction())
        await holding.recipient(backend.recipient())
        waiting = [asyncio.ensure_future(backend.deliver(servers)) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0)
        holding.abort()  # the first waiter is served ...
        waiting[0].cancel()  # ... and cancelled before it runs
        waiting[1].cancel()
        done, _ = await asyncio.wait(waiting)
        assert sum(task.cancelled() for task in done) == 2
        assert waiting[2].result()[0].code == 250
        assert (await backend.deliver(servers))[0].code == 250
        assert servers.servers[0].pool.count == 1


async def test_slow_clients_do_not_starve_the_others() -> None:
    """Deliveries that wait for their clients' data give their connections up, and repeat MAIL and RCPT later."""
    async with FaultServer() as server, backend.group(server.port, connections=2) as servers:
        slow = [servers.delivery(backend.transaction()) for _ in range(8)]
        for index, delivery in enumerate(slow):
            assert (await delivery.recipient(backend.recipient(f"a{index}@example.com"))).code == 250
            assert (await delivery.recipient(backend.recipient(f"b{index}@example.com"))).code == 250
        assert (await backend.deliver(servers))[0].code == 250
        answers = await asyncio.gather(*(delivery.send(ADDED, Bytes(backend.BODY)) for delivery in slow))
        assert {answer.code for answer in answers} == {250}
        assert server.connections == 2
        assert sorted(message.recipients for message in server.messages[1:]) == [
            (f"RCPT TO:<a{index}@example.com>", f"RCPT TO:<b{index}@example.com>") for index in range(8)
        ]


async def test_a_parked_delivery_that_is_aborted_gives_its_connection_back() -> None:
    """A connection that was called back from a delivery is not touched by it any more."""
    async with FaultServer() as server, backend.group(server.port, connections=1) as servers:
        first = servers.delivery(backend.transaction())
        second = servers.delivery(backend.transaction())
        assert (await first.recipient(backend.recipient("first@example.com"))).code == 250
        assert (await second.recipient(backend.recipient("second@example.com"))).code == 250
        first.abort()
        assert (await second.send(ADDED, Bytes(backend.BODY))).code == 250
        assert [message.recipients for message in server.messages] == [("RCPT TO:<second@example.com>",)]
        assert server.connections == 1


async def test_a_parked_connection_that_is_lost_frees_its_place() -> None:
    """The place of a lost connection is free although its delivery has not noticed the loss."""
    async with FaultServer() as server, backend.group(server.port, connections=1) as servers:
        parked = servers.delivery(backend.transaction())
        assert (await parked.recipient(backend.recipient())).code == 250
        await server.stop()
        await server.start()
        assert (await backend.deliver(servers))[0].code == 250
        parked.abort()
        assert servers.servers[0].pool.count == 1


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["pipelining", "lockstep"])
async def test_commands_in_order(extensions: tuple[str, ...]) -> None:
    """The conversation is the same with and without PIPELINING."""
    async with FaultServer(extensions=extensions) as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        for name in ("a", "b"):
            await delivery.recipient(backend.recipient(f"{name}@example.com"))
        delivery.abort()
        await backend.deliver(servers)
    assert server.commands == [
        "EHLO gateway.example",
        "MAIL FROM:<a@sender.example>", "RCPT TO:<a@example.com>", "RCPT TO:<b@example.com>",
        "RSET", "MAIL FROM:<a@sender.example>", "RCPT TO:<alice@example.com>", "DATA",
        "QUIT",
    ]  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7, 65_536])
@pytest.mark.parametrize(
    "body",
    [b"", b"\r\n", b".\r\n", b"..\r\n", b"a\r\n.\r\n.\r\n", b"\r\n.\r\n", b"a\r\n\r\n..b\r\n.", b"a\r\n.c\r\n",
     b"x" * 70_000 + b"\r\n.y\r\n"],
)  # fmt: skip
async def test_the_message_is_unchanged(body: bytes, chunk: int | None) -> None:
    """Every octet arrives, dots and all, however the content is cut; only a missing last CRLF is added."""
    if len(body) > 1000 and chunk is not None and chunk < 1000:
        chunk = 9_999
    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        await delivery.recipient(backend.recipient())
        assert (await delivery.send(ADDED, Bytes(body, chunk))).code == 250
        expected = b"".join(ADDED) + body
        assert server.messages[0].data == expected + (b"" if expected.endswith(b"\r\n") else b"\r\n")


async def test_bdat() -> None:
    """With CHUNKING a message without its last CRLF goes unchanged by BDAT, others by DATA."""
    async with FaultServer(extensions=("PIPELINING", "CHUNKING")) as server, backend.group(server.port) as servers:
        body = b"a\r\n.b" + b"x" * 200_000
        for content in (body, backend.BODY):
            assert (await backend.deliver(servers, content))[0].code == 250
        assert [message.data for message in server.messages] == [ADDED[0] + body, ADDED[0] + backend.BODY]
        assert f"BDAT {len(ADDED[0]) + len(body)} LAST" in server.commands
        assert server.commands.count("DATA") == 1


async def test_memory_stays_bounded() -> None:
    """A server that reads slowly is not written to faster than it reads."""
    read = 0

    class Watched(Bytes):
        async def chunks(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - as in the base class
            nonlocal read
            async for chunk in super().chunks():
                read += len(chunk)
                yield chunk

    body = b"x" * 98 + b"\r\n"
    timeouts = short(data_block="300ms")
    async with FaultServer({"content": stall()}) as server, backend.group(server.port, timeouts=timeouts) as servers:
        delivery = servers.delivery(backend.transaction())
        await delivery.recipient(backend.recipient())
        assert (await delivery.send(ADDED, Watched(body * 1_000_000))).is_transient
    assert read < 20_000_000  # what the sockets' buffers hold
