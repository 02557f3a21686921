"""size: the limit for all and that of each domain, on declared and on real sizes."""

import pytest

from gateway.session import RecipientState
from gateway.testing import Site, domain, message, run
from gateway.verdict import Action, Stage
from policies.size import Size

SITE = Site(
    domains=[
        "any.example",
        domain("small.example", message_size=50),
        domain("smaller.example", message_size=20),
        domain("large.example", message_size=500),
        domain("zero.example", message_size=0),
    ],
    message_size=100,
)


@pytest.mark.parametrize(
    ("declared", "options", "refused"),
    [
        ("SIZE=100", {}, False),
        ("SIZE=101", {}, True),
        ("", {}, False),
        ("SIZE=0", {}, False),
        ("SIZE=101", {"limit": 0}, False),
        ("SIZE=101", {"limit": "1KB"}, False),
        ("SIZE=11", {"limit": 10}, True),
        ("SIZE=99999999999999999999", {}, True),
    ],
)
async def test_a_declared_size_over_the_limit_is_refused_at_mail(
    declared: str,
    options: dict[str, object],
    refused: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """MAIL is refused when its SIZE is over the option's limit, or the gateway's without it; 0 is no limit."""
    finding = await run(SITE.policy(Size, options), Stage.MAIL, SITE.transaction(parameters=declared))
    assert (finding is not None) == refused
    if finding is not None:
        assert finding.outcome is Size.too_large
        assert finding.outcome.action is Action.REJECT
        assert str(finding.reply) == "552 5.3.4 Message size exceeds the limit"
        assert finding.evidence["size"] == int(declared.removeprefix("SIZE="))
        assert finding.evidence["domain"] is None


@pytest.mark.parametrize(
    ("declared", "recipient", "limit"),
    [
        ("SIZE=50", "a@small.example", None),
        ("SIZE=51", "a@small.example", 50),
        ("SIZE=51", "a@any.example", None),
        ("SIZE=51", "a@zero.example", None),
        ("SIZE=51", "a@elsewhere.example", None),
        ("SIZE=101", "a@large.example", 100),
        ("", "a@smaller.example", None),
    ],
)
async def test_a_declared_size_over_the_domains_limit_is_refused_at_rcpt(
    declared: str, recipient: str, limit: int | None
) -> None:
    """RCPT is refused when SIZE is over the limit of the recipient's domain, which is never wider than that for all."""
    transaction = SITE.transaction(parameters=declared)
    finding = await run(SITE.policy(Size), Stage.RCPT, transaction, SITE.recipient(transaction, recipient))
    assert (None if finding is None else finding.evidence["limit"]) == limit


@pytest.mark.parametrize(
    ("size", "recipients", "evidence"),
    [
        (20, ["a@smaller.example", "a@small.example"], None),
        (51, ["a@small.example", "a@smaller.example", "a@any.example"], (20, "smaller.example")),
        (51, ["a@small.example"], (50, "small.example")),
        (51, ["a@any.example", "a@elsewhere.example", "a@zero.example"], None),
        (101, ["a@any.example"], (100, None)),
        (101, ["a@large.example"], (100, None)),
    ],
)
async def test_the_real_size_is_compared_with_the_smallest_limit(
    size: int, recipients: list[str], evidence: tuple[int, str | None] | None
) -> None:
    """A message that declared nothing is refused when it is larger than the smallest limit of its recipients."""
    transaction = SITE.transaction()
    for recipient in recipients:
        SITE.recipient(transaction, recipient, state=RecipientState.ACCEPTED)
    finding = await run(SITE.policy(Size), Stage.MESSAGE, transaction, message(b"x" * size))
    found = None if finding is None else (finding.evidence["limit"], finding.evidence["domain"])
    assert found == evidence


async def test_refused_recipients_limit_nothing() -> None:
    """The limit of a recipient that was refused does not count at the end of the message."""
    transaction = SITE.transaction()
    SITE.recipient(transaction, "a@any.example", state=RecipientState.ACCEPTED)
    SITE.recipient(transaction, "a@smaller.example", state=RecipientState.REJECTED)
    assert await run(SITE.policy(Size), Stage.MESSAGE, transaction, message(b"x" * 100)) is None


async def test_a_domains_limit_holds_where_there_is_none_for_all() -> None:
    """``limit: 0`` is no limit for others."""
    transaction = SITE.transaction(parameters="SIZE=51")
    found = [
        await run(SITE.policy(Size, {"limit": 0}), Stage.RCPT, transaction, SITE.recipient(transaction, recipient))
        for recipient in ("a@small.example", "a@any.example")
    ]
    assert [finding and finding.evidence["limit"] for finding in found] == [50, None]
