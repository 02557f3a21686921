"""The service after it has become another user: what it can't read is told before, at the start, and at a reload.

Each test has an installation of its own, in a folder whose modes it may change.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.installation import NOBODY, Installation, copied, own
from tests.support.ports import free_port
from tests.support.sink import Sink
from tests.support.wire import Wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

REFUSED = "reload refused: the old configuration stays"
SETTINGS = {"user": NOBODY, "records": "stdout", "runtime_folder": "run"}


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """An installation below a folder of its own, as one below ``/root``."""
    folder = Path(tempfile.mkdtemp(prefix="lychgate-test-root-"))
    (folder / "root" / "lychgate").mkdir(parents=True)
    folder.chmod(0o755)
    yield copied(folder / "root" / "lychgate")
    shutil.rmtree(folder)


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """Let only root use a path for a while."""
    before = path.stat().st_mode
    path.chmod(0o700 if path.is_dir() else 0o600)
    try:
        yield
    finally:
        path.chmod(before)


def run(installation: Installation, *arguments: str | Path, user: str = "root") -> subprocess.CompletedProcess[str]:
    """Run a command of an installation."""
    entry = pwd.getpwnam(user)
    return subprocess.run(
        [*installation.command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120,
        cwd="/", user=entry.pw_uid, group=entry.pw_gid, extra_groups=[],
        env={**os.environ, **installation.environment},
    )  # fmt: skip


def above(site: Path) -> Path:
    """The folder two above, as /root is."""
    return site.parent.parent


def packages(site: Path) -> Path:
    """The folder of all packages."""
    return site


def description(site: Path) -> Path:
    """What says which policies there are: only root may read it where it was installed with a narrow umask."""
    (found,) = site.glob("lychgate-*.dist-info")
    return found


def entry_points(site: Path) -> Path:
    """The list of policies itself."""
    return description(site) / "entry_points.txt"


def policies(site: Path) -> Path:
    """A package, though all of its modules are loaded."""
    return site / "policies"


def module(site: Path) -> Path:
    """A module of the gateway's that is loaded when it is first used."""
    return site / "gateway" / "adapters" / "recipients" / "sql.py"


def module_of_others(site: Path) -> Path:
    """A module of another package that is."""
    return site / "prometheus_client" / "multiprocess.py"


PLACES = [above, packages, description, entry_points, policies, module, module_of_others]


@pytest.fixture
def config() -> Iterator[Path]:
    """A configuration for another user, whose folder is open to it."""
    with tempfile.TemporaryDirectory(prefix="lychgate-test-etc-") as folder:
        file = Path(folder) / "lychgate.yaml"
        file.write_text(
            f"hostname: mx.example\nuser: {NOBODY}\nlisteners: [{{smtp: '127.0.0.1:{free_port()}'}}]\n"
            "backends: {b: {servers: [h]}}\ndomains: {example.com: {}}\npolicies: [relay, limits]\n"
        )
        file.parent.chmod(0o755)
        yield file


@pytest.mark.parametrize(
    ("command", "place"),
    [("serve", above), *(("check", place) for place in PLACES)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_closed_installation_is_told_before_and_nothing_starts(
    config: Path, installation: Installation, command: str, place: Callable[[Path], Path]
) -> None:
    """``check`` and ``serve`` name the place, the user and what to do, at ``user``, with exit status 1."""
    path = place(installation.folder)
    with closed(path):
        done = run(installation, command, "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{config}:2:7: user: the user 'nobody' can't read the installation, '")
    assert f"'{path}'" in line
    assert "install it where everyone may read it, such as under /opt" in line


@pytest.mark.parametrize("place", [above, description, policies, module], ids=lambda place: place.__name__)
def test_a_reload_says_what_it_can_not_read(
    sink: Sink, installation: Installation, place: Callable[[Path], Path]
) -> None:
    """What was closed after the start is told, not what is missing for it; mail goes on; open again, it reloads."""
    with Gateway(SETTINGS, backend=sink.port, installation=installation, expect=[REFUSED]) as gateway:
        path = place(installation.folder)
        with closed(path):
            told = run(own(), "reload", "--config", gateway.config_file)
            assert told.returncode == 1
            line, stays = told.stderr.splitlines()
            assert line.startswith("the user 'nobody' can't read the installation, '")
            assert f"'{path}'" in line
            assert stays == "lychgate: not reloaded: the old configuration stays in force"
            with Wire(gateway.port) as client:
                client.hello()
                assert client.transaction().code == 250
        told = run(own(), "reload", "--config", gateway.config_file)
        assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize(
    ("place", "what"),
    [(description, "is not found"), (entry_points, "is not found"), (policies, "can't be loaded")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_policy_that_can_not_be_seen_is_not_said_to_be_missing(
    config: Path, installation: Installation, place: Callable[[Path], Path], what: str
) -> None:
    """A command that the user itself runs says that it can't read the package."""
    path = place(installation.folder)
    with closed(path):
        done = run(installation, "check", "--config", config, user=NOBODY)
    assert done.returncode == 1
    assert f"the policy 'relay' {what}: this user can't read '" in done.stderr
    assert f"'{path}'" in done.stderr
    assert "installed are" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_is_the_user_from_the_start(config: Path, installation: Installation) -> None:
    """As with a unit's ``User=``: what it can't write to is told, and root's folders are not to be given away."""
    text = config.read_text().replace(f"user: {NOBODY}\n", "")
    config.write_text(text + "runtime_folder: run\npid_file: pid\nrecords: {file: records.jsonl}\n")
    done = run(installation, "check", "--config", config, user=NOBODY)
    assert done.returncode == 0, done.stderr
    told = [line.partition(f"{config}:")[2] for line in done.stdout.splitlines() if "nobody" in line]
    folder = f"'{config.parent}' (drwxr-xr-x root root)"
    made = f"make it before (install -d -m 700 -o nobody {config.parent}/run)"
    own = f"name a file in a folder of its own (install -d -o nobody {config.parent}/lychgate)"
    assert sorted(told) == [
        f"6:17: runtime_folder: the user 'nobody' can't write to {folder}, so commands can't ask the service; {made}",
        f"7:11: pid_file: the user 'nobody' can't write to {folder}, so it can't start the service; {own}",
        f"8:17: records.file: the user 'nobody' can't write to {folder}, so decision records can't be written; {own}",
    ]


def test_temporary_files_are_where_the_user_may_write(sink: Sink, installation: Installation) -> None:
    """Root's TMPDIR is closed to the user: large messages and numbers for Prometheus find another folder."""
    environment = {"TMPDIR": str(installation.folder.parent / "temporary")}
    Path(environment["TMPDIR"]).mkdir(mode=0o700)
    settings = {**SETTINGS, "metrics": f"127.0.0.1:{free_port()}"}
    with (
        Gateway(settings, backend=sink.port, installation=installation, environment=environment) as gateway,
        Wire(gateway.port) as client,
    ):
        client.hello()
        text = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 40_000
        assert client.transaction(text=text).code == 250


def test_what_the_user_will_miss_is_in_the_log(sink: Sink, installation: Installation) -> None:
    """A table that only root may read serves, and the log says at the start what will not come of it."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "networks.txt"
        table.write_text("192.0.2.0/24\n")
        table.chmod(0o600)
        policies = ["relay", {"access": {"deny": {"clients": {"file": str(table)}}}}]
        with Gateway({**SETTINGS, "policies": policies}, backend=sink.port, installation=installation) as gateway:
            line = gateway.line("out of reach")
            assert line["level"] == "warning"
            assert f"the user 'nobody' can't read '{table}'" in line["problem"]
            assert "changes of it are not noticed, and every reload is refused" in line["problem"]


def test_a_pid_file_that_can_not_be_removed_names_nobody(sink: Sink, installation: Installation) -> None:
    """In a folder of root's it stays, and is empty: no other process is taken for the service."""
    with Gateway(SETTINGS, backend=sink.port, installation=installation) as gateway:
        file = gateway.folder / "lychgate.pid"
        assert int(file.read_text()) == gateway.pid
        gateway.stop()
        assert file.read_text() == ""
