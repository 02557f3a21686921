"""``lychgate state``: what workers and machines count together: limits near their brim, the greylist, connections."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from gateway.adapters.state.view import entry_json, is_about, nearest
from gateway.cli.common import (
    ExitCode,
    load_config,
)
from gateway.cli.control import ask_workers
from gateway.cli.screen import bad_parameter, complain, console, print_json, print_whole, table
from gateway.config.model import Config
from gateway.state import Kind, StateUnavailableError
from gateway.units import counted, rough_duration

if TYPE_CHECKING:
    from gateway.adapters.state.redis import RedisState


def show(config: Path, kind: Kind | None, subject: str, limit: int, *, as_json: bool) -> None:
    """Carry ``lychgate state`` out: show at most ``limit`` entries (0 for all) of a kind and about a subject."""
    settings = load_config(config)
    found = _entries(settings, kind, subject, limit)
    if as_json:
        print_json({"state": str(settings.state.place), **found})
        return
    out = console()
    out.print(f"{counted(found['total'], 'entry', 'entries')} in {settings.state.place}", soft_wrap=True)
    if found["entries"]:
        print_whole(out, _listing(found["entries"]))
    if found["total"] > len(found["entries"]):
        out.print(f"and {found['total'] - len(found['entries'])} more; --limit 0 has all")


def clear(config: Path, key: str) -> None:
    """Carry ``lychgate state clear`` out.

    Raises:
        typer.Exit: There is no such entry; with ``ExitCode.CONFIG``.
    """
    settings = load_config(config)
    if settings.state.is_shared:
        cleared = _run(settings, lambda shared: shared.clear(key))
    else:
        cleared = any(ask_workers(settings, {"command": "clear_state", "key": key}).values())
    if not cleared:
        complain(f"lychgate: there is no entry {key}")
        raise typer.Exit(ExitCode.CONFIG)
    console().print("cleared")


def workers(config: Path, *, as_json: bool) -> None:
    """Carry ``lychgate state workers`` out.

    Raises:
        typer.BadParameter: The state is each worker's own memory.
    """
    settings = load_config(config)
    if not settings.state.is_shared:
        raise bad_parameter("the state is each worker's own memory; only Redis can be away", param_hint="state")
    replies = ask_workers(settings, {"command": "state_health"})
    if as_json:
        print_json({str(worker): servers for worker, servers in replies.items()})
        return
    for worker, servers in replies.items():
        if not servers:
            console().print(f"Worker {worker}: has asked nothing so far")
        for server in servers:
            away = "available" if server["away"] is None else f"away for {rough_duration(server['away'])}"
            console().print(
                f"Worker {worker}, {server['server']}: {away}, "
                f"{counted(server['outages'], 'outage')} so far, "
                f"{counted(server['unanswered'], 'question')} without an answer",
                soft_wrap=True,
            )


def _entries(settings: Config, kind: Kind | None, subject: str, limit: int) -> dict[str, Any]:
    if not settings.state.is_shared:
        wanted = {"kind": None if kind is None else kind.value, "subject": subject, "limit": limit}
        replies = ask_workers(settings, {"command": "state", **wanted}).values()
        entries = [entry for reply in replies for entry in reply["entries"]]
        return {"total": sum(reply["total"] for reply in replies), "entries": nearest(entries, limit)}

    async def read(shared: "RedisState") -> dict[str, Any]:
        found = [entry_json(entry) async for entry in shared.entries(kind) if is_about(entry, subject)]
        return {"total": len(found), "entries": nearest(found, limit)}

    found: dict[str, Any] = _run(settings, read)
    return found


def _run(settings: Config, what: Any) -> Any:
    """Do something with the shared state.

    Raises:
        typer.Exit: It can't be reached; with ``ExitCode.CONFIG``.
    """
    from gateway.adapters.state.redis import RedisState  # the driver takes a while to load

    async def run() -> Any:
        shared = RedisState(settings.state)
        try:
            return await what(shared)
        finally:
            await shared.stop()

    try:
        return asyncio.run(run())
    except StateUnavailableError as error:
        complain(f"lychgate: the state can't be reached: {error}")
        raise typer.Exit(ExitCode.CONFIG) from None


def _listing(entries: list[dict[str, Any]]) -> Table:
    listing = table("Kind", "Whom", "What", "Counted", "Of", "Gone in", "Key")
    for entry in entries:
        listing.add_row(
            entry["kind"],
            entry["subject"],
            entry.get("envelope") or entry["name"],
            f"{round(entry['level'], 1):g}{_note(entry)}",
            "" if entry["limit"] is None else f"{entry['limit']:g}",
            rough_duration(entry["expires"]),
            entry["key"],
        )
    return listing


def _note(entry: dict[str, Any]) -> str:
    """What else there is to say of what is counted."""
    if entry["kind"] == Kind.GREYLIST:
        return f" passed, first came {rough_duration(entry['age'])} ago" if entry.get("waiting") else " passed"
    return f", shut out for {rough_duration(entry['held'])}" if entry.get("held") else ""
