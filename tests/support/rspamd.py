"""Debian's rspamd with nothing but rules of the module multimap: another reader of the header."""

import json
import os
import signal
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from tests.support.server_process import ServerProcess

_CONFIG = """\
options {{
  pidfile = "{folder}/pid"; tempdir = "{folder}"; url_tld = "{folder}/tld"; filters = "";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "warning"; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
modules {{ path = "/usr/share/rspamd/plugins/multimap.lua"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
multimap {{
{rules}}}
"""
_RULE = """\
  {name} {{
    type = "header"; header = "Authentication-Results"; regexp = true; map = "{folder}/{name}.map"; score = 1.0;
  }}
"""


class Rspamd(ServerProcess):
    """The server.

    Args:
        patterns: What Authentication-Results fields are matched with, by the name of the symbol.
    """

    kill_signal = signal.SIGTERM

    def __init__(self, patterns: Mapping[str, str]) -> None:
        super().__init__()
        self._patterns = patterns

    def symbols(self, message: bytes) -> set[str]:
        """Which of the patterns match a message."""
        found: dict[str, Any] = json.loads(self._ask("POST", "/checkv2", message))
        return set(found["symbols"]) & set(self._patterns)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _command(self) -> list[str]:
        (self.folder / "tld").write_text("example\ncom\n", "ascii")
        for name, pattern in self._patterns.items():
            (self.folder / f"{name}.map").write_text(pattern + "\n", "ascii")
        rules = "".join(_RULE.format(name=name, folder=self.folder) for name in self._patterns)
        config = self.folder / "rspamd.conf"
        config.write_text(_CONFIG.format(folder=self.folder, port=self.port, rules=rules), "ascii")
        as_root = ["-u", "root", "-g", "root"] if os.geteuid() == 0 else []
        return ["rspamd", "-f", "-i", *as_root, "-c", str(config)]

    def _answers(self) -> bool:
        try:
            return bool(self._ask("GET", "/ping"))
        except (OSError, HTTPException):
            return False
