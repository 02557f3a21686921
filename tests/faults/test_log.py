"""Nobody reads the log: standard error is a pipe that is full. Mail goes on, and so do the supervisor and its end."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.integration.test_metrics import Page
from tests.support.gateway import Gateway, poll
from tests.support.installation import own
from tests.support.ports import free_port
from tests.support.sink import Sink
from tests.support.wire import Wire

LINES = 400
ROOT = Path(__file__).parents[2]


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


def make_line(port: int) -> None:
    """Let a worker log a line: a client that speaks HTTP is sent away."""
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        while client.recv(65_536):
            pass


def send(gateway: Gateway, count: int) -> None:
    """Send so many messages, each on a connection of its own."""
    for _ in range(count):
        with Wire(gateway.port) as client:
            client.hello()
            assert client.transaction().code == 250


def settings(page: Page, **log: object) -> dict[str, object]:
    """Two workers that wait for little of the log."""
    made = {"format": "json", "client_lines": 0, "waiting": 20_000, **log}
    return {"workers": 2, "log": made, "metrics": page.setting, "timeouts": {"drain": "1s"}}


def test_mail_goes_on_while_nobody_reads_the_log(sink: Sink) -> None:
    """Every message is taken while hundreds of lines are logged; what was lost of these is counted, and said later."""
    page = Page()
    with Gateway(settings(page), backend=sink.port) as gateway:
        seen = len(gateway.lines)
        gateway.leave_log()
        for _ in range(LINES // 20):
            for _ in range(20):
                make_line(gateway.port)
            send(gateway, 1)
        poll(lambda: page.value("log_lines_lost_total") > LINES // 2)

        assert len(sink.messages) == LINES // 20
        counted = page.value("log_lines_lost_total")

        gateway.read_log()
        gateway.line("log lines were lost", after=seen)
        gateway.stop()
        lost = sum(line["lost"] for line in gateway.lines if line["event"] == "log lines were lost")
        assert lost == counted
        ended = sum(line["event"] == "session ended" for line in gateway.lines[seen:])
        assert ended + lost == LINES


def test_a_pipe_that_nobody_reads_keeps_nothing_from_its_end(sink: Sink) -> None:
    """SIGTERM ends workers and supervisor by themselves, within what they may take, and what was written is whole."""
    page = Page()
    with Gateway(settings(page), backend=sink.port) as gateway:
        gateway.leave_log()
        for _ in range(100):
            make_line(gateway.port)
        process = psutil.Process(gateway.pid)
        began = time.monotonic()
        gateway.send(signal.SIGTERM)
        poll(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert time.monotonic() - began < 1 + 10 + 2 + 5  # drain, what a worker may take more, the supervisor's log
        gateway.read_log()
        assert gateway.stop() == 0
        assert not [line for line in gateway.lines if line["level"] == "raw"]


def test_the_supervisor_goes_on_while_nobody_reads_the_log(sink: Sink) -> None:
    """It replaces a worker that dies, and says so later."""
    page = Page()
    with Gateway(settings(page), backend=sink.port, expect=["worker died"]) as gateway:
        gateway.leave_log()
        while page.value("log_lines_lost_total") < 10:
            for _ in range(50):
                make_line(gateway.port)
        gateway.workers()[0].kill()
        poll(lambda: len(gateway.workers()) == 2)  # the supervisor logs, forks and goes on
        send(gateway, 5)
        gateway.read_log()
        gateway.line("worker died")


def test_lines_about_one_client_are_bounded(sink: Sink) -> None:
    """Above ``client_lines`` a minute they are left out; those of another client are there."""
    with Gateway({"log": {"format": "json", "client_lines": 5}}, backend=sink.port) as gateway:
        for _ in range(20):
            make_line(gateway.port)
        with socket.create_connection(("127.0.0.1", gateway.port), 30, ("127.0.0.2", 0)) as other:
            other.sendall(b"GET / HTTP/1.1\r\n")
            gateway.line("session ended", client="127.0.0.2")
        assert sum(line["event"] == "session ended" for line in gateway.lines) == 6


def test_the_last_error_of_a_service_that_can_not_start_is_seen(tmp_path: Path) -> None:
    """Where standard error is read late the last words come; where it never is, the command ends all the same."""
    config = tmp_path / "lychgate.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(
            f"hostname: x.example\nlisteners: [{{smtp: '127.0.0.1:{port}'}}]\npolicies: [relay]\n"
            f"backends: {{b: {{servers: ['127.0.0.1:{port}']}}}}\ndomains: {{example.com: {{}}}}\n"
        )
        command = [*own().command, "serve", "--config", str(config)]
        for is_read in (True, False):
            reading, writing = os.pipe()
            os.set_blocking(writing, False)
            while True:
                try:
                    os.write(writing, b"x" * 1000)
                except BlockingIOError:
                    break
            os.set_blocking(writing, True)
            process = subprocess.Popen(command, stderr=writing, cwd=ROOT, env=os.environ | own().environment)
            os.close(writing)
            if is_read:
                with os.fdopen(reading, "rb") as lines:
                    assert b"can not listen" in lines.read()
                assert process.wait(60) == 1
            else:
                assert process.wait(60) == 1
                os.close(reading)


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("raise ValueError('uncaught')", "uncaught exception"),
        ("thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()", "thread failed"),
        ("Bad()", "exception ignored"),
        ("warnings.warn('a warning')", "a warning"),
        ("print('printed')", "printed"),
        ("print('printed', file=sys.stderr)", "printed"),
        ("logging.getLogger('x').warning('%d', 'no number')", "a line could not be made"),
        ("log.configure('info', 'json'); structlog.get_logger('x').info('said', field=Mute())", "a line could not"),
    ],
)
@pytest.mark.parametrize("is_full", [False, True], ids=["read", "never read"])
def test_nothing_else_waits_for_standard_error(code: str, event: str, is_full: bool) -> None:  # noqa: FBT001 - a table's column
    """Exceptions that nobody caught, warnings, prints and lines that can't be made: all are said, none blocks."""
    program = textwrap.dedent(
        """
        import logging, os, structlog, sys, threading, warnings
        from gateway import log
        class Bad:
            def __del__(self): raise ValueError("finalizer")
        class Mute:
            def __str__(self): raise ValueError("no text")
            __repr__ = __str__
        log.configure("info", "json", waiting=1_000_000)
        log.take_over()
        for _ in range(int(sys.argv[1])):
            print("x" * 999)
        """
    )
    program += f"{code}\nos.write(1, b'went on')\n"
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "100" if is_full else "0"],
            stdout=subprocess.PIPE, stderr=writing, cwd=ROOT, text=True,
        )  # fmt: skip
        os.close(writing)
        if is_full:
            assert process.stdout is not None
            output, _ = process.communicate(timeout=60)
            assert (output == "went on") is ("raise" not in code)
        with os.fdopen(os.dup(reading), "r") as lines:
            text = lines.read()
        if not is_full:
            process.communicate(timeout=60)
            assert event in text
            for line in text.splitlines():
                assert json.loads(line)["event"] if "print" not in code else line == "printed"
    finally:
        os.close(reading)


def test_a_reload_changes_the_log_of_the_workers(sink: Sink) -> None:
    """New workers begin with the new settings: at ``warning`` they say nothing of a client that is sent away."""
    with Gateway(backend=sink.port) as gateway:
        make_line(gateway.port)
        gateway.line("session ended")
        gateway.write(gateway.settings | {"log": {"format": "json", "level": "warning"}})
        old = gateway.worker().pid
        gateway.send(signal.SIGHUP)
        poll(lambda: [each.pid for each in gateway.workers() if each.pid != old] and len(gateway.workers()) == 1)
        seen = len(gateway.lines)
        make_line(gateway.port)
        gateway.stop()
        assert not [line for line in gateway.lines[seen:] if line["event"] == "session ended"]


def test_a_service_manager_that_does_not_listen_holds_up_nothing(sink: Sink, tmp_path: Path) -> None:
    """Systemd's socket is full: the service serves, and ends, all the same."""
    path = tmp_path / "notify"
    deaf, other = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with deaf, other:
        deaf.bind(str(path))
        other.setblocking(False)
        with suppress(BlockingIOError):
            while other.sendto(b"STATUS=full", str(path)):
                pass
        with Gateway(backend=sink.port, environment={"NOTIFY_SOCKET": str(path)}) as gateway:
            gateway.line("service ready")
            send(gateway, 1)
            assert gateway.stop() == 0


def test_a_demo_that_nobody_watches_takes_mail(tmp_path: Path) -> None:
    """Its decisions go to a pipe that is full."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    port = free_port()
    command = [*own().command, "demo", "--port", str(port), "--maildir", str(tmp_path / "Maildir")]
    with subprocess.Popen(command, stdout=writing, cwd=ROOT, env=os.environ | own().environment) as process:
        os.close(writing)
        try:
            poll(lambda: _answers(port))
            for _ in range(80):
                with Wire(port) as client:
                    client.hello()
                    assert client.transaction().code == 250
        finally:
            process.terminate()
        assert process.wait(60) == 0
    os.close(reading)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
