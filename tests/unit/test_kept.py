"""Files of recipients are kept by what of them was accepted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.lookup.answer import UnverifiableError
from gateway.tables import (
    AddressTable,
    ListKind,
    Losses,
    NameTable,
    NetworkTable,
    RecipientFile,
    Shelf,
    Table,
)
from gateway.tables import table as table_module

KEPT = "list keeps its last accepted content"
UNKNOWN = "list is empty, and no content was ever accepted"
READ = "list read again"


class House:
    """A file of recipients, its shelf, and processes that use it."""

    def __init__(self, folder: Path, kind: ListKind = ListKind.RECIPIENTS, losses: Losses | None = None) -> None:
        self.now = 0.0
        self.file = folder / "list"
        self.shelf = Shelf(folder / "state" / "lists", losses)
        self.kind = kind

    def write(self, *entries: str) -> None:
        """Replace the file by renaming; ``entries`` are its lines."""
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{entry}\n" for entry in entries))
        new.rename(self.file)

    def users(self, count: int, start: int = 0) -> list[str]:
        """So many users, from a number on."""
        return [f"user{number}" for number in range(start, start + count)]

    def process(self, shelf: Shelf | None = None) -> RecipientFile:
        """What a worker that starts has of the file."""
        return RecipientFile(self.file, self.kind, shelf or self.shelf, monotonic=lambda: self.now)

    async def has(self, source: RecipientFile, user: str) -> bool:
        """Whether it knows a user, after two looks."""
        for _ in range(2):
            self.now += table_module.LOOK_EVERY
            source.table.current()
        return await source.find(user, "example.com")

    @property
    def kept(self) -> str:
        """The accepted content."""
        return self.shelf.place(self.file, self.kind).read_text()


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A file and its shelf."""
    return House(tmp_path)


async def test_an_emptied_file_refuses_nobody(house: House) -> None:
    """What was accepted goes on to hold, in this process and in one that starts, until somebody accepts the file."""
    house.write("alice", "bob")
    source = house.process()
    house.write()
    with capture_logs() as logs:
        assert await house.has(source, "alice")
    assert [(line["event"], line["log_level"]) for line in logs] == [(KEPT, "warning")]
    assert (logs[0]["entries"], logs[0]["came"], logs[0]["went"]) == (0, 0, 2)
    with capture_logs() as logs:
        later = house.process()
    assert [line["event"] for line in logs] == [KEPT]
    assert await house.has(later, "bob")
    assert not await house.has(later, "carol")
    house.process().table.accept()
    for each in (source, later, house.process()):
        assert not await house.has(each, "alice")
    assert house.kept == ""


@pytest.mark.parametrize("text", ["", "\n \n", "# all gone\n", "  # all gone", "\ufeff"])
@pytest.mark.parametrize("kind", ListKind)
async def test_empty_is_what_has_no_entries(tmp_path: Path, text: str, kind: ListKind) -> None:
    """Comments, empty lines and a byte order mark are no entries, in either kind of file."""
    house = House(tmp_path, kind)
    house.write("alice")
    source = house.process()
    house.file.write_text(text)
    assert await house.has(source, "alice")
    assert await house.has(house.process(), "alice")


@pytest.mark.parametrize(
    ("losses", "had", "left", "came", "is_held"),
    [
        (Losses(), 100, 50, 0, False),
        (Losses(), 100, 49, 0, True),
        (Losses(), 100, 49, 200, True),
        (Losses(), 100, 0, 100, True),
        (Losses(), 11, 5, 0, True),
        (Losses(), 10, 1, 0, False),
        (Losses(), 10, 0, 5, False),
        (Losses(), 10, 0, 0, True),
        (Losses(), 1, 0, 0, True),
        (Losses(), 1, 0, 1, False),
        (Losses(share=10), 100, 90, 0, False),
        (Losses(share=10), 100, 89, 0, True),
        (Losses(share=0), 100, 99, 0, True),
        (Losses(share=100), 100, 1, 0, False),
        (Losses(share=100), 100, 0, 0, True),
        (Losses(few=100), 100, 1, 0, False),
        (Losses(few=0), 2, 0, 9, True),
    ],
)
async def test_what_has_lost_too_much_is_held_back(
    tmp_path: Path, losses: Losses, had: int, left: int, came: int, *, is_held: bool
) -> None:
    """No entries, or more than a share of more than a few gone, whatever came; the same when it is found at a start."""
    house = House(tmp_path, losses=losses)
    house.write(*house.users(had))
    source = house.process()
    house.write(*house.users(left), *house.users(came, start=1000))
    gone, new = f"user{had - 1}", "user1000"
    starting = house.process(Shelf(house.shelf.place(house.file, "").parent, losses, writes=False))
    for each in (source, starting):
        assert await house.has(each, gone) is is_held
        assert await house.has(each, new) is (came > 0 and not is_held)
        status = each.table.status
        assert status is not None
        assert (status.held is not None, status.problem is not None) == (is_held, is_held)
        assert status.entries == (had if is_held else left + came)


async def test_the_log_says_what_came_and_went(house: House) -> None:
    """At each reading of a file that is taken, with how many entries it has."""
    house.write(*house.users(20))
    source = house.process()
    house.write(*house.users(18), "new@example.com", "@new.example", "other")
    with capture_logs() as logs:
        for _ in range(3):  # what it has written itself is no news to it
            assert await house.has(source, "other")
    assert [(line["event"], line["entries"], line["came"], line["went"]) for line in logs] == [(READ, 21, 3, 2)]
    assert all(line["file"] == str(house.file) for line in logs)


async def test_with_nothing_known_an_empty_file_says_nothing(house: House) -> None:
    """It can't be told who is on it, until it has entries, or somebody says that it has none."""
    house.write()
    with capture_logs() as logs:
        source, other = house.process(), house.process()
    assert [line["event"] for line in logs] == [UNKNOWN] * 2
    for text in ("# still nothing\n", ""):
        house.file.write_text(text)
        with pytest.raises(UnverifiableError, match="no content of it was ever accepted"):
            await house.has(source, "alice")
    house.process().table.accept()
    assert not await house.has(source, "alice")
    house.write("alice")
    for each in (source, other, house.process()):
        assert await house.has(each, "alice")
        assert not await house.has(each, "bob")


async def test_processes_agree(house: House) -> None:
    """What one has taken, another that looks later, or has never seen, takes as well; it is written once."""
    house.write(*house.users(20))
    first, second = house.process(), house.process()
    house.write(*house.users(12))
    assert not await house.has(first, "user15")
    written = house.shelf.place(house.file, house.kind).stat().st_ino
    assert not await house.has(second, "user15")
    house.write(*house.users(7))  # 5 of 12 are gone, but 13 of the 20 that the second began with
    assert not await house.has(first, "user10")
    assert not await house.has(second, "user10")
    house.write()
    for each in (first, second, house.process()):
        assert await house.has(each, "user6")
        assert not await house.has(each, "user7")
    assert house.shelf.place(house.file, house.kind).stat().st_ino != written


async def test_a_file_that_is_being_written_is_not_taken(house: House) -> None:
    """Emptied and filled in place, it is in force as it was until it is whole, and nobody is told of a loss."""
    house.write(*house.users(20))
    source = house.process()
    with capture_logs() as logs:
        for part in (0, 6, 12, 18):
            house.file.write_text("".join(f"{user}\n" for user in house.users(part)))
            house.now += table_module.LOOK_EVERY
            assert await source.find("user19", "example.com")
        house.file.write_text("".join(f"{user}\n" for user in house.users(21)))
        house.now += table_module.LOOK_EVERY
        assert await source.find("user20", "example.com")
    assert [(line["event"], line["came"], line["went"]) for line in logs] == [(READ, 1, 0)]


async def test_a_file_that_is_right_again_holds_again(house: House) -> None:
    """As it was, or with other entries; nothing is held back any more."""
    house.write(*house.users(20))
    source = house.process()
    for users in (house.users(20), house.users(25)):
        house.write()
        assert await house.has(source, "user19")
        assert source.table.status is not None
        assert source.table.status.held is not None
        house.write(*users)
        assert await house.has(source, users[-1])
        assert source.table.status.held is None


def _bad_line(file: Path) -> None:
    file.write_text("SMTP:alice@example.com\n")


@pytest.mark.parametrize("spoil", [_bad_line, Path.unlink], ids=["bad line", "vanished"])
async def test_a_file_that_can_not_be_read_is_neither_taken_nor_accepted(
    house: House, spoil: Callable[[Path], object]
) -> None:
    """What was accepted goes on to hold, and whoever wants to accept it is told why it can't be."""
    house.write("alice")
    source, other = house.process(), house.process()
    spoil(house.file)
    assert await house.has(source, "alice")
    with pytest.raises(ValueError, match=r"SMTP:alice|No such file"):
        other.table.accept()
    assert house.kept == "alice\n"


async def test_a_shelf_that_can_not_be_written_keeps_no_mail_up(house: House) -> None:
    """What was accepted holds for this process; the log says that a restart forgets it."""
    house.shelf = Shelf(house.file / "below a file")
    house.write("alice")
    with capture_logs() as logs:
        source = house.process()
        house.write("alice", "bob")
        assert await house.has(source, "bob")
        house.write()
        assert await house.has(source, "alice")
    assert [line["event"] for line in logs] == [
        "accepted content is not kept: a restart forgets it",
        "accepted content is not kept: a restart forgets it",
        READ,
        KEPT,
    ]
    with pytest.raises(OSError, match="Not a directory"):
        source.table.accept()


@pytest.mark.parametrize("content", [b"two words\n", b"\xff\n"])
async def test_accepted_content_that_is_no_good_is_as_none(house: House, content: bytes) -> None:
    """An empty file says nothing then; one with entries is taken, and written anew."""
    house.write("alice")
    house.process()
    house.shelf.place(house.file, house.kind).write_bytes(content)
    house.write()
    with capture_logs() as logs:
        source = house.process()
    assert [line["event"] for line in logs] == ["accepted content can't be used", UNKNOWN]
    with pytest.raises(UnverifiableError):
        await house.has(source, "alice")
    house.write("bob")
    assert await house.has(source, "bob")
    assert house.kept == "bob\n"


async def test_who_only_looks_writes_nothing_and_tells_nobody(house: House, tmp_path: Path) -> None:
    """As ``check`` and ``explain`` do: they come to what the service would, and leave no trace."""
    look = Shelf(tmp_path / "state" / "lists", writes=False)
    house.write("alice")
    with capture_logs() as logs:
        assert await house.has(house.process(look), "alice")
        house.write()
        with pytest.raises(UnverifiableError):
            await house.has(house.process(look), "alice")
    assert (logs, (tmp_path / "state").exists()) == ([], False)


def test_a_copy_is_named_after_its_file(tmp_path: Path) -> None:
    """By its whole path and by what it is a list of; long paths have names of their own, too."""
    shelf = Shelf(tmp_path)
    assert shelf.place(Path("/etc/lychgate/people"), "recipients").name == "%2Fetc%2Flychgate%2Fpeople.recipients"
    deep = [Path("/", *(["ordner"] * 60), name) for name in ("one", "two")]
    names = {shelf.place(path, kind).name for path in deep for kind in ListKind}
    assert len(names) == 4
    assert max(map(len, names)) < 255
    names = {shelf.place(Path("/", "x" * length), kind).name for length in range(150, 300) for kind in ListKind}
    assert len(names) == 300
    assert max(map(len, names)) < 255


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_what_root_accepts_belongs_to_the_folders_owner(house: House) -> None:
    """So that the service may read and replace it."""
    house.write("alice")
    house.process()
    folder = house.shelf.place(house.file, house.kind).parent
    os.chown(folder, 65534, 65534)
    house.write()
    house.process().table.accept()
    status = house.shelf.place(house.file, house.kind).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o600)
    assert [path.name for path in folder.iterdir()] == [house.shelf.place(house.file, house.kind).name]


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        (NetworkTable, ["192.0.2.{}", "198.51.{}.0/24", "2001:db8::{}", "2001:db8:{}::/48"]),
        (NameTable, ["{}.example.com", ".{}.example.com"]),
        (AddressTable, ["a{}@example.com", "@{}.example.com", ".{}.example.com", "a{}@"]),
    ],
)
def test_other_tables_warn_and_take_what_they_read(
    tmp_path: Path, kind: Callable[..., Table[Any]], entries: list[str]
) -> None:
    """With how many entries of every form came and went; few of them, or what is written inline, are no warning."""
    file, now = tmp_path / "table", [0.0]
    everything = [entry.format(number) for number in range(5) for entry in entries]
    file.write_text("\n".join(everything))
    table = kind(["10.0.0.0/8"] if kind is NetworkTable else ["x.example"], file, monotonic=lambda: now[0])
    had = len(everything) + 1
    assert table.entries == had

    def read(lines: list[str]) -> tuple[str, str, int, int, int]:
        file.write_text("\n".join(lines) + "\n")
        now[0] += table_module.LOOK_EVERY
        with capture_logs() as logs:
            table.current()
        (line,) = logs
        return line["log_level"], line["event"], line["entries"], line["came"], line["went"]

    most = everything[: len(everything) * 2 // 3]
    assert read(most) == ("info", "table read again", len(most) + 1, 0, len(everything) - len(most))
    assert read([])[:3] == ("warning", "table has lost many entries", 1)
    assert read(everything)[2] == had


async def test_what_can_not_be_seen_is_not_taken_for_what_was_never_accepted(house: House) -> None:
    """A folder that this user can't look into may hold anything: nothing says that it is empty."""
    house.write()
    folder = house.file.parent / "state"
    folder.symlink_to(folder)  # nobody can look into it, root neither
    source = house.process(Shelf(folder, writes=False))
    status = source.table.status
    assert status is not None
    assert status.state == "not to be seen by this user"
    assert status.problem is not None
    assert "ask as root" in status.problem
    assert "accept" not in status.problem.replace("accepted", "")
    with pytest.raises(UnverifiableError, match="can't be seen"):
        await source.find("alice", "example.com")


def test_a_service_that_can_not_see_what_was_accepted_begins_all_the_same(house: House) -> None:
    """It says so in the log, and takes the file as it is."""
    house.write("alice")
    folder = house.file.parent / "state"
    folder.symlink_to(folder)
    with capture_logs() as logs:
        assert house.process(Shelf(folder)).table.status is not None
    assert [line["event"] for line in logs] == [
        "accepted content can't be used",
        "accepted content is not kept: a restart forgets it",
    ]
