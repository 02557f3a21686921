"""Clients that say the same thing for ever, or hold what they can: bounded in count and memory, and others are served.

Each flood is one thing that a client can repeat, in the state in which it can. It goes on as fast as the gateway reads,
and must be ended with 421 after some count. Beside all floods a well-behaved client sends mail, one message after the
other: each is accepted.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import psutil
import pytest
import trustme

from tests.support.fault_server import FaultServer
from tests.support.gateway import Gateway, poll

ANSWERED: Final = 100_000
"""Lines of answers after which the test gives up: ten times those of the largest limit."""

SESSION: Final = 262_144
"""Octets that a session may hold beside its message: the default of ``limits.session_memory``."""

TLS_LAYER: Final = 98_304
"""Octets that OpenSSL and the event loop's TLS layer may hold of a session besides what is counted of them."""

CLIENTS: Final = 16
CLIENTS_UNDER_TLS: Final = 64
"""More, because what handshakes leave behind in the allocator is not a client's."""

HELLO: Final = b"EHLO client.example\r\n"
MAIL: Final = HELLO + b"MAIL FROM:<a@example.org>\r\n"
RCPT: Final = MAIL + b"RCPT TO:<alice@example.com>\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """One thing that is said over and over.

    Attributes:
        before: What is said first.
        line: What is repeated.
        reason: What the log says of its end.
        most: How many of the lines are answered at most.
    """

    before: bytes
    line: bytes
    reason: str
    most: int


FLOODS: Final = {
    "RCPT too many": Flood(before=MAIL, line=b"RCPT TO:<x@example.com>\r\n", reason="too_many_recipients", most=2010),
    "RCPT refused, over and over": Flood(
        before=MAIL, line=b"RCPT TO:<x@elsewhere.example>\r\n", reason="too_many_recipients", most=2010
    ),
    "empty chunks": Flood(before=RCPT, line=b"BDAT 0\r\n", reason="too_many_chunks", most=101),
    "chunks of an octet": Flood(before=RCPT, line=b"BDAT 1\r\nx", reason="too_many_chunks", most=1033),
    "MAIL refused": Flood(
        before=HELLO, line=b"MAIL FROM:<nobody@refused.example>\r\n", reason="too_many_refusals", most=2001
    ),
    "transactions that are given up": Flood(
        before=HELLO,
        line=b"MAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nRSET\r\n",
        reason="too_many_idle_commands",
        most=101,
    ),
    "messages that are refused": Flood(
        before=HELLO,
        line=b"MAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\nx\0\r\n.\r\n",
        reason="too_many_refusals",
        most=2001,
    ),
    **{
        f"{line.decode().strip() or 'an empty line'}, {state}": Flood(before=before, line=line, reason=reason, most=101)
        for state, before in (
            ("before HELO", b""),
            ("after it", HELLO),
            ("in a transaction", MAIL),
            ("after RCPT", RCPT),
        )
        for line, reason in (
            (b"NOOP\r\n", "too_many_idle_commands"),
            (b"HELP\r\n", "too_many_idle_commands"),
            (b"VRFY alice\r\n", "too_many_idle_commands"),
            (b"RSET\r\n", "too_many_idle_commands"),
            (b"HELO client.example\r\n", "too_many_idle_commands"),
            (b"EHLO client.example\r\n", "too_many_idle_commands"),
            (b"EXPN list\r\n", "too_many_errors"),
            (b"MAIL FROM:\r\n", "too_many_errors"),
            (b"STARTTLS\r\n", "too_many_errors"),
            (b"AUTH PLAIN\r\n", "too_many_errors"),
            (b"\r\n", "too_many_unknown_commands"),
        )
    },
    "a line without an end": Flood(before=HELLO, line=b"x" * 4096, reason="too_many_dropped_octets", most=1),
}

SETTINGS: Final[dict[str, Any]] = {
    "delay_reject": "none",
    "policies": ["relay", "recipient", {"access": {"deny": {"senders": ["@refused.example"]}}}],
    "limits": {"dropped_octets": "1MB"},
}


@asynccontextmanager
async def _served(**settings: Any) -> AsyncIterator[Gateway]:
    """A worker, and a mail server that takes everything."""
    async with FaultServer() as server, Gateway(SETTINGS | settings, backend=server.port) as gateway:
        yield gateway


async def _flood(port: int, flood: Flood) -> bytes:
    """Say it until the connection is ended; returns what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    answered = bytearray()

    async def read() -> None:
        with suppress(ConnectionError):
            while part := await reader.read(65536):
                answered.extend(part)

    reading = asyncio.create_task(read())
    try:
        with suppress(ConnectionError):
            writer.write(flood.before)
            while not reading.done():
                writer.write(flood.line * 100)
                await writer.drain()
                await asyncio.sleep(0)  # where the system takes it all, drain gives nobody else a turn
                assert answered.count(b"\n") < ANSWERED, bytes(answered[-200:])
        await reading
    finally:
        reading.cancel()
        writer.transport.abort()
    return bytes(answered)


async def _honest(port: int, flooding: asyncio.Event) -> list[bytes]:
    """Send messages, one connection each, as long as others flood; returns the replies to their ends."""
    told: list[bytes] = []
    while flooding.is_set() or not told:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await reader.readline()
            steps = (b"HELO good.example\r\n", b"MAIL FROM:<good@example.org>\r\n", b"RCPT TO:<alice@example.com>\r\n")
            for step in (*steps, b"DATA\r\n"):
                writer.write(step)
                assert (await reader.readline())[:1] in b"23"
            writer.write(b"Subject: x\r\n\r\nx\r\n.\r\n")
            told.append(await reader.readline())
        finally:
            writer.close()
    return told


async def test_nothing_can_be_said_for_ever() -> None:
    """Each flood ends after a bounded count, which the log explains; all of them together stop nobody.

    Not every client sees the 421: the system drops what was sent to one whose octets are still unread.
    """
    async with _served() as gateway:
        flooding = asyncio.Event()
        flooding.set()
        honest = asyncio.create_task(_honest(gateway.port, flooding))
        answers = dict(
            zip(FLOODS, await asyncio.gather(*(_flood(gateway.port, each) for each in FLOODS.values())), strict=True)
        )
        flooding.clear()
        told = await honest
        assert {reply[:4] for reply in told} == {b"250 "}
        for name, flood in FLOODS.items():
            replies = [line for line in answers[name].split(b"\r\n") if line and line[3:4] != b"-"]
            lines_each = flood.line.count(b"\r\n") or 1
            assert len(replies) <= 8 + (flood.most + 1) * lines_each, name
        ended = await asyncio.to_thread(poll, lambda: _reasons(gateway, len(FLOODS)))
    assert ended == sorted(flood.reason for flood in FLOODS.values())


def _reasons(gateway: Gateway, count: int) -> list[str]:
    """Why sessions were ended, once there are so many."""
    found = sorted(line["reason"] for line in gateway.lines if line["event"] == "session ended")
    return found if len(found) >= count else []


HOLDS: Final = {
    "recipients": (MAIL, b"".join(b"RCPT TO:<recipient-%d@example.com>\r\n" % number for number in range(900))),
    "recipients that are refused": (
        MAIL,
        b"".join(b"RCPT TO:<%d@elsewhere.example>\r\n" % number for number in range(900)),
    ),
    "long recipients": (
        MAIL,
        b"".join(
            b"RCPT TO:<%s%d@example.com> ORCPT=rfc822;%s\r\n" % (b"x" * 200, number, b"y" * 480)
            for number in range(900)
        ),
    ),
    "commands sent ahead": (MAIL, (b"RCPT TO:<x@elsewhere.example> ORCPT=rfc822;" + b"y" * 450 + b"\r\n") * 900),
}


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads-nothing"])
@pytest.mark.parametrize("case", HOLDS)
async def test_what_one_client_holds_is_bounded(case: str, reads: bool) -> None:  # noqa: FBT001 - two cases
    """Clients that make the gateway remember, or do not read what it answers, hold no more than a session may."""
    before, lines = HOLDS[case]
    async with _served() as gateway:
        (worker,) = gateway.workers()
        with ExitStack() as first:
            await _hold(gateway.port, before, lines, 1, first, reads=reads)
        await asyncio.to_thread(_rest, worker)
        at_first = _own_memory(worker)
        with ExitStack() as clients:
            await _hold(gateway.port, before, lines, CLIENTS, clients, reads=reads)
            await asyncio.to_thread(_rest, worker)
            grown = _own_memory(worker) - at_first
    assert grown / CLIENTS <= SESSION, grown / CLIENTS


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads-nothing"])
@pytest.mark.parametrize("case", ["recipients", "commands sent ahead"])
async def test_what_one_client_holds_under_tls_is_bounded(case: str, tmp_path: Path, *, reads: bool) -> None:
    """The same under TLS, but for what the TLS layer keeps for itself."""
    before, lines = HOLDS[case]
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    tls = {"smtp": {"tls": {"mode": "implicit", "certificate": str(tmp_path / "mx.pem")}}}

    settings = SETTINGS | {"limits": {"connections_per_client": 0}}

    async def hold(gateway: Gateway, count: int, stay: ExitStack) -> None:
        async def say() -> None:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", gateway.port, ssl=trusting, server_hostname="localhost"
            )
            stay.callback(writer.transport.abort)
            if not reads:
                cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(before + lines)
            said = asyncio.create_task(writer.drain())
            if reads:
                due = (before + lines).count(b"\r\n") + 1
                while due > 0 and (line := await reader.readline()):
                    due -= line[3:4] == b" "
            else:
                await asyncio.wait([said], timeout=1.0)
            said.cancel()

        await asyncio.gather(*(say() for _ in range(count)))

    async with FaultServer() as server, Gateway(settings, listeners=tls, backend=server.port) as gateway:
        (worker,) = gateway.workers()
        with ExitStack() as first:
            await hold(gateway, 1, first)
        await asyncio.to_thread(_rest, worker)
        at_first = _own_memory(worker)
        with ExitStack() as clients:
            await hold(gateway, CLIENTS_UNDER_TLS, clients)
            await asyncio.to_thread(_rest, worker)
            grown = _own_memory(worker) - at_first
    assert grown / CLIENTS_UNDER_TLS <= SESSION + TLS_LAYER, grown / CLIENTS_UNDER_TLS


def _rest(process: psutil.Process) -> None:
    """Wait until the process has nothing to do."""
    used: list[float] = []

    def rests() -> bool:
        used.append(process.cpu_times().user)
        return len(used) > 5 and used[-1] == used[-6]

    poll(rests)


def _own_memory(process: psutil.Process) -> int:
    """Octets of memory that are the process's own."""
    return int(process.memory_full_info().uss)


async def _hold(port: int, before: bytes, lines: bytes, count: int, stay: ExitStack, *, reads: bool) -> None:
    """Clients that say this and stay."""
    loop = asyncio.get_running_loop()
    clients: list[socket.socket] = []
    for _ in range(count):
        client = stay.enter_context(socket.socket())
        if not reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        clients.append(client)

    async def say(client: socket.socket) -> None:
        said = asyncio.create_task(loop.sock_sendall(client, before + lines))
        if reads:
            due = (before + lines).count(b"\r\n") + 1
            while due > 0 and (part := await loop.sock_recv(client, 65536)):
                due -= sum(line[3:4] == b" " for line in part.split(b"\n"))
        else:
            await asyncio.wait([said], timeout=1.0)  # to its end, or until the gateway takes no more
        said.cancel()

    await asyncio.gather(*map(say, clients))
