"""Three gateways with two workers each on one Redis: to clients they are one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.gateway import Gateway, poll
from tests.support.redis import RedisServer
from tests.support.sink import Sink
from tests.support.wire import Wire

pytestmark = pytest.mark.peer("redis-server")

GATEWAYS = 3
CLIENTS = 12
EACH = 10
LIMIT = 50
ROOM = 7


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The mail server behind them all."""
    with Sink() as running:
        yield running


@pytest.fixture
def gateways(sink: Sink) -> Iterator[list[Gateway]]:
    """The gateways; a domain gets ``LIMIT`` messages a day, and a client has ``ROOM`` connections at a time."""
    with RedisServer() as redis, ExitStack() as stack:
        policies = [
            "relay",
            {"concurrency": {"limit": ROOM}},
            {"rate_limit": {"key": "recipient_domain", "limit": f"{LIMIT}/d"}},
        ]
        settings = {"workers": 2, "state": {"url": redis.url, "timeout": "10s"}, "policies": policies}
        yield [stack.enter_context(Gateway(settings, backend=sink.port)) for _ in range(GATEWAYS)]


def all_at_once(what: Callable[[int], int], count: int) -> list[int]:
    """What so many threads come to that begin together."""
    barrier = threading.Barrier(count)

    def one(number: int) -> int:
        barrier.wait(30)
        return what(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_limit_holds_over_all_workers_of_all_gateways(gateways: list[Gateway], sink: Sink) -> None:
    """Of 120 messages as many pass as one worker alone would let through, and as many are delivered."""

    def send(number: int) -> int:
        accepted = 0
        for turn in range(EACH):
            with Wire(gateways[(number + turn) % GATEWAYS].port, source=f"127.0.1.{number + 1}") as client:
                client.hello()
                client.command("MAIL FROM:<carol@example.org>")
                code = client.command("RCPT TO:<alice@example.com>").code
                assert code in {250, 450}
                if code == 250:
                    assert client.command("DATA").code == 354
                    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
                    assert client.reply().code == 250
                    accepted += 1
        return accepted

    assert sum(all_at_once(send, CLIENTS)) == LIMIT
    assert len(sink.messages) == LIMIT
    for gateway in gateways:
        assert {record["decision"]["result"] for record in gateway.records()} == {"accepted", "deferred"}


def test_connections_are_counted_over_all_workers_of_all_gateways(gateways: list[Gateway]) -> None:
    """Of 21 that come at once as many come in as may; when they have gone as many may again."""

    def come_in() -> int:
        with ExitStack() as stack:

            def connect(number: int) -> int:
                client = Wire(gateways[number % GATEWAYS].port)
                stack.callback(client.close)
                assert client.greeting is not None
                return client.greeting.code

            codes = all_at_once(connect, 3 * ROOM)
            assert set(codes) <= {220, 421}
            assert codes.count(220) <= ROOM
            return codes.count(220)

    assert come_in() == ROOM
    assert poll(lambda: come_in() == ROOM)


def test_connections_of_workers_that_were_killed_make_room(sink: Sink) -> None:
    """Nobody renews them: half a minute later, which is put back in Redis here, as many may come in again."""
    with RedisServer() as redis:
        settings = {
            "workers": 2,
            "state": {"url": redis.url, "timeout": "10s"},
            "policies": [{"concurrency": {"limit": ROOM}}],
        }
        with Gateway(settings, backend=sink.port, expect=["worker died"]) as gateway, ExitStack() as stack:
            for _ in range(ROOM):
                client = stack.enter_context(Wire(gateway.port))
                assert client.hello().code == 250
            killed = gateway.workers()
            for worker in killed:
                worker.kill()
            poll(lambda: len(set(gateway.workers()) - set(killed)) == len(killed))
            assert _greeting(gateway) == 421
            (key,) = redis.client.keys("*concurrency*")
            assert 0 < redis.client.pttl(key) <= 30_000
            for member, until in redis.client.zrange(key, 0, -1, withscores=True):
                if member:
                    redis.client.zadd(key, {member: until - 31_000_000})
            assert _greeting(gateway) == 220


def _greeting(gateway: Gateway) -> int:
    with Wire(gateway.port) as client:
        assert client.greeting is not None
        return client.greeting.code
