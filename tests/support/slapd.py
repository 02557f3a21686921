"""A real OpenLDAP server on loopback ports of its own, its data in a temporary folder.

    with Slapd(LDIF, certificates=folder) as directory:
        ... directory.url, directory.secure_url ...

Its suffix is ``dc=example,dc=com``; anyone may search, and ``ADMIN`` binds with ``PASSWORD``. ``START_TLS`` works where
a folder with ``cert.pem`` and ``key.pem`` is given. Stopped and started again it has the same ports and entries.
"""

from pathlib import Path
from typing import Final

from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

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


class Slapd(ServerProcess):
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
        super().__init__()
        self.secure_port = free_port()
        self._entries = entries
        self._certificates = certificates
        self._private = private

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
        return "ldapi://" + str(self.folder / "ldapi").replace("/", "%2F")

    def _command(self) -> list[str]:
        urls = f"ldap://127.0.0.1:{self.port} {self.socket_url}"
        if self._certificates is not None:
            urls += f" ldaps://127.0.0.1:{self.secure_port}"
        return ["slapd", "-d", "0", "-f", str(self.folder / "slapd.conf"), "-h", urls]

    def _make(self) -> None:
        (self.folder / "data").mkdir()
        tls = ""
        if self._certificates is not None:
            tls = (
                f"TLSCertificateFile {self._certificates}/cert.pem\n"
                f"TLSCertificateKeyFile {self._certificates}/key.pem\nTLSVerifyClient never"
            )
        text = _CONFIGURATION.format(
            folder=self.folder, tls=tls, suffix=SUFFIX, admin=ADMIN, password=PASSWORD,
            limits="allow bind_v2", access="access to * by anonymous auth by * none" if self._private else "",
        )  # fmt: skip
        (self.folder / "slapd.conf").write_text(text)
        self._run(["slapadd", "-q", "-f", str(self.folder / "slapd.conf")], self._entries)
