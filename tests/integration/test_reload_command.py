"""``lychgate reload``: what it says, and what its exit status says, with a real service."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.gateway import Gateway
from tests.support.sink import Sink
from tests.support.wire import Wire

LYCHGATE = str(Path(sys.executable).with_name("lychgate"))
REFUSED = "reload refused: the old configuration stays"
ROOT = Path(__file__).parents[2]
OUT_OF_ORDER = """
from gateway.policy import NoOptions, Policy
class OutOfOrder(Policy[NoOptions]):
    name = "out_of_order"
    async def start(self):
        raise RuntimeError("out of order")
    def on_mail(self, transaction):
        return None
"""
STAYS = "lychgate: not reloaded: the old configuration stays in force\n"


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


@pytest.fixture
def gateway(sink: Sink) -> Iterator[Gateway]:
    """A service that commands can ask."""
    with Gateway({"runtime_folder": "run"}, backend=sink.port, expect=[REFUSED]) as running:
        yield running


def begin(gateway: Gateway, *more: str, command: str = "reload") -> subprocess.Popen[str]:
    """Start the command."""
    return subprocess.Popen(
        [LYCHGATE, command, "--config", str(gateway.config_file), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit status, standard output and standard error."""
    out, told = process.communicate(timeout=120)
    return process.returncode, out, told


def size(gateway: Gateway) -> str:
    """The size of messages that a new session is told."""
    with Wire(gateway.port) as client:
        return next(line for line in client.hello().lines if line.startswith("SIZE "))


def test_it_says_that_the_configuration_is_in_force(gateway: Gateway) -> None:
    """When it ends with 0, new sessions are of the new configuration."""
    gateway.write(gateway.settings | {"limits": {"message_size": 4321}})
    assert ended(begin(gateway)) == (0, "reloaded: 1 listener, 5 policies\n", "")
    assert size(gateway) == "SIZE 4321"
    gateway.line("configuration reloaded")


def test_an_invalid_file_is_told_as_check_tells_it(gateway: Gateway) -> None:
    """With every error and its place, exit status 1, and nothing changed."""
    worker, before = gateway.worker().pid, size(gateway)
    gateway.write('hostname: x.example\nlistenners: []\nlimits: {message_size: "x"}\n')
    status, _, told = ended(begin(gateway))
    assert (status, told) == (1, ended(begin(gateway, command="check"))[2])
    assert "lychgate.yaml:2:1: listenners: is not a setting here" in told
    assert (gateway.worker().pid, size(gateway)) == (worker, before)


def test_what_only_the_service_can_find_is_told(gateway: Gateway, sink: Sink) -> None:
    """A certificate that is not there, with its place; a port that is taken. The old configuration stays in force."""
    worker, (listener,) = gateway.worker().pid, gateway.settings["listeners"]
    missing = listener | {"tls": {"mode": "starttls", "certificate": "none.pem"}}
    gateway.write(gateway.settings | {"listeners": [missing]})
    status, _, told = ended(begin(gateway))
    assert (status, told) == (1, ended(begin(gateway, command="check"))[2] + STAYS)
    assert "listeners[0].tls.certificate: there is no file" in told
    gateway.write(gateway.settings | {"listeners": [listener, {"smtp": f"127.0.0.1:{sink.port}"}]})
    status, _, told = ended(begin(gateway))
    assert (status, told) == (1, f"can not listen on 127.0.0.1:{sink.port}: Address already in use\n{STAYS}")
    assert gateway.worker().pid == worker
    assert [len(each["problems"]) for each in gateway.lines if each["event"] == REFUSED] == [1, 1]
    assert size(gateway)


def test_workers_that_can_not_start_leave_the_old_ones(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's policy raises when a worker begins: that is told, and the workers before go on as if nothing was."""
    (tmp_path / "out_of_order.py").write_text(OUT_OF_ORDER)
    (information := tmp_path / "out_of_order-1.dist-info").mkdir()
    (information / "METADATA").write_text("Name: out_of_order\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[lychgate.policies]\nout_of_order = out_of_order:OutOfOrder\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with Gateway({"runtime_folder": "run"}, backend=sink.port, expect=[REFUSED, "worker failed"]) as gateway:
        worker, before = gateway.worker().pid, size(gateway)
        policies = [*gateway.settings["policies"], "out_of_order"]
        gateway.write(gateway.settings | {"policies": policies, "limits": {"message_size": 4321}})
        assert ended(begin(gateway)) == (1, "", f"the new workers did not become ready\n{STAYS}")
        assert (gateway.worker().pid, size(gateway)) == (worker, before)
        gateway.write(gateway.settings | {"limits": {"message_size": 4321}})
        assert ended(begin(gateway))[0] == 0
        assert size(gateway) == "SIZE 4321"


def test_no_service_is_told(gateway: Gateway) -> None:
    """After it was stopped, and after it was killed; the socket that it left is in nobody's way."""
    path = gateway.folder / "run" / "supervisor.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    psutil.Process(gateway.pid).kill()
    gateway.stop()
    assert path.exists()
    status, out, told = ended(begin(gateway))
    assert (status, out, told[:32]) == (1, "", "lychgate: no service answers at ")
    with Gateway(gateway.settings, folder=gateway.folder) as again:
        assert ended(begin(again))[0] == 0
    assert not path.exists()
    assert ended(begin(gateway))[0] == 1


def test_a_service_that_does_not_answer_is_told_apart(gateway: Gateway) -> None:
    """Exit status 3: whether it will be in force nobody knows yet. It is, when the service goes on."""
    gateway.write(gateway.settings | {"limits": {"message_size": 4321}})
    gateway.send(signal.SIGSTOP)
    status, _, told = ended(begin(gateway, "--timeout", "0.3"))
    assert (status, told[:58]) == (3, "lychgate: the service has not answered within 0.3 s; what ")
    gateway.send(signal.SIGCONT)
    gateway.line("configuration reloaded")
    assert size(gateway) == "SIZE 4321"


def test_two_at_once_are_told_both(gateway: Gateway) -> None:
    """One reload for both where the file was not read yet, else one after the other; each is told the outcome."""
    gateway.write(gateway.settings | {"limits": {"message_size": 4321}})
    gateway.send(signal.SIGSTOP)
    both = [begin(gateway), begin(gateway)]
    gateway.send(signal.SIGCONT)
    assert [ended(each)[:2] for each in both] == [(0, "reloaded: 1 listener, 5 policies\n")] * 2
    assert size(gateway) == "SIZE 4321"


def test_a_service_that_runs_with_another_file_reloads_nothing(gateway: Gateway) -> None:
    """The command would else speak of a file that was never looked at."""
    other = gateway.folder / "other.yaml"
    other.write_text(gateway.config_file.read_text())
    worker = gateway.worker().pid
    status, _, told = ended(begin(gateway, "--config", str(other)))
    assert (status, told) == (1, f"lychgate: the service runs with another file, {gateway.config_file}\n")
    assert gateway.worker().pid == worker
    other.unlink()
    other.symlink_to(gateway.config_file)
    assert ended(begin(gateway, "--config", str(other)))[0] == 0


def test_it_is_found_where_the_file_in_force_says(gateway: Gateway) -> None:
    """After a reload by SIGHUP with another runtime_folder the command asks there."""
    gateway.write(gateway.settings | {"runtime_folder": "elsewhere"})
    assert ended(begin(gateway))[0] == 1
    gateway.send(signal.SIGHUP)
    gateway.line("configuration reloaded")
    assert ended(begin(gateway))[0] == 0
    assert not (gateway.folder / "run" / "supervisor.sock").exists()


def test_a_client_that_says_nothing_holds_nobody_up(gateway: Gateway) -> None:
    """The next one is answered, and so is one that came with nonsense."""
    path = str(gateway.folder / "run" / "supervisor.sock")
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as wrong:
        silent.connect(path)
        wrong.connect(path)
        wrong.sendall(b"nonsense\n")
        assert wrong.makefile().readline() == '{"error": "no request"}\n'
        assert ended(begin(gateway))[0] == 0


def test_workers_keep_no_hold_of_the_supervisors_socket(gateway: Gateway) -> None:
    """Neither of the socket nor of a connection, by which one was asked for: who asks sees when the supervisor ends."""
    assert ended(begin(gateway))[0] == 0
    path = str(gateway.folder / "run" / "supervisor.sock")
    held = {
        process.pid: [each for each in process.net_connections("unix") if each.laddr == path]
        for process in (gateway.worker(), psutil.Process(gateway.pid))
    }
    assert [len(found) for found in held.values()] == [0, 1]


def test_two_services_with_one_folder(gateway: Gateway, sink: Sink) -> None:
    """The second has no socket, which it tells, and serves; the first is still the one that is asked."""
    settings = gateway.settings | {"runtime_folder": str(gateway.folder / "run")}
    del settings["listeners"], settings["pid_file"]
    with Gateway(settings, backend=sink.port) as second:
        assert second.line("no control socket")["reason"] == "Address already in use"
        assert size(second)
        status, _, told = ended(begin(second))
        assert (status, str(gateway.config_file) in told) == (1, True)
    assert ended(begin(gateway))[0] == 0
