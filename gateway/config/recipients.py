"""Where the recipients of a domain are known: lists and files, and what is asked (``domains: NAME: recipients:``).

A section names tables, and at most one source that is asked; several stand in a list, in the order in which they are
asked. What can be seen to be wrong without asking is an error here: a query with an unknown parameter, a filter that is
none, a library that is not installed.
"""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakSet

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from gateway.config.fields import File, Positive, Section, existing
from gateway.lookup import template
from gateway.lookup.ldap_filter import SearchFilter
from gateway.tables import AddressList, ListKind, RecipientFile
from gateway.units import Duration

PARAMETERS: Final = frozenset({"address", "local_part", "domain"})
"""What a query or a URL may name of an address."""

# As SQLAlchemy finds parameters in a text: a colon that is not doubled, escaped or behind a word.
_QUERY_PARAMETER: Final = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
_URL_PARAMETER: Final = re.compile(r"\{([^{}]*)\}")

SQL_DRIVERS: Final = {
    "postgresql": ("psycopg", "psycopg"),
    "mariadb": ("aiomysql", "aiomysql"),
    "mysql": ("aiomysql", "aiomysql"),
    "sqlite": ("aiosqlite", "aiosqlite"),
}
"""For each scheme of a URL the driver in SQLAlchemy's words, and the module it needs."""


class Readings:
    """The files of recipients that a configuration names, each read once while it is loaded.

    What they had is kept, so that whoever serves by the configuration has it as well, without reading every line again,
    and processes that are forked share it.
    """

    __slots__ = ("__weakref__", "_read")

    _all: ClassVar["WeakSet[Readings]"] = WeakSet()

    def __init__(self) -> None:
        self._all.add(self)
        self._read: dict[tuple[Path, ListKind], RecipientFile | str] = {}

    def read(self, file: Path, kind: ListKind) -> None:
        """Read a file.

        Raises:
            ValueError: It can't be read, or has a bad line.
        """
        found = self._read.get((file, kind))
        if found is None:
            try:
                found = RecipientFile(existing(file), kind)
            except ValueError as error:
                found = str(error)
            self._read[file, kind] = found
        if isinstance(found, str):
            raise ValueError(found)  # noqa: TRY004 - it is what was wrong with the file

    def release(self) -> None:
        """Keep nothing any more; who uses it has it."""
        self._read.clear()

    @classmethod
    def release_all(cls) -> None:
        """Let this process keep nothing any more, of no configuration."""
        for readings in cls._all:
            readings.release()


def _aliases(value: object) -> object:
    """A list is short for ``{list: [...]}``."""
    return {"list": value} if isinstance(value, list) else value


def _table(table: Callable[[], object]) -> None:
    """Make a table to see whether what it is made of is right; a single entry needs no number."""
    try:
        table()
    except ValueError as error:
        raise ValueError(str(error).removeprefix("entry 1: ")) from error


def _recipient(entry: str) -> str:
    _table(lambda: AddressList([entry]))
    return entry


def _recipients_file(file: Path, info: ValidationInfo) -> Path:
    _readings(info).read(file, ListKind.RECIPIENTS)
    return file


def _alias(entry: str) -> str:
    _table(lambda: AddressList(aliases=[entry]))
    return entry


def _aliases_file(file: Path, info: ValidationInfo) -> Path:
    _readings(info).read(file, ListKind.ALIASES)
    return file


def _readings(info: ValidationInfo) -> Readings:
    """Those of the configuration that is being loaded."""
    found = (info.context or {}).get("readings")
    return found if isinstance(found, Readings) else Readings()


class AliasOptions(Section):
    """Aliases, written here, in a file, or both."""

    entries: tuple[Annotated[str, AfterValidator(_alias)], ...] = Field(default=(), alias="list")
    """Aliases: `info: alice`, or `info` alone."""
    file: Annotated[File, AfterValidator(_aliases_file)] | None = None
    """A file as Postfix reads it, `alias: target` or `alias target`; only the aliases count."""


class CacheOptions(Section):
    """For how long answers are remembered, in each worker."""

    yes: Duration = 3600.0
    """An address that exists."""
    no: Duration = 60.0
    """An address that does not: this long a new one is still refused."""
    unknown: Duration = 10.0
    """An address of which nothing could be told: this long it is not asked about again."""
    stale: Duration = 86_400.0
    """How much longer a yes counts while nothing can be told. A no never does: a fault is no refusal."""
    entries: Positive = 10_000
    """How many addresses are remembered."""


def _checked_servers(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _server(value: str) -> str:
    """``host:port``, ``[::1]:port`` or ``unix:/path``."""
    if value.startswith("unix:/"):
        return value
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", value, re.ASCII)
    if match is None or not 0 < int(match[3]) < 65_536:  # noqa: PLR2004 - ports
        raise ValueError(f"{value!r} is not a server such as 127.0.0.1:5000, [::1]:5000 or unix:/path")
    return value


def _without_password(url: str) -> str:
    return re.sub(r"(://[^/@]*?:)[^@]*@", r"\1***@", url)


def _installed(modules: Iterable[str], extra: str) -> None:
    """Whether libraries are there.

    Raises:
        ValueError: One is not.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ValueError(f"needs a library that is not installed: pip install 'lychgate[{extra}]'")


def _known_parameters(names: Iterable[str], written: str) -> None:
    """Whether a query or URL names parts of the address, and only those.

    Raises:
        ValueError: It does not.
    """
    names = list(names)
    for name in names:
        if name not in PARAMETERS:
            raise ValueError(f"{written.format(name)} is not one of {_listed(written)}")
    if not names:
        raise ValueError(f"asks for no address: name {_listed(written)} in it")


def _listed(written: str) -> str:
    return ", ".join(written.format(name) for name in ("address", "local_part", "domain"))


class AskedOptions(Section):
    """What every source has that is asked."""

    timeout: Duration = 5.0
    """How long it may take to answer."""
    cache: CacheOptions = CacheOptions()
    """For how long answers are remembered."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0")
        return self


class ProbeOptions(AskedOptions):
    """Asks the domain's own backend, by MAIL and RCPT without a message."""

    sender: str = Field(default="", pattern=r"^[^\s<>]*$")
    """What MAIL says; nothing for the null reverse-path `<>`."""
    random_test: Duration = 3600.0
    """How often an address that can't exist is asked about, to notice a backend that takes every one; 0 for never."""
    connections: Positive = 4
    """The most connections for this to one server, in each worker, besides those for mail."""


def _sql_url(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme not in SQL_DRIVERS or "://" not in url:
        raise ValueError("is not a URL such as postgresql://user@host/database, mariadb://..., or sqlite:///file")
    _installed(("sqlalchemy", SQL_DRIVERS[scheme][1]), "sql")
    return url


def _query(query: str) -> str:
    _known_parameters(_QUERY_PARAMETER.findall(query), ":{}")
    return query


class SqlOptions(AskedOptions):
    """Asks a database."""

    url: Annotated[str, AfterValidator(_sql_url), PlainSerializer(_without_password)] = Field(repr=False)
    """`postgresql://user@host/database`, `mariadb://user@host/database`, or `sqlite:///file`."""
    password: SecretStr | None = None
    """The password, if it does not stand in the URL: `${file:PATH}` or `${env:NAME}`."""
    query: Annotated[str, AfterValidator(_query)]
    """With the parameters `:address`, `:local_part` and `:domain`. The address exists if the first column of the first
    row is neither NULL nor false nor 0, nor text such as `no` or `N`; without a row it does not."""
    connections: Positive = 2
    """The most connections, in each worker."""


class LdapScope(StrEnum):
    """How far a search goes."""

    SUB = "sub"
    ONE = "one"
    BASE = "base"


class LdapDereference(StrEnum):
    """Where aliases in the directory are followed."""

    NEVER = "never"
    SEARCHING = "searching"
    FINDING = "finding"
    ALWAYS = "always"


def _ldap_server(value: str) -> str:
    url = urlsplit(value if "://" in value else f"ldap://{value}")
    if url.scheme == "ldapi":
        if not url.netloc.lower().startswith("%2f"):
            raise ValueError(
                f"{value!r}: write the socket's path with %2F for each slash: ldapi://%2Frun%2Fslapd%2Fldapi"
            )
        return value
    try:
        port = url.port
    except ValueError:
        port = 0
    if url.scheme not in {"ldap", "ldaps"} or not url.hostname or port == 0 or url.path.strip("/") or url.query:
        raise ValueError(f"{value!r} is not a server such as ldap://host, ldaps://host:636 or ldapi://%2Fpath")
    return value if "://" in value else f"ldap://{value}"


def _filter(text: str) -> str:
    SearchFilter.parse(text)
    return text


def _template(text: str) -> str:
    list(template.parts(text))
    return text


_Attribute: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.;-]*$")]


class LdapOptions(AskedOptions):
    """Asks a directory. The settings mean what they mean in Postfix's `ldap_table(5)`."""

    server_host: Annotated[
        tuple[Annotated[str, AfterValidator(_ldap_server)], ...], BeforeValidator(_checked_servers)
    ] = Field(min_length=1)
    """Servers, the first that can be reached is asked: `ldap://host`, `ldaps://host`, `ldapi://%2Fpath`."""
    search_base: Annotated[str, AfterValidator(_template)]
    """Where the search begins; may have `%s`, `%u`, `%d` and `%1` to `%9`."""
    query_filter: Annotated[str, AfterValidator(_filter)] = "(mailacceptinggeneralid=%s)"
    """What is searched for: `%s` is the address, `%u` its local part, `%d` its domain, `%1` to `%9` the domain's labels
    from the last one on."""
    result_attribute: Annotated[tuple[_Attribute, ...], BeforeValidator(_checked_servers)] = ()
    """An entry counts only if it has a value of one of these attributes; without them every entry does."""
    scope: LdapScope = LdapScope.SUB
    """sub: the whole tree; one: right below the base; base: the base itself."""
    dereference: LdapDereference = LdapDereference.NEVER
    """Where aliases in the directory are followed: never, searching, finding (the base) or always."""
    bind: bool = True
    """Whether one binds before searching; with version 2 one must."""
    bind_dn: str = ""
    """Who binds; nothing for an anonymous bind."""
    bind_pw: SecretStr | None = None
    """The password: `${file:PATH}` or `${env:NAME}`."""
    start_tls: bool = False
    """Whether TLS begins with StartTLS. It is needed then: there is no falling back."""
    tls_ca_cert_file: Annotated[File, AfterValidator(existing)] | None = None
    """PEM file of the authorities to trust; the system's without it."""
    tls_require_cert: bool = True
    """Whether the server's certificate must be right and show its name."""
    version: Literal[2, 3] = 3
    """Of the protocol."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.version == 2 and (self.start_tls or not self.bind):  # noqa: PLR2004 - LDAPv2
            raise ValueError("version 2 has no start_tls, and it needs bind")
        if self.start_tls and any(not server.startswith("ldap://") for server in self.server_host):
            raise ValueError("start_tls goes with ldap:// only")
        if self.bind_dn and self.bind_pw is None:
            raise ValueError("bind_dn needs bind_pw: a bind without a password is anonymous (RFC 4513 5.1.2)")
        return self


class Key(StrEnum):
    """What is looked up in a table."""

    ADDRESS = "address"
    LOCAL_PART = "local_part"
    DOMAIN = "domain"


class TcpOptions(AskedOptions):
    """Asks a server of Postfix's `tcp_table(5)`."""

    server: Annotated[str, AfterValidator(_server)]
    """`127.0.0.1:5000`, `[::1]:5000` or `unix:/path`."""
    key: Key = Key.ADDRESS
    """What is looked up: address, local_part or domain."""
    connections: Positive = 2
    """The most connections, in each worker."""


class SocketmapOptions(TcpOptions):
    """Asks a server of Postfix's `socketmap_table(5)`."""

    map: str = Field(pattern=r"^[!-~]+$")
    """The name of the map."""


def _http_url(url: str) -> str:
    _known_parameters(_URL_PARAMETER.findall(url), "{{{}}}")
    split = urlsplit(url)
    if split.scheme not in {"http", "https"} or not split.hostname or "{" in split.netloc:
        raise ValueError("is not a URL such as https://host/recipients/{address}")
    if "@" in split.netloc:
        raise ValueError("has a user in it: give user and password beside it")
    _installed(("aiohttp",), "http")
    return url


class HttpOptions(AskedOptions):
    """Asks a web service. It answers 200 with JSON: `true`, `false`, or an object with one of these in a field."""

    url: Annotated[str, AfterValidator(_http_url)]
    """With `{address}`, `{local_part}` and `{domain}`, which are percent-encoded when they are put in. In the query any
    address can be asked for. In the path one with a slash or a backslash can't, nor a part that is empty, `.` or `..`:
    of these nothing is known."""
    field: str = Field(default="exists", min_length=1)
    """The object's field that is true or false."""
    not_found: Literal["unknown", "no"] = "unknown"
    """What 404 means: unknown (a wrong path would refuse all mail), or no."""
    user: str | None = None
    """Of Basic authentication, with the password."""
    password: SecretStr | None = None
    """Its password: `${file:PATH}` or `${env:NAME}`."""
    token: SecretStr | None = None
    """A bearer token: `${file:PATH}` or `${env:NAME}`."""
    ca: Annotated[File, AfterValidator(existing)] | None = None
    """PEM file of the authorities to trust; the system's without it."""
    connections: Positive = 4
    """The most connections, in each worker."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and ":" in self.user:
            raise ValueError("a user has no colon (RFC 7617 2)")
        if self.user is not None and self.token is not None:
            raise ValueError("give user and password, or token")
        return self


def _probe(value: object) -> object:
    """``true`` is short for a section without settings."""
    if isinstance(value, str):
        raise ValueError("must be true, or settings in a mapping (key: value); write probe: true")  # noqa: TRY004 - pydantic reports it
    return {} if value is True else None if value is False else value


class RecipientOptions(Section):
    """Where the recipients of a domain are known: lists and files, and at most one source that is asked."""

    entries: tuple[Annotated[str, AfterValidator(_recipient)], ...] = Field(default=(), alias="list")
    """Addresses: `user`, `user@example.com`, or `@example.com` for all of a domain."""
    file: Annotated[File, AfterValidator(_recipients_file)] | None = None
    """A file with one address a line; `#` begins a comment. It is read again when it changes; one that has come out
    empty, or has lost most of its entries, has to be accepted (`recipient_lists`)."""
    aliases: Annotated[AliasOptions, BeforeValidator(_aliases)] | None = None
    """Further addresses that are taken: a list, or `{file: PATH}`."""
    any: bool = False
    """Whether every address of the domain is taken."""
    probe: Annotated[ProbeOptions | None, BeforeValidator(_probe)] = None
    """Asks the domain's own backend, by MAIL and RCPT without a message: `true`, or settings."""
    sql: SqlOptions | None = None
    """Asks a database."""
    ldap: LdapOptions | None = None
    """Asks a directory, with the settings of Postfix's `ldap_table(5)`."""
    socketmap: SocketmapOptions | None = None
    """Asks a server of Postfix's `socketmap_table(5)`."""
    tcp: TcpOptions | None = None
    """Asks a server of Postfix's `tcp_table(5)`."""
    http: HttpOptions | None = None
    """Asks a web service."""

    @property
    def asked(self) -> dict[str, AskedOptions]:
        """The sources that are asked, by their key."""
        found: dict[str, AskedOptions | None] = {
            "probe": self.probe, "sql": self.sql, "ldap": self.ldap, "socketmap": self.socketmap, "tcp": self.tcp,
            "http": self.http,
        }  # fmt: skip
        return {key: options for key, options in found.items() if options is not None}

    @property
    def has_tables(self) -> bool:
        """Whether there is a list or a file."""
        return bool(self.entries) or self.file is not None or self.aliases is not None

    @model_validator(mode="before")
    @classmethod
    def _has_values(cls, value: object) -> object:
        """A key without a value is a slip: it must not mean that a source is not asked."""
        empty = [key for key, given in value.items() if given is None] if isinstance(value, dict) else []
        if empty:
            raise ValueError(f"{_quoted(empty)} without a value")
        return value

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        asked = list(self.asked)
        if self.any and (asked or self.has_tables):
            given = [*(key for key in ("list", "file", "aliases") if self.has_tables), *asked]
            raise ValueError(f"'any: true' takes every address; leave out {_quoted(given)}, or 'any'")
        if len(asked) > 1:
            raise ValueError(f"names {_quoted(asked)}: write a list of sections, in the order in which they are asked")
        if not self.any and not asked and not self.has_tables:
            raise ValueError("names none: give 'list', 'file', a source to ask, or 'any: true'")
        return self


def _quoted(keys: list[str]) -> str:
    words = [f"'{key}'" for key in keys]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sections(value: object) -> object:
    """One section is short for a list of one; nothing is a slip, and must not mean that every address is taken."""
    if value is None:
        raise ValueError("has no value: give a source, or 'any: true' to take every address")
    if isinstance(value, str):
        right = f"{{{value}: true}}" if value in {"any", "probe"} else f"{{file: {value}}}"
        raise ValueError(f"must be a mapping (key: value); write recipients: {right}")  # noqa: TRY004 - pydantic reports it
    return value if isinstance(value, list | tuple) else (value,)


def _any_alone(sections: tuple[RecipientOptions, ...] | None) -> tuple[RecipientOptions, ...] | None:
    if sections is not None and len(sections) > 1 and any(section.any for section in sections):
        raise ValueError("'any: true' takes every address; leave out the others")
    return sections


Recipients: TypeAlias = Annotated[
    tuple[RecipientOptions, ...] | None, Field(min_length=1), AfterValidator(_any_alone), BeforeValidator(_sections)
]
"""The value of ``recipients``: a section, or a list of them; None where it is left out."""
