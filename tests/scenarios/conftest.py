"""Scenarios run on uvloop, as workers do."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What each test's loop is made by."""
    return {"uvloop": uvloop.new_event_loop}
