"""concurrency: connections of a client at a time."""

import pytest

from gateway.testing import Site, run
from gateway.verdict import Action, Stage
from policies.concurrency import Concurrency


async def test_a_connection_too_many_is_ended_and_one_that_ends_makes_room() -> None:
    """Two are in; the third is told to come again; when one has left the next may come."""
    site = Site()
    policy = site.policy(Concurrency, {"limit": 2})
    sessions = [site.session("192.0.2.1") for _ in range(3)]
    found = [await run(policy, Stage.CONNECT, session) for session in sessions]
    assert [finding and finding.outcome for finding in found] == [
        Concurrency.within, Concurrency.within, Concurrency.exceeded,
    ]  # fmt: skip
    assert found[2] is not None
    assert found[2].outcome.action is Action.DISCONNECT
    assert found[2].evidence == {"key": "client_address=192.0.2.1", "connections": 2, "limit": 2}
    await run(policy, Stage.CLOSE, sessions[2])
    again = await run(policy, Stage.CONNECT, site.session("192.0.2.1"))
    assert again is not None
    assert again.outcome is Concurrency.exceeded
    await run(policy, Stage.CLOSE, sessions[0])
    third = await run(policy, Stage.CONNECT, site.session("192.0.2.1"))
    assert third is not None
    assert third.outcome is Concurrency.within


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"allow": ["192.0.2.0/24"]}, [None, None]),
        ({"limits": [{"clients": ["192.0.2.1"], "limit": 2}]}, ["within", "within"]),
        ({"limits": [{"clients": ["192.0.2.2"], "limit": 2}]}, ["within", "exceeded"]),
        ({"key": "client_name"}, [None, None]),
    ],
)
async def test_lists_of_clients_have_limits_of_their_own(options: dict[str, object], found: list[str | None]) -> None:
    """Some clients are not counted, some have another limit; without the key's part there is nothing to count."""
    site = Site()
    policy = site.policy(Concurrency, {"limit": 1, **options})
    findings = [await run(policy, Stage.CONNECT, site.session("192.0.2.1")) for _ in range(2)]
    assert [finding and finding.outcome.name for finding in findings] == found


async def test_clients_of_a_name_are_counted_together() -> None:
    """Addresses of one host count by its confirmed name."""
    zone = {"mail.example": {"A": ["192.0.2.1", "192.0.2.2"]}}
    zone |= {f"{last}.2.0.192.in-addr.arpa": {"PTR": ["mail.example"]} for last in (1, 2)}
    site = Site(zone=zone)
    policy = site.policy(Concurrency, {"limit": 1, "key": "client_name"})
    findings = [await run(policy, Stage.CONNECT, site.session(f"192.0.2.{last}")) for last in (1, 2)]
    assert [finding and finding.outcome.name for finding in findings] == ["within", "exceeded"]


async def test_clients_of_an_organization_are_counted_together() -> None:
    """A host called as the organization itself is one of its hosts, and shares nothing with others below ``co.uk``."""
    names = {1: "example.co.uk", 2: "mail.example.co.uk", 3: "other.co.uk"}
    zone = {name: {"A": [f"192.0.2.{last}"]} for last, name in names.items()}
    zone |= {f"{last}.2.0.192.in-addr.arpa": {"PTR": [name]} for last, name in names.items()}
    site = Site(zone=zone)
    policy = site.policy(Concurrency, {"limit": 1, "key": "client_domain"})
    findings = [await run(policy, Stage.CONNECT, site.session(f"192.0.2.{last}")) for last in names]
    assert [(finding.outcome.name, finding.evidence["key"]) for finding in findings if finding] == [
        ("within", "client_domain=example.co.uk"),
        ("exceeded", "client_domain=example.co.uk"),
        ("within", "client_domain=other.co.uk"),
    ]


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
async def test_a_client_whose_name_might_be_allowed_is_put_off(fault: str) -> None:
    """A name that the DNS does not tell may be one of ``allow_names``: too many is then no refusal that one can set."""
    site = Site(zone={"1.2.0.192.in-addr.arpa": fault})
    policy = site.policy(Concurrency, {"limit": 1, "allow_names": [".partner.example"]})
    findings = [await run(policy, Stage.CONNECT, site.session(f"192.0.2.{last}")) for last in (1, 1, 2, 2)]
    assert [finding and finding.outcome for finding in findings] == [
        Concurrency.within, Concurrency.unverifiable, Concurrency.within, Concurrency.exceeded,
    ]  # fmt: skip
    assert Concurrency.unverifiable.action is Action.DEFER


async def test_clients_whose_names_are_allowed_are_not_counted() -> None:
    """Others are."""
    zone = {
        "1.2.0.192.in-addr.arpa": {"PTR": ["mail.partner.example"]},
        "2.2.0.192.in-addr.arpa": {"PTR": ["mail.other.example"]},
        "mail.partner.example": {"A": ["192.0.2.1"]},
        "mail.other.example": {"A": ["192.0.2.2"]},
    }
    site = Site(zone=zone)
    policy = site.policy(Concurrency, {"limit": 1, "allow_names": [".partner.example"]})
    found = []
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
        session = site.session(address)
        await session.resolve_client_name()
        found.append(await run(policy, Stage.CONNECT, session))
    assert [finding and finding.outcome for finding in found] == [
        None, None, Concurrency.within, Concurrency.exceeded,
    ]  # fmt: skip
