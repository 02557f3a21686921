"""Odd addresses through the gateway into a real Postfix: what it stores is what the record says.

Each form goes through a lenient listener as sender and as recipient. Postfix keeps addresses without quotes, so what
it has queued is compared with what the record's address means.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.smtp.grammar import AddressSyntax, parse_mailbox
from tests.support.gateway import Gateway
from tests.support.postfix import Postfix
from tests.support.wire import Wire

pytestmark = pytest.mark.peer("postfix")

LOCAL_PARTS: Final = (
    "any..b", ".any", "any.", "..any...b..", "any..b=c+d", "any" + "l" * 62, "any" + "l" * 237, "any." + "l" * 70 + ".",
    "any..\u00fc",
)  # fmt: skip
"""Local parts against RFC 5321; Postfix knows those that begin with ``any``, and here those with dots before."""

PATHS: Final = (
    *(f"<{local_part}@example.com>" for local_part in LOCAL_PARTS),
    *(f"{local_part}@example.com" for local_part in (*LOCAL_PARTS, "alice", '"any b"')),
    "<any@under_score.example>",
    "<any@_under.score_.example>",
    ".any.@under_score.example",
    "<@relay.example:any..b@example.com>",
)

HALF: Final = (
    "<alice@example.com",
    "alice@example.com>",
    "<alice@example.com>>",
    "alice",
    "<alice>",
    "Al <alice@example.com>",
)
ROUTED: Final = ("any..b%other.example", "other.example!any..", ".any%other.example.")


@pytest.fixture(scope="module")
def backend() -> Iterator[Postfix]:
    """A Postfix that takes every address of the domains used here."""
    settings = {
        "virtual_mailbox_domains": "example.com, under_score.example, _under.score_.example",
        "virtual_mailbox_maps": "static:box",
    }
    with Postfix({"smtpd": {}, "strict": {"strict_rfc821_envelopes": "yes"}}, settings) as running:
        yield running


@pytest.fixture(scope="module", params=["smtpd", "strict"])
def gateway(backend: Postfix, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A lenient and a strict listener before a Postfix with its defaults, and before one that takes RFC 821 only."""
    settings: dict[str, Any] = {
        "domains": {name: {} for name in ("example.com", "under_score.example", "_under.score_.example")}
    }
    with Gateway(
        settings,
        listeners={"lenient": {}, "strict": {"address_syntax": "strict"}},
        backend=backend.ports[request.param],
    ) as running:
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_postfix_stores_what_the_record_says(gateway: Gateway, backend: Postfix, path: str) -> None:
    """An odd path arrives in Postfix's queue, as sender and as recipient, as the record's address means it."""
    utf8 = "" if path.isascii() else " SMTPUTF8"
    with Wire(gateway.port) as client:
        client.hello()
        for command in (f"MAIL FROM:{path}{utf8}", f"RCPT TO:{path}"):
            assert client.command(command).code == 250, command
        assert client.command("DATA").code == 354
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        answer = client.reply()
        assert answer.code == 250, answer
    queue_id = answer.text.rpartition(" ")[2]
    record = next(record for record in gateway.records() if (record["backend"] or {}).get("queue_id") == queue_id)
    envelope = backend.envelope(queue_id)
    stored = [re.findall(rf"^{kind}: (.*)$", envelope, re.MULTILINE) for kind in ("sender", "recipient")]
    said = [record["reverse_path"], record["recipients"][0]["address"]]
    meant = [parse_mailbox(address) for address in said]
    assert stored == [[f"{mailbox.local_part}@{mailbox.domain}"] for mailbox in meant]
    assert meant[0] == parse_mailbox(re.sub(r"^<(@[^:]*:)?|>$", "", path))


@pytest.mark.parametrize("syntax", AddressSyntax)
@pytest.mark.parametrize("path", HALF)
def test_what_has_no_one_reading_never_reaches_postfix(gateway: Gateway, path: str, syntax: AddressSyntax) -> None:
    """Half a pair of brackets, a name before them, or no domain gets 501 at MAIL and RCPT."""
    with Wire(gateway.ports[syntax]) as client:
        client.hello()
        assert client.command(f"MAIL FROM:{path}").code == 501
        assert client.command("MAIL FROM:<>").code == 250
        assert client.command(f"RCPT TO:{path}").code == 501


@pytest.mark.parametrize("path", PATHS)
def test_a_strict_listener_refuses_them(gateway: Gateway, path: str) -> None:
    """With ``address_syntax: strict`` an odd path gets 501 at MAIL and RCPT."""
    with Wire(gateway.ports["strict"]) as client:
        client.hello()
        assert client.command(f"MAIL FROM:{path} SMTPUTF8").code == 501
        assert client.command("MAIL FROM:<> SMTPUTF8").code == 250
        assert client.command(f"RCPT TO:{path}").code == 501


@pytest.mark.parametrize("brackets", ["<>", ""])
@pytest.mark.parametrize("local_part", ROUTED)
def test_an_odd_form_hides_no_route_from_relay(gateway: Gateway, local_part: str, brackets: str) -> None:
    """A local part that asks for another domain is refused by ``relay`` also where it is odd otherwise."""
    for domain in ("example.com", "elsewhere.example", "else_where.example"):
        path = f"{brackets[:1]}{local_part}@{domain}{brackets[1:]}"
        with Wire(gateway.ports["lenient"]) as client:
            client.hello()
            assert client.command("MAIL FROM:<>").code == 250
            answer = client.command(f"RCPT TO:{path}")
        assert (answer.code, answer.text[:5]) == (554, "5.7.1"), path


def test_postmaster_needs_neither_domain_nor_brackets(gateway: Gateway) -> None:
    """``RCPT TO:postmaster`` reaches Postfix as its own postmaster does."""
    recipients = set()
    for path in ("postmaster", "<postmaster>"):
        with Wire(gateway.ports["lenient"]) as client:
            client.hello()
            assert client.command("MAIL FROM:<>").code == 250
            answer = client.command(f"RCPT TO:{path}")
            recipients.add((answer.code, answer.lines))
    assert len(recipients) == 1, recipients
