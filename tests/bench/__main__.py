"""Measure the gateway against its peers and print one table: ``python -m tests.bench`` (``make bench``).

Everything in the table comes from one run on this machine: smtp-sink itself, a Postfix ``smtpd_proxy_filter`` before
it, and the gateway before it (``servers``), measured in turns (``figures``). Absolute figures drift from run to run and
from machine to machine; the ratios are what to look at. Nothing is asserted: the table states what is aimed at.

DKIM-signed mail whose sender is checked is measured against Postfix with milters, too (``authentication``). A second
table has the cost of verifying signatures against dkimpy (``dkim``), a third that of SPF against pyspf (``spf``), a
fourth that of DNS questions by several engines (``dns_engines``), a fifth has what commands take that only load and
print (``commands``), a sixth the cost of counting in Redis (``state``), a seventh what mail waits for while Redis is
away (``outages``), two more what look-up tables cost, and a list of a million recipients (``tables``).

Options: ``--quick`` for one short round, ``--rounds N``, ``--only NAME`` (repeatable) for some of the measurements, and
``--base FOLDER`` to measure the gateway of another working copy (``git worktree add FOLDER COMMIT``) in the same turns,
which is how a change is judged.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.status import Status

from tests.bench import authentication, commands, dkim, dns_engines, figures, outages, report, spf, state, tables
from tests.bench.figures import Effort
from tests.bench.processes import BenchError
from tests.bench.servers import PostfixProxy, Server, Sink, gateway, postfix_proxy, smtp_sink, why_no_postfix
from tests.support.peers import is_installed

_WIDTH: Final = 160
_WITH_PEERS: Final = ("new", "kept", "big", "latency")
MEASUREMENTS: Final = (
    *_WITH_PEERS,
    "idle",
    "memory",
    "authentication",
    "dkim",
    "spf",
    "dns",
    "commands",
    "tables",
    "state",
    "outages",
)


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    effort = Effort(rounds=1, seconds=1.0, transactions=500) if arguments.quick else Effort()
    if arguments.rounds is not None:
        effort = replace(effort, rounds=arguments.rounds)
    chosen = frozenset(arguments.only or MEASUREMENTS)
    console = _console()
    if "dkim" in chosen:
        console.print(dkim.measured(rounds=min(effort.rounds, 3), seconds=0.3))
    if "spf" in chosen:
        console.print(spf.measured(rounds=effort.rounds, base=arguments.base))
    if "dns" in chosen:
        console.print(dns_engines.measured(rounds=effort.rounds, count=1000 if arguments.quick else 3000))
    if "commands" in chosen:
        console.print(commands.measured(rounds=effort.rounds, base=arguments.base))
    if "tables" in chosen:
        _tables(console, effort, arguments.base)
    chosen -= {"dkim", "spf", "dns", "commands", "tables"}
    if not chosen:
        return 0
    if not is_installed("smtp-source"):
        console.print("smtp-source is not installed (apt-get install postfix): nothing can be measured")
        return 2
    try:
        if "state" in chosen:
            _state(console, effort)
        if "outages" in chosen:
            with console.status("outages") as status:
                waits = outages.measured(_progress(status, "outages"))
            console.print(waits)
        chosen -= {"state", "outages"}
        if chosen:
            _measure(console, effort, chosen, arguments.base)
    except BenchError as error:
        console.print(f"[red]{error}")
        return 1
    return 0


def _tables(console: Console, effort: Effort, base: Path | None) -> None:
    with console.status("tables") as status:
        found = tables.measured(_sources(base), _progress(status, "tables"), rounds=min(effort.rounds, 3))
    console.print(*found)


def _sources(base: Path | None) -> dict[str, Path]:
    """The working copies that are compared."""
    return ({"base": base.resolve()} if base is not None else {}) | {"Lychgate": Path(__file__).parents[2]}


def _state(console: Console, effort: Effort) -> None:
    why_not = state.why_not()
    if why_not is not None:
        console.print(f"Not measured: state: {why_not}.")
        return
    with console.status("state") as status:
        found = state.measured(effort, _progress(status, "state"))
    console.print(found)


def _console() -> Console:
    """The terminal; into a file, as wide as the table is."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds (5)")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="a working copy to compare the gateway with")
    return parser.parse_args()


def _measure(console: Console, effort: Effort, chosen: frozenset[str], base: Path | None) -> None:
    sources = _sources(base)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lychgate-bench-")))
        folder.chmod(0o755)  # smtp-sink becomes another user
        status = stack.enter_context(console.status("starting"))
        sink = stack.enter_context(smtp_sink(folder))
        missing = why_no_postfix()
        servers: list[Server] = [sink]
        if missing is None:
            servers.append(stack.enter_context(postfix_proxy(sink)))
        gateways = {name: partial(gateway, sink, folder, name=name, source=source) for name, source in sources.items()}
        if not chosen.isdisjoint(_WITH_PEERS):
            servers += [stack.enter_context(start()) for start in gateways.values()]
        table = report.Report(effort, ["smtp-sink", *([] if missing else ["Postfix proxy"]), *gateways], missing)
        for name in MEASUREMENTS:
            if name in chosen and name != "authentication":
                _one(name, table, servers, gateways, _progress(status, name))
        if "authentication" in chosen:
            _authentication(folder, table, servers, sources, _progress(status, "authentication"))
        status.stop()
        console.print(table.render())


def _authentication(
    folder: Path,
    table: report.Report,
    servers: Sequence[Server],
    sources: Mapping[str, Path],
    progress: figures.Progress,
) -> None:
    """DKIM-signed mail, SPF, DKIM and DMARC checked, against the same in Postfix, and against Postfix without."""
    why_not = authentication.why_not()
    if why_not is not None:
        table.not_measured("authentication", why_not)
        return
    (sink,) = (server for server in servers if isinstance(server, Sink))
    message = folder / "signed"
    message.write_bytes(authentication.signed().data.replace(b"\r\n", b"\n"))
    checking = [
        partial(authentication.authenticating, sink, folder, name=name, source=source)
        for name, source in sources.items()
    ]
    with authentication.dns(folder):
        with ExitStack() as stack:
            compared: list[Server] = [sink, *(server for server in servers if isinstance(server, PostfixProxy))]
            compared.append(stack.enter_context(authentication.postfix_with_milters(sink, folder)))
            compared += [stack.enter_context(start(workers=2)) for start in checking]
            found = figures.throughput(compared, table.effort, progress, size=message, sessions=20, kept=False)
            table.authentication(found)
        costs = {
            name: authentication.cold_and_warm(partial(start, workers=1), table.effort.rounds, progress)
            for name, start in zip(sources, checking, strict=True)
        }
        table.cold_and_warm(costs)
    authentication.check(folder)


def _progress(status: Status, name: str) -> figures.Progress:
    return lambda text: status.update(f"{name}: {text}")


def _one(
    name: str,
    table: report.Report,
    servers: Sequence[Server],
    gateways: Mapping[str, figures.Start],
    progress: figures.Progress,
) -> None:
    effort = table.effort
    match name:
        case "new" | "kept":
            found = figures.throughput(servers, effort, progress, size=figures.SMALL, sessions=20, kept=name == "kept")
            table.throughput(name, found)
        case "big":
            table.big(figures.throughput(servers, effort, progress, size=figures.BIG, sessions=4, kept=True))
        case "latency":
            table.latency(figures.latency(servers, effort, progress))
        case "idle":
            for after_message in (False, True):
                idle = partial(figures.idle_memory, effort=effort, progress=progress, after_message=after_message)
                table.idle({name: idle(start) for name, start in gateways.items()}, after_message=after_message)
        case _:
            table.memory({name: figures.big_memory(start, effort, progress) for name, start in gateways.items()})


if __name__ == "__main__":
    sys.exit(main())
