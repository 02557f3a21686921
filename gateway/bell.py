"""A bell: what one task waits for, and whose ringing runs that task in place.

A future wakes a task at the event loop's next turn. For a task that is woken for every line of a conversation that is a
turn too many: a system call, and what comes in meanwhile has to wait. ``ring`` runs the task at once, up to its next
wait, as if its code stood there. So ring as the last thing in a callback: when ``ring`` returns, anything may have
happened.

It can be rung any number of times; when nobody waits nothing happens. To a task it is a future (``asyncio.isfuture``),
so that cancelling and time-outs work as with one.
"""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Self


class Bell:
    """One task at a time may await it."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._cancelled = False
        self._context: Context | None = None
        self._loop = loop
        self._wake: Callable[[Any], object] | None = None

    def __await__(self) -> Generator[Self, None, None]:
        self._asyncio_future_blocking = True
        yield self

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits."""
        return self._wake is not None

    def ring(self) -> None:
        """Run the task that waits, if one does; from within a task, at the loop's next turn."""
        wake = self._wake
        if wake is None:
            return
        self._wake = None
        assert self._context is not None  # noqa: S101 - came with it
        if asyncio.current_task(self._loop) is None:
            self._context.run(wake, self)
        else:
            self._loop.call_soon(wake, self, context=self._context)

    # What a task asks of a future.

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context) -> None:
        """A task waits."""
        self._wake = wake
        self._context = context

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Whose tasks may wait."""
        return self._loop

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as a future's
        """The task is cancelled; returns whether it waited."""
        wake = self._wake
        if wake is None:
            return False
        self._wake = None
        self._cancelled = True
        self._loop.call_soon(wake, self, context=self._context)
        return True

    def result(self) -> None:
        """What waking comes to.

        Raises:
            asyncio.CancelledError: The task was cancelled.
        """
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError
