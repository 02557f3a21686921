"""relay: whose recipients are ours, who may relay, and every trick to get round it."""

import pytest

from gateway.policy import OnError
from gateway.session import Transaction
from gateway.testing import Site, domain, run
from gateway.verdict import Action, Stage
from policies.relay import Relay

SITE = Site(domains=["example.com", domain("[192.0.2.25]")])


def _from(client_address: str = "203.0.113.1", login: str | None = None) -> Transaction:
    return SITE.transaction(session=SITE.session(client_address, login=login))


OURS = [
    "bob@example.com",
    "BOB@EXAMPLE.COM",
    "postmaster",
    "PostMaster",
    "bob@[192.0.2.25]",
    '"bob smith"@example.com',
    "a+b@example.com",
]
TRICKS = [
    ("bob@example.org", "foreign_domain"),
    ("postmaster@example.org", "foreign_domain"),
    ("bob@sub.example.com", "foreign_domain"),
    ("bob@example.com.example.org", "foreign_domain"),
    ("bob@[192.0.2.26]", "address_literal"),
    ("bob@[IPv6:2001:db8::1]", "address_literal"),
    ("@example.com:bob@example.org", "foreign_domain"),
    ("@example.com,@mx.example.com:bob@example.org", "foreign_domain"),
    ("bob%example.org@example.com", "percent_hack"),
    ("bob%example.org%example.net@example.com", "percent_hack"),
    ('"bob%example.org"@example.com', "percent_hack"),
    ("bob%example.org@[192.0.2.25]", "percent_hack"),
    ("example.org!bob@example.com", "bang_path"),
    ('"example.org!bob"@example.com', "bang_path"),
    ('"bob@example.org"@example.com', "quoted_at"),
    ('"bob\\@example.org"@example.com', "quoted_at"),
    ('"@example.org:bob"@example.com', "quoted_at"),
    ("@example.org:bob%example.org@example.com", "percent_hack"),
]


@pytest.mark.parametrize("address", OURS)
async def test_recipients_of_our_domains_pass(address: str) -> None:
    """Whoever sends, an address of our domains is taken, and postmaster without a domain is ours."""
    transaction = _from()
    assert await run(SITE.policy(Relay), Stage.RCPT, transaction, SITE.recipient(transaction, address)) is None


@pytest.mark.parametrize(("address", "reason"), TRICKS)
async def test_every_trick_is_refused_to_strangers(address: str, reason: str) -> None:
    """A recipient elsewhere is refused however it is written, and the record says which trick it was."""
    transaction = _from()
    recipient = SITE.recipient(transaction, address)
    finding = await run(SITE.policy(Relay), Stage.RCPT, transaction, recipient)
    assert finding is not None
    assert finding.outcome is Relay.denied
    assert finding.evidence == {
        "reason": reason,
        "domain": recipient.path.domain,
        "source_route": list(recipient.path.source_route),
    }


@pytest.mark.parametrize("address", [address for address, _ in TRICKS])
@pytest.mark.parametrize(("client_address", "login"), [("198.51.100.7", None), ("203.0.113.1", "alice")])
async def test_trusted_and_authenticated_clients_may_relay(
    address: str, client_address: str, login: str | None
) -> None:
    """A client of a trusted network, or one that has authenticated, may send anywhere."""
    policy = SITE.policy(Relay, {"trusted": ["198.51.100.0/24"]})
    transaction = _from(client_address, login)
    finding = await run(policy, Stage.RCPT, transaction, SITE.recipient(transaction, address))
    assert finding is None or finding.outcome is Relay.source_route


@pytest.mark.parametrize("login", ["", "alice"])
async def test_an_empty_login_is_a_login(login: str) -> None:
    """What counts is that the client authenticated, not whether its name is empty."""
    transaction = _from(login=login)
    assert await run(SITE.policy(Relay), Stage.RCPT, transaction, SITE.recipient(transaction, "b@example.org")) is None


@pytest.mark.parametrize(("address", "reason"), TRICKS)
async def test_untrusted_routing_accept_lets_local_parts_of_ours_be(address: str, reason: str) -> None:
    """With untrusted_routing accept, %, ! and a quoted @ are allowed in our domains, and nothing else is."""
    transaction = _from()
    policy = SITE.policy(Relay, {"untrusted_routing": "accept"})
    finding = await run(policy, Stage.RCPT, transaction, SITE.recipient(transaction, address))
    still = reason in {"foreign_domain", "address_literal"}
    assert (finding is not None and finding.outcome is Relay.denied) == still


async def test_a_source_route_to_us_is_ignored_and_recorded() -> None:
    """An address of ours behind a source route is taken, and the record shows the route."""
    transaction = _from()
    recipient = SITE.recipient(transaction, "@example.org,@example.net:bob@example.com")
    finding = await run(SITE.policy(Relay), Stage.RCPT, transaction, recipient)
    assert finding is not None
    assert finding.outcome is Relay.source_route
    assert finding.outcome.action is Action.PASS
    assert finding.evidence == {"hosts": ["example.org", "example.net"]}


async def test_an_empty_domain_is_ours_for_postmaster_only() -> None:
    """Should a path without a domain ever come, only postmaster's is ours."""
    transaction = _from()
    recipient = SITE.recipient(transaction, "postmaster")
    recipient.path = type(recipient.path)("bob", "bob", "")
    finding = await run(SITE.policy(Relay), Stage.RCPT, transaction, recipient)
    assert finding is not None
    assert finding.evidence["reason"] == "no_domain"


def test_relay_says_what_a_mail_server_says() -> None:
    """The reply is the one that every sender knows, and a failure of the policy never relays."""
    assert Relay.denied.action is Action.REJECT
    assert str(Relay.denied.reply) == "554 5.7.1 Relay access denied"
    assert Relay.on_error is OnError.DEFER
