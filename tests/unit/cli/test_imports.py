"""What a command loads: for its help nothing but the command-line library, to run only what it needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gateway.cli.app import COMMANDS, GROUPS

HEAVY = frozenset(
    {
        "aiohttp", "aiomysql", "aiosmtpd", "aiosqlite", "asyncio", "cryptography", "dns", "hiredis", "idna",
        "prometheus_client", "psycopg", "publicsuffixlist", "pydantic", "pydantic_core", "redis", "ruamel",
        "sqlalchemy", "ssl", "structlog", "uvloop", "yarl",
        "gateway.adapters", "gateway.admission", "gateway.backend", "gateway.chain", "gateway.cli.common",
        "gateway.config", "gateway.doors", "gateway.mailauth", "gateway.session",
        "gateway.smtp.grammar", "gateway.tables", "policies",
    }
)  # fmt: skip
"""What takes long to load, and what loads it."""

RUN = """\
import json, runpy, sys
from gateway.cli import main
sys.argv = ["lychgate", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    sys.stderr.write(json.dumps([end.code, sorted(sys.modules)]))
"""

CONFIG = """\
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:2525"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains: {example.com: {}}
policies: [relay, spf]
runtime_folder: run
"""


def loaded(*words: str) -> tuple[int, frozenset[str]]:
    """The exit status of a command, and the modules that are loaded when it ends."""
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    return status, frozenset(modules)


def helps() -> list[tuple[str, ...]]:
    """Every command line that asks for a help text, and that for the version."""
    paths: list[tuple[str, ...]] = [(), *((command.__name__,) for command in COMMANDS)]
    for group in GROUPS:
        paths.append((str(group.info.name),))
        paths += ((str(group.info.name), _name(command)) for command in group.registered_commands)
    return [("--version",), *((*path, "--help") for path in paths)]


def _name(command: typer.models.CommandInfo) -> str:
    assert command.name is not None
    return command.name


@pytest.mark.parametrize("words", helps(), ids=" ".join)
def test_no_help_loads_what_a_command_needs_to_run(words: tuple[str, ...]) -> None:
    """So that it is there at once, whatever the gateway itself comes to need.

    Below a group that is a command itself the group's own options are read first, by the library's validator.
    """
    status, modules = loaded(*words)
    validator = {"pydantic", "pydantic_core"} if len(words) == 3 and words[0] == "state" else set()
    assert status == 0
    assert HEAVY & modules == validator


@pytest.mark.parametrize(
    ("words", "status", "spared"),
    [
        (["check"], 0, {"uvloop", "redis", "prometheus_client", "gateway.backend", "gateway.doors", "gateway.service"}),
        (["reload"], 1, {"uvloop", "redis", "prometheus_client", "dns", "gateway.backend", "gateway.service"}),
        (["recipients", "lists"], 0, {"uvloop", "redis", "dns", "gateway.backend", "gateway.service"}),
        (["recipients", "list"], 1, {"uvloop", "redis", "dns", "gateway.backend", "gateway.service"}),
        (["state"], 1, {"uvloop", "redis", "dns", "gateway.backend", "gateway.service"}),
        (
            ["explain", "--client-address", "192.0.2.1", "--mail-from", "", "--rcpt", "a@example.com", "--dns-zone"],
            0,
            {"uvloop", "redis", "prometheus_client", "dns", "gateway.worker", "gateway.service"},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_loads_what_it_needs(words: list[str], status: int, spared: set[str], tmp_path: Path) -> None:
    """The parts of the service that it does not ask stay away."""
    config, zone = tmp_path / "lychgate.yaml", tmp_path / "zone.yaml"
    config.write_text(CONFIG, "utf-8")
    zone.write_text("{}", "utf-8")
    file = [str(zone)] if words[-1] == "--dns-zone" else []
    ended, modules = loaded(*words, *file, "--config", str(config))
    assert ended == status
    assert "pydantic" in modules
    assert spared & modules == set()
