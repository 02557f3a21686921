"""``lychgate serve`` and ``lychgate reload``: what they say before there is a service."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import app

CONFIG = """
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:%d"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains: {example.com: {}}
policies: [relay]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(CONFIG % 2525)
    return path


def run(*arguments: str | Path) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_serve_tells_what_can_not_be_bound(file: Path) -> None:
    """In a process of its own, which ends with 1 and one line, and no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file.write_text(CONFIG % port)
        command = [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"lychgate: can not listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "reload"])
def test_a_wrong_configuration_is_told_and_nothing_done(file: Path, command: str) -> None:
    """With its line and column, and exit status 1."""
    file.write_text("listeners: nonsense\n")
    result = run(command, "--config", file)
    assert result.exit_code == 1
    assert f"{file}:1:12: listeners:" in result.output.replace("\n", "")


def test_reload_signals_the_process_of_the_pid_file(file: Path, tmp_path: Path) -> None:
    """SIGHUP, and the file's own pid_file unless another is given."""
    code = "import signal; signal.pthread_sigmask(0, {1}); print(flush=True); print(int(signal.sigwait({1})))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        service.stdout.readline()  # it waits for the signal
        (tmp_path / "pid").write_text(f"{service.pid}\n")
        file.write_text(CONFIG % 2525 + "pid_file: pid\n")
        with (tmp_path / "pid").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            result = run("reload", "--config", file)
        assert result.exit_code == 0
        assert f"process {service.pid} was told to reload" in result.output.replace("\n", " ")
        assert int(service.stdout.read()) == signal.SIGHUP


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [(None, 2, "names no pid_file"), ("nonsense", 1, "no service"), ("", 1, "no service")],
)
def test_reload_without_a_service_says_so(
    file: Path, tmp_path: Path, content: str | None, status: int, told: str
) -> None:
    """A missing pid file setting is a wrong call, a pid file that leads nowhere a failure."""
    more: list[str | Path] = []
    if content is not None:
        (tmp_path / "pid").write_text(content)
        more = ["--pid-file", tmp_path / "pid"]
    result = run("reload", "--config", file, *more)
    assert result.exit_code == status
    assert told in result.output.replace("\n", " ")


def test_reload_signals_no_stranger(file: Path, tmp_path: Path) -> None:
    """A pid file that was left behind is not locked; the process that has its number now is let alone."""
    (tmp_path / "pid").write_text(str(os.getpid()))
    result = run("reload", "--config", file, "--pid-file", tmp_path / "pid")
    assert result.exit_code == 1
    assert "left behind" in result.output.replace("\n", " ")
