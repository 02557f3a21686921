"""refusals: what is counted, where it looks, and what the client is told."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.session import RecipientState
from gateway.state import Kind
from gateway.testing import Site, run
from gateway.verdict import Finding, Stage
from policies.refusals import Refusals, RefusalsOptions


async def outcome(policy: Refusals, stage: Stage, *arguments: object) -> str | None:
    """What the policy finds at a stage."""
    finding = await run(policy, stage, *arguments)
    return None if finding is None else finding.outcome.name


def site() -> Site:
    """A site of its own, with nothing counted."""
    return Site(domains=["example.com"])


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, ["connect", "mail", "rcpt"]),
        ({"key": "helo_name"}, ["helo", "mail", "rcpt"]),
        ({"key": "reverse_path"}, ["mail", "rcpt"]),
        ({"key": ["recipient_domain", "client_address"]}, ["rcpt"]),
    ],
)
def test_it_looks_from_where_its_key_is_known(options: dict[str, Any], stages: list[str]) -> None:
    """At other stages it leaves no check, and costs nothing."""
    made = RefusalsOptions.model_validate({"limit": "1/h", **options})
    assert [stage.value for stage in Stage if stage in Refusals.stages(made)] == stages


def test_a_signature_is_no_key() -> None:
    """Most refusals come before a signature is seen."""
    with pytest.raises(ValidationError, match="refusals are not counted by dkim_domain"):
        RefusalsOptions.model_validate({"limit": "1/h", "key": ["client_address", "dkim_domain"]})


async def test_those_who_try_out_addresses_are_put_off_until_the_hold_is_over() -> None:
    """Each refusal of another counts; then connect, MAIL and RCPT are deferred for the time of the hold."""
    at = site()
    policy = at.policy(Refusals, {"limit": "10/h", "burst": 3, "hold": "2h"})
    transaction = at.transaction()
    recipient = at.recipient(transaction, "nobody@example.com")
    for by in (policy.id, "recipient", None, "relay"):
        assert await run(policy, Stage.CONNECT, transaction.session) is not None
        assert await outcome(policy, Stage.MAIL, transaction) == "within"
        policy.on_refusal(transaction.session, transaction, recipient, by)
    transaction.session.refusals = 3
    for stage, arguments in (
        (Stage.RCPT, (transaction, recipient)),
        (Stage.MAIL, (transaction,)),
        (Stage.CONNECT, (at.session("192.0.2.1"),)),
    ):
        finding: Finding | None = await run(policy, stage, *arguments)
        assert finding is not None
        assert str(finding.reply) == "450 4.7.1 Too many refused commands, try again in 7200 seconds"
    assert await outcome(policy, Stage.MAIL, at.transaction(session=at.session("192.0.2.2"))) == "within"
    at.clock.advance(7200)
    assert await outcome(policy, Stage.MAIL, transaction) == "within"


async def test_a_rcpt_without_a_refusal_in_the_session_is_not_looked_at_again() -> None:
    """MAIL has looked already, so a message with many good recipients costs no further question."""
    at = site()
    policy = at.policy(Refusals, {"limit": "1/h"})
    transaction = at.transaction()
    assert await run(policy, Stage.RCPT, transaction, at.recipient(transaction, "bob@example.com")) is None


async def test_a_first_look_at_rcpt_looks_always() -> None:
    """By a key of the recipient nothing has looked at MAIL."""
    at = site()
    policy = at.policy(Refusals, {"key": "recipient", "limit": "1/h"})
    transaction = at.transaction()
    recipient = at.recipient(transaction, "bob@example.com")
    policy.on_refusal(transaction.session, transaction, recipient, None)
    assert await outcome(policy, Stage.RCPT, transaction, recipient) == "exceeded"


async def test_who_is_allowed_is_neither_counted_nor_looked_at() -> None:
    """Clients, senders and recipients can be left out."""
    for options in ({"allow": ["192.0.2.0/24"]}, {"allow_senders": ["@example.net"]}, {"allow_recipients": ["bob@"]}):
        at = site()
        policy = at.policy(Refusals, {"limit": "1/h", **options})
        transaction = at.transaction("alice@example.net", session=at.session("192.0.2.1"))
        bob = at.recipient(transaction, "bob@example.com", state=RecipientState.REJECTED)
        transaction.session.refusals = 1
        policy.on_refusal(transaction.session, transaction, bob, "recipient")
        assert await run(policy, Stage.RCPT, transaction, bob) is None
        assert [entry async for entry in at.context.state.entries(Kind.RATE)] == []
