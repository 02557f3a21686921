"""A real Postfix holds what policies quarantine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_server import FaultServer
from tests.support.postfix import Postfix
from tests.support.serving import Client, serving

pytestmark = pytest.mark.peer("postfix")


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """The quarantine: whatever it accepts stays on hold."""
    with Postfix({"quarantine": {"smtpd_authorized_xclient_hosts": "127.0.0.1"}}) as instance:
        yield instance


def config(own: FaultServer, postfix: Postfix, *policies: dict[str, Any]) -> dict[str, Any]:
    """The recipients' own backend takes everything; the quarantine knows its recipients."""
    return {
        "backends": {
            "own": {"servers": [f"127.0.0.1:{own.port}"]},
            "held": {"servers": [f"127.0.0.1:{postfix.port}"], "client_info": "xclient"},
        },
        "default_backend": "own",
        "quarantine": {"backend": "held"},
        "policies": list(policies),
    }


async def send(client: Client, subject: str, *recipients: str) -> str:
    """A message for these recipients; returns the reply to its end."""
    assert (await client.say("MAIL FROM:<carol@example.org>")).startswith("250")
    for recipient in recipients:
        assert (await client.say(f"RCPT TO:<{recipient}@example.com>")).startswith("250")
    return await client.send(f"Subject: {subject}\r\nX-Lychgate-Quarantine: forged\r\n\r\n..held")


@pytest.mark.parametrize("stage", ["rcpt", "data", "message"])
async def test_what_is_quarantined_is_on_hold_there(tmp_path: Path, postfix: Postfix, stage: str) -> None:
    """Once, for all its recipients, with the field that says why; the client's 250 is that of the quarantine."""
    before = postfix.queue_ids()
    async with FaultServer() as own:
        policy = {f"at_{stage}": {"id": "holds", "on": {"found": "quarantine"}}}
        async with serving(tmp_path, config(own, postfix, policy)) as site:
            async with site.client() as client:
                await client.say("HELO client.example.org")
                answer = await send(client, "bad", "alice", "bob")
            await site.empty()
    (queue_id,) = postfix.queue_ids() - before
    assert answer == f"250 2.0.0 Ok: queued as {queue_id}"
    message, envelope = postfix.message(queue_id), postfix.envelope(queue_id)
    assert b"\nX-Lychgate-Quarantine: policy=holds; outcome=found\nSubject: bad\n" in message
    assert message.endswith(b"\n\n.held\n")
    assert b"forged" not in message
    assert [line.split(" ")[1] for line in envelope.splitlines() if line.startswith("recipient:")] == [
        "alice@example.com",
        "bob@example.com",
    ]
    assert own.messages == []
    (record,) = site.records
    assert (record.decision.result, record.decision.policy, record.decision.stage) == ("quarantined", "holds", stage)
    assert record.backend is not None
    assert (record.backend.group, record.backend.queue_id) == ("held", queue_id)


async def test_a_recipient_that_the_quarantine_refuses_defers_the_message(tmp_path: Path, postfix: Postfix) -> None:
    """Nothing is held and nothing delivered; the session goes on, and the next message arrives."""
    before = postfix.queue_ids()
    async with FaultServer() as own:
        policy = {"at_message": {"match": "bad", "on": {"found": "quarantine"}}}
        async with serving(tmp_path, config(own, postfix, policy)) as site:
            async with site.client() as client:
                await client.say("HELO client.example.org")
                assert (await send(client, "bad", "alice", "nobody")).startswith("451 4.4.1 ")
                assert postfix.queue_ids() == before
                assert (await send(client, "good", "alice", "nobody")).startswith("250 ")
                assert (await send(client, "bad", "alice")).startswith("250 ")
            await site.empty()
    assert len(postfix.queue_ids() - before) == 1
    assert [b"Subject: good" in message.data for message in own.messages] == [True]
    assert [record.decision.result for record in site.records] == ["deferred", "accepted", "quarantined"]
    refused = site.records[0].backend
    assert refused is not None
    assert refused.reply is not None
    assert (refused.group, refused.reply.code) == ("held", 550)
