"""Trace fields: what the gateway adds on top of a message."""

from gateway.admission.trace import received, sender_authentication
from gateway.mailauth.results import Arc, ArcResult, Spf, SpfCheck, SpfResult
from gateway.testing import Site

PASSED = Spf(mail_from=SpfCheck(result=SpfResult.PASS, domain="example.net"))


def test_who_sent_it_is_told_once_a_policy_has_looked() -> None:
    """No field where nobody looked or none is wanted; otherwise one field, under the gateway's name."""
    transaction = Site().transaction()
    assert sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1") == []
    transaction.authentication.spf = PASSED
    assert sender_authentication(transaction, authserv_id=None, address="192.0.2.1") == []
    (field,) = sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1")
    assert field.startswith(b"Authentication-Results: mx.example.com")
    assert b"spf=pass" in field
    assert field.endswith(b"\r\n")
    transaction.authentication.spf, transaction.authentication.arc = None, Arc(result=ArcResult.NONE)
    (field,) = sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1")
    assert b"arc=none" in field


def test_what_a_client_calls_itself_is_no_part_of_another_clause() -> None:
    """Comments, quotes, semicolons and brackets of a HELO name would end or begin a part of the Received field."""
    transaction = Site().transaction(session=Site().session(helo_name='a(b)<c>@d;e"f\\g'))
    field = received(transaction, hostname="mx.example.com", address="192.0.2.1", now=0)
    assert field.startswith(b"Received: from a?b??c??d?e?f?g (unknown [192.0.2.1])\r\n")
