"""A set of texts in little memory: their octets one after the other, and a table of where each begins.

A set of a million addresses takes more than 100 MB as Python objects. Here it takes what the addresses have in a file,
and 8 octets more for each. Nothing of it is written once the set is sealed: processes that are forked then share it.

The octets are lines, each entry once. The table is a hash table with open addressing, half of it empty: a place has
the offset of an entry's first octet plus one, or 0. A look-up compares the whole entry, so nothing is found that is not
there. ``hash`` is seeded for each process and its forks: who writes the entries can't make them collide.

Entries are added, then the set is sealed, then it is asked. All of it works piece by piece, so that another thread has
its turn after a few milliseconds at most. No entry has a line break in it.
"""

from array import array
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import accumulate
from typing import Final

from gateway.tables.content import LARGE, Buffer, new_pages

_ERRORS: Final = "surrogatepass"  # half a surrogate, as YAML can write it, is an entry that nothing matches
_NARROW: Final = 2**32
"""What four octets can't count to any more."""


def _places(count: int, octets: int) -> "array[int] | memoryview[int]":
    """A table of so many places, all 0, for offsets up to a number."""
    kind: Final = "I" if octets < _NARROW else "Q"
    empty = array(kind)
    size = count * empty.itemsize
    return array(kind, bytes(size)) if size < LARGE else memoryview(new_pages(size)).cast(kind)


class PackedSet(AbstractSet[str]):
    """A set of texts."""

    __slots__ = ("_count", "_octets", "_places")

    def __init__(self) -> None:
        self._octets = Buffer()
        self._count = 0
        self._places: array[int] | memoryview[int]

    def add(self, text: str) -> None:
        """Add an entry; it has no line break."""
        self.add_lines(text.encode(errors=_ERRORS) + b"\n", 1)

    def add_lines(self, lines: bytes, count: int) -> None:
        """Add so many entries, each with a line feed at its end."""
        self._octets.append(lines)
        self._count += count

    def seal(self) -> None:
        """Make it ready to be asked; nothing is added any more."""
        repeated = self._enter()
        if repeated:
            self._leave_out(repeated)
            self._enter()

    def _enter(self) -> set[int]:
        """Enter all entries; returns the offsets of those that were there before."""
        size = 2 * self._count + 1
        octets, places = self._octets.space, _places(size, len(self._octets))
        repeated: set[int] = set()
        first = 1
        for piece in self.pieces():
            lines = piece.splitlines(keepends=True)
            starts = accumulate(map(len, lines), initial=first)
            for line, number, start in zip(lines, map(hash, lines), starts, strict=False):
                place = number % size
                while other := places[place]:
                    if octets[other - 1 : other - 1 + len(line)] == line:
                        repeated.add(start - 1)
                        break
                    place = (place + 1) % size
                else:
                    places[place] = start
            first += len(piece)
        self._places = places
        return repeated

    def _leave_out(self, repeated: set[int]) -> None:
        """Keep what is not at these offsets."""
        kept = PackedSet()
        first = 0
        for piece in self.pieces():
            lines = piece.splitlines(keepends=True)
            offsets = accumulate(map(len, lines), initial=first)
            left = [line for line, offset in zip(lines, offsets, strict=False) if offset not in repeated]
            kept.add_lines(b"".join(left), len(left))
            first += len(piece)
        self._octets, self._count = kept._octets, kept._count

    def _lines(self) -> Iterator[list[bytes]]:
        """All entries, each with a line feed at its end, some thousands at a time."""
        return (piece.splitlines(keepends=True) for piece in self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The lines, some thousands at a time."""
        return self._octets.pieces()

    def shared_with(self, other: "PackedSet") -> int:
        """How many entries are in another set, too."""
        return len(self) if self is other else sum(sum(map(other.has_line, lines)) for lines in self._lines())

    def has_line(self, line: bytes) -> bool:
        """Whether an entry has these octets and a line feed."""
        octets, places = self._octets.space, self._places
        size, length = len(places), len(line)
        place = hash(line) % size
        while other := places[place]:
            if octets[other - 1 : other - 1 + length] == line:
                return True
            place = (place + 1) % size
        return False

    def __contains__(self, text: object) -> bool:
        if not self._count or not isinstance(text, str) or "\n" in text:
            return False
        return self.has_line(text.encode(errors=_ERRORS) + b"\n")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (line[:-1].decode(errors=_ERRORS) for lines in self._lines() for line in lines)
