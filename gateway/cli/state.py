"""``lychgate state``: what workers and machines count together: limits near their brim, the greylist, connections."""

import asyncio
from typing import Annotated, Any

import typer
from rich.table import Table

from gateway.adapters.redis_state import RedisState
from gateway.adapters.state_view import entry_json, nearest
from gateway.cli.common import DEFAULT_CONFIG, AsJson, ConfigPath, ExitCode, console, load_config, print_json, table
from gateway.cli.control import ask_workers
from gateway.config.model import Config
from gateway.log import printable
from gateway.state import Kind, StateUnavailableError
from gateway.units import format_duration

state = typer.Typer(name="state", help="What workers and machines count together.", invoke_without_command=True)


@state.callback()
def show(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    kind: Annotated[Kind | None, typer.Option(help="Only these entries.", show_default=False)] = None,
    subject: Annotated[
        str, typer.Option(help="Only entries about this: a part of a subject, such as an address.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(help="At most so many entries; 0 for all.", min=0)] = 50,
    *,
    json: AsJson = False,
) -> None:
    """Show limits and connections, the fullest first, and the greylist; or clear an entry.

    With `memory:` the running service is asked, by the `runtime_folder` of the configuration.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_config(config)
    found = _entries(settings, kind, subject, limit)
    if json:
        print_json({"state": str(settings.state.place), **found})
        return
    out = console()
    out.print(f"{settings.state.place}: {found['total']} entries", soft_wrap=True)
    if found["entries"]:
        out.print(_listing(found["entries"]))
    if found["total"] > len(found["entries"]):
        out.print(f"and {found['total'] - len(found['entries'])} more; --limit 0 has all")


@state.command()
def clear(
    key: Annotated[str, typer.Argument(help="The entry's key, as `lychgate state` shows it; in quotes for the shell.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Forget one entry: an empty bucket, a triplet that is new again."""
    settings = load_config(config)
    if settings.state.is_shared:
        cleared = _run(settings, lambda shared: shared.clear(key))
    else:
        cleared = any(ask_workers(settings, {"command": "clear_state", "key": key}).values())
    if not cleared:
        typer.echo(f"lychgate: there is no entry {printable(key)}", err=True)
        raise typer.Exit(ExitCode.CONFIG)
    typer.echo("cleared")


def _entries(settings: Config, kind: Kind | None, subject: str, limit: int) -> dict[str, Any]:
    if not settings.state.is_shared:
        wanted = {"kind": None if kind is None else kind.value, "subject": subject, "limit": limit}
        replies = ask_workers(settings, {"command": "state", **wanted}).values()
        entries = [entry for reply in replies for entry in reply["entries"]]
        return {"total": sum(reply["total"] for reply in replies), "entries": nearest(entries, limit)}

    async def read(shared: RedisState) -> dict[str, Any]:
        found = [entry_json(entry) async for entry in shared.entries(kind) if subject in entry.subject]
        return {"total": len(found), "entries": nearest(found, limit)}

    found: dict[str, Any] = _run(settings, read)
    return found


def _run(settings: Config, what: Any) -> Any:
    """Do something with the shared state.

    Raises:
        typer.Exit: It can't be reached; with ``ExitCode.CONFIG``.
    """

    async def run() -> Any:
        shared = RedisState(settings.state)
        try:
            return await what(shared)
        finally:
            await shared.stop()

    try:
        return asyncio.run(run())
    except StateUnavailableError as error:
        typer.echo(f"lychgate: the state can't be reached: {printable(str(error))}", err=True)
        raise typer.Exit(ExitCode.CONFIG) from None


def _listing(entries: list[dict[str, Any]]) -> Table:
    listing = table("Kind", "Whom", "Limit", "Counted", "Of", "Gone in", "Key")
    for entry in entries:
        listing.add_row(
            entry["kind"],
            printable(entry["subject"]),
            printable(entry["name"]),
            f"{entry['level']:g}{_note(entry)}",
            "" if entry["limit"] is None else f"{entry['limit']:g}",
            format_duration(max(1, round(entry["expires"]))),
            printable(entry["key"]),
        )
    return listing


def _note(entry: dict[str, Any]) -> str:
    if entry.get("waiting"):
        return f", waiting for {format_duration(max(1, round(entry['age'])))}"
    return ", held" if entry.get("held") else ""
