"""A client that vanishes at any step leaves no half message at the mail server, and holds nothing back there."""

import asyncio

import pytest

from tests.support.fault_server import FaultServer
from tests.support.gateway import Gateway, poll
from tests.support.storm import Client, Keeper, Step, text_of
from tests.support.wire import Wire

VANISHING = [step for step in Step if step is not Step.AFTER_DOT]


async def test_vanished_clients_leave_no_message() -> None:
    """Twenty clients cut off at each step before the final dot: the mail server has nothing of any of them."""
    settings = {"records": {"file": "records.jsonl", "silent_clients": True}}
    async with Keeper() as keeper, Gateway(settings, backend=keeper.port) as gateway:
        for step in VANISHING:
            clients = [Client(gateway.port) for _ in range(20)]
            await asyncio.gather(*(client.walk(f"{step.name}-{n}", step) for n, client in enumerate(clients)))
            await asyncio.gather(*(client.vanish() for client in clients))
        last = Client(gateway.port)
        await last.walk("last", Step.AFTER_DOT)
        assert await last.finish()
        await last.vanish()
        records = await asyncio.to_thread(poll, lambda: finished(gateway, 20 * len(VANISHING) + 1))
        assert set(keeper.kept) == {"last"}
        keeper.check({"last"})
    results = [record["decision"]["result"] for record in records if record["kind"] == "transaction"]
    assert results.count("aborted") == 20 * len([step for step in VANISHING if step not in {"connected", "ehlo"}])
    assert results.count("accepted") == 1


def finished(gateway: Gateway, count: int) -> list[dict[str, object]]:
    """The records, once there are so many."""
    records = gateway.records()
    return records if len(records) >= count else []


async def test_a_client_that_vanishes_after_the_final_dot_has_its_message_delivered() -> None:
    """The message is whole then: it goes on, and the record says what became of it, though nobody hears the answer."""
    async with Keeper() as keeper, Gateway(backend=keeper.port) as gateway:
        keeper.late.clear()
        client = Client(gateway.port)
        await client.walk("1", Step.AFTER_DOT)
        await keeper.until_unanswered(1)
        await client.vanish()
        keeper.late.set()
        record = await asyncio.to_thread(gateway.record, kind="transaction", result="accepted")
        keeper.check({"1"})
    assert record["reply"]["code"] == 250


@pytest.mark.parametrize("verb", ["QUIT", "RSET", "EHLO again.example", "NOOP"])
async def test_an_open_transaction_at_the_backend_is_given_up_with_the_clients(verb: str) -> None:
    """After RCPT, whatever ends the client's transaction ends the backend's, before its connection is used again."""
    async with FaultServer() as server, Gateway(backend=server.port) as gateway:

        def converse() -> None:
            with Wire(gateway.port) as client:
                client.hello()
                client.command("MAIL FROM:<first@example.org>")
                assert client.command("RCPT TO:<alice@example.com>").code == 250
                assert client.command(verb).code // 100 == 2
            with Wire(gateway.port) as client:
                client.hello()
                assert client.transaction("second@example.org", "bob@example.com").code == 250

        await asyncio.to_thread(converse)
        (message,) = server.messages
        assert message.mail.startswith("MAIL FROM:<second@example.org>")
        assert [each.split()[1] for each in message.recipients] == ["TO:<bob@example.com>"]


async def test_a_stalled_client_holds_no_connection_that_others_need() -> None:
    """With one connection to the backend, a client that stops in its data does not keep others from delivering."""
    async with (
        Keeper() as keeper,
        Gateway(backend=keeper.port, backend_options={"connections": 1}) as gateway,
    ):
        stalled = [Client(gateway.port) for _ in range(5)]
        for number, client in enumerate(stalled):
            await client.walk(f"stalled-{number}", Step.IN_DATA)
        other = Client(gateway.port)
        await other.walk("other", Step.AFTER_DOT)
        assert await other.finish()
        await other.vanish()
        rest = text_of("stalled-0").replace(b"\r\n.", b"\r\n..")[-500:]
        assert await stalled[0].resume(rest + b".\r\n")
        for client in stalled:
            await client.vanish()
        keeper.check({"other", "stalled-0"})
        assert set(keeper.kept) == {"other", "stalled-0"}


@pytest.mark.parametrize(
    "half", [b"MAIL FROM:<", b"BDAT 100 LAST\r\nhalf a message", b"DATA\r\nSubject: half\r\n\r\n."]
)
async def test_a_client_that_closes_in_the_middle_of_anything_leaves_nothing(half: bytes) -> None:
    """Half a command, half a chunk and data without their end are no message when the client closes its side."""
    async with Keeper() as keeper, Gateway(backend=keeper.port) as gateway:

        def converse() -> None:
            with Wire(gateway.port) as client:
                client.hello()
                if not half.startswith(b"MAIL"):
                    client.command("MAIL FROM:<you@example.org>")
                    client.command("RCPT TO:<alice@example.com>")
                client.send(half)
                client.end()
                assert {answer.code for answer in client.rest()} <= {354}

        await asyncio.to_thread(converse)
        record = await asyncio.to_thread(gateway.record)
        assert record["decision"]["result"] in {"aborted", "none"}
        assert not keeper.kept
