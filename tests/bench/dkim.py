"""What DKIM costs, against dkimpy in the same run: ``python -m tests.bench.dkim``, and a part of ``make bench``.

A verification is everything from the octets of a message to the results: reading the header, hashing the body in
chunks, canonicalization, the signature; the key is known, as it is for a sender of the last hour. Processor time of
this process, the best of some rounds in turns. Memory is what Python allocates at its peak while a body streams
through, beside the chunk in hand.
"""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import dkim
from rich.console import Console
from rich.table import Table

from gateway.adapters.dns.zone import ZoneResolver
from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.canonicalization import BLOCK, Canonicalization
from gateway.mailauth.dkim import DkimOptions, verify
from gateway.mailauth.results import DkimResult, DkimSignature
from tests.support.dkim_signing import (
    DOMAIN,
    HEADER,
    SELECTOR,
    ed25519_key,
    key_record,
    rsa_key,
    signature,
)

KIB: Final = 1024
MEGABYTE: Final = 1_000_000
_LINE: Final = b"The quick brown fox jumps over the lazy dog, again and again.  \r\n"
_RELAXED: Final = {"c": "relaxed/relaxed", "h": "from:to:subject:date:message-id"}


@dataclass(frozen=True, slots=True)
class Case:
    """One message: its name, its body, how its body is canonicalized, its key, and whether dkimpy can cope with it."""

    name: str
    body: bytes
    canonicalization: Canonicalization = Canonicalization.RELAXED
    is_ed25519: bool = False
    is_for_dkimpy: bool = True


def cases() -> list[Case]:
    """Small and large, plain and hostile."""
    small = _LINE * ((4 * KIB - len(HEADER) - 600) // len(_LINE))
    large = _LINE * (10 * MEGABYTE // len(_LINE))
    spaces = (b" " * 998 + b"\r\n") * 20
    return [
        Case("4 KiB, RSA 2048, relaxed", small),
        Case("4 KiB, RSA 2048, simple body", small, Canonicalization.SIMPLE),
        Case("4 KiB, Ed25519, relaxed", small, is_ed25519=True),
        Case("10 MB, RSA 2048, relaxed", large),
        Case("10 MB, RSA 2048, simple body", large, Canonicalization.SIMPLE),
        Case("20 KB of spaces in lines of 1 KB, relaxed", spaces),
        Case("10 MB of spaces in one line, relaxed", b" " * 10 * MEGABYTE, is_for_dkimpy=False),
        Case("10 MB of empty lines, relaxed", b"\r\n" * 5 * MEGABYTE, is_for_dkimpy=False),
        Case("10 MB of pairs of spaces, relaxed", b"a  " * (10 * MEGABYTE // 3), is_for_dkimpy=False),
        Case("10 MB of pairs of tabs, relaxed", b"a\t\t" * (10 * MEGABYTE // 3), is_for_dkimpy=False),
        Case("10 MB of tables, relaxed", b"1\t20\t \t300\t  4,000 \r\n" * (10 * MEGABYTE // 23), is_for_dkimpy=False),
    ]


def _ours(header: bytes, body: bytes, resolver: ZoneResolver, now: float) -> DkimSignature:
    """One verification, as the gateway makes it."""
    fields = tuple(header_fields(header))
    hashes = BodyHashes(fields, 10)
    for start in range(0, len(body), BLOCK):
        hashes.update(body[start : start + BLOCK])
    step = verify(fields, hashes, resolver, now, DkimOptions())
    try:
        step.send(None)
    except StopIteration as done:
        (found,) = done.value
        assert isinstance(found, DkimSignature)
        return found
    raise AssertionError("it waits although the key is known")


def _cost(work: Callable[[], object], seconds: float) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    count = 0
    while (spent := time.process_time() - start) < seconds or not count:
        work()
        count += 1
    return spent / count


def _row(table: Table, case: Case, rounds: int, seconds: float) -> None:
    key = ed25519_key() if case.is_ed25519 else rsa_key()
    record = key_record(key)
    header = signature(HEADER, case.body, key, _RELAXED | {"c": f"relaxed/{case.canonicalization}"}) + HEADER
    message = header + b"\r\n" + case.body
    resolver = ZoneResolver({f"{SELECTOR}._domainkey.{DOMAIN}": {"TXT": record}})
    now = time.time()
    octets = record.encode()

    def ours() -> None:
        assert _ours(header, case.body, resolver, now).result is DkimResult.PASS

    def theirs() -> None:
        assert dkim.verify(message, dnsfunc=lambda _name, timeout=5: octets if timeout else None)

    ours()
    costs, peers = [], []
    for _ in range(rounds):
        costs.append(_cost(ours, seconds))
        if case.is_for_dkimpy:
            peers.append(_cost(theirs, seconds))
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    is_large = len(message) >= MEGABYTE
    table.add_row(
        case.name,
        f"{min(costs) * 1000:.3f}",
        f"{min(peers) * 1000:.3f}" if peers else "",
        f"{min(costs) / min(peers):.2f}" if peers else "",
        f"{len(message) / min(costs) / MEGABYTE:,.0f}" if is_large else "",
        f"{peak / KIB:,.0f}",
        "200 MB/s" if is_large else "0.25 x dkimpy" if not case.is_ed25519 and "4 KiB" in case.name else "",
    )


def measured(*, rounds: int, seconds: float) -> Table:
    """Measure.

    Args:
        rounds: How many rounds, of which the best counts.
        seconds: How long each measurement lasts at least.
    """
    table = Table(title="DKIM verification, processor time in one run", title_justify="left")
    table.add_column("message", no_wrap=True)
    for name in ("Lychgate, ms", "dkimpy, ms", "ratio", "MB/s", "memory, KiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("aimed at")
    for case in cases():
        _row(table, case, rounds, seconds)
    return table


def main() -> None:
    """Measure and print."""
    Console(highlight=False, width=140).print(measured(rounds=3, seconds=0.3))


if __name__ == "__main__":
    main()
