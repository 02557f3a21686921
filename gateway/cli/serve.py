"""``lychgate serve`` and ``lychgate reload``: the service and its configuration."""

from typing import Any

import typer

from gateway.cli.common import DEFAULT_CONFIG, ConfigPath, ExitCode, Seconds, load_config, print_problems
from gateway.cli.control import ask_supervisor
from gateway.cli.screen import complain, console
from gateway.log import configure
from gateway.service import PATIENCE, Supervisor
from gateway.startup import ServiceError
from gateway.units import counted, rough_duration


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
        complain(f"lychgate: {error}", "red")
        raise typer.Exit(ExitCode.CONFIG) from error


def reload(
    config: ConfigPath = DEFAULT_CONFIG,
    timeout: Seconds = 90.0,
) -> None:
    """Let the running service take the configuration over, and tell whether it has.

    The exit status is 0 when the configuration is in force, 1 when it is not: with an error the old one stays. It is 4
    when the reload has to wait for transactions of reloads before it: it takes place by itself then, and nothing needs
    to be done. It is 3 when the service does not answer in time. Needs `runtime_folder` in the configuration, and the
    service's user or root.
    """
    settings = load_config(config)
    request = {"command": "reload", "path": str(settings.path), "patience": min(PATIENCE, timeout / 2)}
    told = ask_supervisor(settings, request, timeout)
    if waits_for := told.get("waits_for"):
        print_problems([*map(_waited_for, waits_for), "lychgate: not reloaded yet: it takes place when one has ended"])
        raise typer.Exit(ExitCode.WAITS)
    if told["problems"]:
        print_problems([*told["problems"], "lychgate: not reloaded: the old configuration stays in force"])
        raise typer.Exit(ExitCode.CONFIG)
    policies = counted(told["policies"], "policy", "policies")
    console().print(f"reloaded: {counted(told['listeners'], 'listener')}, {policies}")


def _waited_for(worker: dict[str, Any]) -> str:
    """One of the workers that a reload waits for."""
    left = worker["transactions"]
    transactions = "transactions not known" if left is None else counted(left, "transaction")
    return f"worker {worker['pid']} has been ending for {rough_duration(worker['since'])}: {transactions}"
