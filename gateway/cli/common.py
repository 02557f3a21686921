"""What the commands share: exit codes, loading with readable errors, printing.

Exit codes: 0 all is well; 1 the configuration can't be used (or the command's own failure); 2 the command was called
wrongly; 3 it can't be told.
"""

import json
import sys
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gateway.config.advice import file_problems
from gateway.config.load import load
from gateway.config.model import Config
from gateway.config.problems import ConfigError, Problem
from gateway.smtp.grammar import GrammarError, parse_mailbox
from gateway.smtp.path import Mailbox

_WIDEST: Final = 100_000
_PLAIN_WIDTH: Final = 240  # where nobody looks at it, a line is not broken for a window's sake

ANSWER_COLOURS: Final = {"yes": "green", "no": "red", "unknown": "yellow"}
"""Of the answers whether a recipient exists."""


class ExitCode(IntEnum):
    """What the commands exit with."""

    FINE = 0
    CONFIG = 1
    USAGE = 2
    UNKNOWN = 3


def console() -> Console:
    """Prints to standard output: in colours on a terminal, plain text without line breaks of its own elsewhere."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, markup=False, emoji=False, width=_PLAIN_WIDTH if plain else None)


def table(*columns: str) -> Table:
    """A table: ruled on a terminal, columns of plain text elsewhere."""
    return Table(*columns, box=box.SIMPLE if sys.stdout.isatty() else None, pad_edge=False)


def print_whole(out: Console, listing: Table) -> None:
    """Print a table with every cell whole and on one line, however narrow the window: other commands need the keys."""
    for column in listing.columns:
        column.no_wrap = True
    needed = Measurement.get(out, out.options.update(max_width=_WIDEST), listing).maximum
    window, out.width = out.width, max(out.width, needed)  # a terminal breaks what is too long for its line
    out.print(listing)
    out.width = window


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


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


def parse_recipient(address: str) -> Mailbox:
    """An address from the command line, also in angle brackets.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return parse_mailbox(address.removeprefix("<").removesuffix(">"))
    except GrammarError as error:
        raise typer.BadParameter(f"{address!r} is not an address", param_hint="ADDRESS") from error


def print_problems(problems: Iterable[Problem | str]) -> None:
    """Print problems to standard error, one a line, as ``file:line:column: path: what is wrong``."""
    out = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for problem in problems:
        out.print(Text(str(problem), style="red"))


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
