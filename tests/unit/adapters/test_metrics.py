"""Numbers for Prometheus: the page is made of files that other processes write at the same time."""

import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.adapters.metrics import PAUSE, TRIES, whole

REQUEST = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": ""}
HALF = {"empty": b"", "without its first name": (200).to_bytes(4, "little") + b"\0" * 4096}


@pytest.mark.parametrize("half", HALF.values(), ids=HALF.keys())
def test_a_file_that_is_half_there_is_read_again(tmp_path: Path, half: bytes) -> None:
    """A worker that begins writes its file while the page is made: the page waits for it, and fails only for long."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]  # its annotations are missing
    file = tmp_path / "counter_1.db"
    said: list[str] = []
    pauses: list[float] = []

    def start(status: str, _: object) -> None:
        said.append(status)

    def fetched(*, until: int) -> Iterable[bytes]:
        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == until:
                file.unlink()

        file.write_bytes(half)
        pauses.clear()
        page: Iterable[bytes] = whole(make_wsgi_app(registry), pause)(REQUEST, start)
        return page

    assert b"".join(fetched(until=3)) == b""
    assert said == ["200 OK"]
    assert pauses == [PAUSE] * 3
    with pytest.raises((struct.error, ValueError)):
        fetched(until=TRIES)
    assert len(pauses) == TRIES - 1
