"""What all tables share: entries written inline and in a file, and the file read again when it changes.

A file has one entry a line, in UTF-8. A ``#`` at the start of a line or after white space begins a comment; empty
lines are ignored. A relative file name starts at the folder of the configuration file.

The file is looked at (modification time, size, inode) at most once a second, and only when the table is used. A
changed file of up to 256 KiB is read on the spot; a larger one in a thread of its own, so that mail goes on with the
old content meanwhile. A file that has vanished or has a bad line changes nothing: the old content stays, and one line
in the log says so. Replace a file by renaming the new one over it: of a file that is written in place, half of it may
be read. One that ends within a line is probably being written, and is taken when it is the same at the next look.

What files have been read to is remembered by their octets, for as long as it is in use: the same content is read once,
whoever names it, and at a reload again only when it has changed.

The log says how many entries came and went each time, and warns of a file that has none left or has lost a good part of
them (``Losses``). Lists of recipients are kept then (``kept``): an empty one would refuse everybody.

Raises ``ValueError`` when it is made of a bad entry or a file that can't be read; the text names the file and the line.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import structlog
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from gateway.tables.content import Content, ends_within_a_line, read_content
from gateway.tables.packed import PackedSet

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a file: one system call a second costs nothing, and a change is soon in force."""

_SMALL_FILE: Final = 256 * 1024
"""Octets that are read on the spot: about ten thousand entries, a few milliseconds."""

_PROBLEMS: Final = 10
"""How many bad entries are named before one more is only counted: what fits on a screen."""

_COMMENT = re.compile(r"(?:^|\s)#.*")

Signature: TypeAlias = tuple[int, int, int]

_log = structlog.get_logger("lychgate.tables")


class Index(Protocol):
    """What a table looks things up in: built entry by entry, finished, then only read."""

    def add(self, entry: str) -> None:
        """Take one entry.

        Raises:
            ValueError: It is malformed.
        """
        ...

    def finish(self) -> None:
        """Make it ready to be read; no more entries come."""
        ...

    def groups(self) -> Mapping[Any, AbstractSet[Any]]:
        """All entries, in sets by what they are; two of one kind with the same key can be compared."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What has become of entries.

    Attributes:
        had: How many there were.
        has: How many there are.
        came: How many of these are new.
        went: How many of the old ones are gone.
    """

    had: int
    has: int
    came: int
    went: int

    @classmethod
    def between(cls, before: Index, after: Index) -> Self:
        """What is different in another index of the same kind; takes no memory for it."""
        had, has = count(before), count(after)
        if before is after:
            return cls(had=had, has=has, came=0, went=0)
        old, new = before.groups(), after.groups()
        stayed = sum(_stayed(entries, new[key]) for key, entries in old.items() if key in new)
        return cls(had=had, has=has, came=has - stayed, went=had - stayed)


def _stayed(old: AbstractSet[Any], new: AbstractSet[Any]) -> int:
    """How many entries of a set are in another one."""
    if isinstance(old, PackedSet) and isinstance(new, PackedSet):
        return old.shared_with(new)
    return sum(map(new.__contains__, old))


def count(index: Index) -> int:
    """How many entries an index has."""
    return sum(map(len, index.groups().values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Which losses are probably not meant: of all entries, or of more than a share of more than a few.

    Attributes:
        share: The largest share that may go, in percent.
        few: So many entries may go, whatever their share, as long as some stay.
    """

    share: int = 50
    few: int = 10

    def are_too_many(self, change: Change) -> bool:
        """Whether this is such a loss."""
        if change.has == 0:
            return change.had > 0
        return change.had > self.few and change.went * 100 > change.had * self.share


IndexT = TypeVar("IndexT", bound=Index)

_indexes: Final[WeakValueDictionary[tuple[type[Any], tuple[str, ...], bytes], Any]] = WeakValueDictionary()
"""The indexes in use, by the table's type, its own entries and the digest of its file's octets. None ever changes."""


class Problems:
    """The bad entries of a table; the first ones are named, and the rest is counted."""

    __slots__ = ("_count", "_named")

    def __init__(self) -> None:
        self._named: list[str] = []
        self._count = 0

    def add(self, place: str, error: ValueError) -> None:
        """Note one.

        Args:
            place: Where it stands.
            error: What is wrong with it.
        """
        self._count += 1
        if self._count <= _PROBLEMS:
            self._named.append(f"{place}: {error}")

    def check(self) -> None:
        """Raise ``ValueError`` if there is one."""
        if self._count > _PROBLEMS:
            self._named.append(f"and {self._count - _PROBLEMS} more")
        if self._named:
            raise ValueError("; ".join(self._named))


class Table(Generic[IndexT]):
    """A set of entries.

    Args:
        entries: Those written in the configuration.
        file: A file of more of them.
        monotonic: Tells seconds that never go back.
    """

    index_type: ClassVar[type[Any]]
    entry_help: ClassVar[str]

    __slots__ = ("_entries", "_file", "_index", "_loading", "_monotonic", "_next_look", "_seen", "_unfinished")

    def __init__(
        self, entries: Iterable[str] = (), file: Path | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries = tuple(entries)
        self._file = file
        self._monotonic = monotonic
        self._loading: threading.Thread | None = None
        self._seen = self._signatures()
        self._next_look = monotonic() + LOOK_EVERY
        self._unfinished = None if file is None else _unfinished(file)
        content = None if file is None else read_content(file)
        self._index: IndexT = self._begin(content, self._build(content))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was configured: neither an entry nor a file."""
        return not self._entries and self._file is None

    def current(self) -> IndexT:
        """The index to look things up in; reads the file again when it has changed."""
        if self._file is not None:
            now = self._monotonic()
            if now >= self._next_look:
                self._next_look = now + LOOK_EVERY
                unfinished = _unfinished(self._file)
                if unfinished is None or unfinished == self._unfinished:
                    self._look(self._file)
                self._unfinished = unfinished
        return self._index

    @property
    def entries(self) -> int:
        """How many entries it has now."""
        return count(self._index)

    def named_files(self) -> tuple[Path, ...]:
        """The file that it is read from, where there is one."""
        return () if self._file is None else (self._file,)

    def settle(self) -> None:
        """Wait until a reading that was begun is finished."""
        if self._loading is not None:
            self._loading.join()

    def _look(self, file: Path) -> None:
        if self._loading is not None and self._loading.is_alive():
            return
        signatures = self._signatures()
        if signatures == self._seen:
            return
        self._seen = signatures
        if all(signature is None or signature[1] <= _SMALL_FILE for signature in signatures):
            self._reload(file)
        else:
            self._loading = threading.Thread(
                target=self._reload, args=(file,), name=f"reading {file.name}", daemon=True
            )
            self._loading.start()

    def _signatures(self) -> tuple[Signature | None, ...]:
        """What changes when the table has to be read again."""
        return tuple(map(signature_of, self._watched()))

    def _watched(self) -> tuple[Path, ...]:
        """The files that are looked at."""
        return self.named_files()

    def _begin(self, content: Content | None, index: IndexT) -> IndexT:  # noqa: ARG002 - what is kept is kept as it was written
        """What holds at first."""
        return index

    def _reload(self, file: Path) -> None:
        try:
            content = read_content(file)
            self._renew(content, self._build(content))
        except ValueError as error:
            _log.error("table kept its old content", file=str(file), reason=str(error))

    def _renew(self, content: Content, index: IndexT) -> None:
        """Put a new index in the place of the old one."""
        change = Change.between(self._index, index)
        self._index = index
        told = {"file": str(self._file), "entries": change.has, "came": change.came, "went": change.went}
        is_emptied = change.went > 0 and next(self._entries_of(content), None) is None  # entries written inline stay
        if is_emptied or Losses().are_too_many(change):
            _log.warning("table has lost many entries", **told)
        else:
            _log.info("table read again", **told)

    def _build(self, content: Content | None) -> IndexT:
        """The index of the entries and of a file's content.

        Raises:
            ValueError: There is a bad one.
        """
        if content is None:
            return self._built(())
        key = (type(self), self._entries, content.digest)
        index: IndexT | None = _indexes.get(key)
        if index is None:
            index = _indexes[key] = self._built(content.pieces())
        return index

    def _built(self, pieces: Iterable[bytes]) -> IndexT:
        index: IndexT = self.index_type()
        problems = Problems()
        for number, entry in enumerate(self._entries, 1):
            try:
                index.add(entry)
            except ValueError as error:
                problems.add(f"entry {number}", error)
        number = 1
        for piece in pieces:
            number += self._add_lines(index, piece, number, problems)
        problems.check()
        index.finish()
        return index

    def _add_lines(self, index: IndexT, lines: bytes, number: int, problems: Problems) -> int:
        """Add the entries of some lines of the file; returns how many lines these are.

        Args:
            index: Where they are added.
            lines: Whole lines, in UTF-8.
            number: That of the first of them.
            problems: Takes what is wrong.
        """
        for line, entry in self._lines(lines.decode(), number):
            try:
                index.add(entry)
            except ValueError as error:
                problems.add(f"{self._file}:{line}", error)
        return lines.count(b"\n")

    def _entries_of(self, content: Content) -> Iterator[str]:
        """The entries of a file."""
        return (entry for piece in content.pieces() for _, entry in self._lines(piece.decode(), 1))

    def _lines(self, text: str, number: int) -> Iterator[tuple[int, str]]:
        """The entries of some lines, each with the number of its line; ``number`` is that of the first."""
        for line_number, line in enumerate(text.split("\n"), number):
            entry = (_COMMENT.sub("", line) if "#" in line else line).strip()
            if entry:
                yield line_number, entry

    @classmethod
    def from_config(cls, value: object, folder: Path) -> Self:
        """Make a table of what stands in the configuration: a list, or ``list`` and ``file``.

        Args:
            value: As read from YAML.
            folder: Where relative file names start.

        Raises:
            ValueError: The shape, an entry or the file is wrong.
        """
        entries, file = read_setting(value, folder)
        return cls(entries, file)

    def to_config(self) -> object:
        """What one would write in the configuration."""
        if self._file is None:
            return list(self._entries)
        return ({"list": list(self._entries)} if self._entries else {}) | {"file": str(self._file)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_config()})"

    def __eq__(self, other: object) -> bool:
        """Whether the same is configured, so that equal settings of two domains are one."""
        if not isinstance(other, Table):
            return NotImplemented
        return type(self) is type(other) and self._entries == other._entries and self._file == other._file

    def __hash__(self) -> int:
        return hash((type(self), self._entries, self._file))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: object, info: ValidationInfo) -> Table[IndexT]:
            return value if isinstance(value, cls) else cls.from_config(value, folder_of(info))

        return core_schema.with_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(cls.to_config)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        entries = {"type": "array", "items": {"type": "string"}, "description": cls.entry_help}
        file = {"type": "string", "description": "A file with one entry a line, read again when it changes."}
        together = {
            "type": "object",
            "properties": {"list": entries, "file": file},
            "additionalProperties": False,
            "minProperties": 1,
        }
        return {"anyOf": [entries, together]}


def folder_of(info: ValidationInfo) -> Path:
    """The configuration's folder, as the loader hands it to validators; the current one without."""
    context = info.context
    return Path(context["folder"]) if isinstance(context, dict) and "folder" in context else Path()


def read_setting(value: object, folder: Path) -> tuple[tuple[str, ...], Path | None]:
    """Take a table's setting apart into entries and file.

    Raises:
        ValueError: It has another shape.
    """
    file: object = None
    if isinstance(value, dict):
        unknown = sorted(str(key) for key in value if key not in {"list", "file"})
        if unknown or not value:
            raise ValueError(f"{', '.join(unknown) or 'nothing'} where 'list' or 'file' is wanted")
        file = value.get("file")
        value = value.get("list", ())
        if file is not None and not (isinstance(file, str | Path) and str(file)):
            raise ValueError(f"{file!r} is not the name of a file")
    if not isinstance(value, list | tuple):
        raise ValueError("write a list of entries such as [a, b], or {file: NAME}")  # noqa: TRY004 - pydantic wants ValueError
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, str):
            raise ValueError(f"entry {number}: {entry!r} is not text; put it in quotes")  # noqa: TRY004 - the same
    return tuple(value), None if file is None else folder / str(file)


def signature_of(file: Path) -> Signature | None:
    """What changes when the file does; None when there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116 - Path.stat builds more objects for the same call
    except OSError:
        return None
    return _signature(status)


def _unfinished(file: Path) -> Signature | None:
    """What tells this state of a file from others, if it ends within a line; None if it does not, or is not there."""
    status = ends_within_a_line(file)
    return None if status is None else _signature(status)


def _signature(status: os.stat_result) -> Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino
