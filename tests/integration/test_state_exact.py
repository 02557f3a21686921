"""Exactness: processes that hammer one key are let through as often as the limit says, not once more or less."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING

import pytest

from gateway.adapters.state.redis import RedisState
from gateway.config.state import StateOptions
from gateway.state import Answer, Enter, Kind, Operation, Take
from tests.support.redis import ClusterSetup, RedisServer

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

PROCESSES = 8
EACH = 60
"""Tries of each process, 12 at a time."""


def take(_: str) -> list[Operation]:
    """100 in all: nothing to speak of comes back in the time of the test."""
    return [Take(name="limit", subject="client_address=192.0.2.1", rate=1 / 86_400, burst=100.0)]


def take_two(_: str) -> list[Operation]:
    """Two limits, of which the narrower counts: 70. In a cluster they are on different nodes."""
    narrow = Take(name="narrow", subject="recipient=bob@example.com", rate=1 / 86_400, burst=70.0)
    return [*take(""), narrow]


def enter(member: str) -> list[Operation]:
    """37 connections at a time, of which none ends."""
    return [Enter(name="room", subject="client_address=192.0.2.1", member=member, limit=37)]


def reserve(number: str) -> list[Operation]:
    """The same, but of every second try what was taken is given back."""
    return take(number)


WHAT: dict[str, Callable[[str], list[Operation]]] = {
    "take": take,
    "take_two": take_two,
    "enter": enter,
    "reserve": reserve,
}


def hammer(url: str, number: int, barrier: Barrier, counts: "Queue[dict[str, int]]") -> None:
    """One process, whose clock is hours off: how often it was let through."""
    real = time.time
    time.time = lambda: real() + (number - PROCESSES / 2) * 3600  # the state has its own time

    async def run(what: str) -> int:
        state = RedisState(StateOptions(url=url, timeout="20s", prefix=what))
        await state.start()
        await asyncio.to_thread(barrier.wait, 60)
        count = 0
        for turn in range(0, EACH, 12):
            asked = await asyncio.gather(*(state.ask(WHAT[what](f"{number}.{turn + at}")) for at in range(12)))
            granted = [all(isinstance(each, Answer) and each.granted for each in answers) for answers in asked]
            if what == "reserve":
                for (answer,) in [answers for answers, was in zip(asked[::2], granted[::2], strict=True) if was]:
                    (operation,) = reserve("")
                    assert isinstance(operation, Take)
                    assert isinstance(answer, Answer)
                    state.give_back(operation, answer)
                granted = granted[1::2]
            count += sum(granted)
        await asyncio.to_thread(barrier.wait, 60)
        await state.stop()
        return count

    counts.put({what: asyncio.run(run(what)) for what in WHAT})


def hammered(url: str) -> dict[str, int]:
    """How often all processes together were let through."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gateway.adapters.state.redis"])
    barrier, counts = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=hammer, args=(url, number, barrier, counts)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    found = [counts.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    return {what: sum(one[what] for one in found) for what in WHAT}


async def level(url: str, prefix: str) -> float:
    """What the bucket of a prefix holds."""
    state = RedisState(StateOptions(url=url, timeout="20s", prefix=prefix))
    levels = [entry.level async for entry in state.entries(Kind.RATE)]
    await state.stop()
    return sum(levels)


@pytest.mark.peer("redis-server")
def test_eight_processes_get_exactly_what_one_would() -> None:
    """480 tries each of processes whose clocks are hours apart: as many pass as the limit says."""
    with RedisServer() as redis:
        found = hammered(redis.url)
        kept = found.pop("reserve")
        assert found == {"take": 100, "take_two": 70, "enter": 37}
        assert 0 < kept <= 100
        assert asyncio.run(level(redis.url, "reserve")) == pytest.approx(kept, abs=0.1)


@pytest.mark.peer("redis-server")
def test_a_cluster_is_exact_for_each_subject() -> None:
    """The same where keys are on three nodes; of two subjects' limits never more than the narrower one allows."""
    with ClusterSetup() as cluster:
        found = hammered(cluster.url)
        assert (found["take"], found["enter"]) == (100, 37)
        assert 0 < found["take_two"] <= 70
