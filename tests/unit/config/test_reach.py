"""What the service reaches as its user: each file that a configuration names, closed itself or by a folder above."""

import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import trustme
from pydantic import BaseModel, Field

from gateway.config import files, reach
from gateway.config.advice import file_problems
from gateway.config.files import FileUse
from gateway.config.load import load
from gateway.config.model import Config
from gateway.config.options import FileOptions
from gateway.config.registry import Registry
from gateway.policy import Options, Policy
from gateway.session import Transaction
from gateway.tables import AddressList, NetworkTable
from tests.support.configuring import Relay
from tests.support.installation import NOBODY

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")


class ListOptions(Options):
    """Options that name files in every way."""

    clients: NetworkTable = Field(default=NetworkTable(), description="A table.")
    people: AddressList = Field(default=AddressList(), description="Recipients.")
    template: Path | None = Field(default=None, description="A file of a policy of somebody's.")


class Lists(Policy[ListOptions]):
    """Reads files."""

    name = "lists"

    def on_mail(self, transaction: Transaction) -> None:
        """Find nothing."""


REGISTRY = Registry.of(Relay, Lists)
BASE = """\
hostname: mx1.example.com
listeners:
  - smtp: 0.0.0.0:25
    {listener}
backends: {{b: {backend}}}
domains: {{example.com: {domain}}}
policies: [relay, {policy}]
user: {user}
{whole}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One setting that names a file.

    Attributes:
        setting: Where in ``BASE`` it goes.
        text: The setting; ``{0}`` is the path.
        use: What it is for.
        where: What is told of, as the path of the setting.
    """

    setting: str
    text: str
    use: FileUse
    where: str


CASES = [
    Case("listener", "tls: {{certificate: {0}}}", FileUse.CERTIFICATE, "listeners[0].tls.certificate"),
    Case("backend", '{{servers: ["unix:{0}"]}}', FileUse.SOCKET, "backends.b.servers[0]"),
    Case(
        "backend",
        "{{servers: [h], tls: {{mode: verified, ca: {0}}}}}",
        FileUse.AUTHORITIES,
        "backends.b.tls.ca",
    ),
    Case("domain", "{{recipients: {{file: {0}}}}}", FileUse.RECIPIENTS, "domains.example.com.recipients.file"),
    Case(
        "domain",
        "{{recipients: [{{list: [a]}}, {{aliases: {{file: {0}}}}}]}}",
        FileUse.RECIPIENTS,
        "domains.example.com.recipients[1].aliases.file",
    ),
    Case(
        "domain",
        '{{recipients: {{tcp: {{server: "unix:{0}"}}}}}}',
        FileUse.SOCKET,
        "domains.example.com.recipients.tcp.server",
    ),
    Case(
        "domain",
        '{{recipients: {{socketmap: {{server: "unix:{0}", map: m}}}}}}',
        FileUse.SOCKET,
        "domains.example.com.recipients.socketmap.server",
    ),
    Case(
        "domain",
        '{{recipients: {{ldap: {{server_host: "ldapi://{1}", search_base: x}}}}}}',
        FileUse.SOCKET,
        "domains.example.com.recipients.ldap.server_host",
    ),
    Case(
        "domain",
        "{{recipients: {{ldap: {{server_host: h, search_base: x, tls_ca_cert_file: {0}}}}}}}",
        FileUse.AUTHORITIES,
        "domains.example.com.recipients.ldap.tls_ca_cert_file",
    ),
    Case(
        "domain",
        '{{recipients: {{sql: {{url: "sqlite:///{0}", query: "select :address"}}}}}}',
        FileUse.DATABASE,
        "domains.example.com.recipients.sql.url",
    ),
    Case(
        "domain",
        '{{recipients: {{sql: {{url: "postgresql://u@h/d?sslrootcert={0}", query: "select :address"}}}}}}',
        FileUse.DATABASE,
        "domains.example.com.recipients.sql.url",
    ),
    Case(
        "domain",
        '{{recipients: {{sql: {{url: "mariadb://u@h/d?unix_socket={0}", query: "select :address"}}}}}}',
        FileUse.SOCKET,
        "domains.example.com.recipients.sql.url",
    ),
    Case(
        "domain",
        '{{recipients: {{http: {{url: "https://h/{{address}}", ca: {0}}}}}}}',
        FileUse.AUTHORITIES,
        "domains.example.com.recipients.http.ca",
    ),
    Case("policy", "lists: {{clients: {{file: {0}}}}}", FileUse.TABLE, "policies[1].lists.clients"),
    Case("policy", "lists: {{people: {{aliases: {{file: {0}}}}}}}", FileUse.TABLE, "policies[1].lists.people"),
    Case("policy", "lists: {{template: {0}}}", FileUse.TABLE, "policies[1].lists.template"),
    Case(
        "domain",
        "{{policies: {{lists: {{clients: {{file: {0}}}}}}}}}",
        FileUse.TABLE,
        "domains.example.com.policies.lists.clients",
    ),
    Case("whole", "state: {{url: 'redis://h', password: '${{file:{0}}}'}}", FileUse.VALUE, "state.password"),
    Case("whole", "state: unix://{0}", FileUse.SOCKET, "state"),
    Case("whole", "state: {{url: 'rediss://h', ca: {0}}}", FileUse.AUTHORITIES, "state.ca"),
    Case("whole", "records: {{file: {0}}}", FileUse.RECORDS, "records.file"),
    Case("whole", "recipient_lists: {{folder: {0}}}", FileUse.LISTS, "recipient_lists.folder"),
    Case("whole", "spool: {{directory: {0}}}", FileUse.SPOOL, "spool.directory"),
    Case("whole", "runtime_folder: {0}", FileUse.RUNTIME, "runtime_folder"),
]
FOLDERS = {FileUse.SPOOL, FileUse.RUNTIME, FileUse.LISTS}
VITAL = {FileUse.RECIPIENTS, FileUse.AUTHORITIES, FileUse.DATABASE}


@pytest.fixture(autouse=True)
def _installed_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own installation may be closed; the integration tests of another user are about that."""
    monkeypatch.setattr(reach, "code_problem", lambda account: None)  # noqa: ARG005 - as the function has it


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter."""
    made = Path(tempfile.mkdtemp(prefix="lychgate-reach-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@cache
def pem() -> bytes:
    """A certificate and its key, which is a file of authorities, too."""
    issued = trustme.CA().issue_cert("localhost")
    return issued.private_key_and_cert_chain_pem.bytes()


def made(path: Path, use: FileUse) -> None:
    """What a path of this use is, open to everybody."""
    path.parent.mkdir(exist_ok=True)
    if use in FOLDERS:
        path.mkdir(mode=0o777)
    elif use is FileUse.SOCKET:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif use is FileUse.DATABASE:
        sqlite3.connect(path).close()
    elif use in {FileUse.CERTIFICATE, FileUse.AUTHORITIES}:
        path.write_bytes(pem())
    else:
        path.write_text("192.0.2.1\n" if use is FileUse.TABLE else "alice\n")
    path.chmod(0o777)
    path.parent.chmod(0o755)


def config_of(folder: Path, case: Case, path: Path, user: str = NOBODY) -> Config:
    """A configuration with this setting."""
    settings = {
        "listener": "", "backend": "{servers: [h]}", "domain": "{}", "policy": "lists", "whole": "", "user": user,
    }  # fmt: skip
    if case.use is FileUse.LISTS:  # which are written for files of recipients alone
        (folder / "people.txt").write_text("alice\n")
        settings["domain"] = "{recipients: {file: people.txt}}"
    settings[case.setting] = case.text.format(path, str(path).replace("/", "%2F"))
    text = BASE.format_map(settings)
    (folder / "lychgate.yaml").write_text(text)
    (folder / "lychgate.yaml").chmod(0o644)
    return load(folder / "lychgate.yaml", registry=REGISTRY)


def name(case: Case) -> str:
    """What pytest calls a case."""
    return f"{case.where}-{case.use.name.lower()}"


@needs_root
@pytest.mark.parametrize("above", [False, True], ids=["itself", "above"])
@pytest.mark.parametrize("case", CASES, ids=name)
def test_what_is_closed_is_told_at_its_place(folder: Path, case: Case, *, above: bool) -> None:
    """As an error where nothing works without it, as a warning where it does for a while; nothing where it is open."""
    path = folder / "in" / "named"
    made(path, case.use)
    config = config_of(folder, case, path)
    assert [*file_problems(config), *reach.warnings(config)] == []
    closed = path.parent if above else path
    before = closed.stat().st_mode
    closed.chmod(0o700)
    errors, told = file_problems(config), reach.warnings(config)
    closed.chmod(before)
    (found,) = errors + told
    assert bool(errors) is (case.use in VITAL)
    assert (found.where, found.position is not None) == (case.where, True)
    assert f"the user 'nobody' can't {reach._NEEDS[case.use].verb} '{path}'" in found.message
    assert (f"'{closed}' is closed to it (drwx------ root root)" in found.message) is above
    assert reach._NEEDS[case.use].without in found.message
    assert [*file_problems(config), *reach.warnings(config)] == []


@pytest.mark.parametrize(("user", "is_warned"), [("", True), ("user: root\n", False), ("user: nobody\n", False)])
def test_root_is_warned_of_a_service_that_stays_root(folder: Path, user: str, *, is_warned: bool) -> None:
    """Where the file names nobody to become; not whoever is not root, nor one who says that it shall be."""
    path = folder / "lychgate.yaml"
    path.write_text(BASE.format(listener="", backend="{servers: [h]}", domain="{}", policy="lists", whole="", user="x"))
    path.write_text(path.read_text().replace("user: x\n", user))
    warnings = reach.warnings(load(path, registry=REGISTRY))
    stays = [warning.message for warning in warnings if "stays root" in warning.message]
    assert len(stays) == (is_warned and os.geteuid() == 0)


def test_every_use_has_its_case() -> None:
    """But for the pid file, which whoever starts the service writes before."""
    assert {case.use for case in CASES} | {FileUse.PID} == set(FileUse) == set(reach._NEEDS)


def test_every_setting_that_is_a_path_has_its_use() -> None:
    """A new one says first what it is for: whether the service can do without it."""
    found = {(model.__name__, field) for model, field in paths(FileOptions, set())}
    assert found == set(files._USES)


def paths(model: type[BaseModel], known: set[type[BaseModel]]) -> Iterator[tuple[type[BaseModel], str]]:
    """The settings that are paths, in a section and those below."""
    if model in known:
        return
    known.add(model)
    for field, info in model.model_fields.items():
        for part in parts(info.annotation):
            if part is Path:
                yield model, field
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from paths(part, known)


def parts(annotation: Any) -> Iterator[Any]:
    """What an annotation is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


@needs_root
def test_the_configuration_file_itself(folder: Path) -> None:
    """Closed, it is served until the end, and never loaded again: a warning at ``user``."""
    config = config_of(folder, Case("whole", "", FileUse.SPOOL, ""), folder)
    config.path.chmod(0o600)
    (told,) = reach.warnings(config)
    assert told.where == "user"
    assert told.message == (
        f"the user 'nobody' can't read '{config.path}' (-rw------- root root), so every reload is refused; let its "
        f"group read it (chgrp nogroup {config.path} && chmod g+r {config.path})"
    )


@needs_root
def test_records_in_a_folder_of_the_systems(folder: Path) -> None:
    """Nobody is told to give /var/log away: the records get a folder of their own."""
    case = Case("whole", "records: {{file: {0}}}", FileUse.RECORDS, "records.file")
    (told,) = reach.warnings(config_of(folder, case, folder / "records.jsonl"))
    assert told.message.endswith(f"name a file in a folder of its own (install -d -o nobody {folder}/lychgate)")


@needs_root
def test_a_runtime_folder_that_root_makes_before_is_no_problem(folder: Path) -> None:
    """Where it is not there yet, in a folder of root's such as /run."""
    case = Case("whole", "runtime_folder: {0}", FileUse.RUNTIME, "runtime_folder")
    assert reach.warnings(config_of(folder, case, folder / "run")) == []


@needs_root
@pytest.mark.parametrize("user", [NOBODY, ""])
def test_the_folder_of_accepted_lists_that_is_made_later_is_no_problem(folder: Path, user: str) -> None:
    """Root makes it before the service becomes another user, and whoever may write above it makes it then."""
    case = Case("whole", "recipient_lists: {{folder: {0}}}", FileUse.LISTS, "recipient_lists.folder")
    warnings = reach.warnings(config_of(folder, case, folder / "state" / "lists", user))
    assert [warning for warning in warnings if warning.where != "user"] == []


@needs_root
def test_files_behind_one_folder_are_told_once(folder: Path) -> None:
    """With how many there are: a thousand domains give no thousand lines."""
    for count in range(30):
        made(folder / "in" / f"{count}.txt", FileUse.RECIPIENTS)
    sections = ", ".join(f"{{{{file: in/{count}.txt}}}}" for count in range(30))
    case = Case("domain", f"{{{{recipients: [{sections}]}}}}", FileUse.RECIPIENTS, "")
    config = config_of(folder, case, folder)
    (folder / "in").chmod(0o700)
    (told,) = file_problems(config)
    assert told.where == "domains.example.com.recipients[0].file"
    assert told.message.endswith("(and so it is with 29 more files)")


@needs_root
@pytest.mark.parametrize("temporary", ["closed", "open"])
def test_the_folder_for_temporary_files(folder: Path, temporary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's own TMPDIR is no matter where /tmp is open; where nothing is, large messages will be deferred."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(closed))
    config = config_of(folder, Case("whole", "", FileUse.SPOOL, ""), folder)
    monkeypatch.setattr(reach, "_SYSTEMS_OWN", [str(closed)] if temporary == "closed" else ["/tmp"])
    assert ["large messages are deferred" in each.message for each in reach.warnings(config)] == (
        [True] if temporary == "closed" else []
    )


def test_who_may_not_look_is_told_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user sees nothing with the eyes of another: that is said, and no error is invented."""
    config = config_of(folder, Case("whole", "", FileUse.SPOOL, ""), folder)
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    assert file_problems(config) == []
    (told,) = reach.warnings(config)
    assert told.where == "user"
    assert told.message.startswith("only root and the user 'nobody' can see whether it may read the installation")
