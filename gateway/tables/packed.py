"""A set of texts in little memory: their octets one after the other, and an array of where each begins.

A set of a million addresses takes 150 MB as Python objects, of which a process that looks something up makes its own
copy bit by bit. Here it takes what the addresses have in a file, and 8 octets more for each. Nothing of it is written
once the set is sealed: processes that are forked then share it.

The octets are lines, each entry once. The array is a hash table with open addressing, half of it empty: a place has
the offset of an entry's first octet plus one, or 0. A look-up compares the whole entry, so nothing is found that is not
there. ``hash`` is seeded for each process and its forks: who writes the entries can't make them collide.

Entries are added, then the set is sealed, then it is asked. Both work piece by piece, so that another thread has its
turn after a few milliseconds at most. No entry has a line feed in it.
"""

from array import array
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

PIECE: Final = 64 * 1024
"""Octets that are worked through at a time: a millisecond."""

_ERRORS: Final = "surrogatepass"  # half a surrogate, as YAML can write it, is an entry that nothing matches
_END: Final = ord("\n")
_FIELD: Final = 2**32
"""What an array of the narrow kind can't count to any more."""


def pieces(octets: bytes | bytearray) -> Iterator[bytes]:
    """Octets in pieces of whole lines; the last line may lack its end."""
    start, length = 0, len(octets)
    while start < length:
        end = octets.find(b"\n", start + PIECE - 1) + 1 or length
        yield bytes(octets[start:end])
        start = end


class PackedSet(AbstractSet[str]):
    """A set of texts."""

    __slots__ = ("_lines", "_octets", "_places")

    def __init__(self) -> None:
        self._octets = bytearray()
        self._lines = 0
        self._places: array[int]

    def add(self, text: str) -> None:
        """Add an entry; it has no line feed."""
        self._octets += text.encode(errors=_ERRORS)
        self._octets.append(_END)
        self._lines += 1

    def add_lines(self, lines: bytes, count: int) -> None:
        """Add so many entries, each with a line feed at its end."""
        self._octets += lines
        self._lines += count

    def seal(self) -> None:
        """Make it ready to be asked; nothing is added any more."""
        repeated = self._index()
        if repeated:
            self._octets = self._without(repeated)
            self._index()

    def _index(self) -> list[int]:
        """Enter what is there; returns the offsets of entries that were there before."""
        octets, size = self._octets, 2 * self._lines + 1
        kind = "I" if len(octets) < _FIELD else "Q"
        places = array(kind, bytes(array(kind).itemsize * size))
        repeated: list[int] = []
        start = 1
        for piece in pieces(octets):
            lines = piece.split(b"\n")
            lines.pop()
            for line, number in zip(lines, map(hash, lines), strict=True):
                place = number % size
                other = places[place]
                while other:
                    if octets.startswith(line, other - 1) and octets[other - 1 + len(line)] == _END:
                        repeated.append(start - 1)
                        break
                    place = (place + 1) % size
                    other = places[place]
                else:
                    places[place] = start
                start += len(line) + 1
        self._places = places
        return repeated

    def _without(self, repeated: list[int]) -> bytearray:
        """The octets without the entries at some offsets."""
        kept, start = bytearray(), 0
        for offset in repeated:
            kept += self._octets[start:offset]
            start = self._octets.index(b"\n", offset) + 1
        self._lines -= len(repeated)
        return kept + self._octets[start:]

    def pieces(self) -> Iterator[bytes]:
        """All entries in pieces of a few thousand, each entry with a line feed at its end."""
        return pieces(self._octets)

    def shared_with(self, other: "PackedSet") -> int:
        """How many entries are in another set, too."""
        return (
            len(self) if self is other else sum(sum(map(other.has, piece[:-1].split(b"\n"))) for piece in self.pieces())
        )

    def has(self, key: bytes) -> bool:
        """Whether an entry has these octets."""
        places = self._places
        size = len(places)
        place = hash(key) % size
        other = places[place]
        if other == 0 or b"\n" in key:
            return False
        octets, line = self._octets, key + b"\n"
        while other:
            if octets.startswith(line, other - 1):
                return True
            place = (place + 1) % size
            other = places[place]
        return False

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.has(text.encode(errors=_ERRORS))

    def __len__(self) -> int:
        return self._lines

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces():
            for line in piece[:-1].split(b"\n"):
                yield line.decode(errors=_ERRORS)
