"""The decision record is made of what the types of the session hold."""

from typing import get_args

from gateway.admission.recording import decision_of, record_of, result_of, state_of
from gateway.mailauth.dmarc_record import parse_record
from gateway.mailauth.results import (
    Arc,
    ArcResult,
    Disposition,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    Spf,
    SpfCheck,
    SpfResult,
)
from gateway.records import AuthenticationRecord, DecisionRecord, Result
from gateway.session import Transaction
from gateway.testing import Site, message
from gateway.verdict import Action


def record(transaction: Transaction) -> DecisionRecord:
    """The record of a transaction."""
    return record_of(
        transaction.session,
        transaction,
        decision=decision_of("aborted", None, None),
        reply=None,
        backend=None,
        gateway="mx.example.com",
        address="192.0.2.1",
        duration=0.1,
    )


def test_every_action_has_its_words() -> None:
    """What a transaction and a recipient have come to by it."""
    assert {action.value: (result_of(action), state_of(action).value) for action in Action} == {
        "pass": ("accepted", "accepted"),
        "tag": ("accepted", "accepted"),
        "quarantine": ("quarantined", "accepted"),
        "defer": ("deferred", "deferred"),
        "reject": ("rejected", "rejected"),
        "discard": ("discarded", "discarded"),
        "disconnect": ("disconnected", "deferred"),
    }
    assert {result_of(action) for action in Action} <= set(get_args(Result))


def authentication(transaction: Transaction) -> AuthenticationRecord | None:
    """What the record says of who sent it."""
    return record(transaction).authentication


def test_no_policy_that_looked_leaves_nothing() -> None:
    """Where nobody asked who sent it the record says so by null, part by part."""
    transaction = Site().transaction()
    assert authentication(transaction) is None
    transaction.authentication.dkim = ()
    found = authentication(transaction)
    assert found is not None
    assert (found.spf, found.dkim, found.arc, found.dmarc) == (None, [], None, None)


def test_every_result_stands_in_the_record() -> None:
    """SPF of both identities, each signature, the chain of seals, and DMARC with its record and alignment."""
    transaction = Site().transaction()
    transaction.authentication.spf = Spf(
        mail_from=SpfCheck(result=SpfResult.SOFTFAIL, domain="example.net", reason="matched ~all"),
        helo=SpfCheck(result=SpfResult.PASS, domain="client.example.net"),
    )
    transaction.authentication.dkim = (
        DkimSignature(result=DkimResult.PASS, domain="example.net", selector="a", algorithm="ed25519-sha256"),
        DkimSignature(result=DkimResult.FAIL, reason="body hash did not verify"),
    )
    transaction.authentication.arc = Arc(result=ArcResult.PASS, oldest_pass=0, sealer="list.example")
    transaction.authentication.dmarc = Dmarc(
        result=DmarcResult.PASS,
        domain="news.example.net",
        policy=Disposition.REJECT,
        record_domain="example.net",
        published=parse_record("v=DMARC1; p=reject; aspf=s"),
        dkim_aligned="example.net",
        arc_sealer="list.example",
    )
    found = authentication(transaction)
    assert found is not None
    assert found.spf is not None
    assert found.arc is not None
    assert found.dmarc is not None
    assert (found.spf.mail_from, found.spf.helo, found.spf.domain) == ("softfail", "pass", "example.net")
    assert [(each.domain, each.result, each.reason) for each in found.dkim or []] == [
        ("example.net", "pass", ""),
        ("", "fail", "body hash did not verify"),
    ]
    assert (found.arc.result, found.arc.oldest_pass, found.arc.sealer) == ("pass", 0, "list.example")
    dmarc = found.dmarc
    assert (dmarc.result, dmarc.policy, dmarc.disposition) == ("pass", "reject", "none")
    assert (dmarc.domain, dmarc.record_domain, dmarc.record) == (
        "news.example.net",
        "example.net",
        "v=DMARC1; p=reject; aspf=s",
    )
    assert (dmarc.alignment.spf, dmarc.alignment.dkim) == (None, "example.net")
    assert (dmarc.alignment.spf_mode, dmarc.alignment.dkim_mode) == ("strict", "relaxed")
    assert dmarc.trusted_sealer == "list.example"


def test_a_record_names_so_many_removed_fields_and_no_more() -> None:
    """Twenty, the first ones in their order: a sender who writes thousands does not make the log grow."""
    for count, named in ((0, 0), (1, 1), (20, 20), (21, 20), (3000, 20)):
        transaction = Site().transaction()
        names = [f"x-lychgate-{number}" for number in range(count)]
        header = "".join(f"{name}: x\r\n" for name in names)
        transaction.message = message(f"{header}Subject: x\r\n\r\n".encode())
        found = record(transaction).message
        assert found is not None
        assert found.removed == names[:named]
