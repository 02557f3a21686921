"""The shared state: memory, a Redis, a Redis behind sentinels and a cluster keep one contract."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from gateway import gathering
from gateway.adapters.state.memory import MemoryState
from gateway.adapters.state.pipeline import TURNS
from gateway.adapters.state.redis import RedisState
from gateway.adapters.state.scripts import BUCKET
from gateway.config.state import StateOptions
from gateway.state import (
    Answer,
    Counting,
    Enter,
    Greet,
    Greeted,
    Kind,
    Operation,
    State,
    StateUnavailableError,
    Take,
    subject,
)
from gateway.testing import SettableClock
from tests.support.gateway import poll
from tests.support.redis import ClusterSetup, RedisServer, SentinelSetup

_PREFIXES = count()
KINDS = ("memory", "server", "sentinel", "cluster")
SETUPS: dict[str, Callable[[], Any]] = {"server": RedisServer, "sentinel": SentinelSetup, "cluster": ClusterSetup}
NEEDS = {"server": ("redis-server",), "sentinel": ("redis-server", "redis-sentinel"), "cluster": ("redis-server",)}


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], str]]:
    """Gives the URL of a set-up, which is started when it is first asked for."""
    urls: dict[str, str] = {}
    with ExitStack() as stack:

        def url(kind: str) -> str:
            if kind not in urls:
                urls[kind] = stack.enter_context(SETUPS[kind]()).url
            return urls[kind]

        yield url


def _made(kind: str, servers: Callable[[str], str], clock: SettableClock | None, **options: Any) -> Any:
    if kind == "memory":
        return MemoryState(clock or SettableClock())
    prefix = f"test{next(_PREFIXES)}"
    return RedisState(StateOptions(url=servers(kind), prefix=prefix, timeout="5s"), clock=clock, **options)


@pytest.fixture
def clock() -> SettableClock:
    """The state's time."""
    return SettableClock()


@pytest.fixture(
    params=[pytest.param(kind, marks=[pytest.mark.peer(*NEEDS.get(kind, ()))]) for kind in KINDS],
)
async def state(
    request: pytest.FixtureRequest, servers: Callable[[str], str], clock: SettableClock
) -> AsyncIterator[State]:
    """Each kind of state, empty, with a clock that stands still."""
    made: State = _made(request.param, servers, clock)
    await made.start()
    yield made
    await made.stop()


def take(**changes: Any) -> Take:
    """A limit of 1 a second and 3 at once."""
    return replace(Take(name="limit", subject=subject(client_address="192.0.2.1"), rate=1.0, burst=3.0), **changes)


def enter(member: str, **changes: Any) -> Enter:
    """A limit of two connections."""
    return replace(Enter(name="room", subject="client_address=192.0.2.1", member=member, limit=2), **changes)


GREET = Greet(client="192.0.2.0/24", envelope="e1", delay=300.0, window=3600.0, keep=86_400.0, passes=2)


async def ask(state: State, *operations: Operation) -> list[Answer]:
    """Ask, with every question answered."""
    answers = await state.ask(operations)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Answer)]


async def granted(state: State, *operations: Operation) -> list[bool]:
    """Which of the operations are granted."""
    return [answer.granted for answer in await ask(state, *operations)]


async def level(state: State, operation: Take) -> float:
    """What a bucket holds."""
    (answer,) = await ask(state, replace(operation, counting=Counting.LOOK))
    return answer.level


async def test_a_bucket_takes_its_burst_and_then_its_rate(state: State, clock: SettableClock) -> None:
    """Three at once, then one a second; the answer says when it will be granted, and is right to the millisecond."""
    assert [await granted(state, take()) for _ in range(4)] == [[True], [True], [True], [False]]
    (refused,) = await ask(state, take())
    assert (refused.level, refused.wait) == (3.0, 1.0)
    clock.advance(0.999)
    assert await granted(state, take()) == [False]
    clock.advance(0.001)
    assert [await granted(state, take()) for _ in range(2)] == [[True], [False]]
    clock.advance(3600)
    assert [await granted(state, take()) for _ in range(4)] == [[True], [True], [True], [False]]


async def test_looking_counts_nothing(state: State) -> None:
    """LOOK says whether there is room, however often."""
    for _ in range(5):
        assert await granted(state, take(counting=Counting.LOOK)) == [True]
    assert await level(state, take()) == 0.0


async def test_adding_fills_to_the_brim(state: State, clock: SettableClock) -> None:
    """ADD counts in any case, but no bucket holds more than it can: it is usable again after one unit's time."""
    for _ in range(10):
        state.post(take())
    assert await granted(state, take()) == [False]
    assert await level(state, take()) == 3.0
    clock.advance(1)
    assert await granted(state, take()) == [True]


async def test_a_cost_above_the_burst_waits_for_an_empty_bucket(state: State, clock: SettableClock) -> None:
    """A message larger than the bucket passes when nothing else is in it, and is paid for afterwards."""
    assert await granted(state, take(cost=1.0)) == [True]
    (refused,) = await ask(state, take(cost=10.0))
    assert (refused.granted, refused.wait) == (False, 1.0)
    clock.advance(1)
    assert await granted(state, take(cost=10.0)) == [True]
    (refused,) = await ask(state, take())
    assert (refused.level, refused.wait) == (10.0, 8.0)


async def test_a_hold_shuts_out_for_its_time(state: State, clock: SettableClock) -> None:
    """Once something was refused nothing passes for the time of the hold, which does not grow by trying."""
    held = take(hold=60.0)
    assert [await granted(state, held) for _ in range(4)] == [[True], [True], [True], [False]]
    clock.advance(30)
    (refused,) = await ask(state, held)
    assert (refused.granted, refused.wait) == (False, 30.0)
    clock.advance(30)
    assert await granted(state, held) == [True]


async def test_limits_asked_together_count_all_or_none(state: State) -> None:
    """What one limit refuses is counted by no other, whichever stands first."""
    narrow = take(name="narrow", subject="recipient=bob@example.com", burst=1.0)
    assert await granted(state, take(), narrow) == [True, True]
    for operations in ((take(), narrow), (narrow, take())):
        assert sorted(await granted(state, *operations)) == [False, True]
    await asyncio.sleep(0)
    assert await level(state, take()) == 1.0


async def test_what_does_not_bind_stops_no_other(state: State) -> None:
    """A limit that is only observed is refused without a say in what others count."""
    watched = take(name="watched", burst=1.0, binding=False)
    assert await granted(state, watched, take()) == [True, True]
    assert await granted(state, watched, take()) == [False, True]
    assert (await level(state, take()), await level(state, watched)) == (2.0, 1.0)


async def test_subjects_and_names_are_counted_apart(state: State) -> None:
    """Another client and another limit have buckets of their own, even where a subject looks like a key."""
    others = [take(name="other"), take(subject=subject(helo_name="a}:limit")), take(subject=subject(helo_name="a{b"))]
    assert [await granted(state, take(burst=1.0)) for _ in range(2)] == [[True], [False]]
    for other in others:
        assert [await granted(state, replace(other, burst=1.0)) for _ in range(2)] == [[True], [False]]


async def test_what_cannot_be_sent_stops_nothing(servers: Callable[[str], str], clock: SettableClock) -> None:
    """A name that is no text fails by itself; the server is not taken to be away."""
    state = _made("server", servers, clock)
    assert isinstance(state, RedisState)
    await state.start()
    with pytest.raises(UnicodeEncodeError):
        await state.ask([take(name="\ud800")])
    assert [pipeline.breaker.health.outages for pipeline in state.pipelines.values()] == [0]
    assert await granted(state, take()) == [True]
    await state.stop()


async def test_connections_are_counted_while_they_last(state: State) -> None:
    """Two may be in; one that leaves makes room; the same one counts once; who is not in may leave."""
    assert [await granted(state, enter(one)) for one in "aabc"] == [[True], [True], [True], [False]]
    state.leave(enter("c"))
    assert await granted(state, enter("c")) == [False]
    state.leave(enter("a"))
    assert await granted(state, enter("c")) == [True]
    (refused,) = await ask(state, enter("d"))
    assert refused.level == 2


async def test_a_refused_rate_leaves_no_connection_behind(state: State) -> None:
    """All or none holds between rates and connections, too."""
    assert await granted(state, take(burst=1.0), enter("a")) == [True, True]
    assert await granted(state, take(burst=1.0), enter("b")) == [False, True]
    (third,) = await ask(state, enter("c"))
    assert (third.granted, third.level) == (True, 2)


async def test_a_triplet_waits_and_is_then_known(state: State, clock: SettableClock) -> None:
    """New, early, passed, known: with the time that is left, and what was waited."""
    first = await state.greet(GREET)
    assert (first.status, first.wait) == (Greeted.NEW, 300.0)
    clock.advance(299)
    early = await state.greet(GREET)
    assert (early.status, early.wait, early.waited) == (Greeted.EARLY, 1.0, 299.0)
    clock.advance(1)
    passed = await state.greet(GREET)
    assert (passed.status, passed.waited, passed.passes) == (Greeted.PASSED, 300.0, 1)
    clock.advance(86_400)
    assert (await state.greet(GREET)).status is Greeted.KNOWN
    clock.advance(86_401)
    assert (await state.greet(GREET)).status is Greeted.NEW


async def test_a_triplet_that_does_not_return_in_its_window_is_new_again(state: State, clock: SettableClock) -> None:
    """The window ends an attempt that was not repeated."""
    await state.greet(GREET)
    clock.advance(3601)
    assert (await state.greet(GREET)).status is Greeted.NEW


async def test_a_client_that_came_again_often_enough_is_waved_through(state: State, clock: SettableClock) -> None:
    """After two triplets that passed, no third has to wait; another client has, and so has this one when forgotten."""
    for envelope in ("e1", "e2"):
        await state.greet(replace(GREET, envelope=envelope))
    clock.advance(300)
    for envelope in ("e1", "e2"):
        assert (await state.greet(replace(GREET, envelope=envelope))).status is Greeted.PASSED
    waved = await state.greet(replace(GREET, envelope="e3"))
    assert (waved.status, waved.passes) == (Greeted.CLIENT, 2)
    assert (await state.greet(replace(GREET, envelope="e3", passes=0))).status is Greeted.NEW
    assert (await state.greet(replace(GREET, client="198.51.100.0/24"))).status is Greeted.NEW
    clock.advance(86_401)
    assert (await state.greet(replace(GREET, envelope="e4"))).status is Greeted.NEW


async def test_entries_are_listed_and_cleared_by_their_keys(state: State) -> None:
    """What is counted can be seen, and one entry at a time can be forgotten."""
    await ask(state, take(), enter("session"))
    await state.greet(GREET)
    found = {entry.kind: entry async for entry in state.entries()}
    rate, room, triplet = (found[kind] for kind in (Kind.RATE, Kind.CONCURRENCY, Kind.GREYLIST))
    assert (rate.name, rate.subject, rate.level, rate.limit) == ("limit", "client_address=192.0.2.1", 1.0, 3.0)
    assert rate.detail["rate"] == pytest.approx(1.0)
    assert (room.level, room.limit, room.detail) == (1, 2, {"sessions": ["session"]})
    assert (triplet.name, triplet.subject) == ("triplet", "192.0.2.0/24")
    assert triplet.detail == {"envelope": "e1", "waiting": True, "age": 0.0}
    assert [entry.kind async for entry in state.entries(Kind.GREYLIST)] == [Kind.GREYLIST]
    for entry in found.values():
        assert await state.clear(entry.key)
        assert not await state.clear(entry.key)
    assert [entry async for entry in state.entries()] == []


@pytest.mark.peer("redis-server")
async def test_what_somebody_wrote_by_hand_is_passed_over(servers: Callable[[str], str]) -> None:
    """Entries that are none of ours are not listed, keep no connection from being renewed, and are no outage."""
    state = _made("server", servers, None)
    await state.start()
    await ask(state, enter("a"), enter("b", name="other"))
    client = redis.Redis.from_url(servers("server"))
    for key in ("rate:{client_address=192.0.2.1}:limit", "rate:{x}:limit", "greylist:{x}:client", "greylist:{x}:y"):
        client.set(f"{state._prefix}{key}", "x", ex=60)
    room = f"{state._prefix}concurrency:{{client_address=192.0.2.1}}:room"
    client.delete(room)
    client.set(room, "x", ex=60)
    with capture_logs() as lines:
        await state.renew()
    assert [line["event"] for line in lines] == ["connections not renewed"]
    with pytest.raises(ResponseError):
        await state.ask([take()])
    with pytest.raises(ResponseError):
        await state.greet(replace(GREET, client="x", envelope="y"))
    assert [pipeline.breaker.health.outages for pipeline in state.pipelines.values()] == [0]
    assert [entry.name async for entry in state.entries()] == ["other"]
    client.close()
    await state.stop()


@pytest.mark.peer("redis-server")
async def test_every_key_ends_by_itself(servers: Callable[[str], str]) -> None:
    """No key is without a time to live, and a bucket's is the time in which it empties."""
    state = _made("server", servers, None)
    await state.start()
    await ask(state, take(hold=7200.0), enter("session"))
    state.post(take(name="added"))
    for _ in range(4):
        await ask(state, take(hold=7200.0))
    await state.greet(GREET)
    expires = {(entry.kind, entry.name): entry.expires async for entry in state.entries()}
    assert len(expires) == 4
    assert 7100 < expires[Kind.RATE, "limit"] <= 7200
    assert 0 < expires[Kind.RATE, "added"] <= 1
    assert 25 < expires[Kind.CONCURRENCY, "room"] <= 30
    assert 3500 < expires[Kind.GREYLIST, "triplet"] <= 3600
    await state.stop()


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.peer(*NEEDS[k])) for k in SETUPS])
async def test_a_dead_workers_connections_end_and_a_living_ones_stay(
    servers: Callable[[str], str], clock: SettableClock, kind: str
) -> None:
    """What is not renewed is no longer counted after its lease; what is renewed is, even by a Redis that forgot it."""
    state = _made(kind, servers, clock, lease=30.0)
    await state.start()
    assert await granted(state, enter("a")) == [True]
    clock.advance(20)
    await state.renew()
    clock.advance(20)
    assert (await ask(state, enter("b")))[0].level == 2
    (entry,) = [entry async for entry in state.entries()]
    await state.clear(entry.key)
    await state.renew()
    assert await granted(state, enter("c")) == [False]
    clock.advance(31)
    assert await granted(state, enter("c")) == [True]
    await state.stop()
    follower = _made(kind, servers, clock)
    assert [entry async for entry in follower.entries(Kind.CONCURRENCY)] == []
    await follower.stop()


@pytest.mark.peer("redis-server")
async def test_calls_of_some_turns_share_a_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first turns travel together; time stands, so that no turn is a long one."""
    monkeypatch.setattr(gathering, "monotonic", lambda: 0.0)
    with RedisServer() as server:
        state = RedisState(StateOptions(url=server.url, timeout="30s"))
        await state.start()
        reads = server.client.info("stats")["total_reads_processed"]
        asked = []
        for _ in range(TURNS - 1):
            asked.append(asyncio.create_task(state.ask([replace(take(), burst=100.0, rate=1e-6)])))
            await asyncio.sleep(0)
        assert [answer.level for (answer,) in await asyncio.gather(*asked) if isinstance(answer, Answer)] == list(
            range(1, TURNS)
        )
        assert server.client.info("stats")["total_reads_processed"] - reads == 2  # one of them is this question
        await state.stop()


@pytest.mark.peer("redis-server")
async def test_a_redis_that_was_restarted_meanwhile_has_the_scripts_before_the_first_call() -> None:
    """A call whose script is missing would be carried out after those that follow it."""
    with RedisServer() as server:
        state = RedisState(StateOptions(url=server.url, timeout="30s"))
        await state.start()
        assert await granted(state, enter("a")) == [True]
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await state.renew()
        state.leave(enter("a"))
        assert (await ask(state, enter("b")))[0].level == 1
        assert "errorstat_NOSCRIPT" not in server.client.info("errorstats")
        assert [pipeline.breaker.health.outages for pipeline in state.pipelines.values()] == [0]
        await state.stop()


@pytest.mark.peer("redis-server")
async def test_nothing_is_left_of_a_state_that_stops_as_its_redis_does() -> None:
    """A call that is lost while the state stops begins an outage; nobody probes for its end."""
    with RedisServer() as server:
        state = RedisState(StateOptions(url=server.url, timeout="30s"))
        await state.start()
        server.pause()
        asked = asyncio.create_task(state.ask([take()]))
        await asyncio.sleep(0)
        (pipeline,) = state.pipelines.values()
        stopped = asyncio.create_task(pipeline.stop())
        await asyncio.sleep(0)
        os.kill(server.pid, signal.SIGKILL)  # paused as it is, so that it answers no more
        assert [isinstance(answer, StateUnavailableError) for answer in await asked] == [True]
        await stopped
        assert not pipeline.is_open
        assert asyncio.all_tasks() == {asyncio.current_task(), state._renewing}
        await state.stop()


@pytest.mark.peer("redis-server")
async def test_connections_in_use_are_closed_when_the_state_has_stopped() -> None:
    """Whoever reads for people does not keep a connection that nobody would close."""
    with RedisServer() as server:
        state = RedisState(StateOptions(url=server.url, timeout="5s"))
        await state.start()
        server.pause()
        cleared = asyncio.create_task(state.clear("rate:{x}:y"))
        await asyncio.sleep(0)
        await state.stop()
        server.resume()
        assert not await cleared
        await asyncio.to_thread(poll, lambda: not _connections(server))


def _connections(server: RedisServer) -> int:
    return sum(client["name"] == "lychgate" for client in server.client.client_list())


STEPS = st.lists(
    st.tuples(
        st.sampled_from([Counting.TAKE, Counting.LOOK, Counting.ADD]),
        st.integers(1, 6),
        st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 10.0]),
        st.sampled_from([0.0, 2.0]),
    ),
    max_size=12,
)


class Model:
    """A bucket in the plainest words."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.level, self.held = rate, burst, 0.0, 0.0

    def step(self, now: float, counting: Counting, cost: float, hold: float) -> bool:
        """Whether it is granted."""
        if counting is Counting.ADD:
            self.level = max(self.level, min(self.level + cost, self.burst))
            return True
        fits = self.level + min(cost, self.burst) <= self.burst and now >= self.held
        if fits and counting is Counting.TAKE:
            self.level += cost
        if not fits and hold and now >= self.held:
            self.held = now + hold
        return fits


@pytest.mark.peer("redis-server")
@pytest.mark.parametrize("kind", ["memory", "server"])
@given(steps=STEPS, burst=st.integers(1, 8), rate=st.sampled_from([0.5, 1.0, 2.0, 4.0]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bucket_is_the_model(
    servers: Callable[[str], str], kind: str, steps: list[tuple[Counting, int, float, float]], burst: int, rate: float
) -> None:
    """Whatever is asked in whatever time, it is granted exactly when a bucket in the plainest words would."""

    async def run() -> None:
        clock = SettableClock()
        state = _made(kind, servers, clock)
        model = Model(rate, burst)
        for counting, cost, pause, hold in steps:
            clock.advance(pause)
            model.level = max(0.0, model.level - pause * rate)
            wanted = model.step(clock.now(), counting, cost, hold)
            found = await granted(state, take(rate=rate, burst=burst, cost=cost, counting=counting, hold=hold))
            assert found == [wanted]
        assert await level(state, take(rate=rate, burst=burst)) == pytest.approx(model.level, abs=0.001)
        await state.stop()

    asyncio.run(run())


def exact(takes: Sequence[tuple[float, float]], now: float, rate: float) -> float:
    """What a bucket holds in which only these were counted, each a time and a cost, in order."""
    held, last = 0.0, 0.0
    for at, cost in takes:
        held, last = max(0.0, held - (at - last) * rate) + cost, at
    return max(0.0, held - (now - last) * rate)


ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),
        st.one_of(st.integers(1, 4), st.integers(0, 3).map(lambda index: -1 - index)),
    ),
    max_size=25,
)
"""A pause and what follows it: a cost that is taken, or, below 0, which of those that are open is given back."""


@pytest.mark.peer("redis-server")
@pytest.mark.parametrize("kind", ["memory", "server"])
@given(steps=ATTEMPTS, rate=st.sampled_from([0.25, 0.5, 1.0, 4.0]), one=st.booleans())
@example(steps=[(0.0, 4), (3.0, 1), (0.0, -1)], rate=1.0, one=False).via("less was in it in the meantime")
@example(steps=[(0.0, 1), (1.0, 1), (0.0, -1)], rate=1.0, one=False).via("it was empty in the meantime")
@example(steps=[(0.0, 1), (0.0, 1), (1.0, 1), (0.0, -1), (0.0, -1)], rate=1.0, one=False).via(
    "two that share the least"
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_never_is_more_given_back_than_is_left(
    servers: Callable[[str], str], kind: str, steps: list[tuple[float, int]], rate: float, *, one: bool
) -> None:
    """A bucket holds at least what was kept, and at most as much more as it lost in the time of what was given back.

    With one attempt at a time it holds exactly what it would if those that were given back had never come.
    """

    async def run() -> None:
        clock = SettableClock()
        start = clock.now()
        state = _made(kind, servers, clock)
        kept: list[tuple[float, float]] = []
        opened: list[tuple[Take, Answer, tuple[float, float]]] = []
        more = 0.0
        for pause, what in steps:
            clock.advance(pause)
            now = clock.now() - start
            if what > 0:
                operation = take(rate=rate, burst=1000.0, cost=float(what))
                (answer,) = await ask(state, operation)
                kept.append((now, float(what)))
                if one:
                    opened.clear()  # it is kept
                opened.append((operation, answer, kept[-1]))
            elif len(opened) > -what - 1:
                operation, answer, counted = opened.pop(-what - 1)
                state.give_back(operation, answer)
                kept.remove(counted)
                more += 0.0 if one else min(counted[1], (now - counted[0]) * rate)
            wanted = exact(kept, now, rate)
            assert wanted - 0.002 <= await level(state, take(rate=rate, burst=1000.0)) <= wanted + more + 0.002
        await state.stop()

    asyncio.run(run())


async def test_what_is_given_back_makes_room_at_once(state: State, clock: SettableClock) -> None:
    """All that was taken is given back, and once; a bucket that is empty is gone."""
    answers = [await ask(state, take()) for _ in range(3)]
    assert await granted(state, take()) == [False]
    state.give_back(take(), answers[1][0])
    assert [await granted(state, take()) for _ in range(2)] == [[True], [False]]
    clock.advance(3)
    state.give_back(take(), answers[0][0])
    assert await level(state, take()) == 0.0
    assert [entry async for entry in state.entries(Kind.RATE)] == []


@pytest.mark.peer("redis-server")
@pytest.mark.parametrize("kind", ["memory", "server"])
async def test_a_bucket_that_never_runs_out_stays_exact(servers: Callable[[str], str], kind: str) -> None:
    """However much has gone through it, its level is a small number, so that fractions do not suffer."""
    clock = SettableClock()
    state = _made(kind, servers, clock)
    one = take(burst=2.0)
    assert await granted(state, one) == [True]
    largest = 0.0
    for _ in range(2500):
        assert await granted(state, one) == [True]
        clock.advance(1.0)
        largest = max(largest, await kept(state))
    assert 1000 < largest < 2100
    assert await level(state, one) == 1.0
    await state.stop()


async def kept(state: State) -> float:
    """The level of the only bucket, as it is kept."""
    if isinstance(state, MemoryState):
        (bucket,) = state._buckets.values()
        return bucket.level
    assert isinstance(state, RedisState)
    (call,) = [state._call([take(burst=2.0)])]
    with redis.Redis.from_url(state._name) as client:
        value: Any = client.get(call.keys[0])
    return float(struct.unpack(BUCKET, value)[0])


@pytest.mark.peer("redis-server")
async def test_what_a_worker_gave_back_last_is_given_back(servers: Callable[[str], str]) -> None:
    """Who stops sends first what waits to be sent."""
    clock = SettableClock()
    state = _made("server", servers, clock)
    await state.start()
    answers = [await ask(state, take(name=f"limit{number}", burst=1.0)) for number in range(100)]
    for number, (answer,) in enumerate(answers):
        state.give_back(take(name=f"limit{number}", burst=1.0), answer)
    await state.stop()
    other = RedisState(StateOptions(url=servers("server"), prefix=state._prefix.split(":")[0]), clock=clock)
    assert [entry async for entry in other.entries(Kind.RATE)] == []
    await other.stop()


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_different_subjects_have_different_keys(one: list[str], other: list[str]) -> None:
    """No two subjects fall together, and none has a brace, a space or a control character."""
    made = [subject(**{f"part{index}": text for index, text in enumerate(parts)}) for parts in (one, other)]
    assert (made[0] == made[1]) == (one == other)
    assert all(text.isprintable() and not set(text) & set("{} ") for text in made)


async def test_the_memory_is_bounded() -> None:
    """What was not used for the longest time makes room."""
    state = MemoryState(SettableClock(), entries=3)
    for number in range(5):
        await state.ask([take(name=str(number)), enter("a", name=str(number))])
        await state.ask([take(name="0")])
        await state.greet(replace(GREET, envelope=str(number)))
    found = [entry async for entry in state.entries()]
    assert sorted(entry.name for entry in found if entry.kind is Kind.RATE) == ["0", "3", "4"]
    assert [len([entry for entry in found if entry.kind is kind]) for kind in Kind] == [3, 3, 3]
