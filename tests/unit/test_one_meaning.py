"""One meaning on every supported Python: nothing is used whose behaviour differs between their releases.

- Possessive quantifiers of groups, up to 3.11.4 (gh-106052): an iteration that fails in the middle still counts as far
  as it came. ``(?:ab?c)*+`` takes all of ``aca`` there, and only ``ac`` later. Those of a single item are right
  everywhere, and so are groups whose items before the last are single characters and whose last one can't fail: nothing
  has noted a place by then. Atomic groups were made by the same change, and nothing here needs them.
- Texts of IPv4-mapped addresses (3.13), and what ``ipaddress`` calls global, private and so on (patch levels).
- The strict modes of base64 (3.13: too much padding is an error).
- ``email.utils`` (strict parsing, 3.13 and patch levels), the flags of ``ssl.create_default_context`` (3.13).
- Sums of floats with ``sum`` (3.12 adds them exactly).

What is left and only changes how a text is shown: which characters count as printable grows with Unicode.
"""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FILES: Final = sorted(path for package in ("gateway", "policies") for path in (ROOT / package).rglob("*.py"))
_PARSER: Final = importlib.import_module("re._parser")  # what re itself reads patterns with

SINGLE: Final = {"LITERAL", "NOT_LITERAL", "IN", "ANY"}
PREDICATES: Final = {
    "is_global", "is_private", "is_loopback", "is_reserved", "is_multicast", "is_link_local",
    "is_unspecified", "is_site_local",
}  # fmt: skip
ADDRESSES: Final = {"ip_address", "ip_network", "ip_interface", "IPv6Address", "IPv6Network", "IPv6Interface"}
# By file: what may stand there, because what it comes to does not differ.
ALLOWED: Final = {
    "gateway/doors/listening.py": {"is_unspecified"},  # of a socket's own name, which is no mapped address then
    "gateway/smtp/encoded.py": {"strict_mode"},  # behind a look at the padding
    "gateway/tls.py": {"create_default_context"},  # which sets the flags itself
    "gateway/doors/tls.py": {"create_default_context"},  # of a server, which verifies nobody
}


def faults_of_pattern(pattern: str | bytes, flags: int = 0) -> list[str]:
    """The constructs in a regular expression that differ."""
    return list(_faults(_PARSER.parse(pattern, flags)))


def _faults(items: Any) -> Iterator[str]:
    for operation, argument in items:
        name = str(operation)
        if name == "ATOMIC_GROUP":
            yield "an atomic group"
        if name == "POSSESSIVE_REPEAT" and not _is_right_everywhere(list(argument[2])):
            yield "a possessive quantifier of a group"
        yield from _faults_below(argument)


def _faults_below(argument: Any) -> Iterator[str]:
    if type(argument).__name__ == "SubPattern":
        yield from _faults(argument)
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _faults_below(each)


def _is_right_everywhere(body: list[Any]) -> bool:
    *fixed, (name, argument) = [(str(operation), argument) for operation, argument in body]
    never_fails = name == "POSSESSIVE_REPEAT" and argument[0] == 0 and _is_right_everywhere(list(argument[2]))
    return all(each in SINGLE for each, _ in fixed) and (never_fails or (not fixed and name in SINGLE))


def patterns(tree: ast.AST) -> Iterator[tuple[str | bytes, int, int]]:
    """The regular expressions in a file, what is put into them as one letter, with their flags and lines."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re") or node.func.attr == "escape":
            continue
        verbose = any("VERBOSE" in ast.dump(each) for each in [*node.args[1:], *node.keywords])
        text = _text(node.args[0])
        if text is not None:
            yield text, re.VERBOSE if verbose else 0, node.lineno


def _text(node: ast.expr) -> str | bytes | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    if isinstance(node, ast.BinOp):
        left, right = _text(node.left), _text(node.right)
        return None if left is None or right is None else left + right  # type: ignore[operator] # both of one kind
    return None


def faults_of_file(tree: ast.AST) -> Iterator[str]:
    """The constructs in a file that differ."""
    for text, flags, line in patterns(tree):
        yield from (f"{fault} in line {line}" for fault in faults_of_pattern(text, flags))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PREDICATES:
            yield node.attr
        if isinstance(node, ast.Attribute) and node.attr == "create_default_context":
            yield node.attr
        if isinstance(node, ast.keyword) and node.arg in {"strict_mode", "validate"}:
            yield node.arg
        if isinstance(node, ast.Name | ast.alias) and getattr(node, "id", getattr(node, "name", "")) in {
            "parseaddr", "getaddresses", "parsedate_to_datetime",
        }:  # fmt: skip
            yield "email.utils"
        if _makes_text_of_an_address(node):
            yield f"an address as text in line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sum":
            yield from ("sum of floats" for each in ast.walk(node) if isinstance(each, ast.Name) and each.id == "float")


def _makes_text_of_an_address(node: ast.AST) -> bool:
    if isinstance(node, ast.FormattedValue):
        made: ast.expr = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        made = node.args[0]
    else:
        return False
    if isinstance(made, ast.Attribute):
        return (
            made.attr == "client_address"
            and isinstance(made.value, ast.Name | ast.Attribute)
            and _is_session(made.value)
        )
    called = made.func if isinstance(made, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in ADDRESSES


def _is_session(node: ast.Name | ast.Attribute) -> bool:
    return (node.id if isinstance(node, ast.Name) else node.attr).lstrip("_") == "session"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_used_that_differs(path: Path) -> None:
    """Each file of the gateway and the policies, but for what is known to be the same where it stands."""
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), set())
    found = set(faults_of_file(ast.parse(path.read_text("utf-8"))))
    assert found - allowed == set()
    assert allowed - found == set()


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("(?:ab?c)*+", 1), ("(?:ab|c)++", 1), ("(?:a(?:b*)c)?+", 1), ("(?>a)", 1), ("x(?:y(?>z))", 1),
        ("(?:[ab]c*)*+", 1), ("(?:a*+b)*+", 1), (b"(?:ab)*+", 1),
        ("a*+[bc]++.?+", 0), ("a+b*(c|d)?", 0), ("[*+]+[?+]{2,3}", 0), (r"\++\*+", 0), ("(?:ab[c]*+)*+", 0),
    ],
)  # fmt: skip
def test_patterns_that_differ_are_found(pattern: str | bytes, count: int) -> None:
    """Possessive groups and atomic groups, however deep; what only looks like them is none."""
    assert len(faults_of_pattern(pattern)) == count


@pytest.mark.parametrize(
    "line",
    [
        "re.compile(r'(?:ab)*+')", "re.match(rf'{x}(?:ab)*+', y)", "re.sub('(?>' + 'a)', '', y)", "address.is_global",
        "b64decode(x, validate=True)", "a2b_base64(x, strict_mode=True)", "str(ip_address(x))", "f'{IPv6Address(x)}'",
        "str(session.client_address)", "f'[{self._session.client_address}]'", "from email.utils import parseaddr",
        "ssl.create_default_context()", "sum(float(x) for x in y)", "str(ipaddress.ip_network(x))",
    ],
)  # fmt: skip
def test_lines_that_differ_are_found(line: str) -> None:
    """The test above would see each of these."""
    assert list(faults_of_file(ast.parse(line)))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_patterns_with_parts_are_read_whole() -> None:
    """What ``re`` compiled for each module is looked at, too: parts that are put in can't hide anything."""
    compiled = [
        value
        for path in FILES
        if path.name not in {"__main__.py", "demo.py"}
        for value in vars(importlib.import_module(_module(path))).values()
        if isinstance(value, re.Pattern)
    ]
    assert len(compiled) > 100
    for each in compiled:
        assert faults_of_pattern(each.pattern, each.flags & re.VERBOSE) == [], each.pattern


def test_the_project_names_the_pythons_that_are_tested() -> None:
    """The classifiers begin with the least that is required, have no gap, and are what ``make test-pythons`` reads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: 3\.(\d+)", " ".join(project["classifiers"]))
    minors = [int(each) for each in named]
    assert project["requires-python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[0] + len(minors)))
    assert "Programming Language :: Python ::" in (ROOT / "tests/pythons.sh").read_text("utf-8")
