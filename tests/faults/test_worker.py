"""The gateway's worker killed with SIGKILL at every step: what a client saw acknowledged is at the mail server.

Many sessions stand at one step when the worker is killed; each is a run. A message may come twice, for its sender tries
again, but none that was acknowledged is missing, and none is there in part.
"""

import asyncio
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.gateway import Gateway
from tests.support.postfix import Postfix
from tests.support.storm import Client, CutError, Keeper, Step, text_of

SESSIONS = 25
"""Sessions at one step when the worker is killed."""

DEATH = "worker died"


def options() -> dict[str, object]:
    """Enough connections for all sessions at once."""
    return {"connections": 100}


async def kill_worker(gateway: Gateway) -> None:
    """Kill the worker, and wait until another is there."""
    seen = len(gateway.lines)
    gateway.worker().kill()
    died = await asyncio.to_thread(gateway.line, DEATH, after=seen)
    if died["restart_in"]:  # one that dies so often is not replaced at once; a reload begins anew
        gateway.send(signal.SIGHUP)
        await asyncio.to_thread(gateway.line, "configuration reloaded", after=seen)
    else:
        await asyncio.to_thread(gateway.line, "worker replaced", after=seen)


async def deliver(port: int, number: str) -> None:
    """Send a message as a sender does that keeps a queue: again until it is acknowledged."""
    while True:
        client = Client(port)
        try:
            await client.walk(number, Step.AFTER_DOT)
            if await client.finish():
                return
        except CutError:
            pass
        finally:
            await client.vanish()


async def test_a_worker_killed_at_any_step_loses_nothing_acknowledged() -> None:
    """At each step, 25 sessions twice over, 350 runs: nothing that was acknowledged is lost, nothing half arrives."""
    acknowledged: set[str] = set()
    runs = 0
    async with (
        Keeper() as keeper,
        Gateway(backend=keeper.port, backend_options=options(), expect=[DEATH]) as gateway,
    ):
        for turn in range(2):
            for step in Step:
                numbers = [f"{turn}-{step.name}-{number}" for number in range(SESSIONS)]
                clients = [Client(gateway.port) for _ in numbers]
                keeper.late.clear()
                await asyncio.gather(
                    *(client.walk(number, step) for client, number in zip(clients, numbers, strict=True))
                )
                if step is Step.AFTER_DOT:
                    await keeper.until_unanswered(SESSIONS)
                await kill_worker(gateway)
                keeper.late.set()
                await asyncio.gather(*(client.closed() for client in clients))
                runs += len(clients)
                keeper.check(acknowledged)
                assert bool(set(numbers) & set(keeper.kept)) is (step is Step.AFTER_DOT)
                await asyncio.gather(*(deliver(gateway.port, number) for number in numbers))
                acknowledged |= set(numbers)
                keeper.check(acknowledged)
    assert runs >= 300


class Senders:
    """Many senders at once, each with its messages one by one, again and again until they are acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self._changed = asyncio.Condition()

    async def send(self, port: int, sender: int, messages: int) -> None:
        """Send the messages of one."""
        for message in range(messages):
            number = f"{sender}-{message}"
            await deliver(port, number)
            async with self._changed:
                self.acknowledged.add(number)
                self._changed.notify_all()

    async def run(self, gateway: Gateway, *, senders: int, messages: int, every: int) -> None:
        """Send everything, and kill the worker each time that so many more are acknowledged."""
        whole = senders * messages
        async with asyncio.TaskGroup() as group:
            for sender in range(senders):
                group.create_task(self.send(gateway.port, sender, messages))
            for count in range(every, whole - senders, every):
                async with self._changed:
                    await self._changed.wait_for(partial(self._has, count))
                await kill_worker(gateway)
        assert len(self.acknowledged) == whole

    def _has(self, count: int) -> bool:
        return len(self.acknowledged) >= count


async def test_a_worker_killed_while_mail_flows_loses_nothing_acknowledged() -> None:
    """Killed seven times in the midst of 20 senders, wherever each just is: what was acknowledged is there, whole."""
    senders = Senders()
    async with Keeper() as keeper:
        async with Gateway(backend=keeper.port, backend_options=options(), expect=[DEATH]) as gateway:
            await senders.run(gateway, senders=20, messages=30, every=80)
        keeper.check(senders.acknowledged)


@pytest.fixture
def counted() -> Iterator[Postfix]:
    """A Postfix of its own, whose queue is counted."""
    with Postfix({"plain": {}}, {"in_flow_delay": "0", "local_header_rewrite_clients": ""}) as postfix:
        yield postfix


@pytest.mark.peer("postfix")
async def test_postfix_has_what_was_acknowledged_before_the_worker_was_killed(counted: Postfix) -> None:
    """The same with a real Postfix behind: what was acknowledged is in its queue, and what is queued is whole."""
    senders = Senders()
    async with Gateway(backend=counted.port, backend_options=options(), expect=[DEATH]) as gateway:
        await senders.run(gateway, senders=10, messages=10, every=15)
    queued = [counted.message(queue_id) for queue_id in counted.queue_ids()]
    texts = {message[message.index(b"X-Id: ") :] for message in queued}
    assert texts == {text_of(number).replace(b"\r\n", b"\n") for number in senders.acknowledged}
