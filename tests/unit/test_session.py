"""Sessions, messages and recipients as values."""

import pytest

from gateway.session import RecipientState, TlsInfo
from gateway.smtp.reply import Reply
from gateway.testing import Site, message
from gateway.verdict import Action, ByPolicy, Party, Verdict

TLS = TlsInfo(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)


@pytest.mark.parametrize(
    ("extended", "tls", "login", "protocol"),
    [
        (False, None, None, "SMTP"),
        (False, TLS, None, "SMTP"),
        (True, None, None, "ESMTP"),
        (True, TLS, None, "ESMTPS"),
        (True, None, "alice", "ESMTPA"),
        (True, TLS, "alice", "ESMTPSA"),
    ],
)
def test_the_protocol_has_its_word(*, extended: bool, tls: TlsInfo | None, login: str | None, protocol: str) -> None:
    """The ``with`` words of RFC 3848; HELO is plain SMTP."""
    session = Site().session(tls=tls, login=login)
    session.extended = extended
    assert session.protocol == protocol


def test_fields_are_read_until_a_line_that_is_none() -> None:
    """Folded lines belong to their field, names are in lower case, and what follows a broken line is not a field."""
    made = message(b"Subject: a\r\n b\r\nRECEIVED : x\r\nno field\r\nSubject: hidden\r\n\r\nSubject: body\r\n")
    assert [(field.name, field.value) for field in made.fields] == [("subject", b"a b"), ("received", b"x")]
    assert [field.raw for field in made.all("SUBJECT")] == [b"Subject: a\r\n b\r\n"]
    assert made.size == made.content.size
    assert message(b"\r\nSubject: body\r\n").fields == ()
    assert message(b"").fields == ()
    assert message(b": no name\r\n\r\n").fields == ()


def test_a_transaction_knows_whom_to_send_to_and_what_was_declared() -> None:
    """Only accepted recipients count; SIZE is read from the parameters."""
    site = Site(domains=["example.com"])
    transaction = site.transaction("a@example.org", "SIZE=1000 BODY=8BITMIME")
    taken = site.recipient(transaction, "a@example.com", state=RecipientState.ACCEPTED)
    site.recipient(transaction, "b@example.com", state=RecipientState.DISCARDED)
    site.recipient(transaction, "c@example.com")
    assert transaction.accepted == [taken]
    assert transaction.declared_size == 1000
    assert site.transaction().declared_size is None


def test_a_refused_recipient_names_who_refused_it() -> None:
    """The policy of the verdict, or the backend; nobody where it was not refused."""
    site = Site(domains=["example.com"])
    recipient = site.recipient(site.transaction(), "a@example.com")
    decided = [recipient.decided_by]
    recipient.state = RecipientState.REJECTED
    decided.append(recipient.decided_by)
    recipient.verdict = Verdict(Action.REJECT, Reply(550, "5.1.1", "No"), ByPolicy("relay"), "denied")
    decided.append(recipient.decided_by)
    recipient.state = RecipientState.ACCEPTED
    decided.append(recipient.decided_by)
    assert decided == [None, Party.BACKEND, ByPolicy("relay"), None]
