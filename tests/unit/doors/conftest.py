"""The doors are tested on both event loops: workers run on uvloop."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What each test's loop is made by."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
