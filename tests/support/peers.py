"""A pytest plugin: tests name the programs and data that they need.

``@pytest.mark.peer("postfix", "swaks")`` names rows of ``tests/peers.txt``; the fixture ``conformance_data`` is the
folder of public test data that ``CONFORMANCE_DATA`` names. Where one is missing the test is skipped, and its line in
pytest's summary says what is missing and how to get it. Under continuous integration (``CI=true``) it fails instead, so
that nothing goes unnoticed.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

import pytest

_ROOT = Path(__file__).parents[2]
_TABLE = _ROOT / "tests/peers.txt"

NODE: Final = (str(_ROOT / "tests/npm/packages.sh"), "run")
"""Before a file and arguments: the command that runs a program of Node.js with the packages of ``tests/npm/``."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that tests talk to.

    Attributes:
        name: How tests name it.
        package: The Debian package that has it, or ``npm:`` and the name of the package in ``tests/npm/package.json``.
        check: The shell command that succeeds where it is installed.
    """

    name: str
    package: str
    check: str

    @property
    def remedy(self) -> str:
        """What installs it."""
        return "tests/peers.sh" if self.package.startswith("npm:") else f"apt-get install {self.package}"


@cache
def peers() -> Mapping[str, Peer]:
    """The rows of ``tests/peers.txt`` by name."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]
    return {name: Peer(name, package, check) for name, package, check in rows}


@cache
def is_installed(name: str) -> bool:
    """Whether the peer is there. An unknown name is a ``KeyError``."""
    command = peers()[name].check
    return subprocess.run(["sh", "-c", command], cwd=_ROOT, capture_output=True, check=False).returncode == 0


def unavailable(reason: str) -> NoReturn:
    """Skip the running test, or fail it under continuous integration."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and find Postfix's programs for users whose PATH lacks the administrator's folders."""
    config.addinivalue_line("markers", "peer(*names): the programs of tests/peers.txt that the test needs")
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose peer is missing."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            if not is_installed(name):
                unavailable(f"needs {name}: {peers()[name].remedy}")


@pytest.fixture(scope="session")
def conformance_data() -> Path:
    """The folder of public test data."""
    folder = os.environ.get("CONFORMANCE_DATA")
    if not folder or not Path(folder).is_dir():
        unavailable("needs the conformance data: set CONFORMANCE_DATA to its folder")
    return Path(folder)
