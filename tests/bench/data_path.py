"""Print how many MB/s ``DataDecoder`` reads on one core: several kinds of mail, several sizes of chunk.

Run: ``python tests/bench/data_path.py [SECONDS]`` (seconds for each figure, 0.3 by default). The octets are random
where mail is not regular, with a fixed seed; a figure is the best of the runs that fit in its time.
"""

import random
import sys
import time
from collections.abc import Callable

from gateway.smtp.data import BareNewlines, DataDecoder, NulOctets

SIZE = 8 << 20
CHUNKS = (1400, 4096, 16384, 65536, 262144)
MEGABYTE = 1e6


def base64_mail(_random: random.Random) -> bytes:
    """An attachment: lines of 76 characters."""
    return (b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"[:76] + b"\r\n") * (
        SIZE // 78
    )


def text_mail(rng: random.Random) -> bytes:
    """Prose: lines of 0 to 78 characters."""
    lines = [bytes(rng.choices(b"etaoin shrdlu", k=rng.randrange(79))) for _ in range(2000)]
    block = b"\r\n".join(lines) + b"\r\n"
    return block * (SIZE // len(block))


def long_lines(_random: random.Random) -> bytes:
    """HTML of lines as long as RFC 5321 4.5.3.1.6 allows: 998 characters."""
    return (b"<td>" * 249 + b"xy\r\n") * (SIZE // 1000)


def short_lines(_random: random.Random) -> bytes:
    """Lines of one character: the most newlines an octet."""
    return b"a\r\n" * (SIZE // 3)


def dotted_lines(_random: random.Random) -> bytes:
    """Every line begins with a dot."""
    return b"..a diff or a poem, stuffed all the way down\r\n" * (SIZE // 46)


def bare_lines(_random: random.Random) -> bytes:
    """Bare LFs throughout (normalized)."""
    return b"a line of some Unix program that never read RFC 5321\n" * (SIZE // 53)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    base64_mail,
    text_mail,
    long_lines,
    short_lines,
    dotted_lines,
    bare_lines,
)


def rate(data: bytes, chunk: int, seconds: float) -> float:
    """Octets a second of the best run."""
    pieces = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        decoder = DataDecoder(BareNewlines.NORMALIZE, NulOctets.REJECT)
        started = time.perf_counter()
        for piece in pieces:
            decoder.feed(piece)
        best = max(best, len(data) / (time.perf_counter() - started))
        if not decoder.finished or decoder.problem is not None:
            raise AssertionError(f"not decoded: {decoder.problem}")
    return best


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    print("DataDecoder, MB/s" + "".join(f"{chunk:>10}" for chunk in CHUNKS), "octets a chunk")  # noqa: T201 - a script
    for kind in KINDS:
        data = kind(random.Random(1)) + b"\r\n.\r\n"  # noqa: S311 - test data
        rates = "".join(f"{rate(data, chunk, seconds) / MEGABYTE:>10.0f}" for chunk in CHUNKS)
        print(f"{kind.__name__:<17}{rates}", (kind.__doc__ or "").rstrip("."))  # noqa: T201 - a script


if __name__ == "__main__":
    main()
