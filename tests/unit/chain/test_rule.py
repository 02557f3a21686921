"""Ruling: a pure function of what was found, the settings, the exceptions, the envelope and the date."""

from datetime import date
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.chain.rule import ERROR, Envelope, Exemption, Terms, applied, ending, rule
from gateway.config.model import ExceptionEntry
from gateway.smtp.grammar import parse_mail, parse_rcpt
from gateway.smtp.reply import Reply
from gateway.verdict import Action, Check, Outcome, Response, Stage

FAIL = Outcome("fail", Action.REJECT, Reply(550, "5.7.1", "No"), "A test's.")
TODAY = date(2026, 1, 15)
ENVELOPE = Envelope(
    ip_address("192.0.2.1"), parse_mail("FROM:<a@partner.example>")[0], parse_rcpt("TO:<bob@example.com>")[0]
)


def _terms(*exceptions: dict[str, Any], action: Action = Action.REJECT, observe: bool = False) -> Terms:
    entries = [ExceptionEntry(policy="spf", reason="agreed", **each) for each in exceptions]
    responses = {"fail": Response(action), "error": Response(Action.DEFER)}
    return Terms(id="spf", responses=responses, observe=observe, exemptions=[Exemption(each) for each in entries])


CASES: dict[str, tuple[Terms, str | None, bool, bool]] = {
    "nothing exempts": (_terms(), None, True, True),
    "observed": (_terms(observe=True), None, False, False),
    "it does not end the stage": (_terms(action=Action.TAG), None, True, False),
    "the client": (_terms({"client": "192.0.2.0/24"}), "agreed", False, False),
    "another client": (_terms({"client": "198.51.100.0/24"}), None, True, True),
    "the sender": (_terms({"sender": "@partner.example"}), "agreed", False, False),
    "the null reverse-path": (_terms({"sender": "<>"}), None, True, True),
    "the recipient": (_terms({"recipient": "bob@example.com"}), "agreed", False, False),
    "its domain": (_terms({"domain": "example.com"}), "agreed", False, False),
    "the last day": (_terms({"domain": "example.com", "until": "2026-01-15"}), "agreed", False, False),
    "the day after": (_terms({"domain": "example.com", "until": "2026-01-14"}), None, True, True),
    "one of two": (_terms({"client": "198.51.100.1"}, {"sender": "a@partner.example"}), "agreed", False, False),
}


@pytest.mark.parametrize("case", CASES)
def test_what_follows(case: str) -> None:
    """Whether an exception holds, whether the response is applied, and whether it ends the stage."""
    terms, exempted, applies, ends = CASES[case]
    ruling = rule(terms, Stage.MAIL, FAIL(domain="x"), ENVELOPE, TODAY)
    assert (ruling.exempted, ruling.applies, ruling.ends_stage) == (exempted, applies, ends)
    assert (ending([ruling]) is ruling) is ends
    assert bool(applied([ruling], terms.responses["fail"].action)) is applies


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_finding_is_ruled_the_same_again(case: str) -> None:
    """What stands in a record is enough: outcome and evidence give the same check once more."""
    terms, *_ = CASES[case]
    recorded = Check(policy="spf", stage=Stage.MAIL, recipient=None)
    for finding in (FAIL(domain="x", steps=["a"]), ERROR(error="no result within 1s")):
        rule(terms, Stage.MAIL, finding, ENVELOPE, TODAY).note(recorded)
        if recorded.exempted is not None:
            continue
        outcome = {"fail": FAIL, "error": ERROR}[recorded.outcome or ""]
        again = Check(policy="spf", stage=Stage.MAIL, recipient=None)
        rule(terms, Stage.MAIL, outcome(**recorded.evidence), ENVELOPE, TODAY).note(again)
        assert again == recorded
