"""What the commands share: exit codes, loading with readable errors.

Exit codes: 0 all is well; 1 the configuration can't be used (or the command's own failure); 2 the command was called
wrongly; 3 it can't be told; 4 it is going to be done, but is not yet.
"""

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import typer

from gateway.cli.screen import bad_parameter, complain
from gateway.config.advice import file_problems
from gateway.config.load import load
from gateway.config.model import Config
from gateway.config.problems import ConfigError, Problem
from gateway.log import configure
from gateway.smtp.grammar import GrammarError, parse_mailbox
from gateway.smtp.path import Mailbox

ANSWER_COLOURS: Final = {"yes": "green", "no": "red", "unknown": "yellow"}
"""Of the answers whether a recipient exists."""


class ExitCode(IntEnum):
    """What the commands exit with."""

    FINE = 0
    CONFIG = 1
    USAGE = 2
    UNKNOWN = 3
    WAITS = 4


def load_config(path: Path, *, to_serve: bool = False) -> Config:
    """Load the configuration, or print everything that is wrong to standard error.

    Args:
        path: The file.
        to_serve: Whether certificates and keys must be usable by this process, too.

    Raises:
        typer.Exit: It can't be used; with ``ExitCode.CONFIG``.
    """
    configure("warning", "text")  # standard output is the command's own; ``serve`` sets its log up once more
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


def parse_recipient(address: str) -> Mailbox:
    """An address from the command line, also in angle brackets.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return parse_mailbox(address.removeprefix("<").removesuffix(">"))
    except GrammarError as error:
        raise bad_parameter(f"{address!r} is not an address", param_hint="ADDRESS") from error


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
