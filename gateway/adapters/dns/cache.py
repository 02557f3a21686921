"""A cache of DNS answers, bounded in size, by time-to-live.

Answers are kept as long as they say, not shorter than a floor and not longer than a cap; failures for a fixed short
while (RFC 9520 3.2). What was used longest ago goes first when the place is taken. An answer of more than
``UNIT`` characters takes the place of several, so that the cache is bounded in memory as well, whatever strangers
publish.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from gateway.resolver import Answer, RecordType, Status

UNIT: Final = 1024
"""Characters of records that take one place."""

Key: TypeAlias = tuple[str, RecordType]
"""A name in lower case without the final dot, and a type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long answers are kept, in seconds.

    Attributes:
        floor: At least, also where the records say less; without it an answer with a time-to-live of 0 is asked for
            again and again.
        cap: At most (RFC 8767 4 speaks of days).
        negative_cap: NXDOMAIN and no data, at most (RFC 2308 5 speaks of one to three hours).
        failure: Failures and time-outs (RFC 9520 3.2: from 1 second to 5 minutes); at most as long a negative answer
            without an SOA is kept, too, because nobody says how long it holds (RFC 2308 5).
    """

    floor: float = 5.0
    cap: float = 86_400.0
    negative_cap: float = 10_800.0
    failure: float = 5.0

    def of(self, answer: Answer) -> float:
        """For how long an answer is kept."""
        if answer.status.is_temporary:
            return self.failure
        if answer.status is Status.FOUND:
            cap = self.cap
        elif answer.ttl <= 0:
            return min(self.floor, self.failure)
        else:
            cap = self.negative_cap
        return max(self.floor, min(answer.ttl, cap))


class _Entry(NamedTuple):
    """An answer, until when it holds by the clock, and how many places it takes."""

    answer: Answer
    expires: float
    places: int


class AnswerCache:
    """The cache."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty one.

        Args:
            places: How many answers are kept; 0 for none.
            clock: Seconds that never go back.
        """
        self._places = places
        self._taken = 0
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Answer | None:
        """The answer with the time that is left to it, None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        answer, expires, places = entry
        left = expires - self._clock()
        if left <= 0:
            del self._entries[key]
            self._taken -= places
            return None
        self._entries.move_to_end(key)
        return Answer(answer.status, answer.records, left)

    def put(self, key: Key, answer: Answer) -> None:
        """Keep an answer for its time-to-live, if there is place for it at all."""
        places = 1 + sum(map(len, answer.records)) // UNIT + len(answer.records) // (UNIT // 16)
        if answer.ttl <= 0 or places > self._places:
            return
        old = self._entries.pop(key, None)
        if old is not None:
            self._taken -= old.places
        while self._taken + places > self._places:
            self._taken -= self._entries.popitem(last=False)[1].places
        self._entries[key] = _Entry(answer, self._clock() + answer.ttl, places)
        self._taken += places
