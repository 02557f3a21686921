"""The table: a row for each measurement, a column for each server, what is aimed at and what was reached."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table

from tests.bench.authentication import MILTERS
from tests.bench.figures import BIG, MEGABYTE, Effort, Latency, Memory, Throughput

KIB: Final = 1024
_METHOD: Final = """\
Medians of {effort.rounds} round(s) in turns, runs of {effort.seconds:g} s. {processors} processors are shared by \
client, servers and smtp-sink: compare ratios, within one run."""
_SERVERS: Final = """\
Lychgate: one worker; relay, recipient, size; decision record to a file. Postfix: smtpd_proxy_filter, no policy. Both \
hand on to smtp-sink. Messages of 4 KiB in 20 sessions by smtp-source, unless it says otherwise."""
_SINK, _POSTFIX, _GATEWAY, _BASE = "smtp-sink", "Postfix proxy", "Lychgate", "base"


class Report:
    """Gathers the rows.

    Args:
        effort: How long was measured.
        names: The columns' servers.
        missing: Why there is no Postfix, None if there is.
    """

    def __init__(self, effort: Effort, names: Sequence[str], missing: str | None) -> None:
        self.effort = effort
        self._names = names
        self._missing = missing
        self._left_out: list[str] = []
        self._stolen = 0.0
        self._table = Table(title="Lychgate against its peers, one run", title_justify="left", caption_justify="left")
        self._table.add_column("", no_wrap=True)
        for name in self._names:
            self._table.add_column(name, justify="right", no_wrap=True)
        self._table.add_column("reached")
        self._table.add_column("aimed at")

    def render(self) -> RenderableType:
        """The table and what it needs to be understood."""
        notes = [
            _METHOD.format(effort=self.effort, processors=os.cpu_count()),
            _SERVERS,
        ]
        if self._stolen:
            notes.append(f"The host took up to {self._stolen:.1%} of the processors' time in a run.")
        if self._missing is not None:
            notes.append(f"No comparison with Postfix: {self._missing}.")
        return Group(self._table, *notes, *self._left_out)

    def not_measured(self, name: str, why: str) -> None:
        """Say what could not be measured here."""
        self._left_out.append(f"Not measured: {name}: {why}.")

    def authentication(self, found: Mapping[str, Throughput]) -> None:
        """DKIM-signed mail; SPF, DKIM and DMARC checked. Postfix with milters has no column, but a line of its own."""
        milters = found[MILTERS]
        self._row(
            "signed, checked: messages/s",
            {each: f"{one.rate:,.0f}" for each, one in found.items()},
            found,
            "8 x milters, 1 x Postfix",
        )
        self._row("signed, checked: processor µs a message", {each: f"{one.cost:,.0f}" for each, one in found.items()})
        self._left_out.append(
            "Signed mail of 4 KiB, a connection each; spf, dkim, dmarc, DNS warm, two workers. Milters: Postfix with "
            f"OpenDKIM, OpenDMARC and policyd-spf, which relays from its queue: {milters.rate:,.0f} messages/s, "
            f"{milters.cost:,.0f} processor µs a message."
        )

    def cold_and_warm(self, found: Mapping[str, tuple[float, float]]) -> None:
        """The processor time of a message from a new sender and from a known one."""
        cold, warm = found[_GATEWAY]
        self._row(
            "processor µs: new sender / known sender",
            {each: f"{costs[0]:,.0f} / {costs[1]:,.0f}" for each, costs in found.items()},
            aim="2 x known",
            reached=f"{cold / warm:.2f} x known",
        )

    def throughput(self, name: str, found: Mapping[str, Throughput]) -> None:
        """Messages a second with new or kept connections, and the processor time of each."""
        postfix, sink = ("2 x Postfix", "0.25 x smtp-sink") if name == "new" else ("1 x Postfix", "0.25 x smtp-sink")
        label = "a new connection each" if name == "new" else "kept connections"
        self._row(
            f"messages/s, {label}",
            {each: f"{one.rate:,.0f}" for each, one in found.items()},
            found,
            f"{postfix}, {sink}",
        )
        self._row(f"processor µs a message, {label}", {each: f"{one.cost:,.0f}" for each, one in found.items()})

    def big(self, found: Mapping[str, Throughput]) -> None:
        """Big messages: megabytes a second."""
        size = BIG / MEGABYTE
        self._row(
            f"MB/s, messages of {size:g} MB", {each: f"{one.rate * size:,.0f}" for each, one in found.items()}, found
        )
        self._row(
            f"processor ms a message of {size:g} MB", {each: f"{one.cost / 1000:,.0f}" for each, one in found.items()}
        )

    def latency(self, found: Mapping[str, Latency]) -> None:
        """One transaction: the median and the 99th percentile, and what is added to smtp-sink's own."""
        direct = found[_SINK]
        self._row(
            "ms a transaction: median / p99",
            {each: f"{one.median:.2f} / {one.p99:.2f}" for each, one in found.items()},
        )
        self._row(
            "ms added to smtp-sink's: median / p99",
            {
                each: f"{one.median - direct.median:.2f} / {one.p99 - direct.p99:.2f}"
                for each, one in found.items()
                if each != _SINK
            },
        )

    def idle(self, found: Mapping[str, Memory], *, after_message: bool) -> None:
        """What an idle connection holds."""
        count = self.effort.connections
        kind = "a message" if after_message else "EHLO"
        self._row(
            f"KB a connection, {count:,} idle after {kind}",
            {each: f"{one.used / count / KIB:.1f}" for each, one in found.items()},
            aim="15 KB",
        )

    def memory(self, found: Mapping[str, Memory]) -> None:
        """What big messages under way hold."""
        self._row(
            f"MB over idle, {self.effort.messages} x {BIG // MEGABYTE} MB at once",
            {each: f"{one.used / MEGABYTE:,.0f}" for each, one in found.items()},
            aim="200 MB",
        )
        self._row("MB, idle worker", {each: f"{one.idle / MEGABYTE:,.0f}" for each, one in found.items()})

    def _row(
        self,
        label: str,
        cells: Mapping[str, str],
        rates: Mapping[str, Throughput] | None = None,
        aim: str = "",
        reached: str = "",
    ) -> None:
        if rates is not None:
            reached = _ratios(rates)
            self._stolen = max(self._stolen, *(share for each in rates.values() for share in each.stolen))
        self._table.add_row(label, *(cells.get(name, "") for name in self._names), reached, aim)


def _ratios(found: Mapping[str, Throughput]) -> str:
    """The gateway's rate over the others'."""
    mine = found[_GATEWAY]
    names = {_POSTFIX: "Postfix", MILTERS: "milters", _SINK: "smtp-sink", _BASE: "base"}
    return ", ".join(f"{mine.over(found[each]):.2f} x {name}" for each, name in names.items() if each in found)
