"""Counted is what happened: what limits keep, and what they give back, at every end that a transaction can come to.

Each case goes over real connections through a worker, with a backend that fails on purpose, once with the state in the
worker's memory and once in Redis.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.config.registry import Registry
from gateway.state import Counting, Kind, Take
from policies.concurrency import Concurrency
from policies.greylist import Greylist
from policies.rate_limit import RateLimit
from policies.refusals import Refusals
from tests.support.fault_server import Act, FaultServer, kill, say, stall
from tests.support.gateway import Gateway, poll
from tests.support.redis import RedisServer
from tests.support.scenario import AtConnect, AtData, AtHelo, AtMail, AtMessage, AtRcpt
from tests.support.serving import Site, serving
from tests.support.sink import Sink
from tests.support.wire import Wire

REGISTRY = Registry.of(
    AtConnect, AtData, AtHelo, AtMail, AtMessage, AtRcpt, Concurrency, Greylist, RateLimit, Refusals
)  # fmt: skip
LIMITS = [
    {"rate_limit": {"id": "connections", "count": "connections", "limit": "100/w"}},
    {"rate_limit": {"id": "attempts", "count": "attempts", "limit": "100/w"}},
    {"rate_limit": {"id": "messages", "count": "messages", "limit": "100/w"}},
    {"rate_limit": {"id": "recipients", "count": "recipients", "limit": "100/w"}},
    {"rate_limit": {"id": "each", "count": "messages", "key": "recipient", "limit": "100/w"}},
    {"rate_limit": {"id": "octets", "count": "bytes", "limit": "1KB/w"}},
]
TEXT = "Subject: x\r\n\r\nx"
SIZE = len(TEXT) + 2

MAIL = ("MAIL FROM:<carol@example.org>", "250")
ALICE = ("RCPT TO:<alice@example.com>", "250")
BOB = ("RCPT TO:<bob@example.com>", "250")


def ended(code: str) -> Sequence[tuple[str, str]]:
    """DATA, and the reply to the end of it."""
    return [("DATA", "354"), (f"{TEXT}\r\n.", code)]


def refused(line: tuple[str, str], code: str) -> tuple[str, str]:
    """A command with another reply."""
    return line[0], code


def at(stage: str, action: str, match: str = "") -> dict[str, Any]:
    """A policy behind the limits that does something at a stage."""
    return {f"at_{stage}": {"match": match, "on": {"found": {"action": action}}}}


@dataclass(frozen=True)
class End:
    """An end of a transaction.

    Attributes:
        holds: What becomes of it.
        says: What the client says, with the code of each answer.
        messages: How many messages stay counted.
        recipients: How many recipients.
        octets: How many octets.
        attempts: How many attempts; as many as there are MAIL commands, unless those are not looked at any more.
        policies: What stands behind the limits.
        backend: What the backend does.
        config: What else is configured.
        backend_options: What is configured of the backend.
    """

    holds: str
    says: Sequence[tuple[str, str]]
    messages: int = 0
    recipients: int = 0
    octets: int = 0
    attempts: int | None = None
    policies: Sequence[Mapping[str, Any]] = ()
    backend: Mapping[str, Act] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    backend_options: Mapping[str, Any] = field(default_factory=dict)


QUICK = {"timeouts": {"end_of_data": "300ms"}}
TWO = {"domains": {"example.com": {}, "example.net": {"message_size": "5MB"}}}
NOW = {"delay_reject": "none"}
HELD = {"quarantine": {"backend": "backend"}}
KEPT: dict[str, Any] = {"messages": 1, "recipients": 1, "octets": SIZE}
ENDS = [
    End("accepted", [MAIL, ALICE, *ended("250")], **KEPT),
    End("accepted for two", [MAIL, ALICE, BOB, *ended("250")], messages=1, recipients=2, octets=SIZE),
    End("MAIL refused, at once", [refused(MAIL, "550")], policies=[at("mail", "reject")], config=NOW),
    End("MAIL deferred, at once", [refused(MAIL, "450")], policies=[at("mail", "defer")], config=NOW),
    End("MAIL refused at RCPT", [MAIL, refused(ALICE, "550"), ("RSET", "250")], policies=[at("mail", "reject")]),
    End("MAIL deferred at RCPT", [MAIL, refused(ALICE, "450"), ("QUIT", "221")], policies=[at("mail", "defer")]),
    End("connection refused at RCPT", [MAIL, refused(ALICE, "550")], policies=[at("connect", "reject")], attempts=0),
    End("HELO refused at RCPT", [MAIL, refused(ALICE, "550")], policies=[at("helo", "reject")], attempts=0),
    End("RCPT refused", [MAIL, refused(ALICE, "550"), ("QUIT", "221")], policies=[at("rcpt", "reject")]),
    End("RCPT deferred", [MAIL, refused(ALICE, "450"), ("RSET", "250")], policies=[at("rcpt", "defer")]),
    End("disconnected at RCPT", [MAIL, refused(ALICE, "421")], policies=[at("rcpt", "disconnect")]),
    End("DATA refused", [MAIL, ALICE, ("DATA", "550")], policies=[at("data", "reject")]),
    End("DATA deferred", [MAIL, ALICE, ("DATA", "450")], policies=[at("data", "defer")]),
    End("message refused", [MAIL, ALICE, *ended("550")], policies=[at("message", "reject")]),
    End("message deferred", [MAIL, ALICE, *ended("450")], policies=[at("message", "defer")]),
    End("message disconnected", [MAIL, ALICE, *ended("421")], policies=[at("message", "disconnect")]),
    End("message discarded", [MAIL, ALICE, *ended("250")], policies=[at("message", "discard")], **KEPT),
    End("DATA discarded", [MAIL, ALICE, *ended("250")], policies=[at("data", "discard")], messages=1, recipients=1),
    End("RCPT discarded", [MAIL, ALICE, *ended("250")], policies=[at("rcpt", "discard")], messages=1, recipients=1),
    End("MAIL discarded", [MAIL, ALICE, *ended("250")], policies=[at("mail", "discard")], messages=1),
    End("RCPT quarantined", [MAIL, ALICE, *ended("250")], policies=[at("rcpt", "quarantine")], config=HELD, **KEPT),
    End("message quarantined", [MAIL, ALICE, *ended("250")], policies=[at("message", "quarantine")],
        config=HELD, **KEPT),
    End("the quarantine refuses RCPT", [MAIL, refused(ALICE, "451")], policies=[at("rcpt", "quarantine")],
        config=HELD, backend={"rcpt": say("550 5.1.1 Unknown")}),
    End("the quarantine refuses the message", [MAIL, ALICE, *ended("451")], policies=[at("message", "quarantine")],
        config=HELD, backend={"end": say("554 5.6.0 No")}),
    End("discarded and given up", [MAIL, ALICE, ("RSET", "250")], policies=[at("rcpt", "discard")]),
    End("one discarded of two", [MAIL, ALICE, BOB, *ended("250")], policies=[at("rcpt", "discard", "bob@")],
        messages=1, recipients=2, octets=SIZE),
    End("one refused of two", [MAIL, ALICE, refused(BOB, "550"), *ended("250")],
        policies=[at("rcpt", "reject", "bob@")], **KEPT),
    End("one deferred of two", [MAIL, refused(ALICE, "450"), BOB, *ended("250")],
        policies=[at("rcpt", "defer", "alice@")], **KEPT),
    End("the backend refuses one of two", [MAIL, refused(ALICE, "550"), BOB, *ended("250")],
        backend={"rcpt": say("550 5.1.1 Unknown", 1)}, **KEPT),
    End("the backend defers one of two", [MAIL, refused(ALICE, "450"), BOB, *ended("250")],
        backend={"rcpt": say("450 4.2.0 Busy", 1)}, **KEPT),
    End("a recipient is split off", [MAIL, ALICE, ("RCPT TO:<dora@example.net>", "452"), *ended("250")],
        policies=[at("message", "reject", "never")],
        config=TWO, **KEPT),
    End("a recipient is split off and comes again",
        [MAIL, ALICE, ("RCPT TO:<dora@example.net>", "452"), *ended("250"),
         MAIL, ("RCPT TO:<dora@example.net>", "250"), *ended("250")],
        config=TWO, messages=2, recipients=2, octets=2 * SIZE),
    End("the backend refuses RCPT", [MAIL, refused(ALICE, "550")], backend={"rcpt": say("550 5.1.1 Unknown")}),
    End("the backend defers RCPT", [MAIL, refused(ALICE, "450")], backend={"rcpt": say("450 4.2.0 Busy")}),
    End("the backend refuses MAIL", [MAIL, refused(ALICE, "550")], backend={"mail": say("550 5.7.1 Not you")}),
    End("the backend is not there", [MAIL, refused(ALICE, "451")], backend={"greeting": kill()}),
    End("the backend refuses DATA", [MAIL, ALICE, *ended("554")], backend={"data": say("554 5.6.0 No")}),
    End("the backend refuses the message", [MAIL, ALICE, *ended("554")], backend={"end": say("554 5.6.0 No")}),
    End("the backend defers the message", [MAIL, ALICE, *ended("452")], backend={"end": say("452 4.3.1 Full")}),
    End("the backend is lost before the end", [MAIL, ALICE, *ended("451")], backend={"data": kill()}),
    End("the backend is lost after the final dot", [MAIL, ALICE, *ended("451")],
        backend={"end": kill(accept=True)}, **KEPT),
    End("the backend says nothing after the final dot", [MAIL, ALICE, *ended("451")],
        backend={"end": stall(accept=True)}, backend_options=QUICK, **KEPT),
    End("RSET after MAIL", [MAIL, ("RSET", "250")]),
    End("RSET after RCPT", [MAIL, ALICE, ("RSET", "250")]),
    End("another HELO", [MAIL, ALICE, ("HELO client.example.org", "250")]),
    End("QUIT after RCPT", [MAIL, ALICE, ("QUIT", "221")]),
    End("connection lost after MAIL", [MAIL]),
    End("connection lost after RCPT", [MAIL, ALICE]),
    End("connection lost in the data", [MAIL, ALICE, ("DATA", "354")]),
    End("refused by the protocol", [MAIL, ALICE, ("DATA", "354"), ("A: b\r\n\r\nx\0y\r\n.", "554")]),
]  # fmt: skip


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.peer("redis-server"))])
def state(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the state is."""
    with ExitStack() as stack:
        yield "memory:" if request.param == "memory" else stack.enter_context(RedisServer()).url


@asynccontextmanager
async def walked(folder: Path, state: str, end: End) -> AsyncIterator[Site]:
    """A worker to which a client has said what is to be said, and from which it has gone."""
    async with FaultServer(end.backend) as backend:
        servers = {"servers": [f"127.0.0.1:{backend.port}"], **end.backend_options}
        config = {"state": state, "policies": [*LIMITS, *end.policies], "backends": {"backend": servers}, **end.config}
        async with serving(folder, config, registry=REGISTRY) as site:
            async with site.client() as client:
                assert (await client.say("HELO client.example.org")).startswith("250")
                for line, code in end.says:
                    answer = await client.say(line)
                    assert answer.startswith(code), (line, answer)
            await site.empty()
            yield site


async def levels(site: Site) -> dict[str, float]:
    """What each limit has counted, over all its buckets."""
    found = dict.fromkeys(("connections", "attempts", "messages", "recipients", "each", "octets"), 0.0)
    state = site.worker._state
    await state.ask([Take(name="last", subject="x", rate=1.0, burst=1.0, counting=Counting.LOOK)])  # others come first
    async for entry in state.entries(Kind.RATE):
        found[entry.name.partition(":")[0]] += entry.level
    return {name: round(level) for name, level in found.items()}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.holds)
async def test_what_is_counted_is_what_happened(tmp_path: Path, state: str, end: End) -> None:
    """Attempts and connections stay counted; of the rest only what was, or may have been, accepted."""
    wanted = {
        "connections": 1,
        "attempts": sum(line == MAIL[0] for line, _ in end.says) if end.attempts is None else end.attempts,
        "messages": end.messages,
        "recipients": end.recipients,
        "each": end.recipients,
        "octets": end.octets,
    }
    async with walked(tmp_path, state, end) as site:
        assert await levels(site) == wanted


async def test_a_gateway_that_stops_before_the_backend_has_answered_keeps_what_it_counted(tmp_path: Path) -> None:
    """Nobody knows what became of the message; that of a client who was still speaking is given back."""
    async with FaultServer({"end": stall(accept=True)}) as backend:
        servers = {"backend": {"servers": [f"127.0.0.1:{backend.port}"]}}
        config = {"state": "memory:", "policies": LIMITS, "backends": servers}
        async with serving(tmp_path, config, registry=REGISTRY) as site, site.client() as one, site.client() as other:
            await other.begin()
            await one.begin()
            assert (await one.say("DATA")).startswith("354")
            one.writer.write(f"{TEXT}\r\n.\r\n".encode())
            async with asyncio.timeout(20):
                while not backend.messages:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0)
            await asyncio.gather(*(door.drain(0.1) for door in site.worker.doors))
            found = await levels(site)
            assert found == {
                "connections": 2, "attempts": 2, "messages": 1, "recipients": 1, "each": 1, "octets": SIZE,
            }  # fmt: skip


SHY: Mapping[str, Any] = {"greylist": {"delay": "5m", "clients_after": 0}}


@pytest.mark.parametrize("count", ["messages", "recipients", "attempts"])
async def test_a_sender_who_comes_again_as_he_is_told_is_not_shut_out(tmp_path: Path, count: str) -> None:
    """One message an hour, and greylisting behind it: the second attempt passes, unless attempts count."""
    policies = [{"rate_limit": {"count": count, "limit": "1/h"}}, SHY]
    async with serving(tmp_path, {"state": "memory:", "policies": policies}, registry=REGISTRY) as site:
        for turn in range(3):
            async with site.client() as client:
                for line in ("HELO client.example.org", MAIL[0]):
                    assert (await client.say(line)).startswith("250")
                answer = await client.say(ALICE[0])
                if turn == 1 and count != "attempts":
                    assert answer.startswith("250")
                    assert (await client.send(TEXT)).startswith("250")
                else:
                    cause = "Greylisted" if turn == 0 else f"Too many {count}"
                    assert answer.startswith(f"450 4.7.1 {cause}"), answer
            site.clock.advance(300)


async def test_octets_of_a_deferred_message_are_given_back_but_for_what_the_bucket_lost(tmp_path: Path) -> None:
    """A message that comes again counts once, though it was sent twice."""
    policies = [{"rate_limit": {"count": "bytes", "limit": "40/h"}}]
    async with FaultServer({"end": say("452 4.3.1 Full", 1)}) as backend:
        servers = {"backend": {"servers": [f"127.0.0.1:{backend.port}"]}}
        config = {"state": "memory:", "policies": policies, "backends": servers}
        async with serving(tmp_path, config, registry=REGISTRY) as site, site.client() as client:
            answers = []
            for _ in range(4):
                await client.begin()
                answers.append((await client.send(TEXT))[:3])
            assert answers == ["452", "250", "250", "450"]


async def test_refusals_are_counted_once_and_stay(tmp_path: Path) -> None:
    """Each recipient that is refused for good counts, whoever refused it; what is deferred or given up not."""
    policies = [
        {"refusals": {"limit": "100/w"}},
        at("rcpt", "reject", "nobody@"),
        at("helo", "defer", "never"),
    ]
    async with FaultServer({"rcpt": say("550 5.1.1 Unknown", 1)}) as backend:
        servers = {"backend": {"servers": [f"127.0.0.1:{backend.port}"]}}
        config = {"state": "memory:", "policies": policies, "backends": servers}
        async with serving(tmp_path, config, registry=REGISTRY) as site:
            async with site.client() as client:
                assert (await client.say("HELO client.example.org")).startswith("250")
                for line, code in (MAIL, ("RCPT TO:<nobody@example.com>", "550"), refused(ALICE, "550"), BOB):
                    assert (await client.say(line)).startswith(code)
                assert (await client.say("RSET")).startswith("250")
            await site.empty()
            assert [round(entry.level) async for entry in site.worker._state.entries(Kind.RATE)] == [2]


async def test_a_connection_stays_counted_until_it_ends(tmp_path: Path) -> None:
    """Connections at a time are what is there, however their transactions end; none is left behind."""
    policies = [{"concurrency": {"limit": 1}}, at("rcpt", "disconnect", "bob@")]
    async with serving(tmp_path, {"state": "memory:", "policies": policies}, registry=REGISTRY) as site:
        for last in ("RSET", "QUIT", BOB[0]):
            async with site.client() as client:
                await client.begin()
                assert [entry.level async for entry in site.worker._state.entries(Kind.CONCURRENCY)] == [1]
                async with site.client(greeting="421 "):
                    pass
                await client.say(last)
            await site.empty()
            assert [entry async for entry in site.worker._state.entries(Kind.CONCURRENCY)] == []


@pytest.mark.peer("redis-server")
async def test_an_accepted_message_costs_no_round_trip_more(tmp_path: Path) -> None:
    """One script for its limits at MAIL, and nothing at its end; what is given back is one more, for each limit."""
    limits = [{"rate_limit": {"id": name, "count": "messages", "limit": "100/w"}} for name in ("one", "two")]
    with RedisServer() as redis:

        def scripts() -> int:
            return int(redis.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

        config = {"state": redis.url, "policies": limits}
        async with serving(tmp_path, config, registry=REGISTRY) as site, site.client() as client:
            before = scripts()
            for turn in range(1, 4):
                await client.begin()
                assert (await client.send(TEXT)).startswith("250")
                assert scripts() == before + turn
            await client.begin()
            await client.say("RSET")
            await asyncio.to_thread(poll, lambda: scripts() == before + 3 + 1 + len(limits))


@pytest.mark.peer("redis-server")
def test_what_a_killed_worker_had_reserved_runs_out_by_itself() -> None:
    """Nobody gives it back: it is lost from the bucket as fast as the limit allows, like all that is in it."""
    limit = {"rate_limit": {"count": "messages", "limit": "7200/h", "burst": 1}}
    with Sink() as sink, RedisServer() as redis:
        settings = {"state": {"url": redis.url, "timeout": "10s"}, "policies": ["relay", limit]}
        with Gateway(settings, backend=sink.port, expect=["worker died"]) as gateway, ExitStack() as stack:
            client = stack.enter_context(Wire(gateway.port))
            client.hello()
            assert client.command("MAIL FROM:<carol@example.org>").code == 250
            (key,) = redis.client.keys("*:rate:*")
            assert 0 < redis.client.pttl(key) <= 500
            killed = gateway.workers()
            for worker in killed:
                worker.kill()
            poll(lambda: len(set(gateway.workers()) - set(killed)) == len(killed))
            poll(lambda: redis.client.keys("*:rate:*") == [])
            with Wire(gateway.port) as again:
                again.hello()
                assert again.transaction().code == 250
