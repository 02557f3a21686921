"""``lychgate recipients`` and the sources of recipients in the whole service, before a real Postfix."""

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from tests.support.gateway import Gateway, poll
from tests.support.postfix import Postfix
from tests.support.wire import Wire

pytestmark = pytest.mark.peer("postfix")

DOMAINS = {"example.com": {"recipients": {"probe": {"cache": {"no": "1h"}}}, "subaddress": "+"}}


WRONG = (
    b"nonsense\n",
    b"[]\n",
    b"{}\n",
    b'{"command": "x"}\n',
    b'{"command": "recipients", "limit": -1}\n',
    b'{"command": "flush_recipients", "domain": 7}\n',
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name, because that of a socket has at most 107 octets (unix(7))."""
    with TemporaryDirectory(prefix="lychgate-") as folder:
        yield Path(folder)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a gateway that asks its backend, and has control sockets."""
    return {
        "domains": DOMAINS,
        "policies": ["relay", "recipient"],
        "runtime_folder": str(folder / "run"),
        "pid_file": str(folder / "pid"),
        **more,
    }


def recipients(gateway: Gateway, *arguments: str, status: int = 0) -> str:
    """Run ``lychgate recipients``."""
    result = CliRunner().invoke(app, ["recipients", *arguments, "--config", str(gateway.config_file)])
    assert result.exit_code == status, result.output
    return result.output


def listed(gateway: Gateway, *arguments: str) -> dict[str, list[tuple[str, str]]]:
    """What each worker remembers: addresses and answers by worker."""
    found = json.loads(recipients(gateway, "list", "--json", *arguments))
    return {
        str(worker["worker"]): [
            (entry["address"], entry["answer"]) for source in worker["sources"] for entry in source["entries"]
        ]
        for worker in found
    }


def rcpt(gateway: Gateway, *addresses: str) -> list[int]:
    """The codes that recipients get."""
    with Wire(gateway.port) as client:
        client.hello()
        assert client.command("MAIL FROM:<you@example.org>").code == 250
        return [client.command(f"RCPT TO:<{address}>").code for address in addresses]


def test_what_workers_remember_is_seen_and_flushed(postfix: Postfix, tmp_path: Path) -> None:
    """A refusal is remembered without asking again; flushed, the backend is asked anew."""
    with Gateway(settings(tmp_path), backend=postfix.port) as gateway:
        assert rcpt(gateway, "alice@example.com", "nobody@example.com", "nobody@example.com") == [250, 550, 550]
        (remembered,) = listed(gateway).values()
        assert sorted(remembered) == [("alice@example.com", "yes"), ("nobody@example.com", "no")]
        shown = recipients(gateway, "list", "nobody@example.com")
        assert "nobody@example.com" in shown
        assert "alice" not in shown
        assert "550 5.1.1" in shown
        (source,) = json.loads(recipients(gateway, "list", "--json"))[0]["sources"]
        assert (source["source"], source["asked"], source["hits"], source["failures"]) == ("probe backend", 2, 1, 0)
        assert "1 forgotten, in 1 worker\n" in recipients(gateway, "flush", "nobody@example.com")
        assert list(listed(gateway).values()) == [[("alice@example.com", "yes")]]
        assert "0 forgotten" in recipients(gateway, "flush", "example.net")
        assert "1 forgotten" in recipients(gateway, "flush", "--all")
        assert list(listed(gateway).values()) == [[]]
        assert recipients(gateway, "flush", status=2)


def test_every_worker_is_asked(postfix: Postfix, tmp_path: Path) -> None:
    """Also those that come by a reload or for one that died; what these left behind is cleared away."""
    expect = ["worker died"]
    folder = tmp_path / "gateway"
    folder.mkdir()
    given = settings(tmp_path, workers=2)
    with Gateway(given, backend=postfix.port, expect=expect, folder=folder) as gateway:
        workers = {str(worker.pid) for worker in gateway.workers()}
        assert set(listed(gateway)) == workers
        killed = gateway.workers()[0]
        killed.kill()
        gateway.line("worker replaced")
        poll(lambda: len(listed(gateway)) == 2)
        assert str(killed.pid) not in listed(gateway)
        gateway.send(signal.SIGHUP)
        gateway.line("configuration reloaded")
        poll(lambda: len(listed(gateway)) == 2 and workers.isdisjoint(listed(gateway)))
        assert len(list((tmp_path / "run").glob("worker-*.sock"))) == 2
    assert list((tmp_path / "run").iterdir()) == []
    assert "no service is running" in recipients(gateway, "list", status=1)


def test_only_the_service_and_root_may_ask(postfix: Postfix, tmp_path: Path) -> None:
    """The folder and the socket are the user's alone; what is no request is answered so."""
    with Gateway(settings(tmp_path), backend=postfix.port) as gateway:
        folder = tmp_path / "run"
        (path,) = folder.glob("worker-*.sock")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.name == f"worker-{gateway.worker().pid}.sock"
        for request in WRONG:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(request)
                assert "error" in json.loads(client.makefile().readline())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            with suppress(BrokenPipeError):  # it is answered before it is whole
                client.sendall(b"x" * 200_000)
            assert "error" in json.loads(client.makefile().readline())
        assert rcpt(gateway, "alice@example.com") == [250]


def test_mail_goes_on_without_a_control_socket(postfix: Postfix, tmp_path: Path) -> None:
    """A folder that can't be made is told in the log."""
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file/run")
    with Gateway(settings(tmp_path) | {"runtime_folder": folder}, backend=postfix.port) as gateway:
        assert gateway.line("no control socket")["reason"] == "Not a directory"
        assert rcpt(gateway, "alice@example.com", "nobody@example.com") == [250, 550]
        assert "can't look into" in recipients(gateway, "list", status=1)


def test_check_asks_now(postfix: Postfix, tmp_path: Path) -> None:
    """Whatever is remembered, and whether or not a service runs; what each source said is told."""
    domains = DOMAINS | {
        "other.example": {"recipients": [{"list": ["info"]}, {"tcp": {"server": "127.0.0.1:1"}}]},
        "open.example": {},
    }
    with Gateway(settings(tmp_path, domains=domains), backend=postfix.port, folder=tmp_path) as gateway:
        pass
    assert "yes (250 2.1.5 Ok" in recipients(gateway, "check", "alice@example.com")
    assert "no (550 5.1.1" in recipients(gateway, "check", "nobody@example.com", status=4)
    told = recipients(gateway, "check", "alice+list@example.com")
    assert "probe backend: alice+list@example.com: no" in told
    assert "probe backend: alice@example.com: yes" in told
    assert "tables: info@other.example: yes" in recipients(gateway, "check", "info@other.example")
    told = recipients(gateway, "check", "alice@other.example", status=3)
    assert "tcp 127.0.0.1:1: alice@other.example: unknown (ConnectionRefusedError" in told
    assert told.endswith("Result: unknown\n")
    found = json.loads(recipients(gateway, "check", "nobody@example.com", "--json", status=4))
    assert found["answer"] == "no"
    assert [step["answer"] for step in found["steps"]] == ["no"]
    assert "every address of the domain is taken" in recipients(gateway, "check", "x@open.example")
    assert "none of our domains" in recipients(gateway, "check", "x@elsewhere.example", status=2)
    assert "is not an address" in recipients(gateway, "check", "nonsense", status=2)


@pytest.mark.parametrize("order", ["before", "after"])
def test_no_mail_is_refused_while_the_backend_is_away(tmp_path: Path, order: str) -> None:
    """Neither when it never was there, nor when it has gone since: senders come again, and the record says why."""
    with Postfix() as postfix:
        if order == "before":
            postfix.stop()
        records = tmp_path / "records.jsonl"
        asked = {"example.com": {"recipients": {"probe": {"cache": {"yes": 0, "no": 0, "unknown": 0, "stale": 0}}}}}
        given = settings(tmp_path, domains=asked, records={"file": str(records)})
        with Gateway(given, backend=postfix.port, backend_options={"health": {"interval": "1h"}}) as gateway:
            if order == "after":
                assert rcpt(gateway, "alice@example.com", "nobody@example.com") == [250, 550]
                postfix.stop()
            assert rcpt(gateway, "alice@example.com", "nobody@example.com") == [451, 451]
            lines = poll(lambda: [line for line in records.read_text().splitlines() if "unverifiable" in line])
        checks = [check for line in lines for check in json.loads(line)["checks"] if check["outcome"] == "unverifiable"]
        assert {check["action"] for check in checks} == {"defer"}
        assert all("UnverifiableError" in check["evidence"]["error"] for check in checks)


def test_the_socket_is_made_for_the_process(tmp_path: Path) -> None:
    """Its name is short enough for any process id; a folder with too long a name is refused."""
    config = tmp_path / "lychgate.yaml"
    config.write_text(f"runtime_folder: /{'x' * 90}\n")
    result = CliRunner().invoke(app, ["check", "--config", str(config)])
    assert "runtime_folder: is too long" in result.output
    assert len(f"{'x' * 80}/worker-{os.sysconf('SC_OPEN_MAX')}.sock") <= 107
