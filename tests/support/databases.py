"""Real PostgreSQL and MariaDB servers on loopback ports of their own, their data in temporary folders.

    with PostgreSql() as database:
        database.run("CREATE TABLE users (address text)")
        ... database.url ...

Durability is off: they live for seconds. Each has a user ``lychgate`` with ``PASSWORD``, who must give it.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.gateway import poll
from tests.support.ports import free_port

PASSWORD: Final = "p@ss:word/1"  # noqa: S105 - of a server that lives for seconds


class Database:
    """What the two have in common; a context manager.

    Attributes:
        port: Its port.
    """

    user = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="database-"))
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

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it; it answers on return."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, user=self._user, cwd=self.folder)
        process = self._process
        poll(lambda: process.poll() is not None or self._answers(), 60)
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Kill it and its children; they are gone on return."""
        if self._process is not None:
            self._process.send_signal(self._kill_signal)
            self._process.wait(30)
            self._process = None

    def pause(self) -> None:
        """Stop it as by SIGSTOP; on return no thread of it runs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def run(self, statements: str) -> None:
        """Run statements as the superuser."""
        subprocess.run(
            self._client(), input=statements, text=True, check=True, capture_output=True, timeout=60, user=self._user,
            cwd=self.folder,
        )  # fmt: skip

    _kill_signal = signal.SIGQUIT  # PostgreSQL ends at once and takes its children with it

    @property
    def _user(self) -> str | None:
        """Whom it runs as: neither server likes to be root's."""
        return self.user if os.geteuid() == 0 else None

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return subprocess.run(
                self._client(), input="SELECT 1;", text=True, check=False, capture_output=True, timeout=30,
                user=self._user, cwd=self.folder,
            ).returncode == 0  # fmt: skip
        return False

    def _make(self) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _client(self) -> list[str]:
        raise NotImplementedError


class PostgreSql(Database):
    """A PostgreSQL; the database is ``postgres``."""

    user = "postgres"

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return f"postgresql://lychgate@127.0.0.1:{self.port}/postgres"

    def _programs(self) -> Path:
        return max(Path("/usr/lib/postgresql").iterdir(), key=lambda folder: float(folder.name)) / "bin"

    def _make(self) -> None:
        command = [str(self._programs() / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-N", "--no-sync"]
        command += ["-U", "postgres", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, timeout=120, user=self._user, cwd=self.folder)
        (self.folder / "data/pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")

    def _prepare(self) -> None:
        self.run(f"CREATE ROLE lychgate LOGIN PASSWORD '{PASSWORD}';")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(self.folder),
            "fsync": "off", "shared_buffers": "1MB", "max_connections": "20", "logging_collector": "off",
        }  # fmt: skip
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._programs() / "postgres"), "-D", str(self.folder / "data"), *options]

    def _client(self) -> list[str]:
        return [
            "psql",
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            str(self.folder),
            "-p",
            str(self.port),
        ]


class MariaDb(Database):
    """A MariaDB; the database is ``mail``."""

    user = "mysql"
    _kill_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return f"mariadb://lychgate@127.0.0.1:{self.port}/mail"

    def _make(self) -> None:
        command = [
            "mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-log-file-size=4M",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120, user=self._user, cwd=self.folder)

    def _prepare(self) -> None:
        self.run(
            f"CREATE DATABASE mail; CREATE USER lychgate@'%' IDENTIFIED BY '{PASSWORD}'; "
            "GRANT SELECT ON mail.* TO lychgate@'%';"
        )

    def _command(self) -> list[str]:
        return [
            "mariadbd", "--no-defaults", f"--datadir={self.folder}/data", f"--port={self.port}",
            f"--socket={self.folder}/socket", "--bind-address=127.0.0.1", f"--pid-file={self.folder}/pid",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=8M", "--skip-log-bin",
            "--skip-name-resolve", "--innodb-log-file-size=4M",
        ]  # fmt: skip

    def _client(self) -> list[str]:
        return ["mariadb", "--no-defaults", f"--socket={self.folder}/socket", "--user=root"]
