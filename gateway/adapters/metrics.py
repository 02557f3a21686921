"""Numbers for Prometheus, counted by all workers together.

Each worker counts in files of its own, in one folder (prometheus_client's multi-process mode); whichever worker is
asked adds up what all of them have. What a worker counted stays when it ends; what it had at the moment, such as open
connections, goes with it. Decisions are counted as the records tell them: ``Metrics`` is a sink of records. What other
parts know in numbers is read from them once a second (``read``), so that none of them knows of metrics.
"""

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from gateway.adapters.state.pipeline import Pipeline
from gateway.records import DecisionRecord, RecordSink
from gateway.tables import ListStatus

_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

INTERVAL: Final = 1.0
"""Seconds between two readings of what other parts know."""


TRIES: Final = 20
"""How often the page is made before it fails: a worker's file is read while it is made, or grows."""

PAUSE: Final = 0.01
"""Seconds between two of them."""


class SharedFolder:
    """The folder of the workers' files: made before the workers are forked, gone with ``close``."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lychgate-metrics-")
        os.environ[_VARIABLE] = self._folder.name  # prometheus_client looks here when it is imported: not before

    def ended(self, pid: int) -> None:
        """A worker has ended: what it had at the moment no longer counts."""
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, self._folder.name)  # type: ignore[no-untyped-call]  # its annotations are missing

    def close(self) -> None:
        """Remove it."""
        os.environ.pop(_VARIABLE, None)
        self._folder.cleanup()


class Metrics:
    """What one worker counts.

    Args:
        sink: Gets the records, too.
    """

    def __init__(self, sink: RecordSink) -> None:
        import prometheus_client as prometheus  # which looks at the environment when it is imported: not before
        from prometheus_client.multiprocess import MultiProcessCollector

        self._sink = sink
        self._own = prometheus.CollectorRegistry()
        self._registry = self._own
        if _VARIABLE in os.environ:
            self._registry = prometheus.CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]  # its annotations are missing

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"lychgate_{name}", text, labels, registry=self._own)

        def gauge(name: str, text: str, *labels: str, mode: Any) -> prometheus.Gauge:
            return prometheus.Gauge(f"lychgate_{name}", text, labels, registry=self._own, multiprocess_mode=mode)

        self._decisions = counter("decisions", "Decision records, by what became of it", "listener", "kind", "result")
        labels = ("policy", "stage", "outcome", "action", "observed")
        self._outcomes = counter("policy_outcomes", "What policies found, and what was done", *labels)
        self._lost = counter("records_lost", "Decision records that could not be written")
        self._lines_lost = counter("log_lines_lost", "Lines of the log that could not be written")
        self._silent = counter("silent_clients", "Clients that left without a word", "listener")
        self._connections = gauge("connections", "Clients that are connected", "listener", mode="livesum")
        known = "Whether a server takes mail, as far as every worker knows"
        self._server_up = gauge("backend_server_up", known, "backend", "server", mode="livemin")
        self._state_up = gauge("state_up", "Whether the shared state answers", "server", mode="livemin")
        entries = "Entries of a file of recipients that are in force"
        self._list_entries = gauge("list_entries", entries, "list", "kind", mode="livemin")
        held = "Whether a file of recipients is held back, or empty and never accepted, for any worker"
        self._list_held = gauge("list_held", held, "list", "kind", mode="livemax")
        self._outages = counter("state_outages", "How often the shared state was away, for a worker", "server")
        self._failed = counter("state_calls_failed", "Calls that the shared state did not answer", "server")
        self._told: dict[Any, int] = {}
        self._decided = lru_cache(maxsize=256)(self._decisions.labels)
        self._found = lru_cache(maxsize=1024)(self._outcomes.labels)

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._sink.lost

    @property
    def page(self) -> Callable[..., Iterable[bytes]]:
        """The page that Prometheus fetches, as a WSGI application."""
        from prometheus_client import make_wsgi_app

        return whole(make_wsgi_app(self._registry))

    def write(self, record: DecisionRecord) -> None:
        """Count a record, and hand it on."""
        self._sink.write(record)
        self._decided(record.listener, record.kind, record.decision.result).inc()
        for check in record.checks:
            if check.outcome is not None:
                observed = "true" if check.observed else "false"
                self._found(check.policy, check.stage.value, check.outcome, check.action.value, observed).inc()

    async def close(self) -> None:
        """Close the sink."""
        await self._sink.close()

    def read(
        self,
        *,
        connections: Mapping[str, int],
        servers: Mapping[tuple[str, str], bool],
        pipelines: Iterable[Pipeline],
        lists: Iterable[ListStatus] = (),
        log_lines_lost: int = 0,
        silent: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Take what other parts know.

        Args:
            connections: By listener.
            servers: Whether a server is up, by backend and its name.
            pipelines: Those to the servers of the shared state.
            lists: The files of recipients.
            log_lines_lost: How many lines of the log were lost.
            silent: How many clients left without a word, by listener.
        """
        self._tell(self._lost, self.lost)
        self._tell(self._lines_lost, log_lines_lost)
        for listener, count in silent.items():
            self._tell(self._silent.labels(listener), count)
        for listener, count in connections.items():
            self._connections.labels(listener).set(count)
        for (backend, server), is_up in servers.items():
            self._server_up.labels(backend, server).set(is_up)
        for each in lists:
            self._list_entries.labels(str(each.file), each.kind).set(each.entries)
            self._list_held.labels(str(each.file), each.kind).set(each.problem is not None)
        for pipeline in pipelines:
            health = pipeline.breaker.health
            self._state_up.labels(pipeline.name).set(pipeline.is_open)
            self._tell(self._outages.labels(pipeline.name), health.outages)
            self._tell(self._failed.labels(pipeline.name), health.failed)

    def _tell(self, counter: Any, total: int) -> None:
        """Bring a counter to a total that another part keeps."""
        counter.inc(total - self._told.get(counter, 0))
        self._told[counter] = total


def whole(page: Callable[..., Iterable[bytes]], pause: Callable[[float], None] = time.sleep) -> Callable[..., Any]:
    """The page, made again where a worker's file was only half there.

    Args:
        page: Makes it, as a WSGI application. Runs in a thread of its own.
        pause: Waits for so many seconds.
    """

    def made(*request: Any) -> Iterable[bytes]:
        for _ in range(TRIES - 1):
            try:
                return page(*request)
            except (struct.error, ValueError):  # an empty file, or a name that is still being written
                pause(PAUSE)
        return page(*request)

    return made
