"""Tests on the event loop of the service, where that could behave differently."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import ParamSpec

import uvloop

P = ParamSpec("P")


def on_uvloop(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an asynchronous test on uvloop; without this it runs on asyncio's own loop."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run
