"""Outcomes and findings are values, and whoever tells actions apart knows all of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.smtp.reply import Reply
from gateway.verdict import RESERVED_IDS, Action, ByPolicy, Outcome, Party, Stage, decider_text

REPLY = Reply(550, "5.7.1", "No")
FOUND = Outcome("found", Action.REJECT, REPLY, "It is there.")


def test_calling_an_outcome_makes_a_finding() -> None:
    """With the evidence, and the outcome's reply unless another is given."""
    finding = FOUND(count=3)
    assert (finding.outcome, finding.evidence, finding.reply) == (FOUND, {"count": 3}, REPLY)
    assert FOUND(reply=Reply(451, "4.7.1", "Later")).reply.code == 451


def test_what_comes_through_lets_the_stage_go_on() -> None:
    """Every other action ends it."""
    assert {action for action in Action if not action.ends_stage} == {Action.PASS, Action.TAG, Action.QUARANTINE}


def test_who_is_refused_gets_a_reply_of_the_actions_class() -> None:
    """What comes through, and what must look so, has none of its own."""
    replies = {action.value: action.reply_class for action in Action if action.reply_class is not None}
    assert replies == {"defer": 4, "reject": 5, "disconnect": 4}


def test_a_finding_brings_header_fields_along() -> None:
    """In the order in which they are given; none unless they are."""
    assert FOUND(count=3).fields == ()
    finding = FOUND(fields=["X-Score: 5", "X-Level: *"], count=3)
    assert (finding.fields, finding.evidence) == (("X-Score: 5", "X-Level: *"), {"count": 3})


# Whoever distinguishes actions does so by a match that a further action breaks.

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("gateway", "policies") for path in (ROOT / package).rglob("*.py"))


def partial_distinctions(tree: ast.AST) -> list[int]:
    """The lines that tell actions apart, and would not know of a further one."""
    found: list[int] = []
    for node in ast.walk(tree):
        match node:
            case ast.Dict(keys=parts) | ast.Set(elts=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                alike = len([part for part in parts if part is not None and _is_action(part)]) > 1
            case ast.If(orelse=[ast.If()]):
                alike = len(list(_compared(node))) > 1
            case ast.Match(cases=[*cases]) if any(
                _is_action(part) for each in cases for part in ast.walk(each.pattern)
            ):
                last = cases[-1]
                calls = [call.func for call in ast.walk(last) if isinstance(call, ast.Call)]
                alike = not any(isinstance(call, ast.Name) and call.id == "assert_never" for call in calls)
            case _:
                continue
        if alike:
            found.append(node.lineno)
    return found


def _is_action(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="Action"), attr=name):
            return name in Action.__members__
        case ast.MatchValue(value=value):
            return _is_action(value)
        case _:
            return False


def _compared(branch: ast.If) -> Iterator[ast.AST]:
    """The actions that the conditions of a branch and of those after it compare with."""
    yield from (part for part in ast.walk(branch.test) if _is_action(part))
    match branch.orelse:
        case [ast.If() as following]:
            yield from _compared(following)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_actions_are_told_apart_exhaustively(path: Path) -> None:
    """By a ``match`` that ends in ``assert_never``; never by a table or a row of branches of some of them."""
    assert partial_distinctions(ast.parse(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("RESULTS = {Action.DEFER: 1, Action.REJECT: 2}", [1]),
        ("if action in {Action.DEFER, Action.REJECT}: pass", [1]),
        ("if a is Action.DEFER:\n    pass\nelif not b or a is Action.REJECT:\n    pass", [1]),
        ("match a:\n    case Action.DEFER:\n        pass\n    case _:\n        pass", [1]),
        ("match a:\n    case Action.DEFER:\n        pass\n    case _:\n        assert_never(a)", []),
        ("if a is Action.DEFER:\n    pass\nelif b:\n    pass", []),
        ("Outcome('found', Action.REJECT, REPLY, 'Found.')", []),
    ],
)
def test_a_partial_distinction_is_found(code: str, lines: list[int]) -> None:
    """Tables, sets, rows of branches, and matches with an open end."""
    assert partial_distinctions(ast.parse(code)) == lines


def test_stages_stand_in_the_order_of_a_session() -> None:
    """Their order is that of the record and of the documentation."""
    assert [stage.value for stage in Stage] == ["connect", "helo", "mail", "rcpt", "data", "message", "close"]


def test_who_decided_is_a_word_of_the_record() -> None:
    """The protocol and the backend have words of their own, a policy its id."""
    assert [decider_text(each) for each in (None, *Party, ByPolicy("relay"))] == [None, "smtp", "backend", "relay"]
    assert {decider_text(party) for party in Party} == RESERVED_IDS
