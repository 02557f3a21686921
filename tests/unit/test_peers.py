"""The marker ``peer`` and the fixture ``conformance_data``: what a test sees where something is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import peers

_ROOT = Path(__file__).parents[2]
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
