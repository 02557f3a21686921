"""One worker: a process, or a part of one, that serves the listeners.

``Worker`` builds what the configuration speaks of and opens the doors; ``run`` serves until the supervisor says
otherwise by the lifeline, or has ended. ``STOP``, its end, and SIGTERM drain: transactions under way finish, other
clients get 421. ``RETIRE`` is what a reload does to the old workers: nothing new is accepted, transactions may go on
for ``timeouts.retirement``, other clients get 421.

The end waits for nothing for long: what does not let go in its time is left, for the process ends.
"""

import asyncio
import gc
import signal
import socket
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

import structlog

from gateway import signals
from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.metrics import INTERVAL, Metrics
from gateway.adapters.recipients import view as recipient_view
from gateway.adapters.state import view as state_view
from gateway.adapters.state.memory import MemoryState
from gateway.adapters.state.redis import RedisState
from gateway.assembly import (
    build_chains,
    build_groups,
    build_sink,
    build_sources,
    header_reader,
    identity_of,
    our_domains,
)
from gateway.config.model import Config
from gateway.config.recipients import Readings
from gateway.doors.client_lines import ClientLines
from gateway.doors.control import Command, ControlDoor, Nothing
from gateway.doors.metrics import MetricsDoor
from gateway.doors.places import Places
from gateway.doors.smtp import BY_FORCE, SmtpDoor
from gateway.doors.tls import Certificate, certificate_of
from gateway.lifeline import CLOSED, LEFT, READY, Lifeline
from gateway.log import END_WITHIN
from gateway.log import lost as lost_lines
from gateway.policy import Clock, SystemClock
from gateway.records import RecordSink
from gateway.resolver import Resolver
from gateway.spool import SpoolMemory
from gateway.state import State

log = structlog.get_logger("lychgate.worker")

GARBAGE: Final = 5000
"""Objects after which the garbage collector looks among the newest. Python's 700 are those of a few messages."""

COUNTED_EVERY: Final = 1.0
"""Seconds after which a worker that retires says again how many transactions are left."""

POLICIES_WITHIN: Final = 1.0
"""Seconds that the policies have to stop, together."""

SOURCES_WITHIN: Final = 2.5
"""Seconds that the sources of recipients have to close, together."""

RELEASED_WITHIN: Final = 6.0
"""Seconds that everything else has, together: sources first, connections to backends, the state, records."""

STOPPED_WITHIN: Final = BY_FORCE + POLICIES_WITHIN + RELEASED_WITHIN + END_WITHIN + 2.0
"""Seconds that a worker takes at most to stop, after the time for transactions; some are for a busy machine."""


class Worker:
    """Serves the listeners of a configuration.

    Args:
        config: The configuration.
        listening: Bound and listening sockets of each listener, in the configuration's order.
        certificates: Each listener's certificate, None without TLS; loaded here by default.
        metrics: Bound and listening sockets for Prometheus, where it may fetch numbers.
        sink: Takes the records; what the configuration names by default.
        resolver: Asks the DNS; the name servers of the configuration by default.
        clock: Tells the time; the system's by default.
        accepts_lists: Whether the accepted content of files of recipients is written, for the next start.

    Attributes:
        doors: The open doors.
    """

    def __init__(
        self,
        config: Config,
        listening: Sequence[list[socket.socket]],
        *,
        certificates: Sequence[Certificate | None] | None = None,
        metrics: Sequence[socket.socket] = (),
        sink: RecordSink | None = None,
        resolver: Resolver | None = None,
        clock: Clock | None = None,
        accepts_lists: bool = True,
    ) -> None:
        self._config = config
        self._sink = sink or build_sink(config)
        self._metrics = Metrics(self._sink) if metrics else None
        self._metrics_door = None if self._metrics is None else MetricsDoor(metrics, self._metrics.page)
        self._reading: asyncio.Task[None] | None = None
        self._dns = DnsResolver.from_options(config.dns)
        self._resolver = resolver or self._dns
        clock = clock or SystemClock()
        self._groups = build_groups(config, self._resolver)
        self._sources = build_sources(config, self._groups, accepts=accepts_lists)
        domain = our_domains(config, self._sources)
        self._state = _state(config, clock)
        self._control = None if config.runtime_folder is None else ControlDoor(config.runtime_folder, self._commands())
        self._chains = build_chains(config, domain=domain, resolver=self._resolver, clock=clock, state=self._state)
        if certificates is None:
            certificates = [certificate_of(listener) for listener in config.listeners]
        places, spool_memory = Places(config), SpoolMemory(config.spool.memory_total)
        client_lines = ClientLines(config.log.client_lines, clock)
        self.doors = [
            SmtpDoor(
                config,
                listener,
                sockets,
                certificate=certificate,
                chain=chain,
                groups=self._groups,
                domain=domain,
                identity=identity_of(config),
                resolver=self._resolver,
                sink=self._metrics or self._sink,
                clock=clock,
                places=places,
                client_lines=client_lines,
                header_reader=header_reader(config, listener),
                spool_memory=spool_memory,
            )
            for listener, sockets, certificate, chain in zip(
                config.listeners, listening, certificates, self._chains, strict=True
            )
        ]

    def _commands(self) -> dict[str, Command]:
        """What the control socket offers."""
        caches = self._sources.caches
        return {
            "recipients": Command(recipient_view.Wanted, partial(recipient_view.listing, caches)),
            "flush_recipients": Command(recipient_view.Chosen, partial(recipient_view.flush, caches)),
            **self._state_commands(),
        }

    def _state_commands(self) -> dict[str, Command]:
        """What a worker is asked about the state: its own memory, or how it gets on with Redis."""
        if isinstance(self._state, RedisState):
            return {"state_health": Command(Nothing, partial(state_view.health, self._state))}
        if not isinstance(self._state, MemoryState):
            return {}
        return {
            "state": Command(state_view.Wanted, partial(state_view.listing, self._state)),
            "clear_state": Command(state_view.Cleared, partial(state_view.clear, self._state)),
        }

    async def start(self) -> None:
        """Meet the backends, start the policies, open the doors."""
        await asyncio.gather(self._state.start(), *(group.start() for group in self._groups.values()))
        for chain in set(self._chains):
            await chain.start()
        if self._control is not None:
            await self._control.open()
        for door in self.doors:
            await door.open()
        if self._metrics is not None:
            self._reading = asyncio.get_running_loop().create_task(self._read_numbers(self._metrics))
        if self._metrics_door is not None:
            self._metrics_door.open()

    async def _read_numbers(self, metrics: Metrics) -> None:
        while True:
            metrics.read(
                connections={door.name: door.connections for door in self.doors},
                servers={
                    (name, server.name): server.is_up
                    for name, group in self._groups.items()
                    for server in group.servers
                },
                lists=self._sources.lists,
                log_lines_lost=lost_lines(),
                silent={door.name: door.silent for door in self.doors},
                pipelines=self._state.pipelines.values() if isinstance(self._state, RedisState) else (),
            )
            await asyncio.sleep(INTERVAL)

    async def stop(self, grace: float) -> None:
        """Close the doors, give transactions ``grace`` seconds, and release everything within a few more."""
        self.close()
        await asyncio.gather(*(door.drain(grace) for door in self.doors))
        if self._reading is not None:
            self._reading.cancel()
        await _within(POLICIES_WITHIN, policies=self._stop_policies())
        if self._control is not None:
            await self._control.close()
        await _within(RELEASED_WITHIN, others=self._leave(), state=self._state.stop(), records=self._sink.close())

    async def _stop_policies(self) -> None:
        for chain in set(self._chains):
            await chain.stop()

    async def _leave(self) -> None:
        """Let go of what asks others: the sources, the backends that some of them ask, and the DNS for both."""
        await _within(SOURCES_WITHIN, sources=self._sources.close())
        await asyncio.gather(*(group.stop() for group in self._groups.values()))
        await self._dns.close()

    def close(self) -> None:
        """Accept nothing new; sessions go on. Can be called more than once."""
        for door in self.doors:
            door.close()
        if self._metrics_door is not None:
            self._metrics_door.close()

    async def retire(self, stopping: asyncio.Event, lifeline: Lifeline | None = None) -> None:
        """Return when the last transaction has ended, when their time is over, or when it is to stop.

        Args:
            stopping: Set when it is to stop.
            lifeline: Where it says how many transactions are left.
        """
        for door in self.doors:
            door.send_away()
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(self._count(lifeline))
            stopped = group.create_task(_stopped(stopping))
            await asyncio.gather(*(door.empty(stopped, self._config.timeouts.retirement) for door in self.doors))
            counting.cancel()
            stopped.cancel()

    async def _count(self, lifeline: Lifeline | None) -> None:
        said = None
        while lifeline is not None:
            left = sum(door.transactions for door in self.doors)
            if left != said and lifeline.say(LEFT + str(left).encode()):
                said = left
            await asyncio.sleep(COUNTED_EVERY)


async def _stopped(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _within(seconds: float, **work: Coroutine[Any, Any, None]) -> None:
    """Do things at the same time; what takes longer is left, and what fails is said."""
    tasks = [asyncio.create_task(each, name=name) for name, each in work.items()]
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()  # and not waited for: it may be held up where it can't be cancelled
        log.warning("not released in time", what=task.get_name())
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("not released", what=task.get_name(), exc_info=error)


async def run(
    config: Config,
    listening: Sequence[list[socket.socket]],
    *,
    certificates: Sequence[Certificate | None] | None = None,
    metrics: Sequence[socket.socket] = (),
    lifeline: Lifeline | None = None,
) -> None:
    """Serve until told to stop.

    Args:
        config: The configuration.
        listening: See ``Worker``.
        certificates: See ``Worker``.
        metrics: See ``Worker``.
        lifeline: To the supervisor.
    """
    loop = asyncio.get_running_loop()
    stopping, retiring = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    signals.go_on()
    if lifeline is not None:
        lifeline.obey(loop, retire=retiring.set, stop=stopping.set)
    worker = Worker(config, listening, certificates=certificates, metrics=metrics)
    Readings.release_all()  # or what lists had, now or before a reload, would stay when they have changed
    told = [asyncio.ensure_future(event.wait()) for event in (stopping, retiring)]
    starting = asyncio.ensure_future(worker.start())
    await asyncio.wait([starting, told[0]], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # whatever it waits for: there is no client yet
        return
    await starting
    settle()
    if lifeline is not None:
        lifeline.say(READY)
    log.info("worker ready", listeners=[door.name for door in worker.doors])
    await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
    if retiring.is_set() and not stopping.is_set():
        worker.close()
        if lifeline is not None:
            lifeline.say(CLOSED)
        await worker.retire(stopping, lifeline)
    for waiting in told:
        waiting.cancel()
    await worker.stop(config.timeouts.drain)
    log.info("worker stopped")


def settle() -> None:
    """Let the garbage collector pass over what is there by now: modules and the configuration, which stay.

    They are nearly all that it would look through, again and again: a tenth of the time of a message whose sender is
    checked. Nothing of a message waits for the collector but what an exception left behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def _state(config: Config, clock: Clock) -> State:
    """What workers and machines count together; a worker's own memory where nothing is shared."""
    options = config.state
    if options.is_shared:
        return RedisState(options, workers=config.workers)
    return MemoryState(clock, entries=options.entries)
