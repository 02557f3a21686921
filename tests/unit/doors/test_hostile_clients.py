"""Clients that take more than their share: what one of them does may not be felt by the others (design, promise 6)."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.config.load import loads
from gateway.doors import link
from gateway.records import DecisionRecord
from gateway.worker import Worker
from tests.support.gateway import poll
from tests.support.loops import on_uvloop

_WITHIN = 30.0


class _Sink:
    """Keeps the records."""

    lost = 0

    def __init__(self) -> None:
        self.records: list[DecisionRecord] = []
        self.came = asyncio.Event()

    def write(self, record: DecisionRecord) -> None:
        self.records.append(record)
        self.came.set()

    async def close(self) -> None:
        pass


@asynccontextmanager
async def _serving(
    folder: Path, sink: _Sink, listener: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[int]:
    """A worker with one listener and a backend that is down; gives the port."""
    made = {
        "hostname": "gateway.example",
        "listeners": [{"smtp": "127.0.0.1:0", **(listener or {})}],
        "backends": {"backend": {"servers": ["127.0.0.1:9"]}},
        "domains": {"example.com": {}},
        "dns": {"client_names": False},
        "policies": ["relay"],
        **settings,
    }
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    worker = Worker(loads(json.dumps(made), folder / "lychgate.yaml"), [[listening]], sink=sink)
    await worker.start()
    try:
        yield listening.getsockname()[1]
    finally:
        await worker.stop(_WITHIN)


async def _connect(port: int, room: int = 0) -> socket.socket:
    client = socket.socket()
    if room:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


async def _read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    async with asyncio.timeout(_WITHIN):
        while not data.endswith(end):
            part = await asyncio.get_running_loop().sock_recv(client, 65536)
            assert part, data
            data += part
    return data


@on_uvloop
async def test_thousands_of_commands_in_one_packet_hold_up_nobody(tmp_path: Path) -> None:
    """While a client's pipelined commands are carried out another client is answered."""
    loop = asyncio.get_running_loop()
    async with _serving(tmp_path, _Sink(), limits={"session_memory": "10MB"}) as port:
        flood, other = await _connect(port), await _connect(port)
        with flood, other:
            for client in (flood, other):
                await _read_until(client, b"\r\n")
                await loop.sock_sendall(client, b"EHLO client.example\r\n")
                await _read_until(client, b"SIZE 50000000\r\n")
            commands = [b"MAIL FROM:<a@example.org>", *[b"RCPT TO:<x@elsewhere.example>"] * 900, b"RSET"] * 2
            await loop.sock_sendall(flood, b"\r\n".join(commands) + b"\r\n")
            await loop.sock_sendall(other, b"NOOP\r\n")
            await _read_until(other, b"250 2.0.0 Ok\r\n")
            replies = b""
            with suppress(BlockingIOError):
                replies = flood.recv(2**20)
            assert replies.count(b"\r\n") < len(commands) / 2  # it is far from through
            while replies.count(b"\r\n") < len(commands):
                replies += await _read_until(flood, b"250 2.0.0 Ok\r\n")


@on_uvloop
async def test_a_client_that_reads_nothing_loses_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time-out the connection of a client that never reads its replies is cut."""
    monkeypatch.setattr(link, "LAST_WORDS", 0.05)
    loop = asyncio.get_running_loop()
    sink = _Sink()
    async with _serving(tmp_path, sink, timeouts={"command": "300ms"}) as port:
        client = await _connect(port, 2048)
        with client:
            await loop.sock_sendall(client, b"EHLO client.example\r\nMAIL FROM:<a@example.org>\r\n")
            flood = asyncio.create_task(_send_for_ever(client, b"RCPT TO:<x@elsewhere.example>\r\n" * 1000))
            async with asyncio.timeout(_WITHIN):
                await sink.came.wait()
                await flood
    assert len(sink.records) == 1


async def _send_for_ever(client: socket.socket, octets: bytes) -> None:
    """Send without reading, until the connection is cut."""
    with suppress(ConnectionError):
        while True:
            await asyncio.get_running_loop().sock_sendall(client, octets)


@on_uvloop
async def test_a_connection_too_many_gets_no_handshake(tmp_path: Path) -> None:
    """Under implicit TLS the limit holds for clients that never begin the handshake, too: they are closed at once."""
    trustme.CA().issue_cert("mx.example.com").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    listener = {"tls": {"mode": "implicit", "certificate": "mx.pem"}}
    sink = _Sink()
    async with _serving(tmp_path, sink, listener, limits={"connections_per_client": 1}) as port:
        first, second = await _connect(port), await _connect(port)
        with first, second:
            async with asyncio.timeout(_WITHIN):
                assert await asyncio.get_running_loop().sock_recv(second, 1) == b""
            assert [record.decision.outcome for record in sink.records] == ["too_many_connections"]


@on_uvloop
async def test_a_client_that_does_not_close_its_tls_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After QUIT the connection ends soon, though the client never answers the closing of TLS (uvloop waits 30 s)."""
    monkeypatch.setattr(link, "LAST_WORDS", 0.05)
    trusting = _certified(tmp_path)

    def leave(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), _WITHIN) as plain,
            plain.dup() as wire,
            trusting.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"QUIT\r\n")
            while b"221 " not in client.recv(4096):
                pass
            wire.settimeout(15.0)  # half of uvloop's own patience
            while wire.recv(4096):
                pass
            return b"closed"

    listener = {"tls": {"mode": "implicit", "certificate": "mx.pem"}}
    async with _serving(tmp_path, _Sink(), listener) as port:
        assert await asyncio.to_thread(leave, port) == b"closed"


@on_uvloop
async def test_a_connection_that_is_being_closed_counts_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that quit and never answer the closing of TLS hold no more connections than are allowed."""
    monkeypatch.setattr(link, "LAST_WORDS", 600.0)
    trusting = _certified(tmp_path)

    def quits(port: int, clients: ExitStack) -> bool:
        """One more client, which stays as it is after the reply to QUIT; returns whether it was served."""
        client = clients.enter_context(socket.create_connection(("127.0.0.1", port), _WITHIN))
        try:
            client = clients.enter_context(trusting.wrap_socket(client, server_hostname="localhost"))
        except OSError:  # closed without a word
            return False
        client.sendall(b"QUIT\r\n")
        while b"221 " not in client.recv(4096):
            pass
        return True

    listener = {"tls": {"mode": "implicit", "certificate": "mx.pem"}}
    async with _serving(tmp_path, _Sink(), listener, limits={"connections": 3}) as port:
        with ExitStack() as clients:
            served = [await asyncio.to_thread(quits, port, clients) for _ in range(5)]
        assert served == [True] * 3 + [False] * 2
        with ExitStack() as clients:
            assert await asyncio.to_thread(poll, lambda: quits(port, clients))


def _certified(folder: Path) -> ssl.SSLContext:
    """Make ``mx.pem``; returns what trusts it."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "mx.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return trusting
