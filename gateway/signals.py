"""Signals: what the processes of the service do about each, so that none ends them by mistake.

SIGTERM and SIGINT stop, SIGHUP reloads, and job control (SIGTSTP, SIGCONT and the like) is as usual. Every other signal
that somebody sends is passed over, at any time from the start of the supervisor on, between the fork and a worker's own
handlers too. Three kinds of it differ:

* Signals of a fault (SIGSEGV, SIGBUS, ...) are ignored (SIG_IGN). A handler of Python's would return to the faulty
  instruction for ever; with SIG_IGN the kernel ends a process that has a real fault all the same (sigaction(2)). A real
  ``abort()`` ends it, too (abort(3)).
* Real-time signals are ignored: they queue, and a process that has to take each of thousands does nothing else.
* All others are caught and dropped, and not ignored: a program that a worker starts inherits what is ignored, and what
  is caught is as usual there (execve(2)).

Known limit: 32 and 33 are glibc's own (nptl(7)), which no program can catch by it.
"""

import signal
import socket
from contextlib import suppress
from typing import Final

_FAULTS: Final = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS})
"""What the kernel sends to a process that has a fault."""

_AS_USUAL: Final = frozenset(
    {
        *(signal.SIGKILL, signal.SIGSTOP),  # nobody can catch them
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),  # job control
        *(signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG),  # end nothing
        *(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them; subprocess undoes that for its children
    }
)
"""What is left as it is."""

HEARD: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
"""What the supervisor acts on."""


def _pass_over(_number: int, _frame: object) -> None:
    """Do nothing: the system call that was interrupted goes on (PEP 475)."""


def withstand() -> None:
    """Let no signal end this process; what it acts on it handles afterwards."""
    for number in signal.valid_signals() - _AS_USUAL:
        is_ignored = number in _FAULTS or number >= signal.SIGRTMIN
        signal.signal(number, signal.SIG_IGN if is_ignored else _pass_over)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started it may have blocked some


def hold() -> None:
    """Let all signals wait: around a fork, so that none meets a worker that has no handlers yet."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def go_on() -> None:
    """Let the signals come again."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become_worker() -> None:
    """In a worker that was just forked: what the supervisor acts on is passed over; all wait for ``go_on``."""
    signal.set_wakeup_fd(-1)  # the supervisor's
    for number in HEARD - {signal.SIGCHLD}:
        signal.signal(number, _pass_over)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Heard:
    """The signals that the supervisor acts on, each once however often it came; readable when there are some."""

    def __init__(self) -> None:
        self._seen: set[signal.Signals] = set()
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        # One octet for every signal: it wakes only, so that one too many for the buffer is none too few.
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, self._hear)

    def fileno(self) -> int:
        """What to select on."""
        return self._reader.fileno()

    def take(self) -> set[signal.Signals]:
        """Those that came since it was last asked."""
        with suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        seen, self._seen = self._seen, set()
        return seen

    def leave_to_supervisor(self) -> None:
        """In a worker: keep nothing open."""
        self._reader.close()
        self._writer.close()

    def _hear(self, number: int, _frame: object) -> None:
        self._seen.add(signal.Signals(number))
