"""What all tables share: entries written inline and in a file, and the file read again when it changes.

A file has one entry a line, in UTF-8. A ``#`` at the start of a line or after white space begins a comment; empty
lines are ignored. A relative file name starts at the folder of the configuration file.

The file is looked at (modification time, size, inode) at most once a second, and only when the table is used. A
changed file of up to 256 KiB is read on the spot; a larger one in a thread of its own, so that mail goes on with the
old content meanwhile. A file that has vanished or has a bad line changes nothing: the old content stays, and one line
in the log says so. Replace a file by renaming the new one over it: of a file that is written in place, half of it may
be read. One that ends within a line is probably being written, and is taken when it is the same at the next look.

Raises ``ValueError`` when it is made of a bad entry or a file that can't be read; the text names the file and the line.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeAlias, TypeVar

import structlog
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a file: one system call a second costs nothing, and a change is soon in force."""

_SMALL_FILE: Final = 256 * 1024
"""Octets that are read on the spot: about ten thousand entries, a few milliseconds."""

_PROBLEMS: Final = 10
"""How many bad entries are named before one more is only counted: what fits on a screen."""

_COMMENT = re.compile(r"(?:^|\s)#.*")

_Signature: TypeAlias = tuple[int, int, int]

_log = structlog.get_logger("lychgate.tables")


class Index(Protocol):
    """What a table looks things up in: built entry by entry, then only read."""

    def add(self, entry: str) -> None:
        """Take one entry.

        Raises:
            ValueError: It is malformed.
        """
        ...


IndexT = TypeVar("IndexT", bound=Index)


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
        self._seen = None if file is None else _signature(file)
        self._next_look = monotonic() + LOOK_EVERY
        self._unfinished = None if file is None else _unfinished(file)
        self._index: IndexT = self._build()

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
        signature = _signature(file)
        if signature == self._seen:
            return
        self._seen = signature
        if signature is None or signature[1] <= _SMALL_FILE:
            self._reload()
        else:
            self._loading = threading.Thread(target=self._reload, name=f"reading {file.name}", daemon=True)
            self._loading.start()

    def _reload(self) -> None:
        try:
            self._index = self._build()
        except ValueError as error:
            _log.error("table kept its old content", file=str(self._file), reason=str(error))
        else:
            _log.info("table read again", file=str(self._file))

    def _build(self) -> IndexT:
        index: IndexT = self.index_type()
        problems: list[str] = []
        count = 0
        for place, entry in self._places():
            try:
                index.add(entry)
            except ValueError as error:
                count += 1
                if count <= _PROBLEMS:
                    problems.append(f"{place}: {error}")
        if count > _PROBLEMS:
            problems.append(f"and {count - _PROBLEMS} more")
        if problems:
            raise ValueError("; ".join(problems))
        return index

    def _places(self) -> Iterator[tuple[str, str]]:
        for number, entry in enumerate(self._entries, 1):
            yield f"entry {number}", entry
        if self._file is not None:
            for line, entry in self._lines(read_text(self._file)):
                yield f"{self._file}:{line}", entry

    def _lines(self, text: str) -> Iterator[tuple[int, str]]:
        """The entries of a file, each with the number of its line."""
        for number, line in enumerate(text.split("\n"), 1):
            entry = (_COMMENT.sub("", line) if "#" in line else line).strip()
            if entry:
                yield number, entry

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


def read_text(file: Path) -> str:
    """The text of a table's file.

    Raises:
        ValueError: It can't be read, or it is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")  # some editors put a byte order mark at the start
    except OSError as error:
        raise ValueError(f"can't read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}:{line}: not UTF-8") from None


def _signature(file: Path) -> _Signature | None:
    """What changes when the file does; None when there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116 - Path.stat builds more objects for the same call
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _unfinished(file: Path) -> tuple[int, int, int] | None:
    """What tells this state of a file from others, if it ends within a line; None if it does not, or is not there."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_size == 0:
                return None
            opened.seek(-1, os.SEEK_END)
            if opened.read(1) == b"\n":
                return None
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
