"""Files of recipients that come out empty, in the whole service: nobody is refused until somebody accepts them."""

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from tests.integration.test_metrics import Page
from tests.support.gateway import Gateway, poll
from tests.support.installation import another_users
from tests.support.sink import Sink
from tests.support.wire import Wire

KEPT = "list keeps its last accepted content"
SETTINGS: dict[str, Any] = {
    "domains": {"example.com": {"recipients": {"file": "people.txt"}}},
    "policies": ["relay", "recipient"],
}


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


def write(folder: Path, *users: str) -> None:
    """Replace the file of recipients by renaming."""
    (folder / "new").write_text("".join(f"{user}\n" for user in users))
    (folder / "new").rename(folder / "people.txt")


def codes(gateway: Gateway, user: str) -> set[int]:
    """What so many connections that every worker has some of them are told of a user."""
    found = set()
    for _ in range(20):
        with Wire(gateway.port) as client:
            client.hello()
            assert client.command("MAIL FROM:<you@example.org>").code == 250
            found.add(client.command(f"RCPT TO:<{user}@example.com>").code)
    return found


def accept(gateway: Gateway) -> str:
    """Run ``lychgate recipients accept``."""
    result = CliRunner().invoke(app, ["recipients", "accept", "people.txt", "--config", str(gateway.config_file)])
    assert result.exit_code == 0, result.output
    return result.output


def test_an_emptied_file_holds_until_it_is_accepted(sink: Sink, tmp_path: Path) -> None:
    """In every worker, after a reload, a restart and a worker's death; then all workers notice within seconds."""
    write(tmp_path, "alice", "bob")
    page = Page()
    settings = SETTINGS | {"workers": 2, "metrics": page.setting}
    with Gateway(settings, backend=sink.port, folder=tmp_path, expect=["worker died"]) as gateway:
        assert (codes(gateway, "alice"), codes(gateway, "carol")) == ({250}, {550})
        write(tmp_path, "alice", "bob", "carol")
        poll(lambda: codes(gateway, "carol") == {250})
        line = gateway.line("list read again")
        assert (line["entries"], line["came"], line["went"]) == (3, 1, 0)
        poll(lambda: (page.value("list_entries"), page.value("list_held")) == (3, 0))
        write(tmp_path)
        poll(lambda: page.value("list_held") == 1)
        assert gateway.line(KEPT)["level"] == "warning"
        assert codes(gateway, "alice") == {250}
        killed = gateway.workers()[0]
        os.kill(killed.pid, signal.SIGKILL)
        gateway.line("worker replaced")
        assert codes(gateway, "carol") == {250}
        gateway.send(signal.SIGHUP)
        gateway.line("configuration reloaded")
        assert codes(gateway, "carol") == {250}
    with Gateway(settings, backend=sink.port, folder=tmp_path) as gateway:
        gateway.line(KEPT)
        assert (codes(gateway, "carol"), codes(gateway, "dave")) == ({250}, {550})
        assert "accepted, 0 entries; 0 came, 3 went" in accept(gateway)
        poll(lambda: codes(gateway, "carol") == {550})
        poll(lambda: (page.value("list_entries"), page.value("list_held")) == (0, 0))


def test_with_nothing_known_an_empty_file_defers(sink: Sink, tmp_path: Path) -> None:
    """At the first start; entries end it, or that somebody accepts it."""
    write(tmp_path)
    with Gateway(SETTINGS | {"workers": 2}, backend=sink.port, folder=tmp_path) as gateway:
        assert codes(gateway, "alice") == {451}
        accept(gateway)
        poll(lambda: codes(gateway, "alice") == {550})
        write(tmp_path, "alice")
        poll(lambda: codes(gateway, "alice") == {250})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_folder_is_the_users_and_root_may_accept(sink: Sink) -> None:
    """Made by root before it becomes another user; what root accepts there the service may read and replace."""
    folder_name = "state/lists"
    given = SETTINGS | {"user": "nobody", "records": "stdout", "recipient_lists": {"folder": folder_name}}
    gateway = Gateway(given, backend=sink.port, installation=another_users())
    write(gateway.folder, "alice")
    with gateway:
        nobody = pwd.getpwnam("nobody")
        folder = gateway.folder / folder_name
        assert (folder.stat().st_uid, folder.stat().st_gid, folder.stat().st_mode & 0o777) == (
            nobody.pw_uid, nobody.pw_gid, 0o700,
        )  # fmt: skip
        (kept,) = folder.iterdir()
        assert (kept.read_text(), kept.stat().st_uid) == ("alice\n", nobody.pw_uid)
        write(gateway.folder)
        poll(lambda: codes(gateway, "alice") == {250} and any(line["event"] == KEPT for line in gateway.lines))
        command = [*another_users().command, "recipients", "accept", "people.txt", "-c", str(gateway.config_file)]
        told = subprocess.run(command, capture_output=True, check=False, env=os.environ | another_users().environment)
        assert told.returncode == 0, told.stderr
        poll(lambda: codes(gateway, "alice") == {550})
        assert (kept.read_text(), kept.stat().st_uid) == ("", nobody.pw_uid)
        write(gateway.folder, "bob")
        poll(lambda: codes(gateway, "bob") == {250})
        assert (kept.read_text(), kept.stat().st_uid) == ("bob\n", nobody.pw_uid)
