"""Where decision records go: a file, or standard output. One record is one line of JSON.

``FileSink`` appends to a file that several workers share, each line in one system call, and the file is the record's
home once ``write`` returns: a worker that is killed afterwards loses none. A file that was rotated away is noticed
within a second and opened anew, so logrotate needs no signal. ``StdoutSink`` hands lines to a thread, because a pipe or
a terminal can block.

A fault never stops mail: nothing here raises, an outage is logged once with its cause, and what it cost is counted and
logged at its end. Known limits: records are not forced to the disk, so a crash of the machine may lose the last ones;
where a disk fills up in the middle of a line, the fragment stays and the next record starts on a line of its own.
"""

import asyncio
import fcntl
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from gateway.records import DecisionRecord, encode

log = structlog.get_logger("lychgate.records")

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks whether the file is still the one at its path, and between two tries to open it."""
QUEUE_OCTETS: Final = 16 * 2**20
"""How many octets of records wait for a slow standard output: some 8,000 records of ordinary size."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that the end of the gateway waits for what still has to be written to standard output."""

_MODE: Final = 0o640  # records name senders and recipients: not for everybody on the machine


class _Outage:
    """Counts what a fault costs and logs it twice: when it begins and when it is over."""

    def __init__(self, target: str) -> None:
        self.lost = 0
        self._target = target
        self._before: int | None = None

    def begin(self, reason: str) -> None:
        """Records can not be written."""
        if self._before is None:
            self._before = self.lost
            log.error("decision records can not be written", target=self._target, reason=reason)

    def lose(self, reason: str) -> None:
        """One record could not be written."""
        self.begin(reason)
        self.lost += 1

    def end(self) -> None:
        """A record was written."""
        if self._before is not None:
            log.warning("decision records are written again", target=self._target, lost=self.lost - self._before)
            self._before = None


class FileSink:
    """Appends records to a file; one that is no regular file is opened non-blocking, so that it can not stop mail."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the file, or begin an outage if it can't be opened.

        Args:
            path: Made if it is missing; its folder is not.
            clock: Seconds that never go back.
        """
        self._path = path
        self._clock = clock
        self._outage = _Outage(str(path))
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._reason = ""
        self._torn = False
        self._open()

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._outage.lost

    def write(self, record: DecisionRecord) -> None:
        """Append one record."""
        now = self._clock()
        if now - self._looked >= LOOK_INTERVAL:
            self._look()
        if self._descriptor is None:
            self._outage.lose(self._reason)
            return
        line = encode(record) + b"\n"
        if self._torn:
            line = b"\n" + line
        try:
            _write_all(self._descriptor, line)
        except OSError as error:
            self._torn = self._torn or isinstance(error, _ShortWriteError)
            self._outage.lose(str(error))
        else:
            self._torn = False
            self._outage.end()

    async def close(self) -> None:
        """Close the file."""
        self._close()

    def _open(self) -> None:
        self._looked = self._clock()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            self._descriptor = os.open(self._path, flags, _MODE)
        except OSError as error:
            self._reason = str(error)
            self._outage.begin(self._reason)
            return
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._torn = False

    def _look(self) -> None:
        self._looked = self._clock()
        try:
            status = self._path.stat()
            is_same = self._descriptor is not None and (status.st_dev, status.st_ino) == self._identity
        except OSError:
            is_same = False
        if not is_same:
            self._close()
            self._open()

    def _close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # a network file system may report the fault of an earlier write here
                os.close(self._descriptor)
            self._descriptor = None
            self._reason = "closed"


class StdoutSink:
    """Writes records to standard output, or another descriptor, from a thread of its own."""

    def __init__(self, descriptor: int = 1, *, queue_octets: int = QUEUE_OCTETS) -> None:
        """Prepare; the thread starts with the first record, so that a process may fork before it.

        Args:
            descriptor: An open file descriptor; it stays open.
            queue_octets: How much may wait to be written.
        """
        self._descriptor = descriptor
        self._room = queue_octets
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._outage = _Outage("standard output")

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._outage.lost

    def write(self, record: DecisionRecord) -> None:
        """Take one record; it is dropped where too many wait already."""
        line = encode(record) + b"\n"
        with self._changed:
            if self._closing or self._waiting + len(line) > self._room:
                self._outage.lose("the reader is too slow" if not self._closing else "closed")
                return
            self._queue.append(line)
            self._waiting += len(line)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="records", daemon=True)
                self._thread.start()

    async def close(self) -> None:
        """Write what is left, for a few seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT)
        with self._changed:
            for _ in range(len(self._queue)):
                self._outage.lose("the reader is too slow")

    def _run(self) -> None:
        lock = _open_lock(self._descriptor)
        try:
            while (line := self._next()) is not None:
                self._deliver(line, lock)
        finally:
            if lock is not None:
                os.close(lock)

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            return self._queue[0]  # it leaves the queue when it is written: until then it counts

    def _deliver(self, line: bytes, lock: int | None) -> None:
        failure = ""
        try:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                _write_all(self._descriptor, line, wait=True)
            finally:
                if lock is not None:
                    fcntl.flock(lock, fcntl.LOCK_UN)
        except OSError as error:
            failure = str(error)
        with self._changed:
            self._queue.popleft()
            self._waiting -= len(line)
            if failure:
                self._outage.lose(failure)
            else:
                self._outage.end()


class _ShortWriteError(OSError):
    """A fault in the middle of a line: its beginning is written."""


def _write_all(descriptor: int, line: bytes, *, wait: bool = False) -> None:
    """Write a whole line: in one call, or in what calls it takes where the system takes less at once.

    Args:
        descriptor: Where to.
        line: With its line end.
        wait: Whether to wait where the descriptor is non-blocking and takes nothing now.

    Raises:
        OSError: It can't be written; ``_ShortWriteError`` when the beginning already is.
    """
    done = 0
    while done < len(line):
        try:
            done += os.write(descriptor, line[done:] if done else line)
        except BlockingIOError as error:
            if not wait:
                raise (_ShortWriteError if done else OSError)(error.errno, error.strerror) from error
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError as error:
            raise (_ShortWriteError if done else OSError)(error.errno, error.strerror) from error


def _open_lock(descriptor: int) -> int | None:
    """A descriptor whose lock keeps the lines of several workers on one pipe apart; None where none is needed.

    A write of more than PIPE_BUF octets to a pipe may be mixed with another process's (POSIX write()). A pipe that is
    opened anew can be locked against the other workers, and the kernel frees the lock of one that is killed.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None
