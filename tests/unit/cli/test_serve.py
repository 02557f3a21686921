"""``lychgate serve`` and ``lychgate reload``: what they say before there is a service."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_socket_takes_the_place_of_a_closed_descriptor(closed: str, tmp_path: Path) -> None:
    """What is printed or logged goes nowhere then, and not to a client."""
    program = (
        "import os, pathlib, socket, sys; from gateway.cli import fill_standard_descriptors as fill; fill(); "
        "pathlib.Path(sys.argv[1]).write_text(str(socket.socket().fileno()))"
    )
    answer = tmp_path / "answer"
    command = f'exec "$0" -c "$1" "$2" {closed}'
    subprocess.run(["sh", "-c", command, sys.executable, program, answer], check=True, timeout=60)
    assert int(answer.read_text()) > 2


@pytest.mark.parametrize("command", ["serve", "reload"])
def test_a_wrong_configuration_is_told_and_nothing_done(file: Path, command: str) -> None:
    """With its line and column, and exit status 1."""
    file.write_text("listeners: nonsense\n")
    result = run(command, "--config", file)
    assert result.exit_code == 1
    assert f"{file}:1:12: listeners:" in result.output.replace("\n", "")


def test_reload_without_a_service_says_so(file: Path, tmp_path: Path) -> None:
    """Where nothing listens, where something was left behind, and where the file does not say where to ask."""
    result = run("reload", "--config", file)
    assert (result.exit_code, "names no runtime_folder" in result.output) == (1, True)
    file.write_text(CONFIG % 2525 + "runtime_folder: run\n")
    result = run("reload", "--config", file)
    assert (result.exit_code, f"no service answers at {tmp_path}/run/supervisor.sock" in result.output) == (1, True)
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "run" / "supervisor.sock"))
    result = run("reload", "--config", file)
    assert (result.exit_code, "no service answers at" in result.output) == (1, True)


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b'{"error": "no command \'reload\'"}\n'])
def test_reload_takes_no_other_answer_for_a_success(file: Path, tmp_path: Path, answer: bytes) -> None:
    """A supervisor that ends while it is asked, or says what it should not."""
    file.write_text(CONFIG % 2525 + "runtime_folder: .\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "supervisor.sock"))
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as connection:
                asked = json.loads(connection.recv(65_536))
                assert asked == {"command": "reload", "path": str(file), "patience": 5.0}
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            result = run("reload", "--config", file)
            served.result()
    assert (result.exit_code, result.output[:10]) == (1, "lychgate: ")
