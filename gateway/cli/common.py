"""What the commands share: exit codes, the option ``--config``, loading with readable errors.

Exit codes: 0 all is well; 1 the configuration can't be used (or the command's own failure); 2 the command was called
wrongly; 3 it can't be told; 4 it is going to be done, but is not yet.
"""

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

from gateway.cli.screen import bad_parameter, complain
from gateway.config.advice import file_problems
from gateway.config.load import load
from gateway.config.model import Config
from gateway.config.problems import ConfigError, Problem

DEFAULT_CONFIG: Final = Path("/etc/lychgate/lychgate.yaml")
CONFIG_VARIABLE: Final = "LYCHGATE_CONFIG"


class ExitCode(IntEnum):
    """What the commands exit with."""

    FINE = 0
    CONFIG = 1
    USAGE = 2
    UNKNOWN = 3
    WAITS = 4


ConfigPath: TypeAlias = Annotated[
    Path, typer.Option("--config", "-c", envvar=CONFIG_VARIABLE, help="The configuration file.", dir_okay=False)
]
"""The option ``--config``; its default is ``DEFAULT_CONFIG``."""

SHORTEST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 86_400.0


def _seconds(given: float) -> float:
    """Also refuses what is no number of seconds, ``nan`` and ``inf``, and what no clock can wait for."""
    if not SHORTEST_WAIT <= given <= LONGEST_WAIT:
        raise bad_parameter(f"{given:g} is not from {SHORTEST_WAIT:g} to {LONGEST_WAIT:g} seconds")
    return given


Seconds: TypeAlias = Annotated[float, typer.Option(callback=_seconds, help="Seconds to wait for the outcome.")]
"""An option that says how long to wait."""

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The option ``--json``."""


def config_before(context: typer.Context, config: Path) -> None:
    """In a group that is a command itself: ``--config`` before a command below it holds for that one, too.

    Raises:
        typer.BadParameter: Another option stands there, which the command below would never see.
    """
    for parameter in context.command.params:
        if not _is_written(context, str(parameter.name)):
            continue
        if parameter.name == "config":
            context.obj = config
        else:
            option, below = parameter.opts[0], str(context.invoked_subcommand)
            group: Any = context.command  # typer gives the type of a command that has none below it
            known = {name for other in group.commands[below].params for name in other.opts}
            place = f"{context.command_path} {below}"
            told = f"belongs behind the command: {place} {option}" if option in known else f"{place} does not have it"
            raise bad_parameter(told, param_hint=option)


def config_given(context: typer.Context, config: Path) -> Path:
    """In a command below such a group: the configuration file, whether ``--config`` stands before the command or after.

    Raises:
        typer.BadParameter: It stands in both places, with different files.
    """
    before = None if context.parent is None else context.parent.obj
    if not isinstance(before, Path):
        return config
    if _is_written(context, "config") and config != before:
        raise bad_parameter(f"is given twice: {before} and {config}", param_hint="--config")
    return before


def _is_written(context: typer.Context, option: str) -> bool:
    """Whether an option stands on the command line, and not only in the environment."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def load_config(path: Path, *, to_serve: bool = False) -> Config:
    """Load the configuration, or print everything that is wrong to standard error.

    Args:
        path: The file.
        to_serve: Whether certificates and keys must be usable by this process, too.

    Raises:
        typer.Exit: It can't be used; with ``ExitCode.CONFIG``.
    """
    try:
        config = load(path)
        problems = file_problems(config) if to_serve else []
    except ConfigError as error:
        print_problems(error.problems)
        raise typer.Exit(ExitCode.CONFIG) from None
    if problems:
        print_problems(problems)
        raise typer.Exit(ExitCode.CONFIG)
    return config


def print_problems(problems: Iterable[Problem | str]) -> None:
    """Print problems to standard error, one a line, as ``file:line:column: path: what is wrong``."""
    for problem in problems:
        complain(str(problem), "red")


def problem_json(problem: Problem) -> dict[str, Any]:
    """A problem for programs."""
    line, column = (None, None) if problem.position is None else problem.position
    return {
        "file": str(problem.file),
        "line": line,
        "column": column,
        "path": problem.where,
        "message": problem.message,
    }
