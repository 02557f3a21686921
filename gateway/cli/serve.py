"""``lychgate serve`` and ``lychgate reload``: the service and its configuration."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gateway.cli.common import DEFAULT_CONFIG, ConfigPath, ExitCode, load_config
from gateway.log import configure
from gateway.service import ServiceError, Supervisor, running


def serve(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Serve mail: bind the listeners, become the configured user, start the workers.

    SIGHUP reloads the configuration, SIGTERM lets transactions finish and stops. The exit status is 1 when the
    configuration is wrong or the service can't start.
    """
    settings = load_config(config, to_serve=True)
    configure(settings.log.level, settings.log.format)
    try:
        Supervisor(settings.path, settings).run()
    except ServiceError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"lychgate: {error}", style="red", markup=False)
        raise typer.Exit(ExitCode.CONFIG) from error


def reload(
    config: ConfigPath = DEFAULT_CONFIG,
    pid_file: Annotated[
        Path | None, typer.Option(help="The supervisor's pid file, if the configuration names none.")
    ] = None,
) -> None:
    """Check the configuration and tell the running service to load it again.

    A wrong configuration is told here and changes nothing. The exit status is 1 then, and when no service is running.
    """
    settings = load_config(config, to_serve=True)
    file = pid_file or settings.pid_file
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if file is None:
        console.print(
            "lychgate: the configuration names no pid_file; give --pid-file, or use your service manager's reload"
        )
        raise typer.Exit(ExitCode.USAGE)
    try:
        pid = running(file)
        if pid is None:
            console.print(f"lychgate: no service is running by {file}: the file was left behind")
            raise typer.Exit(ExitCode.CONFIG)
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError) as error:
        console.print(f"lychgate: no service is running by {file}: {error}")
        raise typer.Exit(ExitCode.CONFIG) from error
    console.print(f"lychgate: process {pid} was told to reload {settings.path}; its log tells when it has")
