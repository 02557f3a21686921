"""DNS for tests that do not run in an event loop: ``DnsServer`` in a thread of its own, and Debian's unbound before it.

with dns_thread({"example.com": {"A": ["192.0.2.1"]}}) as server, unbound(server) as resolver:
    ... server.address, server.questions; resolver is an address, too ...
"""

import asyncio
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from tests.support.dns_server import DnsServer, Zone
from tests.support.gateway import poll
from tests.support.ports import free_port


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


@contextmanager
def unbound(upstream: DnsServer) -> Iterator[str]:
    """Run unbound, which forwards to a server; gives its address, ``127.0.0.1:PORT``."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="unbound-test-") as name:
        folder = Path(name)
        config = folder / "unbound.conf"
        settings = {"port": port, "folder": folder, "upstream": upstream.address.partition(":")[2]}
        config.write_text(_UNBOUND.format(**settings), "ascii")
        with (folder / "unbound.log").open("wb") as log:
            process = subprocess.Popen(["unbound", "-d", "-c", str(config)], stdout=log, stderr=log)

        def answers() -> bool:
            assert process.poll() is None, (folder / "unbound.log").read_text("utf-8", "replace")
            try:
                dns.query.udp(dns.message.make_query("unbound.invalid", "A"), "127.0.0.1", port=port, timeout=0.5)
            except (OSError, dns.exception.DNSException):
                return False
            return True

        try:
            poll(answers)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
