"""What a message costs the gateway's own code, without the kernel: ``python -m tests.bench.conversation_path``.

A whole worker as ``make bench`` runs it, but its transports are no sockets: the client's octets are handed to the
conversation, what it writes is looked at and thrown away, and the backend answers at once. So the figures hardly waver,
and a change of a few per cent shows. ``--profile`` prints where the calls go. With ``--authentication`` messages are
signed, and SPF, DKIM and DMARC are checked, with all answers of the DNS in the resolver's cache. With ``--limits`` two
rate limits are asked of a real Redis, over a real socket.
"""

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import uvloop

from gateway.adapters.dns.resolver import DnsResolver
from gateway.backend.connection import Connection
from gateway.backend.opening import Opener
from gateway.config.load import loads
from gateway.doors.link import ClientLink
from gateway.worker import Worker, settle
from tests.bench.authentication import signed, zone
from tests.bench.load import HELO, message
from tests.bench.servers import RECIPIENT, SENDER
from tests.support.dns_server import DnsServer
from tests.support.redis import RedisServer

_CONFIG: Final = {
    "hostname": "gateway.example",
    "listeners": [{"smtp": "127.0.0.1:2525"}],
    "backends": {"sink": {"servers": ["127.0.0.1:2526"]}},
    "domains": {"example.com": {"recipients": {"list": ["bob"]}}},
    "dns": {"client_names": False},
    "records": {"file": "records.jsonl"},
    "workers": 1,
    "policies": ["relay", "recipient", "size"],
}
_CHECKED: Final = ["relay", "recipient", "size", {"spf": {"trusted": []}}, "dkim", {"dmarc": {"trusted": []}}]
_LIMITS: Final = [
    {"rate_limit": {"id": "per-client", "key": "client_address", "limit": "100000000/w"}},
    {"rate_limit": {"id": "per-sender", "key": ["client_address", "reverse_path_domain"], "limit": "100000000/w"}},
]
_SIZE: Final = 4096
_ANSWERS: Final = {b"MAIL": b"250 2.1.0 Ok\r\n", b"RCPT": b"250 2.1.5 Ok\r\n", b"DATA": b"354 End data\r\n"}


class _Transport:
    """A transport that is no socket: what is written is handed to ``on_write`` at the loop's next turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.on_write: Callable[[bytes], None] = lambda _data: None
        self.on_close: Callable[[], None] = lambda: None

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 2525)}.get(name, default)

    def write(self, data: bytes) -> None:
        self._loop.call_soon(self.on_write, data)

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self._loop.call_soon(self.on_close)

    abort = close

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class _Backend:
    """Answers everything with yes."""

    def __init__(self, connection: Connection, transport: _Transport) -> None:
        self._connection = connection
        self._in_data = False
        transport.on_write = self.take
        connection.connection_made(transport)  # type: ignore[arg-type]  # as far as it is used
        connection.data_received(b"220 sink ESMTP\r\n")

    def take(self, data: bytes) -> None:
        if self._in_data:
            if data.endswith(b"\r\n.\r\n"):
                self._in_data = False
                self._connection.data_received(b"250 2.0.0 Ok\r\n")
            return
        answer = b""
        for line in data.split(b"\r\n")[:-1]:
            if line.startswith(b"EHLO"):
                answer += b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
            else:
                answer += _ANSWERS.get(line[:4], b"250 2.0.0 Ok\r\n")
            self._in_data = line == b"DATA"
        self._connection.data_received(answer)


class _Client:
    """Sends messages one after the other, a step for each reply, as smtp-source does."""

    def __init__(self, worker: Worker, data: bytes, count: int, *, kept: bool) -> None:
        self._door = worker.doors[0]
        self._left = count
        self._kept = kept
        self._data = data + b".\r\n"
        self._loop = asyncio.get_running_loop()
        self._steps: Iterator[bytes] = iter(())
        self.done = self._loop.create_future()
        self._connect()

    def _connect(self) -> None:
        transport = _Transport(self._loop)
        self._link = ClientLink(self._door, self._loop, "127.0.0.1:2525")
        transport.on_write = self._step
        transport.on_close = self._closed
        self._steps = self._session()
        self._link.connection_made(transport)  # type: ignore[arg-type]  # as far as it is used

    def _session(self) -> Iterator[bytes]:
        yield b"HELO " + HELO.encode() + b"\r\n"
        while True:
            self._left -= 1
            yield b"MAIL FROM:<" + SENDER.encode() + b">\r\n"
            yield b"RCPT TO:<" + RECIPIENT.encode() + b">\r\n"
            yield b"DATA\r\n"
            yield self._data
            if not self._kept or not self._left:
                break
        yield b"QUIT\r\n"

    def _step(self, reply: bytes) -> None:
        if not reply.startswith((b"2", b"3")):
            raise AssertionError(reply)
        octets = next(self._steps, None)
        if octets is not None:
            self._link.get_buffer(-1)[: len(octets)] = octets
            self._link.buffer_updated(len(octets))

    def _closed(self) -> None:
        self._link.connection_lost(None)
        if self._left:
            self._connect()
        else:
            self.done.set_result(None)


async def _connect(_opener: Opener) -> Connection:
    loop = asyncio.get_running_loop()
    connection = Connection(loop)
    _Backend(connection, _Transport(loop))
    return connection


async def _send(worker: Worker, data: bytes, count: int, *, kept: bool, sessions: int = 20) -> None:
    await asyncio.gather(*(_Client(worker, data, count // sessions, kept=kept).done for _ in range(sessions)))


async def _measure(folder: Path, redis: RedisServer | None, arguments: argparse.Namespace) -> None:
    settings: dict[str, Any] = _CONFIG | {"spool": {"directory": str(folder)}}
    data = message(_SIZE)
    if arguments.authentication:
        settings |= {"policies": _CHECKED}
        data = signed().data
    if redis is not None:
        settings |= {"policies": [*settings["policies"], *_LIMITS], "state": redis.url}
    worker_config = loads(json.dumps(settings), folder / "lychgate.yaml")
    records = zone([("example.org", HELO)]) if arguments.authentication else {}
    async with DnsServer(records, ttl=86_400) as dns:
        worker = Worker(worker_config, [[]], resolver=DnsResolver([dns.address]))
        await worker.start()
        settle()
        await _send(worker, data, 1000, kept=False)
    for kept in (False, True):
        if arguments.only is not None and kept is not (arguments.only == "kept"):
            continue
        name = "kept connections" if kept else "a new connection each"
        await _send(worker, data, 1000, kept=kept)
        costs = []
        for _ in range(arguments.rounds):
            collected = sum(each["collections"] for each in gc.get_stats())
            started = time.process_time()
            await _send(worker, data, arguments.messages, kept=kept)
            costs.append((time.process_time() - started) / arguments.messages * 1e6)
            collected = sum(each["collections"] for each in gc.get_stats()) - collected
        calls = await _calls(worker, data, kept=kept, show=arguments.profile)
        print(  # noqa: T201 - a script
            f"{name:24} {min(costs):6.1f} µs best, {median(costs):6.1f} µs median, {calls:6.1f} calls, "
            f"{collected / arguments.messages * 1000:.1f} collections in 1000"
        )
    await worker.stop(1.0)


async def _calls(worker: Worker, data: bytes, *, kept: bool, show: bool) -> float:
    """Calls a message, those of this script not counted."""
    profile = cProfile.Profile()
    profile.enable()
    await _send(worker, data, 1000, kept=kept)
    profile.disable()
    stats = pstats.Stats(profile)
    if show:
        stats.sort_stats("tottime").print_stats(130)
    entries: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]  # not in typeshed
    return float(sum(calls for (file, _, _), (calls, *_) in entries.items() if file != __file__)) / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=600, help="in a round")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--only", choices=("new", "kept"))
    parser.add_argument("--authentication", action="store_true", help="check who sent the messages, which are signed")
    parser.add_argument("--limits", action="store_true", help="two rate limits in Redis")
    parser.add_argument("--profile", action="store_true", help="print where the calls go")
    arguments = parser.parse_args()
    print(sys.version)  # noqa: T201 - a script
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lychgate-bench-")))
        stack.enter_context(patch.object(Opener, "_connect", _connect))
        redis = stack.enter_context(RedisServer()) if arguments.limits else None
        uvloop.run(_measure(folder, redis, arguments))


if __name__ == "__main__":
    main()
