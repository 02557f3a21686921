"""DNS for unit tests: a zone that answers as a server does, after a turn of the loop, and remembers what it was asked.

Nothing is at hand before it was asked for, so that whoever takes answers from ``known`` has to wait for each once.
"""

import asyncio
from collections.abc import Mapping

from gateway.adapters.dns.zone import ZoneResolver
from gateway.resolver import Answer, RecordType


class ColdZone:
    """A ``Resolver`` with a cache that begins empty.

    Attributes:
        asked: The questions in order, as ``name type``.
        rounds: The same, those that were asked at the same time together.
    """

    def __init__(self, zone: Mapping[str, object]) -> None:
        self._zone = ZoneResolver(zone)
        self._cache: dict[tuple[str, RecordType], Answer] = {}
        self._under_way = 0
        self.asked: list[str] = []
        self.rounds: list[set[str]] = []

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """What was asked for before."""
        return self._cache.get((name, record_type))

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer one question."""
        question = f"{name} {record_type}"
        if not self._under_way:
            self.rounds.append(set())
        self.rounds[-1].add(question)
        self.asked.append(question)
        self._under_way += 1
        await asyncio.sleep(0)
        self._under_way -= 1
        answer = self._cache[name, record_type] = await self._zone.lookup(name, record_type)
        return answer


class SilentZone:
    """A ``Resolver`` that never answers."""

    def known(self, _name: str, _record_type: RecordType) -> Answer | None:
        """Nothing is at hand."""
        return None

    async def lookup(self, _name: str, _record_type: RecordType) -> Answer:
        """Wait for ever."""
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it has no result
