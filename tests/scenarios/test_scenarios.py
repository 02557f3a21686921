"""Every scenario: through the SMTP door, and where it says so, through ``explain``."""

from pathlib import Path

import pytest

from gateway.verdict import Stage
from tests.support.scenario import Scenario, part, plain, scenarios, summary

SCENARIOS = scenarios(Path(__file__).parent)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_door_does_what_the_scenario_says(scenario: Scenario, tmp_path: Path) -> None:
    """The conversation, what the backends received and the records are what stands in the file."""
    outcomes = await scenario.run(tmp_path)
    assert outcomes.transcripts == [session["session"].rstrip("\n") for session in scenario.sessions]
    if "backend" in scenario.document:
        assert [plain(text.replace("\r\n", "\n")) for text in outcomes.heard] == scenario.document["backend"]
    expected = scenario.document.get("records")
    if expected is not None:
        found = [summary(record) for record in outcomes.records]
        assert [part(want, got) for want, got in zip(expected, found, strict=False)] + found[
            len(expected) :
        ] == expected


@pytest.mark.parametrize(
    "scenario", [each for each in SCENARIOS if each.document.get("explain")], ids=lambda scenario: scenario.name
)
async def test_explain_tells_what_the_door_does(scenario: Scenario, tmp_path: Path) -> None:
    """``explain`` comes to the same replies and to the same record, but for what only a backend can say."""
    explanation = await scenario.explain(tmp_path)
    lines = scenario.sessions[0]["session"].splitlines()
    said = {line.removeprefix("S: ") for line in lines if line.startswith("S:")}
    told = [step for step in explanation.steps if not step.reply.is_positive]
    assert [step for step in told if plain(step.reply.wire.decode().split("\r\n")[0]) not in said] == []
    found = summary(explanation.record)
    expected = scenario.document["records"][0]
    keys = {"decision", "checks", "recipients", "reverse_path", "reply"} & set(expected)
    if found["decision"] == "accepted":  # what the backend said is not known, nor whether the client goes on
        assert expected["decision"] in {"accepted by backend", "aborted"}
        keys -= {"reply", "recipients", "decision"}
    assert {key: found[key] for key in keys} == {key: expected[key] for key in keys}
    checks = [check for step in explanation.steps for check in step.checks if check.stage is not Stage.CLOSE]
    assert len(checks) == len(explanation.record.checks)
