"""A circuit breaker: what is away is not asked, so that nothing waits for it, until a probe says that it is back.

It trips when it is told of a fault that leaves no doubt, or of ``PATIENCE`` faults in a row. From then on one task
probes, soon at first and then about every second; no message is used as a probe. The first probe that goes well heals
it; one more fault trips it again then, because it was away just now.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 3
"""Faults in a row that are needed where one may be a hiccup, of a disk or of this machine."""

FIRST_PROBE: Final = 0.05
"""Seconds until the first probe: what merely closed a connection is back at once."""

PROBES: Final = 1.0
"""Seconds between probes in a long outage, give or take a fifth, so that workers don't probe in step."""


@dataclass(slots=True)
class Health:
    """What became of the questions, in numbers.

    Attributes:
        outages: How often it was away.
        failed: Questions that were not answered, or not asked because it was away.
        since: When the present outage began, UNIX time; None while there is none.
    """

    outages: int = 0
    failed: int = 0
    since: float | None = None


class Breaker:
    """See the module.

    Args:
        probe: Asks something that harms nobody; raises while it is away.
        began: Is told of each outage, with the fault.
        ended: Is told of its end, with its seconds and the questions that were not answered.

    Attributes:
        health: Its numbers.
        healed: Set while it is not tripped.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        *,
        began: Callable[[Exception], None],
        ended: Callable[[float, int], None],
    ) -> None:
        self.health = Health()
        self.healed = asyncio.Event()
        self.healed.set()
        self._probe = probe
        self._began = began
        self._ended = ended
        self._faults = 0
        self._failed_before = 0
        self._prober: asyncio.Task[None] | None = None

    @property
    def is_tripped(self) -> bool:
        """Whether it is away: nothing is to be asked."""
        return self.health.since is not None

    def succeeded(self) -> None:
        """A question was answered."""
        self._faults = 0

    def failed(self, fault: Exception, *, questions: int = 1, is_certain: bool = False) -> None:
        """Questions that travelled together were not answered.

        Args:
            fault: Why.
            questions: How many.
            is_certain: Whether the fault leaves no doubt that it is away.
        """
        self.health.failed += questions
        self._faults += 1
        if is_certain or self._faults >= PATIENCE:
            self.trip(fault)

    def skipped(self, questions: int = 1) -> None:
        """Questions were not asked because it is away."""
        self.health.failed += questions

    def trip(self, fault: Exception) -> None:
        """It is away."""
        if self.is_tripped:
            return
        self.health.outages += 1
        self.health.since = time.time()
        self.healed.clear()
        self._failed_before = self.health.failed
        self._began(fault)
        self._prober = asyncio.get_running_loop().create_task(self._probes())

    async def _probes(self) -> None:
        """Half-open: one question at a time; the first that is answered heals."""
        began = time.monotonic()
        pause = FIRST_PROBE
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            pause = min(PROBES, pause * 2)
            try:
                await self._probe()
            except Exception:  # noqa: BLE001, S112 - whatever it is, it is not back
                continue
            break
        self._faults = PATIENCE - 1
        self.health.since = None
        self.healed.set()
        self._ended(round(time.monotonic() - began, 3), self.health.failed - self._failed_before)

    async def stop(self) -> None:
        """Probe no more."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
