"""The commands that ``docs/decision-record.md`` shows, run on records."""

import os
import subprocess
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from gateway.records import DecisionPart, RecipientRecord, ReplyRecord, encode
from gateway.verdict import Action, Check, Stage
from tests.support.records import ACCEPTED, record

pytestmark = pytest.mark.peer("jq")

PAGE = Path(__file__).parents[2] / "docs/decision-record.md"
TODAY = "2026-11-21T23:59:59.999Z"


def recipe(title: str) -> str:
    """The command below a comment of the page."""
    text = PAGE.read_text("utf-8").partition(f"    # {title}")[2]
    lines = text.partition("\n\n")[0].splitlines()[1:]
    return "\n".join(line for line in lines if not line.strip().startswith("#"))


def run(folder: Path, title: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, on the day of ``TODAY``."""
    date = folder / "bin" / "date"
    date.parent.mkdir()
    date.write_text(f"#!/bin/sh\necho {TODAY[:10]}\n")
    date.chmod(0o755)
    environment = {**os.environ, "PATH": f"{date.parent}:{os.environ['PATH']}"}
    command = ["sh", "-c", recipe(title)]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)


def check(policy: str, outcome: str, recipient: str | None = None, **more: Any) -> Check:
    """A check that refused."""
    return msgspec.structs.replace(
        ACCEPTED.checks[0], policy=policy, stage=Stage.RCPT, recipient=recipient, outcome=outcome,
        action=Action.REJECT, **more,
    )  # fmt: skip


def recipient(
    address: str, verdict: Literal["accepted", "rejected"], by: str | None = None, code: int = 550
) -> RecipientRecord:
    """A recipient."""
    return RecipientRecord(
        address=address, verdict=verdict, decided_by=by, reply=ReplyRecord(code=code, enhanced="5.1.1", text="No")
    )


def rejected(policy: str, stage: Stage, outcome: str | None) -> DecisionPart:
    """A decision to refuse."""
    return DecisionPart(result="rejected", policy=policy, stage=stage, outcome=outcome)


def test_every_refusal_of_today_is_counted_once(tmp_path: Path) -> None:
    """Recipients of accepted and refused transactions, whole messages and connections; nothing of another day."""
    good = recipient("alice@example.com", "accepted", code=250)
    records = [
        record(time=TODAY),
        record(  # two of three recipients are refused, and the message is accepted
            time=TODAY,
            recipients=[
                good,
                recipient("x@example.com", "rejected", "recipient"),
                recipient("y@e.net", "rejected", "relay"),
            ],
            checks=[check("recipient", "unknown", "x@example.com"), check("relay", "denied", "y@e.net")],
        ),
        record(  # a refusal at connect that was held, for two recipients
            time=TODAY,
            recipients=[recipient(f"{name}@example.com", "rejected", "access") for name in "ab"],
            checks=[check("access", "denied")],
            decision=rejected("access", Stage.CONNECT, "denied"),
        ),
        record(  # one recipient refused by the backend, then the message by a policy
            time=TODAY,
            recipients=[good, recipient("z@example.com", "rejected", "backend", 553)],
            checks=[check("spf", "fail", observed=True)],
            decision=rejected("dmarc", Stage.MESSAGE, "reject"),
        ),
        record(
            time=TODAY, kind="session", recipients=[], checks=[], decision=rejected("smtp", Stage.CONNECT, "timeout")
        ),
        record(time="2020-01-01T00:00:00.000Z", recipients=[recipient("x@example.com", "rejected", "recipient")]),
    ]  # fmt: skip
    (tmp_path / "records.jsonl").write_bytes(b"".join(encode(each) + b"\n" for each in records))
    done = run(tmp_path, "What was refused today")
    found = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()}
    assert found == {
        "recipient unknown": 1, "relay denied": 1, "access denied": 2, "backend 553": 1, "dmarc reject": 1,
        "smtp timeout": 1,
    }  # fmt: skip


@pytest.mark.parametrize("title", ["What was refused today", "One reference", "What observe mode", "Slow checks"])
def test_every_command_runs(tmp_path: Path, title: str) -> None:
    """On the record of an accepted message none is an error."""
    (tmp_path / "records.jsonl").write_bytes(encode(record(time=TODAY, id="0K3F5Z8Q2M7A1B.1")) + b"\n")
    done = run(tmp_path, title)
    assert done.stderr == ""
