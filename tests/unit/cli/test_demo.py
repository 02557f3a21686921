"""``lychgate demo``: the gateway and its mail server in one."""

import asyncio
import io
import mailbox
import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gateway.cli import demo
from gateway.cli.app import app
from gateway.config.load import load
from tests.support.ports import free_port
from tests.support.serving import Client

CONFIG = """
hostname: demo.example
listeners: [{{smtp: "127.0.0.1:{front}"}}]
backends: {{demo: {{servers: ["mail.example:25"], client_info: xclient, tls: {{mode: verified}}}}}}
domains: {{example.com: {{recipients: {{list: [alice]}}}}}}
policies: [relay, recipient]
dns: {{client_names: false}}
"""


async def test_mail_is_kept_and_each_decision_told(tmp_path: Path) -> None:
    """Accepted mail becomes a file of the Maildir, whatever backend is named; refused mail is told with its reason."""
    front = free_port()
    file = tmp_path / "lychgate.yaml"
    file.write_text(CONFIG.format(front=front))
    told = io.StringIO()
    folder = tmp_path / "mail" / "Maildir"
    demo._check_maildir(folder)
    running = asyncio.create_task(demo._demo(load(file), folder, Console(file=told, soft_wrap=True)))
    while "Ctrl-C stops" not in told.getvalue():
        assert not running.done()
        await asyncio.sleep(0)
    client = Client(*await asyncio.open_connection("127.0.0.1", front))
    assert (await client.reply()).startswith("220 demo.example")
    await client.begin('"[red]"@example.org', "alice@example.com")
    assert (await client.send("Subject: [bold]x\r\n\r\nHello")).startswith("250 2.0.0 Ok: kept as ")
    assert (await client.say("MAIL FROM:<carol@example.org>")).startswith("250")
    assert (await client.say("RCPT TO:<bob@example.com>")).startswith("550")
    assert (await client.say("QUIT")).startswith("221")
    client.writer.close()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await running
    output = told.getvalue()
    assert f"Lychgate is listening on 127.0.0.1:{front}." in output
    assert 'accepted  <"[red]"@example.org> -> <alice@example.com>' in output
    assert "rejected  <carol@example.org> -> <bob@example.com> by recipient: unknown" in output
    assert "the client was told: 550 5.1.1 User unknown [" in output
    (message,) = mailbox.Maildir(folder)
    assert message["Subject"] == "[bold]x"
    assert "by demo.example (Lychgate) with SMTP id" in message["Received"].replace("\n", "")


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """With the exit status of a configuration that can't be used."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        (tmp_path / "lychgate.yaml").write_text(CONFIG.format(front=port))
        arguments = ["demo", "--config", str(tmp_path / "lychgate.yaml"), "--maildir", str(tmp_path / "Maildir")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert f"can not listen on 127.0.0.1:{port}: Address already in use. Another program listens" in result.output
        assert f"try lychgate demo --port {port + 1}\n" in result.output
        assert CliRunner().invoke(app, [*arguments, "--port", str(port)]).exit_code == 1


def test_a_maildir_that_is_none_is_told_at_the_start(tmp_path: Path) -> None:
    """A file, or a folder with other things, is an error of the command line, and nothing is written there."""
    (tmp_path / "lychgate.yaml").write_text(CONFIG.format(front=free_port()))
    file, home = tmp_path / "file", tmp_path / "home"
    file.write_text("mine")
    home.mkdir()
    (home / "mine").write_text("mine")
    for wrong, words in (
        (file, "is a file"),
        (home, "is no Maildir"),
        (file / "below", "can't be made: Not a directory"),
    ):
        arguments = ["demo", "--config", str(tmp_path / "lychgate.yaml"), "--maildir", str(wrong)]
        result = CliRunner().invoke(app, arguments, env={"TERMINAL_WIDTH": "300"})
        assert (result.exit_code, words in result.output) == (2, True), result.output
    assert file.read_text() == "mine"
    assert [path.name for path in home.iterdir()] == ["mine"]


def test_a_temporary_folder_goes_with_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it can't begin."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (tmp_path / "lychgate.yaml").write_text(CONFIG.format(front=taken.getsockname()[1]))
        assert CliRunner().invoke(app, ["demo", "--config", str(tmp_path / "lychgate.yaml")]).exit_code == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_demos_own_configuration_is_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found wherever one stands, and loads."""
    monkeypatch.chdir("/")
    assert load(demo._demo_file()).listeners[0].name == "127.0.0.1:2525"
