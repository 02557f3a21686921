"""A server group: which of its servers are up, and which takes the next message.

``failover``: the first server that is up takes the mail; one whose connections are all taken is passed over for the
next. ``round_robin``: each message begins at the next server. The MX hosts of a domain stand in the order of their
preference, equal ones shuffled (RFC 5321 5.1); they are looked up again when the answer grows old.

Servers that are down (``server``) are asked again and again; so is one that is up, has no open connection and was not
heard of for ``health.interval``. The connection that comes of it joins the pool. When none is up, mail that comes asks,
too: each server once at a time, for ``timeouts.connect`` at most, so that mail flows as soon as one is back.
"""

import asyncio
from functools import partial
from typing import Final

import structlog

from gateway.backend.auth import AuthRelay
from gateway.backend.connection import BackendError, Connection, Identity
from gateway.backend.delivery import Delivery
from gateway.backend.next_hop import Found, expand
from gateway.backend.opening import Endpoint, Opener, tls_context
from gateway.backend.server import Server
from gateway.config.backend import BackendOptions, BackendProtocol, ClientInfo, NextHop, NextHopKind, Order
from gateway.resolver import Resolver
from gateway.session import Session, Transaction
from gateway.smtp.client import Capabilities

_log = structlog.get_logger("gateway.backend")

ASKING_PAUSE: Final = 0.1
"""Seconds between two questions that mail makes to a server that is down, however much mail comes."""

LOOKUP_RETRY: Final = 30.0
"""Seconds after which an MX look-up that failed is repeated; also the least for which an answer is used."""


class ServerGroup:
    """The servers that take the same mail.

    Args:
        name: Its name in the configuration.
        options: Its options.
        resolver: Asks for MX records.
        hostname: What EHLO says.

    Raises:
        OSError: The file of certificate authorities can't be used.
    """

    def __init__(self, name: str, options: BackendOptions, resolver: Resolver, hostname: str) -> None:
        self.name = name
        self.options = options
        self.hostname = hostname
        self.single_recipient = options.protocol is BackendProtocol.LMTP
        self._resolver = resolver
        self._context = tls_context(options.tls)
        self._next = 0
        self.announces = options.client_info is ClientInfo.XCLIENT
        self._rotate = options.order is Order.ROUND_ROBIN
        self._task: asyncio.Task[None] | None = None
        self._probes: dict[Server, asyncio.Task[None]] = {}
        self._known: Capabilities | None = None
        self._found: dict[NextHop, Found] = {}
        self._servers: tuple[Server, ...] = ()
        self._place()

    @property
    def servers(self) -> tuple[Server, ...]:
        """Its servers in their order."""
        return self._servers

    @property
    def is_up(self) -> bool:
        """Whether a server is up, as far as is known."""
        return any(server.is_up for server in self._servers)

    @property
    def capabilities(self) -> Capabilities | None:
        """What every server that is up offers; what was last known when none is, None before any contact."""
        common: Capabilities | None = None
        for server in self._servers:
            if server.is_up and server.capabilities is not None:
                common = server.capabilities if common is None else common.common(server.capabilities)
        if common is not None:
            self._known = common
        return self._known

    def delivery(self, transaction: Transaction) -> Delivery:
        """A transaction with one of the servers."""
        return Delivery(self, transaction)

    async def authenticate(self, session: Session) -> AuthRelay:
        """A connection of the session's own, over which its client authenticates."""
        return await AuthRelay.open(self, session)

    async def start(self) -> None:
        """Ask every server once, and begin to watch them. Servers that are down are no error."""
        await self._look_up()
        await asyncio.gather(*(self._first_probe(server) for server in self._servers))
        self._task = asyncio.get_running_loop().create_task(self._watch(), name=f"health of backend {self.name}")

    async def _first_probe(self, server: Server) -> None:
        """Ask a server, but do not hold the gateway's start up for one that stalls."""
        try:
            async with asyncio.timeout(2 * self.options.timeouts.connect):  # one is for a TLS handshake that stalls
                await server.probe()
        except TimeoutError:
            server.failed(BackendError("no greeting in time", timed_out=True))

    async def stop(self) -> None:
        """Stop watching and close the free connections; deliveries under way go on to their end."""
        if self._task is not None:
            tasks = [self._task, *self._probes.values()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._task = None
        await asyncio.gather(*(server.close() for server in self._servers))

    def candidates(self) -> tuple[Server, ...]:
        """The servers in the order in which the next message tries them."""
        servers = self._servers
        if self._rotate and len(servers) > 1:
            self._next = (self._next + 1) % len(servers)
            return servers[self._next :] + servers[: self._next]
        return servers

    def at_hand(self, tried: set[Server], client: Identity | None) -> tuple[Server, Connection, bool] | None:
        """A kept connection of the first server in line, None where it takes more than a look (``delivery.Source``)."""
        if not self._servers or self._rotate:
            return None
        server = self._servers[0]
        if not server.is_up or server in tried:
            return None
        connection = server.pool.take(client)
        return None if connection is None else (server, connection, True)

    async def connection(
        self, tried: set[Server], client: Identity | None, *, fresh: bool
    ) -> tuple[Server, Connection, bool]:
        """A connection to a server that is up and was not tried; servers that fail here are added to ``tried``.

        Args:
            tried: Servers not to use.
            client: The client to be announced, None where clients are not.
            fresh: Whether it must be a new one, because a kept one just failed.

        Returns:
            The server, the connection, and whether it is a kept one.

        Raises:
            BackendError: There is none.
        """
        if not tried:
            await self.ask_if_down()
        last = BackendError("no server is up")
        while servers := [server for server in self.candidates() if server.is_up and server not in tried]:
            for server in servers:
                pool = server.pool
                connection = None if fresh else pool.take(client)
                if connection is not None:
                    return server, connection, True
                pool.make_room()
                if pool.has_room:
                    pool.enter()
                    break
            else:  # every place is taken
                server = servers[0]
                connection = await server.pool.wait(self.options.queue, client)
                if connection is not None:
                    return server, connection, True
            try:
                return server, await server.pool.open(), False
            except BackendError as error:
                tried.add(server)
                last = error
        raise last

    async def ask_if_down(self) -> None:
        """When no server is up, wait a moment whether one has come back: until one has, or all have said no."""
        if self.is_up:
            return
        loop = asyncio.get_running_loop()
        for server in self._servers:
            if server not in self._probes:
                self._probe(server, server.probed + ASKING_PAUSE - loop.time())
        while not self.is_up:
            # One that stalls is waited for once, and not by each message that comes meanwhile.
            begun = loop.time() - self.options.timeouts.connect
            fresh = {probe: server.probed for server, probe in self._probes.items() if server.probed > begun}
            if not fresh:
                return
            await asyncio.wait(fresh, timeout=min(fresh.values()) - begun, return_when=asyncio.FIRST_COMPLETED)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        interval = self.options.health.interval
        while True:
            await asyncio.sleep(max(0.01, interval / 8))
            now = loop.time()
            if any(found.expires <= now for found in self._found.values()):
                await self._look_up()
            for server in self._servers:
                if server not in self._probes and server.probe_due(now) <= now:
                    self._probe(server)

    def _probe(self, server: Server, delay: float = 0.0) -> None:
        """Ask a server, in a task of its own: one that stalls must not hold up the others."""
        loop = asyncio.get_running_loop()
        server.probed = loop.time() + max(0.0, delay)
        probe = self._probes[server] = loop.create_task(_ask(server, delay))
        probe.add_done_callback(partial(self._probed, server))

    def _probed(self, server: Server, probe: "asyncio.Task[None]") -> None:
        del self._probes[server]
        if not probe.cancelled() and (error := probe.exception()) is not None:
            _log.error("backend_probe_failed", server=server.name, exc_info=error)

    async def _look_up(self) -> None:
        """Ask for the MX hosts whose answers have grown old."""
        now = asyncio.get_running_loop().time()
        for hop in self.options.servers:
            old = self._found.get(hop)
            if hop.kind is NextHopKind.MX and (old is None or old.expires <= now):
                found = await expand(self._resolver, hop, hop.port or self.options.port)
                if found is None:  # nothing is known now: what was known stays
                    endpoints = () if old is None else old.endpoints
                    self._found[hop] = Found(endpoints, now + LOOKUP_RETRY)
                    _log.warning("backend_lookup_failed", backend=self.name, domain=hop.target)
                else:
                    self._found[hop] = Found(found.endpoints, now + max(found.expires, LOOKUP_RETRY))
        self._place()

    def _place(self) -> None:
        """Make ``servers`` of the next hops, keeping those that stay."""
        endpoints: list[Endpoint] = []
        for hop in self.options.servers:
            match hop.kind:
                case NextHopKind.UNIX:
                    endpoints.append(Endpoint(name=hop.target, path=hop.target))
                case NextHopKind.HOST:
                    endpoints.append(
                        Endpoint(name=hop.target, addresses=(hop.target,), port=hop.port or self.options.port)
                    )
                case NextHopKind.MX:
                    endpoints += self._found.get(hop, Found((), 0.0)).endpoints
        old = {server.endpoint: server for server in self._servers}
        self._servers = tuple(
            old.pop(endpoint) if endpoint in old else self._server(endpoint) for endpoint in dict.fromkeys(endpoints)
        )
        for server in old.values():
            server.pool.retire()

    def _server(self, endpoint: Endpoint) -> Server:
        return Server(endpoint, Opener(endpoint, self.options, self._context, self.hostname), self.options)


async def _ask(server: Server, delay: float) -> None:
    if delay > 0:
        await asyncio.sleep(delay)
    await server.probe()
