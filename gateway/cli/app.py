"""The application: every command and its name.

A new command is a function in a file of its own, with Typer's annotations, and one line in ``COMMANDS``. Its
docstring is its help.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import typer

from gateway.cli.check import check
from gateway.cli.demo import demo
from gateway.cli.explain import explain
from gateway.cli.policies import policies
from gateway.cli.recipients import recipients
from gateway.cli.schema import schema
from gateway.cli.screen import print_plain
from gateway.cli.serve import reload, serve
from gateway.cli.state import state

COMMANDS: Final[tuple[Callable[..., Any], ...]] = (
    serve,
    check,
    reload,
    explain,
    policies,
    schema,
    demo,
)
"""The commands in the order of the help; a command is called by its function's name."""

app = typer.Typer(
    name="lychgate",
    help="An inbound mail policy gateway: one chain of policies at every SMTP stage, in front of a mail server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if wanted:
        try:
            print_plain(version("lychgate"))
        except PackageNotFoundError:
            print_plain("not installed")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


GROUPS: Final[tuple[typer.Typer, ...]] = (recipients, state)
"""Commands with commands below them."""

for _command in COMMANDS:
    app.command(_command.__name__)(_command)
for _group in GROUPS:
    app.add_typer(_group)
