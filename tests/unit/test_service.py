"""The helpers of the supervisor; the service as a whole is tested as a process."""

import os
import pwd
import socket
from pathlib import Path

import pytest

from gateway.config.names import Endpoint
from gateway.doors.listening import ListenError, bind
from gateway.service import notify
from gateway.startup import ServiceError, drop_privileges, write_pid_file


def test_what_is_bound_can_not_be_bound_twice() -> None:
    """The second is told with its address, and leaves no socket behind."""
    (first,) = bind(Endpoint.parse("127.0.0.1:0"))
    with first, pytest.raises(ListenError, match=r"can not listen on 127\.0\.0\.1:\d+: Address already in use"):
        bind(Endpoint.parse(f"127.0.0.1:{first.getsockname()[1]}"))


def test_a_name_that_does_not_exist_is_told() -> None:
    """As a fault of the address, not as a stack of calls."""
    with pytest.raises(ListenError, match="can not listen on"):
        bind(Endpoint.parse("nowhere.invalid:2525"))


def test_systemd_is_told_where_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a datagram; without a socket, or with a wrong one, nothing happens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_privileges_are_kept_where_none_are_to_be_dropped() -> None:
    """Without user and group, and as oneself where one is not root."""
    before = (os.geteuid(), os.getegid())
    drop_privileges(None, None)
    if os.geteuid() != 0:
        drop_privileges(pwd.getpwuid(os.geteuid()).pw_name, None)
    assert (os.geteuid(), os.getegid()) == before


@pytest.mark.parametrize(("user", "group"), [("no-such-user", None), (None, "no-such-group")])
def test_a_user_that_does_not_exist_is_told(user: str | None, group: str | None) -> None:
    """Before anything is changed."""
    with pytest.raises(ServiceError, match="no such user or group"):
        drop_privileges(user, group)


def test_a_child_becomes_the_user_for_good() -> None:
    """Root's child drops to nobody, and can not come back; libraries look for files in nobody's home, not in root's."""
    if os.geteuid() != 0:
        with pytest.raises(ServiceError, match="only root"):
            drop_privileges("root", None)
        return
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            drop_privileges("nobody", None)
            nobody = pwd.getpwnam("nobody")
            try:
                os.setuid(0)
            except PermissionError:
                status = 0 if os.getuid() == nobody.pw_uid and 0 not in os.getgroups() else 2
            if os.environ["HOME"] != nobody.pw_dir or os.environ["USER"] != "nobody":
                status = 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_pid_file_is_written_or_the_fault_is_told(tmp_path: Path) -> None:
    """With the supervisor's own number."""
    descriptor = write_pid_file(tmp_path / "pid")
    assert int((tmp_path / "pid").read_text()) == os.getpid()
    with pytest.raises(ServiceError, match="another service"):
        write_pid_file(tmp_path / "pid")
    os.close(descriptor)
    os.close(write_pid_file(tmp_path / "pid"))
    with pytest.raises(ServiceError, match="can not write the pid file"):
        write_pid_file(tmp_path / "missing" / "pid")
