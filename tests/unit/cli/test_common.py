"""What the commands share."""

import io
from pathlib import Path

import pytest
import typer
from rich.console import Console

from gateway.cli.common import ExitCode, load_config
from gateway.cli.screen import print_whole, table

CONFIG = """\
listeners: [{smtp: 'localhost:1', tls: {mode: implicit, certificate: none.pem}}]
policies: [relay]
"""


def test_who_serves_needs_the_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration whose certificate is missing can be looked at, but not be served; the problem is printed."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    assert load_config(path).path == path
    with pytest.raises(typer.Exit) as caught:
        load_config(path, to_serve=True)
    assert caught.value.exit_code == ExitCode.CONFIG
    message = f"{path}:1:70: listeners[0].tls.certificate: there is no file '{tmp_path}/none.pem'\n"
    assert capsys.readouterr().err == message


def test_a_configuration_that_can_not_be_used_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every problem is printed on a line of standard error, and the command exits with 1."""
    path = tmp_path / "lychgate.yaml"
    path.write_text("listeners: []\nwrokers: 2\n", encoding="utf-8")
    with pytest.raises(typer.Exit) as caught:
        load_config(path)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err.split("\n") == [
        f"{path}:1:1: listeners: must not be empty",
        f"{path}:2:1: wrokers: is not a setting here (did you mean 'workers'?)",
        "",
    ]


def test_a_table_of_keys_cuts_none_however_narrow_the_window() -> None:
    """Each row is one line with every cell whole, so that a key can be given to another command."""
    key = "rate:{reverse_path=" + "l" * 300 + "}:per-sender:10/h"
    out = io.StringIO()
    listing = table("Kind", "What", "Key")
    listing.add_row("rate", "a limit with a name of several words", key)
    print_whole(Console(file=out, width=40, force_terminal=True, color_system=None), listing)
    rows = [line for line in out.getvalue().splitlines() if "rate" in line]
    assert [row.split()[-1] for row in rows] == [key]
    assert "a limit with a name of several words" in rows[0]
