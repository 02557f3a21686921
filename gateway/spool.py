"""Where a message waits while it is received and checked: in memory up to a limit, in an unnamed file above it.

The octets are kept exactly as they came. The header section is gathered on the way, so that policies can read it
without touching the rest. Files are written and read in a thread, because a busy disk blocks whoever writes; what
waits to be written is bounded by ``BLOCK``. The file has no name: it is gone when the spool is closed, or the process
is.

Raises ``OSError`` (no space, no folder) out of ``write`` and ``chunks``; the caller answers it with a 4xx reply.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

BLOCK: Final = 262_144
"""Octets that are written to or read from the file at a time."""

_END_OF_HEADER: Final = b"\r\n\r\n"


class Spool:
    """The content of one message.

    Args:
        memory: Octets that are kept in memory before a file is made.
        folder: The folder of the files, None for the system's.

    Attributes:
        size: Octets written so far.
    """

    __slots__ = ("_descriptor", "_folder", "_header", "_header_done", "_memory", "_parts", "_tail", "_waiting", "size")

    def __init__(self, memory: int, folder: Path | None) -> None:
        self.size = 0
        self._memory = memory
        self._folder = folder
        self._parts: list[bytes] = []
        self._waiting = 0
        self._tail = b"\r\n"
        self._descriptor: int | None = None
        self._header = bytearray(b"\r\n")  # so that an empty first line reads as the end too
        self._header_done = False

    async def write(self, data: bytes) -> None:
        """Append octets."""
        self._gather_header(data)
        self.size += len(data)
        self._tail = (self._tail + data[-2:])[-2:]
        self._parts.append(data)
        self._waiting += len(data)
        if self._waiting > (self._memory if self._descriptor is None else BLOCK):
            await self._flush()

    @property
    def ends_with_newline(self) -> bool:
        """Whether the last line has its CRLF; so it is of an empty message."""
        return self._tail == b"\r\n"

    @property
    def header(self) -> bytes:
        """The header section as far as it has come: up to the empty line, which is not included."""
        return bytes(self._header[2:])

    async def chunks(self) -> AsyncIterator[bytes]:
        """The octets from the start, in chunks. Can be read more than once."""
        if self._descriptor is None:
            for part in self._parts:
                yield part
            return
        if self._parts:
            await self._flush()
        offset = 0
        while offset < self.size:
            data = await asyncio.to_thread(os.pread, self._descriptor, BLOCK, offset)
            if not data:
                raise OSError(f"the spool file ends after {offset} of {self.size} octets")
            offset += len(data)
            yield data

    def close(self) -> None:
        """Forget the content."""
        self._parts.clear()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def _flush(self) -> None:
        parts, self._parts, self._waiting = self._parts, [], 0
        if self._descriptor is None:
            self._descriptor = await asyncio.to_thread(_unnamed_file, self._folder)
        await asyncio.to_thread(_write_all, self._descriptor, parts)

    def _gather_header(self, data: bytes) -> None:
        """Keep what comes before the first empty line. An empty line at the very start is a header without fields."""
        if self._header_done:
            return
        start = max(0, len(self._header) - 3)
        self._header += data
        end = self._header.find(_END_OF_HEADER, start)
        if end >= 0:
            self._header_done = True
            del self._header[end + 2 :]


def _unnamed_file(folder: Path | None) -> int:
    directory = str(folder or tempfile.gettempdir())
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):  # a file system without O_TMPFILE
        descriptor, name = tempfile.mkstemp(prefix="lychgate-", dir=directory)
        Path(name).unlink()
        return descriptor


def _write_all(descriptor: int, parts: list[bytes]) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]
