"""What is due is done together, in order, after a few turns of the loop."""

import asyncio
from typing import Any

import pytest

from gateway import gathering as module
from gateway.gathering import LEAST, LONGEST, Gathering, gathering


class Clock:
    """Stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time."""
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


async def turn(count: int = 1) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("least", [1, LEAST, 10])
async def test_what_is_due_is_done_together_and_in_order(clock: Clock, least: int) -> None:
    """Nothing before the least number of turns, then everything; and so again."""
    clock.now = 5.0
    due, done = Gathering(least, alone=least), list[str]()
    for once in "ab":
        due.add(lambda once=once: done.append(f"{once}1"))  # type: ignore[misc]  # a default
        due.add(lambda once=once: done.append(f"{once}2"))  # type: ignore[misc]  # a default
        await turn(least - 1)
        assert f"{once}1" not in done
        await turn(3)
        assert done[-2:] == [f"{once}1", f"{once}2"]


async def test_each_turn_that_brings_more_lets_it_wait_for_another(clock: Clock) -> None:
    """As long as it may; what comes while it is done is for the next time."""
    due, done = Gathering(alone=2), list[int]()
    for number in range(100):
        due.add(lambda number=number: done.append(number))  # type: ignore[misc]  # a default
        await turn()
        assert not done
    clock.now = LONGEST
    due.add(lambda: due.add(lambda: done.append(-1)))
    await turn(2)
    assert done == list(range(100))
    await turn(LEAST + 1)
    assert done == [*range(100), -1]


async def test_who_is_alone_waits_for_nobody() -> None:
    """As long as it stays so; company is waited for again."""
    due, done = Gathering(3), list[int]()

    async def turns_for(*numbers: int) -> int:
        for number in numbers:
            due.add(lambda number=number: done.append(number))  # type: ignore[misc]  # a default
        turns = 0
        while numbers[-1] not in done:
            await turn()
            turns += 1
        return turns

    lone = await turns_for(1)
    assert await turns_for(2) == lone
    await turns_for(3, 4)
    assert await turns_for(5) == lone + 2
    assert await turns_for(6) == lone


async def test_one_that_fails_keeps_none_of_the_others() -> None:
    """Its exception is the loop's to report."""
    due, done, told = Gathering(), list[str](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    due.add(lambda: done.append("before"))
    due.add(list[None]().pop)
    due.add(lambda: done.append("behind"))
    await turn(LEAST + 1)
    assert done == ["before", "behind"]
    assert [type(context["exception"]) for context in told] == [IndexError]


async def test_a_loop_has_one() -> None:
    """All that is written in a loop is gathered in one place."""
    assert gathering(asyncio.get_running_loop()) is gathering(asyncio.get_running_loop())
