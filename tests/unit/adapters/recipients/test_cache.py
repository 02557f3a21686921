"""What a source said, remembered."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.recipients.cache import CachedSource
from gateway.config.recipients import CacheOptions
from gateway.lookup.answer import Answer, UnverifiableError


class Book:
    """A source that knows some addresses, counts its questions, and can be away or slow."""

    def __init__(self, *known: str, folds_case: bool = True) -> None:
        self.folds_case = folds_case
        self.known = set(known)
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.forgotten: list[str | None] = []
        self.closed = False
        self._questions = asyncio.Semaphore(0)

    async def was_asked(self) -> None:
        """Wait for one more question."""
        await self._questions.acquire()

    async def ask(self, local_part: str, domain: str) -> Answer:
        address = f"{local_part}@{domain}"
        self.asked.append(address)
        self._questions.release()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Answer(address in self.known, f"looked up {address}")

    def forget(self, domain: str | None) -> None:
        self.forgotten.append(domain)

    async def close(self) -> None:
        self.closed = True


class Seconds:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def cached(
    book: Book, seconds: Callable[[], float] | None = None, timeout: float = 30.0, **options: Any
) -> CachedSource:
    """The source with a cache: yes 100 s, no 10 s, unknown 2 s, stale 1000 s, unless other times are given."""
    times = {"yes": "100s", "no": "10s", "unknown": "2s", "stale": "1000s"} | options
    return CachedSource(
        "book", book, CacheOptions.model_validate(times), timeout=timeout, monotonic=seconds or Seconds()
    )


async def known(source: CachedSource, address: str) -> bool | None:
    """Whether an address exists, None where it can't be told."""
    local_part, _, domain = address.rpartition("@")
    try:
        return await source.find(local_part, domain)
    except UnverifiableError:
        return None


async def test_yes_no_and_unknown_are_remembered_for_times_of_their_own() -> None:
    """Each until its time is over, and not a moment longer."""
    book, seconds = Book("alice@a.test"), Seconds()
    source = cached(book, seconds)
    for address, answer, keep in (("alice@a.test", True, 100), ("bob@a.test", False, 10)):
        assert await known(source, address) is answer
        seconds.now += keep - 0.5
        assert await known(source, address) is answer
        assert book.asked.count(address) == 1
        seconds.now += 0.5
        assert await known(source, address) is answer
        assert book.asked.count(address) == 2
    book.error = ConnectionRefusedError("nobody listens")
    for _ in range(3):
        assert await known(source, "carol@a.test") is None
    assert book.asked.count("carol@a.test") == 1
    seconds.now += 2
    book.error = None
    assert await known(source, "carol@a.test") is False


async def test_an_old_yes_counts_while_nothing_can_be_told() -> None:
    """For as long as stale says; it is asked about again at the pace of a don't-know."""
    book, seconds = Book("alice@a.test"), Seconds()
    source = cached(book, seconds)
    assert await known(source, "alice@a.test") is True
    book.error = OSError("away")
    seconds.now += 100
    assert await known(source, "alice@a.test") is True
    assert await known(source, "alice@a.test") is True
    assert len(book.asked) == 2
    (entry,) = [entry for _, _, entry, _, _ in source.entries()]
    assert entry.stale
    seconds.now += 999
    assert await known(source, "alice@a.test") is True
    seconds.now += 2
    assert await known(source, "alice@a.test") is None
    book.error = None
    await source.breaker.healed.wait()
    seconds.now += 2
    assert await known(source, "alice@a.test") is True


async def test_an_old_no_never_counts() -> None:
    """A fault is no refusal: what was unknown may exist by now."""
    book, seconds = Book(), Seconds()
    source = cached(book, seconds)
    assert await known(source, "bob@a.test") is False
    book.error = OSError("away")
    seconds.now += 10
    assert await known(source, "bob@a.test") is None


async def test_questions_about_one_address_share_one_answer() -> None:
    """Those that come while it is asked about wait for it; another address is asked about beside it."""
    book = Book("alice@a.test")
    book.gate = asyncio.Event()
    source = cached(book)
    asking = [asyncio.create_task(known(source, "alice@a.test")) for _ in range(50)]
    other = asyncio.create_task(known(source, "bob@a.test"))
    await book.was_asked()
    await book.was_asked()
    book.gate.set()
    assert await asyncio.gather(*asking) == [True] * 50
    assert await other is False
    assert sorted(book.asked) == ["alice@a.test", "bob@a.test"]
    assert (source.asked, source.hits, source.failures) == (2, 0, 0)


async def test_who_gives_up_does_not_end_the_question() -> None:
    """The answer still comes for those who wait, and is remembered."""
    book = Book("alice@a.test")
    book.gate = asyncio.Event()
    source = cached(book)
    impatient = asyncio.create_task(known(source, "alice@a.test"))
    patient = asyncio.create_task(known(source, "alice@a.test"))
    await book.was_asked()
    impatient.cancel()
    book.gate.set()
    assert await patient is True
    assert await known(source, "alice@a.test") is True
    assert len(book.asked) == 1
    assert impatient.cancelled()


async def test_a_source_that_is_too_slow_can_not_tell() -> None:
    """After its time-out nothing is known."""
    book = Book("alice@a.test")
    book.gate = asyncio.Event()
    source = cached(book, timeout=0.01)
    with pytest.raises(UnverifiableError, match=r"no answer within 0\.01 seconds"):
        await source.find("alice", "a.test")
    await source.close()


async def test_a_driver_that_does_not_give_up_holds_nobody_up() -> None:
    """A time-out is one, though the driver goes on trying to tell its server that nobody waits any more."""

    class Stubborn(Book):
        gave_up = asyncio.Event()

        async def ask(self, local_part: str, domain: str) -> Answer:
            try:
                return await super().ask(local_part, domain)
            except asyncio.CancelledError:
                await self.gave_up.wait()
                raise

    book = Stubborn()
    book.gate = asyncio.Event()
    source = cached(book, timeout=0.01)
    with pytest.raises(UnverifiableError, match=r"no answer within 0\.01 seconds"):
        await source.find("alice", "a.test")
    await source.close()
    assert len(asyncio.all_tasks()) == 1


async def test_any_error_of_a_driver_means_that_it_can_not_be_told() -> None:
    """With its name and text for the record."""
    book = Book()
    book.error = KeyError("oops")
    with pytest.raises(UnverifiableError, match="KeyError: 'oops'"):
        await cached(book).find("alice", "a.test")


async def test_the_number_of_addresses_is_bounded() -> None:
    """The one unused for longest goes first."""
    book = Book("alice@a.test")
    source = cached(book, entries=3)
    for user in ("alice", "b", "c", "alice", "d", "alice", "e", "alice"):
        await known(source, f"{user}@a.test")
    assert book.asked.count("alice@a.test") == 1
    assert [local_part for local_part, *_ in source.entries()] == ["d", "e", "alice"]


@pytest.mark.parametrize("folds", [True, False])
async def test_case_counts_where_the_source_says_so(folds: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """Else an address is asked about once, in lower case."""
    book = Book("alice@a.test", folds_case=folds)
    source = cached(book)
    assert await known(source, "ALICE@a.test") is folds
    assert await known(source, "alice@a.test") is True
    assert len(book.asked) == (1 if folds else 2)


async def test_flush_forgets_an_address_a_domain_or_everything() -> None:
    """And nothing else; the source is told, too."""
    book = Book()
    source = cached(book)
    for address in ("a@a.test", "b@a.test", "a@b.test", "c@c.test"):
        await known(source, address)
    assert source.flush("A", "a.test") == 1
    assert {f"{local_part}@{domain}" for local_part, domain, *_ in source.entries()} == {
        "b@a.test",
        "a@b.test",
        "c@c.test",
    }
    assert source.flush(domain="b.test") == 1
    assert source.flush() == 2
    assert list(source.entries()) == []
    assert book.forgotten == ["a.test", "b.test", None]


async def test_what_is_asked_while_it_is_flushed_is_not_remembered() -> None:
    """The answer may be older than the reason for the flush."""
    book = Book()
    book.gate = asyncio.Event()
    source = cached(book)
    asking = asyncio.create_task(known(source, "alice@a.test"))
    await book.was_asked()
    source.flush()
    book.known.add("alice@a.test")
    book.gate.set()
    await asking
    assert await known(source, "alice@a.test") is True
    assert len(book.asked) == 2


async def test_an_outage_is_told_once() -> None:
    """Not one line a message; and one more when it is over."""
    book, seconds = Book(), Seconds()
    source = cached(book, seconds)
    with capture_logs() as lines:
        await known(source, "a@a.test")
        book.error = OSError("away")
        for number in range(20):
            await known(source, f"b{number}@a.test")
        book.error = None
        await source.breaker.healed.wait()
        for number in range(20):
            await known(source, f"c{number}@a.test")
    assert [(line["event"], line["source"]) for line in lines] == [
        ("recipient source can't tell", "book"),
        ("recipient source away", "book"),
        ("recipient source back", "book"),
    ]
    assert [line["reason"] for line in lines[:2]] == ["OSError: away"] * 2
    assert lines[2]["unanswered"] == 17
    await source.close()


async def test_a_source_that_does_not_answer_is_left_alone() -> None:
    """After three questions nobody waits for it: an old yes counts, the rest is unknown, and only probes are sent."""
    book, seconds = Book("alice@a.test"), Seconds()
    source = cached(book, seconds)
    assert await known(source, "alice@a.test") is True
    book.error = OSError("away")
    seconds.now += 100
    for number in range(3):
        assert await known(source, f"b{number}@a.test") is None
    asked = len(book.asked)
    for number in range(50):
        assert await known(source, f"c{number}@a.test") is None
        assert await known(source, "alice@a.test") is True
    assert len(book.asked) == asked
    with pytest.raises(UnverifiableError, match="the source is away"):
        await source.find("dave", "a.test")
    book.error = None
    await source.breaker.healed.wait()
    assert set(book.asked[asked:]) == {"postmaster@a.test"}
    assert await known(source, "dave@a.test") is False
    assert await known(source, "alice@a.test") is True
    await source.close()


async def test_a_source_that_answers_nonsense_is_asked_on() -> None:
    """Addresses that it can't tell do not keep others from being asked about, and are not a line of the log each."""
    book = Book("alice@a.test")
    source = cached(book)
    book.error = UnverifiableError("the server said 451")
    with capture_logs() as lines:
        for number in range(50):
            assert await known(source, f"b{number}@a.test") is None
        book.error = None
        assert await known(source, "alice@a.test") is True
        book.error = UnverifiableError("the server said 451")
        assert await known(source, "c@a.test") is None
    assert not source.breaker.is_tripped
    assert len(book.asked) == 52
    assert [line["event"] for line in lines] == ["recipient source can't tell"]


async def test_a_source_is_back_when_it_answers_its_probe_with_nonsense() -> None:
    """It is there again; whether it can tell is for those who ask."""
    book = Book("alice@a.test")
    source = cached(book)
    book.error = OSError("away")
    for number in range(3):
        await known(source, f"b{number}@a.test")
    assert source.breaker.is_tripped
    book.error = UnverifiableError("the server said 451")
    await source.breaker.healed.wait()
    book.error = None
    assert await known(source, "alice@a.test") is True


async def test_closing_ends_what_is_asked_and_closes_the_source() -> None:
    """Nothing runs on behind it."""
    book = Book()
    book.gate = asyncio.Event()
    source = cached(book)
    asking = asyncio.create_task(known(source, "alice@a.test"))
    await book.was_asked()
    await source.close()
    assert book.closed
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(asyncio.all_tasks()) == 1


async def test_asking_goes_past_what_is_remembered() -> None:
    """And leaves it as it is."""
    book = Book()
    source = cached(book)
    assert await known(source, "alice@a.test") is False
    book.known.add("alice@a.test")
    assert await source.ask("Alice", "a.test") == Answer(True, "looked up alice@a.test")
    assert await known(source, "alice@a.test") is False
