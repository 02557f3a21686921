"""What all tests share: the marker ``peer`` and the fixture ``conformance_data``."""

from collections.abc import Iterator

import pytest
import structlog

pytest_plugins = ["tests.support.peers"]


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """What a test sets up of the log (a command it runs in its own process) is gone behind it."""
    yield
    structlog.reset_defaults()
