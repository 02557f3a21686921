"""Sender authentication: DKIM-signed mail of 4 KiB, with SPF, DKIM and DMARC checked, DNS warm and cold.

The peer is what most sites run: Postfix with OpenDKIM and OpenDMARC as milters and policyd-spf, which relays to the
smtp-sink from its queue (the rate is that of reception). Postfix's bare ``smtpd_proxy_filter``, which checks nothing,
stands beside it. All ask one unbound with the zones at hand. OpenDMARC and policyd-spf ask whom ``/etc/resolv.conf``
names, so each of them gets a file system view of its own with another one; that, Postfix's master and port 53 of an
own loopback address need root.

The cold senders are messages whose domains no one has asked for yet, each from another one; the warm ones are the same
messages again. One worker gets them, because each worker has a cache of its own.
"""

import functools
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench import load
from tests.bench.figures import SMALL, Progress, Start
from tests.bench.load import HELO
from tests.bench.processes import BenchError, Program
from tests.bench.servers import RECIPIENT, SENDER, Gateway, PostfixWithMilters, Sink, gateway
from tests.support.peers import is_installed
from tests.support.ports import free_port
from tests.support.postfix import Postfix
from tests.support.signing import Signer

COLD: Final = 400
"""Messages of as many domains."""

DNS: Final = "127.0.0.153"
MILTERS: Final = "Postfix, milters"
_WARMING: Final = 100
_PROGRAMS: Final = ("unbound", "opendkim", "opendmarc", "policyd-spf", "unshare")
_PACKAGES: Final = "unbound opendkim opendmarc postfix-policyd-spf-python"

_UNBOUND: Final = """\
server:
  interface: {address}
  port: 53
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "{folder}"
  use-syslog: no
  module-config: "iterator"
  num-threads: 1
  access-control: 127.0.0.0/8 allow
  local-zone: "test." static
  local-zone: "example.org." static
  local-zone: "org." static
  local-zone: "127.in-addr.arpa." static
  include: "{folder}/zone"
remote-control:
  control-enable: no
"""

_OPENDKIM: Final = """\
Mode v
Socket inet:{port}@127.0.0.1
Nameservers {dns}
InternalHosts {folder}/nobody
PeerList {folder}/nobody
Background no
Syslog no
UMask 002
"""

_OPENDMARC: Final = """\
AuthservID gateway.example
TrustedAuthservIDs gateway.example
Socket inet:{port}@127.0.0.1
IgnoreHosts {folder}/nobody
RejectFailures true
SPFSelfValidate false
Background false
Syslog false
"""

_POLICYD_SPF: Final = """\
debugLevel = 0
TestOnly = 1
HELO_reject = Fail
Mail_From_reject = Fail
PermError_reject = False
TempError_Defer = True
Header_Type = AR
Authserv_Id = gateway.example
skip_addresses = 192.0.2.255
"""

# What Postfix's spawn(8) does, but in the same view of the file system: a process for each connection.
_SPAWN: Final = """\
import socket, subprocess, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
running = []
while True:
    connection, _ = listening.accept()
    running = [each for each in running if each.poll() is None]
    running.append(subprocess.Popen(sys.argv[2:], stdin=connection, stdout=connection))
    connection.close()
"""


def why_not() -> str | None:
    """Why this can't be measured here, None if it can."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing or not is_installed("postfix"):
        return f"{', '.join(missing) or 'postfix'} not installed (apt-get install postfix {_PACKAGES})"
    if os.geteuid() != 0:
        return "needs root"
    allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    return None if allowed else "may not have a file system view of its own (unshare -m)"


@dataclass(frozen=True, slots=True)
class Mail:
    """A signed message: HELO name, reverse-path, octets."""

    helo_name: str
    sender: str
    data: bytes


@functools.cache
def signed(author: str = SENDER, host: str = HELO) -> Mail:
    """A message of 4 KiB, signed for the author's domain."""
    header = (
        f"From: <{author}>\r\nTo: <{RECIPIENT}>\r\nSubject: measured\r\n"
        "Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nMessage-ID: <1@client.example.org>\r\n\r\n"
    ).encode("ascii")
    line = b"x" * 76 + b"\r\n"
    text = header + line * ((SMALL - len(header) - 600) // len(line))
    return Mail(host, author, Signer(author.partition("@")[2]).sign(text))


def domain(number: int) -> str:
    """A sender's domain: below another one, so that DMARC walks up."""
    return f"mail.d{number}.test"


@functools.cache
def many() -> Sequence[Mail]:
    """A message of each domain."""
    return [signed(f"joe@{domain(number)}", f"out.{domain(number)}") for number in range(COLD)]


def zone(senders: Iterable[tuple[str, str]]) -> dict[str, dict[str, Sequence[str]]]:
    """The records of senders, given with their hosts.

    What a message comes to is six questions, and nine if DMARC walks up from the domain.
    """
    found: dict[str, dict[str, Sequence[str]]] = {}
    for name, host in senders:
        organization = name.removeprefix("mail.")
        found[host] = {"TXT": ['"v=spf1 a -all"'], "A": ["127.0.0.1"]}
        found[name] = {
            "MX": [f"10 {host}."],
            "A": ["127.0.0.1"],
            "TXT": [f'"v=spf1 include:_spf.{organization} -all"'],
        }
        found[f"_spf.{organization}"] = {"TXT": ['"v=spf1 ip4:127.0.0.0/8 -all"']}
        found[f"_dmarc.{organization}"] = {"TXT": ['"v=DMARC1; p=reject"']}
        found |= Signer(name).zone
    return found


@contextmanager
def dns(parent: Path) -> Iterator[None]:
    """Run unbound with the zones."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    senders = [("example.org", HELO)] + [(domain(number), f"out.{domain(number)}") for number in range(COLD)]
    lines = (
        f"local-data: '{name}. {record_type} {record}'\n"
        for name, records in zone(senders).items()
        for record_type, each in records.items()
        for record in each
    )
    (folder / "zone").write_text("".join(lines), "ascii")
    (folder / "unbound.conf").write_text(_UNBOUND.format(address=DNS, folder=folder), "ascii")
    command = ["unbound", "-d", "-c", str(folder / "unbound.conf")]
    with Program(command, folder / "unbound.log") as program:
        program.await_port(53, DNS)
        yield


@contextmanager
def postfix_with_milters(sink: Sink, parent: Path) -> Iterator[PostfixWithMilters]:
    """Run Postfix with OpenDKIM, OpenDMARC and policyd-spf; it relays to the sink."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    folder.chmod(0o755)
    (folder / "resolv.conf").write_text(f"nameserver {DNS}\n", "ascii")
    (folder / "nobody").write_text("192.0.2.255\n", "ascii")
    ports = {"opendkim": free_port(), "opendmarc": free_port(), "policyd-spf": free_port()}
    texts = {"opendkim": _OPENDKIM, "opendmarc": _OPENDMARC, "policyd-spf": _POLICYD_SPF}
    for name, text in texts.items():
        (folder / f"{name}.conf").write_text(text.format(port=ports[name], dns=DNS, folder=folder), "ascii")
    commands = {
        "opendkim": ["opendkim", "-f", "-x", f"{folder}/opendkim.conf"],
        "opendmarc": ["opendmarc", "-f", "-c", f"{folder}/opendmarc.conf"],
        "policyd-spf": [
            "/usr/bin/python3", "-c", _SPAWN, str(ports["policyd-spf"]), "policyd-spf", f"{folder}/policyd-spf.conf",
        ],
    }  # fmt: skip
    settings = {
        "myhostname": "gateway.example",
        "relay_domains": "example.com",
        "virtual_mailbox_domains": "",
        "relay_transport": f"smtp:[127.0.0.1]:{sink.port}",
        "mynetworks": "",
        "smtpd_relay_restrictions": "reject_unauth_destination",
        "smtpd_recipient_restrictions": f"check_policy_service inet:127.0.0.1:{ports['policyd-spf']}",
        "smtpd_milters": f"inet:127.0.0.1:{ports['opendkim']}, inet:127.0.0.1:{ports['opendmarc']}",
        "milter_default_action": "tempfail",
        "in_flow_delay": "0",
    }
    with ExitStack() as stack:
        programs = []
        for name, command in commands.items():
            view = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"']
            program = Program([*view, f"{folder}/resolv.conf", *command], folder / f"{name}.log")
            stack.enter_context(program).await_port(ports[name])
            programs.append(program.pid)
        postfix = stack.enter_context(Postfix({"milters": settings}, settings))
        master = int((postfix.folder / "queue/pid/master.pid").read_text("ascii"))
        yield PostfixWithMilters(MILTERS, postfix.port, master, postfix.folder / "queue", tuple(programs))


@contextmanager
def authenticating(
    sink: Sink, parent: Path, *, workers: int, name: str, source: Path, limits: str = "", more: str = ""
) -> Iterator[Gateway]:
    """Run the gateway with SPF, DKIM and DMARC; mail of which it can't tell the sender fails.

    Args:
        sink: Its backend.
        parent: Where it has a folder of its own.
        workers: How many.
        name: What the table calls it.
        source: The working copy that is run.
        limits: Further policies before these, each with a comma behind it.
        more: Further lines of the configuration.
    """
    chain = f"[relay, recipient, size, {limits} {{spf: {{trusted: []}}}}, dkim, {{dmarc: {{trusted: []}}}}]"
    section = f"{{servers: [{DNS}], client_names: false}}"
    with gateway(
        sink, parent, name=name, source=source, workers=workers, dns=section, policies=chain, more=more
    ) as running:
        yield running


def check(parent: Path) -> None:
    """See in all records that SPF, DKIM and DMARC passed, or the figures would be those of something else.

    Raises:
        BenchError: One did not.
    """
    for file in parent.glob("*/records.jsonl"):
        for line in file.read_text("utf-8").splitlines():
            found = json.loads(line)["authentication"]
            told = found and (found["spf"]["mail_from"], found["dkim"][0]["result"], found["dmarc"]["result"])
            if told and told != ("pass", "pass", "pass"):
                raise BenchError(f"not measured: {found}")


def cold_and_warm(start: Start, rounds: int, progress: Progress) -> tuple[float, float]:
    """Microseconds of processor time of a message from a new sender, and from a known one: medians of the rounds."""
    costs: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        with start() as running:
            progress(f"round {number + 1} of {rounds}, {COLD} senders")
            _send_each(running.port, itertools.repeat(signed(), _WARMING))
            for found in costs:
                before = running.cpu()
                _send_each(running.port, many())
                found.append((running.cpu() - before) / COLD * 1e6)
    return median(costs[0]), median(costs[1])


def _send_each(port: int, mails: Iterable[Mail]) -> None:
    """Send messages one after the other, each on a connection of its own."""
    for mail in mails:
        with load.Client(port, mail.helo_name) as client:
            client.transact(mail.data, mail.sender)
