"""A real Postfix in a folder of its own, on loopback ports of its own.

    with Postfix({"plain": {}, "xclient": {"smtpd_authorized_xclient_hosts": "127.0.0.1"}}) as postfix:
        ... postfix.ports["xclient"] ...

Each service is an smtpd with its own settings. It takes mail for alice@, bob@ and the like at ``DOMAIN``
(``RECIPIENTS``), refuses other addresses, and puts what it accepts on hold: so when the client has its ``250`` the
message is there to be counted and read (``queue_ids``, ``message``), and nothing is delivered anywhere. The log is
written by another process: ``log_line`` waits for a line.

Only root can run Postfix's master; for others tests are skipped.
"""

import asyncio
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.peers import unavailable
from tests.support.ports import free_port

DOMAIN: Final = "example.com"
RECIPIENTS: Final = ("alice", "bob", "carol", "postmaster", "jörg")
"""Local parts that exist at ``DOMAIN``; so does anything that begins with ``any``."""

LIFETIME: Final = 900
"""Seconds after which it ends by itself, should the tests be killed."""

_PROGRAMS: Final = """\
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
"""


class Postfix:
    """One instance; a context manager.

    Args:
        services: The smtpd services: a name, and its settings beyond the common ones.
        settings: Settings for all of them.

    Attributes:
        ports: The port of each service on 127.0.0.1.
        folder: Where everything is.
    """

    def __init__(
        self, services: Mapping[str, Mapping[str, str]] | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.ports = {name: free_port() for name in services or {"plain": {}}}
        self._services = services or {"plain": {}}
        self._settings = settings or {}
        self.folder = Path()

    @property
    def port(self) -> int:
        """The port of the first service."""
        return next(iter(self.ports.values()))

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            unavailable("needs root to run Postfix")
        # Not below pytest's own folder: only root may look into that, and Postfix is another user.
        self.folder = Path(tempfile.mkdtemp(prefix="postfix-test-"))
        self.folder.chmod(0o755)
        for name in ("etc", "queue", "data"):
            (self.folder / name).mkdir()
        os.chown(self.folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
        self._configure()
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it; the ports are open on return."""
        etc = self.folder / "etc"
        subprocess.run(["postfix", "-c", str(etc), "check"], check=True, capture_output=True, timeout=60)
        programs = subprocess.run(
            ["postconf", "-dh", "daemon_directory"], check=True, capture_output=True, text=True
        ).stdout.strip()
        command = [f"{programs}/master", "-c", str(etc), "-e", str(LIFETIME), "-w"]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """Kill it and all its processes; they are gone on return."""
        pid_file = self.folder / "queue/pid/master.pid"
        try:
            master = int(pid_file.read_text())
            if os.getpgid(master) != master:
                raise RuntimeError(f"process {master} leads no group of its own")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return
        ends = _ends_of_group(master)
        os.killpg(master, signal.SIGKILL)
        for end in ends:
            select.select([end], [], [], 10)  # readable when the process has ended
            os.close(end)
        pid_file.unlink(missing_ok=True)

    def flush(self) -> None:
        """Try again at once what is deferred."""
        subprocess.run(["postqueue", "-c", self.folder / "etc", "-f"], check=True, capture_output=True, timeout=30)

    def queue_ids(self) -> set[str]:
        """The messages that it has accepted."""
        return {path.name for path in (self.folder / "queue/hold").iterdir() if path.is_file()}

    def message(self, queue_id: str) -> bytes:
        """A message as queued, in LF lines, with the ``Received:`` field that Postfix added."""
        return self._postcat("-bh", queue_id)

    def envelope(self, queue_id: str) -> str:
        """The envelope records of a message, as ``postcat`` prints them."""
        return self._postcat("-e", queue_id).decode("utf-8", "replace")

    def log(self) -> str:
        """The log so far."""
        path = self.folder / "mail.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    async def log_line(self, pattern: str, within: float = 20) -> str:
        """The first line of the log that the pattern finds, waiting for it.

        Raises:
            TimeoutError: It does not come.
        """
        tail = await asyncio.create_subprocess_exec(
            "tail", "-n", "+1", "-F", str(self.folder / "mail.log"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert tail.stdout is not None
        try:
            async with asyncio.timeout(within):
                while line := (await tail.stdout.readline()).decode("utf-8", "replace"):
                    if re.search(pattern, line):
                        return line
        finally:
            tail.kill()
            await tail.wait()
        raise TimeoutError("the log ended")

    def _postcat(self, option: str, queue_id: str) -> bytes:
        command = ["postcat", "-c", str(self.folder / "etc"), option, "-q", queue_id]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    def _configure(self) -> None:
        etc = self.folder / "etc"
        settings = {
            "compatibility_level": "3.6",
            "config_directory": str(etc),
            "queue_directory": str(self.folder / "queue"),
            "data_directory": str(self.folder / "data"),
            "maillog_file": str(self.folder / "mail.log"),
            "maillog_file_prefixes": str(self.folder),
            "myhostname": "backend.example",
            "mydestination": "",
            "mynetworks": "",
            "alias_maps": "",
            "local_recipient_maps": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "all",
            "smtp_host_lookup": "native",
            "smtpd_peername_lookup": "no",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "smtpd_recipient_restrictions": "reject_unlisted_recipient, check_recipient_access static:HOLD",
            "virtual_mailbox_domains": DOMAIN,
            "virtual_mailbox_maps": f"regexp:{etc}/recipients",
            "smtpd_soft_error_limit": "1000",
            "smtpd_hard_error_limit": "1000",
            "smtpd_client_connection_count_limit": "0",
            "default_process_limit": "100",
            "message_size_limit": "200000000",
            **self._settings,
        }
        names = "|".join(RECIPIENTS)
        (etc / "recipients").write_text(f"/^({names}|any.*)@/ box\n", "utf-8")
        (etc / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        lines = [_PROGRAMS]
        for name, service in self._services.items():
            options = "".join(f" -o {{ {key} = {value} }}" for key, value in service.items())
            lines.append(f"127.0.0.1:{self.ports[name]} inet n - n - - smtpd -o syslog_name={name}{options}\n")
        (etc / "master.cf").write_text("".join(lines))


def _ends_of_group(group: int) -> list[int]:
    """A descriptor for each process of a process group, readable when it has ended."""
    ends: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                descriptor = os.pidfd_open(int(entry.name))
            except (ProcessLookupError, OSError):
                continue
            try:
                member = os.getpgid(int(entry.name)) == group
            except ProcessLookupError:
                member = False
            if member:
                ends.append(descriptor)
            else:
                os.close(descriptor)
    return ends
