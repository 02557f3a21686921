"""What the supervisor does as long as it may, and how it becomes an ordinary user: folders, limits, the pid file.

Raises ``ServiceError`` for what keeps the service from starting.
"""

import fcntl
import os
import pwd
import resource
from contextlib import suppress
from pathlib import Path

import structlog

from gateway.config.access import Account
from gateway.config.lists import named_lists
from gateway.config.model import Config

log = structlog.get_logger("lychgate.service")


class ServiceError(Exception):
    """The service can't start: a port can't be bound, a user does not exist."""


def _account(user: str | None, group: str | None) -> Account:
    """Whom to become.

    Raises:
        ServiceError: They do not exist.
    """
    try:
        return Account.of(user, group)
    except KeyError as error:
        raise ServiceError(f"no such user or group: {error.args[0]}") from error


def make_runtime_folder(config: Config) -> None:
    """Make the folder of the control sockets while this process still may, and give it to whom the workers will be.

    One that is there is left as it is. That it can't be made keeps no mail up: each worker says so in the log.

    Raises:
        ServiceError: The configured user or group does not exist.
    """
    account = _account(config.user, config.group)
    if config.runtime_folder is None or os.geteuid() != 0:
        return  # the workers make it themselves
    with suppress(OSError):
        config.runtime_folder.mkdir(mode=0o700)
        os.chown(config.runtime_folder, account.uid, account.gid)


def make_lists_folder(config: Config) -> None:
    """Make the folder of accepted lists while this process still may, and give it to whom the workers will be.

    One that is there is left as it is. That it can't be made keeps no mail up: each worker says so in the log.

    Raises:
        ServiceError: The configured user or group does not exist.
    """
    account = _account(config.user, config.group)
    folder = config.recipient_lists.folder
    if os.geteuid() != 0 or folder.exists() or not named_lists(config):
        return  # the workers make it themselves
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, account.uid, account.gid)


def drop_privileges(user: str | None, group: str | None) -> None:
    """Become the user and group for good, also for what the environment says.

    Raises:
        ServiceError: They do not exist, or this process may not.
    """
    if user is None and group is None:
        return
    account = _account(user, group)
    if os.geteuid() != 0:
        if account.is_own:
            return
        raise ServiceError("only root can become another user; start as root or leave out 'user' and 'group'")
    try:
        account.become()
    except OSError as error:
        raise ServiceError(f"can't become the user {account.name!r}: {error.strerror or error}") from error
    if user is not None:
        # Libraries look for files of the user's there: root's own would be closed to it (libpq and ~/.postgresql).
        os.environ |= {"HOME": pwd.getpwuid(account.uid).pw_dir, "USER": account.name, "LOGNAME": account.name}


def raise_descriptor_limit(config: Config) -> None:
    """Let a worker open what its limits allow: a descriptor for every client, as many for backends and spools."""
    wanted = 2 * -(-config.limits.connections // config.workers) + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft = min(wanted, hard)
    if soft < wanted:
        log.warning("few file descriptors: more connections than these allow are refused", limit=soft, wanted=wanted)


def write_pid_file(path: Path) -> int:
    """Write the process id, and lock the file for as long as the service runs: no other one can have it then."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        raise ServiceError(f"another service runs with the pid file {path}") from error
    except OSError as error:
        raise ServiceError(f"can not write the pid file {path}: {error.strerror or error}") from error
    return descriptor
