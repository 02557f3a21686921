"""``lychgate explain``: its output, its exit statuses, its errors."""

import json
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

from gateway import records
from gateway.cli.app import app
from gateway.cli.explain import exit_status

CONFIG = """
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:25"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains: {example.com: {recipients: {list: [alice]}}}
policies:
  - relay
  - recipient
"""
BASE = ("--client-address", "192.0.2.1", "--mail-from", "carol@example.org")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration and a zone."""
    (tmp_path / "lychgate.yaml").write_text(CONFIG)
    (tmp_path / "zone.yaml").write_text("192.0.2.1: {PTR: [mail.example.org]}\nmail.example.org: {A: [192.0.2.1]}\n")
    (tmp_path / "mail.eml").write_text("Subject: [red]hello[/red]\n\nA line\n")
    return tmp_path


def run(folder: Path, *arguments: str, stdin: bytes | None = None) -> Result:
    """Run the command line."""
    where = ("--config", str(folder / "lychgate.yaml"), "--dns-zone", str(folder / "zone.yaml"))
    return CliRunner().invoke(app, ["explain", *where, *arguments], input=stdin)


def test_every_step_is_told(folder: Path) -> None:
    """Commands, policies with what they found, replies, and the result at the end; plain text where nobody looks."""
    result = run(folder, *BASE, "--rcpt", "alice@example.com", "--rcpt", "<bob@example.com>", str(folder / "mail.eml"))
    assert result.exit_code == 7
    lines = result.output.split("\n")
    assert "RCPT TO:<bob@example.com>" in lines
    assert any("recipient" in line and "unknown -> reject" in line for line in lines)
    assert any(line.startswith("  -> 550 5.1.1 User unknown [") for line in lines)
    assert "the message, 37 octets" in lines
    assert "Not asked: the backend 'postfix', which has its say at RCPT and at the end of the message" in lines
    assert result.output.endswith("Result: mixed: 1 of 2 recipients accepted\n")
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "decision"),
    [
        (["--rcpt", "alice@example.com"], 0, "accepted"),
        (["--rcpt", "bob@example.com"], 4, "rejected"),
        (["--rcpt", "bob@elsewhere.example", "--login", "carol"], 0, "accepted"),
        (["--rcpt", "alice@example.com", "--rcpt", "bob@example.com"], 7, "accepted"),
        (["--rcpt", "bob@example.com", "--rcpt", "carol@example.com"], 4, "rejected"),
    ],
)
def test_the_exit_status_says_what_would_happen(folder: Path, arguments: list[str], status: int, decision: str) -> None:
    """For scripts; ``--json`` prints the decision record."""
    result = run(folder, *BASE, *arguments, "--json")
    assert result.exit_code == status
    assert json.loads(result.output)["decision"]["result"] == decision


def test_the_null_reverse_path_and_standard_input(folder: Path) -> None:
    """``<>`` is taken as it is written, and a message can come through a pipe, with either kind of line ends."""
    for stdin in (b"Subject: x\n\nHello\n", b"Subject: x\r\n\r\nHello\r\n"):
        arguments = ("--client-address", "192.0.2.1", "--mail-from", "<>", "--rcpt", "alice@example.com", "--json", "-")
        record = json.loads(run(folder, *arguments, stdin=stdin).output)
        assert record["reverse_path"] == ""
        assert record["message"]["size"] == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--client-address", "mail.example.org", "--mail-from", "", "--rcpt", "a@example.com"], "not an IP address"),
        ([*BASE, "--rcpt", "a@example.com", "--listener", "127.0.0.1:26"], "there is no listener"),
        ([*BASE, "--rcpt", "a@example.com", "missing.eml"], "can not read missing.eml"),
        ([*BASE, "--rcpt", "a@example.com", "--dns-zone", "missing.yaml"], "missing.yaml"),
    ],
)
def test_a_wrong_call_is_2(folder: Path, arguments: list[str], message: str) -> None:
    """And told without a traceback."""
    result = run(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ").replace("│ ", "")


def test_a_wrong_configuration_is_1(folder: Path) -> None:
    """As with every command."""
    (folder / "lychgate.yaml").write_text("listeners: nonsense\n")
    assert run(folder, *BASE, "--rcpt", "a@example.com").exit_code == 1


def test_a_refusal_that_is_held_is_told_where_it_falls(folder: Path) -> None:
    """The step shows the reply that the client sees, and that a refusal waits for RCPT; an observed one does not."""
    for mode, is_held in (("enforce", True), ("observe", False)):
        chain = f"policies:\n  - access: {{deny: {{clients: [192.0.2.1]}}, mode: {mode}}}\n  - relay\n"
        (folder / "lychgate.yaml").write_text(CONFIG.partition("policies:")[0] + chain)
        result = run(folder, *BASE, "--rcpt", "alice@example.com")
        lines = result.output.split("\n")
        after = lines[lines.index("connect") + 1 : lines.index("EHLO client.invalid")]
        assert any(line.startswith("  -> 220 ") for line in after), result.output
        assert any("held until RCPT" in line and "access: " in line for line in after) is is_held, result.output
        assert result.exit_code == (4 if is_held else 0)


def test_what_was_not_asked_is_told(folder: Path) -> None:
    """Backends, probes of recipients, and with ``--no-state`` what limits have counted."""
    text = CONFIG.replace("{list: [alice]}", "{probe: true}") + "  - rate_limit: {limit: 9/h}\n"
    (folder / "lychgate.yaml").write_text(text)
    output = run(folder, *BASE, "--rcpt", "alice@example.com", "--no-state").output
    told = [line.partition(": ")[2] for line in output.split("\n") if line.startswith("Not asked: ")]
    assert told == [
        "the backend 'postfix', which has its say at RCPT and at the end of the message",
        "the backend whether alice@example.com exists (probe)",
        "the state: what rate_limit counted so far is taken to be nothing",
    ]


def test_every_result_has_an_exit_status() -> None:
    """For scripts; every record's result has one."""
    assert {result: exit_status(result) for result in (*get_args(records.Result), "mixed")} == {
        "accepted": 0, "none": 0, "deferred": 3, "rejected": 4, "aborted": 4, "discarded": 5, "disconnected": 6,
        "mixed": 7, "quarantined": 8,
    }  # fmt: skip
