"""Options of all commands: none is taken and then ignored, and no number is a traceback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from gateway.cli.app import COMMANDS, GROUPS, app

CONFIG = """\
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:2525"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains: {example.com: {}}
policies: [relay]
runtime_folder: run
"""

NEEDED = {
    "explain": ["--client-address", "192.0.2.1", "--mail-from", "a@example.org", "--rcpt", "b@example.com"],
    "state clear": ["rate:{a}:b"],
    "recipients check": ["a@example.com"],
    "recipients flush": ["a@example.com"],
}
"""What a command must be given besides."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration of which no service is running."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(CONFIG, "utf-8")
    return str(path)


def functions() -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Every command's name in words, and its function; of groups that are commands themselves, too."""
    for function in COMMANDS:
        yield (function.__name__,), function
    for group in GROUPS:
        name = str(group.info.name)
        if group.registered_callback is not None and group.registered_callback.callback is not None:
            yield (name,), group.registered_callback.callback
        for command in group.registered_commands:
            assert command.callback is not None
            yield (name, command.name or command.callback.__name__), command.callback


ALL = dict(functions())
BELOW = [path for path in ALL if len(path) > 1]
NUMBERS = [
    (*path, option, kind)
    for path, function in ALL.items()
    for option, kind in get_type_hints(function).items()
    if kind in {int, float}
]


def test_there_are_groups_and_numbers_to_look_at() -> None:
    """The tests below have something to look at."""
    assert {group for group, _ in BELOW} == {"state", "recipients"}
    assert {("reload", "timeout", float), ("state", "limit", int), ("recipients", "list", "limit", int)} <= set(NUMBERS)


@pytest.mark.parametrize("words", BELOW, ids=" ".join)
def test_a_configuration_before_the_command_is_never_ignored(
    words: tuple[str, str], tmp_path: Path, config: str
) -> None:
    """``lychgate GROUP -c FILE COMMAND`` uses that file, or is a usage error, whatever the environment says."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("nonsense: 1\n", "utf-8")
    group, command = words
    arguments = [group, "-c", str(broken), command, *NEEDED.get(" ".join(words), [])]
    result = CliRunner().invoke(app, arguments, env={"LYCHGATE_CONFIG": config})
    assert (result.exit_code, str(broken) in result.output) == (1, True) or result.exit_code == 2, result.output


def test_a_configuration_before_and_behind_the_command(tmp_path: Path, config: str) -> None:
    """The same file twice is used; two files are an error of the command line."""
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG, "utf-8")
    same = CliRunner().invoke(app, ["state", "-c", config, "clear", "rate:{a}:b", "-c", config])
    assert (same.exit_code, "no service is running" in same.output or "can't look into" in same.output) == (1, True)
    assert CliRunner().invoke(app, ["state", "-c", config, "clear", "rate:{a}:b", "-c", str(other)]).exit_code == 2
    without = CliRunner().invoke(app, ["state", "clear", "rate:{a}:b"], env={"LYCHGATE_CONFIG": str(tmp_path / "none")})
    assert (without.exit_code, "none" in without.output) == (1, True)


@pytest.mark.parametrize("words", [["--json"], ["--kind", "rate"], ["--subject", "a"], ["--limit", "3"]])
def test_other_options_before_the_command_are_refused(words: list[str], config: str) -> None:
    """An option that the command below would never see is an error that says where it belongs, if it is known there."""
    told = "belongs behind the command" if words == ["--json"] else "does not have it"
    result = CliRunner().invoke(app, ["state", "-c", config, *words, "workers"], env={"TERMINAL_WIDTH": "200"})
    assert (result.exit_code, told in result.output) == (2, True), result.output


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: " ".join(map(str, number[:-1])))
def test_no_number_is_a_traceback(number: tuple[Any, ...], config: str) -> None:
    """Negative, infinite, absurd and no numbers at all are errors of the command line."""
    *path, option, kind = number
    values = ["nan", "-1", "inf", "-inf", "x", ""] + (["0", "1e300", "1e999"] if kind is float else ["1.5"])
    for value in values:
        arguments = [*path, f"--{option}={value}", *NEEDED.get(" ".join(path), [])]
        result = CliRunner().invoke(app, arguments, env={"LYCHGATE_CONFIG": config})
        assert result.exit_code == 2, (value, result.output, result.exception)
