"""The application: every command and its name.

A new command is a function in ``commands``, with Typer's annotations, and a line in ``COMMANDS``. Its docstring is its
help; it imports what it does from a file of its own when it runs.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup, TyperOption

from gateway.cli.commands import check, demo, explain, policies, recipients, reload, schema, serve, state

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


class _Group(TyperGroup):
    """Commands that are read without the library's validator, which takes as long to load as all the rest.

    The library reads ``--help`` that is not given as no value rather than as false, and loads pydantic to check it: for
    each command below a group, its help included.
    """

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """The option ``--help``: a flag that is false where it is not given."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


app = typer.Typer(
    name="lychgate",
    cls=_Group,
    help="An inbound mail policy gateway: one chain of policies at every SMTP stage, in front of a mail server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # which takes a while to load

        from gateway.cli.screen import print_plain  # the same

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
    app.add_typer(_group, cls=_Group)
