"""A server group: which of its servers are up, and which takes the next message.

A server is down after ``health.failures`` faults in a row (a refused or stalled connection, a refusing greeting, a 421, a
time-out; a lost kept connection alone is none), or when the first contact fails. A server that is down gets no mail; it is
asked again after an eighth of ``health.interval``, then a quarter, half and the whole of it. A server that is up, has no
open connection and was not heard of for an interval is asked too; that connection joins the pool.

``failover``: the first server that is up takes the mail; one whose connections are all taken is passed over for the next.
``round_robin``: each message begins at the next server. The MX hosts of a domain stand in the order of their preference,
equal ones shuffled (RFC 5321 5.1); they are looked up again when the answer grows old.
"""

import asyncio
from typing import Final

import structlog

from gateway.backend.connection import Connection, Fault
from gateway.backend.delivery import Delivery
from gateway.backend.next_hop import Found, expand
from gateway.backend.opening import Endpoint, Opener, tls_context
from gateway.backend.pool import Pool
from gateway.config.backend import BackendOptions, BackendProtocol, NextHop, NextHopKind, Order
from gateway.resolver import Resolver
from gateway.session import Transaction
from gateway.smtp.client import Capabilities

_log = structlog.get_logger("gateway.backend")

LOOKUP_RETRY: Final = 30.0
"""Seconds after which an MX look-up that failed is repeated; also the least for which an answer is used."""


class Server:
    """One server: its pool and its health.

    Attributes:
        name: For records and logs.
        opener: Opens connections to it.
        pool: Its kept connections.
        capabilities: What it offered last, None before the first contact.
        is_up: Whether it gets mail.
        contact: The loop's time of its last sign of life.
    """

    def __init__(self, endpoint: Endpoint, opener: Opener, options: BackendOptions) -> None:
        self.name = str(endpoint)
        self.endpoint = endpoint
        self.opener = opener
        self.capabilities: Capabilities | None = None
        self.is_up = True
        self.contact = float("-inf")
        self.next_probe = 0.0
        self._failures = 0
        self._probes = 0
        self._health = options.health
        self.pool = Pool(self._open, limit=options.connections, idle=options.idle, messages=options.messages)

    async def _open(self) -> Connection:
        try:
            connection = await self.opener.open()
        except Fault as fault:
            self.failed(fault)
            raise
        self.capabilities = connection.engine.capabilities
        self.alive()
        return connection

    def alive(self) -> None:
        """It answered."""
        self._failures = self._probes = 0
        self.contact = asyncio.get_running_loop().time()
        if not self.is_up:
            self.is_up = True
            _log.info("backend_server_up", server=self.name)

    def failed(self, fault: Fault) -> None:
        """It had a fault on a connection that was not an old one."""
        self._failures += 1
        if self.is_up and (self._failures >= self._health.failures or self.capabilities is None):
            self.is_up = False
            _log.warning("backend_server_down", server=self.name, reason=str(fault))
        if not self.is_up:
            delay = self._health.interval / max(1, 8 >> self._probes)
            self._probes += 1
            self.next_probe = asyncio.get_running_loop().time() + delay

    def probe_due(self, now: float) -> float:
        """When it is to be asked next."""
        if not self.is_up:
            return self.next_probe
        if self.pool.count:
            return now + self._health.interval
        return self.contact + self._health.interval

    async def probe(self) -> None:
        """Open a connection and keep it."""
        if not self.pool.has_room:
            return
        try:
            self.pool.give_back(await self.pool.connect())
        except Fault:
            return  # ``failed`` has noted it


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
        self._task: asyncio.Task[None] | None = None
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

    async def start(self) -> None:
        """Ask every server once, and begin to watch them. Servers that are down are no error."""
        await self._look_up()
        await asyncio.gather(*(self._first_probe(server) for server in self._servers))
        self._task = asyncio.get_running_loop().create_task(self._watch(), name=f"health of backend {self.name}")

    async def _first_probe(self, server: Server) -> None:
        """Ask a server, but do not hold the gateway's start up for one that stalls."""
        try:
            async with asyncio.timeout(self.options.timeouts.connect):
                await server.probe()
        except TimeoutError:
            server.failed(Fault("no greeting in time", timed_out=True))

    async def stop(self) -> None:
        """Stop watching and close the free connections; deliveries under way go on to their end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await asyncio.gather(*(server.pool.close() for server in self._servers))

    def candidates(self) -> tuple[Server, ...]:
        """The servers in the order in which the next message tries them."""
        servers = self._servers
        if self.options.order is Order.ROUND_ROBIN and len(servers) > 1:
            self._next = (self._next + 1) % len(servers)
            return servers[self._next :] + servers[: self._next]
        return servers

    async def connection(self, tried: set[Server], *, fresh: bool) -> tuple[Server, Connection, bool]:
        """A connection to a server that is up and was not tried; servers that fail here are added to ``tried``.

        Args:
            tried: Servers not to use.
            fresh: Whether it must be a new one, because a kept one just failed.

        Returns:
            The server, the connection, and whether it is a kept one.

        Raises:
            Fault: There is none.
        """
        last = Fault("no server is up")
        while servers := [server for server in self.candidates() if server.is_up and server not in tried]:
            for server in servers:
                if not fresh:
                    connection = server.pool.take()
                    if connection is not None:
                        return server, connection, True
                else:
                    server.pool.make_room()
                if server.pool.has_room:
                    try:
                        return server, await server.pool.connect(), False
                    except Fault as fault:
                        tried.add(server)
                        last = fault
                        break
            else:
                server = servers[0]
                return server, await server.pool.wait(self.options.queue), True
        raise last

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        interval = self.options.health.interval
        while True:
            await asyncio.sleep(max(0.01, interval / 8))
            now = loop.time()
            if any(found.expires <= now for found in self._found.values()):
                await self._look_up()
            due = [server for server in self._servers if server.probe_due(now) <= now]
            if due:
                await asyncio.gather(*(server.probe() for server in due))

    async def _look_up(self) -> None:
        """Ask for the MX hosts whose answers have grown old."""
        now = asyncio.get_running_loop().time()
        default = 24 if self.options.protocol is BackendProtocol.LMTP else 25
        for hop in self.options.servers:
            old = self._found.get(hop)
            if hop.kind is NextHopKind.MX and (old is None or old.expires <= now):
                found = await expand(self._resolver, hop, hop.port or default)
                if found is None:  # nothing is known now: what was known stays
                    endpoints = () if old is None else old.endpoints
                    self._found[hop] = Found(endpoints, now + LOOKUP_RETRY)
                    _log.warning("backend_lookup_failed", backend=self.name, domain=hop.target)
                else:
                    self._found[hop] = Found(found.endpoints, now + max(found.expires, LOOKUP_RETRY))
        self._place()

    def _place(self) -> None:
        """Make ``servers`` of the next hops, keeping those that stay."""
        default = 24 if self.options.protocol is BackendProtocol.LMTP else 25
        endpoints: list[Endpoint] = []
        for hop in self.options.servers:
            match hop.kind:
                case NextHopKind.UNIX:
                    endpoints.append(Endpoint(name=hop.target, path=hop.target))
                case NextHopKind.HOST:
                    endpoints.append(Endpoint(name=hop.target, addresses=(hop.target,), port=hop.port or default))
                case NextHopKind.MX:
                    endpoints += self._found.get(hop, Found((), 0.0)).endpoints
        old = {server.endpoint: server for server in self._servers}
        self._servers = tuple(
            old.pop(endpoint, None) or self._server(endpoint) for endpoint in dict.fromkeys(endpoints)
        )
        for server in old.values():
            server.pool.retire()

    def _server(self, endpoint: Endpoint) -> Server:
        return Server(endpoint, Opener(endpoint, self.options, self._context, self.hostname), self.options)
