"""An event loop whose clock jumps: what would wait for seconds takes none, and how long it waited can be told.

For what waits for timers only; nothing of it reads a real socket.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from gateway.adapters.dns.zone import ZoneResolver
from gateway.resolver import Answer, RecordType

_ResultT = TypeVar("_ResultT")


class _Clock(selectors.DefaultSelector):
    """In place of waiting for a time it puts the clock forward by it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            assert timeout is not None, "nothing is left to wait for"
            self.now += max(timeout, 0)
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Clock()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_virtually(work: Coroutine[Any, Any, _ResultT]) -> tuple[_ResultT, float]:
    """What a coroutine gives, and the seconds that it took."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        result = runner.run(work)
        return result, runner.get_loop().time()


class SlowZone:
    """A ``Resolver`` whose answers take their time.

    Args:
        zone: What there is.
        delays: Seconds for a name; what is about another name is at hand.
    """

    def __init__(self, zone: Mapping[str, object], delays: Mapping[str, float]) -> None:
        self._zone = ZoneResolver(zone)
        self._delays = delays

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """What takes no time."""
        return None if name in self._delays else self._zone.known(name, record_type)

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer one question, later."""
        await asyncio.sleep(self._delays[name])
        return await self._zone.lookup(name, record_type)
