"""Redis fails while mail flows: no message is lost, none is refused for good, and the limits are back when Redis is.

A client sends one message after the other while Redis is killed, frozen, full, read-only or slow. The limit has
``on_error: pass``, so mail goes on; the outage is one line of the log, and its end another.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.state.redis import RedisState
from gateway.config.registry import Registry
from gateway.config.state import StateOptions
from gateway.state import Answer, StateUnavailableError, Take
from tests.support.redis import RedisServer, SentinelSetup
from tests.support.serving import Site, serving
from tests.support.slow_link import Slow

pytestmark = pytest.mark.peer("redis-server")

WITHIN = 30.0
LIMIT = {"rate_limit": {"limit": "1000000/d", "timeout": "5s"}}


@dataclass
class Rig:
    """A gateway on a Redis, and a client that never stops."""

    site: Site
    redis: RedisServer
    slow: Slow
    sent: int = 0
    replies: set[str] = field(default_factory=set)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> Any:
        """The worker's state."""
        return self.site.worker._state

    @property
    def is_away(self) -> bool:
        """Whether the gateway has given up on Redis for now."""
        return any(not pipeline.is_open for pipeline in self.state.pipelines.values())

    async def flow(self) -> None:
        """Send messages for ever."""
        while True:
            async with self.site.client() as client:
                await client.begin()
                self.replies.add(await client.send("Subject: one\r\n\r\ntext"))
                self.sent += 1
                self.answered.set()

    async def until(self, what: Callable[[], bool], more: int = 5) -> None:
        """Let mail flow until something holds, and some messages more."""
        async with asyncio.timeout(WITHIN):
            while not what():
                await self._next()
            for _ in range(more):
                await self._next()

    async def _next(self) -> None:
        """The next message was answered."""
        self.answered.clear()
        await self.answered.wait()

    def outcomes(self, last: int) -> set[str | None]:
        """What the limit found for the last messages."""
        checks = [check for record in self.site.records[-last:] for check in record.checks]
        return {check.outcome for check in checks if check.policy == "rate_limit"}


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """A gateway that counts in a Redis, with mail flowing."""
    with RedisServer() as redis:
        async with Slow(redis.port) as slow:
            config = {"state": {"url": f"redis://127.0.0.1:{slow.port}/0", "timeout": "250ms"}, "policies": [LIMIT]}
            async with serving(folder, config, registry=Registry.installed()) as site:
                made = Rig(site, redis, slow)
                flow = asyncio.create_task(made.flow())
                try:
                    await made.until(lambda: made.sent > 0)
                    yield made
                finally:
                    flow.cancel()
                    await asyncio.gather(flow, return_exceptions=True)


Step = Callable[[Rig], Awaitable[None]]


async def _kill(made: Rig) -> None:
    await asyncio.to_thread(made.redis.stop)


async def _restart(made: Rig) -> None:
    await asyncio.to_thread(made.redis.start)


async def _freeze(made: Rig) -> None:
    made.redis.pause()


async def _thaw(made: Rig) -> None:
    made.redis.resume()


async def _fill(made: Rig) -> None:
    await asyncio.to_thread(made.redis.client.config_set, "maxmemory", "1")


async def _empty(made: Rig) -> None:
    await asyncio.to_thread(made.redis.client.config_set, "maxmemory", "0")


async def _demote(made: Rig) -> None:
    await asyncio.to_thread(made.redis.client.replicaof, "127.0.0.1", "1")


async def _promote(made: Rig) -> None:
    await asyncio.to_thread(made.redis.client.replicaof, "NO", "ONE")


async def _slow(made: Rig) -> None:
    made.slow.delay = 0.5


async def _quick(made: Rig) -> None:
    made.slow.delay = 0.0


FAULTS = {
    "killed and restarted empty": (_kill, _restart),
    "frozen": (_freeze, _thaw),
    "full": (_fill, _empty),
    "read-only": (_demote, _promote),
    "slow": (_slow, _quick),
}


@pytest.mark.parametrize(("fault", "heal"), FAULTS.values(), ids=FAULTS)
async def test_mail_flows_while_redis_fails_and_limits_come_back(tmp_path: Path, fault: Step, heal: Step) -> None:
    """Every message is accepted; the log has one line when it begins and one when it ends; then limits count again."""
    with capture_logs() as lines:
        async with rig(tmp_path) as made:
            assert made.outcomes(made.sent) == {"within"}
            await fault(made)
            await made.until(lambda: made.is_away, more=20)
            assert made.is_away
            assert made.outcomes(10) == {"error"}
            await heal(made)
            await made.until(lambda: not made.is_away, more=20)
            assert made.outcomes(5) == {"within"}
            delivered = len(made.site.backend.messages)
            assert made.sent <= delivered <= made.sent + 1
            assert {reply[:3] for reply in made.replies} == {"250"}
    told = [line["event"] for line in lines if line["event"] in {"state unavailable", "state available again"}]
    assert told == ["state unavailable", "state available again"]
    assert not [line for line in lines if line["event"] == "policy failed"]


async def test_a_gateway_starts_without_its_redis(tmp_path: Path) -> None:
    """A Redis that is not there yet keeps no mail up; when it comes the limits hold."""
    redis = RedisServer()
    with redis:
        redis.stop()
        limit = {"rate_limit": {"limit": "10/d"}}
        config = {"state": {"url": redis.url, "timeout": "250ms"}, "policies": [limit]}
        async with serving(tmp_path, config, registry=Registry.installed()) as site:
            async with site.client() as client:
                await client.begin()
                assert (await client.send("Subject: one\r\n\r\ntext")).startswith("250")
            await asyncio.to_thread(redis.start)
            state: Any = site.worker._state
            async with asyncio.timeout(WITHIN):
                await state.pipelines[""].breaker.healed.wait()
            async with site.client() as client:
                await client.begin()
            assert [entry.level async for entry in state.entries()] == [pytest.approx(1, abs=0.01)]


async def test_a_worker_counts_its_share_while_redis_is_away() -> None:
    """With ``approximate`` each of two workers lets half of the limit through; what may not be approximated fails."""
    with RedisServer() as redis:
        state = RedisState(StateOptions(url=redis.url, timeout="250ms"), workers=2)
        await state.start()
        redis.stop()
        take = Take(name="limit", subject="s", rate=1 / 86_400, burst=10.0, approximate=True)
        exact = Take(name="exact", subject="s", rate=1 / 86_400, burst=10.0)
        found = [await state.ask([take, exact]) for _ in range(7)]
        assert all(isinstance(answers[1], StateUnavailableError) for answers in found)
        known = [answers[0] for answers in found if isinstance(answers[0], Answer)]
        assert [answer.granted for answer in known] == [True] * 5 + [False] * 2
        assert all(answer.approximate for answer in known)
        state.give_back(take, known[0])
        found = [await state.ask([take]) for _ in range(2)]
        assert [answers[0].granted for answers in found if isinstance(answers[0], Answer)] == [True, False]
        await state.stop()


@pytest.mark.peer("redis-sentinel")
async def test_mail_flows_while_a_replica_takes_over(tmp_path: Path) -> None:
    """The master is killed and comes back as a replica: every message is accepted, and limits hold on the new one."""
    with SentinelSetup() as setup:
        config = {"state": {"url": setup.url, "timeout": "250ms"}, "policies": [LIMIT]}
        async with (
            serving(tmp_path, config, registry=Registry.installed()) as site,
            Slow(setup.servers[0].port) as slow,
        ):
            made = Rig(site, setup.servers[0], slow)
            flow = asyncio.create_task(made.flow())
            try:
                await made.until(lambda: made.sent > 0)
                await _kill(made)
                await made.until(lambda: made.is_away)
                await made.until(lambda: not made.is_away, more=20)
                assert made.outcomes(5) == {"within"}
                assert setup.servers[1].client.info("replication")["role"] == "master"
                await _restart(made)
                await made.until(lambda: setup.servers[0].client.info("replication")["role"] == "slave", more=20)
                assert made.outcomes(5) == {"within"}
            finally:
                flow.cancel()
                await asyncio.gather(flow, return_exceptions=True)
            assert {reply[:3] for reply in made.replies} == {"250"}
            assert made.sent <= len(site.backend.messages) <= made.sent + 1


@pytest.mark.peer("redis-sentinel")
async def test_the_next_master_takes_over_when_the_sentinels_agree() -> None:
    """The master is killed; the replica becomes master, and the limits hold there, what was replicated included."""
    with SentinelSetup() as setup:
        state = RedisState(StateOptions(url=setup.url, timeout="1s"))
        await state.start()
        take = Take(name="limit", subject="s", rate=1 / 86_400, burst=10.0)
        await state.ask([take])
        await asyncio.to_thread(setup.servers[0].replicate_to, setup.servers[1])
        await asyncio.to_thread(setup.servers[0].stop)
        level = 0.0
        async with asyncio.timeout(60):
            while not level:
                (answer,) = await state.ask([take])
                level = answer.level if isinstance(answer, Answer) else 0.0
                for pipeline in state.pipelines.values():
                    await pipeline.breaker.healed.wait()
        assert level == pytest.approx(2.0, abs=0.01)
        await state.stop()


async def test_an_entry_that_is_none_of_ours_refuses_nobody(tmp_path: Path) -> None:
    """What somebody wrote by hand under a limit's key is an error of the policy, not an outage: others are counted."""
    with RedisServer() as redis, capture_logs() as lines:
        config = {"state": {"url": redis.url, "timeout": "5s"}, "policies": [{"rate_limit": {"limit": "10/d"}}]}
        async with serving(tmp_path, config, registry=Registry.installed()) as site:
            for wrong in ("set", "rpush"):
                redis.client.flushall()
                getattr(redis.client, wrong)("lychgate:1:rate:{client_address=127.0.0.1}:rate_limit:10/d", "x")
                async with site.client() as client:
                    await client.begin()
                    assert (await client.send("Subject: one\r\n\r\ntext")).startswith("250")
            outcomes = [check.outcome for record in site.records for check in record.checks]
            assert outcomes == ["error", "error"]
        assert {line["event"] for line in lines if line["log_level"] in {"warning", "error"}} == {"policy failed"}


@pytest.mark.peer("redis-sentinel")
async def test_a_sentinel_that_is_frozen_keeps_nobody_from_the_master() -> None:
    """The next one is asked, soon enough for the connection that is being made."""
    with SentinelSetup() as setup:
        setup.sentinels[0].pause()
        state = RedisState(StateOptions(url=setup.url, timeout="1s"))
        await state.start()
        (answer,) = await state.ask([Take(name="limit", subject="s", rate=1 / 86_400, burst=10.0)])
        assert isinstance(answer, Answer)
        await state.stop()
