"""Opening a connection: TCP or UNIX socket, implicit TLS, greeting, EHLO or LHLO, STARTTLS (RFC 3207).

Opportunistic TLS falls back to plain text, on a new connection, when STARTTLS or the handshake fails. Octets behind the
``220`` to STARTTLS would be an injected reply: the connection is closed (RFC 3207 section 6, CVE-2011-0411).
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from gateway.backend.connection import BackendError, Connection
from gateway.config.backend import BackendOptions, BackendProtocol, BackendTls, BackendTlsMode
from gateway.smtp.client import Command
from gateway.smtp.reply import Reply
from gateway.tls import client_context


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one server listens.

    Attributes:
        name: For people and for its certificate: the host or path.
        addresses: Addresses to try in turn, or one host name for ``getaddrinfo``; empty for a UNIX socket.
        port: The TCP port.
        path: The UNIX socket's path, None for TCP.
    """

    name: str
    addresses: tuple[str, ...] = ()
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def tls_context(options: BackendTls) -> ssl.SSLContext | None:
    """The TLS settings, None without TLS.

    Raises:
        OSError: The file of authorities can't be used.
    """
    if options.mode is BackendTlsMode.OFF:
        return None
    context = client_context(options.ca)
    if options.mode is not BackendTlsMode.VERIFIED:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Opener:
    """Opens connections to one server.

    Args:
        endpoint: The server.
        options: The group's options.
        context: The TLS settings, None without TLS.
        hostname: What EHLO says.

    Attributes:
        endpoint: The server.
        connections: Those that are open, or are just being closed.
    """

    def __init__(
        self, endpoint: Endpoint, options: BackendOptions, context: ssl.SSLContext | None, hostname: str
    ) -> None:
        self.endpoint = endpoint
        self.connections: set[Connection] = set()
        self.timeouts = options.timeouts
        self._tls = options.tls
        self._context = context
        self._hello = "LHLO" if options.protocol is BackendProtocol.LMTP else "EHLO"
        self._hostname = hostname

    async def open(self) -> Connection:
        """A connection that is ready for MAIL.

        Raises:
            BackendError: There is none to be had.
        """
        connection = await self._greeted()
        if self._context is None or self._tls.implicit:
            return connection
        optional = self._tls.mode is BackendTlsMode.OPPORTUNISTIC
        if "STARTTLS" not in connection.engine.capabilities.keywords:
            if optional:
                return connection
            connection.quit()
            raise BackendError("the server does not offer STARTTLS")
        try:
            await self._start_tls(connection)
        except BackendError:
            connection.abort("TLS failed")
            self.connections.discard(connection)  # of a loss in the handshake asyncio may say nothing
            if optional:
                return await self._greeted()
            raise
        except asyncio.CancelledError:
            connection.abort("cancelled")
            raise
        return connection

    async def hello(self, connection: Connection, name: str | None = None) -> Reply:
        """Say EHLO or LHLO; where EHLO is unknown, HELO (RFC 5321 3.2).

        Args:
            connection: The connection.
            name: The name to say, None for the gateway's.

        Raises:
            BackendError: The connection is of no use.
        """
        within = self.timeouts.command
        reply = await connection.command(Command.HELLO, f"{self._hello} {name or self._hostname}", within)
        if reply.code in {500, 502} and self._hello == "EHLO":
            reply = await connection.command(Command.HELLO, f"HELO {name or self._hostname}", within)
        return reply

    async def _greeted(self) -> Connection:
        connection = await self._connect()
        self.connections.add(connection)
        connection.lost.add_done_callback(lambda _: self.connections.discard(connection))
        try:
            greeting = (await connection.replies(1, self.timeouts.greeting))[0]
            if not greeting.is_positive:
                connection.quit()
                raise BackendError(f"the server's greeting was {greeting}", reply=greeting)
            await self._introduce(connection)
        except asyncio.CancelledError:
            connection.abort("cancelled")
            raise
        return connection

    async def _introduce(self, connection: Connection) -> None:
        reply = await self.hello(connection)
        if not reply.is_positive:
            connection.quit()
            raise BackendError(f"the server refused {self._hello}: {reply}", reply=reply)

    @property
    def _server_name(self) -> str:
        """What the certificate must show."""
        return self._tls.name or self.endpoint.name

    def _made(self) -> Connection:
        """What asyncio calls for a new connection."""
        connection = Connection(asyncio.get_running_loop())
        connection.secure = self._tls.implicit
        return connection

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        reason: Exception = OSError("the server has no address")
        tls: dict[str, Any] = {"ssl": self._context, "server_hostname": self._server_name} if self._tls.implicit else {}
        try:
            if self.endpoint.path is not None:
                async with asyncio.timeout(self.timeouts.connect):
                    _, connection = await loop.create_unix_connection(self._made, self.endpoint.path, **tls)
                    return connection
            for address in self.endpoint.addresses:
                try:
                    # Each has its own share: behind an IPv6 address that nobody reaches an IPv4 one may answer.
                    async with asyncio.timeout(self.timeouts.connect / len(self.endpoint.addresses)):
                        _, connection = await loop.create_connection(self._made, address, self.endpoint.port, **tls)
                        return connection
                except OSError as error:  # TimeoutError, too
                    reason = error
            if isinstance(reason, TimeoutError):
                raise reason
        except TimeoutError:
            raise BackendError(f"no connection to {self.endpoint} in time", timed_out=True) from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is none
            reason = error
        raise BackendError(f"no connection to {self.endpoint}: {reason}") from reason

    async def _start_tls(self, connection: Connection) -> None:
        reply = await connection.command(Command.STARTTLS, "STARTTLS", self.timeouts.command)
        if not reply.is_positive:
            raise BackendError(f"the server refused STARTTLS: {reply}", reply=reply)
        if connection.engine.has_early_bytes or connection.fault is not None or connection.transport is None:
            raise BackendError("the server sent octets behind its reply to STARTTLS")
        assert self._context is not None  # noqa: S101 - asked by the caller
        try:
            transport = await asyncio.get_running_loop().start_tls(
                connection.transport,
                connection,
                self._context,
                server_hostname=self._server_name,
                ssl_handshake_timeout=self.timeouts.connect or None,
            )
        except OSError as error:  # SSLError is one
            raise BackendError(f"the TLS handshake failed: {error}") from error
        if transport is None or connection.fault is not None:
            raise BackendError("the connection was lost during the TLS handshake")
        connection.transport = transport
        connection.secure = True
        await self._introduce(connection)
