"""``lychgate demo`` as its user meets it: what it prints can be tried, and each decision is told."""

import mailbox
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.ports import free_port

pytestmark = pytest.mark.peer("swaks")

DEMO: Final = Path(__file__).parents[2] / "deploy/demo.yaml"


class Demo:
    """The command, its output, and its Maildir."""

    def __init__(self, folder: Path) -> None:
        self.maildir = folder / "Maildir"
        config = folder / "demo.yaml"
        text = DEMO.read_text(encoding="utf-8")
        config.write_text(text.replace("127.0.0.1:2525", f"127.0.0.1:{free_port()}"), encoding="utf-8")
        self._process = subprocess.Popen(
            [str(Path(sys.executable).with_name("lychgate")), "demo", "--config", config, "--maildir", self.maildir],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, pattern: str) -> str:
        """The last line so far that the pattern finds, waiting for one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._found(pattern), 60), "\n".join(self._lines)
            return self._found(pattern)[-1]

    def commands(self) -> dict[str, list[str]]:
        """The commands that it says to try, by the comment behind each."""
        self.line("Each decision is told below")
        found = [line.strip().partition("#") for line in self._lines if line.strip().startswith("swaks ")]
        return {comment.strip(): command.split() for command, _, comment in found}

    def stop(self) -> int:
        """Stop it as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(30)
        self._reader.join(30)
        return status

    def _found(self, pattern: str) -> list[str]:
        return [line for line in self._lines if re.search(pattern, line)]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for text in stream:
                with self._changed:
                    self._lines.append(text.rstrip("\n"))
                    self._changed.notify_all()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for all."""
    running = Demo(tmp_path_factory.mktemp("demo"))
    yield running
    assert running.stop() == 0


def tried(demo: Demo, comment: str) -> subprocess.CompletedProcess[str]:
    """What one of its commands does."""
    (command,) = [command for about, command in demo.commands().items() if about.startswith(comment)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_the_first_command_is_accepted_and_the_message_kept(demo: Demo) -> None:
    """The sender is told 250, the message is a file of the Maildir, and the demo tells the decision."""
    done = tried(demo, "accepted")
    assert done.returncode == 0, done.stdout
    assert "250 2.0.0 Ok: kept as" in done.stdout
    assert "<you@example.org> -> <alice@example.com>" in demo.line("accepted .*->")
    messages = list(mailbox.Maildir(demo.maildir))
    assert any("Lychgate" in message["Received"] for message in messages)


def test_the_second_command_is_refused_as_relay(demo: Demo) -> None:
    """A recipient elsewhere gets 554 5.7.1 with a reference; the demo names the policy."""
    done = tried(demo, "refused: no open relay")
    assert done.returncode != 0
    assert re.search(r"554 5\.7\.1 Relay access denied \[\w+\.\d+\]", done.stdout)
    assert "by relay: denied" in demo.line("rejected .*example.net")


def test_the_third_command_is_refused_as_unknown(demo: Demo) -> None:
    """A recipient that does not exist gets 550 5.1.1; the demo names the policy."""
    done = tried(demo, "refused: no such recipient")
    assert done.returncode != 0
    assert "550 5.1.1" in done.stdout
    assert "by recipient: unknown" in demo.line("rejected .*nobody@")
