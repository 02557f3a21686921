"""The files, folders and sockets that a configuration names, with what each is for and where it stands.

``named`` walks through validated settings. Tables say by ``named_files`` what they are read from, and so may values of
other packages' options; a ``Path`` anywhere in options counts as a file that is read.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, get_args, runtime_checkable
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel

from gateway.config.backend import BackendTls, NextHop, NextHopKind
from gateway.config.problems import Position
from gateway.config.recipients import (
    AliasOptions,
    HttpOptions,
    LdapOptions,
    RecipientOptions,
    SqlOptions,
    TcpOptions,
)
from gateway.config.state import StateOptions


class FileUse(StrEnum):
    """What a path is for, in words for people."""

    VALUE = "value"
    TABLE = "table"
    RECIPIENTS = "recipients"
    LISTS = "accepted lists"
    CERTIFICATE = "certificate"
    AUTHORITIES = "authorities"
    DATABASE = "database"
    RECORDS = "records"
    SPOOL = "spool"
    RUNTIME = "runtime folder"
    PID = "pid file"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A path that stands in a configuration.

    Attributes:
        path: Absolute, or as the process's current folder has it.
        use: What it is for.
        where: The path of the setting.
        position: Where it stands.
    """

    path: Path
    use: FileUse
    where: str
    position: Position | None


Parts: TypeAlias = tuple[str | int, ...]


@runtime_checkable
class NamesFiles(Protocol):
    """A value of options that is read from files."""

    def named_files(self) -> Iterable[Path]:
        """The files."""
        ...


_USES: Final[Mapping[tuple[str, str], FileUse]] = {
    ("TlsOptions", "certificate"): FileUse.CERTIFICATE,
    ("TlsOptions", "key"): FileUse.CERTIFICATE,
    (RecipientOptions.__name__, "file"): FileUse.RECIPIENTS,
    (AliasOptions.__name__, "file"): FileUse.RECIPIENTS,
    (StateOptions.__name__, "ca"): FileUse.AUTHORITIES,
    (BackendTls.__name__, "ca"): FileUse.AUTHORITIES,
    (HttpOptions.__name__, "ca"): FileUse.AUTHORITIES,
    (LdapOptions.__name__, "tls_ca_cert_file"): FileUse.AUTHORITIES,
    ("RecipientListOptions", "folder"): FileUse.LISTS,
    ("RecordOptions", "file"): FileUse.RECORDS,
    ("SpoolOptions", "directory"): FileUse.SPOOL,
    ("FileOptions", "runtime_folder"): FileUse.RUNTIME,
    ("FileOptions", "pid_file"): FileUse.PID,
}
"""What a setting that is a ``Path`` is for, by its section and name; every other one is a table."""


def named(value: Any, folder: Path, parts: Parts = ()) -> Iterator[tuple[Parts, FileUse, Path]]:
    """What a value of settings names.

    Args:
        value: A section, or anything that stands in one.
        folder: Where relative names of databases start.
        parts: The path of keys and indices that leads to the value.
    """
    if isinstance(value, BaseModel):
        for name, use, path in _beside(value, folder):
            yield (*parts, name), use, path
        for name, key, use in _naming(type(value)):
            inner = getattr(value, name)
            if isinstance(inner, Path):
                yield (*parts, key), use, inner
            elif inner is not None:
                yield from named(inner, folder, (*parts, key))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from named(inner, folder, (*parts, key))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, inner in enumerate(value):
            yield from named(inner, folder, (*parts, index))
    else:
        yield from ((parts, use, path) for use, path in _single(value))


def _single(value: Any) -> Iterable[tuple[FileUse, Path]]:
    """What a value names that is no section and no collection."""
    if isinstance(value, Path):
        return [(FileUse.TABLE, value)]
    if isinstance(value, NextHop):
        return [(FileUse.SOCKET, Path(value.target))] if value.kind is NextHopKind.UNIX else []
    return [(FileUse.TABLE, path) for path in value.named_files()] if isinstance(value, NamesFiles) else []


@cache
def _naming(section: type[BaseModel]) -> tuple[tuple[str, str, FileUse], ...]:
    """The settings of a section that may name something: the attribute, the key, and what a ``Path`` there is for.

    Looked up once for each class, and not for each of a hundred thousand domains.
    """
    return tuple(
        (name, field.alias or name, _USES.get((section.__name__, name), FileUse.TABLE))
        for name, field in section.model_fields.items()
        if _may_name(field.annotation)
    )


def _may_name(annotation: Any) -> bool:
    """Whether a value of this type may name a file, or hold one that does."""
    if isinstance(annotation, type) and issubclass(annotation, Path | BaseModel | NextHop | NamesFiles):
        return True
    return any(map(_may_name, get_args(annotation)))


def _beside(section: BaseModel, folder: Path) -> Iterator[tuple[str, FileUse, Path]]:
    """What a section names within a text: sockets and databases."""
    match section:
        case StateOptions() if section.place.socket is not None:
            yield "url", FileUse.SOCKET, Path(section.place.socket)
        case TcpOptions() if section.server.startswith("unix:"):
            yield "server", FileUse.SOCKET, Path(section.server.removeprefix("unix:"))
        case LdapOptions():
            for server in section.server_host:
                if server.lower().startswith("ldapi://"):
                    yield "server_host", FileUse.SOCKET, Path(unquote(urlsplit(server).netloc))
        case SqlOptions():
            yield from (("url", use, path) for use, path in _of_database(section.url, folder))


def _of_database(url: str, folder: Path) -> Iterator[tuple[FileUse, Path]]:
    """The file of SQLite; the socket, certificates and password files that are settings of the drivers."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        yield FileUse.DATABASE, folder / unquote(parts.path.removeprefix("/"))
        return
    for name, value in parse_qsl(parts.query):
        if value.startswith("/"):
            is_socket = name in {"host", "unix_socket"}
            yield FileUse.SOCKET if is_socket else FileUse.DATABASE, Path(value)
