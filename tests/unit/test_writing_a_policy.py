"""``docs/writing-a-policy.md``: its example runs as it stands there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-a-policy.md"

SITE = """
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:2525"}]
backends: {postfix: {servers: ["127.0.0.1:10025"]}}
domains: {example.com: {backend: postfix}}
"""


def _block(language: str, first_line: str = "") -> str:
    """The code block of a language that begins with this line."""
    match = re.search(rf"^```{language}\n({re.escape(first_line)}.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the example, laid out as if it were installed."""
    (tmp_path / "sender_exists.py").write_text(_block("python", "# sender_exists.py"))
    (tmp_path / "test_sender_exists.py").write_text(_block("python", "# test_sender_exists.py"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    project = tomllib.loads(_block("toml", "# pyproject.toml"))["project"]
    information = tmp_path / f"lychgate_sender_exists-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    (information / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in project["entry-points"].items()
        )
    )
    return tmp_path


def _python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=package, env=environment, capture_output=True, text=True, check=False
    )


def test_the_examples_test_passes(package: Path) -> None:
    """The tutorial's test of its policy passes, every case of it."""
    result = _python(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sender_exists.py")
    assert "8 passed" in result.stdout, result.stdout + result.stderr


def test_the_example_is_found_and_configured(package: Path) -> None:
    """The gateway finds the policy by its entry point, and the tutorial's configuration is valid."""
    (package / "lychgate.yaml").write_text(SITE + _block("yaml"))
    load = (
        "from pathlib import Path\n"
        "from gateway.config.load import load\n"
        "config = load(Path('lychgate.yaml'))\n"
        "last = config.chain.policies[-1]\n"
        "print(last.policy.__name__, last.mode.value, last.on['unknown'].action.value, last.options.ignore)\n"
    )
    result = _python(package, "-c", load)
    assert result.stdout == "SenderExists observe tag NameTable(['intern.example'])\n", result.stderr


def test_the_example_is_typed(package: Path) -> None:
    """The policy passes the strict type checker, as authors are asked to."""
    result = _python(package, "-m", "mypy", "--strict", "--cache-dir", str(package / "cache"), "sender_exists.py")
    assert result.returncode == 0, result.stdout + result.stderr
