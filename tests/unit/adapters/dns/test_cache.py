"""The cache: how long answers are kept, and how many."""

import pytest

from gateway.adapters.dns.cache import UNIT, AnswerCache, Lifetimes
from gateway.resolver import Answer, RecordType, Status

A = RecordType.A


def found(ttl: float = 300.0, *records: str) -> Answer:
    """An answer with records."""
    return Answer(Status.FOUND, records or ("192.0.2.1",), ttl)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (found(300), 300),
        (found(0), 10),
        (found(9), 10),
        (found(1001), 1000),
        (Answer(Status.NXDOMAIN, (), 0), 3),
        (Answer(Status.NXDOMAIN, (), 1), 10),
        (Answer(Status.NXDOMAIN, (), 99), 99),
        (Answer(Status.NO_DATA, (), 101), 100),
        (Answer(Status.SERVFAIL, (), 500), 3),
        (Answer(Status.TIMEOUT), 3),
    ],
)
def test_lifetimes(answer: Answer, seconds: float) -> None:
    """Answers are kept as they say between floor and cap, negative ones by a cap of their own; failures shortly.

    A negative answer that does not say how long it holds is kept no longer than a failure.
    """
    assert Lifetimes(floor=10, cap=1000, negative_cap=100, failure=3).of(answer) == seconds


def test_an_answer_ages() -> None:
    """What is left of its time goes with it, and when it is over the answer is gone and its place free."""
    now = [100.0]
    cache = AnswerCache(1, lambda: now[0])
    cache.put(("a", A), found(60))
    now[0] = 159.5
    assert cache.get(("a", A)) == found(0.5)
    now[0] = 160
    assert cache.get(("a", A)) is None
    assert len(cache) == 0
    cache.put(("b", A), found())
    assert cache.get(("b", A)) is not None


def test_the_longest_unused_goes_first() -> None:
    """Names and types are kept apart, and what was used lately stays."""
    cache = AnswerCache(3)
    for name in "abc":
        cache.put((name, A), found())
    assert cache.get(("a", A)) is not None
    cache.put(("a", RecordType.MX), found())
    assert [cache.get((name, A)) is not None for name in "abc"] == [True, False, True]


def test_large_answers_take_several_places() -> None:
    """Memory is bounded, too: what is large displaces more, what is larger than the cache is not kept at all."""
    cache = AnswerCache(100)
    for number in range(1000):
        cache.put((f"{number}", RecordType.TXT), found(300, "x" * UNIT * 49))
    assert len(cache) == 2
    cache.put(("many", A), found(300, *(f"192.0.{number // 256}.{number % 256}" for number in range(2000))))
    assert len(cache) == 1
    cache.put(("huge", RecordType.TXT), found(300, "x" * UNIT * 100))
    assert cache.get(("huge", RecordType.TXT)) is None
    assert cache.get(("many", A)) is not None


def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    """The same question takes one place, however often it is answered."""
    cache = AnswerCache(2)
    cache.put(("other", A), found())
    for last in range(5):
        cache.put(("a", A), found(300, f"192.0.2.{last}"))
    assert cache.get(("other", A)) is not None
    answer = cache.get(("a", A))
    assert answer is not None
    assert answer.records == ("192.0.2.4",)


def test_without_places_nothing_is_kept() -> None:
    """``cache: 0`` asks every time."""
    cache = AnswerCache(0)
    cache.put(("a", A), found())
    assert cache.get(("a", A)) is None
