"""The pipeline to one Redis server: sends calls together, and knows when the server is away.

Calls that are made within a few turns of the event loop, or while a round trip is under way, share the next one. There
is one at a time, so calls are carried out in the order in which they were made. When the server can't be asked the
pipeline closes at once, so that nothing waits for it: every call fails, and one task probes until a call, a write, is
answered in time (``breaker``). The outage is logged when it begins and when it ends.

A server that refuses or drops connections, or that answers but can't serve (read-only, full, loading), closes it the
first time; one that is slow after ``breaker.PATIENCE`` round trips in a row, or after the first one once it was away.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog
from redis.exceptions import ResponseError

from gateway.adapters.breaker import Breaker
from gateway.adapters.state.call import Call, ElsewhereError, Result
from gateway.adapters.state.topology import Topology
from gateway.gathering import Gathering
from gateway.state import StateUnavailableError

log = structlog.get_logger("lychgate.state")

TURNS: Final = 10
"""Turns of the event loop for which a round trip waits for more calls: microseconds, unless the worker is busy."""

BATCH: Final = 64
"""Calls of one round trip: 2 to 4 ms of Redis's time, far below any time-out."""

_WRAPPED: Final = re.compile(r": -(?!ERR |WRONGTYPE )[A-Z]+ ").search
"""Redis 6 tells by an error of the script what it refused to the script: ``ERR Error running … : -READONLY …``."""


class _Waiting(msgspec.Struct, eq=False):
    """A call, and the future that gets its result; None where nobody waits for it."""

    call: Call
    future: asyncio.Future[Result] | None

    def end(self, result: Result) -> None:
        if self.future is not None and not self.future.done():  # whoever waited may have given up
            self.future.set_result(result)


class Pipeline:
    """See the module.

    Args:
        topology: Carries the calls out.
        name: Where the server is, for people.
        timeout: Seconds that a round trip may take.
        probe: Makes the call that probes: of a key like the one that failed.

    Attributes:
        name: Where the server is.
        breaker: Knows whether it is away.
    """

    def __init__(self, topology: Topology, name: str, timeout: float, probe: Callable[[str], Call]) -> None:
        self.breaker = Breaker(self._probed, began=self._away, ended=self._back)
        self.name = name
        self._topology = topology
        self._timeout = timeout
        self._probe = probe
        self._waiting: list[_Waiting] = []
        self._gathering = Gathering(TURNS, alone=TURNS)
        self._scheduled = False
        self._sending: asyncio.Task[None] | None = None
        self._key = ""

    @property
    def is_open(self) -> bool:
        """Whether calls are sent."""
        return not self.breaker.is_tripped

    async def call(self, call: Call) -> Any:
        """Have a call carried out.

        Raises:
            StateUnavailableError: The server is away, or did not answer in time.
            ResponseError: The call itself is wrong, or what is kept under its key.
            ValueError: It can't be put into octets.
        """
        if not self.is_open:
            self.breaker.skipped()
            raise StateUnavailableError("the state is unavailable")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._add(_Waiting(call, future))
        result = await future
        if not isinstance(result, Exception):
            return result
        if isinstance(result, ElsewhereError):
            self.breaker.skipped()
        if isinstance(result, ElsewhereError) or _is_fault(result):
            raise StateUnavailableError(f"the state is unavailable: {error_text(result)}") from result
        raise result

    def send(self, call: Call) -> None:
        """Have a call carried out without waiting for it; lost when the server is away."""
        if self.is_open:
            self._add(_Waiting(call, None))
        else:
            self.breaker.skipped()

    def _add(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if not self._scheduled and self._sending is None:
            self._scheduled = True
            self._gathering.add(self._begin)

    def _begin(self) -> None:
        self._scheduled = False
        if self._waiting and self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        """Round trips as long as anybody waits."""
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch = self._waiting[:BATCH]
                del self._waiting[:BATCH]
                results = await self._round_trip([each.call for each in batch])
                self._judge(batch, results)
                for each, result in zip(batch, results, strict=True):
                    each.end(result)
        except BaseException as error:  # cancelled: who waits must not wait for ever
            waiting, self._waiting = batch + self._waiting, []
            _fail(waiting, StateUnavailableError(error_text(error)))
            raise
        finally:
            self._sending = None

    async def _round_trip(self, calls: Sequence[Call]) -> list[Result]:
        try:
            return await self._topology.execute(calls, self._timeout)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is a result, and it counts
            return [error] * len(calls)

    def _judge(self, batch: Sequence[_Waiting], results: Sequence[Result]) -> None:
        """Judge the server by what came of a round trip."""
        faults = [(each, result) for each, result in zip(batch, results, strict=True) if _is_fault(result)]
        if not faults:
            self.breaker.succeeded()
            return
        first, fault = faults[0]
        self._key = first.call.keys[0]
        self.breaker.failed(fault, questions=len(faults), is_certain=not isinstance(fault, TimeoutError))

    def lose(self, key: str, error: Exception) -> None:
        """Begin with the server away: it could not be reached."""
        self._key = key
        self.breaker.trip(error)

    def _away(self, error: Exception) -> None:
        """Fail what waits."""
        log.warning("state unavailable", state=self.name, error=error_text(error))
        waiting, self._waiting = self._waiting, []
        self.breaker.skipped(len(waiting))
        _fail(waiting, error)

    def _back(self, seconds: float, unanswered: int) -> None:
        log.info("state available again", state=self.name, seconds=seconds, unanswered=unanswered)

    async def _probed(self) -> None:
        """Ask for a key like the one that failed, on a new connection."""
        await self._topology.renew(self._key)
        (result,) = await self._topology.execute([self._probe(self._key)], self._timeout)
        if isinstance(result, Exception):
            raise result

    async def stop(self) -> None:
        """Let what waits be sent and answered, and probe no more."""
        self._begin()
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self.breaker.stop()  # which the last of them may have tripped


def _fail(waiting: Sequence[_Waiting], error: Exception) -> None:
    for each in waiting:
        each.end(error)


def _is_fault(result: Result) -> bool:
    """Whether the server is to blame: not for what is wrong with the call, or with what is kept under its key."""
    if isinstance(result, ResponseError):
        text = str(result)
        is_own = result.status_code == "ERR" or text.startswith("WRONGTYPE ")
        return not is_own or _WRAPPED(text) is not None
    return isinstance(result, Exception) and not isinstance(result, ValueError | ElsewhereError)


def error_text(error: BaseException) -> str:
    """A fault in words."""
    return "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}".rstrip(": ")
