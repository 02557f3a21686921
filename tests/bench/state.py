"""What counting in Redis costs: ``python -m tests.bench --only state``, and a part of ``make bench``.

The first table has the chain of the sender-authentication benchmark with two rate limits in Redis, which is reached
over TCP or over a UNIX socket, against the same without, in turns (``figures``): both limits are at MAIL, and Redis's
own count of scripts shows the round trips. The
second has what one operation costs Redis and the gateway, by the state's own code, 64 at a time; and how many a second
one Redis carries when redis-benchmark does nothing else than call the same script. Redis keeps nothing on disk.
"""

import asyncio
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvloop
from rich.console import Console, Group, RenderableType
from rich.table import Table

from gateway.adapters.state.redis import RedisState
from gateway.adapters.state.scripts import ASK, OPERATION
from gateway.config.state import StateOptions
from gateway.state import Enter, Greet, Operation, Take, subject
from tests.bench import authentication, figures, load
from tests.bench.figures import Effort, Progress, Throughput
from tests.bench.processes import cpu_seconds
from tests.bench.servers import Server, smtp_sink
from tests.support.redis import RedisServer

AT_ONCE: Final = 64
"""Operations in flight; those of one turn of the event loop travel together."""

CLIENTS: Final = 10_000
"""Subjects, so that neither Redis nor the processor's caches see one key only."""

LIMITS: Final = (
    "{rate_limit: {id: per-client, key: client_address, limit: 100000000/w}}, "
    "{rate_limit: {id: per-sender, key: [client_address, reverse_path_domain], limit: 100000000/w}},"
)

COUNTED: Final = 3000
"""Messages for which Redis's work is counted."""

_ROOT: Final = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why this can't be measured here, None if it can."""
    return authentication.why_not()


def measured(effort: Effort, progress: Progress) -> RenderableType:
    """Measure both."""
    with RedisServer() as redis:
        operations = _operations(redis, effort, progress)
        most = {name: _redis_benchmark(redis, keys, effort) for name, keys in (("one limit", 1), ("two limits", 2))}
    chain = _chain(effort, progress)
    return Group(chain, operations_table(operations, most))


# The chain with and without limits.


def _chain(effort: Effort, progress: Progress) -> RenderableType:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lychgate-bench-")))
        folder.chmod(0o755)  # smtp-sink becomes another user
        sink = stack.enter_context(smtp_sink(folder))
        redis = stack.enter_context(RedisServer({"unixsocket": str(folder / "redis")}))
        stack.enter_context(authentication.dns(folder))
        message = folder / "signed"
        message.write_bytes(authentication.signed().data.replace(b"\r\n", b"\n"))
        start = partial(authentication.authenticating, sink, folder, workers=2, source=_ROOT)
        ways = {"over TCP": redis.url, "over a UNIX socket": f"unix://{folder / 'redis'}"}
        without = stack.enter_context(start(name="without"))
        limited = [
            stack.enter_context(start(name=name, limits=LIMITS, more=f"state: {url}")) for name, url in ways.items()
        ]
        found = figures.throughput([without, *limited], effort, progress, size=message, sessions=20, kept=False)
        work = [_work(redis, server, message) for server in limited]
        authentication.check(folder)
    return _chain_table(found, work)


def _work(redis: RedisServer, server: Server, message: Path) -> tuple[float, float]:
    """Redis's work for a message: processor microseconds, and scripts."""
    scripts, spent = _scripts(redis), cpu_seconds(redis.pid)
    load.smtp_source(server.port, messages=COUNTED, size=message, sessions=20, kept=False)
    return (cpu_seconds(redis.pid) - spent) / COUNTED * 1e6, (_scripts(redis) - scripts) / COUNTED


def _chain_table(found: Mapping[str, Throughput], work: Sequence[tuple[float, float]]) -> Table:
    without, *limited = found.values()
    title = "Signed mail of 4 KiB, spf, dkim, dmarc; without and with two rate limits in Redis, in one run"
    table = Table(title=title, title_justify="left")
    for name in ("", *found, "aimed at"):
        table.add_column(name, justify="right" if name in found else "left", no_wrap=True)
    fewer = [f"{(1 - each.over(without)) * 100:.1f} %" for each in limited]
    table.add_row("messages/s", *(f"{each.rate:,.0f}" for each in found.values()))
    table.add_row("fewer than without", "", *fewer, "at most 18 %")
    table.add_row("processor µs a message", *(f"{each.cost:,.0f}" for each in found.values()))
    table.add_row("Redis: processor µs a message", "", *(f"{spent:,.0f}" for spent, _ in work))
    table.add_row("Redis: scripts a message", "", *(f"{calls:.2f}" for _, calls in work), "1: one round trip a stage")
    return table


def _scripts(redis: RedisServer) -> int:
    """How many scripts Redis has carried out."""
    found = redis.client.info("commandstats")
    return sum(found.get(name, {}).get("calls", 0) for name in ("cmdstat_evalsha", "cmdstat_eval"))


# One operation.


@dataclass(frozen=True, slots=True)
class Cost:
    """Of each round: processor microseconds of Redis and of the gateway a call, calls a second; octets of a key."""

    redis: list[float] = field(default_factory=list)
    gateway: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def _take(name: str, client: int) -> Take:
    about = subject(client_address=f"192.0.{client // 250}.{client % 250}")
    return Take(name=f"{name}:100000000/h", subject=about, rate=1e8 / 3600, burst=1e8, cost=1e6)


async def _ask(state: RedisState, *operations: Operation) -> None:
    for answer in await state.ask(operations):
        if isinstance(answer, Exception):
            raise answer


async def _come_and_go(state: RedisState, client: int, number: int) -> None:
    enter = Enter(name="room", subject=subject(client_address=str(client)), member=f"S{number}", limit=1000)
    await _ask(state, enter)
    state.leave(enter)


async def _greet(state: RedisState, client: int, number: int, *, new: bool) -> None:
    envelope = subject(sender=f"alice{number if new else 0}@example.org", recipient="bob@example.com")
    about = subject(client_address=f"192.0.{client // 250}.0/24", number=client)
    await state.greet(Greet(client=about, envelope=envelope, delay=300, window=172_800, keep=3_024_000, passes=5))


WHAT: Final[Mapping[str, Callable[[RedisState, int, int], Any]]] = {
    "one limit": lambda state, client, _: _ask(state, _take("a", client)),
    "two limits": lambda state, client, _: _ask(state, _take("a", client), _take("b", client)),
    "four limits": lambda state, client, _: _ask(state, *(_take(name, client) for name in "abcd")),
    "a connection, to and fro": _come_and_go,
    "greylist, a new triplet": partial(_greet, new=True),
    "greylist, a known one": partial(_greet, new=False),
}


def _operations(redis: RedisServer, effort: Effort, progress: Progress) -> Mapping[str, Cost]:
    found = {name: Cost() for name in WHAT}
    calls = max(2000, round(20_000 * effort.seconds / 2))
    for number in range(effort.rounds):
        for name in WHAT:
            progress(f"round {number + 1} of {effort.rounds}, {name}")
            redis.client.flushall()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_run(redis, name, calls, found[name]))
    return found


async def _run(redis: RedisServer, name: str, calls: int, cost: Cost) -> None:
    state = RedisState(StateOptions(url=redis.url, timeout="5s"))
    await state.start()
    operate = WHAT[name]
    for client in range(200):  # what is loaded on first use
        await operate(state, client, -client)
    numbers: Iterator[int] = iter(range(calls))

    async def caller() -> None:
        for number in numbers:
            await operate(state, number % CLIENTS, number)

    before = redis.client.info("memory")["used_memory"]
    wall, own, its = time.perf_counter(), time.process_time(), cpu_seconds(redis.pid)
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    cost.rates.append(calls / (time.perf_counter() - wall))
    cost.gateway.append((time.process_time() - own) / calls * 1e6)
    cost.redis.append((cpu_seconds(redis.pid) - its) / calls * 1e6)
    keys = redis.client.dbsize()
    if keys > calls / 3:
        cost.memory.append((redis.client.info("memory")["used_memory"] - before) / keys)
    await state.stop()


def _redis_benchmark(redis: RedisServer, keys: int, effort: Effort) -> float:
    """How often a second Redis carries out the script that asks for limits, at most."""
    digest = redis.client.script_load(ASK)
    names = [f"rate:{{__rand_int__}}:{number}" for number in range(keys)]
    operation = struct.pack(OPERATION, b"t", b"1", 0.0278, 1e8 + 0.3, 1e6 + 0.3, 0.1)  # an argument has no NUL
    arguments = ["", *[operation] * keys]
    command = ["redis-benchmark", "-p", str(redis.port), "-c", "50", "-n", str(round(100_000 * effort.seconds / 2)),
               "-r", str(CLIENTS), "--csv", "evalsha", digest, str(keys), *names, *arguments]  # fmt: skip
    found = []
    for _ in range(effort.rounds):
        text = subprocess.run(command, capture_output=True, encoding="latin-1", check=True, timeout=120).stdout
        found.append(float(text.splitlines()[-1].split('","')[1].strip('"')))
    return median(found)


def operations_table(found: Mapping[str, Cost], most: Mapping[str, float]) -> Table:
    """The second table."""
    table = Table(title=f"One call of the state, {AT_ONCE} at a time, by one process", title_justify="left")
    columns: Sequence[str] = ("", "Redis µs", "gateway µs", "calls/s", "octets a key", "calls/s of one Redis, at most")
    for name in columns:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, cost in found.items():
        table.add_row(
            name, f"{median(cost.redis):.1f}", f"{median(cost.gateway):.1f}", f"{median(cost.rates):,.0f}",
            f"{median(cost.memory):,.0f}" if cost.memory else "", f"{most[name]:,.0f}" if name in most else "",
        )  # fmt: skip
    return table


def main() -> None:
    """Measure and print."""
    console = Console(highlight=False, width=140)
    console.print(measured(Effort(), lambda _: None))


if __name__ == "__main__":
    main()
