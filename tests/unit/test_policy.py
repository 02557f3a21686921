"""What a class says about itself by being a policy."""

import pytest
from pydantic import ValidationError

from gateway.policy import NoOptions, OnError, Options, Policy
from gateway.session import Session, Transaction
from gateway.smtp.reply import Reply
from gateway.testing import Site, run
from gateway.verdict import Action, Finding, Outcome, Stage

REPLY = Reply(550, "5.7.1", "No")


class CountOptions(Options):
    """An option."""

    limit: int = 3


class Base(Policy[CountOptions]):
    """Has options, an outcome and a hook."""

    name = "base"
    found = Outcome("found", Action.REJECT, REPLY, "Found.")

    def on_connect(self, session: Session) -> Finding | None:
        assert session.id
        return self.found(limit=self.options.limit)


class Derived(Base):
    """Changes one outcome, adds another and a stage."""

    name = "derived"
    found = Outcome("found", Action.TAG, REPLY, "Found.")
    lost = Outcome("lost", Action.PASS, REPLY, "Lost.")

    async def on_close(self, session: Session) -> None:
        assert session.id


class Named(Policy[NoOptions]):
    """Tells the client's name, as its hooks find it."""

    name = "named"
    names_clients = True
    found = Outcome("found", Action.PASS, REPLY, "Found.")

    def on_connect(self, session: Session) -> Finding | None:
        return self.found(client_name=session.client_name and session.client_name.name)

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        return self.on_connect(transaction.session)

    def on_close(self, session: Session) -> Finding | None:
        return self.on_connect(session)


class Bare(Policy[NoOptions]):
    """Says nothing at all."""

    name = "bare"
    on_rcpt = None  # no hook: it can't be called


def test_a_policy_declares_outcomes_options_and_stages_by_what_it_defines() -> None:
    """A derived one has those of its base, its own first of the same name."""
    assert {name: outcome.action for name, outcome in Base.outcomes.items()} == {"found": Action.REJECT}
    assert {name: outcome.action for name, outcome in Derived.outcomes.items()} == {
        "found": Action.TAG,
        "lost": Action.PASS,
    }
    assert Derived.options_type is CountOptions
    assert Base.hooks() == {Stage.CONNECT: "on_connect"}
    assert Derived.hooks() == {Stage.CONNECT: "on_connect", Stage.CLOSE: "on_close"}
    assert (Bare.hooks(), Bare.outcomes, Bare.options_type) == ({}, {}, NoOptions)


def test_what_is_not_declared_defers_on_errors() -> None:
    """A policy whose author did not think of faults does not let mail pass by them."""
    assert Policy.on_error is OnError.DEFER


def test_options_are_frozen_and_strict() -> None:
    """A mistyped option is an error, and nobody changes one later."""
    with pytest.raises(ValidationError, match="Extra inputs"):
        CountOptions.model_validate({"limti": 4})
    with pytest.raises(ValidationError, match="frozen"):
        CountOptions().limit = 4  # type: ignore[misc]  # that it is forbidden is what is tested


ZONE = {"1.2.0.192.in-addr.arpa": {"PTR": ["mail.example.net"]}, "mail.example.net": {"A": ["192.0.2.1"]}}


class Scoring(Base):
    """Writes header fields, one of which it may not."""

    name = "scoring"
    writes = ("X-Score", "Subject")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("X-Score: 5.1", None),
        ("x-SCORE:5.1", None),
        ("X-Score: " + "5" * 989, None),
        ("X-Score: " + "5" * 990, "one line"),
        ("X-Score: 5\r\nSubject: x", "one line"),
        ("X-Score: 5\n", "one line"),
        ("X-Score: 5\r", "one line"),
        ("X-Score: caf\xe9", "one line"),
        ("X-Score: \x00", "one line"),
        ("X-Score : 5", "one line"),
        (" X-Score: 5", "one line"),
        ("X-Score", "one line"),
        ("", "one line"),
        ("X-Scores: 5", "not among those"),
        ("Subject: Mine", "of the message itself"),
        ("ARC-Seal: i=1", "of the message itself"),
    ],
)
def test_which_fields_a_finding_may_bring_along(field: str, wrong: str | None) -> None:
    """Those that the class says it writes, in one line of printable US-ASCII, and never one of the message's own."""
    finding = Scoring.found(fields=("X-Score: 1", field))
    if wrong is None:
        Scoring.check_fields(finding)
    else:
        with pytest.raises(ValueError, match=wrong):
            Scoring.check_fields(finding)


async def test_the_clients_name_is_looked_up_before_hooks_that_need_it() -> None:
    """Whatever their kind and their stage; not when the connection has ended, where nobody waits for it any more."""
    site = Site(zone=ZONE)
    policy = site.policy(Named)

    async def told(stage: Stage, subject: Session | Transaction) -> object:
        finding = await run(policy, stage, subject)
        assert finding is not None
        return finding.evidence["client_name"]

    assert await told(Stage.CLOSE, site.session()) is None
    assert await told(Stage.CONNECT, site.session()) == "mail.example.net"
    assert await told(Stage.MAIL, site.transaction()) == "mail.example.net"
    assert await told(Stage.MAIL, site.transaction(session=site.session("192.0.2.2"))) is None
