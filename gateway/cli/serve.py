"""``lychgate serve``: the service."""

from pathlib import Path

import typer
from rich.console import Console

from gateway.cli.common import ExitCode, load_config
from gateway.log import configure
from gateway.service import ServiceError, Supervisor


def serve(config: Path) -> None:
    """Carry the command out: return when the service has ended.

    Raises:
        typer.Exit: The configuration is wrong or the service can't start; with ``ExitCode.CONFIG``.
    """
    settings = load_config(config, to_serve=True)
    configure(settings.log.level, settings.log.format)
    try:
        Supervisor(settings.path, settings).run()
    except ServiceError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"lychgate: {error}", style="red", markup=False)
        raise typer.Exit(ExitCode.CONFIG) from error
