"""The marker ``peer`` and the fixture ``conformance_data``: what a test sees where something is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import peers

_ROOT = Path(__file__).parents[2]
_NPM = _ROOT / "tests/npm"
_TEST = """
import pytest

@pytest.mark.peer("postfix")
def test_with_postfix():
    pass

def test_with_data(conformance_data):
    assert conformance_data.is_dir()

@pytest.mark.peer("no-such-row")
def test_of_a_typing_error():
    pass
"""


def _run(tmp_path: Path, **environment: str) -> str:
    """Run the test file where no program is found, and return what pytest prints."""
    (tmp_path / "test_it.py").write_text(_TEST)
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "sh").symlink_to("/bin/false")
    settings = {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(_ROOT)} | environment
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "CONFORMANCE_DATA", "PATH"}}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rs",
        "--tb=line",
        "-p",
        "tests.support.peers",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
    ]
    result = subprocess.run(
        [*command, "--rootdir", tmp_path, tmp_path / "test_it.py"],
        env=kept | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


def test_missing_things_skip_with_a_reason(tmp_path: Path) -> None:
    """A test that needs what is not there is skipped, and pytest says what to install; a misspelt name is an error."""
    output = _run(tmp_path)
    assert "2 skipped, 1 error" in output
    assert "needs postfix: apt-get install postfix" in output
    assert "needs the conformance data: set CONFORMANCE_DATA" in output
    assert "no-such-row" in output


def test_missing_things_fail_under_continuous_integration(tmp_path: Path) -> None:
    """With CI=true nothing is skipped."""
    assert "3 errors" in _run(tmp_path, CI="true")


def test_present_data_is_found(tmp_path: Path) -> None:
    """The folder that CONFORMANCE_DATA names is handed to the test."""
    assert "1 passed, 1 skipped, 1 error" in _run(tmp_path, CONFORMANCE_DATA=str(tmp_path))


@pytest.mark.parametrize("peer", peers.peers().values(), ids=lambda peer: peer.name)
def test_every_row_names_a_check(peer: peers.Peer) -> None:
    """Each row of tests/peers.txt has a package's name and a check that the shell can run."""
    assert peer.package.removeprefix("npm:").replace("-", "").isalnum()
    assert subprocess.run(["sh", "-n", "-c", peer.check], check=False).returncode == 0


def test_only_peers_and_users_are_a_reason_to_skip() -> None:
    """No test skips by itself where a program is missing: what it needs is a row, so continuous integration fails."""
    skips = re.compile(r"importorskip|\bskip\(|\bskipif\((?!os\.geteuid\(\) != 0,)")
    files = {path for path in (_ROOT / "tests").rglob("*.py") if skips.search(path.read_text("utf-8"))}
    assert files - {Path(__file__)} == {Path(peers.__file__)}


def test_packages_of_npm_are_pinned() -> None:
    """Each row of npm's is asked for in one version, and what comes with it is known by its hash, from any registry."""
    wanted = json.loads((_NPM / "package.json").read_text("utf-8"))["dependencies"]
    rows = {peer.package.removeprefix("npm:") for peer in peers.peers().values() if peer.package.startswith("npm:")}
    assert rows <= wanted.keys()
    assert all(re.fullmatch(r"(npm:[\w-]+@)?\d+\.\d+\.\d+", version) for version in wanted.values())
    locked = json.loads((_NPM / "package-lock.json").read_text("utf-8"))["packages"]
    assert locked.pop("")["dependencies"] == wanted
    assert {f"node_modules/{name}" for name in wanted} <= locked.keys()
    for package in locked.values():
        assert "integrity" in package
        assert "resolved" not in package


def test_packages_of_npm_need_a_program_that_runs_them(tmp_path: Path) -> None:
    """What was installed with the PATH's Node.js is found in a folder with a space, and not where Node.js is gone."""
    checkout, programs = tmp_path / "a checkout", tmp_path / "bin"
    shutil.copytree(_NPM, checkout / "tests/npm")
    (checkout / ".venv").mkdir()
    programs.mkdir()
    for name, lines in {
        "node": 'case $1 in -e) ;; *) echo "$NODE_PATH" ;; esac',
        "npm": "mkdir -p node_modules/mailauth",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{lines}\n")
        (programs / name).chmod(0o755)
    for name in ("sh", "cat", "chmod", "cksum", "cp", "cut", "dirname", "mkdir", "mktemp", "mv", "rm", "tail"):
        (programs / name).symlink_to(str(shutil.which(name)))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(programs), "HOME": str(tmp_path)}
        command = [str(checkout / "tests/npm/packages.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run("check", "mailauth").returncode == 1
    assert run("install").returncode == 0
    assert run("check", "mailauth").returncode == 0
    assert run("check", "mailparser").returncode == 1
    folder = Path(run("run", "program.js").stdout.strip())
    assert (folder / "mailauth").is_dir()
    assert folder.parent.parent == checkout / ".venv"
    (programs / "node").unlink()
    assert run("check", "mailauth").returncode == 1
