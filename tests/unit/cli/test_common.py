"""What the commands share."""

from pathlib import Path

import pytest
import typer

from gateway.cli.common import ExitCode, load_config

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
