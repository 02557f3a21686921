"""What mail waits for while Redis is away: ``python -m tests.bench --only outages``, and a part of ``make bench``.

One client sends message after message, with a rate limit in Redis at MAIL and the default time-outs, while Redis is
frozen, killed, full, read-only or slow. The first messages find out; from then on nothing should wait. Limits are back
when a message is counted again.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

from rich.table import Table

from tests.bench import load
from tests.bench.figures import SMALL, Progress
from tests.bench.servers import Gateway, gateway, smtp_sink
from tests.support.redis import RedisServer
from tests.support.slow_link import Slow

FIRST: Final = 10
"""Messages in which the gateway finds out."""

MORE: Final = 400
"""Messages while it knows."""

DELAY: Final = 0.1
"""Seconds that a slow Redis takes."""

POLICIES: Final = "[relay, recipient, size, {rate_limit: {limit: 1000000/w}}]"
_KEY: Final = "lychgate:1:rate:{client_address=127.0.0.1}:rate_limit:1000000/w"

_Act = Callable[[RedisServer, Slow], object]


def _slowness(seconds: float) -> _Act:
    def act(_: RedisServer, slow: Slow) -> None:
        slow.delay = seconds

    return act


FAULTS: Final[Mapping[str, tuple[_Act, _Act]]] = {
    "frozen": (lambda redis, _: redis.pause(), lambda redis, _: redis.resume()),
    "killed; restarted empty": (lambda redis, _: redis.stop(), lambda redis, _: redis.start()),
    "full": (lambda redis, _: _set(redis, "1"), lambda redis, _: _set(redis, "0")),
    "read-only": (
        lambda redis, _: redis.client.replicaof("127.0.0.1", "1"),
        lambda redis, _: redis.client.replicaof("NO", "ONE"),
    ),
    f"slow, {DELAY * 1000:g} ms": (_slowness(DELAY), _slowness(0)),
}


def _set(redis: RedisServer, octets: str) -> None:
    redis.client.config_set("maxmemory", octets)


def measured(progress: Progress) -> Table:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="lychgate-bench-") as folder:
        Path(folder).chmod(0o755)  # smtp-sink becomes another user
        return asyncio.run(_measured(Path(folder), progress))


async def _measured(folder: Path, progress: Progress) -> Table:
    table = Table(title="Message after message while Redis is away, ms a transaction, in one run", title_justify="left")
    for name in (
        "Redis is",
        "before: median",
        "finding out: worst",
        "while away: median",
        "worst",
        "limits back after",
    ):
        table.add_column(name, justify="left" if name == "Redis is" else "right", no_wrap=True)
    table.add_column("aimed at")
    async with AsyncExitStack() as stack:
        sink = stack.enter_context(smtp_sink(folder))
        redis = stack.enter_context(RedisServer())
        slow = await stack.enter_async_context(Slow(redis.port))
        more = f"state: redis://127.0.0.1:{slow.port}/0"
        server = stack.enter_context(gateway(sink, folder, policies=POLICIES, more=more))
        for name, (fault, heal) in FAULTS.items():
            progress(name)
            before = await asyncio.to_thread(_send, server, MORE)
            await asyncio.to_thread(fault, redis, slow)
            finding_out = await asyncio.to_thread(_send, server, FIRST)
            away = await asyncio.to_thread(_send, server, MORE)
            await asyncio.to_thread(heal, redis, slow)
            back = await asyncio.to_thread(_until_counted, server, redis)
            figures = [median(before), max(finding_out), median(away), max(away), back]
            table.add_row(name, *(f"{value * 1000:,.1f}" for value in figures), "50 ms over before; back in seconds")
    return table


def _send(server: Gateway, count: int) -> list[float]:
    """Send messages; the seconds of each."""
    (taken,) = load.alternate([server.port], messages=count, size=SMALL)
    return taken


def _until_counted(server: Gateway, redis: RedisServer) -> float:
    """Send messages until Redis has counted one; the seconds that it took."""
    started = time.perf_counter()
    known = redis.client.get(_KEY)
    while redis.client.get(_KEY) == known:
        _send(server, 1)
    return time.perf_counter() - started
