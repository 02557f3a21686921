"""The recipients of a domain, from lists and files: ``AddressList``.

In the configuration, under a domain::

    recipients: {list: [alice, bob], file: recipients.txt, aliases: {file: /etc/aliases}}

A list or file of addresses has ``user@example.com``, ``user`` (in whichever domain asks) or ``@example.com`` (every
address of that domain). A list or file of aliases is what Postfix reads: ``alias: target, target`` (aliases(5)) or
``alias target`` (virtual(5)); that the alias exists is all that counts here, its targets are the mail server's
business. A line that begins with white space continues the one before. Both may be written inline, in files, or both
ways. Case does not matter.

``AddressList`` is what is written, ``RecipientFile`` a file that is kept by what of it was accepted (``kept``).

There may be millions. So entries are kept in little memory (``packed``), and lines of which each is a plain address
are read many at a time; what is found is the same.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from gateway.lookup.answer import UnverifiableError
from gateway.tables.addresses import MAX_LOCAL_PART, normalize_local_part, read_local_part
from gateway.tables.kept import KeptTable, Shelf
from gateway.tables.names import read_domain
from gateway.tables.packed import PackedSet
from gateway.tables.table import Problems, folder_of, read_setting

# The left-hand side of an alias: up to a colon or white space outside quotes.
_ALIAS = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^\s:"])+)\s*(?::|\s|$)')
_PLAIN_ALIAS = re.compile(rb"^([A-Za-z0-9._+=@-]+)[:\t ].*$", re.MULTILINE)

_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+=-"
"""What needs no further look in a local part, and what ``read_domain`` looks at in a domain."""

_FEW: Final = 1024
"""Octets of lines that are read one by one when one of them is not plain."""


class _Recipients:
    """Addresses with and without a domain, and domains of which every address exists."""

    __slots__ = ("__weakref__", "_has_second_at", "addresses", "domains", "local_parts")

    def __init__(self) -> None:
        self.addresses = PackedSet()
        self.local_parts = PackedSet()
        self.domains = PackedSet()
        self._has_second_at = False  # in an address, as a quoted local part may have

    def add(self, entry: str) -> None:
        local_part, at, domain = entry.rpartition("@")
        if not at:
            self.local_parts.add(read_local_part(entry, entry))
        elif not local_part:
            self.domains.add(read_domain(domain, entry))
        elif not domain:
            raise ValueError(f"{entry!r} has no domain; write the user alone for whichever domain asks")
        else:
            local_part = read_local_part(local_part, entry)
            self._has_second_at |= "@" in local_part
            self.addresses.add(f"{local_part}@{read_domain(domain, entry)}")

    def add_plain(self, lines: bytes) -> int:
        """Add the entries of lines that are all plain addresses, or all plain users; otherwise do nothing.

        Args:
            lines: Whole lines, each with its end.

        Returns:
            How many were added.
        """
        lines = lines.lower().replace(b"\r\n", b"\n")
        rest = lines.translate(None, _PLAIN)
        has_domains = rest.startswith(b"@")
        count = len(rest) // 2 if has_domains else len(rest)
        if rest != (b"@\n" if has_domains else b"\n") * count:
            return 0
        parts = (lines.replace(b"@", b"\n") if has_domains else lines)[:-1].split(b"\n")
        local_parts = parts[::2] if has_domains else parts
        if not (all(local_parts) and len(max(local_parts, key=len)) <= MAX_LOCAL_PART):
            return 0
        if has_domains and not all(map(_is_normal, set(parts[1::2]))):
            return 0
        (self.addresses if has_domains else self.local_parts).add_lines(lines, count)
        return count

    def finish(self) -> None:
        for entries in self.groups().values():
            entries.seal()

    def groups(self) -> dict[str, PackedSet]:
        return {"addresses": self.addresses, "local_parts": self.local_parts, "domains": self.domains}

    def has(self, local_part: str, domain: str) -> bool:
        """Whether an address, its local part or its domain is there, all of them normalized."""
        return f"{local_part}@{domain}" in self.addresses or local_part in self.local_parts or domain in self.domains

    def named_domains(self) -> set[str]:
        """The domains that entries name."""
        found: set[bytes] = set()
        for piece in self.addresses.pieces():
            if self._has_second_at:
                found.update(address.rpartition(b"@")[2] for address in piece[:-1].split(b"\n"))
            else:
                found.update(piece.replace(b"@", b"\n")[:-1].split(b"\n")[1::2])
        return {*self.domains, *(domain.decode() for domain in found)}


def _is_normal(domain: bytes) -> bool:
    """Whether a domain is one, and in the form in which it is compared."""
    text = domain.decode()
    try:
        return read_domain(text, text) == text
    except ValueError:
        return False


class _Aliases(_Recipients):
    """The same, of the left-hand sides of aliases."""

    __slots__ = ()

    def add(self, entry: str) -> None:
        match = _ALIAS.match(entry)
        if match is None:
            raise ValueError(f"{entry!r} is not an alias such as 'info: alice' or 'info@example.com alice'")
        super().add(match[1])

    def add_plain(self, lines: bytes) -> int:
        return super().add_plain(_PLAIN_ALIAS.sub(rb"\1", lines))


_RecipientsT = TypeVar("_RecipientsT", bound=_Recipients)


class _ListTable(KeptTable[_RecipientsT]):
    """What tables of recipients and of aliases have in common."""

    __slots__ = ()

    def _add_lines(self, index: _RecipientsT, lines: bytes, number: int, problems: Problems) -> int:
        """Add lines many at a time where they are plain; around one that is not, as few as can be one by one."""
        added = index.add_plain(lines) if lines.endswith(b"\n") else 0
        if added:
            return added
        middle = lines.find(b"\n", len(lines) // 2) + 1
        if len(lines) <= _FEW or not 0 < middle < len(lines):
            return super()._add_lines(index, lines, number, problems)
        first = self._add_lines(index, lines[:middle], number, problems)
        return first + self._add_lines(index, lines[middle:], number + first, problems)


class _RecipientTable(_ListTable[_Recipients]):
    """A table of recipients."""

    kind: ClassVar[str] = "recipients"
    index_type: ClassVar[type[_Recipients]] = _Recipients
    entry_help: ClassVar[str] = (
        "Recipients: user@example.com, user alone, or @example.com for every address of the domain."
    )

    __slots__ = ()


class _AliasTable(_ListTable[_Aliases]):
    """A table of aliases."""

    kind: ClassVar[str] = "aliases"
    index_type: ClassVar[type[_Aliases]] = _Aliases
    entry_help: ClassVar[str] = "Aliases as in Postfix's files: 'alias: target' or 'alias target'."

    __slots__ = ()

    def _lines(self, text: str, number: int) -> Iterator[tuple[int, str]]:
        for line_number, line in enumerate(text.split("\n"), number):
            if line.strip() and not line[0].isspace() and not line.startswith("#"):
                yield line_number, line.rstrip()


class ListKind(StrEnum):
    """What a file is a list of."""

    RECIPIENTS = "recipients"
    ALIASES = "aliases"


class RecipientFile:
    """Knows the recipients that a file names (a ``gateway.session.RecipientSource``), by what of it is accepted.

    Args:
        file: The file.
        kind: How it is read.
        shelf: Where accepted content is; without one every content is accepted.
        monotonic: Tells seconds that never go back.

    Attributes:
        table: What it has.

    Raises:
        ValueError: The file can't be read, or has a bad line.
    """

    __slots__ = ("table",)

    def __init__(
        self,
        file: Path,
        kind: ListKind,
        shelf: Shelf | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table: KeptTable[_Recipients] | KeptTable[_Aliases] = (
            _RecipientTable(file=file, shelf=shelf, monotonic=monotonic)
            if kind is ListKind.RECIPIENTS
            else _AliasTable(file=file, shelf=shelf, monotonic=monotonic)
        )

    async def find(self, local_part: str, domain: str) -> bool:
        """Whether the address exists; see ``AddressList.find``.

        Raises:
            UnverifiableError: The file has no entries, and none were ever accepted.
        """
        if self.table.current().has(normalize_local_part(local_part), domain):
            return True
        if not self.table.is_known:
            reason = self.table.hindrance
            seen = (
                "no content of it was ever accepted" if reason is None else f"what was accepted can't be seen: {reason}"
            )
            raise UnverifiableError(f"the list of recipients is empty, and {seen}")
        return False


class AddressList:
    """Knows the recipients of a domain from lists and files (a ``gateway.session.RecipientSource``).

    Args:
        entries: Recipients written in the configuration.
        file: A file of them.
        aliases: Aliases written in the configuration.
        aliases_file: A file of them.
        also: A domain whose addresses are those of every domain that asks: the target of a domain alias.

    Raises:
        ValueError: An entry or a file is wrong.
    """

    __slots__ = ("_aliases", "_also", "_recipients")

    def __init__(
        self,
        entries: Iterable[str] = (),
        file: Path | None = None,
        aliases: Iterable[str] = (),
        aliases_file: Path | None = None,
        *,
        also: str | None = None,
    ) -> None:
        self._also = also
        self._recipients = _RecipientTable(entries, file)
        self._aliases = _AliasTable(aliases, aliases_file)

    @classmethod
    def from_config(cls, value: object, folder: Path, *, also: str | None = None) -> Self:
        """Make one of what stands in the configuration: a list, or ``list``, ``file`` and ``aliases``.

        Args:
            value: As read from YAML.
            folder: Where relative file names start.
            also: The target of a domain alias.

        Raises:
            ValueError: The shape, an entry or a file is wrong.
        """
        aliases: object = ()
        if isinstance(value, dict) and "aliases" in value:
            aliases = value["aliases"]
            value = {key: item for key, item in value.items() if key != "aliases"} or ()
        return cls(*read_setting(value, folder), *read_setting(aliases, folder), also=also)

    def named_files(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        return self._recipients.named_files() + self._aliases.named_files()

    def to_config(self) -> object:
        """What one would write in the configuration."""
        recipients = self._recipients.to_config()
        if self._aliases.is_empty:
            return recipients
        addresses = recipients if isinstance(recipients, dict) else {"list": recipients}
        return addresses | {"aliases": self._aliases.to_config()}

    def named_domains(self) -> frozenset[str]:
        """The domains that entries name."""
        return frozenset(self._recipients.current().named_domains() | self._aliases.current().named_domains())

    def local_parts(self) -> Iterator[str]:
        """The users that entries name without a domain; one may come twice."""
        return chain(self._recipients.current().local_parts, self._aliases.current().local_parts)

    async def find(self, local_part: str, domain: str) -> bool:
        """Whether the address exists.

        Args:
            local_part: Without quotes, in any case.
            domain: In lower case, A-labels.
        """
        local_part = normalize_local_part(local_part)
        return self._has(local_part, domain) or (self._also is not None and self._has(local_part, self._also))

    def _has(self, local_part: str, domain: str) -> bool:
        return self._recipients.current().has(local_part, domain) or self._aliases.current().has(local_part, domain)

    def __repr__(self) -> str:
        return f"AddressList({self.to_config()})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: object, info: ValidationInfo) -> AddressList:
            return value if isinstance(value, cls) else cls.from_config(value, folder_of(info))

        return core_schema.with_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(cls.to_config)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        recipients = _RecipientTable.__get_pydantic_json_schema__(schema, handler)
        aliases = _AliasTable.__get_pydantic_json_schema__(schema, handler)
        entries, together = recipients["anyOf"]
        return {"anyOf": [entries, together | {"properties": together["properties"] | {"aliases": aliases}}]}
