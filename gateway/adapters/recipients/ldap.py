"""Recipients in a directory, with the settings of Postfix's ldap_table(5) and a client of our own.

One connection to one server carries all questions at the same time (RFC 4511 3.1). It is opened when it is needed:
StartTLS where it is asked for, then a simple bind. When it is lost, or a search fails in a way that may be its fault,
the next question opens another, to the first server that can be reached. A question on a connection that was lost
before its answer is asked once more.

What is searched for is whether an entry exists, so no attribute is sent. ``noSuchObject`` is a no where the base is
made of the address, because then there is no such branch; where the base is fixed, it is a mistake in the
configuration. Referrals are not followed: where a part of the tree is on another server, an entry that was found is a
yes, and none is no no.
"""

import asyncio
import ssl
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from gateway.config.recipients import LdapDereference, LdapOptions, LdapScope
from gateway.lookup import ldap, ldap_filter, template
from gateway.lookup.answer import Answer, UnansweredError, UnverifiableError
from gateway.lookup.ber import BerError
from gateway.lookup.ldap import Kind, Message, ResultCode
from gateway.lookup.ldap_filter import SearchFilter
from gateway.tls import client_context

_SCOPES: Final = {LdapScope.BASE: 0, LdapScope.ONE: 1, LdapScope.SUB: 2}
_DEREFERENCE: Final = {
    LdapDereference.NEVER: 0, LdapDereference.SEARCHING: 1, LdapDereference.FINDING: 2, LdapDereference.ALWAYS: 3,
}  # fmt: skip


_OF_QUESTION: Final = frozenset(
    {ResultCode.NO_SUCH_OBJECT, ResultCode.INVALID_ATTRIBUTE_SYNTAX, ResultCode.INVALID_DN_SYNTAX}
)
"""What the server says of what it was asked for: a client, which chooses the address, must not end the connection."""

PENDING: Final = 50
"""Questions at one time: OpenLDAP ends an anonymous connection that has more than 100 (conn_max_pending)."""


CLOSE_WITHIN: Final = 2.0
"""Seconds that connections have to be gone when the source is closed: TLS says goodbye first."""


class LdapError(UnansweredError):
    """The server or the connection to it failed."""


class _Waiting:
    """A request, and what came of it so far.

    Attributes:
        done: Done with the result.
        wanted: The kind of the result.
        entries: How many entries came.
        references: How many parts of the tree are to be searched on another server (RFC 4511 4.5.3).
    """

    __slots__ = ("done", "entries", "references", "wanted")

    def __init__(self, done: "asyncio.Future[Message]", wanted: Kind) -> None:
        self.done = done
        self.wanted = wanted
        self.entries = self.references = 0


class _Connection(asyncio.Protocol):
    """One connection: requests by number, and what came of each.

    Attributes:
        fault: Why it is of no use any more, None while it is.
        lost: Done when it is gone.
    """

    def __init__(self) -> None:
        self.fault: LdapError | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._decoder = ldap.Decoder()
        self._waiting: dict[int, _Waiting] = {}
        self._last_id = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._take(message)
        except BerError as error:
            self.fail(str(error))

    def eof_received(self) -> None:
        self.fail("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the connection was lost: {exc}" if exc else "the connection was lost")
        if not self.lost.done():
            self.lost.set_result(None)

    @property
    def has_early_bytes(self) -> bool:
        """Whether anything stands behind the last reply: before TLS an injection."""
        return not self._decoder.is_empty

    def next_id(self) -> int:
        """A number for a request."""
        self._last_id = self._last_id % 0x7FFF_FFFF + 1  # RFC 4511 4.1.1: up to 2^31 - 1
        return self._last_id

    async def exchange(self, message_id: int, request: bytes, wanted: Kind) -> "_Waiting":
        """Send a request; returns what came.

        Raises:
            LdapError: The connection was lost before, or the server answered with another kind of result.
        """
        if self.fault is not None or self.transport is None:
            raise self.fault or LdapError("the connection is not open")
        waiting = self._waiting[message_id] = _Waiting(asyncio.get_running_loop().create_future(), wanted)
        self.transport.write(request)
        try:
            await waiting.done
            return waiting
        finally:
            self._waiting.pop(message_id, None)

    def fail(self, reason: str) -> None:
        """Close the connection for this reason."""
        if self.fault is None:
            self.fault = LdapError(reason)
        if self.transport is not None:
            self.transport.abort()
        for waiting in self._waiting.values():
            if not waiting.done.done():
                waiting.done.set_exception(self.fault)

    def _take(self, message: Message) -> None:
        if message.id == 0:  # a notice of disconnection (RFC 4511 4.4.1)
            self.fail(f"the server said {message.text or message.code}")
            return
        waiting = self._waiting.get(message.id)
        if waiting is None:  # of a question that nobody waits for any more
            return
        if message.kind is Kind.SEARCH_ENTRY:
            waiting.entries += 1
        elif message.kind is Kind.SEARCH_REFERENCE:
            waiting.references += 1
        elif message.code is None or waiting.done.done():
            pass
        elif message.kind is not waiting.wanted:
            self.fail(f"the server answered with {message.kind.name} where {waiting.wanted.name} was due")
        else:
            waiting.done.set_result(message)


class LdapLookup:
    """Asks a directory.

    Args:
        options: Where it is, and what is searched for.

    Raises:
        OSError: The file of certificate authorities can't be used.
    """

    folds_case = True

    def __init__(self, options: LdapOptions) -> None:
        self._options = options
        self._filter = SearchFilter.parse(options.query_filter)
        self._base = tuple(template.parts(options.search_base))
        self._fixed_base = not any(isinstance(part, template.Code) for part in self._base)
        self._attributes = [ldap_filter.present(attribute) for attribute in options.result_attribute]
        self._context = _tls_context(options)
        self._connection: _Connection | None = None
        self._connections: set[_Connection] = set()
        self._opening = asyncio.Lock()
        self._places = asyncio.Semaphore(PENDING)

    async def ask(self, local_part: str, domain: str) -> Answer:
        """See ``Lookup``."""
        try:
            encoded = self._filter.encoded(local_part, domain)
            base = template.expand(self._base, local_part, domain, ldap.escaped_dn)
        except template.NoSuchLabelError as error:
            return Answer(False, str(error))
        if self._attributes:
            encoded = ldap_filter.all_of(encoded, ldap_filter.any_of(*self._attributes))
        async with self._places:
            kept = self._connection
            try:
                return await self._search(await self._opened(), base, encoded)
            except LdapError:
                if kept is None or kept.fault is None:
                    raise
            return await self._search(await self._opened(), base, encoded)  # it was lost while it was kept

    def forget(self, domain: str | None) -> None:
        """Nothing is remembered here."""

    async def close(self) -> None:
        """See ``Lookup``."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.fault is None and connection.transport is not None:
            connection.transport.write(ldap.unbind_request(connection.next_id()))
            connection.transport.close()
        if self._connections:
            await asyncio.wait([each.lost for each in self._connections], timeout=CLOSE_WITHIN)
        for each in list(self._connections):
            each.fail("it is not needed any more")

    async def _search(self, connection: _Connection, base: str, encoded: bytes) -> Answer:
        message_id = connection.next_id()
        request = ldap.search_request(
            message_id,
            base=base,
            scope=_SCOPES[self._options.scope],
            dereference=_DEREFERENCE[self._options.dereference],
            seconds=max(1, round(self._options.timeout)),
            encoded_filter=encoded,
        )
        came = await connection.exchange(message_id, request, Kind.SEARCH_DONE)
        result = came.done.result()
        if came.entries:
            return Answer(True, f"an entry below {base}")
        if came.references and result.code in {ResultCode.SUCCESS, ResultCode.NO_SUCH_OBJECT}:
            raise UnverifiableError(f"no entry below {base}, but a part of the tree is on another server")
        if result.code == ResultCode.SUCCESS:
            return Answer(False, f"no entry below {base}")
        if result.code == ResultCode.NO_SUCH_OBJECT and not self._fixed_base:
            return Answer(False, f"no entry {base}")
        if result.code not in _OF_QUESTION:
            connection.fail("a search failed")  # perhaps another server can
        raise UnverifiableError(f"the search failed with code {result.code} {result.text}".rstrip())

    async def _opened(self) -> _Connection:
        """The connection, opened anew where there is none."""
        async with self._opening:
            if self._connection is None or self._connection.fault is not None:
                self._connection = await self._open()
            return self._connection

    async def _open(self) -> _Connection:
        problem: LdapError | None = None
        share = self._options.timeout / len(self._options.server_host)
        for server in self._options.server_host:
            try:
                async with asyncio.timeout(share):  # each has its own share: the next may answer
                    return await self._bound(server)
            except TimeoutError:
                problem = LdapError(f"{server}: no answer in time")
            except OSError as error:  # SSLError is one
                problem = LdapError(f"{server}: {error}")
            except LdapError as error:
                problem = LdapError(f"{server}: {error}")
        raise problem or LdapError("there is no server")

    async def _bound(self, server: str) -> _Connection:
        """A connection to a server on which one can search."""
        connection = await self._connected(server)
        self._connections.add(connection)
        connection.lost.add_done_callback(lambda _: self._connections.discard(connection))
        try:
            if self._options.start_tls:
                await self._start_tls(connection, server)
            if self._options.bind:
                await self._bind(connection)
        except BaseException:  # cancelled, too
            connection.fail("it was not opened to its end")
            raise
        return connection

    async def _connected(self, server: str) -> _Connection:
        loop = asyncio.get_running_loop()
        url = urlsplit(server)
        if url.scheme == "ldapi":
            _, connection = await loop.create_unix_connection(_Connection, unquote(url.netloc))
            return connection
        secure = url.scheme == "ldaps"
        _, connection = await loop.create_connection(
            _Connection, url.hostname or "", url.port or (636 if secure else 389), ssl=self._context if secure else None
        )
        return connection

    async def _start_tls(self, connection: _Connection, server: str) -> None:
        message_id = connection.next_id()
        request = ldap.start_tls_request(message_id)
        result = (await connection.exchange(message_id, request, Kind.EXTENDED_RESPONSE)).done.result()
        if result.code != ResultCode.SUCCESS:
            raise LdapError(f"StartTLS was refused: {result.code} {result.text}".rstrip())
        if connection.has_early_bytes or connection.transport is None:
            raise LdapError("the server sent octets behind its reply to StartTLS")
        transport = await asyncio.get_running_loop().start_tls(
            connection.transport, connection, self._context, server_hostname=urlsplit(server).hostname
        )
        if transport is None:
            raise LdapError("the connection was lost during the TLS handshake")
        connection.transport = transport

    async def _bind(self, connection: _Connection) -> None:
        options = self._options
        password = "" if options.bind_pw is None or not options.bind_dn else options.bind_pw.get_secret_value()
        message_id = connection.next_id()
        request = ldap.bind_request(message_id, options.version, options.bind_dn, password)
        result = (await connection.exchange(message_id, request, Kind.BIND_RESPONSE)).done.result()
        if result.code != ResultCode.SUCCESS:
            raise LdapError(f"the bind was refused: {result.code} {result.text}".rstrip())


def _tls_context(options: LdapOptions) -> ssl.SSLContext:
    context = client_context(options.tls_ca_cert_file)
    if not options.tls_require_cert:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
