"""YAML text to plain data with positions.

Mappings and lists come as ``dict`` and ``list`` subclasses that remember where each key and value stands; scalars
follow the core schema of YAML 1.2.2 (10.3.2), so that ``on``, ``yes`` and ``no`` are words and a date stays text.
Keys are always text. ``${env:NAME}`` and ``${file:PATH}`` in values are replaced while reading; ``$${`` stands for
``${``.

The text is read as a stream of events, without recursion. An alias shares its anchor's data instead of copying it,
and what all aliases together stand for is limited (``MAX_ALIASED``), so that a few lines can't become gigabytes
further on. ruamel.yaml's C scanner does the scanning where it is installed, about thirty times as fast as the one in
Python.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from gateway.config.problems import ConfigError, Position, Problem
from gateway.config.recipients import Readings

try:
    from _ruamel_yaml import CParser
except ImportError:  # pragma: no cover - every platform with a wheel has it
    CParser = None

MAX_OCTETS: Final = 64 * 1024**2
"""Of one configuration file: eight times one with 100,000 domains."""

MAX_DEPTH: Final = 64
"""Of nested mappings and lists; a configuration has about eight levels."""

MAX_ALIASED: Final = 2_000_000
"""Values that all aliases of a file together may stand for: 100,000 domains that share settings of 20 values."""

_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: Final = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip
_MAX_DIGITS: Final = 30  # longer ones are no settings, and Python refuses very long ones
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?:(env|file):([^{}]*)\})?")
_TEXT_TAGS: Final = {"!", "tag:yaml.org,2002:str"}

Scalar: TypeAlias = str | int | float | bool | None


class YamlMapping(dict[str, Any]):
    """A mapping that knows where it stands: ``position``, and for each key ``keys`` and ``values_at``."""

    __slots__ = ("keys_at", "position", "values_at")

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position
        self.keys_at: dict[str, Position] = {}
        self.values_at: dict[str, Position] = {}


class YamlList(list[Any]):
    """A list that knows where it and each of its items stand."""

    __slots__ = ("items_at", "position")

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position
        self.items_at: list[Position] = []


class Document:
    """A configuration file as read.

    Attributes:
        path: The file.
        root: The outermost mapping.
        problems: What is wrong with the text, though it could be read.
        secrets: Values that came from the environment or a file, each with the reference that stands for it, so that no
            message shows them.
        files: The files that were read for such values, each with the path of the setting and where it stands.
        readings: The files of recipients that it names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = YamlMapping(Position(1, 1))
        self.problems: list[Problem] = []
        self.secrets: dict[str, str] = {}
        self.files: list[tuple[Path, str, Position]] = []
        self.readings = Readings()

    def problem(self, position: Position, where: str, message: str) -> None:
        """Note something that is wrong."""
        self.problems.append(Problem(self.path, position, where, message))


def read(path: Path) -> Document:
    """Read a file.

    Raises:
        ConfigError: It can't be read, or it is not YAML.
    """
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_OCTETS + 1)
    except OSError as error:
        raise ConfigError([Problem(path, None, "", f"can't be read: {error.strerror}")]) from error
    if len(octets) > MAX_OCTETS:
        raise ConfigError([Problem(path, None, "", f"is larger than {MAX_OCTETS // 1024**2} MiB")])
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = octets[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise ConfigError([Problem(path, Position(line, column), "", "is not UTF-8 text")]) from error
    return read_text(text, path)


def read_text(text: str, path: Path, *, scan: Callable[[str], Iterator[Any]] | None = None) -> Document:
    """Read the text of a configuration file.

    Args:
        text: The text.
        path: Stands in messages, and relative file names start in its folder.
        scan: Makes YAML events of text; the fastest scanner there is unless given.

    Raises:
        ConfigError: It is not YAML.
    """
    document = Document(path)
    builder = _Builder(document)
    try:
        for event in (scan or SCANNERS[0])(text):
            builder.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = None if mark is None else Position(mark.line + 1, mark.column + 1)
        told = " ".join(part for part in (error.problem, error.context) if part)
        if mark is not None:
            told += _hint("".join(text.split("\n")[mark.line : mark.line + 1]), mark.column, told)
        raise ConfigError([*document.problems, Problem(path, position, "", f"is not YAML: {told}")]) from error
    except YAMLError as error:  # a character that YAML does not allow
        raise ConfigError([*document.problems, Problem(path, None, "", f"is not YAML: {_one_line(error)}")]) from error
    if isinstance(builder.root, YamlMapping):
        document.root = builder.root
    elif builder.root is not None:
        document.problem(Position(1, 1), "", "must be a mapping of settings (key: value)")
    return document


def _hint(line: str, column: int, told: str) -> str:
    """What an administrator probably meant, where YAML's own words say little; with a semicolon before it, or empty."""
    here = line[column : column + 1]
    if "\t" in line[: column + 1]:
        return "; a line is indented with spaces, never with a tab"
    if here in {"%", "@", "`"} or re.search(r"(?:^|[\s:\[{,-])\*", line[: column + 1]):
        return f"; text that begins with {here if here in {'%', '@', '`'} else '*'} needs quotes"
    if re.search(r"[\s:,{\[-]\[[0-9a-fA-F]*:", line):
        return '; text that begins with [ needs quotes, such as "[::]:25"'
    if "':'" in told:
        return '; within { } and [ ] text with a colon in it needs quotes, such as "127.0.0.1:25"'
    if "mapping values" in told:
        return (
            "; text with a colon and a space in it needs quotes, or the line above lacks its colon or its indentation"
        )
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _c_events(text: str) -> Iterator[Any]:
    parser = CParser(text)
    try:
        while parser.check_event():
            yield parser.get_event()
    finally:
        parser.dispose()


def _python_events(text: str) -> Iterator[Any]:
    yield from YAML(typ="safe", pure=True).parse(text)


SCANNERS: Final = (_python_events,) if CParser is None else (_c_events, _python_events)
"""What makes events of text, the fastest first."""


class _Frame:
    """A mapping or list that is being read."""

    __slots__ = ("anchor", "data", "key", "merged", "size")

    def __init__(self, data: YamlMapping | YamlList, anchor: str | None) -> None:
        self.data = data
        self.anchor = anchor
        self.key: str | None = None  # of the mapping entry whose value comes next
        self.merged: list[YamlMapping] = []
        self.size = 1


class _Builder:
    """Makes data of events."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.root: Any = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open_anchors: set[str] = set()
        self._aliased = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        """Take the next event."""
        mark = event.start_mark
        position = Position(mark.line + 1, mark.column + 1)
        kind = type(event)
        if kind is ScalarEvent:
            frame = self._stack[-1] if self._stack else None
            if frame is not None and frame.key is None and isinstance(frame.data, YamlMapping):
                self._key(frame, event.value, position)
                return
            self._value(self._scalar(event, position), position, 1, event.anchor)
        elif kind is MappingStartEvent:
            self._open(YamlMapping(position), event)
        elif kind is SequenceStartEvent:
            self._open(YamlList(position), event)
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            self._close()
        elif kind is AliasEvent:
            self._alias(event.anchor, position)
        elif kind is DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                raise self._fatal(position, "a second document begins here; one is allowed")

    def _fatal(self, position: Position, message: str) -> ConfigError:
        """What to raise where reading can't go on."""
        self.document.problem(position, self._where(), message)
        return ConfigError(self.document.problems)

    def _where(self, key: str | None = None) -> str:
        """The path of what comes next, or of a key of the mapping that is being read."""
        where = ""
        for frame in self._stack:
            if isinstance(frame.data, YamlList):
                where = f"{where}[{len(frame.data)}]"
            elif frame.key is not None:
                where = join(where, frame.key)
        return where if key is None else join(where, key)

    def _open(self, data: YamlMapping | YamlList, event: Any) -> None:
        position = data.position
        if len(self._stack) >= MAX_DEPTH:
            raise self._fatal(position, f"is nested more than {MAX_DEPTH} levels deep")
        if self._stack and self._stack[-1].key is None and isinstance(self._stack[-1].data, YamlMapping):
            raise self._fatal(position, "a key must be text, not a list or a mapping")
        if event.tag is not None:
            self.document.problem(position, self._where(), f"the tag {event.tag} is not supported")
        if event.anchor is not None:
            self._open_anchors.add(event.anchor)
        self._stack.append(_Frame(data, event.anchor))

    def _close(self) -> None:
        frame = self._stack.pop()
        data = frame.data
        if isinstance(data, YamlMapping):
            for merged in frame.merged:
                for key, value in merged.items():
                    if key not in data:
                        data[key] = value
                        data.keys_at[key] = merged.keys_at[key]
                        data.values_at[key] = merged.values_at[key]
                        frame.size += 1
        if frame.anchor is not None:
            self._open_anchors.discard(frame.anchor)
        self._value(data, data.position, frame.size, frame.anchor)

    def _key(self, frame: _Frame, key: str, position: Position) -> None:
        assert isinstance(frame.data, YamlMapping)  # noqa: S101 - the caller looked
        known = frame.data.keys_at.get(key)
        if known is not None:
            self.document.problem(
                position,
                self._where(key),
                f"the key {key!r} stands here twice; the first is in line {known.line}",
            )
        frame.data.keys_at[key] = position
        frame.key = key

    def _value(self, value: Any, position: Position, size: int, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, size)
        if not self._stack:
            self.root = value
            return
        frame = self._stack[-1]
        frame.size += size
        data = frame.data
        if isinstance(data, YamlList):
            data.append(value)
            data.items_at.append(position)
            return
        key = frame.key
        frame.key = None
        if key is None:  # an alias as a key
            raise self._fatal(position, "a key must be text, not an alias")
        if key == "<<":
            self._merge(frame, value, position)
            return
        data[key] = value
        data.values_at[key] = position

    def _merge(self, frame: _Frame, value: Any, position: Position) -> None:
        """Take the entries of the mappings that ``<<`` names, where the mapping has no such key of its own."""
        assert isinstance(frame.data, YamlMapping)  # noqa: S101 - only a mapping has keys
        del frame.data.keys_at["<<"]
        merged = value if isinstance(value, YamlList) else [value]
        if all(isinstance(mapping, YamlMapping) for mapping in merged):
            frame.merged.extend(merged)
        else:
            self.document.problem(position, self._where("<<"), "must name a mapping, or a list of mappings, to merge")

    def _alias(self, anchor: str, position: Position) -> None:
        if anchor in self._open_anchors:
            raise self._fatal(position, f"the alias *{anchor} stands inside its own anchor")
        if anchor not in self._anchors:
            told = f"no anchor &{anchor} stands before this alias; text that begins with * needs quotes"
            raise self._fatal(position, told)
        value, size = self._anchors[anchor]
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            message = f"the aliases of this file stand for more than {MAX_ALIASED} values"
            raise self._fatal(position, message)
        self._value(value, position, size, None)

    def _scalar(self, event: Any, position: Position) -> Scalar:
        text: str = event.value
        plain = event.style in {None, ""}
        if event.tag is not None:
            if str(event.tag) not in _TEXT_TAGS:
                self.document.problem(position, self._where(), f"the tag {event.tag} is not supported")
            plain = False
        if "${" in text:
            text = _REFERENCE.sub(lambda match: self._reference(match, position), text)
        return resolve(text) if plain else text

    def _reference(self, match: re.Match[str], position: Position) -> str:
        """What a ``${...}`` stands for."""
        if match[0] == "$${":
            return "${"
        where = self._where()
        if match[1] is None:
            message = "'${' begins no ${env:NAME} or ${file:PATH}; write '$${' for the characters themselves"
            self.document.problem(position, where, message)
            return match[0]
        value: str | None
        if match[1] == "env":
            value = os.environ.get(match[2])
            if value is None:
                self.document.problem(position, where, f"the environment variable {match[2]!r} is not set")
        else:
            value = self._file(match[2], position)
        if value:
            self.document.secrets[value] = match[0]
        return match[0] if value is None else value

    def _file(self, name: str, position: Position) -> str | None:
        path = self.document.path.parent / name
        self.document.files.append((path, self._where(), position))
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            self.document.problem(position, self._where(), f"the file {str(path)!r} can't be read: {error.strerror}")
        except UnicodeDecodeError:
            self.document.problem(position, self._where(), f"the file {str(path)!r} is not UTF-8 text")
        return None


def resolve(text: str) -> Scalar:
    """The value of a plain scalar by YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    first = text[0]
    if first in "0123456789+-." and len(text) <= _MAX_DIGITS:
        if _INTEGER.fullmatch(text):
            return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def join(where: str, key: str) -> str:
    """The path of a key below ``where``: ``domains.example.com``; a key that would be misread stands in quotes."""
    part = key if re.fullmatch(r"[\w.@*/:+<-]+", key) else repr(key)
    return f"{where}.{part}" if where else part
