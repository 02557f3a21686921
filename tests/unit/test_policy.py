"""What a class says about itself by being a policy."""

import pytest
from pydantic import ValidationError

from gateway.policy import NoOptions, OnError, Options, Policy
from gateway.session import Session
from gateway.smtp.reply import Reply
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
