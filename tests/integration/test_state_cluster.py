"""The state in a Redis Cluster: slots that move, a server that is away, a replica that takes over."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.crc import key_slot
from structlog.testing import capture_logs

from gateway.adapters.state.redis import RedisState
from gateway.config.state import StateOptions
from gateway.state import Answer, Greet, Greeted, StateUnavailableError, Take
from tests.support.redis import ClusterSetup, RedisServer

pytestmark = pytest.mark.peer("redis-server")

WITHIN = 60.0


def take(number: int) -> Take:
    """A limit of a client; each client's is on one of the servers."""
    return Take(name="limit", subject=f"client_address=192.0.2.{number}", rate=1 / 86_400, burst=1000.0)


def key(number: int) -> str:
    """Its key in Redis."""
    return f"lychgate:1:rate:{{client_address=192.0.2.{number}}}:limit"


@asynccontextmanager
async def counting(cluster: ClusterSetup) -> AsyncIterator[Any]:
    """A state that has met the cluster."""
    state: Any = RedisState(StateOptions(url=cluster.url, timeout="1s"))
    await state.start()
    try:
        yield state
    finally:
        await state.stop()


async def level(state: RedisState, number: int) -> float | None:
    """Count once; what is counted then, None while that can't be told."""
    (answer,) = await state.ask([take(number)])
    return round(answer.level) if isinstance(answer, Answer) else None


async def test_what_moves_to_another_server_is_followed() -> None:
    """While a slot moves what has moved is asked there, and afterwards all of it; nothing that was counted is lost."""
    with ClusterSetup() as cluster:
        async with counting(cluster) as state:
            assert await level(state, 1) == 1
            here = next(one for one in cluster.servers if state._topology.home(key(1)).endswith(f":{one.port}"))
            there = next(one for one in cluster.servers if one is not here)
            tell = _told(cluster, key_slot(key(1).encode()))
            tell(there, "IMPORTING", here)
            tell(here, "MIGRATING", there)
            assert await level(state, 1) == 2
            here.client.execute_command("MIGRATE", "127.0.0.1", there.port, key(1), 0, 5000)
            assert await level(state, 1) == 3
            assert state._topology.home(key(1)).endswith(f":{here.port}")
            for server in (there, here):
                tell(server, "NODE", there)
            assert await level(state, 1) == 4
            assert state._topology.home(key(1)).endswith(f":{there.port}")
            assert there.client.exists(key(1)) == 1
            assert await state.clear(key(1).removeprefix("lychgate:1:"))
            assert there.client.exists(key(1)) == 0


def _told(cluster: ClusterSetup, slot: int) -> Callable[..., None]:
    """Tells a server about the slot: the words of CLUSTER SETSLOT, with another server for its name."""
    ids = {one: one.client.execute_command("CLUSTER MYID").decode() for one in cluster.servers}

    def tell(server: RedisServer, word: str, other: RedisServer) -> None:
        server.client.execute_command("CLUSTER SETSLOT", slot, word, ids[other])

    return tell


async def test_a_call_is_sent_on_as_often_as_it_takes() -> None:
    """A slot has moved on and moves again; what is half here and half there can't be told, and is nobody's outage."""
    with ClusterSetup() as cluster:
        async with counting(cluster) as state:
            assert await level(state, 1) == 1
            here = next(one for one in cluster.servers if state._topology.home(key(1)).endswith(f":{one.port}"))
            there, beyond = (one for one in cluster.servers if one is not here)
            tell = _told(cluster, key_slot(key(1).encode()))
            tell(there, "IMPORTING", here)
            tell(here, "MIGRATING", there)
            here.client.execute_command("MIGRATE", "127.0.0.1", there.port, key(1), 0, 5000)
            for one in (there, here, beyond):
                tell(one, "NODE", there)
            tell(beyond, "IMPORTING", there)
            tell(there, "MIGRATING", beyond)
            assert await level(state, 1) == 2
            there.client.execute_command("MIGRATE", "127.0.0.1", beyond.port, key(1), 0, 5000)
            state._topology._homes[key_slot(key(1).encode())] = f"127.0.0.1:{here.port}"
            assert await level(state, 1) == 3
            greet = Greet(client="client_address=192.0.2.1", envelope="e", delay=1, window=60, keep=60, passes=0)
            with pytest.raises(StateUnavailableError):
                await state.greet(greet)
            for one in (beyond, there, here):
                tell(one, "NODE", beyond)
            assert (await state.greet(greet)).status is Greeted.NEW
            assert await level(state, 1) == 4
            assert [pipeline.breaker.health.outages for pipeline in state.pipelines.values()] == [0] * len(
                state.pipelines
            )


async def test_a_server_is_not_to_blame_for_another_one() -> None:
    """A slot has moved to a server that is away then: who had it is asked on for what it has."""
    with ClusterSetup({"cluster-require-full-coverage": "no"}) as cluster:
        async with counting(cluster) as state:
            here = next(one for one in cluster.servers if state._topology.home(key(1)).endswith(f":{one.port}"))
            there = next(one for one in cluster.servers if one is not here)
            number = next(
                each
                for each in range(2, 100)
                if state._topology.home(key(each)) == state._topology.home(key(1))
                and key_slot(key(each).encode()) != key_slot(key(1).encode())
            )
            assert [await level(state, each) for each in (1, number)] == [1, 1]
            tell = _told(cluster, key_slot(key(1).encode()))
            here.client.delete(key(1))
            for one in (there, here):
                tell(one, "NODE", there)
            await asyncio.to_thread(there.stop)
            assert list(await asyncio.gather(level(state, 1), level(state, number))) == [None, 2]
            assert await level(state, number) == 3
            assert state.pipelines[state._topology.home(key(number))].breaker.health.outages == 0


@pytest.mark.parametrize("pause", [True, False], ids=["frozen", "stopped"])
async def test_a_server_that_is_away_takes_no_other_with_it(*, pause: bool) -> None:
    """What the others have is counted on, and what the one has when it is back; that is a line of the log each."""
    with ClusterSetup({"cluster-require-full-coverage": "no"}) as cluster, capture_logs() as lines:
        async with counting(cluster) as state:
            homes = {number: state._topology.home(key(number)) for number in range(30)}
            gone = cluster.servers[1]
            here = [number for number, home in homes.items() if not home.endswith(f":{gone.port}")]
            there = [number for number in homes if number not in here]
            assert [await level(state, number) for number in homes] == [1] * 30
            (gone.pause if pause else gone.stop)()
            while state.pipelines[homes[there[0]]].is_open:
                assert await level(state, there[0]) is None
            for turn in range(2, 22):
                assert {await level(state, number) for number in here} == {turn}
                assert {await level(state, number) for number in there} == {None}
            await asyncio.to_thread(gone.resume if pause else gone.start)
            async with asyncio.timeout(WITHIN):
                await state.pipelines[homes[there[0]]].breaker.healed.wait()
            assert {await level(state, number) for number in there} <= {1, 2, 3, 4, 5}
    told = [(line["event"], line["state"].rpartition(":")[2]) for line in lines]
    assert told == [(event, f"{gone.port})") for event in ("state unavailable", "state available again")]


async def test_a_replica_takes_over() -> None:
    """A master is killed; its replica becomes the master, and the limits hold there, what was replicated included."""
    with ClusterSetup(replica_of=0) as cluster:
        async with counting(cluster) as state:
            gone = cluster.servers[0]
            number = next(each for each in range(100) if state._topology.home(key(each)).endswith(f":{gone.port}"))
            assert await level(state, number) == 1
            await asyncio.to_thread(gone.replicate_to, cluster.servers[-1])
            await asyncio.to_thread(gone.stop)
            async with asyncio.timeout(WITHIN):
                found = await level(state, number)
                while found is None:
                    pipeline = state.pipelines[state._topology.home(key(number))]
                    await pipeline.breaker.healed.wait()
                    found = await level(state, number)
            assert found == 2
            assert state._topology.home(key(number)).endswith(f":{cluster.servers[-1].port}")
