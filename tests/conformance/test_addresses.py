"""The address data of dominicsayers/isemail: what RFC 5321 allows is taken, what it forbids refused.

``docs/decisions/addresses.md`` explains the deliberate exceptions and the categories.
"""

import xml.etree.ElementTree as ET  # the data is trusted
from dataclasses import dataclass

import pytest

from gateway.smtp import reply
from gateway.smtp.commands import ServerOptions
from gateway.smtp.events import Event, Mail, Rcpt, Refused
from gateway.smtp.grammar import AddressSyntax, GrammarError, parse_mailbox
from tests.support.conformance import conformance_file
from tests.support.smtp_engine import engine, feed

ALLOWED_CATEGORIES = frozenset({"ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321"})
"""Valid by RFC 5321: outright, whatever the DNS knows of the domain, and in rare forms of its grammar."""

FORBIDDEN_CATEGORIES = frozenset({"ISEMAIL_CFWS", "ISEMAIL_DEPREC", "ISEMAIL_RFC5322", "ISEMAIL_ERR"})
"""Not RFC 5321: comments and folding, obsolete forms, what only RFC 5322 allows, and errors."""

TAKEN_ALL_THE_SAME = {
    "test@[1111:2222:3333:4444:5555:6666:7777:8888]": "the grammar of a General-address-literal with the tag 1111",
}
"""Deliberate exceptions: the data calls them RFC 5322 only."""

TAKEN_LENIENTLY = {
    ".test@iana.org": '".test"@iana.org',
    "test.@iana.org": '"test."@iana.org',
} | {
    address: address
    for address in (
        "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghiklmn@iana.org",
        '"abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz abcdefghj"@iana.org',
        '"abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz abcdefg\\h"@iana.org',
    )
}
"""What a lenient listener takes besides, and how it is written then: dots at an end, local parts that are too long."""

CASES = 164


@dataclass(frozen=True, slots=True)
class Case:
    """One address of the data."""

    number: str
    address: str
    category: str

    def written(self, syntax: AddressSyntax) -> str | None:
        """How it is forwarded; None where it is to be refused."""
        if self.category in ALLOWED_CATEGORIES or self.address in TAKEN_ALL_THE_SAME:
            return self.address
        return TAKEN_LENIENTLY.get(self.address) if syntax is AddressSyntax.LENIENT else None


def read_cases() -> list[Case]:
    """The data, with control pictures (U+2400 + n, as its notes say) turned into what they stand for."""
    root = ET.parse(conformance_file("addresses/tests.xml")).getroot()  # noqa: S314 - the data is trusted
    controls = {0x2400 + number: number for number in (*range(0x20), 0x7F)}
    return [
        Case(
            test.attrib["id"],
            (test.findtext("address") or "").translate(controls),
            test.findtext("category") or "",
        )
        for test in root.iter("test")
    ]


@pytest.mark.parametrize("syntax", AddressSyntax)
def test_every_address_gets_the_verdict_of_rfc_5321(syntax: AddressSyntax) -> None:
    """The grammar takes exactly the addresses of the allowed categories, and the documented exceptions."""
    cases = read_cases()
    assert len(cases) == CASES
    assert {case.category for case in cases} == ALLOWED_CATEGORIES | FORBIDDEN_CATEGORIES
    assert set(TAKEN_ALL_THE_SAME) | set(TAKEN_LENIENTLY) <= {case.address for case in cases}
    wrong = []
    for case in cases:
        try:
            written = parse_mailbox(case.address, syntax).text
        except GrammarError:
            written = None
        if written != case.written(syntax):
            wrong.append((case, written))
    assert wrong == []


@pytest.mark.parametrize("syntax", AddressSyntax)
def test_the_engine_gives_the_same_verdicts_on_the_wire(syntax: AddressSyntax) -> None:
    """MAIL and RCPT with each address that can stand in one command line: an event or 501, and never two commands."""
    cases = [case for case in read_cases() if "\r\n" not in case.address]
    assert len(cases) > CASES - 30
    wrong: list[tuple[Case, list[Event]]] = []
    for case in cases:
        connection = engine(ServerOptions(hostname="mx.example.com", address_syntax=syntax))
        octets = case.address.encode()
        feed(connection, b"EHLO c\r\n")
        mail = feed(connection, b"MAIL FROM:<%s> SMTPUTF8\r\n" % octets)
        feed(connection, b"RSET\r\nMAIL FROM:<> SMTPUTF8\r\n")
        rcpt = feed(connection, b"RCPT TO:<%s>\r\n" % octets)
        is_empty = not octets  # <> is a reverse-path
        for events, kind in ((mail, Mail), (rcpt, Rcpt)):
            expected = case.written(syntax) is not None or (is_empty and kind is Mail)
            good = len(events) == 1 and isinstance(events[0], kind if expected else Refused)
            if not good:
                wrong.append((case, events))
            elif isinstance(events[0], Refused):
                assert events[0].reply in {
                    reply.BAD_SENDER_ADDRESS,
                    reply.BAD_RECIPIENT_ADDRESS,
                    reply.BARE_NEWLINE_COMMAND,
                }
    assert wrong == []
