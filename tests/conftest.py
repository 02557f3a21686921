"""What all tests share: the marker ``peer``, the fixture ``conformance_data``, and that no port is anybody's own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

pytest_plugins = ["tests.support.peers", "tests.support.fixed_ports"]

if not os.access(Path(__file__).parents[1], os.W_OK):  # then examples that failed can't be remembered
    settings.register_profile("read-only sources", database=None)
    settings.load_profile("read-only sources")


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """What a test sets up of the log (a command it runs in its own process) is gone behind it."""
    yield
    structlog.reset_defaults()
