"""A real server of another project, in a temporary folder, on a loopback port of its own.

    with SomeServer() as server: ... server.port ...

A subclass says what to run (``_command``) and when it answers (``_answers``). The server can be stopped and started
again, with the same port and data, and stand still, as a machine that hangs. Its output is in ``log`` in its folder,
and in the error where it does not start.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.support.gateway import poll
from tests.support.ports import free_port

START_WITHIN = 60.0
"""Seconds in which it must answer."""


class ServerProcess(ABC):
    """One server; a context manager.

    Attributes:
        port: Its port.
        folder: Where its files are, once entered.
        user: Whom it runs as where the tests run as root, which some servers refuse.
        kill_signal: Ends it at once, and its children.
    """

    user = ""
    kill_signal = signal.SIGKILL

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-test-"))
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        try:
            self._make()
            self.start()
            self._prepare()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it; it answers on return."""
        with (self.folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user, cwd=self.folder
            )
        poll(lambda: process.poll() is not None or self._answers(), START_WITHIN)
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Kill it and its children; they are gone on return. Can be called again."""
        if self._process is not None:
            self.resume()  # one that is paused takes no other signal than SIGKILL
            self._process.send_signal(self.kill_signal)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                for process in (*psutil.Process(self._process.pid).children(), self._process):
                    process.kill()
                raise
            self._process = None

    def pause(self) -> None:
        """Stop it as by SIGSTOP: connections stay, nothing answers; on return no thread of it runs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)
        for child in psutil.Process(self._process.pid).children():  # PostgreSQL has one for each connection
            child.suspend()

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                child.resume()
        self._process.send_signal(signal.SIGCONT)

    @property
    def _user(self) -> str | None:
        return self.user if self.user and os.geteuid() == 0 else None

    def _run(self, command: Sequence[str], text: str | None = None) -> None:
        """Run a program that goes with the server, as its user."""
        subprocess.run(
            command, input=text, text=True, check=True, capture_output=True, timeout=120, user=self._user,
            cwd=self.folder,
        )  # fmt: skip

    def _make(self) -> None:  # noqa: B027 - a subclass may leave it out
        """Make its files."""

    def _prepare(self) -> None:  # noqa: B027 - a subclass may leave it out
        """What comes behind the first start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The server, in the foreground."""

    def _answers(self) -> bool:
        """Whether it is ready: whether it takes connections, unless a subclass knows better."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
