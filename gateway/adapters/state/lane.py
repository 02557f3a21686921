"""A lane to one Redis server: joins calls into round trips, and knows when the server is away.

Calls that are made within a few turns of the event loop, or while a round trip is under way, travel together. There is
one at a time, so calls are carried out in the order in which they were made. When the server can't be asked the lane
closes at once, so that nothing waits for it: every call fails, and one task probes until a call, a write, is answered
in time (``breaker``). The outage is logged when it begins and when it ends.

A server that refuses or drops connections, or that answers but can't serve (read-only, full, loading), closes the lane
the first time; one that is slow after ``breaker.PATIENCE`` round trips in a row, or after the first one once it was
away.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog
from redis.exceptions import ResponseError

from gateway.adapters.breaker import Breaker
from gateway.adapters.state.line import Result
from gateway.adapters.state.link import Call, ElsewhereError, Link, is_astray
from gateway.gathering import Gathering
from gateway.state import StateUnavailableError

log = structlog.get_logger("lychgate.state")

TURNS: Final = 10
"""Turns of the event loop for which a round trip waits for more calls: microseconds, unless the worker is busy."""

BATCH: Final = 64
"""Calls of one round trip: 2 to 4 ms of Redis's time, far below any time-out."""


_WRAPPED: Final = re.compile(r": -(?!ERR |WRONGTYPE )[A-Z]+ ").search
"""Redis 6 tells by an error of the script what it refused to the script: ``ERR Error running … : -READONLY …``."""


class _Passenger(msgspec.Struct, eq=False):
    """A call that waits to be carried out, or travels.

    Attributes:
        call: The call.
        arrived: Gets what it came to, None where nobody waits for it.
        result: What it came to.
    """

    call: Call
    arrived: asyncio.Future[None] | None
    result: Result = None


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
        self._waiting: list[_Passenger] = []
        self._travelling: list[_Passenger] = []
        self._gathering = Gathering(TURNS, alone=TURNS)
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None  # of a round trip that takes more than a look
        self._stopped: asyncio.Future[None] | None = None
        self._key = ""

    @property
    def is_open(self) -> bool:
        """Whether calls travel."""
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
        arrived = asyncio.get_running_loop().create_future()
        passenger = _Passenger(call, arrived)
        self._add(passenger)
        await arrived
        result = passenger.result
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
            self._add(_Passenger(call, None))
        else:
            self.breaker.skipped()

    def _add(self, passenger: _Passenger) -> None:
        self._waiting.append(passenger)
        if not self._scheduled and not self._travelling:
            self._scheduled = True
            self._gathering.add(self._depart)

    def _depart(self) -> None:
        """Begin a round trip with those who wait, unless one is under way."""
        self._scheduled = False
        if self._travelling or not self._waiting:
            return
        self._travelling = travelling = self._waiting[:BATCH]
        del self._waiting[:BATCH]
        try:
            departed = self._link.depart([each.call for each in travelling], self._timeout, self._arrived)
        except Exception:  # noqa: BLE001 - whatever a library raises, it raises again where there is somebody to tell
            departed = False
        if not departed:
            self._task = asyncio.get_running_loop().create_task(self._travel(travelling))

    def _arrived(self, results: Sequence[Result]) -> None:
        """A round trip over a connection that was at hand."""
        travelling, astray = self._travelling, list[_Passenger]()
        for passenger, result in zip(travelling, results, strict=True):
            passenger.result = result
            if isinstance(result, Exception) and is_astray(result):
                astray.append(passenger)
        if astray:
            self._task = asyncio.get_running_loop().create_task(self._travel(astray))
            return
        self._landed()
        _wake(travelling)

    async def _travel(self, travelling: Sequence[_Passenger]) -> None:
        """A round trip that takes more than a connection at hand: of these, who are (some of) those who travel."""
        try:
            results = await self._link.execute([each.call for each in travelling], self._timeout)
        except Exception as error:  # noqa: BLE001 - whatever a library raises, who waits is told, and it counts
            results = [error] * len(travelling)
        except BaseException as error:  # cancelled: who waits is told
            told, self._travelling = self._travelling, []
            _fail(told, StateUnavailableError(error_text(error)))
            self._ring_who_stops()
            raise
        for passenger, result in zip(travelling, results, strict=True):
            passenger.result = result
        told = self._travelling
        self._landed()
        _wake(told)

    def _landed(self) -> None:
        """Those who travelled have their results: judge the server by them, and let the next go."""
        travelling, self._travelling = self._travelling, []
        faults = [each for each in travelling if _is_fault(each.result)]
        if not faults:
            self.breaker.succeeded()
        else:
            self._key = faults[0].call.keys[0]
            fault = faults[0].result
            self.breaker.failed(fault, questions=len(faults), is_certain=not isinstance(fault, TimeoutError))
        self._depart()
        self._ring_who_stops()

    def _ring_who_stops(self) -> None:
        if self._stopped is not None:
            self._stopped.set_result(None)
            self._stopped = None

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
        await self._link.renew(self._key)
        (result,) = await self._link.execute([self._probe(self._key)], self._timeout)
        if isinstance(result, Exception):
            raise result

    async def stop(self) -> None:
        """Let what travels arrive, and probe no more."""
        self._depart()
        while self._travelling:
            self._stopped = asyncio.get_running_loop().create_future()
            await self._stopped
        await self.breaker.stop()  # which the last of them may have tripped


def _fail(passengers: Sequence[_Passenger], error: Exception) -> None:
    """Nothing comes of their calls."""
    for passenger in passengers:
        passenger.result = error
    _wake(passengers)


def _wake(passengers: Sequence[_Passenger]) -> None:
    """Their results are there; the next turn of the loop is theirs, because a task may be running now."""
    for passenger in passengers:
        if passenger.arrived is not None and not passenger.arrived.done():
            passenger.arrived.set_result(None)


def _is_fault(result: Any) -> bool:
    """Whether the server is to blame: not for what is wrong with the call, or with what is kept under its key."""
    if isinstance(result, ResponseError):
        text = str(result)
        is_own = result.status_code == "ERR" or text.startswith("WRONGTYPE ")
        return not is_own or _WRAPPED(text) is not None
    return isinstance(result, Exception) and not isinstance(result, ValueError | ElsewhereError)


def error_text(error: BaseException) -> str:
    """A fault in words."""
    return "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}".rstrip(": ")
