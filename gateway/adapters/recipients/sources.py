"""The sources of recipients that a configuration names: made once each, and shared by the domains that have the same.

Several sources of a domain are asked in the order written; the first yes is the answer. A source that can't tell does
not keep the next from being asked, but without a yes from one of those nothing is known. A domain that is another name
of a domain (``alias_of``) has the addresses of both.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.ldap import LdapLookup
from gateway.adapters.recipients.tables import TableLookup
from gateway.config.model import DomainOptions
from gateway.config.recipients import (
    AskedOptions,
    HttpOptions,
    LdapOptions,
    ProbeOptions,
    RecipientOptions,
    SocketmapOptions,
    SqlOptions,
    TcpOptions,
)
from gateway.lookup.answer import Lookup
from gateway.lookup.socketmap import Socketmap
from gateway.lookup.tcp_table import TcpTable
from gateway.session import RecipientSource
from gateway.tables import AddressList, ListKind, ListStatus, RecipientFile, Shelf

MakeProbe: TypeAlias = Callable[[str, ProbeOptions], Lookup]
"""Makes what asks a backend, by its name."""


class InOrder:
    """Several sources as one.

    Args:
        sources: In the order in which they are asked.
    """

    def __init__(self, sources: Iterable[RecipientSource]) -> None:
        self.sources = tuple(sources)

    async def find(self, local_part: str, domain: str) -> bool:
        """Whether one of them knows the address.

        Raises:
            Exception: None does, and of one it could not be told.
        """
        problem: Exception | None = None
        for source in self.sources:
            try:
                if await source.find(local_part, domain):
                    return True
            except Exception as error:  # noqa: BLE001 - each source has its own; another may know the address
                problem = problem or error
        if problem is not None:
            raise problem
        return False


class OfDomain:
    """A source that is asked about another domain than the one whose recipients are wanted.

    Args:
        source: The source.
        domain: The domain that it is asked about.
    """

    def __init__(self, source: RecipientSource, domain: str) -> None:
        self._source = source
        self._domain = domain

    async def find(self, local_part: str, domain: str) -> bool:  # noqa: ARG002 - a RecipientSource is told both
        """Whether the address exists in the other domain."""
        return await self._source.find(local_part, self._domain)


class RecipientSources:
    """Makes and keeps the sources.

    Args:
        folder: The folder of the configuration.
        probe: Makes what asks a backend; without it no backend is asked, and what only a backend knows is taken.
        shelf: Where the accepted content of files is; without one every content is accepted.

    Attributes:
        caches: Those that are asked, in the order in which the configuration first names them.
    """

    def __init__(self, folder: Path, probe: MakeProbe | None = None, shelf: Shelf | None = None) -> None:
        self._folder = folder
        self._probe = probe
        self._shelf = shelf
        self._files: dict[tuple[Path, ListKind], RecipientFile] = {}
        self._made: list[tuple[AskedOptions, str | None, CachedSource]] = []

    @property
    def caches(self) -> list[CachedSource]:
        """The sources that are asked."""
        return [source for _, _, source in self._made]

    @property
    def lists(self) -> list[ListStatus]:
        """How it stands with the files; looks whether they have changed."""
        found: list[ListStatus] = []
        for file in self._files.values():
            file.table.current()
            if file.table.status is not None:
                found.append(file.table.status)
        return found

    def of(self, domain: DomainOptions) -> RecipientSource | None:
        """What knows the recipients of a domain; None when all are taken."""
        sections = domain.recipients or ()
        if not sections or any(section.any for section in sections):
            return None
        if self._probe is None and any(section.probe is not None for section in sections):
            return None
        sources = [source for section in sections for source in self._of_section(section, domain)]
        return sources[0] if len(sources) == 1 else InOrder(sources)

    def asked(self, section: RecipientOptions, domain: DomainOptions, name: str) -> Iterator[tuple[CachedSource, str]]:
        """What is asked for a section of a domain, and about which domain when ``name`` is wanted."""
        for key, options in section.asked.items():
            source = self._cached(key, options, domain)
            yield source, name
            also = _also(key, domain)
            if also is not None:
                yield source, also

    def tables(self, section: RecipientOptions, domain: DomainOptions) -> Iterator[RecipientSource]:
        """What a section of a domain lists, here and in files; a file is read once for all domains that name it.

        Raises:
            ValueError: An entry or a file is wrong.
        """
        aliases = section.aliases
        written = () if aliases is None else aliases.entries
        if section.entries or written:
            yield AddressList(section.entries, aliases=written, also=domain.alias_of)
        for file, kind in (
            (section.file, ListKind.RECIPIENTS),
            (None if aliases is None else aliases.file, ListKind.ALIASES),
        ):
            if file is not None:
                source = self._file(file, kind)
                yield source
                if domain.alias_of is not None:
                    yield OfDomain(source, domain.alias_of)

    async def close(self) -> None:
        """Close them all."""
        await asyncio.gather(*(source.close() for source in self.caches))

    def _of_section(self, section: RecipientOptions, domain: DomainOptions) -> Iterable[RecipientSource]:
        yield from self.tables(section, domain)
        for key, options in section.asked.items():
            source = self._cached(key, options, domain)
            yield source
            also = _also(key, domain)
            if also is not None:
                yield OfDomain(source, also)

    def _file(self, file: Path, kind: ListKind) -> RecipientFile:
        known = self._files.get((file, kind))
        if known is None:
            known = self._files[file, kind] = RecipientFile(file, kind, self._shelf)
        return known

    def _cached(self, key: str, options: AskedOptions, domain: DomainOptions) -> CachedSource:
        """The source of these options; the same one for all domains with the same."""
        backend = domain.backend if key == "probe" else None
        for known, of, source in self._made:
            if of == backend and known == options:
                return source
        lookup = self._lookup(options, domain.backend)
        name = f"{key} {backend}" if backend is not None else f"{key} {_place(options)}"
        source = CachedSource(name, lookup, options.cache, timeout=options.timeout)
        self._made.append((options, backend, source))
        return source

    def _lookup(self, options: AskedOptions, backend: str) -> Lookup:
        match options:
            case SqlOptions():
                from gateway.adapters.recipients.sql import SqlLookup  # its libraries are optional

                return SqlLookup(options, self._folder)
            case LdapOptions():
                return LdapLookup(options)
            case SocketmapOptions():
                return TableLookup(options, Socketmap(options.map))
            case TcpOptions():
                return TableLookup(options, TcpTable())
            case HttpOptions():
                from gateway.adapters.recipients.http import HttpLookup  # its library is optional

                return HttpLookup(options)
            case ProbeOptions() if self._probe is not None:
                return self._probe(backend, options)
        raise TypeError(f"no source has {type(options).__name__}")


def _place(options: AskedOptions) -> str:
    """Where a source is, for people; without anything secret."""
    written = options.model_dump(mode="json")
    match options:
        case LdapOptions():
            return options.server_host[0]
        case SocketmapOptions():
            return f"{options.server} {options.map}"
        case TcpOptions():
            return options.server
    return str(written["url"])


def _also(key: str, domain: DomainOptions) -> str | None:
    """The domain about which a source is asked, too: the target of an alias, but for a backend, which knows both."""
    target = domain.alias_of
    return None if key == "probe" or target is None or target.startswith(".") else target
