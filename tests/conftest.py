"""What all tests share: the marker ``peer``, the fixture ``conformance_data``, and that no port is anybody's own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support.installation import remove_copies

pytest_plugins = ["tests.support.peers", "tests.support.fixed_ports"]

# A busy machine makes an example slow, not wrong. Those that failed are remembered, unless the sources are read-only.
_REMEMBERS: dict[str, None] = {} if os.access(Path(__file__).parents[1], os.W_OK) else {"database": None}
settings.register_profile("lychgate", deadline=None, **_REMEMBERS)
settings.load_profile("lychgate")


def pytest_sessionfinish() -> None:
    """Nothing stays in the system's temporary folder; a worker of xdist does not come to the end of its interpreter."""
    remove_copies()


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """What a test sets up of the log (a command it runs in its own process) is gone behind it."""
    yield
    structlog.reset_defaults()
