"""The content of a file: its octets, in pieces of whole lines, and a digest by which contents are compared.

Large ones lie in pages of their own (``Buffer``), which go back to the system when they are not used any more. The C
library's allocator would keep tens of megabytes of them for later, in every process that has read a file once.
"""

import codecs
import errno
import hashlib
import mmap
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

PIECE: Final = 64 * 1024
"""Octets that are worked through at a time: a millisecond."""

LARGE: Final = 1024 * 1024
"""Octets from which on there are pages of their own: fewer are not worth a mapping each."""

Space: TypeAlias = bytearray | mmap.mmap


def new_pages(size: int) -> mmap.mmap:
    """So many octets, all 0, in pages that are copied by a forked process only when it writes there."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Buffer:
    """Octets at whose end more can be added.

    Args:
        size: How many there will probably be.

    Attributes:
        space: Where they are; more may follow them there.
    """

    __slots__ = ("_length", "space")

    def __init__(self, size: int = 0) -> None:
        self.space: Space = new_pages(size) if size > LARGE else bytearray()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, octets: bytes) -> None:
        """Add octets."""
        end = self._length + len(octets)
        if isinstance(self.space, bytearray):
            if end <= LARGE:
                self.space += octets
                self._length = end
                return
            self._move(2 * end)
        elif end > len(self.space):
            self._move(2 * end)
        self.space[self._length : end] = octets
        self._length = end

    def _move(self, size: int) -> None:
        pages = new_pages(size)  # those that are never written take no memory
        for start in range(0, self._length, LARGE):  # another thread may have its turn between
            end = min(start + LARGE, self._length)
            pages[start:end] = self.space[start:end]
        self.space = pages

    def pieces(self) -> Iterator[bytes]:
        """All of it in pieces of whole lines; the last line may lack its end."""
        start = 0
        while start < self._length:
            end = self.space.find(b"\n", start + PIECE - 1, self._length) + 1 or self._length
            yield bytes(self.space[start:end])
            time.sleep(0)  # another thread has its turn now, and not when the interpreter makes it, after 5 ms
            start = end


class Content:
    """What a file has.

    Attributes:
        digest: What tells it from every other content.
    """

    __slots__ = ("_octets", "digest")

    def __init__(self, octets: Buffer, digest: bytes) -> None:
        self._octets = octets
        self.digest = digest

    def pieces(self) -> Iterator[bytes]:
        """It in pieces of whole lines, in UTF-8; the last line may lack its end."""
        return self._octets.pieces()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Content) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def read_content(file: Path) -> Content:
    """The content of a table's file, without a byte order mark.

    Raises:
        ValueError: It can't be read, or it is not UTF-8.
    """
    digest = hashlib.sha256()
    try:
        with _opened(file) as opened:
            octets = Buffer(os.fstat(opened.fileno()).st_size)
            block = opened.read(PIECE).removeprefix(codecs.BOM_UTF8)  # some editors put it at the start
            while block:
                digest.update(block)
                octets.append(block)
                block = opened.read(PIECE)
    except OSError as error:
        raise ValueError(f"can't read {file}: {error.strerror or error}") from None
    for number, piece in enumerate(octets.pieces()):
        try:
            piece.decode()
        except UnicodeDecodeError as error:
            before = sum(earlier.count(b"\n") for earlier in islice(octets.pieces(), number))
            line = 1 + before + piece.count(b"\n", 0, error.start)
            raise ValueError(f"{file}:{line}: not UTF-8") from None
    return Content(octets, digest.digest())


def ends_within_a_line(file: Path) -> os.stat_result | None:
    """The state of a file that ends within a line; None if it does not, or is not there."""
    try:
        with _opened(file) as opened:
            status = os.fstat(opened.fileno())
            if status.st_size == 0:
                return None
            opened.seek(-1, os.SEEK_END)
            return None if opened.read(1) == b"\n" else status
    except OSError:
        return None


def _opened(file: Path) -> BinaryIO:
    """An ordinary file, open for reading; what is none, such as a pipe, would keep its reader waiting for ever.

    Raises:
        OSError: It can't be opened, or is no ordinary file.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) or os.path.samestat(status, os.stat(os.devnull)):  # noqa: PTH116 - to be compared
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    raise OSError(number, os.strerror(number) if number == errno.EISDIR else "it is no ordinary file")
