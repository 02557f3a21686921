"""What is remembered of clients' names, and for how long."""

import pytest

from gateway.doors.client_names import KNOWN_NAMES, ClientNames
from gateway.resolver import NameStatus
from tests.support.counting_resolver import CountingResolver

ADDRESS = "192.0.2.1"
ZONES: dict[NameStatus, dict[str, object]] = {
    NameStatus.CONFIRMED: {ADDRESS: {"PTR": ["client.example"]}, "client.example": {"A": [ADDRESS]}},
    NameStatus.UNKNOWN: {},
    NameStatus.TEMPORARY: {ADDRESS: "TIMEOUT"},
}


class Seconds:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("status", "seconds"), [(NameStatus.CONFIRMED, 300), (NameStatus.UNKNOWN, 300), (NameStatus.TEMPORARY, 10)]
)
async def test_a_name_is_remembered_for_its_time(status: NameStatus, seconds: float) -> None:
    """Five minutes, also that there is none; ten seconds where it could not be looked up. Then it is asked again."""
    clock, resolver = Seconds(), CountingResolver(ZONES[status])
    names = ClientNames(resolver, monotonic=clock)
    assert names.known(ADDRESS) is None
    found = await names.find(ADDRESS)
    assert found.status is status
    asked = len(resolver.asked)
    clock.now = seconds - 0.1
    assert await names.find(ADDRESS) == names.known(ADDRESS) == found
    assert len(resolver.asked) == asked
    clock.now = seconds
    assert names.known(ADDRESS) is None
    await names.find(ADDRESS)
    assert len(resolver.asked) == 2 * asked
    clock.now = 2 * seconds - 0.1
    assert names.known(ADDRESS) == found


async def test_so_many_names_are_remembered() -> None:
    """The one that was looked up longest ago makes room; looked up again, it is the newest."""
    clock = Seconds()
    names = ClientNames(CountingResolver({}), size=2, monotonic=clock)
    for address in ("192.0.2.1", "192.0.2.2"):
        await names.find(address)
    clock.now = 300.0
    for address in ("192.0.2.1", "192.0.2.3"):
        await names.find(address)
    assert [names.known(f"192.0.2.{last}") is not None for last in (1, 2, 3)] == [True, False, True]


async def test_a_listener_remembers_ten_thousand_clients() -> None:
    """However many come: what the names take in memory is bounded."""
    names = ClientNames(CountingResolver({}), monotonic=Seconds())
    addresses = [f"10.0.{number // 250}.{number % 250}" for number in range(KNOWN_NAMES + 3)]
    for address in addresses:
        await names.find(address)
    assert [names.known(address) is not None for address in addresses] == [False] * 3 + [True] * 10_000
