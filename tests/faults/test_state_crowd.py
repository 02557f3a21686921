"""A crowd asks the state while its Redis does all that it can do wrong, at random.

Connections are cut, scripts forgotten, the server is frozen, killed and late by just about the time-out, and askers
give up. Each question names another number, which its answer repeats.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.state.redis import RedisState
from gateway.adapters.state.server import LAG
from gateway.config.state import StateOptions
from gateway.state import Answer, Counting, Greet, StateUnavailableError, Take
from tests.support.gateway import poll
from tests.support.loops import on_uvloop
from tests.support.redis import RedisServer
from tests.support.slow_link import Slow

pytestmark = pytest.mark.peer("redis-server")

WITHIN = 60.0
TIMEOUT = 0.05
MEMBERS = 60
FAULTS = 15


class Crowd:
    """Many that ask.

    Args:
        state: Whom they ask.
        dice: Chooses what they ask.

    Attributes:
        answered: Questions that were answered.
        returned: Questions that came back, or were given up.
        wrong: Answers to other questions than those that were asked.
    """

    def __init__(self, state: RedisState, dice: random.Random) -> None:
        self.answered = 0
        self.returned = 0
        self.wrong: list[object] = []
        self._state = state
        self._dice = dice
        self._changed = asyncio.Event()

    async def member(self, number: int) -> None:
        """Ask for ever, now and then with little patience."""
        dice = self._dice
        kinds = (self._take, self._take, self._greet)
        while True:
            kind = dice.choice(kinds)
            try:
                async with asyncio.timeout(dice.choice((None, None, None, 0.0, 0.0005, 0.01))):
                    found = await kind(number * 1000 + dice.randrange(1000))
            except (TimeoutError, StateUnavailableError):
                await asyncio.sleep(0)
            else:
                self.answered += 1
                self.wrong += found
            self.returned += 1
            self._changed.set()

    async def _take(self, number: int) -> list[object]:
        """Fill buckets that hold so much: they are as full as that."""
        costs = [number + each / 10 for each in range(self._dice.randrange(1, 4))]
        answers = await self._state.ask(
            [
                Take(name=f"l{cost}", subject="s", rate=1e-9, burst=cost, cost=cost, counting=Counting.ADD)
                for cost in costs
            ]
        )
        if isinstance(answers[0], StateUnavailableError):
            raise answers[0]
        levels = [round(answer.level, 1) for answer in answers if isinstance(answer, Answer)]
        return [] if levels == costs else [(costs, answers)]

    async def _greet(self, number: int) -> list[object]:
        """Greylist somebody new for so long."""
        envelope = str(self._dice.random())
        greet = Greet(client="c", envelope=envelope, delay=number, window=10 * number, keep=60.0, passes=0)
        greeting = await self._state.greet(greet)
        return [] if greeting.wait == number else [(greet, greeting)]

    async def more(self, *, answered: int = 0, returned: int = 0) -> None:
        """Wait until so many more questions were answered, and came back."""
        answered, returned = self.answered + answered, self.returned + returned
        while self.answered < answered or self.returned < returned:
            self._changed.clear()
            await self._changed.wait()


class Rig:
    """A crowd, and the Redis that it asks."""

    def __init__(self, redis: RedisServer, slow: Slow, state: RedisState, dice: random.Random) -> None:
        self.redis = redis
        self.slow = slow
        self.dice = dice
        self.crowd = Crowd(state, dice)
        self.state = state
        self._administrator: Any = redis.client

    def tell(self, *words: str) -> None:
        """Tell Redis something."""
        self._administrator.execute_command(*words)

    @property
    def is_away(self) -> bool:
        """Whether the state has given up on Redis for now."""
        return not all(pipeline.is_open for pipeline in self.state.pipelines.values())

    def connections(self) -> int:
        """How many the state has."""
        return sum(client["name"] == "lychgate" for client in self._administrator.client_list())


async def _cut(rig: Rig) -> None:
    rig.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def _forget(rig: Rig) -> None:
    rig.tell("SCRIPT", "FLUSH")


async def _freeze(rig: Rig) -> None:
    rig.redis.pause()
    while not rig.is_away:
        await rig.crowd.more(returned=1)
    rig.redis.resume()


async def _restart(rig: Rig) -> None:
    await asyncio.to_thread(rig.redis.stop)
    await asyncio.to_thread(rig.redis.start)


async def _be_late(rig: Rig) -> None:
    for _ in range(8):
        rig.slow.delay = rig.dice.uniform(TIMEOUT - 0.004, TIMEOUT + rig.dice.choice((0.0, 0.0, LAG)))
        await rig.crowd.more(returned=MEMBERS)
    rig.slow.delay = 0.0


STEPS: tuple[Callable[[Rig], Awaitable[None]], ...] = (_cut, _cut, _forget, _freeze, _restart, _be_late, _be_late)


@pytest.mark.parametrize("seed", range(2))
@on_uvloop
async def test_every_question_comes_back_with_its_own_answer_or_none(seed: int) -> None:
    """Nobody waits for ever, no answer is another's, no connection is left, and in the end all is as it was."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    with RedisServer() as redis, capture_logs():
        async with Slow(redis.port) as slow, asyncio.timeout(WITHIN):
            url = f"redis://127.0.0.1:{slow.port}/0"
            state = RedisState(StateOptions(url=url, timeout=f"{TIMEOUT * 1000:g}ms"))
            await state.start()
            dice = random.Random(seed)  # noqa: S311 - it chooses cases, not secrets
            rig = Rig(redis, slow, state, dice)
            members = [asyncio.create_task(rig.crowd.member(number)) for number in range(1, MEMBERS + 1)]
            for step in dice.choices(STEPS, k=FAULTS):
                await rig.crowd.more(answered=MEMBERS)
                await step(rig)
            await rig.crowd.more(answered=10 * MEMBERS)
            assert {type(each.exception()) for each in members if each.done()} == set()
            for each in members:
                each.cancel()
            await asyncio.wait(members)
            assert rig.crowd.wrong == []
            await state.ask([Take(name="last", subject="s", rate=1.0, burst=9.0)])
            await asyncio.to_thread(poll, lambda: rig.connections() == 1)
            await state.stop()
            await asyncio.to_thread(poll, lambda: rig.connections() == 0)
    assert errors == []
