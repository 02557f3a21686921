"""access: each list at its stage, what allow lifts, and names that the DNS does not give."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.policy import OnError
from gateway.session import Session
from gateway.testing import Site, run
from gateway.verdict import Action, Finding, Stage
from policies.access import Access

ZONE: dict[str, object] = {
    "192.0.2.1": {"PTR": ["mail.example.net"]},
    "mail.example.net": {"A": ["192.0.2.1"]},
    "192.0.2.2": {"PTR": ["forged.example.net"]},
    "forged.example.net": {"A": ["192.0.2.99"]},
    "192.0.2.3": "SERVFAIL",
    "192.0.2.4": {"PTR": "TIMEOUT"},
}
SITE = Site(domains=["example.com"], zone=ZONE)


async def _stages(
    options: dict[str, object],
    client_address: str = "192.0.2.1",
    helo_name: str = "client.example",
    mail_from: str = "alice@example.org",
    rcpt_to: str = "bob@example.com",
) -> tuple[dict[Stage, Finding], Session]:
    """What is found at each stage of one session, and the session."""
    policy = SITE.policy(Access, options)
    session = SITE.session(client_address, helo_name=None)
    findings = {Stage.CONNECT: await run(policy, Stage.CONNECT, session)}
    session.helo_name = helo_name
    findings[Stage.HELO] = await run(policy, Stage.HELO, session)
    transaction = SITE.transaction(mail_from, session=session)
    findings[Stage.MAIL] = await run(policy, Stage.MAIL, transaction)
    recipient = SITE.recipient(transaction, rcpt_to)
    findings[Stage.RCPT] = await run(policy, Stage.RCPT, transaction, recipient)
    return {stage: finding for stage, finding in findings.items() if finding is not None}, session


EACH = [
    ("clients", "192.0.2.0/24", Stage.CONNECT, "192.0.2.0/24"),
    ("client_names", ".example.net", Stage.CONNECT, ".example.net"),
    ("helo_names", "CLIENT.example", Stage.HELO, "client.example"),
    ("senders", "example.org", Stage.MAIL, "@example.org"),
    ("recipients", "bob@example.com", Stage.RCPT, "bob@example.com"),
]


@pytest.mark.parametrize(("name", "entry", "stage", "found"), EACH)
async def test_each_deny_list_refuses_at_its_stage(name: str, entry: str, stage: Stage, found: str) -> None:
    """A match in a deny list refuses at the stage of the list, and only there; the record names list and entry."""
    findings, _ = await _stages({"deny": {name: [entry]}})
    assert list(findings) == [stage]
    finding = findings[stage]
    assert finding.outcome is Access.denied
    assert finding.outcome.action is Action.REJECT
    assert str(finding.reply) == "554 5.7.1 Access denied"
    assert finding.evidence == {"list": name, "entry": found}


ORDER = [name for name, *_ in EACH]


@pytest.mark.parametrize(("deny", "deny_entry", "stage", "found"), EACH)
@pytest.mark.parametrize(("allow", "allow_entry", "allow_stage", "allow_found"), EACH)
async def test_allow_lifts_deny_of_its_own_and_later_stages(
    deny: str,
    deny_entry: str,
    stage: Stage,
    found: str,
    allow: str,
    allow_entry: str,
    allow_stage: Stage,
    allow_found: str,
) -> None:
    """An allow list lifts the deny lists of its stage and of later ones, and those of earlier ones not."""
    findings, _ = await _stages({"deny": {deny: [deny_entry]}, "allow": {allow: [allow_entry]}})
    order = [Stage.CONNECT, Stage.HELO, Stage.MAIL, Stage.RCPT]
    if order.index(allow_stage) > order.index(stage):
        assert findings[stage].outcome is Access.denied
    elif (deny, allow) == ("client_names", "clients"):
        assert findings == {}  # the name is not even asked for
    else:
        assert findings[stage].outcome is Access.allowed
        assert findings[stage].outcome.action is Action.PASS
        assert findings[stage].evidence == {
            "list": deny, "entry": found, "allow_list": allow, "allow_entry": allow_found,
        }  # fmt: skip


async def test_an_allow_list_that_does_not_match_lifts_nothing() -> None:
    """Allow lists with other entries change nothing."""
    other: dict[str, object] = {
        "clients": ["198.51.100.0/24"],
        "client_names": [".example.org"],
        "helo_names": ["other.example"],
        "senders": ["<>"],
        "recipients": ["other@"],
    }
    findings, _ = await _stages({"deny": {"recipients": ["example.com"]}, "allow": other})
    assert findings[Stage.RCPT].outcome is Access.denied


async def test_the_null_reverse_path_can_be_denied() -> None:
    """``<>`` in a list of senders is the null reverse-path."""
    assert Stage.MAIL in (await _stages({"deny": {"senders": ["<>"]}}, mail_from=""))[0]
    assert (await _stages({"deny": {"senders": ["<>"]}}))[0] == {}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deny": {"clients": ["198.51.100.1"]}, "allow": {"client_names": [".example.net"]}},
        {"deny": {"client_names": [".example.net"]}, "allow": {"clients": ["192.0.2.1"]}},
        {"deny": {"clients": ["192.0.2.1"]}, "allow": {"clients": ["192.0.2.0/24"], "client_names": [".example.net"]}},
    ],
)
async def test_the_name_is_asked_for_only_when_it_can_decide(options: dict[str, object]) -> None:
    """No DNS question is asked when no list of names can change the result."""
    _, session = await _stages(options)
    assert session.client_name is None


@pytest.mark.parametrize("client_address", ["192.0.2.2", "192.0.2.9"])
async def test_an_unconfirmed_name_matches_nothing(client_address: str) -> None:
    """A name that its own address records do not confirm counts for nothing, nor does none at all."""
    findings, _ = await _stages({"deny": {"client_names": [".example.net"]}}, client_address)
    assert findings == {}
    options: dict[str, object] = {"deny": {"clients": ["192.0.2.0/24"]}, "allow": {"client_names": [".example.net"]}}
    findings, _ = await _stages(options, client_address)
    assert findings[Stage.CONNECT].outcome is Access.denied


@pytest.mark.parametrize("client_address", ["192.0.2.3", "192.0.2.4"])
async def test_a_dns_fault_never_refuses_for_good(client_address: str) -> None:
    """Without an answer a denial that the name may lift is deferred, and a deny list of names is not applied."""
    findings, _ = await _stages({"deny": {"client_names": [".example.net"]}}, client_address)
    assert [finding.outcome for finding in findings.values()] == [Access.skipped]
    assert Access.skipped.action is Action.PASS
    options: dict[str, object] = {"deny": {"senders": ["example.org"]}, "allow": {"client_names": [".example.net"]}}
    findings, _ = await _stages(options, client_address)
    assert findings[Stage.MAIL].outcome is Access.unverifiable
    assert Access.unverifiable.action is Action.DEFER
    assert findings[Stage.MAIL].reply.is_transient
    assert Access.on_error is OnError.DEFER


async def test_lists_come_from_files_too(tmp_path: Path) -> None:
    """A list may be a file, relative to the configuration's folder."""
    (tmp_path / "bad.txt").write_text("192.0.2.0/24\n")
    site = Site(folder=tmp_path)
    policy = site.policy(Access, {"deny": {"clients": {"file": "bad.txt"}}})
    assert await run(policy, Stage.CONNECT, site.session("192.0.2.7")) is not None
    with pytest.raises(ValidationError, match=r"can't read .*missing.txt"):
        site.policy(Access, {"deny": {"clients": {"file": "missing.txt"}}})
