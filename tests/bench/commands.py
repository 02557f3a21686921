"""How long commands take that only load and print: ``python -m tests.bench.commands``, and a part of ``make bench``.

Each is a process of its own, in turns with ``python -c pass``, the best of some rounds: seconds on the clock, which is
what who types waits for, and as multiples of the interpreter by itself, which is what to look at. ``check`` and
``reload`` load a configuration besides, with its policies; ``reload`` finds no service. ``--base FOLDER`` measures the
gateway of another working copy (``git worktree add FOLDER COMMIT``) in the same turns.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

AIM: Final = "at most 250 ms, and 20 times the interpreter"

_ROOT: Final = Path(__file__).parents[2]
_CONFIG: Final = ("--config", str(_ROOT / "deploy" / "demo.yaml"))
COMMANDS: Final = (
    ("--version",),
    ("--help",),
    ("check", "--help"),
    ("state", "clear", "--help"),
    ("check", *_CONFIG),
    ("reload", *_CONFIG),
)
_RUN: Final = "from gateway.cli import main; main()"


def _seconds(code: str, words: tuple[str, ...], source: Path) -> float:
    """One run of the interpreter in the folder of a working copy, whose gateway it finds first."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *words], cwd=source, capture_output=True, check=False)
    return time.perf_counter() - started


def measured(*, rounds: int, base: Path | None = None) -> Table:
    """Measure.

    Args:
        rounds: How often.
        base: A working copy to compare with.
    """
    sources = ({} if base is None else {"base": base.resolve()}) | {"Lychgate": _ROOT}
    interpreter, best = float("inf"), dict[tuple[str, tuple[str, ...]], float]()
    for _ in range(rounds):
        for words in COMMANDS:
            interpreter = min(interpreter, _seconds("pass", (), _ROOT))
            for name, source in sources.items():
                took = _seconds(_RUN, words, source)
                best[name, words] = min(took, best.get((name, words), took))
    table = Table("milliseconds", *sources, title=f"Commands that load and print (--help: {AIM})", title_justify="left")
    table.add_row("the interpreter by itself", *[f"{interpreter * 1e3:.0f}"] * len(sources))
    for words in COMMANDS:
        cells = [f"{best[name, words] * 1e3:.0f} ({best[name, words] / interpreter:.0f}x)" for name in sources]
        table.add_row(" ".join(word for word in words if word not in _CONFIG), *cells)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.commands")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="a working copy to compare with")
    arguments = parser.parse_args()
    Console(width=120).print(measured(rounds=arguments.rounds, base=arguments.base))
