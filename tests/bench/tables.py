"""What look-up tables cost: to load, to hold, to ask; and what a million recipients cost the whole gateway.

The first table has each kind of table at several sizes, and a plain loop over ``ipaddress`` networks. The second runs
the gateway with a file of a million recipients: the memory of a worker (of what is shared, its part) as it starts and
when the file has changed, what a reload and ``lychgate check`` take against ``set(open(FILE))`` in a Python of its own,
and the longest that a client has waited for the answer to NOOP while workers took the changed file in.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Final

from rich.table import Table

from gateway.smtp.path import Mailbox
from gateway.tables import AddressTable, ListKind, NameTable, NetworkTable, RecipientFile
from tests.bench.figures import Progress
from tests.bench.processes import BenchError, own_memory
from tests.bench.servers import Gateway, Sink, gateway
from tests.support.ports import free_port

SIZES: Final = (10, 1_000, 100_000)
RECIPIENTS: Final = 1_000_000

_FIRST: Final = int(IPv4Address("10.0.0.0"))
_PATIENCE: Final = 60.0
_NOOPS: Final = 50  # that a session may have without anything else, and less than the limit


def measured(sources: Mapping[str, Path], progress: Progress, *, rounds: int) -> tuple[Table, Table]:
    """Measure both.

    Args:
        sources: Working copies, by what the table calls them.
        progress: Is told what is being done.
        rounds: How often what takes seconds is measured.
    """
    return _kinds(progress), _gateways(sources, progress, rounds)


# Each kind of table.


def _cost(call: Callable[[], object], repeat: int = 20_000) -> float:
    """Nanoseconds of one call, the best of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(repeat):
            call()
        rounds.append((time.perf_counter_ns() - start) / repeat)
    return min(rounds)


def _kinds(progress: Progress) -> Table:
    table = Table("table", "entries", "to load", "memory", "found", "missed", title="Look-up tables")
    for column in table.columns[1:]:
        column.justify = "right"
    for size in SIZES:
        progress(f"{size} entries")
        networks = [f"{IPv4Address(_FIRST + number)}" for number in range(size - 1)] + ["198.51.100.0/24"]
        addresses = [f"user{number}@example.com" for number in range(size)]
        _row(table, "networks", networks, _networks)
        _row(table, "names", [f"host{number}.example.com" for number in range(size)], _names)
        _row(table, "addresses", addresses, _addresses)
        _row(table, "recipients", addresses, _recipients)
        _row(table, "aliases", [f"{address} mailbox@backend.example" for address in addresses], _aliases)
    for size in SIZES[:2]:
        miss = f"{_cost(_loop(size), 20_000 // size):.0f} ns"
        table.add_row("(a loop over networks)", str(size), "", "", miss, miss)
    return table


def _row(table: Table, kind: str, lines: list[str], make: Callable[[Path], Callable[[bool], object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "entries.txt")
        file.write_text("".join(f"{line}\n" for line in lines))
        start = time.perf_counter()
        make(file)
        load = time.perf_counter() - start
        tracemalloc.start()
        find = make(file)
        memory = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert find(True)
        assert not find(False)
        found, missed = _cost(lambda: find(True)), _cost(lambda: find(False))
    held = "" if make in {_recipients, _aliases} else f"{memory / 1e6:.1f} MB"  # theirs is not in Python's own memory
    figures = (f"{load * 1e3:.1f} ms", held, f"{found:.0f} ns", f"{missed:.0f} ns")
    table.add_row(kind, str(len(lines)), *figures)


def _networks(file: Path) -> Callable[[bool], object]:
    table = NetworkTable(file=file)
    known, other = ip_address("10.0.0.5"), ip_address("192.0.2.1")
    return lambda hit: table.find(known if hit else other)


def _names(file: Path) -> Callable[[bool], object]:
    table = NameTable(file=file)
    return lambda hit: table.find("host5.example.com" if hit else "host5.other.example.com")


def _addresses(file: Path) -> Callable[[bool], object]:
    table = AddressTable(file=file)
    known, other = (Mailbox(f"u@{domain}", "user5", domain) for domain in ("example.com", "example.org"))
    return lambda hit: table.find(known if hit else other)


def _recipients(file: Path, kind: ListKind = ListKind.RECIPIENTS) -> Callable[[bool], object]:
    table = RecipientFile(file, kind).table
    return lambda hit: table.current().has("user5", "example.com" if hit else "example.org")


def _aliases(file: Path) -> Callable[[bool], object]:
    return _recipients(file, ListKind.ALIASES)


def _loop(size: int) -> Callable[[], object]:
    known = [ip_network(_FIRST + number) for number in range(size)]
    other = ip_address("192.0.2.1")
    return lambda: any(other in network for network in known)


# The gateway with a million recipients.


@dataclass(frozen=True, slots=True)
class _Figures:
    """What one gateway costs; memory in octets, times in seconds.

    Attributes:
        started: The memory of each worker, on average, as it starts.
        changed: The same when each has taken in a changed file.
        plain: What ``set(open(FILE))`` takes, in a Python of its own.
        check: What ``lychgate check`` takes.
        same: What a reload takes while the file is the same.
        reload: What it takes when the file has changed.
        wait: The longest wait of a client while workers take in a changed file.
    """

    started: float
    changed: float
    plain: float
    check: float
    same: float
    reload: float
    wait: float


def _gateways(sources: Mapping[str, Path], progress: Progress, rounds: int) -> Table:
    heads = ("gateway", "workers", "memory a worker", "file changed", "set(open(FILE))", "check")
    title = f"{RECIPIENTS:,} recipients in a file"
    table = Table(*heads, "reload, same file", "reload, changed file", "longest wait", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for workers in (1, 2):
        for name, source in sources.items():
            little = _measure(name, source, workers, 1, progress, 1)
            much = _measure(name, source, workers, RECIPIENTS, progress, rounds)
            table.add_row(
                name,
                str(workers),
                _more(much.started, little.started),
                _more(much.changed, little.changed),
                f"{much.plain:.2f} s",
                *(f"{each:.2f} s ({each / much.plain:.1f}x)" for each in (much.check, much.same, much.reload)),
                f"{much.wait * 1e3:.0f} ms",
            )
    table.caption = (
        "memory: beyond that of a list of one. Aimed at: 115 MB or less, check in 6x or less, a reload in 12x or less"
    )
    return table


def _more(much: float, little: float) -> str:
    return f"{little / 1e6:.0f} + {(much - little) / 1e6:.0f} MB"


def _measure(name: str, source: Path, workers: int, size: int, progress: Progress, rounds: int) -> _Figures:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lychgate-bench-")))
        file = folder / "recipients.txt"
        _write(file, size)
        running = stack.enter_context(
            gateway(
                Sink("nothing", free_port(), os.getpid()),
                folder,
                name=name,
                source=source,
                workers=workers,
                recipients=f"{{file: {file}}}",
                more=f"recipient_lists: {{folder: {folder / 'lists'}}}",
            )
        )
        doing = f"{name}, {workers} workers, {size:,} recipients"
        started = _memory(running, workers)
        plain, check, same, changed = [], [], [], []
        for number in range(rounds):
            progress(f"{doing}: round {number + 1}")
            plain.append(_seconds([sys.executable, "-c", f"set(open({str(file)!r}))"], source))
            cli = "from gateway.cli import main; main()"
            check.append(_seconds([sys.executable, "-c", cli, "check", "--config", str(running.config)], source))
            same.append(_reload(running, workers))
            _write(file, size, f"changed{number}@example.com\n")
            changed.append(_reload(running, workers))
        progress(f"{doing}: the file changes")
        wait = _longest_wait(running, file, size, workers)
        return _Figures(started, _memory(running, workers), min(plain), min(check), min(same), min(changed), wait)


def _write(file: Path, size: int, more: str = "") -> None:
    """Replace the file; the order is that of no sorted export."""
    new = file.with_suffix(".new")
    with new.open("w") as opened:
        opened.writelines(f"first.last{number * 7_919 % size}@example.com\n" for number in range(size))
        opened.write(more)
    new.rename(file)


def _memory(running: Gateway, workers: int) -> float:
    return sum(map(own_memory, _settled(running, workers))) / workers


def _settled(running: Gateway, workers: int) -> tuple[int, ...]:
    """The workers, when those that a reload has retired have ended."""
    end = time.monotonic() + _PATIENCE
    while len(found := running.workers) != workers:
        if time.monotonic() > end:
            raise BenchError("retired workers did not end")
        time.sleep(0.02)
    return found


def _seconds(command: list[str], source: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, check=True, cwd=source, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(source)}
    )
    return time.perf_counter() - start


def _reload(running: Gateway, workers: int) -> float:
    before = set(_settled(running, workers))
    start = time.perf_counter()
    os.kill(running.supervisor, signal.SIGHUP)
    running.ready()
    seconds = time.perf_counter() - start
    if before & set(_settled(running, workers)):
        raise BenchError("the reload was refused")
    return seconds


class _Client:
    """A client that asks about a recipient, or says NOOP."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._lines = self._socket.makefile("rb")
        self._reply()
        self.say("EHLO client.example")

    def say(self, line: str) -> str:
        """The last line of the reply."""
        self._socket.sendall(line.encode() + b"\r\n")
        return self._reply()

    def knows(self, recipient: str) -> bool:
        """Whether a recipient is not refused for good."""
        self.say("MAIL FROM:<>")
        found = not self.say(f"RCPT TO:<{recipient}>").startswith("550")
        self.say("RSET")
        return found

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _reply(self) -> str:
        while (line := self._lines.readline().decode())[3:4] == "-":
            pass
        return line


def _longest_wait(running: Gateway, file: Path, size: int, workers: int) -> float:
    """Seconds that the slowest NOOP took while every worker took in a changed file."""
    longest, is_taken = 0.0, threading.Event()

    def wait() -> None:
        _take_in(running, file, size, workers)
        is_taken.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not is_taken.is_set():
        with closing(_Client(running.port)) as client:
            for _ in range(_NOOPS):
                start = time.perf_counter()
                client.say("NOOP")
                longest = max(longest, time.perf_counter() - start)
                time.sleep(0.001)
    waiting.join()
    return longest


def _take_in(running: Gateway, file: Path, size: int, workers: int) -> None:
    """Let every worker take in a changed file."""
    _write(file, size, "taken.in@example.com\n")
    end = time.monotonic() + _PATIENCE
    known = 0
    while known < 20 * workers:  # connections are shared out by chance: so many in a row that all have been asked
        with closing(_Client(running.port)) as client:
            known = known + 1 if client.knows("taken.in@example.com") else 0
        if time.monotonic() > end:
            raise BenchError("a changed file was not taken in")
        time.sleep(0.02)
