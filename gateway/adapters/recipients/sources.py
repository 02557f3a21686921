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
from gateway.tables import AddressList

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

    Attributes:
        caches: Those that are asked, in the order in which the configuration first names them.
    """

    def __init__(self, folder: Path, probe: MakeProbe | None = None) -> None:
        self._folder = folder
        self._probe = probe
        self._made: list[tuple[AskedOptions, str | None, CachedSource]] = []

    @property
    def caches(self) -> list[CachedSource]:
        """The sources that are asked."""
        return [source for _, _, source in self._made]

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

    async def close(self) -> None:
        """Close them all."""
        await asyncio.gather(*(source.close() for source in self.caches))

    def _of_section(self, section: RecipientOptions, domain: DomainOptions) -> Iterable[RecipientSource]:
        if section.has_tables:
            yield address_list(section, self._folder, domain.alias_of)
        for key, options in section.asked.items():
            source = self._cached(key, options, domain)
            yield source
            also = _also(key, domain)
            if also is not None:
                yield OfDomain(source, also)

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


def address_list(section: RecipientOptions, folder: Path, also: str | None) -> AddressList:
    """The lists and files of a section.

    Raises:
        ValueError: An entry or a file is wrong.
    """
    return AddressList.from_config(_as_table(section), folder, also=also)


def _as_table(section: RecipientOptions) -> dict[str, object]:
    written: dict[str, object] = {}
    if section.entries:
        written["list"] = list(section.entries)
    if section.file is not None:
        written["file"] = str(section.file)
    if section.aliases is not None:
        aliases = section.aliases
        written["aliases"] = {"list": list(aliases.entries)} | ({"file": str(aliases.file)} if aliases.file else {})
    return written
