"""DNS for tests that do not run in an event loop: ``DnsServer`` in a thread of its own, and Debian's unbound before it.

with dns_thread({"example.com": {"A": ["192.0.2.1"]}}) as server, Unbound(server) as resolver:
    ... server.address, server.questions, resolver.address ...
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.message
import dns.query

from tests.support.dns_server import DnsServer, Zone
from tests.support.server_process import ServerProcess


@contextmanager
def dns_thread(zone: Zone, *, ttl: int = 300) -> Iterator[DnsServer]:
    """Serve a zone until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = DnsServer(zone, ttl=ttl)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


_UNBOUND = """\
server:
  interface: 127.0.0.1
  port: {port}
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "{folder}"
  use-syslog: no
  do-not-query-localhost: no
  module-config: "iterator"
  num-threads: 1
  access-control: 127.0.0.0/8 allow
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
"""


class Unbound(ServerProcess):
    """Debian's unbound, which forwards what it is asked to a server.

    Args:
        upstream: The server.
    """

    def __init__(self, upstream: DnsServer) -> None:
        super().__init__()
        self._upstream = upstream

    @property
    def address(self) -> str:
        """Where it is: ``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        config = self.folder / "unbound.conf"
        upstream = self._upstream.address.partition(":")[2]
        config.write_text(_UNBOUND.format(port=self.port, folder=self.folder, upstream=upstream), "ascii")
        return ["unbound", "-d", "-c", str(config)]

    def _answers(self) -> bool:
        try:
            dns.query.udp(dns.message.make_query("unbound.invalid", "A"), "127.0.0.1", port=self.port, timeout=0.5)
        except (OSError, dns.exception.DNSException):
            return False
        return True
