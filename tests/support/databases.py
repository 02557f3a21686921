"""Real PostgreSQL and MariaDB servers on loopback ports of their own, their data in temporary folders.

    with PostgreSql() as database:
        database.run("CREATE TABLE users (address text)")
        ... database.url ...

Durability is off: they live for seconds. Each has a user ``lychgate`` with ``PASSWORD``, who must give it.
"""

import signal
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import Final

from tests.support.server_process import ServerProcess

PASSWORD: Final = "p@ss:word/1"  # noqa: S105 - of a server that lives for seconds


class Database(ServerProcess):
    """What the two have in common."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, without the password."""

    def run(self, statements: str) -> None:
        """Run statements as the superuser."""
        self._run(self._client(), statements)

    @abstractmethod
    def _client(self) -> list[str]:
        """The command that reads statements."""

    def _answers(self) -> bool:
        if super()._answers():
            try:
                self.run("SELECT 1;")
            except subprocess.CalledProcessError:
                return False
            return True
        return False


class PostgreSql(Database):
    """A PostgreSQL; the database is ``postgres``."""

    user = "postgres"
    kill_signal = signal.SIGQUIT  # ends at once and takes the children with it

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return f"postgresql://lychgate@127.0.0.1:{self.port}/postgres"

    def _programs(self) -> Path:
        return max(Path("/usr/lib/postgresql").iterdir(), key=lambda folder: float(folder.name)) / "bin"

    def _make(self) -> None:
        command = [str(self._programs() / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-N", "--no-sync"]
        command += ["-U", "postgres", "-E", "UTF8", "--locale=C"]
        self._run(command)
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
        return f"psql -X -q -v ON_ERROR_STOP=1 -U postgres -h {self.folder} -p {self.port}".split()


class MariaDb(Database):
    """A MariaDB; the database is ``mail``."""

    user = "mysql"

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
        self._run(command)

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
