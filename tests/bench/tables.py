"""What look-ups and loading cost, at several sizes: ``python -m tests.bench.tables``.

Prints one line for each kind of table and size: seconds to load it from a file, its memory, and nanoseconds for a
look-up that finds something and for one that does not. The last lines are a plain loop over ``ipaddress`` networks.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from gateway.smtp.path import Mailbox
from gateway.tables import AddressTable, NameTable, NetworkTable

SIZES = (10, 1_000, 100_000)
_FIRST = int(IPv4Address("10.0.0.0"))


def _cost(call: Callable[[], object], repeat: int = 20_000) -> float:
    """Nanoseconds of one call, the best of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(repeat):
            call()
        rounds.append((time.perf_counter_ns() - start) / repeat)
    return min(rounds)


def _line(kind: str, size: int, load: float, memory: int, hit: float, miss: float) -> None:
    print(f"{kind:10} {size:>8} {load:>10.3f} {memory / 1e6:>10.1f} {hit:>10.0f} {miss:>10.0f}")  # noqa: T201 - the result


def _measured(kind: str, lines: list[str], make: Callable[[Path], Callable[[bool], object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "entries.txt")
        file.write_text("\n".join(lines))
        start = time.perf_counter()
        make(file)
        load = time.perf_counter() - start
        tracemalloc.start()
        find = make(file)
        memory = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert find(True) is not None
        assert find(False) is None
        _line(kind, len(lines), load, memory, _cost(lambda: find(True)), _cost(lambda: find(False)))


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


def _loop(size: int) -> Callable[[], object]:
    known = [ip_network(_FIRST + number) for number in range(size)]
    other = ip_address("192.0.2.1")
    return lambda: any(other in network for network in known)


def main() -> None:
    """Measure and print."""
    head = ("table", "entries", "load s", "MB", "found ns", "missed ns")
    print("{:10} {:>8} {:>10} {:>10} {:>10} {:>10}".format(*head))  # noqa: T201 - the result
    for size in SIZES:
        networks = [f"{IPv4Address(_FIRST + number)}" for number in range(size - 1)] + ["198.51.100.0/24"]
        _measured("networks", networks, _networks)
        _measured("names", [f"host{number}.example.com" for number in range(size)], _names)
        _measured("addresses", [f"user{number}@example.com" for number in range(size)], _addresses)
    for size in SIZES[:2]:
        miss = _cost(_loop(size), 20_000 // size)
        _line("(a loop)", size, 0, 0, miss, miss)


if __name__ == "__main__":
    main()
