"""Where decision records go: a file, or standard output. One record is one line of JSON.

``FileSink`` appends to a file that several workers share, each line in one system call, and the file is the record's
home once ``write`` returns: a worker that is killed afterwards loses none. A file that was rotated away is noticed
within a second, and the new one is opened, so logrotate needs no signal. ``StdoutSink`` hands lines to a thread
(``lines``), because a pipe or a terminal can block, and so does ``FileSink`` with what is no regular file.

A fault never stops mail: nothing here raises, an outage is logged once with its cause, and what it cost is counted and
logged at its end. Where a disk fills up in the middle of a line, the fragment stays and counts as a lost record; every
record that was written whole is on a line of its own, whatever other workers left before it. Known limits: records are
not forced to the disk, so a crash of the machine may lose the last ones.
"""

import asyncio
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from gateway.lines import LineWriter
from gateway.records import DecisionRecord, encode

log = structlog.get_logger("lychgate.records")

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks whether the file is still the one at its path, and between two tries to open it."""
QUEUE_OCTETS: Final = 16 * 2**20
"""How many octets of records wait for a slow standard output: some 8,000 records of ordinary size."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that the end of the gateway waits for what still has to be written to standard output."""

_TRIES: Final = 5  # each needs another worker's fragment just then
_MODE: Final = 0o640  # records name senders and recipients: not for everybody on the machine


class FileSink:
    """Appends records to a file; one that is no regular file is left to a thread, so that it can not stop mail."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, queue_octets: int = QUEUE_OCTETS
    ) -> None:
        """Open the file, or begin an outage if it can't be opened.

        Args:
            path: Made if it is missing; its folder is not.
            clock: Seconds that never go back.
            queue_octets: How much may wait to be written to what is no regular file.
        """
        self._path = path
        self._clock = clock
        self._room = queue_octets
        self._lost = 0
        self._outage_began: int | None = None  # how many were lost before it
        self._descriptor: int | None = None
        self._lines: LineWriter | None = None  # to a pipe or a device
        self._may_read = True
        self._identity = (0, 0)
        self._reason = ""
        self._open()

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._lost + (0 if self._lines is None else self._lines.lost)

    def write(self, record: DecisionRecord) -> None:
        """Append one record."""
        now = self._clock()
        if now - self._looked >= LOOK_INTERVAL:
            self._look()
        if self._descriptor is not None:
            try:
                self._append(self._descriptor, encode(record) + b"\n")
            except OSError as error:
                self._lose(str(error))
            else:
                self._end()
        elif self._lines is not None:
            self._lines.put(encode(record) + b"\n")
            self._end()  # of an outage before it was opened
        else:
            self._lose(self._reason)

    def _append(self, descriptor: int, line: bytes) -> None:
        """Write a whole line, on a line of its own.

        Every worker has a descriptor of its own. Where the disk fills up, one's fragment may be the last that stands in
        the file, and what the next one appends is glued to it. It sees that by the octet before, which is no line end;
        its line has an end now, so that it only has to write it once more.

        Raises:
            OSError: It can't be written; its beginning may be.
        """
        if not self._may_read:
            line = b"\n" + line  # an empty line is better than one that nobody can read
        for _ in range(_TRIES):
            if os.write(descriptor, line) < len(line):
                # The rest would be glued to what others have written since.
                raise OSError(errno.ENOSPC, "there was room for its beginning only")
            if not self._may_read:
                return
            begin = os.lseek(descriptor, 0, os.SEEK_CUR) - len(line)
            if begin <= 0 or os.pread(descriptor, 1, begin - 1) in {b"\n", b""}:  # b"": it was truncated since
                return
        raise OSError(errno.EIO, "fragments of others stand before it")

    async def close(self) -> None:
        """Close the file; to what is no regular file write what is left, for a few seconds at most."""
        if self._lines is not None:
            await asyncio.to_thread(self._lines.close, CLOSE_TIMEOUT)
        self._close()

    def _open(self) -> None:
        self._looked = self._clock()
        try:
            self._take(_opened(self._path))
        except OSError as error:
            self._reason = str(error)
            self._begin(self._reason)

    def _take(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._identity = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode):
            self._may_read = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
            self._descriptor = descriptor
        else:
            self._lines = _writer(descriptor, str(self._path), self._room, is_owned=True)

    def _look(self) -> None:
        self._looked = self._clock()
        try:
            status = self._path.stat()
            is_open = self._descriptor is not None or self._lines is not None
            is_same = is_open and (status.st_dev, status.st_ino) == self._identity
        except OSError:
            is_same = False
        if not is_same:
            self._close()
            self._open()

    def _close(self) -> None:
        self._reason = "closed"
        if self._lines is not None:
            self._lines.close(0)  # again, where it was closed before: then nothing is left
            self._lost += self._lines.lost
            self._lines = None
        if self._descriptor is not None:
            with suppress(OSError):  # a network file system may report the fault of an earlier write here
                os.close(self._descriptor)
            self._descriptor = None

    # An outage is told when it begins and when it is over.

    def _begin(self, reason: str) -> None:
        if self._outage_began is None:
            self._outage_began = self._lost
            _tell_outage(str(self._path), reason)

    def _lose(self, reason: str) -> None:
        self._begin(reason)
        self._lost += 1

    def _end(self) -> None:
        if self._outage_began is not None:
            _tell_end(str(self._path), self._lost - self._outage_began)
            self._outage_began = None


def _opened(path: Path) -> int:
    """A descriptor to append by, and to read by where that is of use and allowed.

    Raises:
        OSError: There is none.
    """
    flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, os.O_RDWR | flags, _MODE)
    except PermissionError:
        return os.open(path, os.O_WRONLY | flags, _MODE)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)  # the reading end of a pipe would keep it from saying that nobody reads
    return os.open(path, os.O_WRONLY | flags, _MODE)


class StdoutSink:
    """Writes records to standard output, or another descriptor, from a thread of its own."""

    def __init__(self, descriptor: int = 1, *, queue_octets: int = QUEUE_OCTETS) -> None:
        """Prepare; the thread starts with the first record, so that a process may fork before it.

        Args:
            descriptor: An open file descriptor; it stays open.
            queue_octets: How much may wait to be written.
        """
        self._lines = _writer(descriptor, "standard output", queue_octets)

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._lines.lost

    def write(self, record: DecisionRecord) -> None:
        """Take one record; it is dropped where too many wait already."""
        self._lines.put(encode(record) + b"\n")

    async def close(self) -> None:
        """Write what is left, for a few seconds at most."""
        await asyncio.to_thread(self._lines.close, CLOSE_TIMEOUT)


def _writer(descriptor: int, target: str, room: int, *, is_owned: bool = False) -> LineWriter:
    """What writes records to a descriptor that may block."""
    return LineWriter(
        descriptor,
        room=room,
        name="records",
        begins=partial(_tell_outage, target),
        ends=partial(_tell_end, target),
        is_owned=is_owned,
    )


def _tell_outage(target: str, reason: str) -> None:
    log.error("decision records can not be written", target=target, reason=reason)


def _tell_end(target: str, lost: int) -> None:
    log.warning("decision records are written again", target=target, lost=lost)
