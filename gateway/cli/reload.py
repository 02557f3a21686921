"""``lychgate reload``: lets the running service take the configuration over."""

from pathlib import Path

import typer

from gateway.cli.common import ExitCode, load_config, print_problems
from gateway.cli.control import ask_supervisor
from gateway.cli.screen import console
from gateway.units import counted


def reload(config: Path, timeout: float) -> None:
    """Carry the command out.

    Args:
        config: The file.
        timeout: Seconds to wait for the outcome.

    Raises:
        typer.Exit: It is not in force; with ``ExitCode.CONFIG``. It can't be said; with ``ExitCode.UNKNOWN``.
    """
    settings = load_config(config)
    told = ask_supervisor(settings, {"command": "reload", "path": str(settings.path)}, timeout)
    if told["problems"]:
        print_problems([*told["problems"], "lychgate: not reloaded: the old configuration stays in force"])
        raise typer.Exit(ExitCode.CONFIG)
    policies = counted(told["policies"], "policy", "policies")
    console().print(f"reloaded: {counted(told['listeners'], 'listener')}, {policies}")
