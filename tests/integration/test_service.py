"""The service: reload, dead workers, draining, a killed supervisor, readiness, privileges, shared ports, rotation."""

import os
import pwd
import random
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest
import trustme

from tests.support.gateway import Gateway, poll
from tests.support.sink import Sink
from tests.support.wire import Wire

LYCHGATE = str(Path(sys.executable).with_name("lychgate"))


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


def ehlo_lines(port: int) -> tuple[str, ...]:
    """What EHLO says on a new connection."""
    with Wire(port) as client:
        return client.hello().lines


# Reload.


def test_sighup_serves_new_sessions_by_the_new_file_and_lets_old_ones_go_on(sink: Sink) -> None:
    """After SIGHUP new sessions see the new configuration; a transaction under way ends by the old one."""
    with Gateway(backend=sink.port) as gateway:
        old_worker = gateway.worker().pid
        with Wire(gateway.port) as client:
            client.hello()
            assert client.command("MAIL FROM:<you@example.org>").code == 250
            assert client.command("RCPT TO:<alice@example.com>").code == 250
            gateway.write(gateway.settings | {"limits": {"message_size": 12345}, "domains": {"example.net": {}}})
            gateway.send(signal.SIGHUP)
            gateway.line("configuration reloaded")
            assert all("SIZE 12345" in ehlo_lines(gateway.port) for _ in range(50))
            assert client.command("DATA").code == 354
            client.send(b"Subject: x\r\n\r\n" + b"x" * 500 + b"\r\n" * 20 + b".\r\n")
            assert client.reply().code == 250
            assert [answer.code for answer in client.rest()] == [421]
        psutil.Process(old_worker).wait(30) if psutil.pid_exists(old_worker) else None
        with Wire(gateway.port) as client:
            client.hello()
            assert client.transaction("you@example.org", "alice@example.net").code == 250
        assert gateway.worker().pid != old_worker


def test_a_transaction_that_outlives_its_configuration_is_ended(sink: Sink) -> None:
    """When the time for transactions of the old configuration is over, an open one gets 421, and its worker ends."""
    times = {"retirement": "200ms", "drain": "200ms"}
    with Gateway({"timeouts": times}, backend=sink.port) as gateway:
        worker = gateway.worker()
        with Wire(gateway.port) as client:
            client.hello()
            client.command("MAIL FROM:<you@example.org>")
            gateway.send(signal.SIGHUP)
            gateway.line("configuration reloaded")
            assert client.reply().code == 421
            assert client.is_closed()
        worker.wait(30)


@pytest.mark.parametrize("text", ["listeners: [", "hostname: x.example\nlistenners: []\n", ""])
def test_an_invalid_file_changes_nothing_and_is_said(sink: Sink, text: str) -> None:
    """SIGHUP with a file that has errors leaves everything as it was, and the log has the place of the error."""
    with Gateway(backend=sink.port, expect=["reload refused: the old configuration stays"]) as gateway:
        worker = gateway.worker().pid
        gateway.write(text)
        gateway.send(signal.SIGHUP)
        problems = gateway.line("reload refused: the old configuration stays")["problems"]
        assert re.search(r"lychgate\.yaml:\d+", problems[0])
        assert gateway.worker().pid == worker
        with Wire(gateway.port) as client:
            client.hello()
            assert client.transaction().code == 250


def test_a_reload_that_can_not_bind_changes_nothing(sink: Sink) -> None:
    """A new listener whose port is taken refuses the reload; the old listeners go on."""
    with Gateway(backend=sink.port, expect=["reload refused: the old configuration stays"]) as gateway:
        listeners = [*gateway.settings["listeners"], {"smtp": f"127.0.0.1:{sink.port}"}]
        gateway.write(gateway.settings | {"listeners": listeners})
        gateway.send(signal.SIGHUP)
        (problem,) = gateway.line("reload refused: the old configuration stays")["problems"]
        assert "can not listen" in problem
        assert ehlo_lines(gateway.port)


def test_a_listener_that_is_gone_from_the_file_is_closed(sink: Sink) -> None:
    """After a reload the port of a listener that was taken out refuses connections, the new one takes them."""
    with Gateway(listeners={"stays": {}, "goes": {}}, backend=sink.port) as gateway:
        gateway.write(gateway.settings | {"listeners": gateway.settings["listeners"][:1]})
        worker = gateway.worker()
        gateway.send(signal.SIGHUP)
        gateway.line("configuration reloaded")
        worker.wait(30)
        with pytest.raises(ConnectionRefusedError):
            Wire(gateway.ports["goes"])
        assert ehlo_lines(gateway.ports["stays"])


# Workers.


def test_a_killed_worker_is_replaced_and_mail_goes_on(sink: Sink) -> None:
    """Of two workers one is killed: the supervisor starts another, and the port never stops taking connections."""
    with Gateway({"workers": 2}, backend=sink.port, expect=["worker died"]) as gateway:
        killed, other = gateway.workers()
        killed.kill()
        assert gateway.line("worker died")["pid"] == killed.pid
        gateway.line("worker replaced")
        workers = {worker.pid for worker in gateway.workers()}
        assert len(workers) == 2
        assert other.pid in workers
        with Wire(gateway.port) as client:
            client.hello()
            assert client.transaction().code == 250


def test_two_workers_share_a_port(sink: Sink) -> None:
    """Both workers of a port take connections."""
    with Gateway({"workers": 2}, backend=sink.port) as gateway, ExitStack() as stack:
        one, two = gateway.workers()
        for _ in range(200):
            stack.enter_context(Wire(gateway.port)).hello()
            counts = [len(established(worker, gateway.port)) for worker in (one, two)]
            if all(counts):
                break
        assert all(counts)


def is_refused(port: int) -> bool:
    """Whether nobody listens on a port any more."""
    try:
        Wire(port, greeted=False).close()
    except ConnectionRefusedError:
        return True
    return False


def established(worker: psutil.Process, port: int) -> list[object]:
    """A worker's connections of clients."""
    found = worker.net_connections("tcp")
    return [each for each in found if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port]


def test_workers_end_when_their_supervisor_is_killed(sink: Sink) -> None:
    """SIGKILL for the supervisor leaves no worker behind: they drain and end, and the port is free."""
    with Gateway({"workers": 2}, backend=sink.port) as gateway:
        workers = gateway.workers()
        with Wire(gateway.port) as client:
            client.hello()
            gateway.send(signal.SIGKILL)
            assert client.reply().code == 421
        gateway.stop()
        for worker in workers:
            assert worker.wait(30) is None or not worker.is_running()
        with pytest.raises(ConnectionRefusedError):
            Wire(gateway.port)


# The end.


def test_sigterm_lets_a_transaction_finish_and_sends_idle_clients_away(sink: Sink) -> None:
    """On SIGTERM an idle client gets 421, new ones no connection, and a message in the midst of its data its 250."""
    with Gateway(backend=sink.port) as gateway, Wire(gateway.port) as idle, Wire(gateway.port) as busy:
        idle.hello()
        busy.hello()
        busy.command("MAIL FROM:<you@example.org>")
        busy.command("RCPT TO:<alice@example.com>")
        busy.command("DATA")
        busy.send(b"Subject: drained\r\n\r\nhalf ")
        gateway.send(signal.SIGTERM)
        answer = idle.reply()
        assert (answer.code, answer.text[:5]) == (421, "4.3.2")
        assert idle.is_closed()
        poll(partial(is_refused, gateway.port))
        busy.send(b"and half\r\n.\r\n")
        assert busy.reply().code == 250
        assert [answer.code for answer in busy.rest()] == [421]
        assert gateway.stop() == 0
    assert sink.messages[-1].content.endswith(b"half and half\r\n")
    assert not (gateway.folder / "lychgate.pid").exists()


def test_the_end_does_not_wait_for_ever(sink: Sink) -> None:
    """A client that never ends its message is cut off when the time for draining is over."""
    with Gateway({"timeouts": {"drain": "300ms"}}, backend=sink.port) as gateway, Wire(gateway.port) as client:
        client.hello()
        client.command("MAIL FROM:<you@example.org>")
        client.command("RCPT TO:<alice@example.com>")
        client.command("DATA")
        client.send(b"Subject: never ends\r\n")
        assert gateway.stop() == 0
        assert [answer.code for answer in client.rest()] == [421]
        assert gateway.record(kind="transaction")["decision"]["result"] != "accepted"


# What surrounds it.


def test_systemd_is_told(sink: Sink, tmp_path: Path) -> None:
    """NOTIFY_SOCKET hears READY, RELOADING and STOPPING, each when it is so (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Gateway(backend=sink.port, environment=environment) as gateway:
            told = manager.recv(4096).decode().split("\n")
            assert "READY=1" in told
            assert f"MAINPID={gateway.pid}" in told
            assert ehlo_lines(gateway.port)
            gateway.send(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096).startswith(b"READY=1")
            gateway.send(signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_privileges_are_dropped_after_binding_a_low_port(sink: Sink) -> None:
    """Started by root with ``user: nobody`` a port below 1024 is served, and neither process is root any more."""
    with Gateway({"user": "nobody", "records": "stdout"}, listeners={"smtp": {}}, backend=sink.port) as gateway:
        port = low_port()
        gateway.stop()
    settings = gateway.settings | {"listeners": [{"smtp": f"127.0.0.1:{port}"}]}
    del settings["pid_file"]
    with Gateway(settings) as gateway:
        nobody = pwd.getpwnam("nobody")
        for process in (psutil.Process(gateway.pid), gateway.worker()):
            assert set(process.uids()) == {nobody.pw_uid}
            assert set(process.gids()) == {nobody.pw_gid}
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(rf"^Groups:\s*({nobody.pw_gid}\s*)?$", status, re.MULTILINE)
        with Wire(port) as client:
            client.hello()
            assert client.transaction().code == 250


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_runtime_folder_is_the_users_where_only_root_may_make_it(sink: Sink) -> None:
    """In a folder of root's, such as /run, the control sockets' folder is made and given to the user."""
    settings = {"user": "nobody", "records": "stdout", "runtime_folder": "run"}
    with Gateway(settings, backend=sink.port) as gateway:
        assert gateway.folder.stat().st_uid == 0
        run = gateway.folder / "run"
        nobody = pwd.getpwnam("nobody")
        assert (run.stat().st_uid, run.stat().st_gid, run.stat().st_mode & 0o777) == (
            nobody.pw_uid,
            nobody.pw_gid,
            0o700,
        )
        assert {path.name for path in run.iterdir()} == {f"worker-{gateway.worker().pid}.sock", "supervisor.sock"}
        for command in (["recipients", "list"], ["reload"]):
            told = subprocess.run(
                [LYCHGATE, *command, "--config", str(gateway.config_file)], capture_output=True, check=False
            )
            assert told.returncode == 0, told.stderr


def test_a_start_that_fails_leaves_nothing_behind() -> None:
    """A gateway of a test that does not start removes its folder and has no process."""
    gateway = Gateway({"bogus": 1})
    with pytest.raises(RuntimeError, match="bogus: is not a setting here"):
        gateway.__enter__()
    assert not gateway.folder.exists()
    assert gateway.workers() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_key_that_only_root_may_read_serves_another_user(sink: Sink, tmp_path: Path) -> None:
    """The certificate is loaded before privileges are dropped, as Postfix does it."""
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    tls = {"mode": "starttls", "certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    settings = {"user": "nobody", "records": "stdout"}
    with (
        Gateway(settings, listeners={"smtp": {"tls": tls}}, backend=sink.port) as gateway,
        smtplib.SMTP("localhost", gateway.port) as client,
    ):
        assert client.starttls()[0] == 220
        assert client.ehlo()[0] == 250
        assert gateway.worker().uids().effective == pwd.getpwnam("nobody").pw_uid


def low_port() -> int:
    """A free port below 1024."""
    while True:
        port = random.SystemRandom().randrange(600, 1024)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def test_a_taken_port_is_told_and_nothing_is_left(sink: Sink, tmp_path: Path) -> None:
    """Where a port is taken the command says so in a line, with exit status 1."""
    config = tmp_path / "lychgate.yaml"
    config.write_text(
        f"hostname: x.example\nlisteners: [{{smtp: '127.0.0.1:{sink.port}'}}]\npolicies: [relay]\n"
        f"backends: {{b: {{servers: ['127.0.0.1:{sink.port}']}}}}\ndomains: {{example.com: {{}}}}\n"
    )
    told = subprocess.run(
        [LYCHGATE, "serve", "--config", str(config)], check=False, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 1
    assert f"can not listen on 127.0.0.1:{sink.port}" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_pid_file_names_the_supervisor(sink: Sink) -> None:
    """While it serves, the pid file has the supervisor's process id."""
    with Gateway(backend=sink.port) as gateway:
        assert int((gateway.folder / "lychgate.pid").read_text()) == gateway.pid


def test_a_rotated_file_of_records_loses_none(sink: Sink) -> None:
    """After the file was moved away records go to a new one, and every message has its record in one of the two."""
    with Gateway(backend=sink.port) as gateway, Wire(gateway.port) as client:
        client.hello()
        path = gateway.folder / "records.jsonl"
        assert client.transaction().code == 250
        path.rename(gateway.folder / "records.jsonl.1")
        sent = 1

        def send_until_there_is_a_new_file() -> bool:
            nonlocal sent
            assert client.transaction().code == 250
            sent += 1
            return path.exists()

        poll(send_until_there_is_a_new_file)
        rotated = (gateway.folder / "records.jsonl.1").read_text().splitlines()
        assert len(rotated) + len(path.read_text().splitlines()) == sent
        assert path.stat().st_mode & 0o777 == 0o640


def test_records_go_to_standard_output(sink: Sink) -> None:
    """With ``records: stdout`` each record is a line there, and no line of the log is among them."""
    with Gateway({"records": "stdout"}, backend=sink.port) as gateway:
        with Wire(gateway.port) as client:
            client.hello()
            assert client.transaction().code == 250
        gateway.stop()
        assert len(gateway.output) == 1
        assert '"result":"accepted"' in gateway.output[0]
