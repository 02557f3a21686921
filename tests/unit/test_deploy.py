"""The files in deploy/ are right: the configurations load, the unit and the scripts are accepted by their own tools."""

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.options import RecipientListOptions

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["demo.yaml", "lychgate.yaml"])
def test_configurations_are_valid(name: str) -> None:
    """An administrator can start from them."""
    config = load(DEPLOY / name)
    ids = [policy.id for policy in config.listeners[0].chain.policies]
    assert {"relay", "recipient", "size", "loop", "limits"} <= set(ids)
    assert "example.com" in config.domains


def test_the_demo_stays_on_the_machine() -> None:
    """It listens on loopback only, asks no DNS, and needs no privileges."""
    config = load(DEPLOY / "demo.yaml")
    assert [str(listener.smtp) for listener in config.listeners] == ["127.0.0.1:2525"]
    assert not config.dns.client_names
    assert config.user is None


def test_what_is_commented_out_in_the_example_is_valid_too(tmp_path: Path) -> None:
    """With every suggested setting taken in, the example still loads."""
    text = (DEPLOY / "lychgate.yaml").read_text("utf-8")
    lines = [_uncommented(line) for line in text.splitlines()]
    shutil.copy(DEPLOY / "recipients.txt", tmp_path)
    (tmp_path / "blocked-networks.txt").write_text("192.0.2.0/24\n")
    (tmp_path / "lychgate.yaml").write_text("\n".join(lines))
    config = load(tmp_path / "lychgate.yaml")
    assert len(config.listeners) == 5
    assert config.exceptions
    assert config.mode.value == "observe"
    assert set(config.domains) == {"example.com", "example.net", ".example.com"}


def _uncommented(line: str) -> str:
    indent, mark, rest = line.partition("# ")
    is_setting = mark and not indent.strip() and rest.lstrip()[:1] in {"-", '"', "t", "a", "p", "e", "m", "s"}
    if not is_setting or (
        "{" not in rest and not rest.lstrip().startswith(("- smtp", "policies: [", "exceptions:", "mode:"))
    ):
        return line
    return indent + rest


def test_the_unit_makes_the_folder_of_accepted_lists() -> None:
    """The one that holds without a setting."""
    unit = (DEPLOY / "lychgate.service").read_text("utf-8")
    made = next(line.split("=", 1)[1].split() for line in unit.splitlines() if line.startswith("StateDirectory="))
    assert str(RecipientListOptions().folder) in {f"/var/lib/{name}" for name in made}


@pytest.mark.peer("systemd-analyze")
def test_the_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    """Every setting of the unit is one that systemd knows."""
    unit = tmp_path / "lychgate.service"
    unit.write_text((DEPLOY / "lychgate.service").read_text("utf-8").replace("/opt/lychgate/bin/lychgate", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]  # its pages need not be installed
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "lychgate.service" not in result.stderr


@pytest.mark.peer("logrotate")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can rotate another user's files")
@pytest.mark.parametrize("writable", ["by the service", "by its group"])
def test_root_rotates_records_in_the_folder_of_the_service(writable: str) -> None:
    """With the owner and the mode that the unit gives it, and where logrotate refuses to work as root."""
    unit = (DEPLOY / "lychgate.service").read_text("utf-8")
    mode = next(line.split("=", 1)[1] for line in unit.splitlines() if line.startswith("LogsDirectoryMode="))
    mode = mode if writable == "by the service" else "0770"
    user, group = pwd.getpwnam("nobody"), grp.getgrnam("nogroup")
    with tempfile.TemporaryDirectory(prefix="lychgate-rotated-") as name:
        folder = Path(name) / "lychgate"
        folder.parent.chmod(0o755)
        folder.mkdir()
        records = folder / "records.jsonl"
        records.write_text("{}\n")
        for path, wanted in ((folder, int(mode, 8)), (records, 0o640)):
            os.chown(path, user.pw_uid, group.gr_gid)
            path.chmod(wanted)
        text = (DEPLOY / "lychgate.logrotate").read_text("utf-8")
        text = text.replace("/var/log/lychgate", str(folder)).replace("lychgate lychgate\n", "nobody nogroup\n")
        rules = Path(name) / "rules"
        rules.write_text(text)
        command = ["logrotate", "--force", "--state", f"{name}/state", str(rules)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / "records.jsonl.1").read_text() == "{}\n"
        made = records.stat()
        assert (made.st_size, made.st_mode & 0o777, made.st_uid) == (0, 0o640, user.pw_uid)


@pytest.mark.parametrize("script", ["deploy/setup.sh", "tests/peers.sh", "tests/npm/packages.sh", ".ci/run"])
def test_scripts_parse(script: str) -> None:
    """They are executable, and the shell that runs them can read them."""
    path = DEPLOY.parent / script
    assert path.stat().st_mode & 0o111
    shell = path.read_text("utf-8").splitlines()[0].split("/")[-1].split()[-1]
    assert subprocess.run([shell, "-n", path], check=False).returncode == 0


def test_an_interpreter_that_is_none_is_told(tmp_path: Path) -> None:
    """The one that was chosen is taken or refused, never another in its place; nothing is made before."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / "setup.sh", tmp_path / "deploy")
    shutil.copy(DEPLOY.parent / "pyproject.toml", tmp_path)
    setup = [str(tmp_path / "deploy" / "setup.sh"), "run"]
    environment = os.environ | {"PYTHON": "/no/such/python3"}
    result = subprocess.run(setup, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "/no/such/python3 is none" in result.stderr
    assert not (tmp_path / ".venv").exists()
