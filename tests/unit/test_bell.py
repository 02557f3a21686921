"""The bell: what one task waits for."""

import asyncio

import pytest

from gateway.bell import Bell


async def _turn() -> None:
    await asyncio.sleep(0)


async def test_a_ring_runs_the_task_in_place() -> None:
    """When a callback's ``ring`` returns, the task is at its next wait."""
    loop = asyncio.get_running_loop()
    bell = Bell(loop)
    steps: list[str] = []

    async def work() -> None:
        for step in ("first", "second"):
            await bell
            steps.append(step)

    def called() -> None:
        bell.ring()
        steps.append("rung")

    task = loop.create_task(work())
    await _turn()
    loop.call_soon(called)
    loop.call_soon(called)
    await task
    await _turn()
    assert steps == ["first", "rung", "second", "rung"]


async def test_a_task_may_ring_for_another_one_soon() -> None:
    """``ring_soon`` within a task runs the other one when this one waits."""
    bell = Bell(asyncio.get_running_loop())
    steps: list[str] = []

    async def work() -> None:
        await bell
        steps.append("woken")

    task = asyncio.get_running_loop().create_task(work())
    await _turn()
    bell.ring_soon()
    bell.ring_soon()
    steps.append("rung")
    await task
    assert steps == ["rung", "woken"]


async def test_a_ring_that_nobody_waits_for_is_lost() -> None:
    """The next wait begins anew."""
    loop = asyncio.get_running_loop()
    bell = Bell(loop)
    bell.ring()
    bell.ring_soon()

    async def work() -> None:
        await bell

    task = loop.create_task(work())
    await _turn()
    await _turn()
    assert not task.done()
    bell.ring_soon()
    await task


async def test_a_task_that_waits_for_a_bell_can_be_cancelled() -> None:
    """And the bell serves the next one."""
    loop = asyncio.get_running_loop()
    bell = Bell(loop)

    async def work() -> str:
        await bell
        return "woken"

    task = loop.create_task(work())
    await _turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    task = loop.create_task(work())
    await _turn()
    bell.ring_soon()
    assert await task == "woken"


async def test_a_wait_can_time_out() -> None:
    """To a task the bell is a future."""
    bell = Bell(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bell
    assert not bell.is_awaited
