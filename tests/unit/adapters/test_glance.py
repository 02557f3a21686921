"""A glance at the state: it answers as the real one would, and leaves it as it is."""

from copy import deepcopy
from typing import Final

import pytest

from gateway.adapters.state.glance import Find, Glance
from gateway.adapters.state.memory import MemoryState
from gateway.adapters.state.view import entry_json, entry_of
from gateway.state import Enter, Entry, Greet, StateUnavailableError, Take
from gateway.testing import SettableClock

TAKE: Final = Take(name="l", subject="client_address=192.0.2.1", rate=0.01, burst=3.0)
HOLDING: Final = Take(name="h", subject="client_address=192.0.2.1", rate=1.0, burst=1.0, hold=600.0)
ENTER: Final = Enter(name="r", subject="client_address=192.0.2.1", member="NEW", limit=2)
GREET: Final = Greet(client="domain=a", envelope="sender=b", delay=300, window=3600, keep=86_400, passes=2)


def find(state: MemoryState) -> Find:
    """Reads entries as the control socket gives them."""

    async def read(key: str) -> Entry | None:
        return next((entry_of(entry_json(entry)) for entry in state.known() if entry.key == key), None)

    return read


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("operation", [TAKE, HOLDING, ENTER])
async def test_a_limit_answers_as_the_real_one_would(before: int, operation: Take | Enter) -> None:
    """However much was counted before, at once and again; and nothing is counted where it was looked at."""
    clock = SettableClock()
    real = MemoryState(clock)
    for number in range(before):
        await real.ask([operation if isinstance(operation, Take) else Enter(
            name="r", subject=operation.subject, member=f"OLD{number}", limit=2)])  # fmt: skip
        clock.advance(1.0)
    found = list(real.known())
    glance, other = Glance(find(real), clock), deepcopy(real)
    other._clock = clock
    for _ in range(3):
        (seen,), (told,) = await glance.ask([operation]), await other.ask([operation])
        assert not isinstance(seen, StateUnavailableError)
        assert seen.granted is told.granted
        assert [seen.level, seen.wait] == pytest.approx([told.level, told.wait], abs=0.2)
    assert list(real.known()) == found


@pytest.mark.parametrize("waits", [(), (10,), (301,), (301, 5), (301, 5, 5)])
async def test_the_greylist_answers_as_the_real_one_would(waits: tuple[int, ...]) -> None:
    """New, too early, passed and known; the real one does not learn of the attempt."""
    clock = SettableClock()
    real = MemoryState(clock)
    for wait in waits:
        await real.greet(GREET)
        clock.advance(wait)
    found = list(real.known())
    seen = await Glance(find(real), clock).greet(GREET)
    assert list(real.known()) == found
    told = await real.greet(GREET)
    assert (seen.status, seen.passes) == (told.status, told.passes)
    assert seen.wait == pytest.approx(told.wait, abs=0.2)


async def test_a_state_that_is_away_is_away() -> None:
    """The policies see an outage as they would in a real session."""

    async def away(key: str) -> Entry | None:
        raise StateUnavailableError(key)

    glance = Glance(away, SettableClock())
    assert [type(answer) for answer in await glance.ask([TAKE, ENTER])] == [StateUnavailableError] * 2
    with pytest.raises(StateUnavailableError):
        await glance.greet(GREET)
