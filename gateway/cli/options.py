"""Options that several commands have, and how ``--config`` goes together with commands below a command."""

from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

DEFAULT_CONFIG: Final = Path("/etc/lychgate/lychgate.yaml")
CONFIG_VARIABLE: Final = "LYCHGATE_CONFIG"

ConfigPath: TypeAlias = Annotated[
    Path, typer.Option("--config", "-c", envvar=CONFIG_VARIABLE, help="The configuration file.", dir_okay=False)
]
"""The option ``--config``; its default is ``DEFAULT_CONFIG``."""

SHORTEST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 86_400.0


def _seconds(given: float) -> float:
    """Also refuses what is no number of seconds, ``nan`` and ``inf``, and what no clock can wait for."""
    if not SHORTEST_WAIT <= given <= LONGEST_WAIT:
        from gateway.cli.screen import bad_parameter  # its rich output takes a while to load

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
            from gateway.cli.screen import bad_parameter  # its rich output takes a while to load

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
        from gateway.cli.screen import bad_parameter  # the same

        raise bad_parameter(f"is given twice: {before} and {config}", param_hint="--config")
    return before


def _is_written(context: typer.Context, option: str) -> bool:
    """Whether an option stands on the command line, and not only in the environment."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
