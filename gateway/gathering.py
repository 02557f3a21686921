"""What is due soon is gathered over a few turns of the event loop, and then done together.

A worker that is busy has work at every turn. What it writes wakes others at once, who answer, so that each turn has
one answer, and each answer meets caches that another process has used since. Written together, replies and commands
make others answer together, and the worker does the same thing several times in a row. When it has nothing else to do
the turns pass in microseconds.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

LEAST: Final = 3
"""Turns over which is gathered at least, unless they are long, or what was due the last time was alone."""

LONGEST: Final = 0.002
"""Seconds after which is done what is due, even though each turn brought more."""


class Gathering:
    """Does what is due once a turn has brought nothing more.

    Args:
        least: Turns over which it gathers at least, unless they take ``LONGEST``.
        alone: The same where what was due the last time was alone: a lone client does not wait for others.
    """

    __slots__ = ("_alone", "_due", "_least", "_seen", "_since", "_turns", "_wanted")

    def __init__(self, least: int = LEAST, alone: int = 1) -> None:
        self._least = least
        self._alone = self._wanted = alone
        self._due: list[Callable[[], None]] = []
        self._seen = 0  # how much was due a turn ago
        self._turns = 0
        self._since = 0.0

    def add(self, call: Callable[[], None]) -> None:
        """This is due. It is called in a callback of the loop, in the order of what is due."""
        due = self._due
        due.append(call)
        if len(due) == 1:
            self._seen, self._turns = 1, 0
            self._since = monotonic()
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turns += 1
        due = self._due
        if (self._turns < self._wanted or len(due) > self._seen) and monotonic() - self._since < LONGEST:
            self._seen = len(due)
            asyncio.get_running_loop().call_soon(self._turn)
            return
        self._wanted = self._least if len(due) > 1 else self._alone
        self._due = []
        for call in due:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the others are due all the same
                context = {"message": f"{call} failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)


_gatherings: WeakKeyDictionary[asyncio.AbstractEventLoop, Gathering] = WeakKeyDictionary()


def gathering(loop: asyncio.AbstractEventLoop) -> Gathering:
    """The gathering of a loop's replies and commands."""
    found = _gatherings.get(loop)
    if found is None:
        found = _gatherings[loop] = Gathering()
    return found
