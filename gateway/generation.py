"""The workers of one configuration, as the supervisor knows them."""

import socket
from dataclasses import dataclass, field
from typing import Final

from gateway.config.model import Config
from gateway.doors.supervisor import Asker
from gateway.doors.tls import Certificate
from gateway.lifeline import CLOSED, LEFT, READY, Lifeline

NEVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One worker, as the supervisor knows it.

    Attributes:
        pid: Its process id.
        lifeline: What it says, and is told.
        started: When it was forked (``time.monotonic``, as all times here).
        replaces: Whether it came for one that has died.
        is_ready: Whether it has said that it serves.
        is_closed: Whether it has said that it accepts nothing more.
        transactions: How many are left in one that retires, None while that is not known.
    """

    pid: int
    lifeline: Lifeline
    started: float
    replaces: bool
    is_ready: bool = False
    is_closed: bool = False
    transactions: int | None = None

    def hear(self) -> None:
        """Take note of what it has said."""
        for said in self.lifeline.heard():
            if said == READY:
                self.is_ready = True
            elif said == CLOSED:
                self.is_closed = True
            elif said.startswith(LEFT):
                self.transactions = int(said.removeprefix(LEFT))
        self.is_closed |= not self.lifeline.is_open


@dataclass(slots=True, eq=False)
class Generation:
    """The workers of one configuration.

    Attributes:
        config: The configuration.
        listening: The sockets of each listener.
        metrics: Those for Prometheus.
        certificates: Each listener's certificate, None without TLS.
        workers: The workers that live.
        deaths: How many workers died one soon after the other.
        restart_at: When workers that died are to be replaced.
        leaving_since: When it was told to retire or to stop.
        killed_at: When what is left of it is killed.
    """

    config: Config
    listening: list[list[socket.socket]] = field(default_factory=list)
    metrics: list[socket.socket] = field(default_factory=list)
    certificates: list[Certificate | None] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)
    deaths: int = 0
    restart_at: list[float] = field(default_factory=list)
    leaving_since: float = NEVER
    killed_at: float = NEVER

    @property
    def is_ready(self) -> bool:
        """Whether all its workers serve."""
        return len(self.workers) == self.config.workers and all(each.is_ready for each in self.workers)


@dataclass(slots=True, eq=False)
class Change:
    """A generation that begins, and the reload that it is for.

    Attributes:
        new: The generation.
        askers: Who asked for the reload, by the control socket.
        deadline: Until when its workers must be ready; then, until when those of ``old`` must accept nothing more.
        has_failed: Whether one of its workers has died before all were ready.
        old: The generation that retires; None while the new one begins.
    """

    new: Generation
    askers: list[Asker]
    deadline: float
    has_failed: bool = False
    old: Generation | None = None
