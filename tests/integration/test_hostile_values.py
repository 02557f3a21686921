"""A client's value in another syntax, read by the peers themselves: Postfix, directories, databases, Redis.

What must hold of a source of recipients: it knows ``alice`` alone, so that no hostile local part may be answered by yes
(but for ``KNOWN``). The answer is no, or that nothing is known. And the source is asked on, because no client may shut
it for the others.
"""

import posixpath
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import pytest

from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.http import HttpLookup
from gateway.adapters.recipients.ldap import LdapLookup
from gateway.adapters.recipients.sql import SqlLookup
from gateway.adapters.recipients.tables import TableLookup
from gateway.adapters.state.redis import RedisState
from gateway.backend.probe import BackendProbe
from gateway.config.recipients import (
    AskedOptions,
    CacheOptions,
    HttpOptions,
    LdapOptions,
    ProbeOptions,
    SocketmapOptions,
    SqlOptions,
    TcpOptions,
)
from gateway.config.state import StateOptions
from gateway.lookup.answer import Answer, Lookup, UnansweredError, UnverifiableError
from gateway.lookup.socketmap import Socketmap
from gateway.lookup.tcp_table import TcpTable
from gateway.state import Kind, Take, subject
from tests.support import backend, hostile
from tests.support.postfix import Postfix
from tests.support.redis import RedisServer
from tests.support.slapd import SUFFIX, Slapd
from tests.support.table_server import TableServer
from tests.support.web_service import WebService

if TYPE_CHECKING:
    from pathlib import Path

TRUSTED: Final = {"smtpd_authorized_xclient_hosts": "127.0.0.1", "smtpd_authorized_xforward_hosts": "127.0.0.1"}

ENTRIES: Final = """\
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: uid=alice,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.com
"""


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """One Postfix that takes mail and believes who the client is."""
    with Postfix({"trusting": TRUSTED}) as instance:
        yield instance


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    """A directory that knows alice."""
    with Slapd(ENTRIES) as server:
        yield server


class Resolving(Mapping[str, tuple[int, bytes]]):
    """Answers as many servers find them: the path decoded, its steps taken, empty parts dropped."""

    found: Final = frozenset(
        {"/", "/users", "/users/alice", "/users/alice/exists", "/alice", "/exists", "/users/exists"}
    )

    def __getitem__(self, path: str) -> tuple[int, bytes]:
        path, _, query = path.partition("?")
        plain = posixpath.normpath(re.sub(r"/+", "/", unquote(path).replace("\\", "/")))
        known = plain in self.found if not query else unquote(query) == "user=alice"
        return 200, b"true" if known else b"false"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@asynccontextmanager
async def http_path(_request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """The local part in the path."""
    with WebService(Resolving()) as service:
        yield HttpLookup(HttpOptions.model_validate({"url": f"{service.url}/users/{{local_part}}"}))


@asynccontextmanager
async def http_inner_path(_request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """The local part within the path."""
    with WebService(Resolving()) as service:
        yield HttpLookup(HttpOptions.model_validate({"url": f"{service.url}/users/{{local_part}}/exists"}))


@asynccontextmanager
async def http_query(_request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """The local part in the query."""
    with WebService(Resolving()) as service:
        yield HttpLookup(HttpOptions.model_validate({"url": f"{service.url}/x?user={{local_part}}"}))


@asynccontextmanager
async def ldap_filter(request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """The address in the filter."""
    given = {
        "server_host": request.getfixturevalue("directory").url,
        "search_base": SUFFIX,
        "query_filter": "(mail=%s)",
    }
    yield LdapLookup(LdapOptions.model_validate(given))


@asynccontextmanager
async def ldap_base(request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """The local part in the search base, a distinguished name."""
    base = f"uid=%u,{SUFFIX}"
    given = {
        "server_host": request.getfixturevalue("directory").url,
        "search_base": base,
        "query_filter": "(uid=alice)",
    }
    yield LdapLookup(LdapOptions.model_validate(given))


@asynccontextmanager
async def sql(request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """A database."""
    folder: Path = request.getfixturevalue("tmp_path")
    with closing(sqlite3.connect(folder / "users.db")) as connection:
        connection.executescript("CREATE TABLE users (name text); INSERT INTO users VALUES ('alice');")
    query = "SELECT 1 FROM users WHERE name = :local_part"
    yield SqlLookup(SqlOptions.model_validate({"url": "sqlite:///users.db", "query": query}), folder)


@asynccontextmanager
async def socketmap(_request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """A map of a server."""
    async with TableServer({"alice": "box"}, socketmap="virtual") as server:
        given = {"server": f"127.0.0.1:{server.port}", "map": "virtual", "key": "local_part"}
        yield TableLookup(SocketmapOptions.model_validate(given), Socketmap("virtual"))


@asynccontextmanager
async def tcp(_request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """A table of a server."""
    async with TableServer({"alice": "box"}) as server:
        given = {"server": f"127.0.0.1:{server.port}", "key": "local_part"}
        yield TableLookup(TcpOptions.model_validate(given), TcpTable())


@asynccontextmanager
async def probe(request: pytest.FixtureRequest) -> AsyncIterator[Lookup]:
    """A backend."""
    async with backend.group(request.getfixturevalue("postfix").ports["trusting"]) as servers:
        yield BackendProbe(servers, ProbeOptions.model_validate({}))


SOURCES: Final[dict[str, tuple[type[AskedOptions], Callable[..., AbstractAsyncContextManager[Lookup]]]]] = {
    "the path of a URL": (HttpOptions, http_path),
    "the middle of a path": (HttpOptions, http_inner_path),
    "the query of a URL": (HttpOptions, http_query),
    "the filter of LDAP": (LdapOptions, ldap_filter),
    "the search base of LDAP": (LdapOptions, ldap_base),
    "SQL": (SqlOptions, sql),
    "socketmap": (SocketmapOptions, socketmap),
    "tcp_table": (TcpOptions, tcp),
    "a backend": (ProbeOptions, probe),
}
NEEDS: Final = {LdapOptions: ("slapd", "ldapsearch"), ProbeOptions: ("postfix",)}

KNOWN: Final = {"a backend": frozenset({"letters"})}
"""What a source knows besides ``alice``."""


def test_every_source_is_in_the_table() -> None:
    """A new kind of source says how it is asked about hostile values."""

    def kinds(of: type[AskedOptions]) -> Iterator[type[AskedOptions]]:
        for kind in of.__subclasses__():
            yield kind
            yield from kinds(kind)

    assert {kind for kind, _ in SOURCES.values()} == set(kinds(AskedOptions))


@pytest.mark.parametrize(
    "source", [pytest.param(name, marks=pytest.mark.peer(*NEEDS.get(kind, ()))) for name, (kind, _) in SOURCES.items()]
)
async def test_no_value_is_another_recipient(source: str, request: pytest.FixtureRequest) -> None:
    """No hostile local part is found, none shuts the source, and alice is known before and afterwards."""
    async with SOURCES[source][1](request) as lookup:
        asked = CachedSource(source, lookup, CacheOptions(), timeout=10)
        try:
            assert (await asked.ask("alice", "example.com")).exists
            for name, value in hostile.local_parts().items():
                found = await said(asked, value)
                assert not isinstance(found, UnansweredError), (name, found)
                if isinstance(found, Answer):
                    assert found.exists is (name in KNOWN.get(source, ())), (name, found)
            assert (await asked.ask("alice", "example.com")).exists
        finally:
            await asked.close()


async def said(source: CachedSource, local_part: str) -> Answer | UnverifiableError:
    """The source's answer, or why there is none."""
    try:
        return await source.ask(local_part, "example.com")
    except UnverifiableError as error:
        return error


def censored(name: str) -> str:
    """A HELO name as Postfix logs it."""
    return re.sub(r'[ <>()\\";@]', "?", name)


@pytest.mark.peer("slapd")
@pytest.mark.parametrize("source", ["the filter of LDAP", "the search base of LDAP"])
async def test_no_value_ends_the_connection_to_a_directory(source: str, request: pytest.FixtureRequest) -> None:
    """What a directory calls bad syntax is no reason to leave it: others ask on the same connection."""
    async with SOURCES[source][1](request) as lookup:
        assert isinstance(lookup, LdapLookup)
        await lookup.ask("alice", "example.com")
        first = lookup._connection
        for name, value in hostile.local_parts().items():
            with suppress(UnverifiableError):
                await lookup.ask(value, "example.com")
            assert lookup._connection is first, name
            assert first is not None
            assert first.fault is None, (name, first.fault)
        await lookup.close()


@pytest.mark.peer("postfix")
async def test_postfix_knows_each_client_by_xclient(postfix: Postfix) -> None:
    """Every HELO name is logged as the client said it, beside the client's own address and name."""
    names = hostile.helo_names()
    async with backend.group(postfix.ports["trusting"], client_info="xclient", connections=2) as servers:
        for number, name in enumerate(names.values(), start=1):
            address = str(IPv4Address("10.1.0.0") + number)
            answer, delivery = await backend.deliver(servers, of=backend.session(address, helo_name=name))
            assert answer.code == 250, (name, answer)
            line = await postfix.log_line(rf"hold: RCPT from client\.example\[{re.escape(address)}\]")
            assert f" helo=<{censored(name)}>" in line, name
            assert f"client=client.example[{address}]" in await postfix.log_line(f"{delivery.queue_id}: client=")


@pytest.mark.peer("postfix")
async def test_postfix_knows_each_client_by_xforward(postfix: Postfix) -> None:
    """No HELO name hides the address and the name of its client."""
    async with backend.group(postfix.ports["trusting"], client_info="xforward", connections=2) as servers:
        for number, name in enumerate(hostile.helo_names().values(), start=1):
            address = str(IPv4Address("10.2.0.0") + number)
            _, delivery = await backend.deliver(servers, of=backend.session(address, helo_name=name))
            line = await postfix.log_line(f"{delivery.queue_id}: client=")
            assert f"orig_client=client.example[{address}]" in line, name


@pytest.mark.peer("postfix")
async def test_postfix_knows_each_login(postfix: Postfix) -> None:
    """A login is logged as itself; one that can't be said by XCLIENT is deferred, and never another or nobody."""
    async with backend.group(postfix.ports["trusting"], client_info="xclient", connections=2) as servers:
        deferred = []
        for number, (name, login) in enumerate(hostile.said().items(), start=1):
            of = backend.session(str(IPv4Address("10.3.0.0") + number), login=login)
            answer, delivery = await backend.deliver(servers, of=of)
            if answer.is_transient:
                deferred.append(name)
                continue
            assert answer.code == 250, (login, answer)
            line = await postfix.log_line(f"{delivery.queue_id}: client=")
            match = re.search(r"sasl_username=(.*)\n", line)
            assert match is not None, (name, line)
            assert match[1] == re.sub(r"[\x00-\x1f\x7f]", "?", login) or not login.isascii(), (name, line)
        assert set(deferred) == {
            "unavailable", "unavailable in lower case", "temporarily unavailable",
            "temporarily unavailable in mixed case", "nothing", "equals signs", "plus signs", "a long name",
            "300 letters", "90 letters of two octets", "NUL",
        }  # fmt: skip


@pytest.mark.peer("redis-server")
async def test_redis_counts_each_value_by_itself() -> None:
    """No value has another's key, each is shown as the subject that it is, and cleared alone."""
    values = list(hostile.said().values())
    with RedisServer() as redis:
        state = RedisState(StateOptions.model_validate({"url": redis.url, "timeout": "5s"}))
        try:
            for expected in (True, False):
                for value in values:
                    take = Take(name="one", subject=subject(login=value), rate=1e-6, burst=1.0)
                    (answer,) = await state.ask([take])
                    assert not isinstance(answer, Exception)
                    assert answer.granted is expected, value
            entries = {entry.subject: entry async for entry in state.entries(Kind.RATE)}
            assert set(entries) == {subject(login=value) for value in values}
            for left, value in enumerate(reversed(values)):
                assert await state.clear(entries[subject(login=value)].key)
                assert len([entry async for entry in state.entries(Kind.RATE)]) == len(values) - left - 1
                if left > 5:
                    break
        finally:
            await state.stop()
