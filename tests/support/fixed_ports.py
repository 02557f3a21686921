"""A pytest plugin: while tests run, the ports that tests and the demo name are taken, as where somebody has the demo.

A test that binds one of them fails here as it does there. One that connects to one of them is found, too, and fails.
Ports that tests use come from ``tests.support.ports``, or from the system (port 0).

Known limit: of several processes that run tests one holds a port, and tells the test that it runs when somebody
connects, which may be a test beside it.
"""

import re
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_NAMED: Final = re.compile(r"""(?:127\.0\.0\.1|0\.0\.0\.0|::1?|localhost)(?:\]?:|["'], )(\d{4,5})\b""")
_TAKEN: Final = pytest.StashKey[list[socket.socket]]()


@cache
def fixed_ports() -> frozenset[int]:
    """Every port of this machine from 1024 on that a file of the tests names, or the demo's configuration."""
    files = [*(_ROOT / "tests").rglob("*.py"), *(_ROOT / "tests").rglob("*.yaml"), _ROOT / "deploy" / "demo.yaml"]
    texts = (file.read_text("utf-8") for file in files)
    found = {int(port) for text in texts for port in _NAMED.findall(text)}
    return frozenset(port for port in found if 1024 <= port < 65536)


def connected(taken: list[socket.socket]) -> list[int]:
    """The ports to which somebody has connected since the last look."""
    found = []
    for listening in select.select(taken, [], [], 0)[0]:
        with suppress(OSError), listening.accept()[0]:
            found.append(listening.getsockname()[1])
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Take the ports, but for those that somebody has; the process that only hands out tests takes none."""
    config.stash[_TAKEN] = taken = []
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return
    for port in sorted(fixed_ports()):
        listening = socket.socket()
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()
        except OSError:
            listening.close()
        else:
            taken.append(listening)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of them."""
    for listening in config.stash[_TAKEN]:
        listening.close()


@pytest.fixture(autouse=True)
def _no_fixed_port(pytestconfig: pytest.Config) -> Iterator[None]:
    """No test connects to a port that it was not given."""
    yield
    found = connected(pytestconfig.stash[_TAKEN])
    assert not found, f"this test, or one that ran beside it, connects to 127.0.0.1:{found}, which nobody gave it"
