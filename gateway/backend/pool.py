"""The kept connections to one server: how many there are, which are free, and who waits for one.

A connection counts from the moment it is being opened until it is closed. Free ones are used last in, first out, so
that those no longer needed grow old and are closed. When all are taken, the one is called back whose delivery has
waited longest for its client ("parked": between RCPT and the end of data), so that slow clients can't starve the
others; its delivery repeats MAIL and RCPT later. Waiters are served in order.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gateway.backend.connection import BackendError, Connection, Identity

ANNOUNCED_IDLE: Final = 5.0
"""Seconds for which a connection is kept that only the client announced on it can use: for its next message."""

REFUSALS: Final = 5
"""Refusals without a message between them after which a connection is not kept. A server counts them as errors of its
client, and makes it wait: Postfix behind 10 (smtpd_soft_error_limit). They were errors of other clients."""

RESETS: Final = 50
"""The same for transactions that were given up: Postfix waits at each behind 100 (smtpd_junk_command_limit)."""

PARKED_GRACE: Final = 0.05
"""Seconds for which a parked delivery keeps its connection: most clients have sent their data by then."""


_NEVER: Final = float("inf")


class Parked(Protocol):
    """A delivery that waits for its client."""

    def surrender(self) -> Connection:
        """Give the connection up."""
        ...


class Pool:
    """The connections to one server.

    Args:
        opener: Opens one more.
        limit: The most there may be.
        idle: Seconds for which a free one is kept.
        messages: The most messages over one.
    """

    def __init__(self, opener: Callable[[], Awaitable[Connection]], *, limit: int, idle: float, messages: int) -> None:
        self._opener = opener
        self._limit = limit
        self._idle_time = idle
        self._messages = messages
        self._count = 0
        self._idle: list[Connection] = []
        self._parked: dict[Parked, float] = {}
        self._waiters: deque[tuple[asyncio.Future[Connection | None], Identity | None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._reap_at = _NEVER  # uvloop's handle for what is due at once can't say
        self._caller: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def count(self) -> int:
        """How many connections there are, those being opened included."""
        return self._count

    @property
    def idle(self) -> int:
        """How many are free."""
        return len(self._idle)

    @property
    def has_room(self) -> bool:
        """Whether one more may be opened."""
        return self._count < self._limit and not self._waiters

    def take(self, client: Identity | None) -> Connection | None:
        """A free connection that serves the client, None without one.

        Args:
            client: The client to be announced, None where clients are not.
        """
        if client is None:
            return self._idle.pop() if self._idle else None
        found: Connection | None = None
        for connection in reversed(self._idle):
            if connection.client == client:
                found = connection
                break
            if found is None and connection.is_neutral:
                found = connection
        if found is not None:
            self._idle.remove(found)
        return found

    def make_room(self) -> None:
        """Close the oldest free connection where there is no room for a new one."""
        if self._count >= self._limit and self._idle:
            self._idle[0].quit()

    def enter(self) -> None:
        """Take a place for a new connection; there must be room. ``open`` follows."""
        self._count += 1

    async def open(self) -> Connection:
        """Open a connection in the place taken.

        Raises:
            BackendError: It failed; the place is free again.
        """
        try:
            connection = await self._opener()
        except BaseException:  # cancelled too: its place must be free again
            self._leave()
            raise
        connection.pool = self
        if connection.fault is not None:  # lost between its last reply and here
            connection.pool = None
            self._leave()
            raise connection.fault
        return connection

    async def wait(self, within: float, client: Identity | None) -> Connection | None:
        """Wait in line.

        Args:
            within: For how long, in seconds.
            client: The client to be announced, None where clients are not.

        Returns:
            A connection, or None for a place taken for a new one: ``open`` follows.

        Raises:
            BackendError: Nothing became free in time.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        entry = (waiter, client)
        self._waiters.append(entry)
        self._call_back()
        try:
            async with asyncio.timeout(within):
                return await waiter
        except BaseException as error:  # cancelled too: what came in that moment goes to the next
            if entry in self._waiters:
                self._waiters.remove(entry)
            elif not waiter.cancelled():  # served in the moment in which it gave up
                self._pass_on(waiter.result())
            if isinstance(error, TimeoutError):
                raise BackendError("no connection became free in time") from None
            raise

    def _pass_on(self, connection: Connection | None) -> None:
        if connection is None:
            self._leave()
        else:
            self.give_back(connection)

    def park(self, delivery: Parked, now: float) -> None:
        """The delivery waits for its client from now on; its connection may be called back."""
        self._parked[delivery] = now
        if self._waiters:
            self._call_back()

    def unpark(self, delivery: Parked) -> None:
        """The delivery goes on."""
        self._parked.pop(delivery, None)

    def give_back(self, connection: Connection) -> None:
        """Take a connection back that is free again."""
        if connection.fault is not None:
            return
        worn = connection.messages >= self._messages or connection.refusals >= REFUSALS or connection.resets >= RESETS
        if self._closed or worn or self._idle_time <= 0:
            connection.quit()
            return
        while self._waiters:
            waiter, client = self._waiters[0]
            if not waiter.done() and not connection.serves(client):
                connection.quit()  # its place goes to the waiter
                return
            self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        loop = connection.loop
        keep = self._idle_time if connection.is_neutral else min(self._idle_time, ANNOUNCED_IDLE)
        connection.idle_until = loop.time() + keep
        self._idle.append(connection)
        if self._reap_at > connection.idle_until:
            if self._reaper is not None:
                self._reaper.cancel()
            self._reap_later(loop, connection.idle_until)

    def drop(self) -> None:
        """Close the free connections at once: the server is down."""
        for connection in self._idle.copy():
            connection.abort("the server is down")

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._leave()

    def retire(self) -> None:
        """Say QUIT on the free connections and keep no more."""
        self._closed = True
        for timer in (self._reaper, self._caller):
            if timer is not None:
                timer.cancel()
        for connection in self._idle.copy():
            connection.quit()

    def _leave(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)  # the place is the waiter's: it opens a connection
                return
        self._count -= 1

    def _reap(self) -> None:
        self._reaper = None
        self._reap_at = _NEVER
        loop = asyncio.get_running_loop()
        now = loop.time() + 0.001  # the resolution of the loop's clock
        for connection in [each for each in self._idle if each.idle_until <= now]:
            connection.quit()
        if self._idle:
            self._reap_later(loop, min(each.idle_until for each in self._idle))

    def _reap_later(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._reaper = loop.call_at(at, self._reap)
        self._reap_at = at

    def _call_back(self) -> None:
        """Give the waiters the connections of the deliveries that are parked longest."""
        if self._caller is not None:
            self._caller.cancel()
            self._caller = None
        loop = asyncio.get_running_loop()
        while self._waiters and self._parked:
            delivery, since = next(iter(self._parked.items()))
            if since + PARKED_GRACE > loop.time() + 0.001:
                self._caller = loop.call_at(since + PARKED_GRACE, self._call_back)
                return
            del self._parked[delivery]
            self.give_back(delivery.surrender())
