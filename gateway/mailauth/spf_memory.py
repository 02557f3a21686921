"""SPF results that hold for a while: what a client's check of a domain came to (RFC 7208 4).

A check that does not look at the sender, the HELO name or the time has the same result for the same client and domain,
until one of the answers that it went by runs out. Senders of any size send many messages from one host, and a
host says one HELO name; so most checks of a busy gateway need no evaluation.

Not remembered is what went by an answer that is a fault of the DNS, or by none at all. Owned state: at most ``size``
results, of which the longest unused goes first. What was tried is kept in words for results that records tell it of.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from gateway.mailauth.results import SpfCheck, SpfResult
from gateway.resolver import Answer

SIZE: Final = 2000
"""Results that are kept; usually of less than a kilobyte."""

LARGEST: Final = 4096
"""Characters of a result's record and steps; what has more is not kept."""

Key: TypeAlias = tuple[IPv4Address | IPv6Address, str]
"""The client, and the domain in the form in which it is checked."""


class _Entry(NamedTuple):
    """A result, and until when it holds by the clock."""

    check: SpfCheck
    expires: float


class SpfMemory:
    """The results of one set of limits.

    Args:
        size: How many are kept.
        clock: Seconds that never go back.
    """

    def __init__(self, size: int = SIZE, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def now(self) -> float:
        """The time that ``put`` takes: when a check began to ask."""
        return self._clock()

    def get(self, key: Key) -> SpfCheck | None:
        """The result that still holds, None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry.check

    def put(self, key: Key, check: SpfCheck, answers: Iterable[Answer], since: float) -> None:
        """Keep a result.

        Args:
            key: Whose it is.
            check: The result.
            answers: All that it went by; their time-to-live counts from ``since``.
            since: When the check began.
        """
        lives = [0.0 if answer.status.is_temporary else answer.ttl for answer in answers]
        life = min(lives, default=0.0)
        if life <= 0:
            return
        steps = () if check.result in {SpfResult.PASS, SpfResult.NONE} else check.steps
        if len(check.record or "") + sum(map(len, steps)) > LARGEST:
            return
        self._entries[key] = _Entry(replace(check, tell=partial(tuple, steps)), since + life)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
