"""The door of the metrics: one page, to whoever asks, however slowly."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.doors import metrics as door
from gateway.doors.metrics import MetricsDoor


def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A page, or a fault."""
    if environ["PATH_INFO"] == "/fault":
        raise RuntimeError("no page")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"lychgate_connections 1\n"]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An open door's port; it waits for nobody longer than a moment."""
    monkeypatch.setattr(door._Handler, "timeout", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        opened = MetricsDoor([listening], page)
        opened.open()
        yield listening.getsockname()[1]
        opened.close()


def ask(port: int, request: bytes) -> bytes:
    """What comes back."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_page_is_served(port: int) -> None:
    """To a client that asks as Prometheus does, with TCP or HTTP of any version."""
    answer = ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nlychgate_connections 1\n")


@pytest.mark.parametrize("request_", [b"", b"GET", b"nonsense\r\n\r\n", b"\xff\x00\r\n\r\n", b"GET /" + b"x" * 70_000])
def test_who_says_nothing_or_nonsense_keeps_nobody_waiting(port: int, request_: bytes) -> None:
    """The next one is served."""
    with socket.create_connection(("127.0.0.1", port), 30) as slow:
        slow.sendall(request_)
        assert b" 200 OK" in ask(port, b"GET / HTTP/1.0\r\n\r\n")


def test_a_fault_of_the_page_is_no_page(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """500, and the next is served."""
    with capture_logs():
        assert b" 500 " in ask(port, b"GET /fault HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in ask(port, b"GET / HTTP/1.0\r\n\r\n")
    assert "no page" in capfd.readouterr().err
