"""What is wrong with a configuration, said so that an administrator can mend it.

A ``Problem`` has its place in the file; a ``ConfigError`` carries all of them. ``nearest`` finds what was probably
meant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple


class Position(NamedTuple):
    """A place in a file, counted from 1; the column counts characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or, as a warning, that is probably not meant.

    Attributes:
        file: The configuration file.
        position: Where; None when it is the file as a whole.
        where: The path of the setting, such as ``domains.example.com.backend``; empty for the outermost mapping.
        message: What is wrong.
    """

    file: Path
    position: Position | None
    where: str
    message: str

    def __str__(self) -> str:
        place = str(self.file)
        if self.position is not None:
            place += f":{self.position.line}:{self.position.column}"
        return f"{place}: {self.where}: {self.message}" if self.where else f"{place}: {self.message}"


class ConfigError(Exception):
    """The configuration can't be used.

    Attributes:
        problems: Everything that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = sorted(problems, key=lambda problem: problem.position or Position(0, 0))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant."""
    known = list(words)
    by_case = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(word.lower(), by_case, n=1, cutoff=0.6)
    return by_case[found[0]] if found else None


def suggestion(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing when no word is near."""
    found = nearest(word, words)
    return f" (did you mean {found!r}?)" if found is not None else ""


def listed(words: Iterable[str], *, last: str = "or") -> str:
    """Words as people list them: ``a, b or c``."""
    known = list(words)
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} {last} {known[-1]}" if known else "none"
