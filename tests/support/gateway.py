"""The real command, ``lychgate serve``, in a folder of its own on loopback ports of its own.

    with Gateway(backend=postfix.port) as gateway:
        ... 127.0.0.1:gateway.port ...
    gateway.records()

A listener is a name and its settings; every setting of the file can be given, and what is not has a default that suits
tests: one worker, ``example.com`` as the only domain, no client names, records in a file. Waiting is for events: a line
of the log (``line``), a record (``record``), the end of a process. On leaving, the service is stopped, and the test
fails if the log has a line of level ``error`` that was not expected.
"""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from tests.support.installation import Installation, another_users, own
from tests.support.ports import free_port

START_WITHIN: Final = 60.0
"""Seconds in which the service must be ready: on a busy machine imports alone take some."""

WITHIN: Final = 30.0
"""Seconds in which any other event must come."""


def poll(what: Callable[[], Any], within: float = WITHIN) -> Any:
    """Ask until the answer is true, and return it.

    Raises:
        TimeoutError: It never is.
    """
    end = time.monotonic() + within
    pause = threading.Event()  # nobody sets it: a wait between two looks at what tells of no change by itself
    while not (answer := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} stayed {answer!r}")
        pause.wait(0.02)
    return answer


class Gateway:
    """One service; a context manager, which can be entered once.

    Args:
        settings: The file, but for what the other arguments say.
        listeners: A name and the listener's settings without ``smtp``; one of the name ``smtp`` by default.
        backend: The port of the only backend, for settings without ``backends``.
        backend_options: More options of that backend.
        expect: Events of the log that may be of level ``error``.
        environment: Variables of the process.
        folder: Where it works; a temporary folder by default.
        installation: Which Lychgate is run; without it one that the user of the settings can read.

    Attributes:
        ports: The port of each listener on 127.0.0.1.
        folder: Where configuration, records and pid file are.
        settings: What stands in the file.
        lines: The log so far.
        output: Lines of standard output so far.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        listeners: Mapping[str, Mapping[str, Any]] | None = None,
        backend: int = 0,
        backend_options: Mapping[str, Any] | None = None,
        expect: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        installation: Installation | None = None,
    ) -> None:
        self.expected = set(expect)
        self.lines: list[dict[str, Any]] = []
        self.output: list[str] = []
        self.ports: dict[str, int] = {}
        self._given = dict(settings or {})
        self._listeners = listeners or {"smtp": {}}
        self._backend: dict[str, Any] = {"servers": [f"127.0.0.1:{backend}"], **(backend_options or {})}
        self._installation = installation or (another_users() if "user" in self._given else own())
        self._environment = {**os.environ, **self._installation.environment, **(environment or {})}
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="lychgate-test-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.folder.chmod(0o755)
        self.settings: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self._readers: list[threading.Thread] = []
        self._reads_log = threading.Event()
        self._reads_log.set()

    # Its life.

    def __enter__(self) -> Self:
        try:
            return self._started()
        except BaseException:
            self.kill()
            self._clean_up()
            raise

    def _started(self) -> Self:
        for attempt in range(5):
            self.settings = self._made()
            self.write(self.settings)
            self._spawn()
            if self._wait_for(lambda: self._is_ready() or self._has_ended(), START_WITHIN) and self._is_ready():
                return self
            self.kill()
            if attempt == 4 or not any("can not listen" in str(line) for line in self.lines):  # a port was taken
                raise RuntimeError(f"the gateway does not start:\n{self.log_text()}")
            self.lines.clear()
        raise AssertionError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
            if kind is None:
                self.assert_no_errors()
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        self.read_log()
        for reader in self._readers:
            reader.join(WITHIN)
        if self._temporary is not None:
            self._temporary.cleanup()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    @property
    def config_file(self) -> Path:
        """The configuration file."""
        return self.folder / "lychgate.yaml"

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return next(iter(self.ports.values()))

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        assert self._process is not None
        return self._process.pid

    def write(self, settings: Mapping[str, Any] | str) -> None:
        """Write the configuration file."""
        text = settings if isinstance(settings, str) else json.dumps(settings, indent=1)
        self.config_file.write_text(text, encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and wait until it and its workers have ended; returns the exit status. Can be called again."""
        assert self._process is not None
        workers = self.workers()
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            status = self._process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.wait(WITHIN)
        for reader in self._readers:
            reader.join(WITHIN)
        return status

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            for process in [*self.workers(), self._process]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(WITHIN)

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        try:
            return [child for child in psutil.Process(self.pid).children() if child.status() != psutil.STATUS_ZOMBIE]
        except psutil.NoSuchProcess:
            return []

    def worker(self) -> psutil.Process:
        """Its only worker process, waiting for it where it is being replaced."""
        found: list[psutil.Process] = poll(self.workers)
        assert len(found) == 1, found
        return found[0]

    def worker_of(self, others: Sequence[psutil.Process]) -> psutil.Process:
        """The only worker process that is none of these, waiting for others to end."""

        def rest() -> list[psutil.Process]:
            found = [worker for worker in self.workers() if worker not in others]
            return found if len(found) == 1 else []

        (found,) = poll(rest)
        assert isinstance(found, psutil.Process)
        return found

    def leave_log(self) -> None:
        """Read no more of the log: its pipe, which is made as small as one can be, fills up."""
        assert self._process is not None
        assert self._process.stderr is not None
        self._reads_log.clear()
        fcntl.fcntl(self._process.stderr, fcntl.F_SETPIPE_SZ, 4096)

    def read_log(self) -> None:
        """Read on."""
        self._reads_log.set()

    # What it tells.

    def line(self, event: str, *, after: int = 0, within: float = WITHIN, **fields: Any) -> dict[str, Any]:
        """The first line of the log with this event and these fields, waiting for it.

        Args:
            event: The name of the event.
            after: How many lines of the log to pass over; ``len(gateway.lines)`` before the cause was made.
            within: Seconds to wait.
            fields: Fields and their values.

        Raises:
            TimeoutError: It does not come.
        """
        wanted = {"event": event, **fields}

        def found() -> dict[str, Any] | None:
            matching = (line for line in self.lines[after:] if wanted.items() <= line.items())
            return next(matching, None)

        if not self._wait_for(lambda: found() is not None, within):
            raise TimeoutError(f"no line {wanted} in\n{self.log_text()}")
        line = found()
        assert line is not None
        return line

    def records(self) -> list[dict[str, Any]]:
        """The decision records so far."""
        return list(self._records())

    def record(self, *, within: float = WITHIN, **decision: Any) -> dict[str, Any]:
        """The latest record whose ``decision`` has these fields, waiting for it; ``kind`` is the record's own."""
        kind = decision.pop("kind", None)

        def found() -> dict[str, Any] | None:
            matching = [
                record
                for record in self._records()
                if decision.items() <= record["decision"].items() and kind in {None, record["kind"]}
            ]
            return matching[-1] if matching else None

        record: dict[str, Any] = poll(found, within)
        return record

    def log_text(self) -> str:
        """The log so far, for a person."""
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in self.lines)

    def assert_no_errors(self) -> None:
        """Nothing went wrong inside that was not expected."""
        bad = [line for line in self.lines if line.get("level") in {"error", "critical", "raw"} or "exception" in line]
        bad = [line for line in bad if line["event"] not in self.expected]
        assert not bad, json.dumps(bad, indent=1, ensure_ascii=False)

    # Inside.

    def _made(self) -> dict[str, Any]:
        """The whole file, on fresh ports."""
        self.ports = {name: free_port() for name in self._listeners}
        listeners = [
            {"smtp": f"127.0.0.1:{self.ports[name]}", **settings} for name, settings in self._listeners.items()
        ]
        made: dict[str, Any] = {
            "hostname": "gateway.example",
            "listeners": listeners,
            "domains": {"example.com": {}},
            "dns": {"client_names": False},
            "policies": ["limits", "relay", "recipient", "size", "loop"],
            "records": {"file": "records.jsonl"},
            "recipient_lists": {"folder": "lists"},
            "pid_file": str(self.folder / "lychgate.pid"),
            "log": {"format": "json", "level": "info"},
        }
        if "backends" not in self._given:
            made["backends"] = {"backend": self._backend}
        return made | self._given

    def _spawn(self) -> None:
        command = [*self._installation.command, "serve", "--config", str(self.config_file)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", errors="backslashreplace", env=self._environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        process = self._process
        self._readers = [
            threading.Thread(target=read, args=(process,), daemon=True) for read in (self._read_log, self._read_output)
        ]
        for reader in self._readers:
            reader.start()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            while self._reads_log.wait() and (text := stream.readline()):
                try:
                    line = json.loads(text)
                except ValueError:
                    line = {"event": text.rstrip("\n"), "level": "raw"}
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _read_output(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for text in stream:
                with self._changed:
                    self.output.append(text.rstrip("\n"))
                    self._changed.notify_all()

    def _wait_for(self, what: Callable[[], bool], within: float) -> bool:
        end = time.monotonic() + within
        with self._changed:
            # A process that ends tells nobody here: so it looks up now and then.
            while not what() and time.monotonic() < end:
                self._changed.wait(0.1)
            return what()

    def _is_ready(self) -> bool:
        return any(line.get("event") == "service ready" for line in self.lines)

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _records(self) -> Iterator[dict[str, Any]]:
        path = self.folder / "records.jsonl"
        if path.exists():
            for line in path.read_bytes().splitlines():  # of text it would part at U+2028 and its like, too
                yield json.loads(line)
