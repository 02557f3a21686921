"""``lychgate policies``: what policies there are, and the documentation of one, made from the code."""

from typing import Any

import typer

from gateway.cli.common import ExitCode
from gateway.cli.screen import complain, console, print_json, print_page, table
from gateway.config.reference import manual, policy_tables, settings, summary
from gateway.config.registry import Registry, UnknownPolicyError
from gateway.policy import Policy
from gateway.units import format_duration


def policies(name: str | None, *, as_json: bool) -> None:
    """Carry the command out: all policies, or the documentation of one.

    Raises:
        typer.Exit: There is no such policy; with ``ExitCode.USAGE``.
    """
    registry = Registry.installed()
    if name is not None:
        policy = _get(registry, name)
        if as_json:
            print_json(describe(name, policy))
        else:
            print_page(documentation(name, policy))
        return
    found = {known: _get(registry, known) for known in registry.names}
    if as_json:
        print_json([describe(known, policy) for known, policy in found.items()])
        return
    listing = table("Policy", "What it does", "Stages", "Outcomes and their default actions")
    for known, policy in found.items():
        outcomes = ", ".join(f"{outcome.name}: {outcome.action}" for outcome in policy.outcomes.values())
        listing.add_row(known, summary(policy), ", ".join(policy.hooks()), outcomes)
    console().print(listing)


def _get(registry: Registry, name: str) -> type[Policy[Any]]:
    try:
        return registry.get(name)
    except UnknownPolicyError as error:
        complain(f"lychgate: {error}")
        raise typer.Exit(ExitCode.USAGE) from None


def documentation(name: str, policy: type[Policy[Any]]) -> str:
    """The page of a policy, in Markdown."""
    parts = [f"# {name}", summary(policy), manual(policy), policy_tables(policy).rstrip()]
    return "\n\n".join(part for part in parts if part)


def describe(name: str, policy: type[Policy[Any]]) -> dict[str, Any]:
    """A policy for programs."""
    return {
        "name": name,
        "summary": summary(policy),
        "stages": list(policy.hooks()),
        "on_error": policy.on_error.value,
        "timeout": format_duration(policy.timeout),
        "options": [
            {"name": option.name, "value": option.kind, "needed": option.default is None, "help": option.help}
            | ({} if option.default is None else {"default": option.default.strip("`")})
            for option in settings(policy.options_type)
        ],
        "outcomes": [
            {"name": outcome.name, "action": outcome.action.value, "reply": str(outcome.reply), "help": outcome.help}
            for outcome in policy.outcomes.values()
        ],
    }
