"""What the commands print: the one place where text goes to the terminal.

A command shows what clients, backends, the DNS and files said. ``Screen`` makes each text harmless (``printable``), be
it printed or a cell of a table, and ``line`` each part of a text in colours. No command makes a console, a ``Text`` or
a table of its own. So a text is one line: more lines are more calls. JSON is escaped in its own way (``print_json``).
"""

import json
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias, cast

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gateway.printable import printable, printable_json

if TYPE_CHECKING:
    from gateway.lines import LineStream

_WIDEST: Final = 100_000
_PLAIN_WIDTH: Final = 240  # where nobody looks at it, a line is not broken for a window's sake

Piece: TypeAlias = str | tuple[str, str]
"""A text, or a text and its style."""


class Screen(Console):
    """Prints text as it is, without markup, and nothing that a terminal would obey."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, as rich is to show it."""
        return super().render_str(printable(text), **options)


def console(*, soft_wrap: bool = False, file: "LineStream | None" = None) -> Screen:
    """Prints to standard output: in colours on a terminal, plain text without line breaks of its own elsewhere.

    Args:
        soft_wrap: Whether the terminal is left to break long lines.
        file: Takes what is printed, so that nobody waits for a slow reader.
    """
    width = None if soft_wrap or sys.stdout.isatty() else _PLAIN_WIDTH
    stream = cast("TextIO | None", file)
    return Screen(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap, width=width)


def complain(text: str, style: str = "") -> None:
    """Print a line to standard error."""
    errors = Screen(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    errors.print(line(text, style=style))


def line(*pieces: Piece, style: str = "") -> Text:
    """A line whose parts have styles of their own."""
    parts = [(piece, "") if isinstance(piece, str) else piece for piece in pieces]
    return Text.assemble(*((printable(text), own) for text, own in parts), style=style)


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


def print_page(page: str) -> None:
    """Print Markdown: set for reading on a terminal, as it is elsewhere."""
    page = "\n".join(map(printable, page.split("\n")))
    out = console()
    if out.is_terminal:
        from rich.markdown import Markdown  # its parser takes a while to load

        out.print(Markdown(page))
    else:
        typer.echo(page)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print_plain(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_plain(text: str) -> None:
    """Print a text that is printable already, as it is."""
    typer.echo(text)


def bad_parameter(problem: str, param_hint: str | None = None) -> typer.BadParameter:
    """The error that the command was called wrongly.

    Args:
        problem: What is wrong.
        param_hint: The option or argument; the callback of one need not say it.
    """
    return typer.BadParameter(printable(problem), param_hint=param_hint)
