"""Not known is not a no: every sort of half an answer of the sources of recipients.

A source says yes or no in so many words; whatever else it says, or leaves unsaid, refuses nobody, and is asked about
again soon. Each kind of source stands here with its yes, its no, and all that is neither.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pytest

from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.http import HttpLookup
from gateway.adapters.recipients.ldap import LdapLookup
from gateway.adapters.recipients.sql import SqlLookup
from gateway.adapters.recipients.tables import TableLookup
from gateway.backend.probe import BackendProbe
from gateway.config.recipients import (
    CacheOptions,
    HttpOptions,
    LdapOptions,
    ProbeOptions,
    SocketmapOptions,
    SqlOptions,
    TcpOptions,
)
from gateway.lookup import ber
from gateway.lookup.answer import Lookup
from gateway.lookup.socketmap import Socketmap
from gateway.lookup.tcp_table import TcpTable
from gateway.testing import Site, domain, run
from gateway.verdict import Action, Stage
from policies.recipient import KnownRecipient
from tests.support import backend
from tests.support.fault_server import Act, FaultServer, kill, say, say_and_close, stall
from tests.support.ports import free_port

TIMEOUT: Final = 1.0
UNKNOWN: Final = 2.0  # seconds for which a don't-know is remembered
STALL: Final = b"(and then nothing)"


class CannedServer:
    """A server that sends the same octets for whatever it is asked, and closes; not with ``STALL`` at their end.

    Attributes:
        says: What it sends.
        port: Its port.
    """

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def turn(self, says: bytes) -> None:
        """Say something else from now on, on new connections."""
        self.says = says
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(ConnectionError):
                while await reader.read(65_536):
                    writer.write(self.says.removesuffix(STALL))
                    await writer.drain()
                    if not self.says.endswith(STALL):
                        break
        finally:
            self._writers.discard(writer)
            writer.close()


def _ldap(tag: int, *content: bytes, number: int = 1) -> bytes:
    return ber.element(ber.SEQUENCE, ber.integer(number), ber.element(tag, *content))


def _done(code: int, tag: int = 0x65, number: int = 1) -> bytes:
    result = ber.integer(code, ber.ENUMERATED), ber.octets(b""), ber.octets(b"as it is")
    return _ldap(tag, *result, number=number)


_ENTRY: Final = _ldap(0x64, ber.octets(b"cn=alice,dc=example"), ber.element(ber.SEQUENCE))
_REFERENCE: Final = _ldap(0x73, ber.octets(b"ldap://other.example/dc=example"))


def _http(status: str, body: bytes = b"false", *fields: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


class Kind(NamedTuple):
    """A kind of source: what its server says for yes, for no, and for all that is neither."""

    yes: Sequence[bytes]
    no: Sequence[bytes]
    halves: Sequence[bytes]


KINDS: Final = {
    "socketmap": Kind(
        yes=[b"6:OK box,"],
        no=[b"9:NOTFOUND ,", b"8:NOTFOUND,"],
        halves=[
            b"", STALL, b"8:NOTFOUND", b"8:NOTFOUND" + STALL, b"8:NOTFO", b"NOTFOUND", b"NOTFOUND\n", b"0:,", b"2:NO,",
            b"8:notfound,", b"7:NOTFOUN,", b"8:NOTFOUND,8:NOTFOUND,", b"08:NOTFOUND,", b"4:TEMP,", b"7:TIMEOUT,",
            b"4:PERM,", b"14:PERM not found,",
        ],
    ),
    "tcp_table": Kind(
        yes=[b"200 box\n"],
        no=[b"500 not found\n", b"500\n"],
        halves=[
            b"", STALL, b"500", b"500 not found", b"500 not" + STALL, b"\n", b"400 busy\n", b"404 not found\n",
            b"550 not found\n", b"5000 not found\n", b"500-not\n", b"500 not found\n500 not found\n", b"NOTFOUND\n",
        ],
    ),
    "http": Kind(
        yes=[_http("200 OK", b"true"), _http("200 OK", b'{"exists": true}')],
        no=[_http("200 OK"), _http("200 OK", b'{"exists": false}'), _http("404 Not Found", b"")],
        halves=[
            b"", STALL, b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 404", _http("200 OK", b"false", length=6),
            _http("200 OK", b'{"exists": false', length=17), _http("200 OK", b"false", length=6) + STALL,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfalse\r\n",
            b'HTTP/1.1 200 OK\r\n\r\n{"exists": fal', _http("200 OK", b""), _http("200 OK", b'{"exists": null}'),
            _http("200 OK", b"{}"), _http("200 OK", b"0"), _http("200 OK", b'"false"'), _http("200 OK", b"[false]"),
            _http("200 OK", b"<html>false</html>"), _http("200 OK", b"\x1f\x8b\0\0\0", "Content-Encoding: gzip"),
            *(_http(status) for status in (
                "201 Created", "202 Accepted", "204 No Content", "206 Partial Content", "301 Moved", "302 Found",
                "304 Not Modified", "400 Bad Request", "401 Unauthorized", "403 Forbidden", "405 Method Not Allowed",
                "408 Request Timeout", "410 Gone", "418 Teapot", "429 Too Many Requests", "500 Broken",
                "502 Bad Gateway", "503 Busy", "504 Gateway Timeout", "599 x",
            )),
        ],
    ),
    "ldap": Kind(
        yes=[_ENTRY + _done(0), _ENTRY + _done(4), _REFERENCE + _ENTRY + _done(0), _ENTRY + _REFERENCE + _done(3)],
        no=[_done(0)],
        halves=[
            b"", STALL, _done(0)[:-1], _done(0)[:-1] + STALL, _ENTRY, _REFERENCE, _REFERENCE + _done(0),
            _REFERENCE + _done(32), _done(0, 0x61), _done(0, 0x78), _done(0, 0x79), _done(0, number=7),
            _done(0, number=0), b"\x30\x03\x02\x01\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n",
            *(_done(code) for code in (1, 2, 3, 4, 7, 8, 10, 11, 12, 14, 16, 32, 34, 49, 50, 51, 52, 53, 80, 123)),
        ],
    ),
}  # fmt: skip


def _lookup(kind: str, port: int) -> Lookup:
    """What asks a server of a kind."""
    match kind:
        case "socketmap":
            server = {"server": f"127.0.0.1:{port}", "map": "users"}
            return TableLookup(SocketmapOptions.model_validate(server), Socketmap("users"))
        case "tcp_table":
            return TableLookup(TcpOptions.model_validate({"server": f"127.0.0.1:{port}"}), TcpTable())
        case "http":
            url = f"http://127.0.0.1:{port}/{{address}}"
            return HttpLookup(HttpOptions.model_validate({"url": url, "not_found": "no"}))
    ldap: dict[str, object] = {"server_host": f"ldap://127.0.0.1:{port}", "search_base": "dc=example", "bind": False}
    return LdapLookup(LdapOptions.model_validate(ldap))


class Asked:
    """The policy ``recipient`` with one source, whose memory has a clock that is set."""

    def __init__(self, lookup: Lookup) -> None:
        self.now = 0.0
        options = CacheOptions.model_validate({"unknown": f"{UNKNOWN:g}s", "yes": "1000s", "no": "1000s"})
        self.source = CachedSource("source", lookup, options, timeout=TIMEOUT, monotonic=lambda: self.now)

    async def says(self) -> str:
        """What it says of an address, a refusal for good marked."""
        site = Site(domains=[domain("example.com", recipients=self.source)])
        transaction = site.transaction()
        recipient = site.recipient(transaction, "alice@example.com")
        finding = await run(site.policy(KnownRecipient), Stage.RCPT, transaction, recipient)
        if finding is None:
            return "taken"
        return "refused" if finding.outcome.action is Action.REJECT else finding.outcome.name


@asynccontextmanager
async def asking(lookup: Lookup) -> AsyncIterator[Asked]:
    """The policy, with a source that asks this way."""
    asked = Asked(lookup)
    try:
        yield asked
    finally:
        await asked.source.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_source_says_yes_and_no_in_so_many_words(kind: str) -> None:
    """The words for it lead to the recipient taken, and refused."""
    for words, wanted in ((KINDS[kind].yes, "taken"), (KINDS[kind].no, "refused")):
        for says in words:
            async with CannedServer(says + STALL) as server, asking(_lookup(kind, server.port)) as asked:
                assert (says, await asked.says()) == (says, wanted)


@pytest.mark.parametrize(
    ("kind", "half"),
    [
        pytest.param(kind, half, id=f"{kind} {number}")
        for kind, of_kind in KINDS.items()
        for number, half in enumerate(of_kind.halves)
    ],
)
async def test_half_an_answer_of_a_source_refuses_nobody(kind: str, half: bytes) -> None:
    """The recipient is put off, and taken as soon as the source says yes again."""
    async with CannedServer(half) as server, asking(_lookup(kind, server.port)) as asked:
        assert await asked.says() == "unverifiable"
        server.turn(KINDS[kind].yes[0] + STALL)
        asked.now += UNKNOWN
        assert await asked.says() == "taken"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_source_that_is_not_there_refuses_nobody(kind: str) -> None:
    """Nothing listens."""
    async with asking(_lookup(kind, free_port())) as asked:
        assert await asked.says() == "unverifiable"


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "CREATE TABLE users (name text)",
        "CREATE TABLE others (address text)",
    ],
    ids=["empty", "another column", "another table"],
)
async def test_a_database_that_can_not_tell_refuses_nobody(tmp_path: Path, setup: str) -> None:
    """A file without the table or the column says nothing."""
    file = tmp_path / "users.db"
    query = {"url": f"sqlite:///{file}", "query": "SELECT 1 FROM users WHERE address = :address"}
    connection = sqlite3.connect(file, isolation_level=None)
    connection.executescript(setup)
    async with asking(SqlLookup(SqlOptions.model_validate(query), tmp_path)) as asked:
        assert await asked.says() == "unverifiable"
    connection.close()


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + b"\0" * 84, b"half", b"x" * 5000])
async def test_half_a_database_refuses_nobody(tmp_path: Path, content: bytes) -> None:
    """Of a file that is cut off or something else nothing is known."""
    file = tmp_path / "users.db"
    file.write_bytes(content)
    query = {"url": f"sqlite:///{file}", "query": "SELECT 1 FROM users WHERE address = :address"}
    async with asking(SqlLookup(SqlOptions.model_validate(query), tmp_path)) as asked:
        assert await asked.says() == "unverifiable"


@pytest.mark.parametrize("act", [
    kill(), stall(), say(b""), say(b"550 5.1.1 no", then=stall().then), say_and_close("550-5.1.1 half"),
    say("450 4.1.1 no such user yet"), say("451 4.3.0 later"), say("421 4.3.2 bye"), say("550 5.7.1 not from you"),
    say("550 5.1.8 bad sender"), say("554 no"), say("552 5.7.1 no"), say("500 what"), say("502 5.5.1 what"),
    say("503 5.5.1 MAIL first"), say("530 5.7.0 log in"), say("250"), say("nonsense"), say("999 5.1.1 no"),
])  # fmt: skip
async def test_half_an_answer_of_a_backend_refuses_nobody(act: Act) -> None:
    """Whatever the backend says of itself, of us, or by half is no word about the recipient."""
    timeouts: dict[str, Any] = {"timeouts": backend.short(command="300ms")}
    async with FaultServer({"rcpt": act}) as server, backend.group(server.port, **timeouts) as group:
        probe = BackendProbe(group, ProbeOptions.model_validate({"random_test": 0}))
        async with asking(probe) as asked:
            assert await asked.says() != "refused"
