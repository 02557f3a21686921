"""What is due is done together, in order, after a few turns of the loop."""

import asyncio
from typing import Any

import pytest

from gateway.gathering import LEAST, MOST, Gathering, after_turns, gathering


async def turn(count: int = 1) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_due_is_done_together_and_in_order() -> None:
    """Nothing before the least number of turns, then everything; and so again."""
    due, done = Gathering(), list[str]()
    for round_ in "ab":
        for name in "123":
            due.add(lambda name=round_ + name: done.append(name))  # type: ignore[misc]  # a default
        await turn(LEAST - 1)
        assert not [name for name in done if name[0] == round_]
        await turn(2)
        assert [name for name in done if name[0] == round_] == [round_ + name for name in "123"]


async def test_each_turn_that_brings_more_lets_it_wait_for_another() -> None:
    """Up to the most; what comes while it is done is for the next time."""
    due, done = Gathering(), list[int]()
    for number in range(MOST + 5):
        due.add(lambda number=number: done.append(number))  # type: ignore[misc]  # a default
        await turn()
        if number < MOST - 1:
            assert not done
    assert done == list(range(MOST))
    await turn(LEAST + 2)
    assert done == list(range(MOST + 5))


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


@pytest.mark.parametrize("turns", [1, 2, 10])
async def test_a_call_after_some_turns(turns: int) -> None:
    """It is called when the loop has turned so often, not before."""
    done = list[bool]()
    after_turns(asyncio.get_running_loop(), turns, lambda: done.append(True))
    await turn(turns - 1)
    assert not done
    await turn(2)
    assert done
