"""What is measured: smtp-sink itself, Postfix as a proxy before it, the gateway before it.

Each ``Server`` takes mail on ``port`` and tells the processor time that it has used. All hand on to the one smtp-sink,
which throws messages away. Postfix's proxy has no policy at all; the gateway has ``relay``, ``recipient`` and ``size``,
writes its decision record to a file and runs one worker.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from tests.bench.processes import BenchError, Program, children, cpu_seconds, group_cpu_seconds, tree_cpu_seconds
from tests.support.peers import is_installed
from tests.support.ports import free_port
from tests.support.postfix import Postfix

SENDER: Final = "alice@example.org"
RECIPIENT: Final = "bob@example.com"

_PATIENCE: Final = 30.0
_ROOT: Final = Path(__file__).parents[2]

_CONFIG: Final = """\
hostname: gateway.example
listeners:
  - smtp: 127.0.0.1:{port}
backends:
  sink: {{servers: ["127.0.0.1:{sink}"]}}
domains:
  example.com: {{recipients: {recipients}}}
dns: {dns}
records: {{file: records.jsonl}}
spool: {{directory: spool}}
limits: {{connections: 9000, connections_per_client: 0}}
workers: {workers}
policies: {policies}
{more}
"""

_POSTFIX_WITHOUT_POLICY: Final = {
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtpd_recipient_restrictions": "",
    "smtpd_reject_unlisted_recipient": "no",
}


class Server(Protocol):
    """Something that takes mail."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""
        ...

    def cpu(self) -> float:
        """Seconds of processor time that it has used so far."""
        ...


@dataclass(frozen=True, slots=True)
class Sink:
    """smtp-sink."""

    name: str
    port: int
    pid: int

    def cpu(self) -> float:
        return cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True)
class PostfixProxy:
    """Postfix with ``smtpd_proxy_filter``."""

    name: str
    port: int
    master: int

    def cpu(self) -> float:
        return group_cpu_seconds(self.master)


@dataclass(frozen=True, slots=True)
class PostfixWithMilters:
    """Postfix with milters and a policy server; it takes mail into its queue and relays it from there."""

    name: str
    port: int
    master: int
    queue: Path
    others: tuple[int, ...]

    def cpu(self) -> float:
        """That of the milters and the policy server, too."""
        return group_cpu_seconds(self.master) + sum(map(tree_cpu_seconds, self.others))

    def drain(self) -> None:
        """Wait until the queue is empty, so that the next to be measured has the machine for itself."""
        while any(any((self.queue / name).iterdir()) for name in ("incoming", "active")):
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Lychgate.

    Attributes:
        name: What the table calls it.
        port: Its port on 127.0.0.1.
        supervisor: The process that started the workers.
        config: Its configuration file.
        ready: Waits until it says that it is ready.
    """

    name: str
    port: int
    supervisor: int
    config: Path
    ready: Callable[[], None]

    @property
    def workers(self) -> tuple[int, ...]:
        """The workers now, also those that a reload has retired and that have not ended yet."""
        return tuple(children(self.supervisor))

    @property
    def worker(self) -> int:
        """The only worker."""
        (worker,) = self.workers
        return worker

    def cpu(self) -> float:
        return sum(map(cpu_seconds, self.workers))


@contextmanager
def smtp_sink(folder: Path) -> Iterator[Sink]:
    """Run smtp-sink; as root it becomes another user, as it wants to."""
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with Program(["smtp-sink", *user, f"127.0.0.1:{port}", "2048"], folder / "sink.log") as program:
        program.await_port(port)
        yield Sink("smtp-sink", port, program.pid)


@contextmanager
def postfix_proxy(sink: Sink) -> Iterator[PostfixProxy]:
    """Run a Postfix that proxies to the sink."""
    proxy = _POSTFIX_WITHOUT_POLICY | {"smtpd_proxy_filter": f"127.0.0.1:{sink.port}"}
    with Postfix({"proxy": proxy}) as postfix:
        master = int((postfix.folder / "queue/pid/master.pid").read_text("ascii"))
        yield PostfixProxy("Postfix proxy", postfix.port, master)


@contextmanager
def gateway(
    sink: Server,
    parent: Path,
    *,
    name: str = "Lychgate",
    source: Path = _ROOT,
    workers: int = 1,
    recipients: str = "{list: [bob]}",
    dns: str = "{client_names: false}",
    policies: str = "[relay, recipient, size]",
    more: str = "",
) -> Iterator[Gateway]:
    """Run the gateway before the sink.

    Args:
        sink: Its backend.
        parent: Where it has a folder of its own, for its configuration, records and spool.
        name: What the table calls it.
        source: The working copy that is run.
        workers: How many.
        recipients: Those of the domain, as YAML in one line.
        dns: The section of the configuration, the same way.
        policies: The chain, the same way.
        more: Further lines of the configuration.
    """
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / "spool").mkdir()
    port = free_port()
    config = folder / "lychgate.yaml"
    settings = {"port": port, "sink": sink.port, "workers": workers, "dns": dns, "policies": policies, "more": more}
    config.write_text(_CONFIG.format(recipients=recipients, **settings), "utf-8")
    with ExitStack() as stack:
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(str(folder / "notify"))
        ready.settimeout(0.5)
        program = stack.enter_context(
            Program(
                [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--config", str(config)],
                folder / "gateway.log",
                environment={"NOTIFY_SOCKET": str(folder / "notify"), "PYTHONPATH": str(source)},
                folder=source,
            )
        )
        _await_ready(ready, program)
        yield Gateway(name, port, program.pid, config, partial(_await_ready, ready, program))


def _await_ready(notified: socket.socket, program: Program) -> None:
    """Wait until the gateway says so (sd_notify(3))."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        program.check()
        with suppress(TimeoutError):
            if notified.recv(4096).startswith(b"READY=1"):
                return
    raise BenchError("the gateway did not become ready")


def why_no_postfix() -> str | None:
    """Why Postfix can't be run here, None if it can."""
    if not is_installed("postfix"):
        return "Postfix is not installed (apt-get install postfix)"
    return None if os.geteuid() == 0 else "Postfix's master needs root"
