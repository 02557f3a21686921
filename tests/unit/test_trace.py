"""Trace fields: what the gateway adds on top of a message, and what it takes away."""

import pytest

from gateway.mailauth.results import Arc, ArcResult, Spf, SpfCheck, SpfResult
from gateway.testing import Site, message
from gateway.trace import remove_forged, sender_authentication

PASSED = Spf(mail_from=SpfCheck(result=SpfResult.PASS, domain="example.net"))


def test_who_sent_it_is_told_once_a_policy_has_looked() -> None:
    """No field where nobody looked or none is wanted; otherwise one field, under the gateway's name."""
    transaction = Site().transaction()
    assert sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1") == []
    transaction.spf = PASSED
    assert sender_authentication(transaction, authserv_id=None, address="192.0.2.1") == []
    (field,) = sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1")
    assert field.startswith(b"Authentication-Results: mx.example.com")
    assert b"spf=pass" in field
    assert field.endswith(b"\r\n")
    transaction.spf, transaction.arc = None, Arc(result=ArcResult.NONE)
    (field,) = sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1")
    assert b"arc=none" in field


@pytest.mark.parametrize(
    ("field", "forged"),
    [
        (b"Authentication-Results: mx.example.com; spf=pass smtp.mailfrom=bank.example\r\n", True),
        (b"AUTHENTICATION-results : MX.example.com; none\r\n", True),
        (b"Authentication-Results:\r\n\tmx.example.com 1; dkim=pass header.d=bank.example\r\n", True),
        (b"Authentication-Results: store.example.com; none\r\n", True),
        (b"Authentication-Results: mx.example.org; spf=pass smtp.mailfrom=mx.example.com\r\n", False),
        (b"X-Authentication-Results: mx.example.com; none\r\n", False),
        (b"ARC-Authentication-Results: i=1; mx.example.com; none\r\n", False),
    ],
)
def test_only_forged_fields_are_left_out(field: bytes, forged: bool) -> None:  # noqa: FBT001 - a case of the table
    """A field that claims one of our names is not forwarded, whatever its form; others are."""
    made = message(b"Subject: a\r\n" + field + b"To: b@example.com\r\n\r\nbody\r\n")
    remove_forged(made, frozenset({"mx.example.com", "store.example.com"}))
    assert [each.raw for each in made.removed] == ([field] if forged else [])


async def test_a_forged_field_can_not_hide_behind_a_line_that_is_none() -> None:
    """Where we see the end of the header some mail stores read on; the line itself and all others stay."""
    forged = b"Authentication-Results: mx.example.com; spf=pass\r\n"
    made = message(b"Subject: a\r\nno field\r\n" + forged + b"\tno fold: x\r\nTo: b\r\n: y\r\n\r\n" + forged)
    remove_forged(made, frozenset({"mx.example.com"}))
    assert [each.raw for each in made.removed] == [forged + b"\tno fold: x\r\n"]
    kept = b"".join([chunk async for chunk in made.forwarded.chunks()])
    assert kept == b"Subject: a\r\nno field\r\nTo: b\r\n: y\r\n\r\n" + forged
