"""Outcomes and findings are values."""

from gateway.smtp.reply import Reply
from gateway.verdict import RESERVED_IDS, Action, ByPolicy, Outcome, Party, Stage, decider_text

REPLY = Reply(550, "5.7.1", "No")
FOUND = Outcome("found", Action.REJECT, REPLY, "It is there.")


def test_calling_an_outcome_makes_a_finding() -> None:
    """With the evidence, and the outcome's reply unless another is given."""
    finding = FOUND(count=3)
    assert (finding.outcome, finding.evidence, finding.reply) == (FOUND, {"count": 3}, REPLY)
    assert FOUND(reply=Reply(451, "4.7.1", "Later")).reply.code == 451


def test_pass_and_tag_let_the_stage_go_on() -> None:
    """Every other action ends it."""
    assert {action for action in Action if not action.ends_stage} == {Action.PASS, Action.TAG}


def test_stages_stand_in_the_order_of_a_session() -> None:
    """Their order is that of the record and of the documentation."""
    assert [stage.value for stage in Stage] == ["connect", "helo", "mail", "rcpt", "data", "message", "close"]


def test_who_decided_is_a_word_of_the_record() -> None:
    """The protocol and the backend have words of their own, a policy its id."""
    assert [decider_text(each) for each in (None, *Party, ByPolicy("relay"))] == [None, "smtp", "backend", "relay"]
    assert {decider_text(party) for party in Party} == RESERVED_IDS
