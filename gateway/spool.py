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
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.form import HeaderReader, HeaderSection
from gateway.mailauth.body import BodyHashes
from gateway.session import Message

BLOCK: Final = 262_144
"""Octets that are written to or read from the file at a time."""

PIECE: Final = 64
"""What a piece costs in memory besides its octets, by which pieces of an octet each are found to be large."""

CROWDED: Final = 16_384
"""Octets of a message that stay in memory while all messages together take more than they may."""

_END_OF_HEADER: Final = b"\r\n\r\n"


class SpoolMemory:
    """What the messages of a worker take in memory, all together.

    Attributes:
        limit: Above it, messages go to files as soon as they are more than a few octets.
        used: What they take now.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Spool:
    """The content of one message.

    Args:
        memory: Octets that are kept in memory before a file is made.
        folder: The folder of the files, None for the system's.
        reader: Reads the header section.
        shared: What it takes counts here, too; None where it is alone.
        signatures: For how many DKIM signatures the body is hashed while it comes; None where nobody wants it.

    Attributes:
        size: Octets written so far.
    """

    __slots__ = (
        "_file",
        "_folder",
        "_hashes",
        "_header",
        "_header_done",
        "_memory",
        "_parts",
        "_reader",
        "_section",
        "_shared",
        "_signatures",
        "_tail",
        "_waiting",
        "size",
    )

    def __init__(
        self,
        memory: int,
        folder: Path | None,
        reader: HeaderReader,
        signatures: int | None = None,
        shared: SpoolMemory | None = None,
    ) -> None:
        self.size = 0
        self._shared = shared or SpoolMemory(memory)
        self._signatures = signatures
        self._reader = reader
        self._section: HeaderSection | None = None
        self._hashes: BodyHashes | None = None
        self._memory = memory
        self._folder = folder
        self._parts: list[bytes] = []
        self._waiting = 0
        self._tail = b"\r\n"
        self._file: _File | None = None
        self._header = bytearray(b"\r\n")  # so that an empty first line reads as the end too
        self._header_done = False

    async def write(self, data: bytes) -> None:
        """Append octets, and have them written to the file where they are too many for memory."""
        if self.append(data):
            await self.flush()

    def append(self, data: bytes) -> bool:
        """Append octets in memory; returns whether ``flush`` is due."""
        if self._hashes is not None:
            self._hashes.update(data)
        elif not self._header_done:
            self._gather_header(data)
        self.size += len(data)
        self._tail = data[-2:] if len(data) > 1 else (self._tail + data)[-2:]
        self._parts.append(data)
        cost = len(data) + PIECE
        self._waiting += cost
        shared = self._shared
        shared.used += cost
        if shared.used > shared.limit and self._waiting > CROWDED:
            return True
        return self._waiting > (self._memory if self._file is None else BLOCK)

    @property
    def ends_with_newline(self) -> bool:
        """Whether the last line has its CRLF; so it is of an empty message."""
        return self._tail == b"\r\n"

    @property
    def header(self) -> bytes:
        """The header section as far as it has come: up to the empty line, which is not included."""
        return bytes(self._header[2:])

    @property
    def parts(self) -> Sequence[bytes] | None:
        """The octets, where all of them are in memory."""
        return self._parts if self._file is None else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The octets from the start, in chunks. Can be read more than once."""
        if self._file is None:
            for part in self._parts:
                yield part
            return
        if self._parts:
            await self.flush()
        offset = 0
        while offset < self.size:
            data = await asyncio.to_thread(self._file.read, offset)
            if not data:
                raise OSError(f"the spool file ends after {offset} of {self.size} octets")
            offset += len(data)
            yield data

    def message(self) -> Message:
        """The message, when it has come whole."""
        section = self._section or self._end_of_header(b"")
        return Message(self, section, self._hashes)

    def close(self) -> None:
        """Forget the content. Can be called more than once."""
        self._shared.used -= self._waiting
        self._waiting = 0
        self._parts.clear()
        self._file = None

    async def flush(self) -> None:
        """Have what is in memory written to the file."""
        parts, self._parts = self._parts, []
        self._shared.used -= self._waiting
        self._waiting = 0
        if self._file is None:
            self._file = await asyncio.to_thread(_File, self._folder)
        await asyncio.to_thread(self._file.write, parts)

    def _gather_header(self, data: bytes) -> None:
        """Keep what comes before the first empty line. An empty line at the very start is a header without fields."""
        start = max(0, len(self._header) - 3)
        self._header += data
        end = self._header.find(_END_OF_HEADER, start)
        if end >= 0:
            self._header_done = True
            body = bytes(self._header[end + 2 :]) if self._signatures is not None else b""
            del self._header[end + 2 :]
            if self._signatures is not None:
                self._end_of_header(body)

    def _end_of_header(self, following: bytes) -> HeaderSection:
        """Read the header section, and begin the body's hashes.

        Args:
            following: What has come of the message from its first empty line on.
        """
        self._section = section = self._reader.read(self.header)
        if self._signatures is not None:
            self._hashes = BodyHashes(section.fields, self._signatures)
            # Where the header ends before the first empty line, that line is one of the body's.
            self._hashes.update(section.rest + following if section.rest else following[2:])
        return section


class _File:
    """A file without a name. It is closed when nobody refers to it any more.

    A thread may be writing to it when the spool is closed, because a thread can't be cancelled. If the descriptor were
    closed then, its number could be another file's or a client's by the thread's next write.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, folder: Path | None) -> None:
        directory = str(folder or tempfile.gettempdir())
        try:
            self._descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except (OSError, AttributeError):  # a file system without O_TMPFILE
            self._descriptor, name = tempfile.mkstemp(prefix="lychgate-", dir=directory)
            Path(name).unlink()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be made
            os.close(self._descriptor)

    def write(self, parts: list[bytes]) -> None:
        """Append octets."""
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def read(self, offset: int) -> bytes:
        """The octets from an offset, at most ``BLOCK``."""
        return os.pread(self._descriptor, BLOCK, offset)
