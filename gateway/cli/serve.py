"""``lychgate serve``: the service."""

from pathlib import Path

import typer

from gateway.cli.common import ExitCode, load_config
from gateway.cli.screen import complain
from gateway.log import configure, take_over
from gateway.service import Supervisor
from gateway.startup import ServiceError


def serve(config: Path) -> None:
    """Carry the command out: return when the service has ended.

    Raises:
        typer.Exit: The configuration is wrong or the service can't start; with ``ExitCode.CONFIG``.
    """
    settings = load_config(config, to_serve=True)
    configure(settings.log.level, settings.log.format, waiting=settings.log.waiting)
    take_over()
    try:
        Supervisor(settings.path, settings).run()
    except ServiceError as error:
        complain(f"lychgate: {error}", "red")
        raise typer.Exit(ExitCode.CONFIG) from error
