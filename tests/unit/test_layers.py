"""The layers: a module imports only from rows above its own, and each has only the duties its row names.

The rows are those of ``docs/architecture.md``. A module that no row names fails here, so that a new one finds its place
first.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the bottom up. Modules of one row may import each other; a package stands for all that is in it.
ROWS = (
    (
        "gateway.smtp",
        "gateway.units",
        "gateway.address",
        "gateway.strict",
        "gateway.resolver",
        "gateway.header",
        "gateway.lines",
        "gateway.log",
        "gateway.printable",
        "gateway.lookup",
    ),
    ("gateway.mailauth",),
    ("gateway.form",),
    ("gateway.session", "gateway.verdict", "gateway.policy", "gateway.state", "gateway.subjects"),
    ("gateway.records", "gateway.tables", "gateway.buckets"),
    ("gateway.config",),
    ("gateway.chain",),
    ("gateway.admission", "gateway.spool"),
    ("gateway.adapters", "gateway.gathering", "gateway.tls"),
    ("gateway.backend",),
    ("gateway.doors",),
    (
        "gateway.signals",
        "gateway.lifeline",
        "gateway.startup",
        "gateway.generation",
        "gateway.assembly",
        "gateway.worker",
        "gateway.service",
        "gateway.explain",
        "gateway.cli",
        "gateway.testing",
    ),
)
POLICIES_MAY_USE = (
    "gateway.policy",
    "gateway.verdict",
    "gateway.session",
    "gateway.state",
    "gateway.subjects",
    "gateway.header",
    "gateway.form",
    "gateway.mailauth",
    "gateway.smtp",
    "gateway.resolver",
    "gateway.tables",
    "gateway.buckets",
    "gateway.units",
    "gateway.address",
)
IO = (
    "asyncio",
    "socket",
    "socketserver",
    "selectors",
    "select",
    "ssl",
    "threading",
    "subprocess",
    "logging",
    "structlog",
)
LISTENING = frozenset(
    {
        "bind",
        "listen",
        "create_server",
        "create_unix_server",
        "start_server",
        "start_unix_server",
        "create_datagram_endpoint",
    }
)


@dataclass(frozen=True, slots=True)
class Module:
    """One file: its dotted name and its syntax tree."""

    name: str
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """What it imports, as dotted names of modules."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name} imports relatively"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if _is_module(full) else str(node.module)

    def methods(self) -> Iterator[str]:
        """The name of each method that it calls."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield node.func.attr


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@cache
def modules(package: str) -> tuple[Module, ...]:
    """The modules of a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return tuple(Module(name, ast.parse(file.read_text("utf-8"))) for name, file in zip(names, files, strict=True))


def belongs(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in one of them."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def row_of(name: str) -> int | None:
    """The row of a module."""
    return next((number for number, row in enumerate(ROWS) if belongs(name, row)), None)


def _id(module: Module) -> str:
    return module.name


@pytest.mark.parametrize("module", [module for module in modules("gateway") if module.name != "gateway"], ids=_id)
def test_modules_import_only_from_above(module: Module) -> None:
    """A module of the gateway has a row, imports from it or rows above, and never a policy."""
    row = row_of(module.name)
    assert row is not None, f"{module.name} stands in no row of ROWS and of docs/architecture.md"
    for name in module.imports():
        assert not belongs(name, ("policies", "tests")), f"{module.name} imports {name}"
        if belongs(name, ("gateway",)) and name != "gateway":
            other = row_of(name)
            assert other is not None, f"{module.name} imports {name}, which stands in no row"
            assert other <= row, f"{module.name} imports {name} from a row below its own"


@pytest.mark.parametrize(
    "module",
    [module for module in modules("gateway") if belongs(module.name, ("gateway.smtp", "gateway.lookup"))],
    ids=_id,
)
def test_the_protocol_does_no_io(module: Module) -> None:
    """The protocols only turn octets into events and replies into octets: no event loop, no socket, no log."""
    for name in module.imports():
        assert not belongs(name, IO), f"{module.name} imports {name}"


@pytest.mark.parametrize("module", modules("policies"), ids=_id)
def test_policies_see_only_the_model(module: Module) -> None:
    """A policy knows the central types and helpers, no other policy, no driver, no socket and no log."""
    for name in module.imports():
        if belongs(name, ("gateway",)):
            assert belongs(name, POLICIES_MAY_USE), f"{module.name} imports {name}"
        assert not belongs(name, ("policies",)), f"{module.name} imports {name}, another policy"
        assert not belongs(name, IO[1:]), f"{module.name} imports {name}"
        assert not belongs(name, ("dns", "redis", "psycopg", "sqlite3", "ldap3")), (
            f"{module.name} imports {name}, a driver"
        )


@pytest.mark.parametrize("module", [*modules("gateway"), *modules("policies")], ids=_id)
def test_only_doors_listen(module: Module) -> None:
    """Whatever opens a listening socket is a door; but for the demo, which is its own mail server, too."""
    found = LISTENING.intersection(module.methods())
    may = ("gateway.doors", "gateway.cli.demo")
    assert not found or belongs(module.name, may), f"{module.name} calls {', '.join(found)}"


def test_the_rows_are_those_of_the_architecture() -> None:
    """Each row's modules are named in docs/architecture.md, in the same order."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `gateway/")]
    assert len(table) == len(ROWS)
    for line, row in zip(table, ROWS, strict=True):
        cell = line.split("|")[1]
        assert set(row) == {
            name.strip("` ").removesuffix("/").removesuffix(".py").replace("/", ".") for name in cell.split(",")
        }


def test_every_row_is_in_use() -> None:
    """A row that names no module is a leftover."""
    names = {module.name for module in modules("gateway")}
    assert all(name in names for name in chain.from_iterable(ROWS))
