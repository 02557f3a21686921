"""A resolver that notes what it is asked for."""

from collections.abc import Mapping

from gateway.adapters.dns.zone import ZoneResolver
from gateway.resolver import Answer, RecordType


class CountingResolver(ZoneResolver):
    """Answers from a zone, knows nothing without being asked, and notes what it is asked for."""

    def __init__(self, zone: Mapping[str, object]) -> None:
        super().__init__(zone)
        self.asked: list[str] = []

    def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - the interface's
        """Nothing is at hand."""
        return None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer, and note the question."""
        self.asked.append(name)
        return await super().lookup(name, record_type)
