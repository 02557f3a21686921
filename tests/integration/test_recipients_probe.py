"""Asking a backend who its recipients are: against a real Postfix, and a server that fails in every way."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.backend.probe import BackendProbe
from gateway.config.recipients import ProbeOptions
from gateway.lookup.answer import UnverifiableError
from tests.support import backend
from tests.support.fault_server import FaultServer, kill, say, say_and_close, stall
from tests.support.postfix import Postfix

DOMAIN = "example.com"


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """One Postfix, with a service for each kind of backend."""

    def answering(reply: str) -> dict[str, str]:
        return {"smtpd_recipient_restrictions": f"check_recipient_access static:{{{reply}}}"}

    services = {
        "plain": {},
        "catch_all": {"virtual_mailbox_maps": "static:box"},
        "strict": {"smtpd_soft_error_limit": "10", "smtpd_hard_error_limit": "20"},  # Postfix's own limits
        "later": answering("450 4.2.0 come back"),
        "policy": answering("550 5.7.1 not from you"),
        "full": answering("552 5.2.2 mailbox full"),
        "sender": {"smtpd_delay_reject": "no", "smtpd_sender_restrictions": "static:{550 5.1.8 no null sender}"},
        "xclient": {
            "smtpd_authorized_xclient_hosts": "127.0.0.1",
            "smtpd_client_restrictions": "check_client_access inline:{{192.0.2.66=REJECT}}, permit",
        },
    }
    with Postfix(services) as instance:
        yield instance


@asynccontextmanager
async def asking(port: int, *, group: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[BackendProbe]:
    """What asks a backend."""
    async with backend.group(port, **(group or {})) as servers:
        probe = BackendProbe(servers, ProbeOptions.model_validate(settings))
        try:
            yield probe
        finally:
            await probe.close()


async def answer(probe: BackendProbe, local_part: str) -> bool | None:
    """Whether an address exists, None where it can't be told."""
    try:
        return (await probe.ask(local_part, DOMAIN)).exists
    except UnverifiableError:
        return None


@pytest.mark.peer("postfix")
@pytest.mark.parametrize("service", ["plain", "strict"])
async def test_postfix_says_who_is_there(postfix: Postfix, service: str) -> None:
    """Its yes and its no; nothing is queued, and many a no makes it neither slow nor silent."""
    async with asking(postfix.ports[service]) as probe:
        assert [await answer(probe, user) for user in ("alice", "nobody", "jörg", "any+detail")] == [
            True,
            False,
            True,
            True,
        ]
        for number in range(25):
            assert await answer(probe, f"nobody{number}") is False
        assert await answer(probe, "bob") is True
    assert postfix.queue_ids() == set()


@pytest.mark.peer("postfix")
async def test_postfix_that_takes_every_address_is_asked_no_more(postfix: Postfix) -> None:
    """A random address shows it; it is told once, and until the next test everything exists."""
    async with asking(postfix.ports["catch_all"]) as probe:
        with capture_logs() as lines:
            for user in ("alice", "nobody", "anybody"):
                assert await answer(probe, user) is True
        assert [line["event"] for line in lines] == ["backend takes every address, so that asking it is pointless"]
        said = await probe.ask("somebody", DOMAIN)
        assert said.words == "the server takes every address of the domain, so it was not asked"


@pytest.mark.peer("postfix")
@pytest.mark.parametrize(
    ("service", "wanted", "words"),
    [
        ("later", None, "450 4.2.0 .*come back"),
        ("policy", None, "550 5.7.1 .*not from you"),
        ("sender", None, "refused the sender: 550 5.1.8"),
        ("full", True, "552 5.2.2 .*mailbox full"),
    ],
)
async def test_what_postfix_says_of_other_things(
    postfix: Postfix,
    service: str,
    wanted: bool | None,  # noqa: FBT001 - a parameter of pytest
    words: str,
) -> None:
    """Is no answer about the recipient; a full mailbox exists."""
    async with asking(postfix.ports[service], random_test=0) as probe:
        if wanted is None:
            with pytest.raises(UnverifiableError, match=words):
                await probe.ask("alice", DOMAIN)
        else:
            assert (await probe.ask("alice", DOMAIN)).exists is wanted


@pytest.mark.peer("postfix")
async def test_no_client_is_announced_where_a_backend_is_asked(postfix: Postfix) -> None:
    """Also beside deliveries that announce theirs: what is asked does not depend on who sends."""
    async with backend.group(postfix.ports["xclient"], client_info="xclient") as servers:
        refused, _ = await backend.deliver(servers, of=backend.session(address="192.0.2.66"))
        assert refused.is_permanent
        probe = BackendProbe(servers, ProbeOptions())
        assert await answer(probe, "alice") is True
        await probe.close()


@pytest.mark.peer("postfix")
async def test_a_postfix_that_is_away_can_not_tell() -> None:
    """And tells again when it is back; a kept connection that it closed is replaced."""
    with Postfix() as postfix:
        async with asking(postfix.port, group={"health": {"interval": "1h", "failures": 1}}) as probe:
            assert await answer(probe, "alice") is True
            await asyncio.to_thread(postfix.stop)
            assert await answer(probe, "alice") is None
            assert await answer(probe, "nobody") is None
            await asyncio.to_thread(postfix.start)
            await asyncio.gather(*(server.probe() for server in probe._group.servers))
            assert await answer(probe, "alice") is True
            assert await answer(probe, "nobody") is False


@pytest.mark.parametrize(
    ("step", "act"),
    [
        ("greeting", say("554 5.3.2 not now")),
        ("greeting", kill()),
        ("ehlo", say("550 no")),
        ("mail", say("550 5.1.1 no null sender here")),
        ("mail", say("451 4.3.0 later")),
        ("mail", kill()),
        ("rcpt", kill()),
        ("rcpt", stall()),
        ("rcpt", say("nonsense")),
        ("rcpt", say("354 what?")),
        ("rcpt", say("421 4.3.2 closing")),
        ("rcpt", say_and_close("421 4.3.2 closing")),
        ("rcpt", say("450 4.1.1 perhaps")),
        ("rcpt", say("550 5.7.1 relaying denied")),
        ("rcpt", say("554 transaction failed")),
        ("rcpt", say("554 5.7.1 blocked")),
        ("rcpt", say("530 5.7.0 log in first")),
        ("rcpt", say("503 5.5.1 no")),
        ("rcpt", say("550 5.1.8 who are you?")),
        ("rcpt", say("550 5.3.0 the system fails")),
        ("rset", kill()),
        ("rset", say("500 what?")),
    ],
)
async def test_no_fault_is_a_no(step: str, act: Any) -> None:
    """Whatever a server says or does not say: only a refusal of the recipient refuses mail."""
    timeouts = {"connect": "1s", "greeting": "1s", "command": "200ms"}
    async with FaultServer({step: act}) as server, asking(server.port, group={"timeouts": timeouts}) as probe:
        assert await answer(probe, "alice") is None
        server.script = {}
        assert server.messages == []


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("550 5.1.1 unknown", False),
        ("550 unknown", False),
        ("550 5.1.10 RecipientNotFound", False),
        ("550 5.4.1 Recipient address rejected: Access denied", False),
        ("550 5.2.1 disabled", False),
        ("550 5.0.0 no", False),
        ("551 5.1.6 moved", False),
        ("553 5.1.3 bad", False),
        ("554 5.1.1 unknown", False),
        ("550 5.2.2 full", True),
        ("552 full", True),
        ("251 will forward", True),
    ],
)
async def test_what_a_refusal_of_the_recipient_means(reply: str, wanted: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """In the words of several mail servers."""
    async with FaultServer({"rcpt": say(reply)}) as server, asking(server.port, random_test=0) as probe:
        assert await answer(probe, "alice") is wanted


async def test_the_random_test_is_made_when_it_is_worth_it() -> None:
    """After the first yes of a domain; a no shows as well that not everything is taken; a flush brings a new test."""
    no = {"rcpt": say("550 5.1.1 unknown")}
    async with FaultServer() as server, asking(server.port) as probe:

        def tests() -> int:
            return sum("no-such-address" in command for command in server.commands)

        server.script = no
        assert await answer(probe, "nobody") is False
        server.script = {}
        assert await answer(probe, "alice") is True
        assert tests() == 0
        probe.forget(DOMAIN)
        assert await answer(probe, "alice") is True
        assert tests() == 1
        server.script = no
        assert await answer(probe, "nobody") is True  # all are taken, as the test has shown
        probe.forget("example.net")
        assert await answer(probe, "nobody") is True
        probe.forget(None)
        assert await answer(probe, "nobody") is False


async def test_what_is_known_of_a_domain_grows_old() -> None:
    """Behind its time it is tested again."""
    now = 0.0
    async with FaultServer() as server, backend.group(server.port) as servers:
        probe = BackendProbe(servers, ProbeOptions.model_validate({"random_test": "1h"}), monotonic=lambda: now)
        assert await answer(probe, "alice") is True
        server.script = {"rcpt": say("550 5.1.1 unknown")}
        now = 3599.0
        assert await answer(probe, "nobody") is True
        now = 3600.0
        assert await answer(probe, "nobody") is False
        await probe.close()


@pytest.mark.parametrize("local_part", ["a b", 'a"b', "a\\b", ".a", "a..b", "a@b", "<a>", ""])
async def test_local_parts_are_quoted_where_they_need_it(local_part: str) -> None:
    """A server gets the address that the client meant."""
    async with FaultServer() as server, asking(server.port, random_test=0) as probe:
        assert await answer(probe, local_part) is True
        quoted = local_part.replace("\\", "\\\\").replace('"', '\\"')
        assert f'RCPT TO:<"{quoted}"@{DOMAIN}>' in server.commands


async def test_without_smtputf8_a_server_can_not_be_asked_about_such_an_address() -> None:
    """It is not changed into another."""
    async with FaultServer(extensions=("PIPELINING",)) as server, asking(server.port) as probe:
        assert await answer(probe, "jörg") is None
        assert await answer(probe, "alice") is True


async def test_questions_share_a_few_connections() -> None:
    """As many as configured, beside those for mail; and each gets its own answer."""
    async with FaultServer() as server, asking(server.port, random_test=0, connections=2) as probe:
        assert await asyncio.gather(*(answer(probe, f"user{n}") for n in range(40))) == [True] * 40
        assert server.connections <= 3  # the group's own one among them
