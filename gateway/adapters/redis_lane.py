"""A lane to one Redis server: joins calls into round trips, and knows when the server is away.

Calls that are made in the same turn of the event loop, or while a round trip is under way, travel together. There is
one at a time, so calls are carried out in the order in which they were made. When the server can't be asked the lane
closes at once, so that nothing waits for it: every call fails, and one task probes until a call, a write, is answered
in time. The outage is logged when it begins and when it ends.

A server that refuses or drops connections, or that answers but can't serve (read-only, full, loading), closes the lane
the first time; one that is slow after ``PATIENCE`` round trips in a row, or after the first one once it was away.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from gateway.adapters.redis_link import Call, Link
from gateway.state import StateUnavailableError

log = structlog.get_logger("lychgate.state")

BATCH: Final = 64
"""Calls of one round trip: 2 to 4 ms of Redis's time, far below any time-out."""

PATIENCE: Final = 3
"""Round trips in a row that may be too slow: one may be a hiccup of the disk or of this machine."""

FIRST_PROBE: Final = 0.05
"""Seconds until the first probe: a server that merely closed a connection is back at once."""

PROBES: Final = 1.0
"""Seconds between probes in a long outage, give or take a fifth, so that workers don't probe in step."""


@dataclass(slots=True)
class Health:
    """What became of a lane's calls, in numbers.

    Attributes:
        outages: How often the server was away.
        failed: Calls that were not answered, or not asked because it was away.
        since: When the present outage began, UNIX time; None while there is none.
    """

    outages: int = 0
    failed: int = 0
    since: float | None = None


class Lane:
    """See the module.

    Args:
        link: The way there.
        name: Where it is, for the log.
        timeout: Seconds that a round trip may take.
        probe: Makes the call that probes: of a key like the one that failed.

    Attributes:
        health: Its numbers.
        opened: Set while calls travel.
    """

    def __init__(self, link: Link, name: str, timeout: float, probe: Callable[[str], Call]) -> None:
        self.health = Health()
        self.opened = asyncio.Event()
        self.opened.set()
        self._link = link
        self._name = name
        self._timeout = timeout
        self._probe = probe
        self._pending: list[tuple[Call, asyncio.Future[Any] | None]] = []
        self._travelling = False
        self._scheduled = False
        self._slow = 0
        self._failed_before = 0
        self._task: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls travel."""
        return self.health.since is None

    async def call(self, call: Call) -> Any:
        """Have a call carried out.

        Raises:
            StateUnavailableError: The server is away, or did not answer in time.
            ResponseError: The call itself is wrong.
        """
        if not self.is_open:
            self.health.failed += 1
            raise StateUnavailableError("the state is unavailable")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add(call, future)
        result = await future
        if not isinstance(result, Exception):
            return result
        if _is_fault(result):
            raise StateUnavailableError(f"the state is unavailable: {_text(result)}") from result
        raise result

    def send(self, call: Call) -> None:
        """Have a call carried out without waiting for it; lost when the server is away."""
        if self.is_open:
            self._add(call, None)
        else:
            self.health.failed += 1

    def _add(self, call: Call, future: "asyncio.Future[Any] | None") -> None:
        self._pending.append((call, future))
        if not self._scheduled and not self._travelling:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        """Begin a round trip with what waits, unless one is under way."""
        self._scheduled = False
        if self._pending and not self._travelling:
            batch = self._pending[:BATCH]
            del self._pending[:BATCH]
            self._travelling = True
            self._task = asyncio.get_running_loop().create_task(self._travel(batch))

    async def _travel(self, batch: Sequence[tuple[Call, "asyncio.Future[Any] | None"]]) -> None:
        try:
            results = await self._link.execute([call for call, _ in batch], self._timeout)
        except BaseException as error:
            _answer(batch, [StateUnavailableError(_text(error))] * len(batch))
            raise
        finally:
            self._travelling = False
        _answer(batch, results)
        fault = next(
            ((call, result) for (call, _), result in zip(batch, results, strict=True) if _is_fault(result)), None
        )
        if fault is None:
            self._slow = 0
        else:
            self.health.failed += sum(map(_is_fault, results))
            self._slow += 1
            if self.is_open and (self._slow >= PATIENCE or not isinstance(fault[1], TimeoutError)):
                self._close(*fault)
        self._depart()

    def _close(self, call: Call, error: Exception) -> None:
        """The server is away: fail what waits, and probe."""
        self.health.outages += 1
        self.health.since = time.time()
        self.opened.clear()
        self._failed_before = self.health.failed
        log.warning("state unavailable", state=self._name, error=_text(error))
        pending, self._pending = self._pending, []
        self.health.failed += len(pending)
        _answer(pending, [error] * len(pending))
        self._prober = asyncio.get_running_loop().create_task(self._probes(call.keys[0]))

    def lose(self, key: str, error: Exception) -> None:
        """Begin with the server away: it could not be reached."""
        if self.is_open:
            self._close(self._probe(key), error)

    async def _probes(self, key: str) -> None:
        """Half-open: one call at a time tries, none of a message; the first that is answered in time opens the lane."""
        began = time.monotonic()
        pause = FIRST_PROBE
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            pause = min(PROBES, pause * 2)
            try:
                await self._link.renew()
                (result,) = await self._link.execute([self._probe(key)], self._timeout)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not back
                result = error
            if not isinstance(result, Exception):
                break
        self._slow = PATIENCE - 1
        failed = self.health.failed - self._failed_before
        self.health.since = None
        self.opened.set()
        seconds = round(time.monotonic() - began, 3)
        log.info("state available again", state=self._name, seconds=seconds, unanswered=failed)

    async def stop(self) -> None:
        """Let what travels arrive, and probe no more."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        self._depart()
        while self._travelling and self._task is not None:
            await asyncio.wait([self._task])


def _answer(batch: Sequence[tuple[Call, "asyncio.Future[Any] | None"]], results: Sequence[Any]) -> None:
    for (_, future), result in zip(batch, results, strict=True):
        if future is not None and not future.done():
            future.set_result(result)


def _is_fault(result: Any) -> bool:
    """Whether the server is to blame; an error of the call itself begins with ERR or WRONGTYPE."""
    if isinstance(result, ResponseError):
        return not str(result).startswith(("ERR ", "WRONGTYPE ", "wrong number", "unknown command"))
    return isinstance(result, Exception)


def _text(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}".rstrip(": ")
