"""rate_limit: what is counted, by whom, at which stage, and what the sender is told."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.mailauth.results import DkimResult, DkimSignature, Spf, SpfCheck, SpfResult
from gateway.session import RecipientState, Transaction
from gateway.state import Kind
from gateway.subjects import ORDER, Key
from gateway.testing import Site, domain, message, run
from gateway.verdict import Action, Stage
from policies.rate_limit import COUNTED_AT, LOOKED_AT, Count, RateLimit, RateLimitOptions

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
    transaction.authentication.spf = Spf(mail_from=SpfCheck(result=SpfResult.PASS, domain="spf.example"))
    assert await mail(at.policy(RateLimit, {"key": key, "limit": "5/h"}), transaction) == "within"
    assert await subjects(at) == {subject: 1.0}


@pytest.mark.parametrize("key", ["login", "spf_domain", "client_name", "client_domain", ["client_address", "login"]])
async def test_what_is_not_there_is_not_counted(key: str | list[str]) -> None:
    """Without a login, a pass of SPF or a name there is nothing to count by."""
    at = site()
    transaction = envelope(at, address="198.51.100.1")
    transaction.authentication.spf = Spf(mail_from=SpfCheck(result=SpfResult.FAIL, domain="spf.example"))
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
        ({"count": "attempts", "key": ["login", "recipient_domain"]}, ["rcpt"]),
        ({"count": "recipients", "key": ["dkim_domain", "client_address"]}, ["message"]),
    ],
)
def test_it_runs_where_what_it_counts_has_come(options: dict[str, Any], stages: list[str]) -> None:
    """At other stages it leaves no check, and costs nothing."""
    made = RateLimitOptions.model_validate({"limit": "1/h", **options})
    assert [stage.value for stage in Stage if stage in RateLimit.stages(made)] == stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"count": "connections", "key": "helo_name"},
            "connections are counted by client_address, client_name or client_domain",
        ),
        ({"count": "refusals"}, r"write 'refusals: \{limit: \.\.\.\}' in place of"),
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


@pytest.mark.parametrize("names", [("alice", "bob"), ("bob", "alice")])
async def test_of_several_who_are_counted_the_one_without_room_speaks(names: tuple[str, str]) -> None:
    """Whichever comes first: the message is too much for one of its recipients."""
    at = site()
    policy = at.policy(RateLimit, {"count": "bytes", "key": "recipient", "limit": "100/h"})
    octets = b"Subject: x\r\n\r\n" + b"x" * 60 + b"\r\n"
    for recipients, outcome in (
        (["alice"], RateLimit.within),
        (names, RateLimit.exceeded),
        (["bob"], RateLimit.within),
    ):
        transaction = envelope(at)
        for name in recipients:
            at.recipient(transaction, f"{name}@example.com", state=RecipientState.ACCEPTED)
        finding = await run(policy, Stage.MESSAGE, transaction, message(octets))
        assert finding is not None
        assert finding.outcome is outcome
        assert finding.evidence["key"] == f"recipient={'bob' if list(recipients) == ['bob'] else 'alice'}@example.com"


async def test_messages_are_counted_by_the_domain_that_signed() -> None:
    """The first signature that passes names the domain; where none does nothing is counted."""
    at = site()
    policy = at.policy(RateLimit, {"key": "dkim_domain", "limit": "1/h"})
    transaction = envelope(at)
    transaction.authentication.dkim = (
        DkimSignature(result=DkimResult.FAIL, domain="forged.example"),
        DkimSignature(result=DkimResult.PASS, domain="signed.example"),
    )
    assert await run(policy, Stage.MESSAGE, transaction, message(b"A: b\r\n\r\n")) is not None
    assert await subjects(at) == {"dkim_domain=signed.example": 1.0}
    transaction.authentication.dkim = transaction.authentication.dkim[:1]
    assert await run(policy, Stage.MESSAGE, transaction, message(b"A: b\r\n\r\n")) is None


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
    """Not at RCPT, and not with the octets of a message."""
    at = site()
    options = {"limit": "1/h", "key": "recipient", "allow_recipients": ["postmaster@"]}
    transaction = envelope(at)
    postmaster = at.recipient(transaction, "postmaster@example.com", state=RecipientState.ACCEPTED)
    for count in ("recipients", "bytes", "attempts"):
        policy = at.policy(RateLimit, {**options, "count": count})
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


@pytest.mark.parametrize(("count", "key"), list(COUNTED_AT))
def test_nothing_is_counted_before_it_has_come_and_its_key_is_known(count: Count, key: Key) -> None:
    """Each stage of the table is one at which the policy has a hook, none before the key, and looks before counts."""
    counted_at, looked_at = COUNTED_AT[count, key], LOOKED_AT[count, key]
    if counted_at is None:
        assert looked_at is None
        return
    assert counted_at in RateLimit.hooks()
    for stage in filter(None, (counted_at, looked_at)):
        assert ORDER.index(stage) >= ORDER.index(key.known_at)
    assert looked_at is None or ORDER.index(looked_at) < ORDER.index(counted_at)


def test_the_table_is_whole() -> None:
    """Every count has a stage, or none, for every key."""
    assert set(COUNTED_AT) == set(LOOKED_AT) == {(count, key) for count in Count for key in Key}


@pytest.mark.parametrize(
    ("options", "one", "other", "together"),
    [
        ({}, "alice+news@example.net", "Alice+spam@example.net", True),
        ({}, "alice+news@example.net", "alice@example.net", True),
        ({}, "+news@example.net", "+spam@example.net", False),
        ({}, "alice-news@example.net", "alice@example.net", False),
        ({"subaddress": "-"}, "alice-news@example.net", "alice@example.net", True),
        ({"subaddress": ""}, "alice+news@example.net", "alice@example.net", False),
    ],
)
async def test_a_senders_detail_is_no_other_sender(
    options: dict[str, str], one: str, other: str, *, together: bool
) -> None:
    """Senders count without the detail of a subaddress, unless it is set otherwise."""
    at = site()
    policy = at.policy(RateLimit, {"key": "reverse_path", "limit": "1/h", **options})
    assert await mail(policy, envelope(at, one)) == "within"
    assert await mail(policy, envelope(at, other)) == ("exceeded" if together else "within")


@pytest.mark.parametrize(
    ("options", "one", "other", "together"),
    [
        ({}, "bob+a@plus.example", "bob+b@plus.example", True),
        ({}, "bob-a@plus.example", "bob-b@plus.example", False),
        ({}, "bob-a@minus.example", "bob@minus.example", True),
        ({}, "bob+a@example.com", "bob+b@example.com", False),
        ({}, "bob+a@elsewhere.example", "bob@elsewhere.example", True),
        ({"subaddress": "="}, "bob=a@elsewhere.example", "bob@elsewhere.example", True),
        ({"subaddress": "="}, "bob+a@plus.example", "bob@plus.example", True),
        ({"subaddress": ""}, "bob+a@plus.example", "bob@plus.example", False),
        ({"subaddress": ""}, "bob+a@elsewhere.example", "bob@elsewhere.example", False),
    ],
)
async def test_a_recipients_detail_is_no_other_recipient(
    options: dict[str, str], one: str, other: str, *, together: bool
) -> None:
    """Recipients of ours count by their domain's setting, others by the policy's; nothing is cut without one."""
    domains = [domain("plus.example", subaddress_separators="+"), domain("minus.example", subaddress_separators="-")]
    at = Site(domains=[*domains, "example.com"])
    policy = at.policy(RateLimit, {"key": "recipient", "limit": "1/h", **options})
    transaction = envelope(at)
    found = [await run(policy, Stage.RCPT, transaction, at.recipient(transaction, text)) for text in (one, other)]
    outcomes = [finding.outcome.name for finding in found if finding is not None]
    assert outcomes == ["within", "exceeded" if together else "within"]
