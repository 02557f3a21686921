"""The client's name, by its PTR and what confirms it; what one session may ask the DNS."""

import asyncio
import math

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.resolver import (
    Answer,
    ClientName,
    NameStatus,
    RecordType,
    SessionResolver,
    Status,
    ask_ahead,
    client_name,
    known_client_name,
)

CONFIRMED, UNKNOWN, TEMPORARY = NameStatus.CONFIRMED, NameStatus.UNKNOWN, NameStatus.TEMPORARY


class Counting(ZoneResolver):
    """Has nothing at hand but what was asked before, and answers once it is told to."""

    def __init__(self, zone: dict[str, object]) -> None:
        super().__init__(zone)
        self.asked: list[str] = []
        self.released = asyncio.Event()
        self.released.set()

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        self.asked.append(name)
        await self.released.wait()
        return await super().lookup(name, record_type)

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        return super().known(name, record_type) if name in self.asked and self.released.is_set() else None


@pytest.mark.parametrize(
    ("zone", "address", "expected"),
    [
        ({}, "192.0.2.1", ClientName(None, UNKNOWN)),
        ({"192.0.2.1": "SERVFAIL"}, "192.0.2.1", ClientName(None, TEMPORARY)),
        ({"192.0.2.1": {"PTR": "Mail.example.org"}}, "192.0.2.1", ClientName(None, UNKNOWN)),
        (
            {"192.0.2.1": {"PTR": "Mail.example.org"}, "mail.example.org": {"A": "192.0.2.1"}},
            "192.0.2.1",
            ClientName("mail.example.org", CONFIRMED),
        ),
        (
            {"192.0.2.1": {"PTR": ["a.example.org", "b.example.org"]}, "b.example.org": {"A": "192.0.2.1"}},
            "192.0.2.1",
            ClientName("b.example.org", CONFIRMED),
        ),
        (
            {"192.0.2.1": {"PTR": ["a.example.org", "b.example.org"]}, "b.example.org": "TIMEOUT"},
            "192.0.2.1",
            ClientName(None, TEMPORARY),
        ),
        (
            {"2001:db8::1": {"PTR": "mail.example.org"}, "mail.example.org": {"AAAA": "2001:db8:0:0::1"}},
            "2001:db8::1",
            ClientName("mail.example.org", CONFIRMED),
        ),
        (
            {"192.0.2.1": {"PTR": [f"n{n}.example.org" for n in range(9)]}, "n8.example.org": {"A": "192.0.2.1"}},
            "192.0.2.1",
            ClientName(None, UNKNOWN),
        ),
    ],
)
async def test_a_name_counts_when_it_leads_back(zone: dict[str, object], address: str, expected: ClientName) -> None:
    """The first name with the address is the client's; of more than five the rest is not asked; faults stay apart."""
    assert await client_name(ZoneResolver(zone), address) == expected


@pytest.mark.parametrize(
    ("zone", "asked"),
    [
        ({}, 1),
        ({"192.0.2.1": "SERVFAIL"}, 1),
        ({"192.0.2.1": {"PTR": "mail.example.org"}, "mail.example.org": {"A": "192.0.2.1"}}, 2),
        ({"192.0.2.1": {"PTR": ["a.example.org", "b.example.org"]}, "b.example.org": "TIMEOUT"}, 3),
    ],
)
async def test_a_name_is_known_once_all_that_it_takes_is_at_hand(zone: dict[str, object], asked: int) -> None:
    """Then it is what was found, a fault among it; before, nothing is said and nothing is asked."""
    resolver = Counting(zone)
    assert known_client_name(resolver, "192.0.2.1") is None
    found = await client_name(resolver, "192.0.2.1")
    assert known_client_name(resolver, "192.0.2.1") == found
    assert len(resolver.asked) == asked
    resolver.asked.pop()
    assert known_client_name(resolver, "192.0.2.1") is None


def test_only_faults_are_temporary() -> None:
    """A name that does not exist will not exist a moment later either."""
    assert {status for status in Status if status.is_temporary} == {Status.SERVFAIL, Status.TIMEOUT}


async def test_a_session_may_ask_so_many_questions() -> None:
    """The questions up to the limit are answered, what is at hand stays free, and the others end as a time-out."""
    worker = Counting({f"n{number}.example": {"A": "192.0.2.1"} for number in range(4)})
    session = SessionResolver(worker, 2, 60)
    for name in ("n0.example", "n1.example", "n0.example", "n1.example"):
        assert (await session.lookup(name, RecordType.A)).status is Status.FOUND
        assert session.known(name, RecordType.A) == worker.known(name, RecordType.A)
    early = session.exhausted
    assert session.known("n2.example", RecordType.A) is None
    assert (await session.lookup("n2.example", RecordType.A)) == Answer(Status.TIMEOUT)
    assert (await session.lookup("n0.example", RecordType.A)).status is Status.FOUND
    assert (early, session.exhausted) == (False, True)
    assert session.queries == 2
    assert worker.asked == ["n0.example", "n1.example"]
    assert (await SessionResolver(worker, 2, 60).lookup("n2.example", RecordType.A)).records


@pytest.mark.parametrize("longest", [math.inf, 0.05, 5.0])
async def test_a_session_may_wait_so_long(longest: float) -> None:
    """When the session's time is over its questions end, further ones are not asked, and what is at hand stays free.

    Also where the resolver gives each up by itself, only later.
    """
    worker = Counting({"old.example": {"A": "192.0.2.1"}})
    session = SessionResolver(worker, 100, 0.05, longest=longest)
    worker.released.clear()
    answers = await asyncio.gather(*(session.lookup(f"n{number}.example", RecordType.A) for number in range(20)))
    assert set(answers) == {Answer(Status.TIMEOUT)}
    assert session.exhausted
    worker.released.set()
    assert await session.lookup("late.example", RecordType.A) == Answer(Status.TIMEOUT)
    assert "late.example" not in worker.asked
    await worker.lookup("old.example", RecordType.A)
    assert (await session.lookup("old.example", RecordType.A)).records == ("192.0.2.1",)


async def test_the_end_of_a_sessions_time_is_watched_once_a_question_can_outlast_it() -> None:
    """A question that the resolver gives up in time is left to it, and what it took counts."""
    worker = Counting({})
    session = SessionResolver(worker, 100, 0.2, longest=0.1)
    worker.released.clear()
    first = asyncio.create_task(session.lookup("n1.example", RecordType.A))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.15, worker.released.set)
    assert (await first).status is Status.NXDOMAIN
    worker.released.clear()
    assert await session.lookup("n2.example", RecordType.A) == Answer(Status.TIMEOUT)
    assert session.exhausted


async def test_time_in_which_a_session_asks_nothing_is_not_counted() -> None:
    """Only waiting for the DNS counts, and questions at the same time count once."""
    worker = Counting({})
    worker.released.clear()
    session = SessionResolver(worker, 100, 1000)
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = [asyncio.create_task(session.lookup(f"n{number}.example", RecordType.A)) for number in range(50)]
    await asyncio.sleep(0)
    worker.released.set()
    await asyncio.gather(*waiting)
    assert 0 < session._spent <= loop.time() - began
    spent = session._spent
    await session.lookup("n1.example", RecordType.A)
    assert session._spent == spent


async def test_what_is_asked_ahead_is_there_or_on_its_way() -> None:
    """Nothing waits for it, what is known is not asked again, and the answer is at hand once it has come."""
    worker = Counting({"n0.example": {"A": "192.0.2.1"}, "n1.example": {"A": "192.0.2.2"}})
    await worker.lookup("n0.example", RecordType.A)
    ask_ahead(worker, [("n0.example", RecordType.A), ("n1.example", RecordType.A)])
    assert worker.known("n1.example", RecordType.A) is None
    await asyncio.sleep(0)
    assert worker.known("n1.example", RecordType.A) is not None
    assert worker.asked == ["n0.example", "n1.example"]
