"""The mail server killed, stalled, refusing or talking nonsense at each step, as the client behind the gateway sees it.

A fault is a 4xx, a refusal is the server's own, a 250 is only ever the server's own; and the session goes on.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio

from tests.support.fault_server import Act, FaultServer, kill, say, say_and_close, stall
from tests.support.gateway import Gateway
from tests.support.storm import Client, CutError, Keeper, Step
from tests.support.wire import Answer, Wire

AT_RCPT: Final = ("greeting", "ehlo", "mail", "rcpt")
AT_END: Final = ("data", "content", "end")

QUICK: Final = {
    "idle": "0s",  # each transaction over a connection of its own: so greeting and EHLO come in each
    "timeouts": {
        "connect": "2s",
        "greeting": "300ms",
        "command": "300ms",
        "data_block": "300ms",
        "end_of_data": "300ms",
    },
    "health": {"interval": "1h", "failures": 1_000_000},  # the server is asked again each time
}

GARBAGE: Final = b"\xff\xfe garbage\r\n"


@dataclass(frozen=True, slots=True)
class Bench:
    """A gateway in front of a server that fails on purpose."""

    server: FaultServer
    gateway: Gateway

    async def attempt(self, act: Act, step: str) -> tuple[Answer | None, Answer | None]:
        """A message while the server does that at a step: the replies to RCPT and to the end of data.

        Afterwards the server is well again, and the same session must be able to send.
        """
        self.server.script = {step: act}
        return await asyncio.to_thread(self._attempt)

    def _attempt(self) -> tuple[Answer | None, Answer | None]:
        text = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"
        with Wire(self.gateway.port) as client:
            client.hello()
            assert client.command("MAIL FROM:<you@example.org>").code == 250
            rcpt = client.command("RCPT TO:<alice@example.com>")
            end: Answer | None = None
            if rcpt.code == 250:
                assert client.command("DATA").code == 354
                client.send(text + b".\r\n")
                end = client.reply()
            self.server.script = {}
            assert client.command("RSET").code == 250
            before = len(self.server.messages)
            assert client.transaction().code == 250
            assert len(self.server.messages) == before + 1
        return rcpt, end


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench() -> AsyncIterator[Bench]:
    """One for all tests: each leaves it well."""
    async with FaultServer() as server, Gateway(backend=server.port, backend_options=QUICK) as gateway:
        yield Bench(server, gateway)


FAULTS: Final = {
    "killed": kill(),
    "stalled": stall(),
    "garbage": say(GARBAGE),
    "half a reply": Act(say=b"250-half\r\n250", then=kill().then),
    "421": say_and_close("421 4.3.2 going down"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", [*AT_RCPT, *AT_END])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_fault_is_a_transient_reply(bench: Bench, step: str, fault: str) -> None:
    """A server that dies, hangs, babbles or goes at any step means 4xx at the right stage, and no message."""
    count = len(bench.server.messages)
    rcpt, end = await bench.attempt(FAULTS[fault], step)
    faulty = rcpt if step in AT_RCPT else end
    assert faulty is not None
    assert 400 <= faulty.code < 500, (rcpt, end)
    assert faulty.code != 421  # that would be the gateway's own end
    assert len(bench.server.messages) == count + 1  # the one that was sent when it was well again


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("words", ["450 4.2.0 Not just now", "550 5.7.1 Not you", "452 4.3.1 Full"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_is_the_servers_own(bench: Bench, step: str, words: str) -> None:
    """What the server refuses is refused with its code and its words, transient or permanent."""
    rcpt, end = await bench.attempt(say(words), step)
    answer = rcpt if step in AT_RCPT else end
    assert answer is not None
    assert f"{answer.code} {answer.text}" == words


@pytest.mark.parametrize("step", ["greeting", "ehlo"])
@pytest.mark.parametrize("words", ["554 5.7.1 Go away", "450 4.7.1 Later"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_of_the_gateway_itself_is_a_fault(bench: Bench, step: str, words: str) -> None:
    """A server that does not want the gateway says nothing about the message: the client gets 4xx."""
    rcpt, _ = await bench.attempt(say_and_close(words), step)
    assert rcpt is not None
    assert 400 <= rcpt.code < 500


@pytest.mark.parametrize("act", [kill(accept=True), stall(accept=True)])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_whose_answer_is_lost_is_deferred(bench: Bench, act: Act) -> None:
    """Taken, but not said so: the client gets 451 and will try again. A duplicate is possible, a loss is not."""
    count = len(bench.server.messages)
    _, end = await bench.attempt(act, "end")
    assert end is not None
    assert end.code == 451
    assert len(bench.server.messages) == count + 2


async def test_mail_is_deferred_while_no_server_is_up_and_flows_again_after() -> None:
    """Without a server every recipient gets 4xx; when it is back mail is taken, over the same client connection."""
    options = {"health": {"interval": "50ms", "failures": 1}}
    async with FaultServer() as server, Gateway(backend=server.port, backend_options=options) as gateway:

        def deferred() -> Wire:
            client = Wire(gateway.port)
            client.hello()
            assert client.command("MAIL FROM:<you@example.org>").code == 250
            assert 400 <= client.command("RCPT TO:<alice@example.com>").code < 500
            assert client.command("RSET").code == 250
            return client

        await server.stop()
        client = await asyncio.to_thread(deferred)
        down = len(gateway.lines)
        await server.start()
        await asyncio.to_thread(gateway.line, "backend_server_up", after=max(0, down - 3))
        assert (await asyncio.to_thread(client.transaction)).code == 250
        client.close()
        assert len(server.messages) == 1


async def test_the_next_server_takes_over_in_the_midst_of_a_session() -> None:
    """With two servers the death of the first costs the client nothing, not even between RCPT and DATA."""
    async with FaultServer() as first, FaultServer() as second:
        settings = {"backends": {"two": {"servers": [f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"]}}}
        async with Gateway(settings) as gateway:

            def begin() -> Wire:
                client = Wire(gateway.port)
                client.hello()
                assert client.command("MAIL FROM:<you@example.org>").code == 250
                assert client.command("RCPT TO:<alice@example.com>").code == 250
                return client

            def go_on(client: Wire) -> None:
                with client:
                    assert client.command("DATA").code == 354
                    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
                    assert client.reply().code == 250
                    assert client.transaction().code == 250

            client = await asyncio.to_thread(begin)
            await first.until("RCPT")
            await first.stop()
            await asyncio.to_thread(go_on, client)
            assert first.messages == []
            assert len(second.messages) == 2


async def test_a_server_killed_while_mail_flows_loses_nothing_acknowledged() -> None:
    """Its connections are cut ten times in the midst of 20 senders: every message with a 250 is there, whole."""
    acknowledged: set[str] = set()
    options = {"health": QUICK["health"]}  # so that senders need not wait until it counts as up again
    async with Keeper() as keeper, Gateway(backend=keeper.port, backend_options=options) as gateway:

        async def send(sender: int) -> None:
            for message in range(20):
                number = f"{sender}-{message}"
                while number not in acknowledged:
                    client = Client(gateway.port)
                    try:
                        await client.walk(number, Step.AFTER_DOT)
                        if await client.finish():
                            acknowledged.add(number)
                    except CutError:
                        pass
                    finally:
                        await client.vanish()

        async with asyncio.TaskGroup() as group:
            for sender in range(20):
                group.create_task(send(sender))
            for count in range(30, 330, 30):
                await keeper.until_kept(count)
                keeper.cut()
        keeper.check(acknowledged)
    assert len(acknowledged) == 400
