"""``lychgate reload``: lets the running service take the configuration over."""

from pathlib import Path
from typing import Any, Final

import typer

from gateway.cli.common import ExitCode, load_config, print_problems
from gateway.cli.control import ask_supervisor
from gateway.cli.screen import console
from gateway.units import counted, rough_duration

PATIENCE: Final = 5.0
"""Seconds that a reload which has to wait for older workers is given before the command says so."""


def reload(config: Path, timeout: float) -> None:
    """Carry the command out.

    Args:
        config: The file.
        timeout: Seconds to wait for the outcome.

    Raises:
        typer.Exit: It is not in force; with ``ExitCode.CONFIG``. It can't be said; with ``ExitCode.UNKNOWN``.
            It waits, and takes place by itself; with ``ExitCode.WAITS``.
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
