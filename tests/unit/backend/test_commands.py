"""MAIL and RCPT: what is said, what is left out, what is needed."""

import pytest

from gateway.backend.commands import mail_command, needed, rcpt_command
from gateway.smtp.client import Capabilities
from tests.support.backend import recipient, session, transaction

ALL = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "AUTH"})


@pytest.mark.parametrize(
    ("offered", "words", "expected"),
    [
        (ALL, "SIZE=10 BODY=8BITMIME AUTH=<> RET=FULL", " SIZE=10 BODY=8BITMIME AUTH=<> RET=FULL"),
        (ALL - {"SIZE"}, "SIZE=10 RET=FULL", " RET=FULL"),
        (ALL - {"8BITMIME"}, "BODY=7BIT SIZE=10", " SIZE=10"),
        (ALL - {"AUTH"}, "AUTH=a+2Bb@c SMTPUTF8", " SMTPUTF8"),
        (frozenset[str](), "SIZE=10 BODY=7bit AUTH=<>", ""),
        (ALL, "ENVID=a+3Db X-OTHER=1 BARE", " ENVID=a+3Db X-OTHER=1 BARE"),
    ],
)
def test_mail(offered: frozenset[str], words: str, expected: str) -> None:
    """Parameters are unchanged; SIZE, AUTH and BODY=7BIT are left out where the server does not offer them."""
    command = mail_command(transaction("a@b.example", words), Capabilities(keywords=offered))
    assert command == f"MAIL FROM:<a@b.example>{expected}"


@pytest.mark.parametrize(
    ("login", "words", "expected"),
    [
        (None, "AUTH=e+3Dmc2@example.com", "AUTH=<>"),
        (None, "AUTH=<>", "AUTH=<>"),
        ("joe", "AUTH=e+3Dmc2@example.com", "AUTH=e+3Dmc2@example.com"),
        ("joe", "AUTH=<>", "AUTH=<>"),
    ],
)
def test_who_submitted_a_message_only_an_authenticated_client_can_say(
    login: str | None, words: str, expected: str
) -> None:
    """AUTH= of a client that has not authenticated goes on as AUTH=<> (RFC 4954 5)."""
    of = transaction("a@b.example", f"SIZE=10 {words}", of=session(login=login))
    assert mail_command(of, Capabilities(keywords=ALL)) == f"MAIL FROM:<a@b.example> SIZE=10 {expected}"


def test_mail_of_the_null_reverse_path() -> None:
    """The null reverse-path is <>."""
    assert mail_command(transaction(None), Capabilities()) == "MAIL FROM:<>"


def test_rcpt() -> None:
    """The address and the parameters are those of the client."""
    assert rcpt_command(recipient('"a b"@Example.COM', "NOTIFY=NEVER")) == 'RCPT TO:<"a b"@Example.COM> NOTIFY=NEVER'


@pytest.mark.parametrize(
    ("mail", "rcpt", "expected"),
    [
        ("", "", set()),
        ("SIZE=10 AUTH=<> BODY=7BIT", "", set()),
        ("BODY=8bitmime", "", {"8BITMIME"}),
        ("BODY=BINARYMIME", "", {"BINARYMIME"}),
        ("SMTPUTF8", "", {"SMTPUTF8"}),
        ("RET=HDRS", "", {"DSN"}),
        ("ENVID=x", "", {"DSN"}),
        ("", "NOTIFY=NEVER", {"DSN"}),
        ("SMTPUTF8", "ORCPT=rfc822;a", {"DSN", "SMTPUTF8"}),
    ],
)
def test_needed(mail: str, rcpt: str, expected: set[str]) -> None:
    """Extensions with a meaning for the server are needed."""
    assert needed(transaction(words=mail), [recipient(words=rcpt)]) == expected
