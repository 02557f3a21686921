"""What a DNS question costs, by engine: ``python -m tests.bench.dns_engines``, and a part of ``make bench``.

A server in another process answers at once. Each engine asks it the same questions on the gateway's event loop, a third
each for TXT, MX and A, twenty at a time: names that nobody has asked for yet (cold), and the same again from the
engine's own cache (warm). Processor time is that of the asking process with all its threads. c-ares is measured as
aiodns comes, with a thread of its own, and with its sockets on the event loop.
"""

import asyncio
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, TypeAlias

import aiodns
import dns.asyncbackend
import dns.asyncresolver
import dns.message
import dns.rdatatype
import dns.resolver
import pycares
import uvloop
from rich.console import Console
from rich.table import Table

from gateway.adapters.dns import exchange
from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.dns.wire import Kind, Reply
from gateway.resolver import Answer, RecordType, Status
from tests.support.ports import free_port

AT_ONCE: Final = 20
"""Questions in flight."""

_PAYLOAD: Final = 1232
_CACHE: Final = 1_000_000
_STRINGS: Final = b"v=spf1 ip4:192.0.2.0/24 include:_spf.example.net ip6:2001:db8::/32 -all"
_DATA: Final = {
    b"\0\x10": bytes((len(_STRINGS),)) + _STRINGS,
    b"\0\x0f": b"\0\x0a\x02mx\xc0\x0c",
    b"\0\x01": b"\xc0\0\2\1",
}
_TYPES: Final = (RecordType.TXT, RecordType.MX, RecordType.A)

Ask: TypeAlias = Callable[[str, RecordType], Awaitable[object]]
Engine: TypeAlias = Callable[[int], AbstractAsyncContextManager[Ask]]


def serve(port: int) -> None:
    """Answer every question at once, for ever."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", port))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            query, client = sock.recvfrom(4096)
            end = query.index(0, 12) + 5
            code = query[end - 4 : end - 2]
            data = _DATA[code]
            header = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            record = b"\xc0\x0c" + code + struct.pack("!HIH", 1, 300, len(data)) + data
            sock.sendto(header + query[12:end] + record, client)


@contextmanager
def _server() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.dns_engines", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield port
        finally:
            process.kill()


@asynccontextmanager
async def _ours(port: int) -> AsyncIterator[Ask]:
    resolver = DnsResolver([f"127.0.0.1:{port}"], cache=_CACHE)
    yield resolver.lookup
    await resolver.close()


@asynccontextmanager
async def _ours_with_dnspython(port: int) -> AsyncIterator[Ask]:
    """Our sockets, with messages written and read by dnspython."""

    def encode(number: int, question: bytes, *, edns: bool = True) -> bytes:
        labels, position = [], 0
        while question[position]:
            labels.append(question[position + 1 : position + 1 + question[position]])
            position += 1 + question[position]
        name = dns.name.Name([*labels, b""])
        code = dns.rdatatype.RdataType.make(int.from_bytes(question[-4:-2]))
        return dns.message.make_query(name, code, use_edns=edns, payload=_PAYLOAD, id=number).to_wire()

    def read(message: bytes, _number: int, _question: bytes, _type: RecordType) -> Reply:
        found = dns.message.from_wire(message)
        assert isinstance(found, dns.message.QueryMessage)
        chain = found.resolve_chaining()
        records = tuple(rdata.to_text() for rdata in chain.answer or ())
        return Reply(Kind.ANSWER, Answer(Status.FOUND, records, chain.minimum_ttl))

    module: Any = exchange
    kept = module.encode_query, module.read
    module.encode_query, module.read = encode, read
    try:
        async with _ours(port) as ask:
            yield ask
    finally:
        module.encode_query, module.read = kept


@asynccontextmanager
async def _dnspython(port: int) -> AsyncIterator[Ask]:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    resolver.cache = dns.resolver.LRUCache(_CACHE)
    resolver.use_edns(0, 0, _PAYLOAD)
    backend = dns.asyncbackend.get_backend("asyncio")
    yield lambda name, record_type: resolver.resolve(name, record_type.value, search=False, backend=backend)


class _OnTheLoop(aiodns.DNSResolver):
    """aiodns with the sockets of c-ares on the event loop."""

    def _make_channel(self, **kwargs: Any) -> tuple[bool, pycares.Channel]:
        return False, pycares.Channel(sock_state_cb=self._sock_state_cb, timeout=self._timeout, **kwargs)


def _cares(made: type[aiodns.DNSResolver]) -> Engine:
    @asynccontextmanager
    async def engine(port: int) -> AsyncIterator[Ask]:
        resolver = made(nameservers=[f"127.0.0.1:{port}"])
        yield lambda name, record_type: resolver.query_dns(name, record_type.value)
        await resolver.close()

    return engine


ENGINES: Final[Mapping[str, Engine]] = {
    "Lychgate": _ours,
    "its sockets, dnspython's messages": _ours_with_dnspython,
    "dns.asyncresolver": _dnspython,
    "aiodns (c-ares)": _cares(aiodns.DNSResolver),
    "aiodns, sockets on the loop": _cares(_OnTheLoop),
}


@dataclass(frozen=True, slots=True)
class _Figures:
    """Of each round: processor microseconds a question, questions a second."""

    costs: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def cells(self) -> tuple[str, str]:
        """The medians."""
        return f"{median(self.costs):.1f}", f"{median(self.rates):,.0f}"


async def _run(ask: Ask, prefix: str, count: int, figures: _Figures) -> None:
    numbers = iter(range(count))

    async def asker() -> None:
        for number in numbers:
            await ask(f"{prefix}-{number}.example.com", _TYPES[number % len(_TYPES)])

    wall, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(asker() for _ in range(AT_ONCE)))
    figures.costs.append((time.process_time() - spent) / count * 1e6)
    figures.rates.append(count / (time.perf_counter() - wall))


async def _measure(rounds: int, count: int) -> Mapping[str, tuple[_Figures, _Figures]]:
    found = {name: (_Figures(), _Figures()) for name in ENGINES}
    with _server() as port:
        for number in range(rounds):
            for name, engine in ENGINES.items():
                async with engine(port) as ask:
                    await _run(ask, f"first-{number}", 100, _Figures())
                    for figures in found[name]:
                        await _run(ask, f"n{number}", count, figures)
    return found


def measured(*, rounds: int, count: int) -> Table:
    """Measure.

    Args:
        rounds: How many rounds in turns, of which the median counts.
        count: How many questions each engine is asked in a round.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_measure(rounds, count))
    table = Table(title="DNS questions by engine, in one run", title_justify="left")
    table.add_column("engine", no_wrap=True)
    for name in ("cold, µs", "cold, 1/s", "warm, µs", "warm, 1/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("aimed at")
    for name, (cold, warm) in found.items():
        table.add_row(name, *cold.cells(), *warm.cells(), "50 µs cold" if name == "Lychgate" else "")
    return table


def main() -> None:
    """Measure and print; with a port, serve there."""
    if len(sys.argv) > 1:
        serve(int(sys.argv[1]))
    Console(highlight=False, width=140).print(measured(rounds=5, count=3000))


if __name__ == "__main__":
    main()
