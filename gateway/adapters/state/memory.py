"""The state of one worker, in its memory: ``state: memory:``.

It does what ``redis`` does, by the same rules and with the injected clock; ``tests/integration/test_state.py``
holds both to one contract. It is bounded: above ``entries`` the entry that was not used for the longest time is
forgotten, so a flood of new senders costs greylisted ones their place, never the worker its memory. All is lost when
the worker ends.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from gateway.policy import Clock
from gateway.state import (
    CLIENT,
    LEASE,
    Answer,
    Counting,
    Enter,
    Entry,
    Greet,
    Greeted,
    Greeting,
    Kind,
    Operation,
    Take,
    client_entry,
    digest,
    entry_key,
    triplet_entry,
)

KeyT = TypeVar("KeyT")

ENTRIES: Final = 100_000
"""Entries of each kind, some 40 MB in all."""

ROUNDING: Final = 1e-9
"""What sums of fractions may be off; a millionth of what any limit counts."""


LARGEST: Final = 1000
"""How many times what it holds a bucket's level may be, before its time and level are set again."""

_ALWAYS: Final = frozenset({Counting.ADD, Counting.BACK})
"""What is never refused."""


@dataclass(slots=True)
class Bucket:
    """What a bucket held at a time: of the last taking that found less in it than it took.

    What is taken afterwards is in the level, but leaves the time as it is: then what was taken since has not run out.

    Attributes:
        level: What it held.
        at: When, UNIX time.
        held: Until when nothing is granted.
        rate: What it loses a second.
        burst: What it holds.
        low: The least that it has held since then.
    """

    level: float
    at: float
    held: float
    rate: float
    burst: float
    low: float

    def now(self, now: float, rate: float) -> float:
        """What is left of it."""
        return max(0.0, self.level - max(0.0, now - self.at) * rate)

    def back(self, now: float, take: Take, level: float) -> float:
        """How much of what was taken is still in it; see ``State.give_back``."""
        left = take.cost - max(0.0, now - take.since) * take.rate
        if self.at <= take.since:
            left = max(left, min(take.cost, self.low, level))
        return min(max(0.0, left), level)


@dataclass(slots=True)
class _Room:
    """The connections of one subject, each with the time until which it is counted."""

    limit: int
    members: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Triplet:
    envelope: str
    first: float
    last: float
    passes: int
    keep: float


@dataclass(slots=True)
class _Client:
    passes: int
    last: float
    keep: float


class MemoryState:
    """The state of one worker.

    Args:
        clock: Tells the time.
        entries: The most entries of each kind.
        lease: Seconds for which a connection is counted; those of a worker's own memory end when it says so.
    """

    def __init__(self, clock: Clock, *, entries: int = ENTRIES, lease: float = float("inf")) -> None:
        self._clock = clock
        self._entries = entries
        self._lease = lease
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._rooms: OrderedDict[tuple[str, str], _Room] = OrderedDict()
        self._triplets: OrderedDict[tuple[str, str], _Triplet] = OrderedDict()
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    async def ask(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """See ``State``."""
        return self.answer(operations)

    def answer(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """What ``ask`` does, at once."""
        now = self._clock.now()
        answers: list[Answer] = [
            self._room(operation, now) if isinstance(operation, Enter) else self._bucket(operation, now)
            for operation in operations
        ]
        refused = any(
            operation.binding and not answer.granted for operation, answer in zip(operations, answers, strict=True)
        )
        return [
            self._counted(operation, answer, now, refused=refused)
            for operation, answer in zip(operations, answers, strict=True)
        ]

    def _bucket(self, take: Take, now: float) -> Answer:
        bucket = self._buckets.get((take.subject, take.name))
        level = 0.0 if bucket is None else bucket.now(now, take.rate)
        excess = level + min(take.cost, take.burst) - take.burst
        held = 0.0 if bucket is None else max(0.0, bucket.held - now)
        if take.counting in _ALWAYS or (excess <= ROUNDING and not held):
            return Answer(granted=True, level=level)
        return Answer(granted=False, level=level, wait=max(excess / take.rate, held))

    def _room(self, enter: Enter, now: float) -> Answer:
        room = self._rooms.get((enter.subject, enter.name))
        if room is None:
            return Answer(granted=enter.limit > 0, level=0)
        for member in [member for member, until in room.members.items() if until <= now]:
            del room.members[member]
        inside = len(room.members)
        return Answer(granted=enter.member in room.members or inside < enter.limit, level=inside)

    def _counted(self, operation: Operation, answer: Answer, now: float, *, refused: bool) -> Answer:
        """Carry an operation out, and say what the level is then."""
        key = (operation.subject, operation.name)
        counts = answer.granted and not refused
        if isinstance(operation, Enter):
            if not counts:
                return answer
            room = self._rooms.setdefault(key, _Room(operation.limit))
            room.limit = operation.limit
            room.members[operation.member] = now + self._lease
            self._bound(self._rooms, key)
            return Answer(granted=True, level=len(room.members))
        level, before, at = answer.level, answer.level, 0.0
        bucket = self._buckets.get(key) or Bucket(0.0, now, 0.0, operation.rate, operation.burst, 0.0)
        held, low = bucket.held, min(bucket.low, level)
        if operation.counting is Counting.ADD:
            level = max(0.0, min(level + operation.cost, max(level, operation.burst)))
        elif operation.counting is Counting.BACK:
            back = bucket.back(now, operation, level)
            level, low = level - back, max(0.0, low - back)
        elif counts and operation.counting is Counting.TAKE:
            level, at = level + operation.cost, now
            if low < operation.cost or bucket.level > LARGEST * operation.burst:
                before = 0.0
        elif not answer.granted and operation.hold and held <= now:
            held = now + operation.hold
        else:
            return answer
        if before > 0.0:
            bucket = Bucket(bucket.level + level - before, bucket.at, held, operation.rate, operation.burst, low)
        else:
            bucket = Bucket(level, now, held, operation.rate, operation.burst, level)
        self._buckets[key] = bucket
        self._bound(self._buckets, key)
        wait = max(answer.wait, held - now) if not answer.granted else 0.0
        return Answer(granted=answer.granted, level=level, wait=wait, at=at)

    def post(self, operation: Take) -> None:
        """See ``State``."""
        self.answer([replace(operation, counting=Counting.ADD)])

    def give_back(self, operation: Take, answer: Answer) -> None:
        """See ``State``."""
        self.answer([replace(operation, counting=Counting.BACK, since=answer.at)])

    def leave(self, operation: Enter) -> None:
        """See ``State``."""
        key = (operation.subject, operation.name)
        room = self._rooms.get(key)
        if room is not None:
            room.members.pop(operation.member, None)
            if not room.members:
                del self._rooms[key]

    async def greet(self, greet: Greet) -> Greeting:
        """See ``State``."""
        now = self._clock.now()
        client = self._clients.get(greet.client)
        if client is not None and now - client.last > greet.keep:
            client = None
        passes = 0 if client is None else client.passes
        if client is not None and greet.passes and passes >= greet.passes:
            client.last, client.keep = now, greet.keep
            self._bound(self._clients, greet.client)
            return Greeting(Greeted.CLIENT, 0.0, 0.0, passes)
        key = (greet.client, digest(greet.envelope))
        triplet = self._triplets.get(key)
        if triplet is not None:
            gone = now - triplet.last > greet.keep if triplet.passes else now - triplet.first > greet.window
            triplet = None if gone else triplet
        if triplet is None:
            self._triplets[key] = _Triplet(greet.envelope, now, now, 0, greet.window)
            self._bound(self._triplets, key)
            return Greeting(Greeted.NEW, greet.delay, 0.0, passes)
        waited = now - triplet.first
        if not triplet.passes and waited < greet.delay:
            return Greeting(Greeted.EARLY, greet.delay - waited, waited, passes)
        triplet.passes += 1
        triplet.last, triplet.keep = now, greet.keep
        self._bound(self._triplets, key)
        if triplet.passes > 1:
            return Greeting(Greeted.KNOWN, 0.0, waited, passes)
        self._clients[greet.client] = _Client(passes + 1, now, greet.keep)
        self._bound(self._clients, greet.client)
        return Greeting(Greeted.PASSED, 0.0, waited, passes + 1)

    async def entries(self, kind: Kind | None = None) -> AsyncIterator[Entry]:
        """See ``State``."""
        for entry in self.known(kind):
            yield entry

    def known(self, kind: Kind | None = None) -> list[Entry]:
        """What ``entries`` gives, at once."""
        now = self._clock.now()
        found = [*self._bucket_entries(now), *self._room_entries(), *self._greylist_entries(now)]
        return [entry for entry in found if kind in {None, entry.kind} and entry.expires > 0]

    def _bucket_entries(self, now: float) -> Iterator[Entry]:
        for (subject, name), bucket in self._buckets.items():
            level, held = bucket.now(now, bucket.rate), max(0.0, bucket.held - now)
            yield Entry(
                key=entry_key(Kind.RATE, subject, name),
                kind=Kind.RATE,
                name=name,
                subject=subject,
                level=level,
                limit=bucket.burst,
                expires=max(level / bucket.rate, held),
                detail={"rate": bucket.rate, "held": held},
            )

    def _room_entries(self) -> Iterator[Entry]:
        for (subject, name), room in self._rooms.items():
            yield Entry(
                key=entry_key(Kind.CONCURRENCY, subject, name),
                kind=Kind.CONCURRENCY,
                name=name,
                subject=subject,
                level=len(room.members),
                limit=room.limit,
                expires=LEASE,
                detail={"sessions": sorted(room.members)},
            )

    def _greylist_entries(self, now: float) -> Iterator[Entry]:
        for (client, name), triplet in self._triplets.items():
            end = triplet.keep + (triplet.last if triplet.passes else triplet.first)
            yield triplet_entry(client, name, triplet.envelope, triplet.passes, now - triplet.first, end - now)
        for client, known in self._clients.items():
            yield client_entry(client, known.passes, known.last + known.keep - now)

    def adopt(self, entry: Entry) -> None:
        """Take over an entry that was read of another state, in place of the own one."""
        now, key = self._clock.now(), (entry.subject, entry.name)
        detail: Mapping[str, Any] = entry.detail
        if entry.kind is Kind.RATE:
            held, rate = now + float(detail["held"]), float(detail["rate"])
            self._buckets[key] = Bucket(entry.level, now, held, rate, float(entry.limit or 0), entry.level)
        elif entry.kind is Kind.CONCURRENCY:
            self._rooms[key] = _Room(int(entry.limit or 0), dict.fromkeys(detail["sessions"], now + self._lease))
        elif entry.name == CLIENT:
            self._clients[entry.subject] = _Client(int(entry.level), now, entry.expires)
        else:
            first, passes, envelope = now - float(detail["age"]), int(entry.level), str(detail["envelope"])
            keep = entry.expires if passes else entry.expires + float(detail["age"])
            self._triplets[entry.subject, digest(envelope)] = _Triplet(envelope, first, now, passes, keep)

    async def clear(self, key: str) -> bool:
        """See ``State``."""
        return self.forget(key)

    def forget(self, key: str) -> bool:
        """What ``clear`` does, at once."""
        kind, _, rest = key.partition(":{")
        subject, _, name = rest.partition("}:")
        if kind == Kind.GREYLIST and name == CLIENT:
            return self._clients.pop(subject, None) is not None
        kept: Mapping[str, OrderedDict[tuple[str, str], Any]] = {
            Kind.RATE: self._buckets,
            Kind.CONCURRENCY: self._rooms,
            Kind.GREYLIST: self._triplets,
        }
        return kind in kept and kept[kind].pop((subject, name), None) is not None

    async def start(self) -> None:
        """Nothing is connected."""

    async def stop(self) -> None:
        """Nothing is held."""

    def _bound(self, entries: OrderedDict[KeyT, Any], key: KeyT) -> None:
        """The entry was used; the one that was not for the longest time goes if there are too many."""
        entries.move_to_end(key)
        if len(entries) > self._entries:
            entries.popitem(last=False)
