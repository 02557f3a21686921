"""The state in Redis: one server, the master that sentinels name, or a cluster.

Every operation is one script (``scripts``), so it is atomic, and takes its time from Redis. Keys are
``PREFIX:SCHEMA:KIND:{SUBJECT}:NAME``; the braces give all that is about one subject the same slot of a cluster. Every
key has a time to live. What happens while a server is away is ``pipeline``'s; which servers there are ``topology``'s.

A connection that is counted (``Enter``) is held by its worker: renewed while it lasts, so that it stays counted in a
Redis that was restarted empty, and forgotten by Redis ``LEASE`` seconds after its worker died.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import structlog
from msgspec.structs import replace
from redis.exceptions import RedisError

from gateway.adapters.state.call import CONNECT, Call, Script
from gateway.adapters.state.memory import MemoryState
from gateway.adapters.state.pipeline import Pipeline, error_text
from gateway.adapters.state.scripts import ASK, BUCKET, GREET, LEAVE, OPERATION, READ, RENEW
from gateway.adapters.state.topology import Topology, make_topology
from gateway.config.state import StateOptions
from gateway.policy import Clock, SystemClock
from gateway.state import (
    CLIENT,
    LEASE,
    SCHEMA,
    Answer,
    Counting,
    Enter,
    Entry,
    Greet,
    Greeted,
    Greeting,
    Kind,
    Operation,
    StateUnavailableError,
    Take,
    client_entry,
    digest,
    entry_key,
    triplet_entry,
)

log = structlog.get_logger("lychgate.state")

MICRO: Final = 1_000_000
_RATE: Final = Kind.RATE  # members of an enum are slow to find before Python 3.12
_CONCURRENCY: Final = Kind.CONCURRENCY
_ASK: Final = Script.of(ASK)
_GREET: Final = Script.of(GREET)
_LEAVE: Final = Script.of(LEAVE)
_RENEW: Final = Script.of(RENEW)
_READ: Final = Script.of(READ)
_LETTERS: Final = {Counting.TAKE: b"t", Counting.LOOK: b"l", Counting.ADD: b"a", Counting.BACK: b"b"}
_BACK: Final = Counting.BACK
_CHUNK: Final = 500
"""Sessions of one renewal, and keys that are read at a time for people."""


@dataclass(slots=True)
class _Held:
    """The connections of one subject that this worker has."""

    limit: int
    members: set[str] = field(default_factory=set)


class RedisState:
    """See the module.

    Args:
        options: Where Redis is.
        workers: Of how many workers this is one: an approximation gives each its share of a limit.
        clock: None for Redis's own time; tests hand in one of theirs.
        lease: Seconds for which a connection is counted after its worker has died.
    """

    def __init__(
        self, options: StateOptions, *, workers: int = 1, clock: Clock | None = None, lease: float = LEASE
    ) -> None:
        self._topology: Topology = make_topology(options, (_ASK, _GREET, _LEAVE, _RENEW))
        self._name = str(options.place)
        self._prefix = f"{options.prefix}:{SCHEMA}:"
        self._timeout = options.timeout
        self._workers = workers
        self._clock = clock
        self._lease = lease
        self._pipelines: dict[str, Pipeline] = {}
        self._held: dict[tuple[str, str], _Held] = {}
        self._local = MemoryState(clock or SystemClock())
        self._renewing: asyncio.Task[None] | None = None

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """Those to each server; empty before anything was asked."""
        return self._pipelines

    async def start(self) -> None:
        """Connect, and begin to renew what is held."""
        key = self._key(Kind.RATE, "probe", "probe")
        try:
            await self._topology.renew(key)
        except (RedisError, OSError, TimeoutError) as error:
            self._pipeline(key).lose(key, error)
        self._renewing = asyncio.get_running_loop().create_task(self._renewals())

    async def stop(self) -> None:
        """Let go of what is held, and disconnect."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        for (subject, name), held in self._held.items():
            for member in held.members:
                self._send_leave(subject, name, member)
        self._held.clear()
        await asyncio.gather(*(pipeline.stop() for pipeline in self._pipelines.values()))
        await self._topology.close()

    # Limits.

    async def ask(self, operations: Sequence[Operation]) -> Sequence[Answer | StateUnavailableError]:
        """See ``State``."""
        entering = [operation for operation in operations if isinstance(operation, Enter)]
        for enter in entering:
            self._hold(enter)
        if not self._topology.spread or len({operation.subject for operation in operations}) == 1:
            answers = await self._ask(operations)
        else:
            answers = await self._ask_apart(operations)
        if entering:
            refused = is_refused(operations, answers)
            for operation, answer in zip(operations, answers, strict=True):
                if isinstance(operation, Enter) and isinstance(answer, Answer) and (refused or not answer.granted):
                    self._release(operation)
        return answers

    async def _ask(self, operations: Sequence[Operation]) -> Sequence[Answer | StateUnavailableError]:
        """Ask for operations of one slot."""
        call = self._call(operations)
        try:
            found = await self._pipeline(call.keys[0]).call(call)
        except StateUnavailableError as error:
            return self._approximated(operations, error)
        if not _is_whole(found, len(operations)):
            return self._approximated(operations, StateUnavailableError("the state answered by half"))
        return [
            Answer(True, found[at + 1] / 1000, 0.0, False, found[at + 2] / MICRO)
            if found[at]
            else Answer(False, found[at + 1] / 1000, found[at + 2] / MICRO)
            for at in range(0, len(found), 3)
        ]

    async def _ask_apart(self, operations: Sequence[Operation]) -> Sequence[Answer | StateUnavailableError]:
        """Ask for operations of several slots at the same time, and give back what was counted if one refuses."""
        groups: dict[str, list[int]] = {}
        for index, operation in enumerate(operations):
            groups.setdefault(operation.subject, []).append(index)
        asked = await asyncio.gather(
            *(self._ask([operations[index] for index in indexes]) for indexes in groups.values())
        )
        answers: dict[int, Answer | StateUnavailableError] = {}
        for indexes, found in zip(groups.values(), asked, strict=True):
            answers |= zip(indexes, found, strict=True)
        ordered = [answers[index] for index in range(len(operations))]
        if is_refused(operations, ordered):
            for indexes, found in zip(groups.values(), asked, strict=True):
                members = [operations[index] for index in indexes]
                if not is_refused(members, found):
                    self._give_back(members, found)
        return ordered

    def _give_back(self, operations: Iterable[Operation], answers: Iterable[Answer | StateUnavailableError]) -> None:
        for operation, answer in zip(operations, answers, strict=True):
            if isinstance(answer, StateUnavailableError) or not answer.granted or answer.approximate:
                continue
            if isinstance(operation, Enter):
                self._send_leave(operation.subject, operation.name, operation.member)
            elif operation.counting is Counting.TAKE:
                self.give_back(operation, answer)

    def _call(self, operations: Iterable[Operation]) -> Call:
        """How operations are asked for."""
        keys: list[str] = []
        arguments: list[object] = [self._now()]
        for each in operations:
            if isinstance(each, Enter):
                kind = _CONCURRENCY
                packed = _packed(b"e", each.binding, each.limit, self._lease * MICRO) + each.member.encode()
            else:
                kind = _RATE
                what = _LETTERS[each.counting]
                if each.counting is _BACK:  # each another time, so not worth to be remembered
                    since = round(each.since * MICRO)
                    packed = struct.pack(OPERATION, what, b"0", each.rate / MICRO, each.burst, each.cost, since)
                else:
                    packed = _packed(what, each.binding, each.rate / MICRO, each.burst, each.cost, each.hold * MICRO)
            keys.append(self._prefix + entry_key(kind, each.subject, each.name))
            arguments.append(packed)
        return Call(_ASK, keys, arguments)

    def _approximated(
        self, operations: Sequence[Operation], error: StateUnavailableError
    ) -> Sequence[Answer | StateUnavailableError]:
        """What this worker knows by itself, for operations that may be approximated."""
        indexes = [index for index, operation in enumerate(operations) if operation.approximate]
        known = self._local.answer([self._share(operations[index]) for index in indexes]) if indexes else ()
        answers: list[Answer | StateUnavailableError] = [error] * len(operations)
        for index, answer in zip(indexes, known, strict=True):
            answers[index] = replace(answer, approximate=True)
        return answers

    def _share(self, operation: Operation) -> Operation:
        if isinstance(operation, Enter):
            return replace(operation, limit=max(1, operation.limit // self._workers))
        return replace(operation, rate=operation.rate / self._workers, burst=max(1.0, operation.burst / self._workers))

    def post(self, operation: Take) -> None:
        """See ``State``."""
        operation = replace(operation, counting=Counting.ADD)
        call = self._call([operation])
        pipeline = self._pipeline(call.keys[0])
        if pipeline.is_open:
            pipeline.send(call)
        elif operation.approximate:
            self._local.answer([self._share(operation)])

    def give_back(self, operation: Take, answer: Answer) -> None:
        """See ``State``."""
        operation = replace(operation, counting=Counting.BACK, since=answer.at)
        if answer.approximate:
            self._local.answer([self._share(operation)])
            return
        call = self._call([operation])
        self._pipeline(call.keys[0]).send(call)

    # Connections.

    def leave(self, operation: Enter) -> None:
        """See ``State``."""
        self._local.leave(operation)
        if self._release(operation):
            self._send_leave(operation.subject, operation.name, operation.member)

    def _hold(self, operation: Enter) -> None:
        held = self._held.setdefault((operation.subject, operation.name), _Held(operation.limit))
        held.limit = operation.limit
        held.members.add(operation.member)

    def _release(self, operation: Enter) -> bool:
        key = (operation.subject, operation.name)
        held = self._held.get(key)
        if held is None or operation.member not in held.members:
            return False
        held.members.discard(operation.member)
        if not held.members:
            del self._held[key]
        return True

    def _send_leave(self, subject: str, name: str, member: str) -> None:
        key = self._key(Kind.CONCURRENCY, subject, name)
        self._pipeline(key).send(Call(_LEAVE, [key], ["", member]))

    async def _renewals(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)  # two may fail
            await self.renew()

    async def renew(self) -> None:
        """Say of every connection that is held that it is still there; one subject after the other."""
        lease = round(self._lease * MICRO)
        for (subject, name), held in list(self._held.items()):
            key = self._key(Kind.CONCURRENCY, subject, name)
            members = sorted(held.members)
            for start in range(0, len(members), _CHUNK):
                some = members[start : start + _CHUNK]
                try:
                    await self._pipeline(key).call(Call(_RENEW, [key], [self._now(), held.limit, lease, *some]))
                except StateUnavailableError:
                    break  # the next round is in time
                except RedisError as error:  # of this entry alone
                    log.error("connections not renewed", key=key, error=str(error))  # noqa: TRY400 - not a fault here
                    break

    # The greylist.

    async def greet(self, greet: Greet) -> Greeting:
        """See ``State``."""
        keys = [
            self._key(Kind.GREYLIST, greet.client, digest(greet.envelope)),
            self._key(Kind.GREYLIST, greet.client, CLIENT),
        ]
        spans = [round(span * MICRO) for span in (greet.delay, greet.window, greet.keep)]
        found = await self._pipeline(keys[0]).call(
            Call(_GREET, keys, [self._now(), *spans, greet.passes, greet.envelope])
        )
        status, wait, waited, passes = found
        return Greeting(Greeted(status.decode()), wait / MICRO, waited / MICRO, passes)

    # For people.

    async def entries(self, kind: Kind | None = None) -> AsyncIterator[Entry]:
        """See ``State``."""
        pattern = f"{self._prefix}{'*' if kind is None else kind}:{{*"
        try:
            chunk: list[str] = []
            async for key in self._topology.keys(pattern):
                chunk.append(key.decode())
                if len(chunk) >= _CHUNK:
                    for entry in await self._read(chunk):
                        yield entry
                    chunk = []
            for entry in await self._read(chunk):
                yield entry
        except (RedisError, OSError, TimeoutError) as error:
            raise StateUnavailableError(f"{self._name}: {error_text(error)}") from error

    async def find(self, key: str) -> Entry | None:
        """An entry by its key; only looks.

        Raises:
            StateUnavailableError: It can't be told.
        """
        try:
            return next(iter(await self._read([self._prefix + key])), None)
        except (RedisError, OSError, TimeoutError) as error:
            raise StateUnavailableError(f"{self._name}: {error_text(error)}") from error

    async def _read(self, keys: Sequence[str]) -> list[Entry]:
        by_home: dict[str, list[str]] = {}
        for key in keys:
            by_home.setdefault(self._topology.home(key), []).append(key)
        found: list[Entry] = []
        for some in by_home.values():
            results = await self._topology.execute([Call(_READ, [key], [self._now()]) for key in some], CONNECT)
            for key, result in zip(some, results, strict=True):
                if isinstance(result, Exception):
                    raise result
                entry = _entry(key.removeprefix(self._prefix), result)
                if entry is not None:
                    found.append(entry)
        return found

    async def clear(self, key: str) -> bool:
        """See ``State``."""
        try:
            return await self._topology.delete(self._prefix + key)
        except (RedisError, OSError, TimeoutError) as error:
            raise StateUnavailableError(f"{self._name}: {error_text(error)}") from error

    # Keys, pipelines and time.

    def _key(self, kind: Kind, about: str, name: str) -> str:
        return self._prefix + entry_key(kind, about, name)

    def _pipeline(self, key: str) -> Pipeline:
        home = self._topology.home(key)
        pipeline = self._pipelines.get(home)
        if pipeline is None:
            name = f"{self._name} ({home})" if home else self._name
            pipeline = self._pipelines[home] = Pipeline(self._topology, name, self._timeout, self._probe)
        return pipeline

    def _probe(self, key: str) -> Call:
        """A write to a key in the same slot as one that failed; it is gone within a second."""
        about = key.partition("{")[2].partition("}")[0]
        return Call(_ASK, [f"{self._prefix}probe:{{{about}}}"], ["", _packed(b"a", False, 1 / MICRO, 1, 1)])

    def _now(self) -> int | str:
        return "" if self._clock is None else round(self._clock.now() * MICRO)


@lru_cache(maxsize=1024)
def _packed(what: bytes, binds: bool, one: float, two: float, three: float = 0, four: float = 0) -> bytes:  # noqa: FBT001 - by place
    """An operation as ``ASK`` takes it; remembered, because a policy asks for little else than the key anew."""
    return struct.pack(OPERATION, what, b"1" if binds else b"0", one, two, three, four)


def is_refused(operations: Iterable[Operation], answers: Iterable[Answer | StateUnavailableError]) -> bool:
    """Whether one that binds is not granted."""
    return any(
        operation.binding and isinstance(answer, Answer) and not answer.granted
        for operation, answer in zip(operations, answers, strict=True)
    )


def _entry(key: str, found: Sequence[Any]) -> Entry | None:
    """What a key and what was read of it come to; None when it is gone."""
    try:
        return _readable(key, found)
    except (ValueError, TypeError, IndexError, AttributeError, struct.error):  # somebody wrote it by hand
        return None


def _readable(key: str, found: Sequence[Any]) -> Entry | None:
    now, ttl, value = found
    kind, _, rest = key.partition(":{")
    about, _, name = rest.partition("}:")
    if ttl <= 0 or not value or kind not in set(Kind):  # a probe is of no kind
        return None
    expires = ttl / 1000
    if kind == Kind.CONCURRENCY:
        scores = {value[at].decode(): float(value[at + 1]) for at in range(0, len(value), 2)}
        limit = -scores.pop("", 0.0)
        sessions = sorted(member for member, until in scores.items() if until > now)
        return Entry(
            key=key, kind=Kind.CONCURRENCY, name=name, subject=about, level=len(sessions), limit=limit,
            expires=expires, detail={"sessions": sessions},
        )  # fmt: skip
    if kind == Kind.RATE:
        level, at, until, rate, _, burst = struct.unpack(BUCKET, value)
        return Entry(
            key=key, kind=Kind.RATE, name=name, subject=about, level=max(0.0, level - max(0.0, now - at) * rate),
            limit=burst, expires=expires, detail={"rate": rate * MICRO, "held": max(0.0, (until - now) / MICRO)},
        )  # fmt: skip
    parts = value.split()
    if name == CLIENT:
        return client_entry(about, int(parts[0]), expires)
    age = (now - float(parts[0])) / MICRO
    return triplet_entry(about, name, b"".join(parts[3:]).decode(), int(parts[1]), age, expires)


def _is_whole(found: Any, operations: int) -> bool:
    """Whether a reply says of each operation whether it is granted, 0 or 1, and the two numbers that belong to it."""
    return (
        type(found) is list
        and len(found) == 3 * operations
        and all(type(number) is int for number in found)
        and all(granted in {0, 1} for granted in found[::3])
    )
