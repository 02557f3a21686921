"""A worker on loopback in the test's own process, and a client that speaks to it line by line.

async with serving(tmp_path, {"policies": [...]}) as site, site.client() as client:
    assert await client.say("HELO client.example.org") == "250 mx.example.com"
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.adapters.dns.zone import ZoneResolver
from gateway.config.load import loads
from gateway.config.registry import Registry
from gateway.doors.listening import bind
from gateway.doors.smtp import SmtpDoor
from gateway.records import DecisionRecord
from gateway.resolver import Resolver
from gateway.testing import SettableClock
from gateway.worker import Worker
from tests.support.fault_server import FaultServer
from tests.support.scenario import REGISTRY

WITHIN: Final = 20.0
"""Seconds in which anything must come."""


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> str:
        """The next reply, its lines joined by LF; empty when the connection is closed."""
        lines: list[str] = []
        async with asyncio.timeout(WITHIN):
            while line := (await self.reader.readline()).decode():
                lines.append(line.rstrip("\r\n"))
                if line[3:4] != "-":
                    break
        return "\n".join(lines)

    async def say(self, line: str) -> str:
        """Say a line; returns the reply."""
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def begin(self, sender: str = "carol@example.org", recipient: str = "alice@example.com") -> None:
        """HELO, MAIL and RCPT, all of which must go well."""
        for line in ("HELO client.example.org", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"):
            answer = await self.say(line)
            assert answer.startswith("250"), answer

    async def send(self, message: str) -> str:
        """DATA and a message; returns the reply to its end."""
        assert (await self.say("DATA")).startswith("354")
        return await self.say(f"{message}\r\n.")

    async def is_closed(self) -> bool:
        """Whether the gateway has closed the connection."""
        async with asyncio.timeout(WITHIN):
            return await self.reader.read(1) == b""


@dataclass(slots=True)
class Site:
    """A worker and what came of it."""

    lost = 0

    worker: Worker
    ports: list[int]
    backend: FaultServer
    clock: SettableClock
    records: list[DecisionRecord] = field(default_factory=list)
    on_record: Callable[[DecisionRecord], None] | None = None

    @property
    def door(self) -> SmtpDoor:
        """Its first door."""
        return self.worker.doors[0]

    @asynccontextmanager
    async def client(
        self, *, port: int | None = None, greeting: str | None = "220 ", tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Client]:
        """A client that was greeted."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.ports[0], ssl=tls)
        client = Client(reader, writer)
        try:
            if greeting is not None:
                assert (await client.reply()).startswith(greeting)
            yield client
        finally:
            writer.transport.abort()

    async def empty(self) -> None:
        """Wait until no session and no connection is left."""
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for door in self.worker.doors:
            await door.empty(asyncio.ensure_future(_until(never)), WITHIN)
        never.set_result(None)
        async with asyncio.timeout(WITHIN):
            while any(door.connections for door in self.worker.doors):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)

    def write(self, record: DecisionRecord) -> None:
        """The sink of the worker."""
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record)

    async def close(self) -> None:
        """Nothing is held."""


async def _until(event: asyncio.Future[None]) -> None:
    await event


class _Later:
    """A sink that hands on to what is made after it."""

    lost = 0

    sink: Any = None

    def write(self, record: DecisionRecord) -> None:
        self.sink.write(record)

    async def close(self) -> None:
        pass


@asynccontextmanager
async def serving(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    registry: Registry = REGISTRY,
    resolver: Resolver | None = None,
    backend: FaultServer | None = None,
) -> AsyncIterator[Site]:
    """A worker with one backend that takes everything, ``example.com`` as its domain, and what else ``config`` says."""
    clock = SettableClock()
    later = _Later()
    async with backend or FaultServer() as server:
        written = {
            "hostname": "mx.example.com",
            "listeners": [{"smtp": "127.0.0.1:0"}],
            "backends": {"backend": {"servers": [f"127.0.0.1:{server.port}"]}},
            "domains": {"example.com": {}},
            "policies": [],
        } | dict(config or {})
        loaded = loads(json.dumps(written), folder / "lychgate.yaml", registry=registry)
        listening = [bind(listener.smtp) for listener in loaded.listeners]
        worker = Worker(loaded, listening, sink=later, resolver=resolver or ZoneResolver({}), clock=clock)
        site = Site(worker, [each[0].getsockname()[1] for each in listening], server, clock)
        later.sink = site
        await worker.start()
        try:
            yield site
        finally:
            await worker.stop(WITHIN)
