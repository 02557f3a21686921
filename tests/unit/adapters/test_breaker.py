"""The circuit breaker: when it trips, what probes it sends, when it heals."""

import asyncio

from gateway.adapters.breaker import PATIENCE, Breaker


class Dependency:
    """Something that can be away, with the breaker before it."""

    def __init__(self) -> None:
        self.is_away = False
        self.probes = asyncio.Semaphore(0)
        self.told: list[str] = []
        self.unanswered = 0
        self.breaker = Breaker(self._probe, began=self._began, ended=self._ended)

    async def _probe(self) -> None:
        self.probes.release()
        if self.is_away:
            raise ConnectionRefusedError("nobody listens")

    def _began(self, fault: Exception) -> None:
        self.told.append(f"began: {fault}")

    def _ended(self, seconds: float, unanswered: int) -> None:
        assert seconds >= 0
        self.told.append("ended")
        self.unanswered = unanswered


FAULT = TimeoutError("slow")


async def test_it_takes_several_faults_in_a_row() -> None:
    """One that is answered in between begins the count anew."""
    dependency = Dependency()
    breaker = dependency.breaker
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            breaker.failed(FAULT)
        breaker.succeeded()
    assert dependency.told == []
    for _ in range(PATIENCE):
        breaker.failed(FAULT)
    assert breaker.is_tripped
    assert dependency.told == ["began: slow"]
    await breaker.stop()


async def test_a_certain_fault_is_enough() -> None:
    """A refused connection needs no second one."""
    dependency = Dependency()
    dependency.breaker.failed(FAULT, is_certain=True)
    assert dependency.breaker.is_tripped
    await dependency.breaker.stop()


async def test_it_heals_by_a_probe_and_is_wary_then() -> None:
    """It probes until one goes well; one fault more trips it again, and after a good answer it has patience again."""
    dependency = Dependency()
    breaker = dependency.breaker
    dependency.is_away = True
    breaker.failed(FAULT, questions=5, is_certain=True)
    breaker.skipped(3)
    for _ in range(3):
        await dependency.probes.acquire()
    assert breaker.is_tripped
    dependency.is_away = False
    await breaker.healed.wait()
    assert dependency.told == ["began: slow", "ended"]
    assert dependency.unanswered == 3
    assert (breaker.health.outages, breaker.health.failed) == (1, 8)
    breaker.failed(FAULT)
    assert breaker.is_tripped
    await breaker.healed.wait()
    breaker.succeeded()
    breaker.failed(FAULT)
    assert not breaker.is_tripped


async def test_what_ends_stops_probing() -> None:
    """No task is left behind."""
    dependency = Dependency()
    dependency.is_away = True
    dependency.breaker.failed(FAULT, is_certain=True)
    await dependency.breaker.stop()
    assert len(asyncio.all_tasks()) == 1
