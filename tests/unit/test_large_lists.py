"""Long lists of recipients: many lines are read at a time, kept in little memory, once for all who name a file."""

import gc
import os
import re
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.assembly import build_sources, our_domains
from gateway.config import advice, lists
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.recipients import Readings
from gateway.tables import AddressList, ListKind, RecipientFile, content, packed, recipients, table
from gateway.tables.content import Buffer, read_content
from gateway.tables.packed import PackedSet

TODAY = date(2026, 11, 21)

# Lines that are plain, that nearly are, and that are anything else; of recipients, of aliases and of both.
PLAIN = ["alice@example.com", "bob@example.com", "c.d+e=f_g-h@b.example", "Alice@Example.COM", "7@a-b.example", "carol"]
RECIPIENTS = [
    "", " ", "\t", "#", "# a comment", "  # another", "dan@example.com # inside", "eve#1@example.com",
    "frank @example.com",
    " gus@example.com", "hal@example.com ", "ivy@example.com\t", "\xa0jan@example.com", "k\x85l@example.com",
    "\x1cmo@example.com",
    "@all.example", "user@", "@", "@@", "a@b@example.com", "<x@example.com>", "SMTP:x@example.com",
    "*@example.com", "x*",
    "two words", "a,b@example.com",
    '"quoted"@example.com', '"a b"@example.com', '"a@b"@example.com', '""@example.com',
    '"@"@example.com', '""', '"x"', "o'neil@example.com", "x@example.com.", "x@.example.com", "x@example..com",
    "x@-a.example",
    "x@a_b.example", "x@a+b.example", "x@a=b.example", "x@[192.0.2.1]", "x@[ipv6:2001:DB8::1]", "x@[1]",
    "x@localhost",
    "ü@example.com", "u\u0308@example.com", "\u212b@example.com", "x@bücher.example", "x@BÜCHER.example", "ß",
    "\ufeff", "\ufeffx@example.com",
    "x\r", "x@example.com\r", "\r", "x\ry@example.com", "x@example.com\r\r", "\x00", "a\x00b@example.com", "x\x7f",
    "x\x0c", "\u2028x",
    *
    (
    f"{'l' * length}@example.com" for length in (64, 65, 253, 254)), *("l" * length for length in (64, 65, 253, 254)),
    *(f"x@{'d' * length}.example" for length in (63, 64)), f"x@{'d.' * 123}example", f"x@{'d.' * 130}example",
]  # fmt: skip
ALIASES = [
    "info: alice", "info:alice", "info:", "info :", "info", "info alice", "info\talice", "info\x0balice",
    "info\xa0alice", "info@example.com x@y",
    "Info@Example.com: a, b", "@all.example x", "user@ x", "a@b@c x", "  more targets", "\tmore", ": x", "a:b:c",
    "a::", "a\u2028b",
    '"quoted user": x', '"a@b": x', 'x"y": z', '"open: x', "*: x", "a*b x", "#x: y", "x#y: z", "x: y # z", "x: ü",
    "ü: x", "info:\r", "info\r", "a\r: b",
    "x@bücher.example: y", "x@example.com.: y", "x@-a.example y", f"{'l' * 254}: x", f"{'l' * 253}@example.com x",
]  # fmt: skip

runs = st.lists(
    st.tuples(
        st.sampled_from([*PLAIN, *PLAIN, *RECIPIENTS, *ALIASES]), st.integers(1, 12), st.sampled_from(["\n", "\r\n"])
    ),
    max_size=12,
)


def _entries(kind: ListKind, text: str) -> Iterator[tuple[int, str]]:
    """The entries of a file, line by line, as the documentation says."""
    for number, line in enumerate(text.split("\n"), 1):
        if kind is ListKind.RECIPIENTS:
            entry = re.sub(r"(?:^|\s)#.*", "", line).strip()
        else:
            entry = "" if not line.strip() or line[0].isspace() or line[0] == "#" else line.rstrip()
        if entry:
            yield number, entry


def _one_by_one(kind: ListKind, file: Path, text: str) -> dict[str, set[str]] | str:
    """What each entry is, or else what is wrong."""
    found: dict[str, set[str]] = {"addresses": set(), "local_parts": set(), "domains": set()}
    problems = []
    for number, entry in _entries(kind, text):
        try:
            one = AddressList([entry]) if kind is ListKind.RECIPIENTS else AddressList(aliases=[entry])
        except ValueError as error:
            problems.append(str(error).replace("entry 1:", f"{file}:{number}:", 1))
        else:
            for part in (one._recipients, one._aliases):
                for key, entries in part.current().groups().items():
                    found[key] |= set(entries)
    shown, rest = problems[:10], len(problems) - 10
    return "; ".join([*shown, *([f"and {rest} more"] if rest > 0 else [])]) or found


def _read(kind: ListKind, file: Path) -> dict[str, set[str]] | str:
    try:
        index = RecipientFile(file, kind).table.current()
    except ValueError as error:
        return str(error)
    groups = index.groups()
    assert {key: len(entries) for key, entries in groups.items()} == {key: len(set(groups[key])) for key in groups}
    return {key: set(entries) for key, entries in groups.items()}


@pytest.fixture(scope="module")
def small_pieces() -> Iterator[None]:
    """Little is read at a time, so that a few lines are many pieces, and sets of a few entries are large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "PIECE", 120)
        patch.setattr(content, "LARGE", 300)
        patch.setattr(packed, "LARGE", 300)
        patch.setattr(recipients, "_FEW", 40)
        yield


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", ListKind)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(lines=[(line, 1, "\n") for line in PLAIN], ends=True)
@example(lines=[("x", 3, "\r\n")], ends=True)
@example(lines=[("x", 3, "\n"), ("x@example.com", 30, "\n"), ("@all.example", 2, "\n")], ends=False)
@given(lines=runs, ends=st.booleans())
def test_what_is_read_at_once_is_what_is_read_line_by_line(
    tmp_path: Path, kind: ListKind, lines: list[tuple[str, int, str]], *, ends: bool
) -> None:
    """The same entries, the same errors at the same lines, whatever stands side by side and wherever pieces end."""
    numbered = "".join(
        line.replace("example.com", f"e{number % 7}.example") + end
        for line, count, end in lines
        for number in range(count)
    )
    text = numbered if ends else numbered.removesuffix("\n")
    file = tmp_path / "list"
    file.write_bytes(text.encode())
    assert _read(kind, file) == _one_by_one(kind, file, text.removeprefix("\ufeff"))


@pytest.mark.parametrize("line", [*PLAIN, *RECIPIENTS, *ALIASES])
@pytest.mark.parametrize("kind", ListKind)
def test_a_line_among_plain_ones_is_read_as_it_is_alone(tmp_path: Path, kind: ListKind, line: str) -> None:
    """Every form of a line, in the middle of many."""
    file = tmp_path / "list"
    before = "".join(f"user{number}@example.com\n" for number in range(300))
    text = f"{before}{line}\n{before.replace('user', 'more')}"
    file.write_bytes(text.encode())
    assert _read(kind, file) == _one_by_one(kind, file, text)


@pytest.mark.parametrize("kind", ListKind)
def test_plain_lines_are_not_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ListKind) -> None:
    """Neither addresses nor users, nor aliases with their targets; around another line only a few are."""
    added: Counter[str] = Counter()
    plain = recipients._Recipients.add

    def counted(self: recipients._Recipients, entry: str) -> None:
        added[entry] += 1
        plain(self, entry)

    monkeypatch.setattr(recipients._Recipients, "add", counted)
    file = tmp_path / "list"
    targets = ": x, y" if kind is ListKind.ALIASES else ""
    for form in ("user{}@example.com", "user{}", "User{}@Example.com"):
        for end in ("\n", "\r\n"):
            lines = (f"{form.format(number)}{targets}{end}" for number in range(20_000))
            file.write_bytes("".join(lines).encode())
            assert RecipientFile(file, kind).table.entries == 20_000
            assert added.total() == 0
    odd = f"@all.example{targets}"
    several = [f"user{number}@example.com{targets}\n" for number in range(20_000)]
    file.write_text("".join([*several[:9_000], f"{odd}\n", *several[9_000:]]))
    assert RecipientFile(file, kind).table.entries == 20_001
    assert 1 <= added.total() < 100


@pytest.mark.usefixtures("small_pieces")
@given(st.lists(st.text(st.characters(exclude_characters="\n\r", codec=None), max_size=3)), st.text(max_size=3))
@example(["a", "b"], "a\nb")
@example(["ab", "a", ""], "")
@example(["\ud800"], "\ud800")
def test_a_packed_set_is_a_set(texts: list[str], other: str) -> None:
    """It has what was added, each once, in the order in which it came, and nothing else."""
    made = _packed(texts)
    assert list(made) == list(dict.fromkeys(texts))
    assert len(made) == len(set(texts))
    assert all(text in made for text in texts)
    assert (other in made) is (other in set(texts))


def test_entries_side_by_side_are_not_one() -> None:
    """Not even where the hash of both together leads to the first of them: of 300 pairs it does for some."""
    assert not any(f"a{number}\nb" in _packed([f"a{number}", "b"]) for number in range(300))


def test_a_table_has_room_for_every_offset() -> None:
    """Up to where four octets end, and from there on."""
    for octets in (2**32 - 1, 2**32, 2**40):
        places = packed._places(3, octets)
        places[1] = octets  # the offset of the last octet, plus one
        assert list(places) == [0, octets, 0]


@pytest.mark.usefixtures("small_pieces")
@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", max_size=4)))
def test_packed_sets_tell_what_they_share(some: list[str], others: list[str]) -> None:
    """As many as two sets do."""
    first, second = _packed(some), _packed(others)
    assert first.shared_with(second) == len(set(some) & set(others))
    assert first.shared_with(first) == len(first)


def _packed(texts: Iterable[str]) -> PackedSet:
    made = PackedSet()
    for text in texts:
        made.add(text)
    made.seal()
    return made


@pytest.mark.parametrize("narrow", [2**32, 0], ids=["four octets", "eight octets"])
def test_a_large_packed_set_is_a_set(monkeypatch: pytest.MonkeyPatch, narrow: int) -> None:
    """With more than fits where small ones are, entries twice, and offsets of either width."""
    monkeypatch.setattr(packed, "_NARROW", narrow)
    texts = [f"user{number * 7919 % 90_000}@example.com" for number in range(100_000)]
    made = _packed(texts)
    assert len(made) == 90_000
    assert all(text in made for text in texts)
    assert not any(f"user{number}@example.com" in made for number in range(90_000, 100_000))
    assert not any(f"user{number}@example.co" in made for number in range(1000))


def test_a_buffer_has_what_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole lines, however long these are, below and above the size from which it has pages of its own."""
    monkeypatch.setattr(content, "LARGE", 200)
    monkeypatch.setattr(content, "PIECE", 10)
    buffer, expected = Buffer(), b""
    for length in (0, 3, 9, 10, 11, 50, 0, 200, 5):
        line = b"x" * length + b"\n"
        buffer.append(line)
        expected += line
        found = list(buffer.pieces())
        assert b"".join(found) == expected
        assert all(piece.endswith(b"\n") and piece.rstrip(b"\n").count(b"\n") < 10 for piece in found)
        assert len(buffer) == len(expected)


@pytest.mark.parametrize("before", [0, 10, 5000])
def test_what_is_not_utf_8_is_named_by_its_line(tmp_path: Path, before: int) -> None:
    """However far from the start it is; and before any other error."""
    file = tmp_path / "list"
    file.write_bytes(b"bad line\n" + b"user@example.com\n" * before + b"\xff@example.com\n")
    with pytest.raises(ValueError, match=rf"list:{before + 2}: not UTF-8$"):
        read_content(file)


CONFIG = """\
hostname: mx1.example.com
listeners:
  - smtp: 192.0.2.1:25
backends:
  postfix: {servers: ["127.0.0.1:10025"]}
domains:
  a.example: {recipients: {file: people}}
  b.example: {recipients: {file: people, aliases: {file: aliases}}}
  c.example: {recipients: [{list: [abuse], file: people}, {file: aliases}]}
recipient_lists: {folder: lists}
policies: [relay, recipient]
"""


def _configured(folder: Path) -> Path:
    path = folder / "lychgate.yaml"
    path.write_text(CONFIG)
    (folder / "people").write_text("alice@a.example\nbob\n@c.example\n")
    (folder / "aliases").write_text("info\n")
    return path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the lines of a file were read, by its name and how."""
    counts: Counter[str] = Counter()
    build = table.Table._built

    def counted(self: table.Table[table.Index], pieces: Iterable[bytes]) -> table.Index:
        for file in self.named_files():
            counts[f"{file.name} as {type(self).__name__}"] += 1
        return build(self, pieces)

    monkeypatch.setattr(table.Table, "_built", counted)
    return counts


def test_a_file_is_read_once_for_all_who_name_it(tmp_path: Path, built: Counter[str]) -> None:
    """By the loading, its checks, what a worker makes of it, and the next loading while this one is in force."""
    path = _configured(tmp_path)
    config = load(path)
    advice.warnings(config, TODAY)
    lists.warnings(config)
    sources = build_sources(config)
    our_domains(config, sources)
    once = {"people as _RecipientTable": 1, "aliases as _AliasTable": 1, "aliases as _RecipientTable": 1}
    assert built == once
    again = load(path)
    our_domains(again, build_sources(again))
    assert built == once
    (tmp_path / "people").write_text("alice@a.example\ncarol\n@c.example\n")
    changed = load(path)
    our_domains(changed, build_sources(changed))
    assert built == once | {"people as _RecipientTable": 2}


def test_a_bad_file_is_read_once_and_told_wherever_it_is_named(tmp_path: Path, built: Counter[str]) -> None:
    """Each place has its error."""
    path = _configured(tmp_path)
    (tmp_path / "people").write_text("two words\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [problem.where for problem in caught.value.problems] == [
        "domains.a.example.recipients.file",
        "domains.b.example.recipients.file",
        "domains.c.example.recipients[0].file",
    ]
    assert len({problem.message for problem in caught.value.problems}) == 1
    assert built["people as _RecipientTable"] == 1


def test_slips_in_a_file_are_told_for_each_who_names_it(tmp_path: Path, built: Counter[str]) -> None:
    """Together with those of the list beside it, though the file is looked through once."""
    path = _configured(tmp_path)
    path.write_text(CONFIG.replace("[abuse]", '["abuse@z.example", a.example]'))
    (tmp_path / "people").write_text("x@y.example\nB.example\n")
    found = [each for each in advice.warnings(load(path), TODAY) if each.where.endswith("recipients")]
    people, names = tmp_path / "people", "names addresses of y.example"
    assert [(each.where.removesuffix(".recipients"), each.message.partition(", which")[0]) for each in found] == [
        ("domains.a.example", f"{people} {names}"),
        ("domains.a.example", f"{people} names the user 'b.example'; write @b.example for all its addresses"),
        ("domains.b.example", f"{people} or {tmp_path / 'aliases'} {names}"),
        (
            "domains.b.example",
            f"{people} or {tmp_path / 'aliases'} names the user 'b.example'; write @b.example for all its addresses",
        ),
        ("domains.c.example", f"{people} {names}, z.example"),
        ("domains.c.example", f"{people} names the user 'a.example'; write @a.example for all its addresses"),
        ("domains.c.example", f"{people} names the user 'b.example'; write @b.example for all its addresses"),
    ]
    assert built["people as _RecipientTable"] == 1


def test_what_a_list_had_goes_when_nobody_has_it(tmp_path: Path) -> None:
    """A worker that has let go of what was loaded keeps no more than what holds."""
    now = [0.0]
    config = load(_configured(tmp_path))
    source = RecipientFile(tmp_path / "people", ListKind.RECIPIENTS, monotonic=lambda: now[0])
    old = weakref.ref(source.table.current())
    (tmp_path / "people").write_text("alice@a.example\nbob\n@c.example\ncarol\n")
    now[0] += table.LOOK_EVERY
    assert source.table.entries == 3
    source.table.current()
    assert source.table.entries == 4
    gc.collect()
    assert old() is not None
    Readings.release_all()
    gc.collect()
    assert old() is None
    assert config.domains  # which is still there, as it is in a worker


def test_forked_processes_have_what_was_read(tmp_path: Path, built: Counter[str]) -> None:
    """A process that is forked reads no line again, and finds the same."""
    config = load(_configured(tmp_path))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            index = RecipientFile(tmp_path / "people", ListKind.RECIPIENTS).table.current()
            found = index.has("alice", "a.example"), index.has("carol", "a.example")
            status = 0 if found == (True, False) and built["people as _RecipientTable"] == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert config.domains  # it was there when the process was forked


@pytest.mark.parametrize(
    ("recipients_of", "expected"),
    [
        (["alice@a.example", '"b@c"@other.example'], {"a.example", "other.example"}),
        (["alice@a.example"] * 3, {"a.example"}),
        (["@all.example", "bob"], {"all.example"}),
        ([], set()),
    ],
)
def test_a_list_tells_the_domains_that_it_names(tmp_path: Path, recipients_of: list[str], expected: set[str]) -> None:
    """Also where local parts have an @ of their own."""
    file = tmp_path / "list"
    file.write_text("".join(f"{each}\n" for each in recipients_of))
    assert AddressList(file=file).named_domains() == expected
