"""The names of clients, remembered for a while.

One that could not be looked up is asked for again soon, so that a short fault of the DNS does not count against a
client for long.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.resolver import ClientName, NameStatus, Resolver, client_name

KNOWN_NAMES: Final = 10_000
"""Clients whose names are remembered."""

LIFETIME: Final = 300.0
"""Seconds for which a name is remembered, or that there is none."""

TEMPORARY_LIFETIME: Final = 10.0
"""Seconds for which it is remembered that a name could not be looked up."""


class ClientNames:
    """The names of a listener's clients.

    Args:
        resolver: Asks the DNS.
        size: How many are remembered; the one that was looked up longest ago makes room.
        monotonic: Tells seconds that never go back.
    """

    def __init__(
        self, resolver: Resolver, *, size: int = KNOWN_NAMES, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolver = resolver
        self._size = size
        self._monotonic = monotonic
        self._names: OrderedDict[str, tuple[float, ClientName]] = OrderedDict()

    def known(self, address: str) -> ClientName | None:
        """A client's name if it is remembered."""
        known = self._names.get(address)
        return known[1] if known is not None and known[0] > self._monotonic() else None

    async def find(self, address: str) -> ClientName:
        """A client's name, looked up if it is not remembered."""
        known = self.known(address)
        if known is not None:
            return known
        found = await client_name(self._resolver, address)
        lifetime = TEMPORARY_LIFETIME if found.status is NameStatus.TEMPORARY else LIFETIME
        self._names[address] = (self._monotonic() + lifetime, found)
        self._names.move_to_end(address)
        if len(self._names) > self._size:
            self._names.popitem(last=False)
        return found
