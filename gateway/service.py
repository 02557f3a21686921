"""The service: a supervisor that binds the ports, drops privileges, and keeps the workers running.

The supervisor does no mail. It binds the listeners' addresses, loads their certificates, becomes the configured user,
forks the workers, and then waits for signals:

* a worker that dies is replaced, at once the first time and with growing pauses if it keeps dying;
* SIGHUP loads the configuration again, and so does ``lychgate reload``, which asks by the supervisor's control socket
  and is told the outcome. An invalid file changes nothing and is said in the log. A valid one is served
  by new workers, which begin with the configuration whole; when they are ready the old ones retire: they accept
  nothing more, and their sessions go on to their end. It counts as reloaded when every old worker has said that it
  accepts nothing more, so that every new session is one of the new configuration;
* SIGTERM and SIGINT drain the workers and end the service.

systemd is told when it is ready, reloading and stopping (sd_notify(3)). If the supervisor is killed its workers notice
and drain.
"""

import asyncio
import fcntl
import os
import pwd
import resource
import select
import signal
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from gateway import worker
from gateway.adapters.metrics import SharedFolder
from gateway.adapters.records import CLOSE_TIMEOUT
from gateway.config import reach
from gateway.config.access import Account
from gateway.config.advice import file_problems
from gateway.config.lists import named_lists
from gateway.config.load import load
from gateway.config.model import Config, Endpoint
from gateway.config.problems import ConfigError
from gateway.doors.control import SupervisorDoor
from gateway.doors.listening import ListenError, bind
from gateway.doors.tls import Certificate, certificate_of
from gateway.log import END_WITHIN
from gateway.log import configure as configure_log
from gateway.log import finish as finish_log
from gateway.printable import printable

log = structlog.get_logger("lychgate.service")

READY_WITHIN: Final = 60.0
"""Seconds that new workers have to become ready before a reload counts as failed."""

RETIRED_WITHIN: Final = 10.0
"""Seconds that old workers have to stop accepting; one that has not is not waited for any longer."""

NOTIFY_WITHIN: Final = 2.0
"""Seconds that systemd has to take a word."""

ENDED_WITHIN: Final = CLOSE_TIMEOUT + END_WITHIN + 3.0
"""Seconds that a worker may take beyond its draining: for what nobody reads of its records and of its log, and more."""

STEADY: Final = 60.0
"""Seconds after which a worker's death is one of its own, and not the next in a row."""

_SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO}


class ServiceError(Exception):
    """The service can't start: a port can't be bound, a user does not exist."""


def _account(user: str | None, group: str | None) -> Account:
    """Whom to become.

    Raises:
        ServiceError: They do not exist.
    """
    try:
        return Account.of(user, group)
    except KeyError as error:
        raise ServiceError(f"no such user or group: {error.args[0]}") from error


def make_runtime_folder(config: Config) -> None:
    """Make the folder of the control sockets while this process still may, and give it to whom the workers will be.

    One that is there is left as it is. That it can't be made keeps no mail up: each worker says so in the log.

    Raises:
        ServiceError: The configured user or group does not exist.
    """
    account = _account(config.user, config.group)
    if config.runtime_folder is None or os.geteuid() != 0:
        return  # the workers make it themselves
    with suppress(OSError):
        config.runtime_folder.mkdir(mode=0o700)
        os.chown(config.runtime_folder, account.uid, account.gid)


def make_lists_folder(config: Config) -> None:
    """Make the folder of accepted lists while this process still may, and give it to whom the workers will be.

    One that is there is left as it is. That it can't be made keeps no mail up: each worker says so in the log.

    Raises:
        ServiceError: The configured user or group does not exist.
    """
    account = _account(config.user, config.group)
    folder = config.recipient_lists.folder
    if os.geteuid() != 0 or folder.exists() or not named_lists(config):
        return  # the workers make it themselves
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, account.uid, account.gid)


def drop_privileges(user: str | None, group: str | None) -> None:
    """Become the user and group for good, also for what the environment says.

    Raises:
        ServiceError: They do not exist, or this process may not.
    """
    if user is None and group is None:
        return
    account = _account(user, group)
    if os.geteuid() != 0:
        if account.is_own:
            return
        raise ServiceError("only root can become another user; start as root or leave out 'user' and 'group'")
    try:
        account.become()
    except OSError as error:
        raise ServiceError(f"can't become the user {account.name!r}: {error.strerror or error}") from error
    if user is not None:
        # Libraries look for files of the user's there: root's own would be closed to it (libpq and ~/.postgresql).
        os.environ |= {"HOME": pwd.getpwuid(account.uid).pw_dir, "USER": account.name, "LOGNAME": account.name}


def raise_descriptor_limit(config: Config) -> None:
    """Let a worker open what its limits allow: a descriptor for every client, as many for backends and spools."""
    wanted = 2 * -(-config.limits.connections // config.workers) + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft = min(wanted, hard)
    if soft < wanted:
        log.warning("few file descriptors: more connections than these allow are refused", limit=soft, wanted=wanted)


def notify(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3)); one that does not take it is not waited for long."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(NOTIFY_WITHIN)
        connection.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


@dataclass(slots=True)
class Generation:
    """The workers of one configuration.

    Attributes:
        config: The configuration.
        listening: The sockets of each listener.
        metrics: Those for Prometheus.
        certificates: Each listener's certificate, None without TLS.
        workers: By process id the time of their start.
        pipes: By process id what tells that a worker is ready, and by its end that it accepts nothing more.
        deaths: How many workers died one soon after the other.
        restart_at: When workers that died are to be replaced.
    """

    config: Config
    listening: list[list[socket.socket]] = field(default_factory=list)
    metrics: list[socket.socket] = field(default_factory=list)
    certificates: list[Certificate | None] = field(default_factory=list)
    workers: dict[int, float] = field(default_factory=dict)
    pipes: dict[int, int] = field(default_factory=dict)
    deaths: int = 0
    restart_at: list[float] = field(default_factory=list)


class Supervisor:
    """Keeps the workers of a configuration file running.

    Args:
        path: The configuration file.
        config: What it says.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._sockets: dict[str, list[socket.socket]] = {}
        self._retired: set[int] = set()
        self._lifeline, self._lifeline_end = os.pipe()
        self._pid_file: int | None = None
        self._current = Generation(config)
        self._numbers: SharedFolder | None = None
        self._control: SupervisorDoor | None = None

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ServiceError: The service can't start.
        """
        config = self._current.config
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._current.listening, self._current.metrics = self._bind(config)
        try:
            self._current.certificates = [certificate_of(listener) for listener in config.listeners]
        except (OSError, ssl.SSLError) as error:
            raise ServiceError(f"a certificate can not be used: {error}") from error
        if config.pid_file is not None:
            self._pid_file = _write_pid_file(config.pid_file)
        raise_descriptor_limit(config)
        make_runtime_folder(config)
        make_lists_folder(config)
        drop_privileges(config.user, config.group)
        _warn(config)
        if not self._start(self._current):
            self._stop()
            raise ServiceError("the workers did not become ready")
        self._open_control(config.runtime_folder)
        log.info("service ready", workers=config.workers, listeners=[listener.name for listener in config.listeners])
        notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving {printable(str(self._path))}")
        try:
            self._watch()
        finally:
            notify("STOPPING=1")
            self._stop()
            if config.pid_file is not None and self._pid_file is not None:
                with suppress(OSError):
                    os.ftruncate(self._pid_file, 0)  # in a folder of root's it stays, and must name nobody
                    config.pid_file.unlink()
            log.info("service stopped")

    def _watch(self) -> None:
        while True:
            due = min(self._current.restart_at, default=None)
            pause = 3600.0 if due is None else max(0.0, due - time.monotonic())
            received = signal.sigtimedwait(_SIGNALS, pause)
            if received is None:
                self._restart_due()
            elif received.si_signo == signal.SIGCHLD:
                self._reap()
            elif received.si_signo == signal.SIGHUP:
                self._reload()
            elif received.si_signo == signal.SIGIO:
                if self._control is not None:
                    self._control.answer()
            else:
                log.info("service stopping", signal=signal.Signals(received.si_signo).name)
                return

    # Workers.

    def _start(self, generation: Generation) -> bool:
        """Fork a generation's workers; returns whether all became ready."""
        if generation.metrics and self._numbers is None:
            try:
                self._numbers = SharedFolder()
            except OSError as error:
                raise ServiceError(f"there is no folder for the numbers of 'metrics': {error}") from error
        workers = [self._fork(generation) for _ in range(generation.config.workers)]
        return all([_says_ready(pid, generation.pipes[pid]) for pid in workers])  # noqa: C419 - each is waited for

    def _fork(self, generation: Generation) -> int:
        """Fork one worker; returns its process id."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writer)
            generation.workers[pid] = time.monotonic()
            generation.pipes[pid] = reader
            return pid
        status = 1
        try:
            os.close(reader)
            os.close(self._lifeline_end)
            if self._pid_file is not None:
                os.close(self._pid_file)  # or the lock would outlive the supervisor
            if self._control is not None:
                self._control.leave_to_supervisor()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _configure_log(generation.config)
            self._serve(generation, writer)
            status = 0
        except Exception:
            log.exception("worker failed")
        finally:
            finish_log()
            os._exit(status)

    def _serve(self, generation: Generation, ready: int) -> None:
        used = {listening.fileno() for sockets in (*generation.listening, generation.metrics) for listening in sockets}
        for sockets in self._sockets.values():
            for listening in sockets:
                if listening.fileno() not in used:
                    listening.close()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                worker.run(
                    generation.config,
                    generation.listening,
                    certificates=generation.certificates,
                    metrics=generation.metrics,
                    ready=ready,
                    lifeline=self._lifeline,
                )
            )

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._retired.discard(pid)
            if self._numbers is not None:
                self._numbers.ended(pid)
            current, now = self._current, time.monotonic()
            started = current.workers.pop(pid, None)
            _close(current.pipes, pid)
            if started is not None:
                if now - started > STEADY:
                    current.deaths = 0
                pause = 0.0 if current.deaths == 0 else min(30.0, 0.5 * 2 ** min(current.deaths, 6))
                current.deaths += 1
                current.restart_at.append(now + pause)
                log.error("worker died", pid=pid, status=os.waitstatus_to_exitcode(status), restart_in=pause)

    def _restart_due(self) -> None:
        now = time.monotonic()
        generation = self._current
        late = [due for due in generation.restart_at if due > now]
        count = len(generation.restart_at) - len(late)
        generation.restart_at = late
        for _ in range(count):
            pid = self._fork(generation)
            if _says_ready(pid, generation.pipes[pid]):
                log.info("worker replaced")

    # Reload and stop.

    def _open_control(self, folder: Path | None) -> None:
        """Listen for commands in a folder, and no longer in another."""
        if self._control is not None:
            self._control.close()
        self._control = None if folder is None else SupervisorDoor(folder, {"reload": self._asked_to_reload})
        if self._control is not None:
            self._control.open()

    def _asked_to_reload(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Reload for a command; tells what came of it.

        Raises:
            ValueError: It means another configuration file.
        """
        if Path(str(request.get("path"))).resolve() != self._path.resolve():
            raise ValueError(f"the service runs with another file, {self._path}")
        problems = self._reload()
        listeners = self._current.config.listeners
        policies = {settings.id for listener in listeners for settings in listener.chain.policies}
        return {"problems": problems, "listeners": len(listeners), "policies": len(policies)}

    def _reload(self) -> list[str]:
        """Load the configuration again; returns why the old one stays, nothing when the new one is in force."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._replace(self._loaded())
        except (ConfigError, ServiceError, OSError, ssl.SSLError) as error:
            self._close_unused()
            problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
            log.error("reload refused: the old configuration stays", problems=problems)  # noqa: TRY400 - not a fault here
        else:
            problems = []
            log.info("configuration reloaded", path=str(self._path), workers=self._current.config.workers)
        notify("READY=1")
        return problems

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

    def _replace(self, new: Generation) -> None:
        """Serve by another generation, and let the workers of the current one retire.

        Raises:
            ServiceError: The new workers did not become ready; the current generation stays.
        """
        old, self._current = self._current, new
        if not self._start(new):
            self._current = old
            for pid in new.workers:
                _kill(pid, signal.SIGTERM)
                _close(new.pipes, pid)
            self._retired |= set(new.workers)
            raise ServiceError("the new workers did not become ready")
        self._retire(old)
        self._close_unused()
        _warn(new.config)
        _configure_log(new.config)
        if new.config.runtime_folder != old.config.runtime_folder:
            self._open_control(new.config.runtime_folder)

    def _retire(self, generation: Generation) -> None:
        """Let a generation's workers accept nothing more; return when they do not."""
        for pid in generation.workers:
            _kill(pid, signal.SIGUSR1)
        self._retired |= set(generation.workers)
        deadline = time.monotonic() + RETIRED_WITHIN
        for pid in generation.workers:
            if not _has_closed(generation.pipes[pid], deadline):
                log.warning("an old worker still accepts connections", pid=pid)
            _close(generation.pipes, pid)

    def _stop(self) -> None:
        """Drain every worker and wait for them, a little longer than they may take."""
        self._open_control(None)
        for sockets in self._sockets.values():  # or the kernel would take connections that nobody serves any more
            for listening in sockets:
                listening.close()
        children = set(self._current.workers) | self._retired
        for pid in children:
            _kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._current.config.timeouts.drain + ENDED_WITHIN
        while children and time.monotonic() < deadline:
            children -= {pid for pid in children if _has_ended(pid)}
            if children:
                signal.sigtimedwait({signal.SIGCHLD}, 0.5)
        for pid in children:
            log.warning("worker killed: it did not stop in time", pid=pid)
            _kill(pid, signal.SIGKILL)
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


def _says_ready(pid: int, pipe: int) -> bool:
    """Wait until a worker says that it is ready. One that takes too long is killed; a signal to stop ends the wait."""
    if _is_readable(pipe, time.monotonic() + READY_WITHIN):
        return os.read(pipe, 1) == b"1"  # one that has ended says nothing
    _kill(pid, signal.SIGKILL)
    return False


def _has_closed(pipe: int, deadline: float) -> bool:
    """Wait until a worker has closed its end of the pipe: its doors are closed, or it has ended."""
    return _is_readable(pipe, deadline) and os.read(pipe, 1) == b""


def _is_readable(pipe: int, deadline: float) -> bool:
    """Wait until a pipe has something to say, until a time, or for a signal to stop."""
    while time.monotonic() < deadline and signal.sigpending().isdisjoint({signal.SIGTERM, signal.SIGINT}):
        if select.select([pipe], [], [], 0.2)[0]:
            return True
    return False


def _close(pipes: dict[int, int], pid: int) -> None:
    pipe = pipes.pop(pid, None)
    if pipe is not None:
        os.close(pipe)


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _write_pid_file(path: Path) -> int:
    """Write the process id, and lock the file for as long as the service runs: no other one can have it then."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        raise ServiceError(f"another service runs with the pid file {path}") from error
    except OSError as error:
        raise ServiceError(f"can not write the pid file {path}: {error.strerror or error}") from error
    return descriptor
