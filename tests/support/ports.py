"""Ports of 127.0.0.1 for servers of the tests.

They lie below the range from which the system takes the ports of outgoing connections, and each is this process's own
until it ends: neither another test nor a connection can take one between its choice and the server's start.
"""

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

_FIRST: Final = 10_240
_OWNED: Final[list[int]] = []
"""The descriptors of the files whose locks say whose a port is."""


def free_port() -> int:
    """A port that nobody listens on and that no one else is given."""
    folder = Path(tempfile.gettempdir()) / f"lychgate-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    for port in random.SystemRandom().sample(range(_FIRST, max(end, _FIRST + 1000)), 1000):
        if _own(folder / str(port)) and _is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, "no port is free")


def _own(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _OWNED.append(descriptor)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
