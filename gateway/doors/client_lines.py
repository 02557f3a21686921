"""What the log says of clients: so many lines a minute about each, so that nobody fills it.

A client decides how often it fails, and a journal has limits of its own, above which it drops what matters, too. So
lines that clients cause are counted by client; what is above the limit is left out, and a line says how many.
"""

from typing import Final

import structlog

from gateway.doors.places import one_client
from gateway.policy import Clock

log = structlog.get_logger("lychgate.smtp")

WINDOW: Final = 60.0
"""Seconds in which a client's lines are counted."""

KNOWN: Final = 10_000
"""How many clients are counted apart in that time; those that come then count as one."""


class ClientLines:
    """The lines of one worker.

    Args:
        limit: Lines about one client in ``WINDOW``; 0 for no limit.
        clock: Tells the time.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._end = clock.now() + WINDOW
        self._counts: dict[str, int] = {}

    def info(self, event: str, *, client: str, **fields: object) -> None:
        """Log what a client did.

        Args:
            event: The event.
            client: The client's address.
            fields: The event's.
        """
        if self._limit:
            if not self._end - WINDOW <= self._clock.now() < self._end:
                self._next_window()
            key = one_client(client)
            if key not in self._counts and len(self._counts) >= KNOWN:
                key = "others"
            count = self._counts.get(key, 0) + 1
            self._counts[key] = count
            if count > self._limit:
                return
        log.info(event, client=client, **fields)

    def _next_window(self) -> None:
        counts, self._counts = self._counts, {}
        self._end = self._clock.now() + WINDOW
        for client, count in counts.items():
            if count > self._limit:
                log.info("lines about a client left out", client=client, lines=count - self._limit)
