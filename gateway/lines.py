"""Lines for a reader outside of this process: a pipe, a socket, a terminal. None of them holds anybody up.

A write to one of these waits for as long as nobody reads there. So ``LineWriter`` takes a line, at once and always, and
a thread of its own writes it. What waits is bounded by its octets; a line above that is lost, and counted. What one
logs and what one records go this way, and ``LineStream`` lets ``print`` and libraries go it, too.

Several processes may share the reader: the lines of each stay whole, by a lock where a pipe needs one. Never is the
descriptor made non-blocking: other processes have it, too. A process may fork at any time: the child begins with
nothing that waits, and with a thread of its own once it has a line.

Known limits: a line of more than some 30 KB on a socket that several processes share may be mixed with another's.
"""

import fcntl
import io
import os
import select
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

TOO_SLOW: Final = "the reader is too slow"


def _say_nothing_of_the_beginning(_reason: str) -> None:
    pass


def _say_nothing_of_the_end(_lost: int) -> None:
    pass


class LineWriter:
    """Writes lines to a descriptor, from a thread of its own.

    Args:
        descriptor: An open file descriptor.
        room: How many octets may wait.
        name: The thread's.
        begins: Is given the reason when lines begin to be lost.
        ends: Is given how many were lost when lines are written again: after one was written, with half of the room
            free. What it returns is written at once, before what waits. It is called by the thread.
        is_owned: Whether the descriptor is closed at the end.

    Attributes:
        room: How many octets may wait.
        lost: How many lines were lost.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        room: int,
        name: str,
        begins: Callable[[str], None] = _say_nothing_of_the_beginning,
        ends: Callable[[int], bytes | None] = _say_nothing_of_the_end,
        is_owned: bool = False,
    ) -> None:
        self.descriptor: Final = descriptor
        self.room = room
        self._name = name
        self._begins = begins
        self._ends = ends
        self._is_owned = is_owned
        self._lock: int | None = None
        self._start()
        _WRITERS.add(self)

    def _start(self) -> None:
        self.lost = 0
        self._unsaid = 0  # of these, what was not given to ``ends`` yet
        self._changed = threading.Condition()  # of an RLock: a finalizer may log while a line is taken
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._closing = False
        self._is_given_up = False
        self._thread: threading.Thread | None = None

    def put(self, line: bytes, *, share: float = 1.0) -> None:
        """Take a line.

        Args:
            line: With its line end.
            share: How much of the room it may use: less leaves room for what is more important.
        """
        with self._changed:
            reason = "closed" if self._closing else TOO_SLOW
            if not self._closing and self._waiting + len(line) <= self.room * share:
                try:
                    self._need_thread()
                except RuntimeError as error:  # the system has none to give, or the process ends
                    reason = str(error)
                else:
                    self._queue.append(line)
                    self._waiting += len(line)
                    self._changed.notify_all()
                    return
            is_first = self._lose(1)
        if is_first:
            self._begins(reason)

    def flush(self, within: float) -> bool:
        """Wait until all is written, for so many seconds at most; returns whether it is."""
        end = time.monotonic() + within
        with self._changed:
            while self._queue and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._queue

    def close(self, within: float) -> None:
        """Take no more, and write what waits, for so many seconds at most; what is left then is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._thread is None and self._is_owned:
                os.close(self.descriptor)
        if self._thread is not None:
            self._thread.join(within)
        with self._changed:
            self._is_given_up = bool(self._queue)
            is_first = self._is_given_up and self._lose(len(self._queue))
        if is_first:
            self._begins(TOO_SLOW)

    def _lose(self, count: int) -> bool:
        """Count; returns whether these are the first."""
        is_first = not self._unsaid
        self.lost += count
        self._unsaid += count
        return is_first

    # What the thread does.

    def _need_thread(self) -> None:
        """See that there is one.

        Raises:
            RuntimeError: There can't be one.
        """
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        if self._thread is None:  # a finalizer has run, and logged
            self._thread, self._lock = thread, _open_lock(self.descriptor)
            # Signals are for the threads of others: one that waits for a signal blocks it, and this one must, too.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                thread.start()
            except RuntimeError:
                self._thread = None
                self._unlock()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _run(self) -> None:
        while (line := self._next()) is not None:
            failure = self._write(line)
            with self._changed:
                if self._is_given_up:
                    break
                is_first = failure is not None and self._lose(1)
                unsaid = self._unsaid if failure is None and self._waiting - len(line) <= self.room // 2 else 0
            if is_first:
                self._begins(str(failure))
            if unsaid and ((notice := self._ends(unsaid)) is None or self._write(notice) is None):
                with self._changed:
                    self._unsaid -= unsaid
            with self._changed:
                self._queue.popleft()  # not before: what is being written counts, and is waited for
                self._waiting -= len(line)
                self._changed.notify_all()
        with self._changed:
            self._unlock()
            if self._is_owned:
                os.close(self.descriptor)

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            return self._queue[0]

    def _write(self, line: bytes) -> OSError | None:
        """Write a line; returns why it can't be written."""
        try:
            if self._lock is None:
                _write_all(self.descriptor, line)
                return None
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                _write_all(self.descriptor, line)
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        except OSError as error:
            return error
        return None

    # Forks: nobody holds the writer's state while one happens, and the child has nothing of its parent's.

    def hold(self) -> None:
        """A fork begins."""
        self._changed.acquire()

    def release(self) -> None:
        """It is over, in the parent."""
        self._changed.release()

    def start_over(self) -> None:
        """It is over, in the child."""
        self._unlock()  # the descriptor: or the lock would outlive a parent that is killed while it has it
        self._start()


class LineStream(io.TextIOBase):
    """A text stream over a writer: for ``print``, tracebacks and whatever else writes to standard error.

    Args:
        writer: Takes the lines.
    """

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._begun = ""
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        """UTF-8; what can't be written so is escaped."""
        return "utf-8"

    def write(self, text: str, /) -> int:
        """Take text; whole lines go on."""
        with self._lock:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            self._put(whole + end)
        return len(text)

    def flush(self) -> None:
        """Let a line go that is not whole."""
        with self._lock:
            begun, self._begun = self._begun, ""
            self._put(begun)

    def _put(self, text: str) -> None:
        if text:
            self._writer.put(text.encode("utf-8", "backslashreplace"))

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether it ends at a terminal."""
        return os.isatty(self._writer.descriptor)

    def fileno(self) -> int:
        """The descriptor; whoever writes there may have to wait."""
        return self._writer.descriptor


def _write_all(descriptor: int, line: bytes) -> None:
    """Write a whole line: in one call, or in what calls it takes where the system takes less at once.

    Raises:
        OSError: It can't be written.
    """
    done = 0
    while done < len(line):
        try:
            done += os.write(descriptor, line[done:] if done else line)
        except BlockingIOError:  # whoever has the other end, or gave this one, made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _open_lock(descriptor: int) -> int | None:
    """A descriptor whose lock keeps the lines of several processes on one pipe apart; None where none is needed.

    A write of more than PIPE_BUF octets to a pipe may be mixed with another process's (POSIX write()). A pipe that is
    opened once more can be locked against the others, and the kernel frees the lock of one that is killed. One that
    nobody has open for reading would be waited for.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


_WRITERS: Final[WeakSet[LineWriter]] = WeakSet()
_held: list[LineWriter] = []


def _before_fork() -> None:
    _held[:] = list(_WRITERS)
    for writer in _held:
        writer.hold()


def _in_parent() -> None:
    for writer in _held:
        writer.release()
    _held.clear()


def _in_child() -> None:
    for writer in _held:
        writer.start_over()
    _held.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
