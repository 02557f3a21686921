"""Lychgate as another user of the machine can run it, also where this checkout is closed to everybody else.

A checkout below ``/root`` can be read by nobody but root. ``copied`` makes an installation of its own from the files of
this one: the packages, what they need, and Python itself where that lies in a closed folder, too.
"""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from gateway.config.installation import packages

NOBODY: Final = "nobody"
"""An ordinary user that every machine has."""

_ROOT: Final = Path(__file__).parents[2]
_MAIN: Final = "from gateway.cli import main\n\nmain()\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installation.

    Attributes:
        command: The command ``lychgate``.
        environment: Variables that it needs.
        folder: Where its packages are.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path


def own() -> Installation:
    """The one that the tests run by."""
    return Installation(command=(str(Path(sys.executable).with_name("lychgate")),), folder=_ROOT)


_COPIES: list[Path] = []


@cache
def is_open() -> bool:
    """Whether anybody may run the tests' own installation."""
    return _can_run(sys.executable, "import gateway.worker")


@cache
def another_users() -> Installation:
    """One that anybody may run: the tests' own, or a copy that is gone when the tests have ended."""
    if is_open():
        return own()
    folder = Path(tempfile.mkdtemp(prefix="lychgate-test-copy-"))
    _COPIES.append(folder)
    folder.chmod(0o755)
    return copied(folder)


def remove_copies() -> None:
    """Remove what ``another_users`` made."""
    for folder in _COPIES:
        shutil.rmtree(folder, ignore_errors=True)
    _COPIES.clear()
    another_users.cache_clear()


def copied(folder: Path) -> Installation:
    """Make an installation in a folder, which exists; who may enter the folder may run it."""
    site = folder / "site"
    for package in packages():
        for part in package.files or ():
            source = Path(str(part.locate()))
            if ".." not in part.parts and source.is_file():
                _take(source, site / str(part))
    for name in ("gateway", "policies"):
        for file in (_ROOT / name).rglob("*.*"):
            if file.is_file():
                _take(file, site / file.relative_to(_ROOT))
    script = site / "lychgate"
    script.write_text(_MAIN, encoding="utf-8")
    for path in (site, *site.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o22 | (0o755 if path.is_dir() else 0o644))
    python, environment = _python(folder)
    return Installation(command=(python, str(script)), environment=environment, folder=site)


def _python(folder: Path) -> tuple[str, Mapping[str, str]]:
    """An interpreter that anybody may run, and the variables that it needs."""
    interpreter = Path(sys.executable).resolve()
    if _can_run(str(interpreter), "import ssl"):
        return str(interpreter), {}
    home = folder / "python"
    version = f"python{sysconfig.get_python_version()}"
    no = shutil.ignore_patterns("__pycache__", "site-packages", "test", "config-*", "*.a")
    shutil.copytree(Path(sys.base_prefix) / "lib", home / "lib", ignore=no, symlinks=True)
    _take(interpreter, home / "bin" / version)
    return str(home / "bin" / version), {"PYTHONHOME": str(home), "LD_LIBRARY_PATH": str(home / "lib")}


def _can_run(python: str, text: str) -> bool:
    """Whether an ordinary user can run some Python; if the tests' own user is one, it can."""
    if os.geteuid() != 0:
        return True
    nobody = pwd.getpwnam(NOBODY)
    try:
        done = subprocess.run(
            [python, "-c", text], check=False, capture_output=True, cwd="/", user=nobody.pw_uid, group=nobody.pw_gid,
            extra_groups=[],
        )  # fmt: skip
    except PermissionError:
        return False
    return done.returncode == 0


def _take(source: Path, target: Path) -> None:
    """A file of one's own: whether it may be read is another matter than with the one it was taken from."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
