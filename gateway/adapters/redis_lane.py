"""A lane to one Redis server: joins calls into round trips, and knows when the server is away.

Calls that are made in the same turn of the event loop, or while a round trip is under way, travel together. There is
one at a time, so calls are carried out in the order in which they were made. When the server can't be asked the lane
closes at once, so that nothing waits for it: every call fails, and one task probes until a call, a write, is answered
in time (``breaker``). The outage is logged when it begins and when it ends.

A server that refuses or drops connections, or that answers but can't serve (read-only, full, loading), closes the lane
the first time; one that is slow after ``breaker.PATIENCE`` round trips in a row, or after the first one once it was
away.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from gateway.adapters.breaker import Breaker
from gateway.adapters.redis_link import Call, Link
from gateway.state import StateUnavailableError

log = structlog.get_logger("lychgate.state")

BATCH: Final = 64
"""Calls of one round trip: 2 to 4 ms of Redis's time, far below any time-out."""


class Lane:
    """See the module.

    Args:
        link: The way there.
        name: Where it is, for people.
        timeout: Seconds that a round trip may take.
        probe: Makes the call that probes: of a key like the one that failed.

    Attributes:
        name: Where it is.
        breaker: Knows whether the server is away.
    """

    def __init__(self, link: Link, name: str, timeout: float, probe: Callable[[str], Call]) -> None:
        self.breaker = Breaker(self._probed, began=self._away, ended=self._back)
        self._link = link
        self.name = name
        self._timeout = timeout
        self._probe = probe
        self._pending: list[tuple[Call, asyncio.Future[Any] | None]] = []
        self._travelling = False
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None
        self._key = ""

    @property
    def is_open(self) -> bool:
        """Whether calls travel."""
        return not self.breaker.is_tripped

    async def call(self, call: Call) -> Any:
        """Have a call carried out.

        Raises:
            StateUnavailableError: The server is away, or did not answer in time.
            ResponseError: The call itself is wrong.
        """
        if not self.is_open:
            self.breaker.skipped()
            raise StateUnavailableError("the state is unavailable")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add(call, future)
        result = await future
        if not isinstance(result, Exception):
            return result
        if _is_fault(result):
            raise StateUnavailableError(f"the state is unavailable: {error_text(result)}") from result
        raise result

    def send(self, call: Call) -> None:
        """Have a call carried out without waiting for it; lost when the server is away."""
        if self.is_open:
            self._add(call, None)
        else:
            self.breaker.skipped()

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
        except Exception as error:  # noqa: BLE001 - whatever a library raises, who waits is told, and it counts
            results = [error] * len(batch)
        except BaseException as error:  # cancelled: who waits is told
            _answer(batch, [StateUnavailableError(error_text(error))] * len(batch))
            raise
        finally:
            self._travelling = False
        _answer(batch, results)
        faults = [(call, result) for (call, _), result in zip(batch, results, strict=True) if _is_fault(result)]
        if not faults:
            self.breaker.succeeded()
        else:
            call, fault = faults[0]
            self._key = call.keys[0]
            self.breaker.failed(fault, questions=len(faults), is_certain=not isinstance(fault, TimeoutError))
        self._depart()

    def lose(self, key: str, error: Exception) -> None:
        """Begin with the server away: it could not be reached."""
        self._key = key
        self.breaker.trip(error)

    def _away(self, error: Exception) -> None:
        """Fail what waits."""
        log.warning("state unavailable", state=self.name, error=error_text(error))
        pending, self._pending = self._pending, []
        self.breaker.skipped(len(pending))
        _answer(pending, [error] * len(pending))

    def _back(self, seconds: float, unanswered: int) -> None:
        log.info("state available again", state=self.name, seconds=seconds, unanswered=unanswered)

    async def _probed(self) -> None:
        """Ask for a key like the one that failed, on a new connection."""
        await self._link.renew(self._key)
        (result,) = await self._link.execute([self._probe(self._key)], self._timeout)
        if isinstance(result, Exception):
            raise result

    async def stop(self) -> None:
        """Let what travels arrive, and probe no more."""
        await self.breaker.stop()
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


def error_text(error: BaseException) -> str:
    """A fault in words."""
    return "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}".rstrip(": ")
