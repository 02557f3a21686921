"""sender_domain: which domains exist and take mail, and what the DNS not answering comes to."""

import pytest

from gateway.policy import OnError
from gateway.session import Transaction
from gateway.testing import Site, run
from gateway.verdict import Action, Finding, Stage
from policies.sender_domain import SenderDomain
from tests.support.dns_zone import ColdZone, SilentZone

GOOD = "8.8.8.8"
ZONE: dict[str, object] = {
    "mx.example": {"MX": ["10 mail.mx.example", "20 other.mx.example"]},
    "mail.mx.example": {"A": "127.0.0.1"},
    "other.mx.example": {"A": GOOD},
    "a.example": {"A": GOOD},
    "aaaa.example": {"AAAA": "2001:4860:4860::8888"},
    "null.example": {"MX": "0 ."},
    "text.example": {"TXT": "nothing else"},
    "null-and-more.example": {"MX": ["0 .", "10 other.mx.example"]},
    "servfail.example": "SERVFAIL",
    "timeout.example": "TIMEOUT",
    "half.example": {"MX": "TIMEOUT", "A": GOOD},
    "half6.example": {"MX": "SERVFAIL", "AAAA": "2001:4860:4860::8888"},
    "no-a.example": {"TXT": "x", "A": "SERVFAIL"},
    "no-aaaa.example": {"TXT": "x", "AAAA": "TIMEOUT"},
    "nx-mx-a.example": {"MX": "NXDOMAIN", "A": GOOD},
    "nx-mx-aaaa.example": {"MX": "NXDOMAIN", "A": "NXDOMAIN", "AAAA": "2001:4860:4860::8888"},
    "nx-mx-text.example": {"MX": "NXDOMAIN", "TXT": "x"},
    "nx-mx-servfail.example": {"MX": "NXDOMAIN", "A": "NXDOMAIN", "AAAA": "SERVFAIL"},
    "nx-a-servfail.example": {"MX": "TIMEOUT", "A": "NXDOMAIN", "AAAA": "NXDOMAIN"},
    "local-a.example": {"A": "127.0.0.1"},
    "dead-mx.example": {"MX": "10 gone.example"},
    "address-mx.example": {"MX": "10 192.0.2.1"},
    "unsure-mx.example": {"MX": ["10 gone.example", "20 servfail.example"]},
    **{f"bogus{number}.example": {"MX": f"10 host{number}.example"} for number in range(10)},
    **{
        f"host{number}.example": {"AAAA" if ":" in address else "A": address}
        for number, address in enumerate(
            "127.0.0.1 0.0.0.0 10.0.0.1 169.254.0.1 224.0.0.5 240.0.0.1 ::1 fe80::1 ::ffff:10.0.0.1 ff02::1".split()  # noqa: SIM905 - shorter
        )
    },
    "nine-bad.example": {"MX": [f"{number} gone{number}.example" for number in range(9)] + ["9 other.mx.example"]},
    "ten-bad.example": {"MX": [f"{number} gone{number}.example" for number in range(10)] + ["10 other.mx.example"]},
}
SITE = Site(zone=ZONE)


def _mail(sender: str, client: str = "192.0.2.1", login: str | None = None) -> Transaction:
    return SITE.transaction(sender, session=SITE.session(client, login=login))


async def _find(transaction: Transaction, options: dict[str, object] | None = None) -> Finding | None:
    return await run(SITE.policy(SenderDomain, options), Stage.MAIL, transaction)


@pytest.mark.parametrize(
    ("domain", "outcome"),
    [
        ("mx.example", None),
        ("MX.Example", None),
        ("a.example", None),
        ("aaaa.example", None),
        ("half.example", None),
        ("half6.example", None),
        ("local-a.example", None),
        ("dead-mx.example", None),
        ("null-and-more.example", None),
        ("gone.example", SenderDomain.unknown),
        ("nx-mx-a.example", None),
        ("nx-mx-aaaa.example", None),
        ("nx-mx-text.example", SenderDomain.unreachable),
        ("nx-mx-servfail.example", SenderDomain.unverifiable),
        ("nx-a-servfail.example", SenderDomain.unverifiable),
        ("localhost", SenderDomain.unknown),
        ("null.example", SenderDomain.no_mail),
        ("text.example", SenderDomain.unreachable),
        ("servfail.example", SenderDomain.unverifiable),
        ("timeout.example", SenderDomain.unverifiable),
        ("no-a.example", SenderDomain.unverifiable),
        ("no-aaaa.example", SenderDomain.unverifiable),
        ("[192.0.2.1]", SenderDomain.literal),
        ("[IPv6:2001:db8::1]", SenderDomain.literal),
    ],
)
async def test_each_state_of_a_domain_is_an_outcome(domain: str, outcome: object) -> None:
    """A domain passes when mail to it has somewhere to go; every way in which it has not is told apart."""
    finding = await _find(_mail(f"a@{domain}"))
    assert (finding and finding.outcome) is outcome
    if finding is not None:
        assert str(finding.evidence["domain"]) == domain.lower()


@pytest.mark.parametrize(
    ("domain", "outcome"),
    [
        ("mx.example", None),
        ("a.example", None),
        ("nine-bad.example", None),
        ("ten-bad.example", SenderDomain.bogus_mx),
        ("dead-mx.example", SenderDomain.bogus_mx),
        ("address-mx.example", SenderDomain.bogus_mx),
        ("local-a.example", SenderDomain.bogus_mx),
        ("unsure-mx.example", SenderDomain.unverifiable),
        *((f"bogus{number}.example", SenderDomain.bogus_mx) for number in range(10)),
    ],
)
async def test_mx_hosts_are_looked_at_where_wanted(domain: str, outcome: object) -> None:
    """One host with an address of the Internet is enough; a fault of the DNS is no bad host."""
    finding = await _find(_mail(f"a@{domain}"), {"mx_hosts": True})
    assert (finding and finding.outcome) is outcome
    if finding is not None and outcome is SenderDomain.bogus_mx:
        assert finding.evidence["hosts"]


@pytest.mark.parametrize(
    ("sender", "client", "login", "options"),
    [
        ("", "192.0.2.1", None, {}),
        ("a@gone.example", "192.0.2.1", "alice", {}),
        ("a@gone.example", "192.0.2.1", None, {"trusted": ["192.0.2.0/24"]}),
        ("a@gone.example", "192.0.2.1", None, {"ignore": ["gone.example"]}),
        ("a@x.gone.example", "192.0.2.1", None, {"ignore": [".gone.example"]}),
    ],
)
async def test_some_are_not_looked_at(sender: str, client: str, login: str | None, options: dict[str, object]) -> None:
    """The null reverse-path, clients of ours and exempted domains ask nothing of the DNS."""
    transaction = _mail(sender, client, login)
    transaction.session.resolver = SilentZone()
    assert await _find(transaction, options) is None


@pytest.mark.parametrize(
    ("domain", "rounds"),
    [
        ("mx.example", [{"mx.example MX"}]),
        ("gone.example", [{"gone.example MX"}, {"gone.example A", "gone.example AAAA"}]),
        ("a.example", [{"a.example MX"}, {"a.example A", "a.example AAAA"}]),
    ],
)
async def test_no_more_is_asked_than_is_needed(domain: str, rounds: list[set[str]]) -> None:
    """Most domains take one question; both kinds of addresses are asked for at the same time."""
    transaction = _mail(f"a@{domain}")
    zone = transaction.session.resolver = ColdZone(ZONE)
    await _find(transaction)
    assert zone.rounds == rounds


def test_the_replies_are_those_of_the_rfcs() -> None:
    """RFC 3463 X.1.8 for a bad domain, RFC 7505 4.2 for a null MX; a fault defers."""
    assert str(SenderDomain.unknown.reply).startswith("550 5.1.8 ")
    assert str(SenderDomain.no_mail.reply).startswith("550 5.7.27 ")
    assert SenderDomain.unverifiable.action is Action.DEFER
    assert SenderDomain.bogus_mx.action is Action.DEFER
    assert SenderDomain.literal.action is Action.PASS
    assert SenderDomain.on_error is OnError.PASS


async def test_of_many_mail_hosts_the_best_are_looked_at() -> None:
    """Those of the lowest preferences, wherever they stand in the answer."""
    hosts = {f"h{number}.many.example": {"A": ["10.0.0.1"]} for number in range(10)}
    records = [*(f"20 {host}" for host in hosts), "10 best.many.example"]
    site = Site(zone={"many.example": {"MX": records}, "best.many.example": {"A": ["203.0.114.1"]}, **hosts})
    policy = site.policy(SenderDomain, {"mx_hosts": True})
    assert await run(policy, Stage.MAIL, site.transaction("a@many.example")) is None
