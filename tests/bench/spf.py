"""What SPF costs: ``python -m tests.bench.spf``, and a part of ``make bench``.

A check is ``check_sender``: the reverse-path and the HELO name of a client. A new sender is one whose names nobody has
asked for: each answer comes after a turn of the event loop, as one from a name server does, and its records are read
for the first time. Then come the same senders again, with the answers at hand, but no result remembered. Beside it
stands pyspf by itself, which waits in place: it checks the reverse-path only, with a dictionary for a DNS.

Processor time of processes of their own, in turns, the best of some rounds. ``--base FOLDER`` measures the gateway of
another working copy (``git worktree add FOLDER COMMIT``) in the same turns.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gateway.resolver import Answer, RecordType

CLIENT: Final = "192.0.2.1"
SENDERS: Final = 400
_NETWORKS: Final = " ".join(f"ip4:203.0.{number}.0/24" for number in range(30))

Zone = dict[tuple[str, str], tuple[str, ...]]


def _one_network(name: str) -> Zone:
    return {(name, "TXT"): ("v=spf1 ip4:192.0.2.0/24 -all",)}


def _one_include(name: str) -> Zone:
    return {
        (name, "TXT"): (f"v=spf1 include:_spf.{name} -all",),
        (f"_spf.{name}", "TXT"): ("v=spf1 ip4:192.0.2.0/24 -all",),
    }


def _hosts_and_providers(name: str) -> Zone:
    return {
        (name, "TXT"): (f"verification={name}", f"v=spf1 a mx include:_spf.esp.example include:_spf.{name} -all"),
        (name, "A"): ("198.51.100.1",),
        (name, "MX"): (f"10 mx1.{name}", f"20 mx2.{name}"),
        (f"mx1.{name}", "A"): ("198.51.100.2",),
        (f"mx2.{name}", "A"): ("198.51.100.3",),
        ("_spf.esp.example", "TXT"): (f"v=spf1 {_NETWORKS} ~all",),
        (f"_spf.{name}", "TXT"): ("v=spf1 ip4:198.51.100.0/24 ip4:192.0.2.1 ~all",),
    }


CASES: Final[dict[str, Callable[[str], Zone]]] = {
    "one network": _one_network,
    "an include": _one_include,
    "a mx, two includes, 30 networks": _hosts_and_providers,
}


def _zone(make: Callable[[str], Zone]) -> Zone:
    zone: Zone = {}
    for number in range(SENDERS):
        zone |= make(f"d{number}.example")
        zone[f"out.d{number}.example", "TXT"] = ("v=spf1 a -all",)
        zone[f"out.d{number}.example", "A"] = (CLIENT,)
    return zone


async def _measure(zone: Zone) -> dict[str, float]:
    """Microseconds and questions of a sender, with the gateway that is imported."""
    from gateway.mailauth.spf import check_sender
    from gateway.resolver import Answer, Status
    from gateway.smtp.path import Mailbox

    answers = {key: Answer(Status.FOUND, records, 60.0) for key, records in zone.items()}
    known: dict[tuple[str, str], Answer] = {}
    asked = 0

    class Dns:
        def known(self, name: str, record_type: "RecordType") -> "Answer | None":
            return known.get((name, record_type))

        async def lookup(self, name: str, record_type: "RecordType") -> "Answer":
            nonlocal asked
            asked += 1
            await asyncio.sleep(0)
            return known.setdefault((name, record_type), answers[name, record_type])

    async def cost() -> float:
        gc.collect()
        started = time.process_time()
        for number in range(SENDERS):
            domain = f"d{number}.example"
            path = Mailbox(f"joe@{domain}", "joe", domain)
            found = await check_sender(
                Dns(), address=ip_address(CLIENT), reverse_path=path, helo=f"out.{domain}", check_helo=True
            )
            assert (found.mail_from.result, found.helo and found.helo.result) == ("pass", "pass")
        return (time.process_time() - started) / SENDERS * 1e6

    return {"new": await cost(), "questions": asked / SENDERS, "at hand": await cost()}


def _pyspf(zone: Zone) -> float:
    """Microseconds of a sender with pyspf."""
    import spf

    def lookup(name: str, kind: str, *_: object) -> list[tuple[tuple[str, str], Any]]:
        values: list[Any] = list(zone.get((name, kind), ()))
        if kind == "TXT":
            values = [(text.encode(),) for text in values]
        if kind == "MX":
            values = [(int(text.split()[0]), text.split()[1]) for text in values]
        return [((name, kind), value) for value in values]

    with patch.object(spf, "DNSLookup", lookup):
        started = time.process_time()
        for number in range(SENDERS):
            found = spf.query(CLIENT, f"joe@d{number}.example", f"out.d{number}.example").check()
            assert found[0] == "pass"
        return (time.process_time() - started) / SENDERS * 1e6


def _run(source: Path) -> Mapping[str, Mapping[str, float]]:
    """The figures of one working copy, from a process of its own."""
    command = [sys.executable, __file__, "--measure", str(source)]
    figures: dict[str, dict[str, float]] = json.loads(subprocess.check_output(command))
    return figures


def measured(*, rounds: int, base: Path | None = None) -> Table:
    """Measure.

    Args:
        rounds: How many rounds, of which the best counts.
        base: A working copy to compare with.
    """
    sources = {"Lychgate": Path(__file__).parents[2]} | ({} if base is None else {"base": base.resolve()})
    runs = [{name: _run(source) for name, source in sources.items()} for _ in range(rounds)]
    table = Table(title="SPF, processor time of a sender in one run", title_justify="left")
    table.add_column("record", no_wrap=True)
    for name in sources:
        for what in ("new, µs", "at hand, µs", "questions"):
            table.add_column(f"{name}, {what}" if what != "questions" else what, justify="right")
    table.add_column("pyspf, µs", justify="right")
    for case in CASES:
        row = []
        for name in sources:
            row += [
                f"{min(run[name][case][what] for run in runs):.{digits}f}"
                for what, digits in (("new", 1), ("at hand", 1), ("questions", 0))
            ]
        table.add_row(case, *row, f"{min(run['Lychgate'][case]['pyspf'] for run in runs):.1f}")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="a working copy to compare the gateway with")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is None:
        Console(highlight=False, width=140).print(measured(rounds=arguments.rounds, base=arguments.base))
        return
    sys.path[0] = str(arguments.measure)  # in place of this folder, whose spf.py is not pyspf's
    import uvloop

    figures = {}
    for name, make in CASES.items():
        zone = _zone(make)
        figures[name] = uvloop.run(_measure(zone)) | {"pyspf": _pyspf(zone)}
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
