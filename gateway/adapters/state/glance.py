"""The state as it is now, for somebody who only looks: what is counted here is counted nowhere else.

``Glance`` fetches each entry that is asked about once, by its key, and goes on in a memory of its own. So an imagined
client meets the limits and the greylist as a real one would, several commands of it add up, and nothing of that is
left behind.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from gateway.adapters.state.memory import MemoryState
from gateway.policy import Clock
from gateway.state import (
    CLIENT,
    Answer,
    Enter,
    Entry,
    Greet,
    Greeting,
    Kind,
    Operation,
    StateUnavailableError,
    Take,
    digest,
    entry_key,
)

Find: TypeAlias = Callable[[str], Awaitable[Entry | None]]
"""Reads an entry by its key; raises ``StateUnavailableError``."""


class Glance:
    """See the module; a ``State``.

    Args:
        find: Reads an entry of the real state.
        clock: Tells the time.
    """

    def __init__(self, find: Find, clock: Clock) -> None:
        self._find = find
        self._memory = MemoryState(clock)
        self._fetched: set[str] = set()

    async def ask(self, operations: Sequence[Operation]) -> Sequence[Answer | StateUnavailableError]:
        """See ``State``."""
        try:
            await self._fetch(_key(operation) for operation in operations)
        except StateUnavailableError as error:
            return [error] * len(operations)
        return self._memory.answer(operations)

    def post(self, operation: Take) -> None:
        """See ``State``."""
        self._memory.post(operation)

    def give_back(self, operation: Take, answer: Answer) -> None:
        """See ``State``."""
        self._memory.give_back(operation, answer)

    def leave(self, operation: Enter) -> None:
        """See ``State``."""
        self._memory.leave(operation)

    async def greet(self, greet: Greet) -> Greeting:
        """See ``State``."""
        names = (digest(greet.envelope), CLIENT)
        await self._fetch(entry_key(Kind.GREYLIST, greet.client, name) for name in names)
        return await self._memory.greet(greet)

    async def entries(self, kind: Kind | None = None) -> AsyncIterator[Entry]:
        """Those that were fetched, as they are here by now."""
        async for entry in self._memory.entries(kind):
            yield entry

    async def clear(self, key: str) -> bool:
        """Forget an entry here."""
        return await self._memory.clear(key)

    async def start(self) -> None:
        """Nothing is to be done."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def _fetch(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._fetched:
                entry = await self._find(key)
                self._fetched.add(key)
                if entry is not None:
                    self._memory.adopt(entry)


def _key(operation: Operation) -> str:
    kind = Kind.CONCURRENCY if isinstance(operation, Enter) else Kind.RATE
    return entry_key(kind, operation.subject, operation.name)
