"""What a benchmark starts, and what ``/proc`` says about it.

Every process is kept and ended by itself (``Program``); figures are read from ``/proc/PID``: processor time from
``stat``, memory from ``status`` and ``smaps_rollup``. A peak is the kernel's own (``VmHWM``), which ``reset_peak``
starts again.
"""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PATIENCE: Final = 20.0


class BenchError(Exception):
    """A measurement can't be made."""


class Steal:
    """What a virtual machine's host takes of its processors' time (``steal`` of ``/proc/stat``) from here on."""

    def __init__(self) -> None:
        self._stolen, self._all = self._read()

    def share(self) -> float:
        """The share of their time so far."""
        stolen, everything = self._read()
        return (stolen - self._stolen) / max(1, everything - self._all)

    @staticmethod
    def _read() -> tuple[int, int]:
        ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return ticks[7], sum(ticks)


class Program:
    """A running program; a context manager that ends it.

    Args:
        command: Program and arguments.
        log: Where its output goes.
        environment: Variables beyond those of this process.
        folder: Where it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._command = command
        self._log = log
        self._environment = environment or {}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | self._environment, cwd=self._folder
            )
        return self

    def check(self) -> None:
        """Raise ``BenchError`` if it has ended."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise BenchError(
                f"{self._command[0]} ended with {status}: {self._log.read_text('utf-8', 'replace')[-2000:]}"
            )

    def stop(self) -> None:
        """End it, in order if it can."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def await_port(self, port: int, address: str = "127.0.0.1") -> None:
        """Wait until it listens on a port."""
        end = time.monotonic() + _PATIENCE
        while True:
            self.check()
            try:
                socket.create_connection((address, port), 1).close()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, in user and in kernel mode."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


def tree_cpu_seconds(pid: int) -> float:
    """Processor time of a process and of its children, those included that have ended."""
    fields = _stat(pid)
    ended = (int(fields[13]) + int(fields[14])) / _TICK
    return cpu_seconds(pid) + ended + sum(map(tree_cpu_seconds, children(pid)))


def group_cpu_seconds(leader: int) -> float:
    """Processor time of all processes of a group, those included that have ended and whose parent was the leader."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = _stat(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader:
            total += int(fields[11]) + int(fields[12])
        if int(entry.name) == leader:
            total += int(fields[13]) + int(fields[14])
    return total / _TICK


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")[2].split()


def memory(pid: int) -> int:
    """Resident memory in octets."""
    return _status(pid, "VmRSS")


def own_memory(pid: int) -> int:
    """Memory in octets, of what processes share the process's part of it (``Pss`` of proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def peak_memory(pid: int) -> int:
    """The most resident memory since ``reset_peak``, in octets."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Start the peak anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"no {name} of process {pid}")
