"""limits: recipients of a message, messages and refusals of a session."""

import pytest
from pydantic import ValidationError

from gateway.session import RecipientState
from gateway.testing import Site, run
from gateway.verdict import Action, Stage
from policies.limits import Limits

SITE = Site(domains=["example.com"])


@pytest.mark.parametrize(
    ("accepted", "rejected", "refused"), [(99, 0, False), (100, 0, True), (99, 50, False), (150, 0, True)]
)
async def test_recipients_over_the_limit_are_deferred(
    accepted: int,
    rejected: int,
    refused: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """As many recipients as the limit are accepted, the rest are deferred; refused ones do not count."""
    transaction = SITE.transaction()
    for state, count in ((RecipientState.ACCEPTED, accepted), (RecipientState.REJECTED, rejected)):
        for _ in range(count):
            SITE.recipient(transaction, "a@example.com", state=state)
    policy = SITE.policy(Limits, {"recipients": 100})
    finding = await run(policy, Stage.RCPT, transaction, SITE.recipient(transaction, "last@example.com"))
    assert (finding is not None) == refused
    if finding is not None:
        assert finding.outcome is Limits.too_many_recipients
        assert finding.outcome.action is Action.DEFER
        assert str(finding.reply).startswith("452 4.5.3")
        assert finding.evidence == {"recipients": accepted, "limit": 100}


def test_fewer_than_a_hundred_recipients_are_no_limit() -> None:
    """RFC 5321 4.5.3.1.8 wants at least 100 recipients, and so does the option."""
    with pytest.raises(ValidationError, match="greater than or equal to 100"):
        SITE.policy(Limits, {"recipients": 99})


@pytest.mark.parametrize(("messages", "limit", "refused"), [(4, 5, False), (5, 5, True), (1000, 0, False)])
async def test_messages_over_the_limit_end_the_session(
    messages: int,
    limit: int,
    refused: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """MAIL after as many accepted messages as the limit is answered with 421; 0 is no limit."""
    transaction = SITE.transaction()
    transaction.session.messages = messages
    finding = await run(SITE.policy(Limits, {"messages": limit}), Stage.MAIL, transaction)
    assert (finding is not None) == refused
    if finding is not None:
        assert finding.outcome is Limits.too_many_messages
        assert finding.outcome.action is Action.DISCONNECT
        assert str(finding.reply).startswith("421 4.7.0")


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT])
@pytest.mark.parametrize(
    ("refusals", "errors", "limit", "refused"),
    [(2, 2, 5, False), (3, 2, 5, True), (0, 5, 5, True), (5, 0, 5, True), (500, 500, 0, False)],
)
async def test_refusals_over_the_limit_end_the_session(
    stage: Stage,
    refusals: int,
    errors: int,
    limit: int,
    refused: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Refusals and errors count together, at MAIL and at RCPT; 0 is no limit."""
    transaction = SITE.transaction()
    transaction.session.refusals = refusals
    transaction.session.errors = errors
    policy = SITE.policy(Limits, {"refusals": limit})
    recipient = [SITE.recipient(transaction, "a@example.com")] if stage is Stage.RCPT else []
    finding = await run(policy, stage, transaction, *recipient)
    assert (finding is not None) == refused
    if finding is not None:
        assert finding.outcome is Limits.too_many_refusals
        assert finding.outcome.action is Action.DISCONNECT
        assert finding.evidence == {"refusals": refusals, "errors": errors, "limit": limit}
