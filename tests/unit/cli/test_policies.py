"""``lychgate policies``: the list, and one policy's documentation."""

import json
import os
import pty
import re
import subprocess
import sys

from typer.testing import CliRunner, Result

from gateway.cli.app import COMMANDS, app


def run(*arguments: str) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, arguments)


def test_the_list() -> None:
    """Each installed policy has a line with its summary, stages, outcomes and default actions."""
    result = run("policies")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.split("\n")]
    assert "size Refuses messages that are larger than the limit. mail, rcpt, message too_large: reject" in lines
    assert {line.partition(" ")[0] for line in lines} >= {"access", "limits", "loop", "recipient", "relay", "size"}


def test_one_policy() -> None:
    """A policy's documentation has its summary, its manual, its options and its outcomes."""
    result = run("policies", "size")
    assert result.exit_code == 0
    assert result.output.startswith("# size\n\nRefuses messages that are larger than the limit.\n\nRuns at MAIL")
    assert "| `limit` | size |" in result.output
    assert "| `too_large` | `reject` | `552 5.3.4 Message size exceeds the limit` |" in result.output


def test_for_programs() -> None:
    """JSON has the same, for all policies or for one."""
    found = {policy["name"]: policy for policy in json.loads(run("policies", "--json").stdout)}
    size = found["size"]
    assert json.loads(run("policies", "size", "--json").stdout) == size
    assert (size["stages"], size["on_error"], size["timeout"]) == (["mail", "rcpt", "message"], "defer", "10s")
    assert [(option["name"], option["value"], option["needed"]) for option in size["options"]] == [
        ("limit", "size", False)
    ]
    assert [(outcome["name"], outcome["action"]) for outcome in size["outcomes"]] == [("too_large", "reject")]


def test_an_unknown_policy_is_a_wrong_call() -> None:
    """The nearest name is suggested, and how to install another package's."""
    result = run("policies", "sise")
    assert result.exit_code == 2
    assert "there is no policy 'sise' (did you mean 'size'?)" in result.stderr
    assert "pip install" in result.stderr


def test_every_command_has_help() -> None:
    """Each command can be asked for its options."""
    for command in COMMANDS:
        for option in ("--help", "-h"):
            result = run(command.__name__, option)
            assert result.exit_code == 0
            assert (command.__doc__ or "").split()[0] in result.output


def test_groups_and_what_is_below_them_have_help() -> None:
    """``-h`` is taken wherever ``--help`` is."""
    for words in ([], ["state"], ["state", "clear"], ["state", "workers"], ["recipients"], ["recipients", "check"]):
        assert run(*words, "-h").exit_code == 0
        assert run(*words, "-h").output == run(*words, "--help").output


def test_a_page_is_set_for_reading_on_a_terminal() -> None:
    """No Markdown is to be seen there: no marks of headings, no bars of tables, no backticks."""
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "policies", "size"]
    terminal, other = pty.openpty()
    with subprocess.Popen(command, stdout=other, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}) as process:
        os.close(other)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            shown += part
    os.close(terminal)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert "too_large" in text
    assert not re.search(r"^#|\|[ -]|`", text, re.MULTILINE)
