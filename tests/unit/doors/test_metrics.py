"""The door of the metrics: one page, to whoever asks, however slowly; nobody waits for a reader."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.doors import metrics as door
from gateway.doors.metrics import READERS, MetricsDoor

LARGE = b"x" * 30_000_000


def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A page, a page that no socket takes at once, or a fault."""
    if environ["PATH_INFO"] == "/fault":
        raise RuntimeError("no page")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [LARGE if environ["PATH_INFO"] == "/large" else b"lychgate_connections 1\n"]


@pytest.fixture
async def opened() -> AsyncIterator[tuple[MetricsDoor, int]]:
    """An open door, and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    made = MetricsDoor([listening], page)
    made.open()
    yield made, listening.getsockname()[1]
    made.close()
    await until(lambda: not made._readers and not made._cut_off)


@pytest.fixture
def port(opened: tuple[MetricsDoor, int]) -> int:
    """An open door's port."""
    return opened[1]


async def until(what: Callable[[], bool]) -> None:
    """Wait for something that nothing tells of."""
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


def connected(port: int, request: bytes = b"") -> socket.socket:
    """A reader that has sent something."""
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.sendall(request)
    return connection


async def ask(port: int, request: bytes) -> bytes:
    """What comes back."""

    def read() -> bytes:
        with connected(port, request) as connection:
            return b"".join(iter(partial(connection.recv, 65536), b""))

    return await asyncio.to_thread(read)


async def test_a_page_is_served(port: int) -> None:
    """To a client that asks as Prometheus does, with TCP or HTTP of any version."""
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nlychgate_connections 1\n")


SLOW = [b"", b"GET", b"nonsense\r\n\r\n", b"\xff\x00\r\n\r\n", b"GET /" + b"x" * 70_000, b"GET /large HTTP/1.0\r\n\r\n"]


@pytest.mark.parametrize("request_", SLOW, ids=lambda request: request[:10])
async def test_slow_readers_keep_nobody_waiting(port: int, request_: bytes) -> None:
    """However many have come before, with whatever: the next one is served, though none of their time is over."""
    with ExitStack() as stack:
        for _ in range(3 * READERS):
            stack.enter_context(connected(port, request_))
            assert b" 200 OK" in await ask(port, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("request_", [b"", b"GET / HTT", b"GET /large HTTP/1.0\r\n\r\n"])
async def test_a_reader_has_one_time_for_everything(
    monkeypatch: pytest.MonkeyPatch, request_: bytes, opened: tuple[MetricsDoor, int]
) -> None:
    """One that goes on and on, an octet at a time, is cut off as one that is silent is."""
    monkeypatch.setattr(door, "READ_WITHIN", 0.2)
    made, port = opened
    connection = await asyncio.to_thread(connected, port, request_)
    with connection:
        await until(lambda: bool(made._readers))
        while made._readers:
            try:
                if request_.endswith(b"\n"):
                    connection.recv(1)
                else:
                    connection.sendall(b"x")
            except OSError:
                break
            await asyncio.sleep(0)
        await until(lambda: not made._readers and not made._cut_off)


async def test_the_end_waits_for_no_reader(opened: tuple[MetricsDoor, int]) -> None:
    """The door is closed at once, its socket too; those who read are cut off."""
    made, port = opened
    with connected(port) as silent, connected(port, b"GET /large HTTP/1.0\r\n\r\n"):
        await until(lambda: len(made._readers) == 2)
        made.close()
        with pytest.raises(ConnectionRefusedError):
            connected(port)
        assert await asyncio.to_thread(silent.recv, 1) == b""
        await until(lambda: not made._cut_off)


async def test_a_fault_of_the_page_is_no_page(port: int) -> None:
    """500, a line of the log that says why, and the next is served."""
    with capture_logs() as logs:
        assert b" 500 " in await ask(port, b"GET /fault HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in await ask(port, b"GET / HTTP/1.0\r\n\r\n")
    assert [(line["event"], "RuntimeError: no page" in line["reason"]) for line in logs] == [
        ("metrics page failed", True)
    ]
