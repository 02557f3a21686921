"""Reading YAML: values, positions, aliases, references, and what is no configuration."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.problems import ConfigError, Position
from gateway.config.reading import MAX_DEPTH, SCANNERS, Document, YamlList, YamlMapping, read, read_text

Scan: TypeAlias = Callable[[str], Iterator[Any]]

PATH = Path("/etc/lychgate/lychgate.yaml")

both_scanners = pytest.mark.parametrize("scan", SCANNERS, ids=lambda scan: scan.__name__)


def fatal(text: str, scan: Scan | None = None) -> str:
    """What ends the reading of a text."""
    with pytest.raises(ConfigError) as caught:
        read_text(text, PATH, scan=scan)
    return str(caught.value).removeprefix(f"{PATH}:")


def told(document: Document) -> list[str]:
    """The problems of a document that could be read."""
    return [str(problem).removeprefix(f"{PATH}:") for problem in document.problems]


def test_both_scanners_are_tested() -> None:
    """The scanner in C is installed, so that these tests cover it and its stand-in."""
    assert [scan.__name__ for scan in SCANNERS] == ["_c_events", "_python_events"]


@both_scanners
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("25", 25),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("2027-01-31", "2027-01-31"),
        ("12:30:45", "12:30:45"),
        ("25MB", "25MB"),
        ("'25'", "25"),
        ('"true"', "true"),
        ("!!str 25", "25"),
        ("! 25", "25"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object, scan: Scan) -> None:
    """A plain scalar is what YAML 1.2's core schema says, and a quoted one is text."""
    found = read_text(f"key: {text}\n", PATH, scan=scan).root["key"]
    assert (found, type(found)) == (value, type(value))


def test_infinity_and_not_a_number_are_floats() -> None:
    """The words for values that are no ordinary numbers are read."""
    root = read_text("a: .inf\nb: -.inf\nc: .nan\n", PATH).root
    assert root["a"] == math.inf
    assert root["b"] == -math.inf
    assert math.isnan(root["c"])


@both_scanners
def test_positions(scan: Scan) -> None:
    """Every key, value and item knows its line and column, in characters."""
    root = read_text("# ä\ndomains:\n  exämple.com: {backend: a}\nlist: [1, 22, 3]\n", PATH, scan=scan).root
    assert root.keys_at == {"domains": Position(2, 1), "list": Position(4, 1)}
    domain = root["domains"]
    assert isinstance(domain, YamlMapping)
    assert domain.values_at["exämple.com"] == Position(3, 16)
    assert domain["exämple.com"].values_at["backend"] == Position(3, 26)
    items = root["list"]
    assert isinstance(items, YamlList)
    assert items.items_at == [Position(4, 8), Position(4, 11), Position(4, 15)]


@both_scanners
def test_keys_are_text(scan: Scan) -> None:
    """A key is text as written, whatever it would be as a value."""
    assert read_text("25: a\ntrue: b\non: c\n~: d\n", PATH, scan=scan).root == {
        "25": "a",
        "true": "b",
        "on": "c",
        "~": "d",
    }


@both_scanners
def test_a_key_twice_is_told(scan: Scan) -> None:
    """A key that stands twice in a mapping is a problem at its second place."""
    document = read_text("a:\n  b: 1\n  c: 2\n  b: 3\n", PATH, scan=scan)
    assert told(document) == ["4:3: a.b: the key 'b' stands here twice; the first is in line 2"]


@both_scanners
def test_an_alias_is_the_same_data(scan: Scan) -> None:
    """An alias stands for its anchor's data without a copy."""
    root = read_text("a: &x {b: [1]}\nc: *x\nd: [*x, *x]\n", PATH, scan=scan).root
    assert root["c"] is root["a"]
    assert root["d"] == [{"b": [1]}, {"b": [1]}]


@both_scanners
def test_merge_keys(scan: Scan) -> None:
    """``<<`` brings the entries of other mappings, of which the mapping's own win, then the first that is named."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: *b, z: 3}\nd: {<<: [*a, *b], x: 0}\n"
    root = read_text(text, PATH, scan=scan).root
    assert root["c"] == {"y": 2, "z": 3}
    assert root["d"] == {"x": 0, "y": 1, "z": 2}
    assert root["d"].values_at["z"] == Position(2, 17)


def test_merging_what_is_no_mapping_is_told() -> None:
    """``<<`` with a scalar is a problem with a place."""
    assert told(read_text("a:\n  <<: 5\n", PATH)) == ["2:7: a.<<: must name a mapping, or a list of mappings, to merge"]


@both_scanners
def test_aliases_can_not_explode(scan: Scan) -> None:
    """Ten lines of aliases that stand for ten billion values are refused."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "stand for more than 2000000 values" in fatal("\n".join(lines), scan)


@both_scanners
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "is not YAML: "),
        ("a: b: c", "is not YAML: mapping values are not allowed"),
        ("\ta: 1", "is not YAML: "),
        ("a:\n\t- b", "2:1: is not YAML: "),
        ("a:\n\t- b", "; a line is indented with spaces, never with a tab"),
        ("a: {*.example.com: }", "; text that begins with * needs quotes"),
        ("*.example.com: 1", "; text that begins with * needs quotes"),
        ("a: @here", "; text that begins with @ needs quotes"),
        ("a:\n  - smtp: [::]:25", '; text that begins with [ needs quotes, such as "[::]:25"'),
        ("a b\nc: d", "; text with a colon and a space in it needs quotes, or the line above lacks its colon"),
        ("a: 'x", "is not YAML: "),
        ("a: *x", "1:4: a: no anchor &x stands before this alias"),
        ("a: &x [*x]", "1:8: a[0]: the alias *x stands inside its own anchor"),
        ("a: 1\n---\nb: 2", "a second document begins here"),
        ("? [a]\n: 1", "1:3: a key must be text, not a list or a mapping"),
        ("a: &x y\n*x : 1", "2:1: a key must be text, not an alias"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"is nested more than {MAX_DEPTH} levels deep"),
        ("a: " + "[" * 20_000, f"is nested more than {MAX_DEPTH} levels deep"),
        ("a: \x01", "is not YAML: "),
    ],
)
def test_what_ends_the_reading(text: str, message: str, scan: Scan) -> None:
    """Text that is not YAML, or no configuration whatever its keys, is refused with the place."""
    assert message in fatal(text, scan)


@both_scanners
def test_a_tag_is_told(scan: Scan) -> None:
    """A tag other than that of text is a problem, not a constructor."""
    assert told(read_text("a: !!python/name:os.system x\n", PATH, scan=scan)) == [
        "1:4: a: the tag tag:yaml.org,2002:python/name:os.system is not supported"
    ]
    assert told(read_text("a: !x [1]\n", PATH, scan=scan)) == ["1:4: a: the tag !x is not supported"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    """A file with nothing in it has no settings, which others tell."""
    document = read_text(text, PATH)
    assert (document.root, told(document)) == ({}, [])


@pytest.mark.parametrize("text", ["[1]", "word", "5"])
def test_a_file_must_be_a_mapping(text: str) -> None:
    """Something else than settings is a problem."""
    assert told(read_text(text, PATH)) == ["1:1: must be a mapping of settings (key: value)"]


def test_references_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``${env:NAME}`` in a value is replaced, and a plain one is read as if its value stood there."""
    monkeypatch.setenv("LYCHGATE_TEST", "25")
    reference = "${env:LYCHGATE_TEST}"
    text = f"plain: {reference}\nquoted: '{reference}'\ninside: a-{reference}-b\nliteral: $${{env:X}}\n"
    document = read_text(text, PATH)
    assert document.root == {"plain": 25, "quoted": "25", "inside": "a-25-b", "literal": "${env:X}"}
    assert not document.problems


def test_references_to_files(tmp_path: Path) -> None:
    """``${file:PATH}`` is the file's text without its last line end; a relative one is beside the configuration."""
    (tmp_path / "secret").write_text("pass word\n", encoding="utf-8")
    document = read_text(f"a: ${{file:secret}}\nb: ${{file:{tmp_path}/secret}}\n", tmp_path / "x.yaml")
    assert document.root == {"a": "pass word", "b": "pass word"}


def test_references_to_nothing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not set, not there, or not a reference at all is a problem with its place."""
    monkeypatch.delenv("LYCHGATE_UNSET", raising=False)
    text = "a: [x, '${env:LYCHGATE_UNSET}']\nb: ${file:/nowhere/at/all}\nc: ${evn:HOME}\n"
    assert told(read_text(text, PATH)) == [
        "1:8: a[1]: the environment variable 'LYCHGATE_UNSET' is not set",
        "2:4: b: the file '/nowhere/at/all' can't be read: No such file or directory",
        "3:4: c: '${' begins no ${env:NAME} or ${file:PATH}; write '$${' for the characters themselves",
    ]


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    """A missing file and one that is not UTF-8 are refused, the latter with the place of the octet."""
    path = tmp_path / "lychgate.yaml"
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        read(path)
    path.write_bytes("ä: 1\nbö".encode() + b": \xff")
    with pytest.raises(ConfigError, match="2:5: is not UTF-8 text"):
        read(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    """A file that an editor began with a byte order mark is read."""
    path = tmp_path / "lychgate.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(path).root == {"a": 1}


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`?,#~0. \n\t<$\\\u00e4\u2028"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the text, there is data or a ``ConfigError``, and nothing else."""
    try:
        document = read_text(text, PATH)
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either way is right
    else:
        assert isinstance(document.root, YamlMapping)
