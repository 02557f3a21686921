"""greylist: who has to wait, for how long, and who is known."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.mailauth.results import DkimResult, DkimSignature, Spf, SpfCheck, SpfResult
from gateway.session import RecipientState, Transaction
from gateway.testing import Site, domain, message, run
from gateway.verdict import Action, Finding, Stage
from policies.greylist import Greylist, GreylistOptions

EMPTY = message(b"A: b\r\n\r\n")


async def rcpt(
    site: Site, policy: Greylist, sender: str = "alice@example.net", to: str = "bob@example.com", **session: Any
) -> Finding | None:
    """What the policy finds of a triplet."""
    address = session.pop("address", "192.0.2.1")
    spf = session.pop("spf", None)
    transaction = site.transaction(sender, session=site.session(address, **session))
    if spf is not None:
        transaction.authentication.spf = Spf(mail_from=SpfCheck(result=spf, domain="big.example"))
    return await run(policy, Stage.RCPT, transaction, site.recipient(transaction, to))


def word(finding: Finding | None) -> str | None:
    """What is known of the triplet."""
    return None if finding is None else str(finding.evidence["status"])


async def test_a_new_triplet_is_put_off_and_told_when_to_come_back() -> None:
    """450 with the seconds that are left; after them it passes, and the record shows what was waited."""
    site = Site()
    policy = site.policy(Greylist)
    first = await rcpt(site, policy)
    assert first is not None
    assert first.outcome is Greylist.greylisted
    assert first.outcome.action is Action.DEFER
    assert str(first.reply) == "450 4.7.1 Greylisted, try again in 300 seconds"
    assert first.evidence == {
        "client": "client_address=192.0.2.0/24", "status": "new", "client_passes": 0, "waited": 0, "wait": 300,
    }  # fmt: skip
    site.clock.advance(299.5)
    early = await rcpt(site, policy)
    assert early is not None
    assert (word(early), early.evidence["wait"]) == ("early", 1)
    site.clock.advance(0.5)
    passed = await rcpt(site, policy)
    assert passed is not None
    assert (passed.outcome, word(passed), passed.evidence["waited"]) == (Greylist.known, "passed", 300)
    site.clock.advance(86_400 * 34)
    assert word(await rcpt(site, policy)) == "known"


@pytest.mark.parametrize(
    ("again", "known"),
    [
        ({"address": "192.0.2.99"}, True),
        ({"address": "192.0.3.1"}, False),
        ({"sender": "ALICE@example.NET"}, True),
        ({"sender": "alice+4711@example.net"}, True),
        ({"sender": "bob@example.net"}, False),
        ({"sender": "alice@other.example"}, False),
        ({"sender": ""}, False),
        ({"to": "BOB@example.com"}, True),
        ({"to": "carol@example.com"}, False),
    ],
)
async def test_what_makes_a_triplet_the_same(again: dict[str, Any], *, known: bool) -> None:
    """The network, the sender without case and detail, and the recipient."""
    site = Site()
    policy = site.policy(Greylist)
    await rcpt(site, policy)
    site.clock.advance(300)
    assert word(await rcpt(site, policy, **again)) == ("passed" if known else "new")


async def test_senders_of_lists_differ_by_numbers_only() -> None:
    """Bounce addresses carry a number, or one in hexadecimal, that is another for each message."""
    site = Site()
    policy = site.policy(Greylist)
    await rcpt(site, policy, "bounce-1234-ab12cd34ef@lists.example")
    site.clock.advance(300)
    assert word(await rcpt(site, policy, "bounce-77-00ff00ff00aa@lists.example")) == "passed"


async def test_a_client_of_which_enough_came_again_is_known() -> None:
    """After the second triplet that passed, none of the client's has to wait any more."""
    site = Site()
    policy = site.policy(Greylist, {"clients_after": 2})
    for to in ("a@example.com", "b@example.com"):
        await rcpt(site, policy, to=to)
    site.clock.advance(300)
    for to in ("a@example.com", "b@example.com"):
        assert word(await rcpt(site, policy, to=to)) == "passed"
    finding = await rcpt(site, policy, to="c@example.com")
    assert finding is not None
    assert finding.evidence == {"client": "client_address=192.0.2.0/24", "status": "client", "client_passes": 2}


async def test_an_authenticated_domain_is_a_client_wherever_it_sends_from() -> None:
    """With a pass of SPF the address does not matter; without one, or without by_domain, it does."""
    site = Site()
    policy = site.policy(Greylist)
    await rcpt(site, policy, spf=SpfResult.PASS)
    site.clock.advance(300)
    assert word(await rcpt(site, policy, address="203.0.113.9", spf=SpfResult.SOFTFAIL)) == "new"
    assert word(await rcpt(site, policy, address="203.0.113.9", spf=SpfResult.PASS)) == "passed"
    by_address = site.policy(Greylist, {"by_domain": False})
    assert word(await rcpt(site, by_address, address="198.51.100.1", spf=SpfResult.PASS)) == "new"


@pytest.mark.parametrize(
    ("options", "session"),
    [
        ({"exclude_clients": ["192.0.2.0/24"]}, {}),
        ({"exclude_names": [".example.org"]}, {}),
        ({"exclude_senders": ["@example.net"]}, {}),
        ({"exclude_recipients": ["bob@"]}, {}),
        ({}, {"login": "alice"}),
    ],
)
async def test_who_is_excluded_need_not_wait(options: dict[str, Any], session: dict[str, Any]) -> None:
    """By address, name, sender and recipient; and whoever has authenticated."""
    zone = {"1.2.0.192.in-addr.arpa": {"PTR": ["mail.example.org"]}, "mail.example.org": {"A": ["192.0.2.1"]}}
    site = Site(zone=zone)
    assert await rcpt(site, site.policy(Greylist, options), **session) is None
    assert word(await rcpt(site, site.policy(Greylist), address="198.51.100.1")) == "new"


async def _message(site: Site, policy: Greylist, *recipients: str, address: str) -> Finding | None:
    transaction: Transaction = site.transaction(session=site.session(address))
    transaction.authentication.dkim = (DkimSignature(result=DkimResult.PASS, domain="signed.example"),)
    for to in recipients:
        site.recipient(transaction, to, state=RecipientState.ACCEPTED)
    return await run(policy, Stage.MESSAGE, transaction, EMPTY)


async def test_at_the_message_a_signature_names_the_client() -> None:
    """The domain of a DKIM signature counts, wherever it comes from; one new recipient puts off all."""
    site = Site()
    policy = site.policy(Greylist, {"at": "message"})
    assert word(await _message(site, policy, "a@example.com", address="192.0.2.1")) == "new"
    site.clock.advance(300)
    finding = await _message(site, policy, "a@example.com", "b@example.com", address="203.0.113.1")
    assert finding is not None
    assert (finding.evidence["client"], word(finding)) == ("domain=signed.example", "new")
    assert word(await _message(site, policy, "a@example.com", address="198.51.100.1")) == "known"


def test_it_runs_at_one_stage() -> None:
    """At RCPT, or when the message has come."""
    for at in ("rcpt", "message"):
        assert list(Greylist.stages(GreylistOptions.model_validate({"at": at}))) == [at]


def test_a_window_shorter_than_the_delay_is_no_configuration() -> None:
    """Nothing would ever pass."""
    with pytest.raises(ValidationError, match="must be longer than 'delay'"):
        GreylistOptions.model_validate({"delay": "1h", "window": "1h"})


@pytest.mark.parametrize(
    ("options", "first", "second", "same"),
    [
        ({}, "bob+a@plus.example", "bob+b@plus.example", True),
        ({}, "bob+a@example.com", "bob+b@example.com", False),
        ({"subaddress": ""}, "bob+a@plus.example", "bob+b@plus.example", False),
    ],
)
async def test_a_recipients_detail_makes_no_other_triplet(
    options: dict[str, str], first: str, second: str, *, same: bool
) -> None:
    """Where the recipient's domain has details, they are left out, unless it is set otherwise."""
    site = Site(domains=[domain("plus.example", subaddress_separators="+"), "example.com"])
    policy = site.policy(Greylist, options)
    assert [word(await rcpt(site, policy, to=to)) for to in (first, second)] == ["new", "early" if same else "new"]


async def test_a_senders_detail_counts_if_it_is_set_so() -> None:
    """With no separators each detail is a sender of its own."""
    site = Site()
    policy = site.policy(Greylist, {"subaddress": ""})
    senders = ("alice+a@example.net", "alice+b@example.net")
    assert [word(await rcpt(site, policy, sender)) for sender in senders] == ["new", "new"]


@pytest.mark.parametrize(("sender", "status"), [("bounce-2@l1.example", "passed"), ("bounce-1@l2.example", "new")])
async def test_numbers_in_a_senders_domain_tell_senders_apart(sender: str, status: str) -> None:
    """Those in its local part do not."""
    site = Site()
    policy = site.policy(Greylist)
    for each, wait in (("bounce-1@l1.example", "new"), (sender, status)):
        transaction = site.transaction(each)
        assert word(await run(policy, Stage.RCPT, transaction, site.recipient(transaction, "bob@example.com"))) == wait
        site.clock.advance(300)


async def test_at_the_message_recipients_that_need_not_wait_are_left_out() -> None:
    """A message to them alone passes, and they do not put off what goes to others as well."""
    site = Site()
    policy = site.policy(Greylist, {"at": "message", "exclude_recipients": ["postmaster@"]})
    assert await _message(site, policy, "postmaster@example.com", address="192.0.2.1") is None
    assert word(await _message(site, policy, "a@example.com", address="192.0.2.1")) == "new"
    site.clock.advance(300)
    assert (
        word(await _message(site, policy, "a@example.com", "postmaster@example.com", address="192.0.2.1")) == "passed"
    )


async def test_a_signature_names_the_client_before_spf_does() -> None:
    """It stays the same when others forward the message."""
    site = Site()
    policy = site.policy(Greylist, {"at": "message"})
    transaction = site.transaction()
    transaction.authentication.dkim = (DkimSignature(result=DkimResult.PASS, domain="signed.example"),)
    transaction.authentication.spf = Spf(mail_from=SpfCheck(result=SpfResult.PASS, domain="big.example"))
    site.recipient(transaction, "a@example.com", state=RecipientState.ACCEPTED)
    finding = await run(policy, Stage.MESSAGE, transaction, EMPTY)
    assert finding is not None
    assert finding.evidence["client"] == "domain=signed.example"
