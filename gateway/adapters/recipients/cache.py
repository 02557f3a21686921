"""What a source said, remembered: ``CachedSource`` makes a ``RecipientSource`` of a ``Lookup``.

- A yes, a no and a don't-know are remembered for times of their own (``CacheOptions``). So a source that is away is not
  asked about the same address again and again.
- Questions about one address that come while it is being asked about wait for the same answer. One that is no longer
  waited for is still answered, for the next who asks.
- While nothing can be told a yes that has grown old still counts, for ``stale``. A no does not: mail would be refused
  for good on old knowledge.
- The number of addresses is bounded; the one unused for longest goes first.

That a source can't be asked, and that it can again, is one line each in the log.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from gateway.config.recipients import CacheOptions
from gateway.lookup.answer import Answer, Lookup, UnverifiableError
from gateway.tables.addresses import normalize_local_part

_log = structlog.get_logger("lychgate.recipients")

_MAX_WORDS = 300  # of what a source said: enough for any reply


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
        self._tasks: set[asyncio.Task[Entry]] = set()
        self._is_away = False

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
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self.lookup.ask(*self.key(local_part, domain))
        except UnverifiableError:
            raise
        except TimeoutError:
            raise UnverifiableError(f"no answer within {self._timeout:g} seconds") from None
        except Exception as error:  # whatever a driver raises means that it can't be told
            raise UnverifiableError(f"{type(error).__name__}: {error}") from error
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
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.lookup.close()

    def _begin(self, key: tuple[str, str]) -> "asyncio.Task[Entry]":
        task = asyncio.get_running_loop().create_task(self._learn(key), name=f"asking {self.name}")
        self._asking[key] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _learn(self, key: tuple[str, str]) -> Entry:
        """Ask, and remember the answer."""
        known = self._entries.get(key)
        self.asked += 1
        try:
            answer = await self.ask(*key)
        except UnverifiableError as error:
            entry = self._failed(known, str(error)[:_MAX_WORDS])
        else:
            entry = self._learned(answer)
        if self._asking.get(key) is asyncio.current_task():  # else it was flushed meanwhile
            del self._asking[key]
            self._entries.pop(key, None)
            self._entries[key] = entry
            while len(self._entries) > self._options.entries:
                del self._entries[next(iter(self._entries))]
        return entry

    def _learned(self, answer: Answer) -> Entry:
        if self._is_away:
            self._is_away = False
            _log.info("recipient source answers again", source=self.name)
        now = self._monotonic()
        keep = self._options.yes if answer.exists else self._options.no
        return Entry(exists=answer.exists, words=answer.words, asked=now, expires=now + keep)

    def _failed(self, known: Entry | None, reason: str) -> Entry:
        self.failures += 1
        if not self._is_away:
            self._is_away = True
            _log.warning("recipient source can't tell", source=self.name, reason=reason)
        now = self._monotonic()
        expires = now + self._options.unknown
        if known is not None and known.exists and now < known.asked + self._options.yes + self._options.stale:
            return Entry(exists=True, words=known.words, asked=known.asked, expires=expires, stale=True)
        return Entry(exists=None, words=reason, asked=now, expires=expires)
