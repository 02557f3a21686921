"""What others chose, shown by every command: no terminal obeys it, and no line is taken for another.

``COMMANDS`` has an entry for each command of the application: how hostile values come into what it prints.
"""

import ast
import io
import json
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from rich.console import Console
from typer.core import TyperGroup
from typer.testing import CliRunner

import gateway.cli
from gateway.cli import demo, screen
from gateway.cli.app import app
from tests.support import hostile
from tests.unit.test_hostile_values import hostile_record

VALUES: Final = list(hostile.VALUES.values())
TEXTS: Final = [value for value in VALUES if not re.search("[\ud800-\udfff]", value)]
"""What a file of UTF-8 can have."""
ARGUMENTS: Final = [value for value in hostile.said().values() if "\0" not in value and value]
"""What a command line can have."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, because that of a socket has at most 107 octets (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="lychgate-") as name:
        yield Path(name)


def yaml(value: Any) -> str:
    """A value as YAML, all of it in ASCII."""
    half = r"\\u(d[89ab]..)\\u(d[c-f]..)"
    return re.sub(half, lambda pair: f"\\U{_character(pair[1], pair[2]):08x}", json.dumps(value))


def _character(high: str, low: str) -> int:
    return ord(bytes.fromhex(high + low).decode("utf-16-be"))


def config(folder: Path, **changes: Any) -> str:
    """A configuration that can be used."""
    written = {
        "hostname": "mx.example.com",
        "listeners": [{"smtp": "127.0.0.1:2525"}],
        "backends": {"postfix": {"servers": ["127.0.0.1:10025"]}},
        "domains": {"example.com": {"recipients": {"list": ["alice"]}}},
        "policies": ["relay", "recipient"],
        "runtime_folder": str(folder / "run"),
        **changes,
    }
    path = folder / "lychgate.yaml"
    path.write_text(yaml(written), "utf-8")
    return str(path)


def run(command: str, *arguments: str, says: str | None = None) -> str:
    """What a command prints, which is harmless; with ``--json``, too, it is JSON."""
    result = CliRunner().invoke(app, [*command.split(), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert hostile.is_harmless(result.output), result.output
    if says is not None:
        assert says in result.output
    return result.stdout


@contextmanager
def answering(folder: Path, name: str, reply: Any, *, key: str = "reply") -> Iterator[None]:
    """A process of the service that gives everyone the same answer."""
    (folder / "run").mkdir(exist_ok=True)
    path = folder / "run" / name
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                connection, _ = listening.accept()
                with connection, connection.makefile("rb") as file:
                    if not file.readline():
                        return
                    connection.sendall(json.dumps({key: reply}).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()
            path.unlink()


def wrong(folder: Path) -> str:
    """A configuration that has every value where it is wrong."""
    values = {value: value for value in TEXTS}
    return config(folder, hostname="\x1b\u202e", workers="\x9b1", listeners=values, state=values, **values)


def file_names() -> list[str]:
    """Values that name a file in a folder."""
    return [
        value for value in ARGUMENTS if "/" not in value and value not in {".", ".."} and len(os.fsencode(value)) < 250
    ]


def serve(folder: Path) -> None:
    """The errors of a configuration."""
    run("serve", "--config", wrong(folder), says="\\x1b")


def check(folder: Path) -> None:
    """The errors of a configuration, and what of a right one is shown."""
    broken = wrong(folder)
    run("check", "--config", broken, says="\\x1b")
    json.loads(run("check", "--json", "--config", broken))
    entries = [{"policy": "relay", "client": "192.0.2.1", "reason": value} for value in TEXTS if value.strip()]
    right = config(folder, exceptions=entries)
    run("check", "--config", right, says="\\x9b31mred")
    shown = json.loads(run("check", "--json", "--config", right))
    assert shown["valid"], shown
    for value in ARGUMENTS:
        run("check", "--config", right, "--listener", value)


def reload(folder: Path) -> None:
    """What the service says of a configuration."""
    with answering(folder, "supervisor.sock", {"problems": VALUES, "listeners": 1, "policies": 1}):
        run("reload", "--config", config(folder), says="\\x1b[31mred")
    with answering(folder, "supervisor.sock", "\x1b\u202e", key="error"):
        run("reload", "--config", config(folder), says="\\x1b\\u202e")


def explain(folder: Path) -> None:
    """The client's words, the DNS's, and the message's."""
    path = config(folder, policies=["relay", "recipient", "spf", "dkim", "dmarc"])
    zone = folder / "zone.yaml"
    zone.write_text(yaml({"x.example": {"TXT": [f"v=spf1 exp={value} -all" for value in TEXTS]}}))
    message = folder / "mail.eml"
    words = [("From", "a@x.example"), ("Message-ID", "<1@\x9b\u202e\x7fx>"), ("Subject", "\x1b[31m")]
    message.write_bytes(b"".join(f"{name}: {value}\r\n".encode() for name, value in words) + b"\r\nx\r\n")
    for value in ARGUMENTS:
        common = ["--config", path, "--client-address", "192.0.2.1", "--no-state", "--dns-zone", str(zone)]
        known = [*common, "--mail-from", "a@x.example", "--rcpt", "alice@example.com", "--helo", value]
        run("explain", *known, "--login", value, str(message))
        run("explain", *common, "--mail-from", f"{value}@x.example", "--rcpt", f"{value}@example.com")
        run("explain", *common, "--mail-from", value, "--rcpt", value, "--listener", value)
    shown = run("explain", *known, "--login", "\x9b\u202e\u2028", "--json")
    assert json.loads(shown)["client"]["login"] == "\x9b\u202e\u2028"
    bad = folder / "bad.yaml"
    bad.write_text(yaml({value: value for value in TEXTS}))
    run("explain", *common[:-1], str(bad), "--mail-from", "<>", "--rcpt", "alice@example.com")


def policies(_folder: Path) -> None:
    """A policy that there is not, and the pages of those that there are."""
    for value in ARGUMENTS:
        run("policies", "--", value)
    run("policies")
    run("policies", "spf")
    run("policies", "--json")


def schema(_folder: Path) -> None:
    """Nothing that anybody chose."""
    run("schema")


def try_demo(folder: Path) -> None:
    """Every decision, and a folder that can't be one."""
    told = io.StringIO()
    teller = demo._Teller(screen.Screen(file=told, markup=False, highlight=False, emoji=False, soft_wrap=True))
    for value in VALUES:
        teller.write(hostile_record(value))
    assert hostile.is_harmless(told.getvalue())
    assert told.getvalue().count("\n") == 2 * len(VALUES)
    path = config(folder)
    for name in file_names():
        (folder / name).write_text("a file")
        run("demo", "--config", path, "--maildir", str(folder / name))


def recipients_list(folder: Path) -> None:
    """What is remembered, and what was said of it."""
    entry = {"answer": "no", "stale": False, "age": 1.0, "holds": 2.0}
    entries = [entry | {"address": value, "said": value} for value in VALUES]
    counts = {"away": None, "remembered": 1, "hits": 1, "asked": 1, "failures": 1, "left_out": 0}
    with answering(folder, "worker-1.sock", [counts | {"source": "sql \x1b\u202e", "entries": entries}]):
        shown = run("recipients list", "--config", config(folder), says="\\x9b31mred")
        assert len(shown.split("\n")) == len(VALUES) + 3, "one line for each"
        data = json.loads(run("recipients list", "--json", "--config", config(folder)))
        assert data[0]["sources"][0]["entries"][2]["address"] == VALUES[2]


def recipients_flush(folder: Path) -> None:
    """What is none, and what a worker says."""
    with answering(folder, "worker-1.sock", "\x1b\u202e", key="error"):
        run("recipients flush", "--all", "--config", config(folder), says="\\x1b\\u202e")
    with answering(folder, "worker-1.sock", 1):
        for value in ARGUMENTS:
            run("recipients flush", "--config", config(folder), "--", value)


def recipients_check(folder: Path) -> None:
    """An address, and what a source says of it."""
    (folder / "users.db").touch()
    source = {"url": "sqlite:///users.db", "query": "SELECT :address"}
    path = config(folder, domains={"example.com": {"recipients": {"sql": source}}})
    for value in ARGUMENTS:
        address = f'"{value}"@example.com'
        run("recipients check", "--config", path, "--", address)
        run("recipients check", "--json", "--config", path, "--", address)
        run("recipients check", "--config", path, "--", value)
    shown = run("recipients check", "--json", "--config", path, "--", "a\x9b\u202e@example.com")
    assert json.loads(shown)["address"] == "a\x9b\u202e@example.com"


def recipients_lists(folder: Path) -> None:
    """The names of files."""
    for name in file_names():
        (folder / name).write_text("alice\n")
        path = config(folder, domains={"example.com": {"recipients": {"file": name}}})
        run("recipients lists", "--config", path)
        run("recipients lists", "--json", "--config", path)
        run("check", "--config", path)


def recipients_accept(folder: Path) -> None:
    """The names of files, and what is none."""
    lists = {"folder": str(folder / "lists")}
    for value in ARGUMENTS:
        run("recipients accept", "--config", config(folder, recipient_lists=lists), "--", value)
    for name in file_names():
        (folder / name).write_text("alice\n")
        path = config(folder, recipient_lists=lists, domains={"example.com": {"recipients": {"file": name}}})
        run("recipients accept", "--config", path, "--", name)


def state(folder: Path) -> None:
    """Whom limits count, and by what."""
    base = {"kind": "rate", "level": 1.0, "limit": 2.0, "expires": 3.0}
    entries = [base | {"key": value, "name": value, "subject": value} for value in VALUES]
    entries.append(base | {"kind": "greylist", "key": "k", "name": "n", "subject": "s", "envelope": "\x1b\u202e"})
    with answering(folder, "worker-1.sock", {"total": len(entries), "entries": entries}):
        shown = run("state", "--limit", "0", "--config", config(folder), says="\\x9b31mred")
        assert len(shown.split("\n")) == len(entries) + 3, "one line for each"
        json.loads(run("state", "--json", "--config", config(folder)))


def state_clear(folder: Path) -> None:
    """A key that there is not."""
    with answering(folder, "worker-1.sock", False):
        for value in ARGUMENTS:
            run("state clear", "--config", config(folder), "--", value)


def state_workers(folder: Path) -> None:
    """The names of servers."""
    health = [{"server": value, "away": None, "outages": 0, "unanswered": 0} for value in VALUES]
    with answering(folder, "worker-1.sock", health):
        path = config(folder, state="redis://127.0.0.1:1/0")
        shown = run("state workers", "--config", path, says="\\x9b31mred")
        assert len(shown.split("\n")) == len(VALUES) + 1
        json.loads(run("state workers", "--json", "--config", path))


COMMANDS: Final[dict[str, Callable[[Path], None]]] = {
    "serve": serve,
    "check": check,
    "reload": reload,
    "explain": explain,
    "policies": policies,
    "schema": schema,
    "demo": try_demo,
    "recipients list": recipients_list,
    "recipients flush": recipients_flush,
    "recipients check": recipients_check,
    "recipients lists": recipients_lists,
    "recipients accept": recipients_accept,
    "state": state,
    "state clear": state_clear,
    "state workers": state_workers,
}


def names(group: TyperGroup, before: str = "") -> Iterator[str]:
    """The commands of the application."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            if command.invoke_without_command:
                yield f"{before}{name}"
            yield from names(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_command_is_in_the_table() -> None:
    """A new command says how hostile values come into what it prints."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    assert set(COMMANDS) == set(names(root))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_prints_is_harmless(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it prints is obeyed by a terminal, turns the reading direction, begins a line or is unseen."""
    monkeypatch.chdir(folder)
    COMMANDS[command](folder)


def test_the_screen_is_the_only_way_to_a_terminal() -> None:
    """No command prints by itself: no console, text, table or error of usage is made elsewhere."""
    screens = {"Console", "Text", "Table", "Markdown", "echo", "secho", "print", "BadParameter", "UsageError", "write"}
    found = []
    for path in Path(gateway.cli.__file__).parent.glob("*.py"):
        if path.name == "screen.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                on_screen = isinstance(node.func, ast.Attribute) and name == "print"
                if name in screens and not on_screen:
                    found.append(f"{path.name}:{node.lineno}: {name}")
    assert found == []


def test_colours_stay_on_a_terminal() -> None:
    """What is escaped is the text; a terminal gets the colours of the gateway, and nothing of a client's."""
    told = io.StringIO()
    out = screen.Screen(
        file=told, markup=False, highlight=False, emoji=False, force_terminal=True, color_system="standard", width=80
    )
    assert isinstance(out, Console)
    listing = screen.table("Whom")
    for value in VALUES:
        out.print(value, soft_wrap=True)
        out.print(screen.line((value, "green"), f" {value}", style="bold"), soft_wrap=True)
        listing.add_row(screen.line(value, style="red"))
        listing.add_row(value)
    out.print(listing)
    shown = told.getvalue()
    for code in ("\x1b[1;32m", "\x1b[1m", "\x1b[31m", "\x1b[0m"):
        assert code in shown
        shown = shown.replace(code, "")
    assert hostile.is_harmless(shown)
