"""What all tests share: the marker ``peer`` and the fixture ``conformance_data``."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

pytest_plugins = ["tests.support.peers"]

# A deadline for each example would measure how busy the machine is; pytest's time-out ends what does not end.
settings.register_profile("lychgate", deadline=None)
settings.load_profile("lychgate")


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """What a test sets up of the log (a command it runs in its own process) is gone behind it."""
    yield
    structlog.reset_defaults()
