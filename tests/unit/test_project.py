"""The project as a whole: wheels, declarations, links, and that no text is out of place."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

import gateway

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IMPORT_NAMES = {"dnspython": "dns", "prometheus-client": "prometheus_client", "ruamel.yaml": "ruamel"}
BY_NAME = {"aiomysql", "aiosqlite", "psycopg"}  # SQLAlchemy imports them, by the scheme of a URL
# Written so that this file does not hold them itself.
MARKERS = re.compile(r"\bT[O]DO\b|\bFI[X]ME\b|\bX[X]X\b|\bH[A]CK\b")
PLACES = re.compile(r"/w[o]rk/|\.\./s[h]ared|pypi[.]org|python[h]osted|docker[.]io")
SWITCHED_OFF = re.compile(r"#\s*(?:noqa|type:\s*ignore)")
REASONED = re.compile(
    r"#\s*(?:noqa:|type:\s*ignore\[)\s*[\w-]+(?:,\s*[\w-]+)*\]?\s+(?:- |# )\w"  # the reason behind the code
    r"|# \w[^#]*#\s*(?:noqa: \w|type: ignore\[)"  # or before it
)


def tracked() -> list[Path]:
    """The project's own files: those of version control, or all outside hidden folders where there is none."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        names = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        names = [
            path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in names if path.is_file()]


@pytest.mark.parametrize("package", ["gateway", "policies"])
def test_wheels_hold_both_packages_with_their_types(package: str) -> None:
    """A wheel has both packages whole, and type checkers use their annotations (PEP 561)."""
    assert package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert (ROOT / package / "py.typed").is_file()
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_file_that_a_wheel_takes_from_elsewhere_exists() -> None:
    """What a wheel takes from outside the packages is there, and is part of the source distribution, too."""
    build = PROJECT["tool"]["hatch"]["build"]["targets"]
    for source in build["wheel"]["force-include"]:
        assert (ROOT / source).is_file()
        assert source.split("/")[0] in build["sdist"]["include"]


def test_the_version_is_the_same_everywhere() -> None:
    """The package, its metadata and the code name one version."""
    assert PROJECT["project"]["version"] == gateway.__version__ == version("lychgate")


def test_every_declared_policy_can_be_loaded() -> None:
    """Each entry point leads to a class of that name, and each file in policies/ has one."""
    found = {point.name: point.load() for point in entry_points(group="lychgate.policies")}
    own = {name: policy for name, policy in found.items() if policy.__module__.startswith("policies.")}
    assert (
        {policy.name for policy in own.values()}
        == set(own)
        == set(PROJECT["project"]["entry-points"]["lychgate.policies"])
    )
    assert set(own) == {path.stem for path in (ROOT / "policies").glob("*.py")} - {"__init__"}


def test_every_import_is_declared() -> None:
    """What the code imports is Python's, its own, or a declared dependency; and no declared one is a leftover."""
    optional = PROJECT["project"]["optional-dependencies"].values()
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in optional for line in extra)]
    declared = {re.split(r"[<>=~!\[; ]", line)[0] for line in lines} - BY_NAME
    known = {IMPORT_NAMES.get(name, name) for name in declared}
    used = set()
    for package in ("gateway", "policies"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    used |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    used.add(node.module.split(".")[0])
    parts_of_others = {
        "pydantic_core",
        "_ruamel_yaml",
    }  # pydantic's lower half; ruamel.yaml's reader in C, if installed
    used -= {*sys.stdlib_module_names, "gateway", "policies", *parts_of_others}
    assert used == known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file, and every anchor a heading of it."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{page.name} links to {target}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_file_that_docs_name_exists() -> None:
    """A path of the project that a page or a docstring names in code font is there."""
    for page in PAGES:
        for name in re.findall(r"`((?:gateway|policies|tests|deploy|docs)/[\w./-]+)`", page.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_nothing_is_left_open_and_nothing_is_out_of_place() -> None:
    """No file holds a marker of unfinished work, a path of one machine, or the host name of a package registry."""
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        assert (found := MARKERS.search(text)) is None, f"{path}: {found}"
        if path != ROOT / ".ci" / "run":  # it alone looks for the conformance data beside the checkout
            assert (found := PLACES.search(text)) is None, f"{path}: {found}"


def test_every_switched_off_check_has_its_reason() -> None:
    """A noqa or type: ignore names its code and says why."""
    for path in [path for path in tracked() if path.suffix == ".py" and path != Path(__file__)]:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            assert not SWITCHED_OFF.search(line) or REASONED.search(line), f"{path}:{number}: {line.strip()}"


def test_the_changelog_is_in_form() -> None:
    """It has the sections of Keep a Changelog, and a place for what comes."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text
    sections = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert sections
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("target", ["setup", "run", "test", "test-pythons", "check", "bench", "docs", "clean"])
def test_the_makefile_has_its_targets(target: str) -> None:
    """Each target is there and says what it does in `make help`."""
    assert re.search(rf"^{target}:  ## \w+", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
