"""``lychgate recipients list`` and ``flush``: what the running gateway remembers of recipients."""

from pathlib import Path
from typing import Any

from rich.table import Table

from gateway.cli.common import ANSWER_COLOURS, load_config, parse_recipient
from gateway.cli.control import ask_workers
from gateway.cli.screen import bad_parameter, console, line, print_json, print_whole, table
from gateway.smtp.grammar import GrammarError, parse_domain
from gateway.units import counted, rough_duration


def show(config: Path, what: str | None, limit: int, *, as_json: bool) -> None:
    """Carry ``lychgate recipients list`` out, for an address, a domain or (None) everything.

    At most ``limit`` addresses of each source are shown; 0 for all.
    """
    settings = load_config(config)
    replies = ask_workers(settings, {"command": "recipients", "limit": limit, **_chosen(what)})
    if as_json:
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


def flush(config: Path, what: str | None, *, everything: bool) -> None:
    """Carry ``lychgate recipients flush`` out, for an address or a domain, or for everything.

    Raises:
        typer.BadParameter: Neither is given, or both.
    """
    if (what is None) is not everything:
        raise bad_parameter("give an address or a domain, or --all", param_hint="WHAT")
    settings = load_config(config)
    replies = ask_workers(settings, {"command": "flush_recipients", **_chosen(what)})
    console().print(f"{sum(replies.values())} forgotten, in {counted(len(replies), 'worker')}")


def _chosen(what: str | None) -> dict[str, str | None]:
    """The part of a request that says which addresses are meant."""
    if what is None:
        return {}
    if "@" in what.removeprefix("@"):
        mailbox = parse_recipient(what)
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
            line(word + stale, style=ANSWER_COLOURS[word]),
            entry["said"],
            f"{rough_duration(entry['age'])} ago",
            rough_duration(entry["holds"]),
        )
    return listing
