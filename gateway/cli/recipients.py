"""``lychgate recipients``: what the running gateway remembers of recipients, and what their sources say now."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.sources import InOrder, RecipientSources
from gateway.assembly import build_groups, build_sources
from gateway.cli.common import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigPath,
    ExitCode,
    load_config,
)
from gateway.cli.control import ask_workers
from gateway.cli.screen import bad_parameter, complain, console, line, print_json, print_whole, table
from gateway.config.lists import named_lists, shelf
from gateway.config.model import Config, DomainOptions
from gateway.lookup.answer import UnverifiableError
from gateway.session import without_detail
from gateway.smtp.grammar import GrammarError, parse_domain, parse_mailbox
from gateway.smtp.path import Mailbox
from gateway.tables import KeptTable, ListStatus, RecipientFile
from gateway.units import counted, rough_duration

recipients = typer.Typer(
    name="recipients",
    help="What the running gateway remembers of recipients, and what their sources say.",
    no_args_is_help=True,
)

EXIT: Final = {True: 0, None: 3, False: 4}
"""Exit statuses of ``check``: the address exists, it can't be told, it does not; as with ``explain``."""

_WORDS: Final = {True: "yes", False: "no", None: "unknown"}
_COLOURS: Final = {"yes": "green", "no": "red", "unknown": "yellow"}

_What = Annotated[str | None, typer.Argument(help="An address or a domain; everything without it.", show_default=False)]


@recipients.command("list")
def list_(
    what: _What = None,
    config: ConfigPath = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(help="At most so many addresses of each source; 0 for all.", min=0)] = 100,
    *,
    json: AsJson = False,
) -> None:
    """Show what each worker remembers: addresses, what was said of them, and for how long that holds.

    Needs `runtime_folder` in the configuration, and the service's user or root.
    """
    settings = load_config(config)
    replies = ask_workers(settings, {"command": "recipients", "limit": limit, **_chosen(what)})
    if json:
        print_json([{"worker": worker, "sources": sources} for worker, sources in replies.items()])
        return
    out = console()
    for worker, sources in replies.items():
        for source in sources:
            away = "" if source["away"] is None else f"away for {rough_duration(source['away'])}, "
            out.print(
                f"Worker {worker}, {source['source']}: {away}{source['remembered']} remembered, "
                f"{counted(source['hits'], 'answer')} from memory, {source['asked']} from the source, "
                f"{source['failures']} of these unknown",
                soft_wrap=True,
            )
            if source["entries"]:
                print_whole(out, _listing(source["entries"]))
            if source["left_out"]:
                out.print(f"  and {source['left_out']} more; --limit 0 has all")


@recipients.command()
def flush(
    what: _What = None,
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Forget everything.")] = False,
) -> None:
    """Let every worker forget an address, a domain or everything, so that the sources are asked again.

    Needs `runtime_folder` in the configuration, and the service's user or root.
    """
    if (what is None) is not everything:
        raise bad_parameter("give an address or a domain, or --all", param_hint="WHAT")
    settings = load_config(config)
    replies = ask_workers(settings, {"command": "flush_recipients", **_chosen(what)})
    console().print(f"{sum(replies.values())} forgotten, in {counted(len(replies), 'worker')}")


@recipients.command()
def check(
    address: Annotated[str, typer.Argument(help="The address to ask about.")],
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    json: AsJson = False,
) -> None:
    """Ask the sources of the address's domain now, whatever is remembered, and say what each said.

    The exit status is 0 when the address exists, 4 when it does not, and 3 when that can't be told.
    """
    settings = load_config(config)
    mailbox = _mailbox(address)
    options = settings.domain(mailbox.domain)
    if options is None:
        raise bad_parameter(f"{mailbox.domain} is none of our domains", param_hint="ADDRESS")
    said = asyncio.run(_ask(settings, options, mailbox))
    found = _verdict(said)
    if json:
        steps = [{"source": step.source, "address": step.address, "answer": _WORDS[step.exists], "said": step.words}
                 for step in said]  # fmt: skip
        print_json({"address": address, "answer": _WORDS[found], "steps": steps})
    else:
        out = console()
        for step in said:
            word = _WORDS[step.exists]
            words = f" ({step.words})" if step.words else ""
            out.print(line(f"{step.source}: {step.address}: ", (word, _COLOURS[word]), words), soft_wrap=True)
        if not said:
            out.print("every address of the domain is taken, and the backend has its say")
        out.print(line(f"Result: {_WORDS[found]}", style="bold"))
    raise typer.Exit(EXIT[found])


@recipients.command()
def lists(config: ConfigPath = DEFAULT_CONFIG, *, json: AsJson = False) -> None:
    """Show the files of recipients: how many entries are in force, and what is held back until it is accepted."""
    found = [_status(source.table) for source in _files(load_config(config))]
    if json:
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


@recipients.command()
def accept(
    name: Annotated[str, typer.Argument(help="The file of a list, by its path or its name.")],
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    json: AsJson = False,
) -> None:
    """Accept a file of recipients as it is now, also if it is empty or has lost many entries.

    Workers that run notice within seconds. Needs the service's user or root.
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
    if json:
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


@dataclass(frozen=True, slots=True)
class _Said:
    """What one source said of one address; ``exists`` is None when it could not tell."""

    source: str
    address: str
    exists: bool | None
    words: str = ""


async def _ask(config: Config, domain: DomainOptions, mailbox: Mailbox) -> list[_Said]:
    resolver = DnsResolver.from_options(config.dns)
    groups = build_groups(config, resolver)
    sources = build_sources(config, groups)
    asks_backend = any(section.probe is not None for section in domain.recipients or ())
    if asks_backend:
        await groups[domain.backend].start()
    try:
        return [said async for said in _answers(sources, domain, mailbox)]
    finally:
        await sources.close()
        if asks_backend:
            await groups[domain.backend].stop()
        await resolver.close()


async def _answers(sources: RecipientSources, domain: DomainOptions, mailbox: Mailbox) -> AsyncIterator[_Said]:
    """What each source says, in order, up to the first yes; with and then without the detail of a subaddress."""
    if domain.recipients is None or any(section.any for section in domain.recipients):
        return
    plain = without_detail(mailbox.local_part, domain.subaddress)
    for local_part in [mailbox.local_part] if plain is None else [mailbox.local_part, plain]:
        for section in domain.recipients:
            if section.has_tables:
                said = await _listed(InOrder(sources.tables(section, domain)), local_part, mailbox.domain)
                yield said
                if said.exists:
                    return
            for source, name in sources.asked(section, domain, mailbox.domain):
                said = await _said(source, local_part, name)
                yield said
                if said.exists:
                    return


async def _listed(tables: InOrder, local_part: str, domain: str) -> _Said:
    address = f"{local_part}@{domain}"
    try:
        return _Said("tables", address, await tables.find(local_part, domain))
    except UnverifiableError as error:
        return _Said("tables", address, None, str(error))


async def _said(source: CachedSource, local_part: str, domain: str) -> _Said:
    address = f"{local_part}@{domain}"
    try:
        answer = await source.ask(local_part, domain)
    except UnverifiableError as error:
        return _Said(source.name, address, None, str(error))
    return _Said(source.name, address, answer.exists, answer.words)


def _verdict(said: list[_Said]) -> bool | None:
    if not said or any(step.exists for step in said):
        return True
    return None if any(step.exists is None for step in said) else False


def _mailbox(address: str) -> Mailbox:
    try:
        return parse_mailbox(address.removeprefix("<").removesuffix(">"))
    except GrammarError as error:
        raise bad_parameter(f"{address!r} is not an address", param_hint="ADDRESS") from error


def _chosen(what: str | None) -> dict[str, str | None]:
    """The part of a request that says which addresses are meant."""
    if what is None:
        return {}
    if "@" in what.removeprefix("@"):
        mailbox = _mailbox(what)
        return {"local_part": mailbox.local_part, "domain": mailbox.domain}
    try:
        return {"domain": parse_domain(what.removeprefix("@"))}
    except GrammarError as error:
        raise bad_parameter(f"{what!r} is neither an address nor a domain", param_hint="WHAT") from error


def _listing(entries: list[dict[str, Any]]) -> Table:
    listing = table("Address", "Exists", "Said", "Asked", "Holds for")
    for entry in entries:
        word = entry["answer"]
        stale = " (old)" if entry["stale"] else ""
        listing.add_row(
            entry["address"],
            line(word + stale, style=_COLOURS[word]),
            entry["said"],
            f"{rough_duration(entry['age'])} ago",
            rough_duration(entry["holds"]),
        )
    return listing
