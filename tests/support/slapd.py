"""A real OpenLDAP server on loopback ports of its own, its data in a temporary folder.

    with Slapd(LDIF, certificates=folder) as directory:
        ... directory.url, directory.secure_url ...

Its suffix is ``dc=example,dc=com``; anyone may search, and ``ADMIN`` binds with ``PASSWORD``. ``START_TLS`` works where
a folder with ``cert.pem`` and ``key.pem`` is given. Stopped and started again it has the same ports and entries.
"""

import os
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

SUFFIX: Final = "dc=example,dc=com"
ADMIN: Final = f"cn=admin,{SUFFIX}"
PASSWORD: Final = "let me in"  # noqa: S105 - of a server that lives for seconds

_CONFIGURATION: Final = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
{tls}
{limits}
database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw "{password}"
directory {folder}/data
maxsize 10485760
dbnosync
{access}
"""


class Slapd:
    """One server; a context manager.

    Args:
        entries: What is in the directory, as LDIF.
        certificates: A folder with ``cert.pem`` and ``key.pem``, None without TLS.
        private: Whether only ``ADMIN`` may search.

    Attributes:
        port: Its port for ``ldap://``.
        secure_port: Its port for ``ldaps://``.
        socket: The path of its UNIX socket.
    """

    def __init__(self, entries: str, *, certificates: Path | None = None, private: bool = False) -> None:
        self.port = free_port()
        self.secure_port = free_port()
        self._entries = entries
        self._certificates = certificates
        self._private = private
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"ldap://localhost:{self.port}"

    @property
    def secure_url(self) -> str:
        """Where it is under TLS."""
        return f"ldaps://localhost:{self.secure_port}"

    @property
    def socket_url(self) -> str:
        """Where it is on this machine."""
        return "ldapi://" + str(self._folder / "ldapi").replace("/", "%2F")

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="slapd-"))
        try:
            (self._folder / "data").mkdir()
            self._configure()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it; it answers on return."""
        urls = f"ldap://127.0.0.1:{self.port} {self.socket_url}"
        if self._certificates is not None:
            urls += f" ldaps://127.0.0.1:{self.secure_port}"
        command = ["slapd", "-d", "0", "-f", str(self._folder / "slapd.conf"), "-h", urls]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        poll(lambda: self._process is not None and (self._process.poll() is not None or self._answers()))
        if self._process.poll() is not None:
            raise RuntimeError(f"slapd ended with {self._process.returncode}")

    def stop(self) -> None:
        """Kill it; it is gone on return."""
        if self._process is not None:
            self._process.kill()
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

    def _configure(self) -> None:
        tls = ""
        if self._certificates is not None:
            tls = (
                f"TLSCertificateFile {self._certificates}/cert.pem\n"
                f"TLSCertificateKeyFile {self._certificates}/key.pem\nTLSVerifyClient never"
            )
        text = _CONFIGURATION.format(
            folder=self._folder, tls=tls, suffix=SUFFIX, admin=ADMIN, password=PASSWORD,
            limits="allow bind_v2", access="access to * by anonymous auth by * none" if self._private else "",
        )  # fmt: skip
        (self._folder / "slapd.conf").write_text(text)
        command = ["slapadd", "-q", "-f", str(self._folder / "slapd.conf")]
        subprocess.run(command, input=self._entries, text=True, check=True, capture_output=True, timeout=60)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
