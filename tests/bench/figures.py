"""The measurements: each returns the figures of every server, from rounds that take turns.

A round measures one server after the other, so that whatever else the machine does falls on all of them; the median of
the rounds counts, and a ratio is the median of each round's ratio. How many messages a run has is set once, from a
short run of its own, so that it lasts about ``seconds``.

A virtual machine's host may take its processors away for milliseconds (``steal``): that stops everything behind a
single-threaded server, and hardly a server of many processes. Rounds of throughput in which that happened are measured
again, and the calmest count.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final, TypeAlias

from tests.bench import load, processes
from tests.bench.servers import Gateway, PostfixWithMilters, Server

MEGABYTE: Final = 1_000_000
BIG: Final = 25 * MEGABYTE
SMALL: Final = 4096

CALM: Final = 0.02
"""The share of the processors' time that the host may take in a run."""

PATIENCE: Final = 3
"""How many times as many rounds are measured at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: How many.
        seconds: Of one run.
        transactions: For the latency, with each server.
        connections: That are held idle.
        messages: Big ones, held at the same time.
    """

    rounds: int = 5
    seconds: float = 2.0
    transactions: int = 2000
    connections: int = 5000
    messages: int = 50


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a server did in each round.

    Attributes:
        rates: Messages a second.
        costs: Microseconds of processor time a message.
        stolen: The share of the processors' time that the host took.
    """

    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    stolen: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def cost(self) -> float:
        """The median."""
        return median(self.costs)

    def of(self, rounds: Sequence[int]) -> "Throughput":
        """The same of some of the rounds."""
        return Throughput(*([each[number] for number in rounds] for each in (self.rates, self.costs, self.stolen)))

    def over(self, other: "Throughput") -> float:
        """How many times the other's rate: the median of the rounds."""
        return median(mine / theirs for mine, theirs in zip(self.rates, other.rates, strict=True))


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one transaction takes, in milliseconds."""

    median: float
    p99: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What the gateway's worker holds, in octets.

    Attributes:
        idle: Before.
        used: Beyond that.
        seconds: What it took.
    """

    idle: int
    used: int
    seconds: float


Progress: TypeAlias = Callable[[str], None]
Start: TypeAlias = Callable[[], AbstractContextManager[Gateway]]


def throughput(
    servers: Sequence[Server], effort: Effort, progress: Progress, *, size: int | Path, sessions: int, kept: bool
) -> Mapping[str, Throughput]:
    """Messages a second, and what one costs; of a size, or those of a file."""

    def run(server: Server, messages: int) -> float:
        return load.smtp_source(server.port, messages=messages, size=size, sessions=sessions, kept=kept)

    counts = {}
    for server in servers:
        first = sessions * (1 if isinstance(size, int) and size > MEGABYTE else 25)
        run(server, first)  # what is loaded and opened on first use
        counts[server.name] = max(sessions, round(first / run(server, first) * effort.seconds))
    found = {server.name: Throughput() for server in servers}
    worst: list[float] = []  # of each round
    while len(worst) < PATIENCE * effort.rounds and sum(share <= CALM for share in worst) < effort.rounds:
        for server in servers:
            progress(f"round {len(worst) + 1}, {server.name}")
            messages = counts[server.name]
            figures = found[server.name]
            before, host = server.cpu(), processes.Steal()
            figures.rates.append(messages / run(server, messages))
            figures.stolen.append(host.share())
            if isinstance(server, PostfixWithMilters):
                server.drain()
            figures.costs.append((server.cpu() - before) / messages * 1e6)
        worst.append(max(figures.stolen[-1] for figures in found.values()))
    calmest = sorted(range(len(worst)), key=worst.__getitem__)[: effort.rounds]
    return {name: figures.of(calmest) for name, figures in found.items()}


def latency(servers: Sequence[Server], effort: Effort, progress: Progress) -> Mapping[str, Latency]:
    """The time of one transaction, message after message, on an otherwise idle server."""
    progress(f"{effort.transactions} transactions with each")
    ports = [server.port for server in servers]
    load.alternate(ports, messages=100, size=SMALL)
    times = load.alternate(ports, messages=effort.transactions, size=SMALL)
    return {
        server.name: Latency(median(taken) * 1000, quantiles(taken, n=100)[98] * 1000)
        for server, taken in zip(servers, times, strict=True)
    }


def idle_memory(start: Start, effort: Effort, progress: Progress, *, after_message: bool) -> Memory:
    """What idle connections hold, in a gateway that is started for it."""
    with start() as gateway:
        progress(f"{effort.connections} connections to {gateway.name}")
        load.alternate([gateway.port], messages=100, size=SMALL)  # what is loaded on first use
        idle = processes.memory(gateway.worker)
        started = time.perf_counter()
        with load.idle_connections(gateway.port, effort.connections, after_message=after_message):
            return Memory(idle, processes.memory(gateway.worker) - idle, time.perf_counter() - started)


def big_memory(start: Start, effort: Effort, progress: Progress) -> Memory:
    """The most that big messages hold which are under way at the same time, in a gateway that is started for it."""
    with start() as gateway:
        progress(f"{effort.messages} messages of {BIG // MEGABYTE} MB to {gateway.name}")
        load.alternate([gateway.port], messages=100, size=SMALL)
        idle = processes.memory(gateway.worker)
        processes.reset_peak(gateway.worker)
        seconds = load.hold_messages(gateway.port, count=effort.messages, size=BIG)
        return Memory(idle, processes.peak_memory(gateway.worker) - idle, seconds)
