"""rate_limit: what is counted, by whom, at which stage, and what the sender is told."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.mailauth.results import DkimResult, DkimSignature, Spf, SpfCheck, SpfResult
from gateway.session import RecipientState, Transaction
from gateway.state import Kind
from gateway.testing import Site, message, run
from gateway.verdict import Action, Finding, Stage
from policies.rate_limit import RateLimit, RateLimitOptions

ZONE = {
    "1.2.0.192.in-addr.arpa": {"PTR": ["mail.big.example"]},
    "mail.big.example": {"A": ["192.0.2.1"]},
}


def site() -> Site:
    """A site of its own, with nothing counted."""
    return Site(domains=["example.com"], zone=ZONE)


def envelope(at: Site, sender: str = "alice@Example.net", **session: Any) -> Transaction:
    """A transaction of a client."""
    address = session.pop("address", "192.0.2.1")
    return at.transaction(sender, session=at.session(address, **session))


async def mail(policy: RateLimit, transaction: Transaction) -> str | None:
    """What the policy finds at MAIL."""
    finding = await run(policy, Stage.MAIL, transaction)
    return None if finding is None else finding.outcome.name


async def subjects(at: Site) -> dict[str, float]:
    """What is counted."""
    return {entry.subject: entry.level async for entry in at.context.state.entries(Kind.RATE)}


async def test_messages_over_the_limit_are_deferred_and_told_when_to_come_back() -> None:
    """The bucket takes its burst; the reply says in how many seconds there is room; the record how full it is."""
    at = site()
    policy = at.policy(RateLimit, {"limit": "100/h", "burst": 2})
    first = await run(policy, Stage.MAIL, envelope(at))
    assert first is not None
    assert first.outcome is RateLimit.within
    assert first.outcome.action is Action.PASS
    assert first.evidence == {
        "key": "client_address=192.0.2.1", "count": "messages", "level": 1.0, "burst": 2, "limit": "100/h",
    }  # fmt: skip
    assert await mail(policy, envelope(at)) == "within"
    refused = await run(policy, Stage.MAIL, envelope(at))
    assert refused is not None
    assert refused.outcome is RateLimit.exceeded
    assert str(refused.reply) == "450 4.7.1 Too many messages, try again in 36 seconds"
    assert refused.evidence["wait"] == 36
    at.clock.advance(35.9)
    assert await mail(policy, envelope(at)) == "exceeded"
    at.clock.advance(0.1)
    assert await mail(policy, envelope(at)) == "within"


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        ("client_address", "client_address=192.0.2.1"),
        ("client_name", "client_name=mail.big.example"),
        ("client_domain", "client_domain=big.example"),
        ("helo_name", "helo_name=helo.example"),
        ("login", "login=alice"),
        ("reverse_path", "reverse_path=alice@example.net"),
        ("reverse_path_domain", "reverse_path_domain=example.net"),
        ("spf_domain", "spf_domain=spf.example"),
        (["client_address", "helo_name"], "client_address=192.0.2.1,helo_name=helo.example"),
        (["reverse_path_domain", "client_address"], "reverse_path_domain=example.net,client_address=192.0.2.1"),
    ],
)
async def test_messages_are_counted_by_each_key(key: str | list[str], subject: str) -> None:
    """Each key names the part it is called after, in lower case."""
    at = site()
    transaction = envelope(at, "Alice@Example.net", helo_name="HELO.example", login="alice")
    transaction.spf = Spf(mail_from=SpfCheck(result=SpfResult.PASS, domain="spf.example"))
    assert await mail(at.policy(RateLimit, {"key": key, "limit": "5/h"}), transaction) == "within"
    assert await subjects(at) == {subject: 1.0}


@pytest.mark.parametrize("key", ["login", "spf_domain", "client_name", "client_domain", ["client_address", "login"]])
async def test_what_is_not_there_is_not_counted(key: str | list[str]) -> None:
    """Without a login, a pass of SPF or a name there is nothing to count by."""
    at = site()
    transaction = envelope(at, address="198.51.100.1")
    transaction.spf = Spf(mail_from=SpfCheck(result=SpfResult.FAIL, domain="spf.example"))
    assert await mail(at.policy(RateLimit, {"key": key, "limit": "1/h"}), transaction) is None
    assert await subjects(at) == {}


@pytest.mark.parametrize(
    ("one", "other", "options", "together"),
    [
        ("192.0.2.1", "192.0.2.2", {}, False),
        ("192.0.2.1", "192.0.2.2", {"ipv4_prefix": 24}, True),
        ("192.0.2.1", "192.0.3.1", {"ipv4_prefix": 24}, False),
        ("2001:db8::1", "2001:db8::ffff:1", {}, True),
        ("2001:db8::1", "2001:db8:0:1::1", {}, False),
        ("2001:db8::1", "2001:db8:0:1::1", {"ipv6_prefix": 48}, True),
    ],
)
async def test_clients_of_one_network_count_together(
    one: str, other: str, options: dict[str, int], *, together: bool
) -> None:
    """IPv4 clients count by themselves and IPv6 clients by their /64, unless the prefixes say otherwise."""
    at = site()
    policy = at.policy(RateLimit, {"limit": "1/h", **options})
    assert await mail(policy, envelope(at, address=one)) == "within"
    assert await mail(policy, envelope(at, address=other)) == ("exceeded" if together else "within")


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"count": "connections"}, ["connect"]),
        ({"count": "messages"}, ["mail"]),
        ({"count": "messages", "key": "recipient"}, ["rcpt"]),
        ({"count": "messages", "key": "dkim_domain"}, ["message"]),
        ({"count": "recipients"}, ["rcpt"]),
        ({"count": "bytes"}, ["mail", "message"]),
        ({"count": "bytes", "key": "recipient"}, ["rcpt", "message"]),
        ({"count": "bytes", "key": "dkim_domain"}, ["message"]),
        ({"count": "refusals"}, ["connect", "mail", "rcpt"]),
        ({"count": "refusals", "key": "helo_name"}, ["helo", "mail", "rcpt"]),
        ({"count": "refusals", "key": "reverse_path"}, ["mail", "rcpt"]),
    ],
)
def test_it_runs_where_what_it_counts_has_come(options: dict[str, Any], stages: list[str]) -> None:
    """At other stages it leaves no check, and costs nothing."""
    made = RateLimitOptions.model_validate({"limit": "1/h", **options})
    assert [stage.value for stage in Stage if stage in RateLimit.stages(made)] == stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "connections", "key": "helo_name"}, "connections are counted by"),
        ({"count": "refusals", "key": "dkim_domain"}, "refusals are not counted by dkim_domain"),
        ({"key": ["helo_name", "helo_name"]}, "names something twice"),
        ({"count": "bytes", "cost": 2}, "leave out 'cost'"),
        ({"limit": "many"}, "not a rate"),
        ({"burst": 0}, "greater than or equal to 1"),
    ],
)
def test_what_can_not_be_counted_is_no_configuration(options: dict[str, Any], message: str) -> None:
    """A limit that never held, or always, is told while the configuration is read."""
    with pytest.raises(ValidationError, match=message):
        RateLimitOptions.model_validate({"limit": "1/h", **options})


async def test_recipients_are_counted_one_by_one() -> None:
    """Each RCPT counts; the next transaction goes on where the last one ended."""
    at = site()
    policy = at.policy(RateLimit, {"count": "recipients", "limit": "3/h"})
    found: list[str] = []
    for _ in range(2):
        transaction = envelope(at)
        for _ in range(2):
            finding = await run(policy, Stage.RCPT, transaction, at.recipient(transaction, "bob@example.com"))
            assert finding is not None
            found.append(finding.outcome.name)
    assert found == ["within", "within", "within", "exceeded"]


async def test_messages_to_one_recipient_are_counted_by_recipient() -> None:
    """Cases of the local part do not tell recipients apart."""
    at = site()
    policy = at.policy(RateLimit, {"key": "recipient", "limit": "1/h"})
    transaction = envelope(at)
    found = [
        await run(policy, Stage.RCPT, transaction, at.recipient(transaction, address))
        for address in ("bob@example.com", "carol@example.com", "BOB@example.com")
    ]
    assert [finding and finding.outcome for finding in found] == [
        RateLimit.within, RateLimit.within, RateLimit.exceeded,
    ]  # fmt: skip


async def test_octets_are_counted_when_they_have_come_and_looked_at_before() -> None:
    """A message counts its size; when the bucket is full MAIL is deferred, before anything is sent."""
    at = site()
    policy = at.policy(RateLimit, {"count": "bytes", "limit": "1KB/h"})
    transaction = envelope(at)
    at.recipient(transaction, "bob@example.com", state=RecipientState.ACCEPTED)
    assert await mail(policy, transaction) == "within"
    found = await run(policy, Stage.MESSAGE, transaction, message(b"A: b\r\n\r\n" + b"x" * 992))
    assert found is not None
    assert (found.outcome, found.evidence["level"]) == (RateLimit.within, 1000.0)
    assert await mail(policy, envelope(at)) == "exceeded"
    again = await run(policy, Stage.MESSAGE, transaction, message(b"A: b\r\n\r\n"))
    assert again is not None
    assert again.outcome is RateLimit.exceeded


async def test_messages_are_counted_by_the_domain_that_signed() -> None:
    """The first signature that passes names the domain; where none does nothing is counted."""
    at = site()
    policy = at.policy(RateLimit, {"key": "dkim_domain", "limit": "1/h"})
    transaction = envelope(at)
    transaction.dkim = (
        DkimSignature(result=DkimResult.FAIL, domain="forged.example"),
        DkimSignature(result=DkimResult.PASS, domain="signed.example"),
    )
    assert await run(policy, Stage.MESSAGE, transaction, message(b"A: b\r\n\r\n")) is not None
    assert await subjects(at) == {"dkim_domain=signed.example": 1.0}
    transaction.dkim = transaction.dkim[:1]
    assert await run(policy, Stage.MESSAGE, transaction, message(b"A: b\r\n\r\n")) is None


async def test_those_who_try_out_addresses_are_put_off_until_the_hold_is_over() -> None:
    """Each refusal of another counts; then connect, MAIL and RCPT are deferred for the time of the hold."""
    at = site()
    policy = at.policy(RateLimit, {"count": "refusals", "limit": "10/h", "burst": 3, "hold": "2h"})
    transaction = envelope(at)
    recipient = at.recipient(transaction, "nobody@example.com")
    for by in (policy.id, "recipient", None, "relay"):
        assert await run(policy, Stage.CONNECT, transaction.session) is not None
        assert await mail(policy, transaction) == "within"
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
    assert await mail(policy, envelope(at, address="192.0.2.2")) == "within"
    at.clock.advance(7200)
    assert await mail(policy, transaction) == "within"


async def test_a_rcpt_without_a_refusal_in_the_session_is_not_looked_at_again() -> None:
    """MAIL has looked already, so a message with many good recipients costs no further question."""
    at = site()
    policy = at.policy(RateLimit, {"count": "refusals", "limit": "1/h"})
    transaction = envelope(at)
    assert await run(policy, Stage.RCPT, transaction, at.recipient(transaction, "bob@example.com")) is None


async def test_lists_of_clients_have_limits_of_their_own() -> None:
    """The first list that has the client holds; all others have the common limit."""
    at = site()
    limits = [{"clients": ["192.0.2.0/24"], "limit": "2/h"}, {"clients": ["192.0.0.0/16"], "limit": "9/h"}]
    policy = at.policy(RateLimit, {"limit": "1/h", "limits": limits})
    assert [await mail(policy, envelope(at)) for _ in range(3)] == ["within", "within", "exceeded"]
    assert [await mail(policy, envelope(at, address="198.51.100.1")) for _ in range(2)] == ["within", "exceeded"]


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ({"allow": ["192.0.2.0/24"]}, False),
        ({"allow": ["192.0.3.0/24"]}, True),
        ({"allow_names": [".big.example"]}, False),
        ({"allow_senders": ["@example.net"]}, False),
        ({"allow_senders": ["<>"]}, True),
    ],
)
async def test_who_is_allowed_is_not_counted(options: dict[str, Any], *, counted: bool) -> None:
    """Clients by address and name, and senders, can be left out."""
    at = site()
    found = await mail(at.policy(RateLimit, {"limit": "1/h", **options}), envelope(at))
    assert (found is not None) == counted


async def test_allowed_recipients_are_not_counted() -> None:
    """Not at RCPT, not when they are refused, and not with the octets of a message."""
    at = site()
    options = {"limit": "1/h", "key": "recipient", "allow_recipients": ["postmaster@"]}
    transaction = envelope(at)
    postmaster = at.recipient(transaction, "postmaster@example.com", state=RecipientState.ACCEPTED)
    for count in ("recipients", "bytes", "refusals"):
        policy = at.policy(RateLimit, {**options, "count": count})
        policy.on_refusal(transaction.session, transaction, postmaster, "recipient")
        assert await run(policy, Stage.RCPT, transaction, postmaster) is None
    assert await subjects(at) == {}


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
async def test_a_client_whose_name_might_be_allowed_is_put_off(fault: str) -> None:
    """A name that the DNS does not tell may be one of ``allow_names``: too much is then no refusal that one can set."""
    at = Site(zone={"1.2.0.192.in-addr.arpa": fault})
    policy = at.policy(RateLimit, {"limit": "1/h", "allow_names": [".partner.example"]})
    found = []
    for last in (1, 1, 2, 2):
        transaction = at.transaction("a@example.net", session=at.session(f"192.0.2.{last}"))
        found.append(await mail(policy, transaction))
    assert found == ["within", "unverifiable", "within", "exceeded"]
    assert RateLimit.unverifiable.action is Action.DEFER
