"""The service: a supervisor that binds the ports, drops privileges, and keeps the workers running.

The supervisor does no mail. It binds the listeners' addresses, loads their certificates, becomes the configured user,
forks the workers, and then goes by what happens: signals, what the workers say (``lifeline``), and commands by its
control socket. It waits for none of them in particular.

* A worker that dies is replaced, at once the first time and with growing pauses if it keeps dying.
* SIGHUP loads the configuration again, and so does ``lychgate reload``, which asks by the supervisor's control socket
  and is told the outcome. An invalid file changes nothing and is said in the log. A valid one is served
  by new workers, which begin with the configuration whole; when they are ready the old ones retire: they accept
  nothing more, and only transactions go on. It counts as reloaded when every old worker has said that it accepts
  nothing more, so that every new session is one of the new configuration.
* There are never more than ``GENERATIONS`` of workers. A reload that would make one more waits, and says so; it takes
  place by itself when an older one has ended. Several that wait are one.
* SIGTERM and SIGINT drain the workers and end the service. Other signals do nothing (``signals``).

systemd is told when it is ready, reloading and stopping (sd_notify(3)). If the supervisor is killed its workers notice
and drain.
"""

import asyncio
import os
import selectors
import signal
import socket
import ssl
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog
import uvloop

from gateway import signals, worker
from gateway.adapters.metrics import SharedFolder
from gateway.config import reach
from gateway.config.access import Account
from gateway.config.advice import file_problems
from gateway.config.load import load
from gateway.config.model import Config, Endpoint
from gateway.config.problems import ConfigError
from gateway.doors.control import Command
from gateway.doors.listening import ListenError, bind
from gateway.doors.supervisor import Asker, SupervisorDoor
from gateway.doors.tls import certificate_of
from gateway.generation import NEVER, Change, Generation, WorkerProcess
from gateway.lifeline import RETIRE, STOP, Lifeline
from gateway.log import configure as configure_log
from gateway.log import finish as finish_log
from gateway.printable import printable
from gateway.startup import (
    ServiceError,
    drop_privileges,
    make_lists_folder,
    make_runtime_folder,
    raise_descriptor_limit,
    write_pid_file,
)

log = structlog.get_logger("lychgate.service")

READY_WITHIN: Final = 60.0
"""Seconds that new workers have to become ready before a reload counts as failed."""

RETIRED_WITHIN: Final = 10.0
"""Seconds that old workers have to stop accepting; one that has not is not waited for any longer."""

NOTIFY_WITHIN: Final = 2.0
"""Seconds that systemd has to take a word."""

STEADY: Final = 60.0
"""Seconds after which a worker's death is one of its own, and not the next in a row."""

GENERATIONS: Final = 3
"""Generations of workers at one time: the current one and two that retire, or one that retires and one that begins."""


def notify(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3)); one that does not take it is not waited for long."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(NOTIFY_WITHIN)
        connection.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


class ReloadRequest(msgspec.Struct):
    """What ``lychgate reload`` asks: the configuration file, and how long it waits for a reload that has to wait."""

    path: str
    patience: Annotated[float, msgspec.Meta(ge=0, le=READY_WITHIN)]


class Supervisor:
    """Keeps the workers of a configuration file running.

    Args:
        path: The configuration file.
        config: What it says.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._sockets: dict[str, list[socket.socket]] = {}
        self._pid_file: int | None = None
        self._current = Generation(config)
        self._leaving: list[Generation] = []
        self._change: Change | None = None
        self._is_wanted = False  # a reload
        self._askers: list[tuple[Asker, float]] = []  # who wants it, and until when they wait for its beginning
        self._has_said_that_it_waits = False
        self._is_stopping = False
        self._numbers: SharedFolder | None = None
        self._selector = selectors.PollSelector()
        self._heard: signals.Heard
        self._control = SupervisorDoor(self._selector, {"reload": Command(ReloadRequest, self._asked_to_reload)})

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ServiceError: The service can't start.
        """
        config = self._current.config
        signals.withstand()
        self._heard = signals.Heard()
        self._selector.register(self._heard, selectors.EVENT_READ, _woken)
        self._current.listening, self._current.metrics = self._bind(config)
        try:
            self._current.certificates = [certificate_of(listener) for listener in config.listeners]
        except (OSError, ssl.SSLError) as error:
            raise ServiceError(f"a certificate can not be used: {error}") from error
        if config.pid_file is not None:
            self._pid_file = write_pid_file(config.pid_file)
        raise_descriptor_limit(config)
        make_runtime_folder(config)
        make_lists_folder(config)
        drop_privileges(config.user, config.group)
        _warn(config)
        try:
            self._begin(Change(self._current, [], time.monotonic() + READY_WITHIN))
            while not self._is_stopping:
                self._turn()
        finally:
            notify("STOPPING=1")
            self._stop()
            if config.pid_file is not None and self._pid_file is not None:
                with suppress(OSError):
                    os.ftruncate(self._pid_file, 0)  # in a folder of root's it stays, and must name nobody
                    config.pid_file.unlink()
            signals.hold()  # Python's end restores what signals do by default: one more SIGTERM would look like a fault
        log.info("service stopped")

    def _turn(self) -> None:
        """Wait for the next thing that happens, or is due, and see to it."""
        pause = self._due() - time.monotonic()
        self._select(pause)
        for number in self._heard.take():
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._is_wanted = True
            else:
                log.info("service stopping", signal=number.name)
                self._is_stopping = True
        if not self._is_stopping:
            self._see_to(time.monotonic())

    def _select(self, pause: float) -> None:
        """Wait until something happens, or so many seconds, and call what it concerns."""
        for key, _ in self._selector.select(min(3600.0, max(0.0, pause))):
            if self._selector.get_map().get(key.fd) == key:  # what was done before may have ended it
                key.data()

    def _due(self) -> float:
        """When there is something to do though nothing happens."""
        current, change = self._current, self._change
        return min(
            *current.restart_at,
            *(each.started + READY_WITHIN for each in current.workers if not each.is_ready),
            *(each.killed_at for each in self._leaving),
            *(until for _, until in self._askers if change is None),
            NEVER if change is None else change.deadline,
            self._control.due,
            NEVER,
        )

    def _see_to(self, now: float) -> None:
        """Do what is due."""
        self._restart_due(now)
        if self._change is not None:
            self._go_on_with(self._change, now)
        self._kill_late(now)
        if self._is_wanted and self._change is None:
            if len(self._leaving) + 2 <= GENERATIONS:
                self._reload()
            else:
                self._say_that_it_waits(now)
        self._control.expire(now)

    # Workers.

    def _begin(self, change: Change) -> None:
        """Fork a generation's workers."""
        generation = change.new
        if generation.metrics and self._numbers is None:
            try:
                self._numbers = SharedFolder()
            except OSError as error:
                raise ServiceError(f"there is no folder for the numbers of 'metrics': {error}") from error
        self._change = change
        change.has_failed = not all(self._fork(generation) for _ in range(generation.config.workers))

    def _fork(self, generation: Generation, *, replaces: bool = False) -> bool:
        """Fork one worker; returns whether the system lets it."""
        try:
            ours, its = Lifeline.pair()
        except OSError as error:
            log.error("worker can't be started", reason=str(error))  # noqa: TRY400 - the system, not the code
            return False
        signals.hold()
        try:
            pid = os.fork()
        except OSError as error:
            signals.go_on()
            ours.close()
            its.close()
            log.error("worker can't be started", reason=str(error))  # noqa: TRY400 - the system, not the code
            return False
        if pid:
            its.close()
            process = WorkerProcess(pid, ours, time.monotonic(), replaces)
            generation.workers.append(process)
            self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, process))
            signals.go_on()
            return True
        status = 1
        try:
            signals.become_worker()
            self._leave_to_supervisor(ours)
            _configure_log(generation.config)
            self._serve(generation, its)
            status = 0
        except Exception:
            log.exception("worker failed")
        finally:
            finish_log()
            os._exit(status)

    def _leave_to_supervisor(self, ours: Lifeline) -> None:
        """In a worker: close what is the supervisor's, so that its end is seen, and its lock ends with it."""
        self._heard.leave_to_supervisor()
        self._control.leave_to_supervisor()
        ours.close()
        for process in self._processes():
            process.lifeline.close()
        if self._pid_file is not None:
            os.close(self._pid_file)

    def _serve(self, generation: Generation, lifeline: Lifeline) -> None:
        used = {listening.fileno() for sockets in (*generation.listening, generation.metrics) for listening in sockets}
        for sockets in self._sockets.values():
            for listening in sockets:
                if listening.fileno() not in used:
                    listening.close()
        # The runner is not closed: it would wait for threads, and one may be stuck. The process ends.
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(
            worker.run(
                generation.config,
                generation.listening,
                certificates=generation.certificates,
                metrics=generation.metrics,
                lifeline=lifeline,
            )
        )

    def _generations(self) -> list[Generation]:
        """Those with workers."""
        beginning = [] if self._change is None or self._change.new is self._current else [self._change.new]
        return [self._current, *beginning, *self._leaving]

    def _processes(self) -> list[WorkerProcess]:
        return [process for generation in self._generations() for process in generation.workers]

    def _hear(self, process: WorkerProcess) -> None:
        """A worker has said something, or closed its end."""
        was_ready = process.is_ready
        process.hear()
        if process.is_ready and not was_ready and process.replaces:
            log.info("worker replaced", pid=process.pid)
        if not process.lifeline.is_open:
            self._let_go(process)

    def _let_go(self, process: WorkerProcess) -> None:
        with suppress(KeyError, ValueError):  # ValueError: it is closed already
            self._selector.unregister(process.lifeline)
        process.lifeline.close()

    def _reap(self) -> None:
        """Take note of workers that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._numbers is not None:
                with suppress(OSError):
                    self._numbers.ended(pid)
            for generation in self._generations():
                for process in generation.workers.copy():
                    if process.pid == pid:
                        generation.workers.remove(process)
                        self._let_go(process)
                        self._ended(generation, process, os.waitstatus_to_exitcode(status))

    def _ended(self, generation: Generation, process: WorkerProcess, status: int) -> None:
        change = self._change
        if generation in self._leaving:
            if status:
                log.warning("a worker died while it ended", pid=process.pid, status=status)
            if not generation.workers:
                self._leaving.remove(generation)
        elif change is not None and generation is change.new and change.old is None:
            change.has_failed = True
        elif not self._is_stopping:
            now = time.monotonic()
            if now - process.started > STEADY:
                generation.deaths = 0
            pause = 0.0 if generation.deaths == 0 else min(30.0, 0.5 * 2 ** min(generation.deaths, 6))
            generation.deaths += 1
            generation.restart_at.append(now + pause)
            log.error("worker died", pid=process.pid, status=status, restart_in=pause)

    def _restart_due(self, now: float) -> None:
        generation = self._current
        late = [due for due in generation.restart_at if due > now]
        count = len(generation.restart_at) - len(late)
        generation.restart_at = late
        for _ in range(count):
            if not self._fork(generation, replaces=True):
                generation.restart_at.append(now + 1.0)
        for process in generation.workers:
            if not process.is_ready and process.started + READY_WITHIN <= now:
                _kill(process.pid, signal.SIGKILL)
                process.started = NEVER  # once

    def _leave(self, generation: Generation, order: bytes, within: float) -> None:
        """Tell a generation to retire or to stop; what is left of it after so many seconds, and some, is killed."""
        now = time.monotonic()
        generation.leaving_since = min(generation.leaving_since, now)
        generation.killed_at = now + within + worker.STOPPED_WITHIN
        for process in generation.workers:
            process.lifeline.say(order)
        if generation.workers and generation not in self._leaving:
            self._leaving.append(generation)

    def _kill_late(self, now: float) -> None:
        for generation in self._leaving:
            if generation.killed_at <= now:
                generation.killed_at = NEVER  # once
                for process in generation.workers:
                    log.warning("worker killed: it did not stop in time", pid=process.pid)
                    _kill(process.pid, signal.SIGKILL)

    # Reload.

    def _asked_to_reload(self, request: ReloadRequest, asker: Asker) -> None:
        """Reload for a command, which is told what came of it.

        Raises:
            ValueError: It means another configuration file.
        """
        if self._is_stopping:
            raise ValueError("not reloaded: the service stops")
        if not _is_same(Path(request.path), self._path):
            raise ValueError(f"the service runs with another file, {self._path}")
        self._is_wanted = True
        self._askers.append((asker, time.monotonic() + request.patience))

    def _say_that_it_waits(self, now: float) -> None:
        waiting = [
            {
                "pid": process.pid,
                "since": round(now - generation.leaving_since, 1),
                "transactions": process.transactions,
            }
            for generation in self._leaving
            for process in generation.workers
        ]
        if not self._has_said_that_it_waits:
            self._has_said_that_it_waits = True
            log.warning("reload waits for older workers to end", workers=waiting)
            told = ", ".join(str(each["pid"]) for each in waiting)
            notify(f"STATUS=serving {printable(str(self._path))}; a reload waits for older workers to end: {told}")
        due = [asker for asker, until in self._askers if until <= now]
        self._askers = [(asker, until) for asker, until in self._askers if until > now]
        for asker in due:
            asker.reply({"waits_for": waiting})

    def _reload(self) -> None:
        """Load the configuration again, and begin with it."""
        askers = [asker for asker, _ in self._askers]
        self._askers, self._is_wanted, self._has_said_that_it_waits = [], False, False
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._begin(Change(self._loaded(), askers, time.monotonic() + READY_WITHIN))
        except (ConfigError, ServiceError, OSError, ssl.SSLError) as error:
            self._refuse(askers, error)

    def _loaded(self) -> Generation:
        """What the configuration file says now, with no workers yet.

        Raises:
            ConfigError, ServiceError, OSError, ssl.SSLError: It can't be used.
        """
        if closed := reach.code_problem(Account.of(None, None)):
            raise ServiceError(closed)
        config = load(self._path)
        if problems := file_problems(config):
            raise ConfigError(problems)
        certificates = [certificate_of(listener) for listener in config.listeners]
        return Generation(config, *self._bind(config), certificates=certificates)

    def _refuse(self, askers: list[Asker], error: Exception) -> None:
        """The old configuration stays."""
        self._close_unused()
        problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
        log.error("reload refused: the old configuration stays", problems=problems)
        self._answer(askers, problems)

    def _answer(self, askers: list[Asker], problems: list[str]) -> None:
        listeners = self._current.config.listeners
        policies = {settings.id for listener in listeners for settings in listener.chain.policies}
        told = {"problems": problems, "listeners": len(listeners), "policies": len(policies)}
        for asker in askers:
            asker.reply(told)
        notify(f"READY=1\nSTATUS=serving {printable(str(self._path))}")

    def _go_on_with(self, change: Change, now: float) -> None:
        """One step further, where it has come so far.

        Raises:
            ServiceError: The service has just been started, and its workers did not become ready.
        """
        if change.old is not None:
            if change.deadline <= now or all(process.is_closed for process in change.old.workers):
                self._finish(change, change.old)
        elif change.has_failed or change.deadline <= now:
            self._give_up(change)
        elif change.new is self._current and change.new.is_ready:
            self._change = None
            self._open()
        elif change.new.is_ready:
            change.old, self._current = self._current, change.new
            change.deadline = now + RETIRED_WITHIN
            self._leave(change.old, RETIRE, change.old.config.timeouts.retirement + change.old.config.timeouts.drain)

    def _open(self) -> None:
        """The first workers serve."""
        config = self._current.config
        if config.runtime_folder is not None:
            self._control.open(config.runtime_folder)
        log.info("service ready", workers=config.workers, listeners=[listener.name for listener in config.listeners])
        notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving {printable(str(self._path))}")

    def _give_up(self, change: Change) -> None:
        """The new workers did not become ready: the current ones stay."""
        self._change = None
        for process in change.new.workers:
            if not process.is_ready and not change.has_failed:
                _kill(process.pid, signal.SIGKILL)
        error = ServiceError("the new workers did not become ready")
        if change.new is self._current:
            raise ServiceError("the workers did not become ready")
        self._leave(change.new, STOP, change.new.config.timeouts.drain)
        self._refuse(change.askers, error)

    def _finish(self, change: Change, old: Generation) -> None:
        """The old workers accept nothing more."""
        self._change = None
        for process in old.workers:
            if not process.is_closed:
                log.warning("an old worker still accepts connections", pid=process.pid)
        new = change.new
        self._close_unused()
        _warn(new.config)
        _configure_log(new.config)
        if new.config.runtime_folder != old.config.runtime_folder:
            self._control.close()
            if new.config.runtime_folder is not None:
                self._control.open(new.config.runtime_folder)
        log.info("configuration reloaded", path=str(self._path), workers=new.config.workers)
        self._answer(change.askers, [])

    # The end.

    def _stop(self) -> None:
        """Drain every worker and wait for them, a little longer than they may take."""
        self._is_stopping = True
        self._control.close()
        for asker in [*(asker for asker, _ in self._askers), *(self._change.askers if self._change else ())]:
            asker.refuse("not reloaded: the service stops")
        for sockets in self._sockets.values():  # or the kernel would take connections that nobody serves any more
            for listening in sockets:
                listening.close()
        grace = self._current.config.timeouts.drain
        for generation in self._generations():
            self._leave(generation, STOP, grace)
        self._change = None
        while self._leaving:
            now = time.monotonic()
            self._kill_late(now)
            deadline = min(each.killed_at for each in self._leaving)
            if deadline == NEVER:  # killed, all of them: the system ends them
                break
            self._select(deadline - now)
            self._heard.take()
            self._reap()
        if self._numbers is not None:
            self._numbers.close()

    # Sockets.

    def _bind(self, config: Config) -> tuple[list[list[socket.socket]], list[socket.socket]]:
        """The sockets of each listener, and those for Prometheus; what is bound already is used again."""
        for endpoint in _endpoints(config):
            if str(endpoint) not in self._sockets:
                try:
                    self._sockets[str(endpoint)] = bind(endpoint)
                except ListenError as error:
                    raise ServiceError(str(error)) from error
        listening = [self._sockets[str(listener.smtp)] for listener in config.listeners]
        return listening, [] if config.metrics is None else self._sockets[str(config.metrics)]

    def _close_unused(self) -> None:
        used = {str(endpoint) for endpoint in _endpoints(self._current.config)}
        for name in set(self._sockets) - used:
            for listening in self._sockets.pop(name):
                listening.close()


def _warn(config: Config) -> None:
    """Tell of what the service, as the user that it is now, will miss."""
    for warning in reach.warnings(config):
        event = "service runs as root" if warning.where == "user" and config.user is None else "out of reach"
        log.warning(event, problem=str(warning))


def _configure_log(config: Config) -> None:
    configure_log(config.log.level, config.log.format, waiting=config.log.waiting)


def _endpoints(config: Config) -> list[Endpoint]:
    """Every address that a configuration listens on."""
    return [*(listener.smtp for listener in config.listeners), *([] if config.metrics is None else [config.metrics])]


def _woken() -> None:
    """A signal has come: ``Heard`` has it."""


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths name one file."""
    try:
        return path.resolve() == other.resolve()
    except (OSError, RuntimeError, ValueError):  # a path with a NUL, links in a circle, what nobody may enter
        return False


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
