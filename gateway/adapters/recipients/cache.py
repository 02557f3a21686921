"""What a source said, remembered: ``CachedSource`` makes a ``RecipientSource`` of a ``Lookup``.

- A yes, a no and a don't-know are remembered for times of their own (``CacheOptions``). So a source that is away is not
  asked about the same address again and again.
- Questions about one address that come while it is being asked about wait for the same answer. One that is no longer
  waited for is still answered, for the next who asks.
- While nothing can be told a yes that has grown old still counts, for ``stale``. A no does not: mail would be refused
  for good on old knowledge.
- A source that does not answer three times in a row is left alone (``breaker``): nobody waits for its time-out then,
  and one question at a time, about ``postmaster``, finds out when it is back. What it says of an address, and be it
  nonsense, is an answer: one address that it can't tell must not keep the others from being asked about.
- The number of addresses is bounded; the one unused for longest goes first.

That a source is away, and that it is back, is one line each in the log; that it can't tell one every few minutes.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from gateway.adapters.breaker import Breaker
from gateway.config.recipients import CacheOptions
from gateway.lookup.answer import Answer, Lookup, UnansweredError, UnverifiableError
from gateway.tables.addresses import normalize_local_part

_T = TypeVar("_T")

_log = structlog.get_logger("lychgate.recipients")

_MAX_WORDS = 300  # of what a source said: enough for any reply
_TELL_AGAIN = 300.0  # seconds: often enough to be seen, and never a line for each message


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is remembered of an address.

    Attributes:
        exists: Whether it exists, None for a don't-know.
        words: What the source said.
        asked: When, in the cache's own seconds.
        expires: Until when it is not asked about again.
        stale: Whether it is an old yes that counts because nothing newer could be told.
    """

    exists: bool | None
    words: str
    asked: float
    expires: float
    stale: bool = False


class CachedSource:
    """A source of recipients that remembers.

    Args:
        name: How people know it.
        lookup: What is asked.
        options: For how long answers are remembered.
        timeout: Seconds an answer may take.
        monotonic: Tells seconds that never go back.

    Attributes:
        name: How people know it.
        lookup: What is asked.
        hits: How many questions the cache answered.
        asked: How many the source was asked.
        failures: How many of those it could not tell.
        breaker: Knows whether the source is away.
    """

    def __init__(
        self,
        name: str,
        lookup: Lookup,
        options: CacheOptions,
        *,
        timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.lookup = lookup
        self.hits = self.asked = self.failures = 0
        self._options = options
        self._timeout = timeout
        self._monotonic = monotonic
        self._entries: dict[tuple[str, str], Entry] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Entry]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tell_after = float("-inf")
        self._asked_last = ""
        self.breaker = Breaker(self._probe, began=self._away, ended=self._back)

    async def find(self, local_part: str, domain: str) -> bool:
        """Whether the address exists.

        Raises:
            UnverifiableError: It can't be told now.
        """
        key = self.key(local_part, domain)
        entry = self._entries.get(key)
        if entry is not None and self._monotonic() < entry.expires:
            self.hits += 1
            self._entries[key] = self._entries.pop(key)  # the last in line to be forgotten
        elif self.breaker.is_tripped:
            self.breaker.skipped()
            entry = self._unknown(entry, "the source is away")
        else:
            # A time-out of the one who asks must not end the question: others may wait for it, too.
            entry = await asyncio.shield(self._asking.get(key) or self._begin(key))
        if entry.exists is None:
            raise UnverifiableError(entry.words)
        return entry.exists

    async def ask(self, local_part: str, domain: str) -> Answer:
        """Ask the source itself, whatever is remembered.

        Raises:
            UnverifiableError: It can't tell now.
        """
        asking = self._task(self.lookup.ask(*self.key(local_part, domain)))
        try:
            # A driver may take its time to give up: psycopg waits ten seconds for a frozen server, and nobody for that.
            await asyncio.wait([asking], timeout=self._timeout)
        finally:
            asking.cancel()
        if not asking.done():
            raise UnansweredError(f"no answer within {self._timeout:g} seconds")
        try:
            answer = asking.result()
        except UnverifiableError:
            raise
        except Exception as error:  # whatever a driver raises means that it can't be told
            raise UnansweredError(f"{type(error).__name__}: {error}") from error
        return Answer(answer.exists, answer.words[:_MAX_WORDS])

    def key(self, local_part: str, domain: str) -> tuple[str, str]:
        """Under which an address is remembered."""
        return normalize_local_part(local_part) if self.lookup.folds_case else local_part, domain

    def entries(self) -> Iterator[tuple[str, str, Entry, float, float]]:
        """What is remembered and still counts: local part, domain, entry, its age and how long it holds, in seconds."""
        now = self._monotonic()
        for (local_part, domain), entry in self._entries.items():
            if now < entry.expires:
                yield local_part, domain, entry, now - entry.asked, entry.expires - now

    def flush(self, local_part: str | None = None, domain: str | None = None) -> int:
        """Forget an address, a domain, or everything; returns how many addresses were forgotten.

        What is being asked meanwhile is still answered, but not remembered.
        """
        if local_part is not None:
            local_part = self.key(local_part, "")[0]

        def chosen(key: tuple[str, str]) -> bool:
            return domain in {None, key[1]} and local_part in {None, key[0]}

        gone = [key for key in self._entries if chosen(key)]
        for key in gone:
            del self._entries[key]
        for key in [key for key in self._asking if chosen(key)]:
            del self._asking[key]
        self.lookup.forget(domain)
        return len(gone)

    async def close(self) -> None:
        """Ask no more, and close the source."""
        await self.breaker.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.lookup.close()

    def _begin(self, key: tuple[str, str]) -> "asyncio.Task[Entry]":
        task = self._asking[key] = self._task(self._learn(key))
        return task

    def _task(self, what: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """A task that ``close`` ends if it has not ended by then."""
        task = asyncio.get_running_loop().create_task(what, name=f"asking {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of one that nobody waits for any more

    async def _learn(self, key: tuple[str, str]) -> Entry:
        """Ask, and remember the answer."""
        known = self._entries.get(key)
        self.asked += 1
        self._asked_last = key[1]
        try:
            answer = await self.ask(*key)
        except UnverifiableError as error:
            self.failures += 1
            self._tell(error)
            entry = self._unknown(known, str(error)[:_MAX_WORDS])
        else:
            self.breaker.succeeded()
            entry = self._learned(answer)
        if self._asking.get(key) is asyncio.current_task():  # else it was flushed meanwhile
            del self._asking[key]
            self._entries.pop(key, None)
            self._entries[key] = entry
            while len(self._entries) > self._options.entries:
                del self._entries[next(iter(self._entries))]
        return entry

    def _learned(self, answer: Answer) -> Entry:
        now = self._monotonic()
        keep = self._options.yes if answer.exists else self._options.no
        return Entry(exists=answer.exists, words=answer.words, asked=now, expires=now + keep)

    def _unknown(self, known: Entry | None, reason: str) -> Entry:
        """What holds while nothing can be told: an old yes, or nothing."""
        now = self._monotonic()
        expires = now + self._options.unknown
        if known is not None and known.exists and now < known.asked + self._options.yes + self._options.stale:
            return Entry(exists=True, words=known.words, asked=known.asked, expires=expires, stale=True)
        return Entry(exists=None, words=reason, asked=now, expires=expires)

    # What becomes of the source.

    def _tell(self, error: UnverifiableError) -> None:
        """A question came to nothing: tell the log, now and then, and the breaker, where there was no answer at all."""
        now = self._monotonic()
        if now >= self._tell_after:
            self._tell_after = now + _TELL_AGAIN
            _log.warning("recipient source can't tell", source=self.name, reason=str(error)[:_MAX_WORDS])
        if isinstance(error, UnansweredError):
            self.breaker.failed(error)
        else:
            self.breaker.succeeded()

    def _away(self, fault: Exception) -> None:
        _log.warning("recipient source away", source=self.name, reason=str(fault)[:_MAX_WORDS])

    def _back(self, seconds: float, unanswered: int) -> None:
        _log.info("recipient source back", source=self.name, seconds=seconds, unanswered=unanswered)

    async def _probe(self) -> None:
        """Ask about an address that every domain has (RFC 5321 4.5.1); any answer will do."""
        try:
            await self.ask("postmaster", self._asked_last)
        except UnansweredError:
            raise
        except UnverifiableError:
            pass
