"""What ``explain`` tells beyond what the scenarios hold it to."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.config.model import Config
from gateway.config.registry import Registry
from gateway.explain import Attempt, Explanation, explain
from gateway.testing import SettableClock
from tests.support.configuring import loaded
from tests.support.scenario import REGISTRY

CONFIG = """
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:25"}, {smtp: "127.0.0.1:587", auth: {required: true}}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains: {example.com: {}}
policies: [named, relay, at_message: {match: spam}]
"""


def config(folder: Path) -> Config:
    """The configuration."""
    return loaded(folder, CONFIG, registry=REGISTRY)


async def ask(
    folder: Path,
    *,
    listener: int = 0,
    zone: dict[str, object] | None = None,
    made: Config | None = None,
    **more: Any,
) -> Explanation:
    """Explain an attempt."""
    given: dict[str, Any] = {
        "client_address": "192.0.2.1",
        "helo": "client.example.org",
        "mail_from": "carol@example.org",
        "recipients": ["alice@example.com"],
    }
    made = made or config(folder)
    resolver = ZoneResolver(zone or {})
    return await explain(made, made.listeners[listener], Attempt(**given | more), resolver, SettableClock())


async def test_each_step_has_its_checks_its_questions_and_its_reply(tmp_path: Path) -> None:
    """In the order of the session, with the DNS as it was asked, and what would be done at the backend."""
    zone: dict[str, object] = {"192.0.2.1": {"PTR": "mail.example.org"}, "mail.example.org": {"A": "192.0.2.1"}}
    found = await ask(tmp_path, zone=zone, message=b"Subject: hello\r\n\r\n")
    assert [step.command for step in found.steps] == [
        "connect",
        "EHLO client.example.org",
        "MAIL FROM:<carol@example.org> SIZE=18",
        "RCPT TO:<alice@example.com>",
        "the message, 18 octets",
    ]
    assert [step.reply.code for step in found.steps] == [220, 250, 250, 250, 250]
    assert [[check.policy for check in step.checks] for step in found.steps[2:]] == [
        ["named"],
        ["relay"],
        ["at_message"],
    ]
    asked = [question.name for question in found.steps[2].questions]
    assert asked == ["1.2.0.192.in-addr.arpa", "mail.example.org"]
    assert found.steps[3].note == "the backend 'postfix' would be asked, and its answer given"
    told, received = found.steps[4].note.splitlines()
    assert told == "forwarded with these header fields added:"
    assert received.startswith("Received: from client.example.org (mail.example.org [192.0.2.1]) by mx.example.com")
    assert found.record.client.name == "mail.example.org"
    assert found.record.message is not None
    assert found.record.message.declared_size == 18
    assert len(found.records) == 1


async def test_without_a_message_it_stops_behind_rcpt(tmp_path: Path) -> None:
    """The envelope alone is accepted, with refused recipients beside."""
    found = await ask(tmp_path, recipients=["bob@elsewhere.example", "alice@example.com"])
    assert found.steps[-1].command == "RCPT TO:<alice@example.com>"
    assert found.record.decision.result == "accepted"
    assert [recipient.verdict for recipient in found.record.recipients] == ["rejected", "accepted"]


async def test_a_message_for_nobody_is_not_asked_for(tmp_path: Path) -> None:
    """When every recipient is refused the session ends there."""
    found = await ask(tmp_path, recipients=["bob@elsewhere.example"], message=b"Subject: x\r\n\r\n")
    assert found.record.decision.result == "rejected"
    assert found.record.message is None


async def test_a_wrong_address_is_told_as_the_gateway_would(tmp_path: Path) -> None:
    """The step has the protocol's reply, and the record says that the protocol decided."""
    for envelope in ({"mail_from": "no address"}, {"recipients": ["a@b@c"]}):
        found = await ask(tmp_path, **envelope)
        assert found.steps[-1].reply.is_permanent
        assert (found.record.decision.result, found.record.decision.policy) == ("rejected", "smtp")


async def test_a_listener_that_wants_a_login_refuses_who_has_none(tmp_path: Path) -> None:
    """As the door does: 530 at MAIL; with a login the client may relay."""
    found = await ask(tmp_path, listener=1)
    assert found.steps[-1].reply.code == 530
    found = await ask(tmp_path, listener=1, login="carol", recipients=["bob@elsewhere.example"])
    assert found.record.decision.result == "accepted"
    assert found.record.client.login == "carol"


async def test_an_address_beyond_ascii_and_a_bare_newline_are_read_as_by_the_door(tmp_path: Path) -> None:
    """SMTPUTF8 is used where it is needed, and a message that the door would refuse is refused."""
    found = await ask(tmp_path, mail_from="jörg@example.org")
    assert found.steps[2].command == "MAIL FROM:<jörg@example.org> SMTPUTF8"
    assert found.record.decision.result == "accepted"
    found = await ask(tmp_path, message=b"Subject: x\n\n")
    assert found.record.reply is not None
    assert found.record.reply.code == 554
    assert f"[{found.record.id}]" in found.record.reply.text


async def test_a_client_address_that_is_none_is_an_error(tmp_path: Path) -> None:
    """The caller is told; nothing is explained."""
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        await ask(tmp_path, client_address="mail.example.org")


async def test_recipients_are_looked_up_but_no_backend_is_asked(tmp_path: Path) -> None:
    """A source that is no backend says what it would say; where only the backend knows, its word is announced."""
    with closing(sqlite3.connect(tmp_path / "users.db")) as connection:
        connection.execute("CREATE TABLE users (address text)")
        connection.execute("INSERT INTO users VALUES ('alice@example.com')")
        connection.commit()
    query = "SELECT 1 FROM users WHERE address = :address"
    text = CONFIG.replace(
        "example.com: {}",
        f"example.com: {{recipients: {{sql: {{url: 'sqlite:///users.db', query: '{query}'}}}}}},"
        " probed.example: {recipients: {probe: true}}",
    ).replace("[named, relay, at_message: {match: spam}]", "[relay, recipient]")
    made = loaded(tmp_path, text, registry=Registry.installed())
    attempt = Attempt(
        client_address="192.0.2.1",
        helo="client.example.org",
        mail_from="carol@example.org",
        recipients=["alice@example.com", "nobody@example.com", "nobody@probed.example"],
    )
    found = await explain(made, made.listeners[0], attempt, ZoneResolver({}), SettableClock())
    replies = [step.reply.code for step in found.steps if step.command.startswith("RCPT")]
    assert replies == [250, 550, 250]
    assert found.steps[-1].note == "the backend 'postfix' would be asked, and its answer given"


async def test_what_spf_tried_is_told_of_each_identity(tmp_path: Path) -> None:
    """Also where it led to a pass, of which the record shows the result alone."""
    zone: dict[str, object] = {
        "example.org": {"TXT": "v=spf1 ip4:198.51.100.7 include:spf.example.net -all"},
        "spf.example.net": {"TXT": "v=spf1 ip4:192.0.2.0/24 -all"},
        "client.example.org": {"TXT": "v=spf1 ip4:198.51.100.8 ~all"},
    }
    text = CONFIG.replace("named, relay, at_message: {match: spam}", "relay, spf")
    made = loaded(tmp_path, text, registry=Registry.installed())
    found = await ask(tmp_path, zone=zone, made=made)
    assert found.steps[2].note.splitlines() == [
        "SPF of example.org, pass:",
        "  ip4:198.51.100.7: did not match",
        "  include:spf.example.net: matched, so pass",
        "    ip4:192.0.2.0/24: matched, so pass",
        "SPF of client.example.org, softfail:",
        "  ip4:198.51.100.8: did not match",
        "  ~all: matched, so softfail",
    ]
    zone["example.org"] = {"TXT": "v=spf1 ~all"}
    found = await ask(tmp_path, zone=zone, made=made)
    assert found.steps[2].checks[0].evidence["steps"] == ["~all: matched, so softfail"]
    assert found.steps[2].note.startswith("SPF of client.example.org, softfail:"), "nothing is told twice"


HOLDING = """
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:25"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}, held: {servers: ["127.0.0.1:10026"]}}
default_backend: postfix
quarantine: {backend: held}
limits: {session_delay: 12s}
domains: {example.com: {}}
policies:
  - at_mail: {match: carol, on: {found: {action: pass, delay: 8s}}}
  - at_rcpt: {match: early, on: {found: {action: quarantine, delay: 8s}}}
  - at_message: {match: spam, brings: ["X-Spam-Score: 5.1"], on: {found: quarantine}}
"""


async def test_a_delay_is_told_and_not_waited_for(tmp_path: Path) -> None:
    """At its step, as far as the session's bound leaves any of it."""
    made = loaded(tmp_path, HOLDING, registry=REGISTRY)
    found = await ask(tmp_path, made=made, recipients=["early@example.com", "early.too@example.com"])
    told = [line for step in found.steps for line in step.note.split("\n") if "held back" in line]
    assert told == ["the reply would be held back for 8s", "the reply would be held back for 4s"]
    assert [step.command.partition(":")[0] for step in found.steps if "held back" in step.note] == [
        "MAIL FROM",
        "RCPT TO",
    ]


async def test_where_mail_is_held_is_told(tmp_path: Path) -> None:
    """At RCPT the quarantine would be asked in place of the recipient's own backend, at the end of data after it."""
    made = loaded(tmp_path, HOLDING, registry=REGISTRY)
    found = await ask(tmp_path, made=made, recipients=["early@example.com"])
    assert "the backend 'held' would be asked, and its answer given" in found.steps[-1].note
    assert [line.partition(",")[0] for line in found.not_asked] == ["the backend 'held'"]
    assert found.result == "quarantined"
    found = await ask(tmp_path, made=made, message=b"Subject: spam\r\n\r\n")
    assert "the backend 'postfix' would be asked, and its answer given" in found.steps[-2].note
    first, *_, last = found.steps[-1].note.split("\n")
    assert first == "the backend 'held' would be sent the message in their place"
    assert last == "X-Spam-Score: 5.1"
    assert "X-Lychgate-Quarantine: policy=at_message; outcome=found" in found.steps[-1].note
    assert [line.partition(",")[0] for line in found.not_asked] == ["the backend 'postfix'", "the backend 'held'"]
    assert found.result == "quarantined"
