"""``lychgate recipients lists`` and ``accept``: the files of recipients."""

from pathlib import Path
from typing import Any

import typer

from gateway.cli.common import ExitCode, load_config
from gateway.cli.screen import bad_parameter, complain, console, line, print_json, table
from gateway.config.lists import named_lists, shelf
from gateway.config.model import Config
from gateway.tables import KeptTable, ListStatus, RecipientFile
from gateway.units import counted


def show(config: Path, *, as_json: bool) -> None:
    """Carry ``lychgate recipients lists`` out."""
    found = [_status(source.table) for source in _files(load_config(config))]
    if as_json:
        print_json([_as_data(status) for status in found])
        return
    listing = table("List", "Kind", "In force", "In the file", "State")
    for status in found:
        inside = status.entries if status.held is None else status.held.has
        colour = "green" if status.problem is None else "yellow"
        listing.add_row(
            str(status.file), status.kind, str(status.entries), str(inside), line(status.state, style=colour)
        )
    console().print(listing)


def accept(config: Path, name: str, *, as_json: bool) -> None:
    """Carry ``lychgate recipients accept`` out, for the list of that path or name.

    Raises:
        typer.Exit: It can't be accepted; with ``ExitCode.CONFIG``.
        typer.BadParameter: There is no such list, or more than one.
    """
    from gateway.startup import ServiceError, make_lists_folder  # which other commands need not load

    settings = load_config(config)
    try:
        make_lists_folder(settings)  # for the service's user, also where root is the first to accept anything
    except ServiceError as error:
        complain(f"lychgate: {error}")
        raise typer.Exit(ExitCode.CONFIG) from None
    chosen = [source.table for source in _files(settings) if _is_meant(source.table, name)]
    if not chosen:
        raise bad_parameter(f"the configuration names no file of recipients {name!r}", param_hint="NAME")
    if len({status.file for status in map(_status, chosen)}) > 1:
        paths = ", ".join(str(_status(each).file) for each in chosen)
        raise bad_parameter(f"there is more than one list {name!r}: {paths}", param_hint="NAME")
    accepted = []
    for each in chosen:
        try:
            change = each.accept()
        except (OSError, ValueError) as error:
            told = f"{error.strerror or error}: {error.filename}" if isinstance(error, OSError) else str(error)
            complain(f"lychgate: the list can't be accepted: {told}")
            raise typer.Exit(ExitCode.CONFIG) from None
        accepted.append(_as_data(_status(each)) | {"came": change.came, "went": change.went})
    if as_json:
        print_json(accepted)
        return
    for data in accepted:
        came_and_went = f"{data['came']} came, {data['went']} went"
        entries = counted(data["entries"], "entry", "entries")
        console().print(f"{data['list']} ({data['kind']}): accepted, {entries}; {came_and_went}", soft_wrap=True)


def _files(config: Config) -> list[RecipientFile]:
    kept = shelf(config.recipient_lists, writes=False)
    return [RecipientFile(file, kind, kept) for file, kind in named_lists(config)]


def _status(kept: KeptTable[Any]) -> ListStatus:
    assert kept.status is not None  # noqa: S101 - it has a file
    return kept.status


def _is_meant(kept: KeptTable[Any], name: str) -> bool:
    file = _status(kept).file
    return name in {str(file), file.name} or Path(name).absolute() == file.absolute()


def _as_data(status: ListStatus) -> dict[str, Any]:
    held = status.held
    return {
        "list": str(status.file),
        "kind": status.kind,
        "entries": status.entries,
        "known": status.is_known,
        "hindrance": status.hindrance,
        "held": None if held is None else {"entries": held.has, "came": held.came, "went": held.went},
    }
