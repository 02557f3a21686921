"""Our own side is hostile, too: every signal to every process, any octets to every socket. Nothing ends, all serves."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.gateway import Gateway, poll
from tests.support.ports import free_port
from tests.support.sink import Sink
from tests.support.wire import Wire

LYCHGATE = str(Path(sys.executable).with_name("lychgate"))

JOB_CONTROL: Final = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
MEANT: Final = {signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, *JOB_CONTROL}
"""What does something: SIGHUP to the supervisor, and to a worker nothing."""

HARMLESS: Final = sorted(signal.valid_signals() - MEANT - {signal.SIGINT})


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


def pids(gateway: Gateway) -> set[int]:
    """Of all its processes."""
    return {gateway.pid, *(worker.pid for worker in gateway.workers())}


def serves(gateway: Gateway) -> bool:
    """Whether a message goes through."""
    with Wire(gateway.port) as client:
        client.hello()
        return client.transaction().code == 250


# Signals.


def has_handlers(process: psutil.Process) -> bool:
    """Whether a process has none of the harmless signals left pending: it has seen to them all."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd")))
    return not any(int(mask, 16) for mask in masks.values())


def test_no_signal_ends_a_process(sink: Sink) -> None:
    """Every signal, real-time ones too, to the supervisor and to each worker: the same processes go on, and serve."""
    with Gateway({"workers": 2}, backend=sink.port) as gateway:
        before = pids(gateway)
        for number in HARMLESS:
            for pid in before:
                os.kill(pid, number)
        for worker in gateway.workers():
            os.kill(worker.pid, signal.SIGINT)  # a terminal sends it to all: the supervisor sees to it
            os.kill(worker.pid, signal.SIGHUP)
        for pid in before:
            poll(partial(has_handlers, psutil.Process(pid)))
        assert all(serves(gateway) for _ in range(20))
        assert pids(gateway) == before
        seen = len(gateway.lines)
        gateway.send(signal.SIGHUP)
        gateway.line("configuration reloaded", after=seen)
        poll(lambda: len(gateway.workers()) == 2)
        assert serves(gateway)
        assert not any("died" in line["event"] for line in gateway.lines)


def test_a_worker_that_begins_is_ended_by_no_signal(sink: Sink) -> None:
    """Signals sent as soon as the process is there, and on and on until it serves, reload after reload."""
    with Gateway(backend=sink.port) as gateway:
        for _ in range(5):
            old = gateway.worker()
            seen = len(gateway.lines)
            gateway.send(signal.SIGHUP)
            new = poll(partial(others, gateway, old))
            while not any(line["event"] == "worker ready" for line in gateway.lines[seen:]):
                for number in HARMLESS:
                    os.kill(new.pid, number)
            gateway.line("configuration reloaded", after=seen)
            assert gateway.worker_of([old]).pid == new.pid
            old.wait(30)
        assert serves(gateway)


def others(gateway: Gateway, old: psutil.Process) -> psutil.Process | None:
    """A worker process that is not this one."""
    return next((worker for worker in gateway.workers() if worker.pid != old.pid), None)


def test_a_worker_is_stopped_by_sigterm_while_it_begins(sink: Sink) -> None:
    """It waits for the worker's handler, and is not lost: another worker comes in its place."""
    with Gateway(backend=sink.port, expect=["worker died"]) as gateway:
        gateway.worker().kill()
        killed = gateway.line("worker died")["pid"]
        new = poll(lambda: next((worker for worker in gateway.workers() if worker.pid != killed), None))
        seen = len(gateway.lines)
        os.kill(new.pid, signal.SIGTERM)
        assert gateway.line("worker died", after=seen, pid=new.pid)["status"] == 0
        gateway.line("worker replaced", after=seen)
        assert serves(gateway)


FAULTS = {
    "SIGSEGV": "import ctypes; ctypes.string_at(0)",
    "SIGBUS": """
        import mmap, os, tempfile
        file = tempfile.TemporaryFile()
        file.truncate(mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        mapped[0]
        """,
    "SIGABRT": "import os; os.abort()",
}
"""A real fault for each signal."""


@pytest.mark.parametrize("number", FAULTS)
def test_a_real_fault_still_ends_a_process(number: str) -> None:
    """The signals that are passed over when sent end a process that has the fault."""
    fault = textwrap.dedent(FAULTS[number])
    script = (
        f"import os, signal\nfrom gateway import signals\nsignals.withstand()\nos.kill(os.getpid(), signal.{number})"
    )
    ended = subprocess.run([sys.executable, "-c", f"{script}\nprint('on', flush=True)\n{fault}"], check=False,
                           capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("on\n", -signal.Signals[number])


def test_a_program_that_is_started_has_signals_as_usual() -> None:
    """What is passed over here is not ignored there, but for real-time signals and those of a fault."""
    script = (
        "import subprocess\nfrom gateway import signals\nsignals.withstand()\n"
        "print(subprocess.run(['cat', '/proc/self/status'], capture_output=True, text=True).stdout)"
    )
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    masks = {line[:6]: int(line[7:], 16) for line in told.split("\n") if line.startswith(("SigIgn", "SigBlk"))}
    ignored = {bit + 1 for bit in range(64) if masks["SigIgn"] >> bit & 1}
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
    assert ignored == faults | set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
    assert masks["SigBlk"] == 0


# Octets.


def corpus() -> list[bytes]:
    """Octets that no socket of ours can want."""
    chance = random.Random(20261201)  # noqa: S311 - the same octets each time
    deep = 60_000
    request = b'{"command": "%s"}'
    names = (b"reload", b"recipients", b"flush_recipients", b"state", b"clear_state", b"state_health")
    wrong = (b"null", b"1e999", b'"\\u0000"', b'"\\ud800"', b"[]", b"{}", b"-1", b"true", b'"' + b"x" * 9000 + b'"')
    fields = (b"path", b"patience", b"limit", b"local_part", b"domain", b"kind", b"subject", b"key")
    return [
        b"",
        b"\n",
        b"\r\n" * 1000,
        b"\0" * 1000,
        b"x" * 200_000,
        b"x" * 70_000 + b"\r\n",
        b"[" * deep + b"\n",
        b"[" * deep + b"]" * deep + b"\n",
        b'{"a":' * 12_000 + b"\n",
        b'{"command":' + b"[" * deep + b"\n",
        b'{"command": "reload", "path": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n",
        b'{"command": "reload", "other": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n",
        *(request % name + b"\n" for name in (*names, b"no such", b"\\u0000")),
        *((request % name)[:-1] for name in names),
        *(
            (request % name)[:-1] + b', "' + field + b'": ' + value + b"}\n"
            for name in names
            for field in fields
            for value in wrong
        ),
        b'{"command": "reload", "path": "\\u0000"}\n',
        b'{"command": "reload", "path": "' + b"a/" * 5000 + b'"}\n',
        b'{"command": 1}\n',
        b'"reload"\n',
        b"\xff\xfe" + b'{"command": "reload"}\n',
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics?name[]=" + b"%ff" * 100 + b" HTTP/1.1\r\nAccept: \xff\r\nAccept-Encoding: gzip;q=x\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nx",
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"PROXY TCP4 1 2 3 4\r\n",
        b"PROXY TCP4 " + b"9" * 200 + b"\r\n",
        b"PROXY UNKNOWN\r\n\xff\xfe\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x00",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x0c" + b"\xff" * 12,
        b"EHLO \xff\r\nMAIL FROM:<" + b"@" * 400 + b">\r\nDATA\r\n.\r\n",
        b"\x16\x03\x01\x02\x00\x01" + b"\xff" * 600,
        *(chance.randbytes(chance.choice((1, 7, 100, 5000, 70_000))) + b"\n" for _ in range(40)),
    ]


def throw(connect: Callable[[], socket.socket], octets: bytes) -> None:
    """Send octets to a socket, half at first, and go; some clients go rudely."""
    with connect() as connection, suppress(OSError):
        connection.settimeout(5)
        for half in (octets[: len(octets) // 2], octets[len(octets) // 2 :]):
            connection.sendall(half)
        if len(octets) % 2:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def by_port(port: int) -> socket.socket:
    """A connection to a port."""
    return socket.create_connection(("127.0.0.1", port), 30)


def by_path(path: str) -> socket.socket:
    """A connection to a UNIX socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(path)
    return connection


def test_no_octets_end_a_process(sink: Sink) -> None:
    """Nonsense to the SMTP port, in place of a PROXY header, to the numbers, to both control sockets; and silence."""
    metrics = free_port()
    settings = {
        "metrics": f"127.0.0.1:{metrics}",
        "runtime_folder": "run",
        "timeouts": {"command": "2s", "proxy": "2s"},
        "limits": {"connections_per_client": 1000, "connections": 1000},
    }
    listeners = {"smtp": {}, "proxied": {"proxy_protocol": {"trusted": ["127.0.0.1"]}}}
    refused = "reload refused: the old configuration stays"
    with Gateway(settings, listeners=listeners, backend=sink.port, expect=[refused]) as gateway, ExitStack() as stack:
        before = pids(gateway)
        run = gateway.folder / "run"
        doors: dict[str, Callable[[], socket.socket]] = {
            "smtp": partial(by_port, gateway.ports["smtp"]),
            "proxy": partial(by_port, gateway.ports["proxied"]),
            "metrics": partial(by_port, metrics),
            "worker": partial(by_path, str(run / f"worker-{gateway.worker().pid}.sock")),
            "supervisor": partial(by_path, str(run / "supervisor.sock")),
        }
        for connect in doors.values():
            for octets in corpus():
                throw(connect, octets)
            for _ in range(100):  # who connects and says nothing
                stack.enter_context(connect())
        assert serves(gateway)
        with urlopen(metrics) as page:
            assert page.recv(12) == b"HTTP/1.0 200"
        assert ask(gateway, "state") == 0
        assert pids(gateway) == before
        seen = len(gateway.lines)
        assert ask(gateway, "reload") == 0
        gateway.line("configuration reloaded", after=seen)
        assert gateway.stop() == 0
        assert not [line for line in gateway.lines if "exception" in line or line["level"] == "raw"]


def urlopen(port: int) -> socket.socket:
    """A request for the numbers."""
    connection = by_port(port)
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def ask(gateway: Gateway, command: str) -> int:
    """The exit status of a command."""
    return subprocess.run(
        [LYCHGATE, command, "--config", str(gateway.config_file)], capture_output=True, check=False, timeout=120
    ).returncode


def test_who_says_nothing_keeps_the_supervisor_from_nothing(sink: Sink) -> None:
    """A hundred silent clients: a dead worker is replaced, and SIGTERM heard, with all of them there still."""
    with Gateway({"runtime_folder": "run"}, backend=sink.port, expect=["worker died"]) as gateway, ExitStack() as stack:
        path = str(gateway.folder / "run" / "supervisor.sock")
        for _ in range(100):
            stack.enter_context(by_path(path))
        asked = stack.enter_context(by_path(path))
        asked.sendall(json.dumps({"command": "no such"}).encode() + b"\n")
        assert asked.recv(100) == b'{"error": "no command \'no such\'"}\n'
        gateway.worker().kill()
        gateway.line("worker replaced")
        assert gateway.stop() == 0
