"""One worker: a process, or a part of one, that serves the listeners.

``Worker`` builds what the configuration speaks of and opens the doors; ``run`` serves until it is told to stop. It is
told by signals of the supervisor, or by its end: SIGTERM drains (transactions under way finish, idle clients get 421),
SIGUSR1 retires (no new connections, sessions go on to their end: what a reload does to the old workers).
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

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
from gateway.doors.client_lines import ClientLines
from gateway.doors.control import ControlDoor, Handler
from gateway.doors.metrics import MetricsDoor
from gateway.doors.places import Places
from gateway.doors.smtp import SmtpDoor
from gateway.doors.tls import Certificate, certificate_of
from gateway.log import lost as lost_lines
from gateway.policy import Clock, SystemClock
from gateway.records import RecordSink
from gateway.resolver import Resolver
from gateway.spool import SpoolMemory
from gateway.state import State

log = structlog.get_logger("lychgate.worker")

GARBAGE: Final = 5000
"""Objects after which the garbage collector looks among the newest. Python's 700 are those of a few messages."""


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

    def _commands(self) -> dict[str, Handler]:
        """What the control socket offers."""
        return {
            "recipients": partial(recipient_view.listing, self._sources.caches),
            "flush_recipients": partial(recipient_view.flush, self._sources.caches),
            **self._state_commands(),
        }

    def _state_commands(self) -> dict[str, Handler]:
        """What a worker is asked about the state: its own memory, or how it gets on with Redis."""
        if isinstance(self._state, RedisState):
            return {"state_health": partial(state_view.health, self._state)}
        if not isinstance(self._state, MemoryState):
            return {}
        return {
            "state": partial(state_view.listing, self._state),
            "clear_state": partial(state_view.clear, self._state),
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
                lanes=self._state.lanes.values() if isinstance(self._state, RedisState) else (),
            )
            await asyncio.sleep(INTERVAL)

    async def stop(self, grace: float) -> None:
        """Close the doors, give transactions ``grace`` seconds, and release everything."""
        await asyncio.gather(*(door.drain(grace) for door in self.doors))
        if self._reading is not None:
            self._reading.cancel()
        if self._metrics_door is not None:
            await asyncio.to_thread(self._metrics_door.close)
        for chain in set(self._chains):
            await chain.stop()
        if self._control is not None:
            await self._control.close()
        await self._sources.close()
        await asyncio.gather(*(group.stop() for group in self._groups.values()))
        await self._state.stop()
        await self._dns.close()
        await self._sink.close()

    def close(self) -> None:
        """Accept nothing new; sessions go on."""
        for door in self.doors:
            door.close()

    async def retire(self, stopping: asyncio.Event) -> None:
        """Return when the last session has ended, or it is told to stop."""
        async with asyncio.TaskGroup() as group:
            stopped = group.create_task(_stopped(stopping))
            for door in self.doors:
                await door.empty(stopped, self._config.timeouts.retirement)
            stopped.cancel()


async def _stopped(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def run(
    config: Config,
    listening: Sequence[list[socket.socket]],
    *,
    certificates: Sequence[Certificate | None] | None = None,
    metrics: Sequence[socket.socket] = (),
    ready: int | None = None,
    lifeline: int | None = None,
) -> None:
    """Serve until told to stop.

    Args:
        config: The configuration.
        listening: See ``Worker``.
        certificates: See ``Worker``.
        metrics: See ``Worker``.
        ready: A descriptor to which one octet is written when connections are served, and that is closed when no more
            are accepted.
        lifeline: A descriptor that reaches its end when the supervisor is gone: then the worker drains and ends.
    """
    loop = asyncio.get_running_loop()
    stopping, retiring = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's: a terminal sends it to all
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    loop.add_signal_handler(signal.SIGUSR1, retiring.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stopping.set)
    worker = Worker(config, listening, certificates=certificates, metrics=metrics)
    await worker.start()
    settle()
    if ready is not None:
        os.write(ready, b"1")
    log.info("worker ready", listeners=[door.name for door in worker.doors])
    told = [asyncio.ensure_future(event.wait()) for event in (stopping, retiring)]
    await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
    if retiring.is_set() and not stopping.is_set():
        worker.close()
        if ready is not None:
            os.close(ready)
        await worker.retire(stopping)
    for waiting in told:
        waiting.cancel()
    if lifeline is not None:
        loop.remove_reader(lifeline)
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
