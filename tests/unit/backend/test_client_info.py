"""XCLIENT and XFORWARD: attributes and their encoding."""

import pytest

from gateway.backend.client_info import MAX_COMMAND, identity, xclient, xforward, xtext
from gateway.resolver import ClientName, NameStatus
from tests.support.backend import session

ALL = frozenset(
    ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT", "REVERSE_NAME", "IDENT", "SOURCE"]
)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [("client.example", "client.example"), ("a b", "a+20b"), ("a+b=c", "a+2Bb+3Dc"), ("ü", "+C3+BC"), ("", "")],
)
def test_xtext(value: str, encoded: str) -> None:
    """Values are xtext by RFC 3461 4."""
    assert xtext(value) == encoded


def test_xclient() -> None:
    """All that is known of the client is said, the address last."""
    assert xclient(identity(session(login="jo e")), ALL) == [
        (
            "XCLIENT NAME=client.example HELO=helo.example PROTO=ESMTP LOGIN=jo+20e"
            " DESTADDR=127.0.0.1 DESTPORT=25 PORT=4711 ADDR=192.0.2.7"
        )
    ]


def test_xforward() -> None:
    """XFORWARD has SOURCE, but no login and no destination."""
    assert xforward(identity(session(extended=False)), ALL) == [
        "XFORWARD NAME=client.example HELO=helo.example PROTO=SMTP SOURCE=REMOTE PORT=4711 ADDR=192.0.2.7"
    ]


def test_what_is_unknown() -> None:
    """An IPv6 address has its prefix; what is unknown is [UNAVAILABLE], a name not yet known [TEMPUNAVAIL]."""
    of = session("2001:db8::7", client_name=None, helo_name=None, client_port=0, server_address="[::1]:25")
    assert xclient(identity(of), ALL) == [
        (
            "XCLIENT NAME=[TEMPUNAVAIL] HELO=[UNAVAILABLE] PROTO=ESMTP LOGIN=[UNAVAILABLE]"
            " DESTADDR=IPV6:::1 DESTPORT=25 PORT=[UNAVAILABLE] ADDR=IPV6:2001:db8::7"
        )
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [(NameStatus.TEMPORARY, "[TEMPUNAVAIL]"), (NameStatus.UNKNOWN, "[UNAVAILABLE]")],
)
def test_a_name_that_is_not_known(status: NameStatus, expected: str) -> None:
    """A look-up that failed for now differs from one that found nothing."""
    of = session(client_name=ClientName(None, status))
    assert xclient(identity(of), frozenset({"NAME"})) == [f"XCLIENT NAME={expected}"]
    assert xforward(identity(of), frozenset({"NAME"})) == ["XFORWARD NAME=[UNAVAILABLE]"], "it knows no other word"


def test_only_what_the_server_offers() -> None:
    """Attributes that the server does not take are not sent; without any there is no command."""
    assert xclient(identity(session()), frozenset({"ADDR", "NAME"})) == ["XCLIENT NAME=client.example ADDR=192.0.2.7"]
    assert xclient(identity(session()), frozenset()) == []


def test_long_values_are_split() -> None:
    """No command is longer than SMTP allows; the address is in the last."""
    of = session(helo_name="h" * 250, client_name=ClientName("n" * 250, NameStatus.CONFIRMED))
    lines = xclient(identity(of), ALL)
    assert len(lines) > 1
    assert all(len(line) <= MAX_COMMAND for line in lines)
    assert lines[-1].endswith(" ADDR=192.0.2.7")
