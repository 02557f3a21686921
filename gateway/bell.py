"""A bell: what one task waits for, and whose ringing runs that task in place.

A future wakes a task at the event loop's next turn. For a task that is woken for every line of a conversation that is a
turn too many: a system call, and what comes in meanwhile has to wait. ``ring`` runs the task at once, up to its next
wait, as if its code stood there. So ring as the last thing in a callback of the loop: when ``ring`` returns, anything
may have happened. Where another task may be running, ``ring_soon`` is meant: a task can't run within another.

It can be rung any number of times; when nobody waits nothing happens. To a task it is a future (``asyncio.isfuture``),
so that cancelling and time-outs work as with one.
"""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, NoReturn, Self


class Bell:
    """One task at a time may await it.

    Attributes:
        is_awaited: Whether a task waits.
        result: What a task that was woken calls; raises where it was cancelled.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_loop", "_wake", "is_awaited", "result")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_awaited = False
        self.result: Callable[[], object] = bool  # no code of ours, because it is called each time
        self._asyncio_future_blocking = False
        self._loop = loop
        self._wake: Callable[[Any], object]
        self._context: Context

    def __await__(self) -> Generator[Self, None, None]:
        self._asyncio_future_blocking = True
        return iter((self,))  # type: ignore[return-value]  # all that is asked of a generator here, and cheaper

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context) -> None:
        """A task waits."""
        self._wake = wake
        self._context = context
        self.is_awaited = True

    def ring(self) -> None:
        """Run the task that waits, if one does."""
        if self.is_awaited:
            self.is_awaited = False
            self._context.run(self._wake, self)

    def ring_soon(self) -> None:
        """The same at the loop's next turn."""
        if self.is_awaited:
            self.is_awaited = False
            self._loop.call_soon(self._wake, self, context=self._context)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as a future's
        """The task is cancelled; returns whether it waited."""
        if not self.is_awaited:
            return False
        self.result = self._cancelled
        self.ring_soon()
        return True

    def _cancelled(self) -> NoReturn:
        self.result = bool
        raise asyncio.CancelledError
