"""Where the public conformance data is; tests that need it are skipped without it, and fail in CI."""

import os
from pathlib import Path

import pytest

from tests.support.peers import unavailable


def conformance_file(name: str) -> Path:
    """A file of the folder that ``CONFORMANCE_DATA`` names."""
    folder = os.environ.get("CONFORMANCE_DATA")
    if folder is None:
        unavailable(f"CONFORMANCE_DATA is not set: {name} is not tested")
    path = Path(folder) / name
    if not path.is_file():
        pytest.fail(f"CONFORMANCE_DATA has no {name}")
    return path
