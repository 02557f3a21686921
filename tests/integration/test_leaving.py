"""What is leaving leaves: workers after a reload, whatever holds on to them; a reload that has to wait; the end."""

import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from tests.support.gateway import Gateway, poll
from tests.support.ports import free_port
from tests.support.sink import Sink
from tests.support.wire import ClosedError, Wire

LYCHGATE = str(Path(sys.executable).with_name("lychgate"))
SOON = 15.0
"""Seconds within which a worker that nothing holds has ended, also on a busy machine. All time-outs are longer."""


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


def reload(gateway: Gateway) -> None:
    """Reload by signal, and wait for it."""
    seen = len(gateway.lines)
    gateway.send(signal.SIGHUP)
    gateway.line("configuration reloaded", after=seen)


def ask_to_reload(gateway: Gateway, *more: str) -> tuple[int, str]:
    """The exit status of the command, and what it says."""
    asked = subprocess.run(
        [LYCHGATE, "reload", "--config", str(gateway.config_file), *more],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return asked.returncode, asked.stdout + asked.stderr


def begin_transaction(client: Wire) -> None:
    """Up to MAIL."""
    client.hello()
    assert client.command("MAIL FROM:<you@example.org>").code == 250


def test_twenty_reloads_with_idle_clients_leave_one_generation(sink: Sink) -> None:
    """Two idle clients each time: all of them hear 421, and in the end the workers are those of the last reload."""
    with Gateway({"workers": 2}, backend=sink.port) as gateway, ExitStack() as stack:
        for _ in range(20):
            clients = [stack.enter_context(Wire(gateway.port)) for _ in range(2)]
            clients[0].hello()
            reload(gateway)
            assert [client.reply().code for client in clients] == [421, 421]
            assert all(client.is_closed() for client in clients)
        poll(lambda: len(gateway.workers()) == 2)


# Sessions in every state without a transaction.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Issues certificates."""
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """A listener's certificate and key."""
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    return {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}


@pytest.fixture
def nobody() -> Iterator[socket.socket]:
    """A name server that answers nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        yield silent


@pytest.fixture(scope="module")
def users() -> Iterator[Sink]:
    """A mail server that knows users."""
    with Sink(auth=True) as running:
        yield running


def before_the_greeting(gateway: Gateway) -> Wire:
    """Its name is asked for, and nobody answers."""
    return Wire(gateway.ports["named"], greeted=False)


def at_implicit_tls(gateway: Gateway) -> Wire:
    """Connected, and silent."""
    return Wire(gateway.ports["implicit"], greeted=False)


def in_implicit_tls(gateway: Gateway) -> Wire:
    """In the midst of its first message of the handshake."""
    return Wire(gateway.ports["implicit"], greeted=False, first=[b"\x16\x03\x01"])


def at_starttls(gateway: Gateway) -> Wire:
    """It was told to begin the handshake."""
    client = Wire(gateway.ports["smtp"])
    client.hello()
    assert client.command("STARTTLS").code == 220
    return client


def refused(gateway: Gateway) -> Wire:
    """The client got 554."""
    client = Wire(gateway.ports["smtp"], source="127.0.0.66")
    assert client.greeting is not None
    assert client.greeting.code == 554
    return client


def in_the_proxy_header(gateway: Gateway) -> Wire:
    """It has sent the header's beginning."""
    return Wire(gateway.ports["proxied"], greeted=False, first=[b"PROXY TCP4 192."])


def before_the_proxy_header(gateway: Gateway) -> Wire:
    """It has sent nothing."""
    return Wire(gateway.ports["proxied"], greeted=False)


def authenticating(gateway: Gateway) -> Wire:
    """The backend has asked for the password."""
    client = Wire(gateway.ports["submission"])
    client.hello()
    client.command("STARTTLS")
    client.start_tls(unverified())
    client.hello()
    assert client.command("AUTH PLAIN").code == 334
    return client


def unverified() -> ssl.SSLContext:
    """TLS with whomever."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def silent_in_greeted(gateway: Gateway) -> Wire:
    """It has read the greeting, and said nothing."""
    return Wire(gateway.ports["smtp"])


def pipelining(gateway: Gateway) -> Wire:
    """It has sent the half of a command behind a whole one."""
    client = Wire(gateway.ports["smtp"])
    client.hello()
    client.send(b"NOOP\r\nNOO")
    assert client.reply().code == 250
    return client


STATES: dict[Callable[[Gateway], Wire], list[int]] = {
    silent_in_greeted: [421],
    pipelining: [421],
    before_the_greeting: [421],
    refused: [421],
    authenticating: [421],
    in_the_proxy_header: [421],
    before_the_proxy_header: [421],
    at_implicit_tls: [],
    in_implicit_tls: [],
    at_starttls: [],
}
"""In which state a client is, and what it hears at a reload before the connection's end."""


@pytest.mark.parametrize("enter", STATES, ids=lambda enter: enter.__name__)
def test_a_client_without_a_transaction_goes_at_a_reload(
    users: Sink, tls: dict[str, str], nobody: socket.socket, enter: Callable[[Gateway], Wire]
) -> None:
    """Whatever it does, or waits for, it keeps no worker of the old configuration, though all times are an hour."""
    shut = {"access": {"id": "shut", "deny": {"clients": ["127.0.0.66"]}}}
    named = {"access": {"id": "named", "deny": {"client_names": ["x.example"]}, "timeout": "1h"}}
    listeners: dict[str, dict[str, Any]] = {
        "smtp": {"tls": {"mode": "starttls", **tls}},
        "implicit": {"tls": {"mode": "implicit", **tls}},
        "submission": {"tls": {"mode": "starttls_required", **tls}, "auth": {}},
        "proxied": {"proxy_protocol": {"trusted": ["127.0.0.1"]}},
        "named": {"policies": [named, "relay"]},
    }
    settings = {
        "timeouts": dict.fromkeys(("command", "data", "tls_handshake", "proxy", "retirement"), "1h"),
        "policies": [shut, "relay"],
        "delay_reject": "none",
        "dns": {"servers": [f"127.0.0.1:{nobody.getsockname()[1]}"], "timeout": "1h", "session_time": "1h"},
    }
    with Gateway(settings, listeners=listeners, backend=users.port) as gateway:
        worker = gateway.worker()
        with enter(gateway) as client:
            reload(gateway)
            answers = []
            with suppress(ClosedError, ValueError):
                answers = [answer.code for answer in client.rest()]
            assert answers == STATES[enter]
            worker.wait(SOON)


# A reload that has to wait.


def test_a_fourth_generation_waits_and_takes_place_by_itself(sink: Sink, tmp_path: Path) -> None:
    """Said by the command, in the log and to systemd; dead workers are replaced meanwhile, and several are one."""
    with ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        settings = {"runtime_folder": "run"}
        gateway = stack.enter_context(
            Gateway(
                settings,
                backend=sink.port,
                expect=["worker died"],
                environment={"NOTIFY_SOCKET": str(tmp_path / "notify")},
            )
        )
        old: list[psutil.Process] = []
        clients: list[Wire] = []
        for _ in range(2):
            old.append(gateway.worker_of(old))
            clients.append(stack.enter_context(Wire(gateway.port)))
            begin_transaction(clients[-1])
            reload(gateway)
        seen = len(gateway.lines)
        gateway.write(gateway.settings | {"limits": {"message_size": 4321}})
        status, told = ask_to_reload(gateway, "--timeout", "2")
        assert status == 4
        for worker in old:
            assert f"worker {worker.pid} has been ending for " in told
        assert told.count(": 1 transaction\n") == 2
        line = gateway.line("reload waits for older workers to end", after=seen)
        assert [each["pid"] for each in line["workers"]] == [worker.pid for worker in old]
        while not (said := manager.recv(4096)).startswith(b"STATUS="):
            pass
        assert said.endswith(f"a reload waits for older workers to end: {old[0].pid}, {old[1].pid}".encode())
        assert len(gateway.workers()) == 3

        gateway.worker_of(old).kill()
        gateway.line("worker replaced", after=seen)
        gateway.send(signal.SIGHUP)
        assert ask_to_reload(gateway, "--timeout", "2")[0] == 4
        assert "SIZE 4321" not in size(gateway)

        assert clients[0].command("RSET").code == 250
        assert clients[0].reply().code == 421
        gateway.line("configuration reloaded", after=seen)
        assert "SIZE 4321" in size(gateway)
        old[0].wait(SOON)
        assert [each["event"] for each in gateway.lines[seen:]].count("configuration reloaded") == 1
        gateway.send(signal.SIGTERM)
        clients[1].command("RSET")
        assert gateway.stop() == 0


def size(gateway: Gateway) -> str:
    """What a new session is told."""
    with Wire(gateway.port) as client:
        return client.hello().text


def test_the_end_comes_at_once_while_a_reload_waits(sink: Sink) -> None:
    """Whoever waits for the reload is told that it does not take place."""
    with Gateway({"runtime_folder": "run"}, backend=sink.port) as gateway, ExitStack() as stack:
        for _ in range(2):
            begin_transaction(stack.enter_context(Wire(gateway.port)))
            reload(gateway)
        seen = len(gateway.lines)
        asked = subprocess.Popen(
            [LYCHGATE, "reload", "--config", str(gateway.config_file)], stderr=subprocess.PIPE, text=True
        )
        gateway.line("reload waits for older workers to end", after=seen)
        gateway.send(signal.SIGTERM)
        stack.close()
        assert asked.communicate(timeout=60)[1] == "lychgate: not reloaded: the service stops\n"
        assert asked.returncode == 1
        assert gateway.stop() == 0


# What is stuck.


def has_threads(worker: psutil.Process) -> bool:
    """Whether a worker has begun to wait for SQLite: its driver has a thread of its own."""
    return bool(worker.num_threads() > 1)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """A file of SQLite that another process has locked: its driver gives up after five seconds."""
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("CREATE TABLE recipients (address TEXT)")
    database.execute("BEGIN EXCLUSIVE")
    yield
    database.close()


@contextmanager
def hung(file: Path) -> Iterator[None]:
    """A file that can't be opened, as on a file system that is gone: its driver's thread waits for ever."""
    os.mkfifo(file)
    yield


@pytest.mark.parametrize("stuck", [locked, hung])
def test_a_stuck_source_keeps_nobody(
    sink: Sink, tmp_path: Path, stuck: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """At a reload and at the end workers go when the time for transactions is over, and are not killed."""
    file = tmp_path / "recipients.sqlite"
    query = {"url": f"sqlite:///{file}", "query": "SELECT 1 FROM recipients WHERE address = :address", "timeout": "1h"}
    settings = {
        "domains": {"example.com": {"recipients": {"sql": query}}},
        "timeouts": {"drain": "300ms", "retirement": "300ms"},
        "policies": ["relay", {"recipient": {"timeout": "1h"}}],
    }
    with stuck(file), Gateway(settings, backend=sink.port) as gateway, ExitStack() as stack:
        for _ in range(2):
            worker = ask_stuck_source(gateway, stack)
            reload(gateway)
            worker.wait(SOON)
        worker = ask_stuck_source(gateway, stack)
        gateway.send(signal.SIGTERM)
        worker.wait(SOON)
        assert gateway.stop() == 0
        assert not any(line["event"].startswith("worker killed") for line in gateway.lines)


def ask_stuck_source(gateway: Gateway, stack: ExitStack) -> psutil.Process:
    """Name a recipient; returns the worker that waits for its source."""
    client = stack.enter_context(Wire(gateway.port))
    begin_transaction(client)
    client.send(b"RCPT TO:<alice@example.com>\r\n")
    worker = gateway.worker_of([])
    poll(partial(has_threads, worker))
    return worker


STUCK = """
import asyncio
import threading
from gateway.policy import NoOptions, Policy
class Stuck(Policy[NoOptions]):
    name = "stuck"
    async def on_mail(self, transaction):
        await asyncio.to_thread(threading.Event().wait)
    async def stop(self):
        await asyncio.to_thread(threading.Event().wait)
"""


def test_a_stuck_policy_keeps_nobody(sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's policy waits for ever in a thread, for a client and at its end: workers go, and are not killed."""
    (tmp_path / "stuck.py").write_text(STUCK)
    (information := tmp_path / "stuck-1.dist-info").mkdir()
    (information / "METADATA").write_text("Name: stuck\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[lychgate.policies]\nstuck = stuck:Stuck\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = {"policies": [{"stuck": {"timeout": "1h"}}, "relay"], "timeouts": {"drain": "300ms"}}
    with Gateway(settings, backend=sink.port) as gateway, ExitStack() as stack:
        for _ in range(2):
            worker = ask_stuck_policy(gateway, stack)
            reload(gateway)
            worker.wait(SOON)
        worker = ask_stuck_policy(gateway, stack)
        gateway.send(signal.SIGTERM)
        worker.wait(SOON)
        assert gateway.stop() == 0
        assert not any(line["event"].startswith("worker killed") for line in gateway.lines)
        assert sum(line["event"] == "not released in time" for line in gateway.lines) == 3


def ask_stuck_policy(gateway: Gateway, stack: ExitStack) -> psutil.Process:
    """Say MAIL; returns the worker that waits for its policy."""
    client = stack.enter_context(Wire(gateway.port))
    client.hello()
    client.send(b"MAIL FROM:<you@example.org>\r\n")
    worker = gateway.worker_of([])
    poll(partial(has_threads, worker))
    return worker


def test_slow_readers_of_the_numbers_keep_nobody(sink: Sink) -> None:
    """Silent, in the midst of a request, reading nothing: others read, a reload's workers go, and the end comes."""
    port = free_port()
    with Gateway({"metrics": f"127.0.0.1:{port}"}, backend=sink.port) as gateway, ExitStack() as stack:
        worker = gateway.worker()
        for request in (b"", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n") * 10:
            reader = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            reader.sendall(request)
            assert b"200 OK" in page(port)
        reload(gateway)
        worker.wait(SOON)
        stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)).sendall(b"GET ")
        assert b"200 OK" in page(port)
        last = gateway.worker()
        gateway.send(signal.SIGTERM)
        last.wait(SOON)
        assert gateway.stop() == 0


def page(port: int) -> bytes:
    """What Prometheus is told."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return b"".join(iter(partial(connection.recv, 65536), b""))
