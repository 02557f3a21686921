"""``lychgate recipients lists`` and ``accept``, and what ``check`` says of files that are empty."""

import json
import os
import pwd
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.assembly import build_sources, our_domains
from gateway.cli.app import app
from gateway.config.load import load

CONFIG = """\
hostname: mx1.example.com
listeners: [{smtp: "0.0.0.0:25"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains:
  example.com: {recipients: {file: people.txt, aliases: {file: aliases}}}
  example.net: {recipients: {file: net/people.txt}}
policies: [relay: {trusted: {file: trusted.txt}}, recipient]
recipient_lists: {folder: state}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration whose lists have been accepted by a start."""
    (tmp_path / "net").mkdir()
    for name, text in (("people.txt", "alice\n"), ("net/people.txt", "bob\n"), ("aliases", "info: alice\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "trusted.txt").write_text("192.0.2.0/24\n")
    file = tmp_path / "lychgate.yaml"
    file.write_text(CONFIG)
    config = load(file)
    our_domains(config, build_sources(config, accepts=True))
    return file


def run(command: str, path: Path, *arguments: str, status: int = 0) -> Result:
    """Run a command; it exits with a status."""
    result = CliRunner().invoke(app, [*command.split(), *arguments, "--config", str(path)])
    assert result.exit_code == status, result.output
    return result


def warnings(path: Path) -> list[tuple[str, str]]:
    """What ``check`` warns of: at which setting, and what of which file."""
    found = json.loads(run("check", path, "--json").stdout)["warnings"]
    assert all(warning["line"] for warning in found if "entries" in warning["message"])
    told = [(warning["path"], warning["message"]) for warning in found if "entries" in warning["message"]]
    return [(where, message.replace(f"{path.parent}/", "")) for where, message in told]


def test_check_tells_of_lists_that_are_held_back(path: Path) -> None:
    """At the setting that names the file, with what to do; nothing where all is well, and nothing is written."""
    assert warnings(path) == []
    path.with_name("people.txt").write_text("# nobody\n")
    path.with_name("trusted.txt").write_text("")
    held = "'people.txt' has no entries any more: its last accepted content goes on to hold; "
    accept = "run 'lychgate recipients accept people.txt' if that is right"
    assert warnings(path) == [
        ("domains.example.com.recipients.file", held + accept),
        ("policies[0].relay.trusted", "'trusted.txt' has no entries"),
    ]
    shutil.rmtree(path.with_name("state"))
    unknown = "'people.txt' has no entries, and none were ever accepted: recipients are deferred; "
    assert warnings(path)[0] == ("domains.example.com.recipients.file", unknown + accept)
    assert not path.with_name("state").exists()


def test_lists_shows_what_is_in_force(path: Path) -> None:
    """For people and for programs."""
    path.with_name("aliases").write_text("")
    wanted: list[dict[str, Any]] = [
        {"list": "people.txt", "kind": "recipients", "entries": 1, "known": True, "held": None},
        {"list": "aliases", "kind": "aliases", "entries": 1, "known": True,
         "held": {"entries": 0, "came": 0, "went": 1}},
        {"list": "net/people.txt", "kind": "recipients", "entries": 1, "known": True, "held": None},
    ]  # fmt: skip
    found = json.loads(run("recipients lists", path, "--json").stdout)
    assert found == [each | {"list": str(path.parent / each["list"]), "hindrance": None} for each in wanted]
    shown = [line.split()[2:] for line in run("recipients lists", path).output.splitlines()[1:]]
    assert shown == [["1", "1", "in", "force"], ["1", "0", "held", "back"], ["1", "1", "in", "force"]]


@pytest.mark.parametrize("name", ["aliases", "./aliases", "{folder}/aliases"])
def test_a_list_is_accepted_by_its_path_or_its_name(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what came and went; afterwards nothing is held back."""
    monkeypatch.chdir(path.parent)
    path.with_name("aliases").write_text("")
    output = run("recipients accept", path, name.format(folder=path.parent)).output
    assert output == f"{path.with_name('aliases')} (aliases): accepted, 0 entries; 0 came, 1 went\n"
    assert warnings(path) == []
    (told,) = json.loads(run("recipients accept", path, "aliases", "--json").stdout)
    assert (told["entries"], told["known"], told["held"], told["came"], told["went"]) == (0, True, None, 0, 0)


def test_what_can_not_be_accepted_is_told(path: Path) -> None:
    """A name that is none or not clear, a bad line, a folder that can't be written."""
    for name, told in (("other.txt", "names no file of recipients 'other.txt'"), ("people.txt", "more than one list")):
        shown = run("recipients accept", path, name, status=2).output
        assert told in " ".join(shown.replace("│", " ").split())
    path.with_name("aliases").write_text("*: alice\n")
    assert "aliases:1: '*' is a pattern" in run("recipients accept", path, "aliases", status=1).output
    path.with_name("aliases").write_text("other: alice\n")
    shutil.rmtree(path.with_name("state"))
    path.with_name("state").write_text("")
    shown = run("recipients accept", path, "aliases", status=1).output
    assert shown.startswith("lychgate: the list can't be accepted: ")
    assert "state" in shown


def test_recipients_check_asks_by_what_is_in_force(path: Path) -> None:
    """What was accepted counts, and with nothing known it can't be told."""
    path.with_name("people.txt").write_text("")
    run("recipients check", path, "alice@example.com")
    run("recipients check", path, "nobody@example.com", status=4)
    shutil.rmtree(path.with_name("state"))
    assert "no content of it was ever accepted" in run("recipients check", path, "alice@example.com", status=3).output
    run("recipients check", path, "info@example.com")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_may_be_the_first_to_accept_anything(tmp_path: Path) -> None:
    """The folder that the command makes, and what is in it, belong to the service's user."""
    (tmp_path / "people.txt").write_text("alice\n")
    config = tmp_path / "lychgate.yaml"
    config.write_text(
        "hostname: mx.example.com\nlisteners: [{smtp: '127.0.0.1:0'}]\nbackends: {a: {servers: ['127.0.0.1:1']}}\n"
        "domains: {example.com: {recipients: {file: people.txt}}}\npolicies: [relay, recipient]\nuser: nobody\n"
        "recipient_lists: {folder: state/lists}\n"
    )
    assert "accepted, 1 entry" in run("recipients accept", config, "people.txt").output
    folder = tmp_path / "state/lists"
    (kept,) = folder.iterdir()
    assert folder.stat().st_uid == kept.stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_check_tells_of_empty_files_of_one_domains_policies(path: Path) -> None:
    """A domain's own settings name files as well as the common ones do."""
    own = "policies: {relay: {trusted: {file: own.txt}}}, recipients: {file: net/people.txt}"
    path.write_text(CONFIG.replace("recipients: {file: net/people.txt}", own))
    path.with_name("own.txt").write_text("# nobody\n")
    ((where, message),) = warnings(path)
    assert where.startswith("domains.example.net.")
    assert message == "'own.txt' has no entries"


@pytest.mark.parametrize("arguments", [[], ["alice@example.com", "--all"]])
def test_flush_forgets_what_is_named_or_everything(path: Path, arguments: list[str]) -> None:
    """Nothing named, or both, is a slip: nobody is asked to forget anything."""
    assert "give an address or a domain, or --all" in run("recipients flush", path, *arguments, status=2).output
