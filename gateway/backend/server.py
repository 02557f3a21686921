"""One server of a group: its kept connections and its health.

A server is down after ``health.failures`` faults without a message between them, or when the first contact with it
fails. Faults are a refused or stalled connection, a refusing greeting, garbage, a time-out, a loss in the middle of a
transaction; not the loss of a connection that was kept for a while, and not a 421 within a session, which may be about
the client that XCLIENT announced. A server that is down gets no mail; it is asked again after an eighth of
``health.interval``, then after a quarter, half and the whole of it, and whenever mail finds no server up. One that
answers is up again, on probation: until it has taken a message one more fault makes it down.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.backend.connection import QUIT_GRACE, BackendError, Connection
from gateway.backend.opening import Endpoint, Opener
from gateway.backend.pool import Pool
from gateway.config.backend import BackendOptions

if TYPE_CHECKING:
    from gateway.smtp.client import Capabilities

_log = structlog.get_logger("gateway.backend")


class Server:
    """One server: its pool and its health.

    Attributes:
        name: For records and logs.
        opener: Opens connections to it.
        pool: Its kept connections.
        capabilities: What it offered last, None before the first contact.
        is_up: Whether it gets mail.
        contact: The loop's time of its last sign of life.
        next_probe: When it is to be asked next, while it is down.
        probed: When it was asked last by a probe.
    """

    def __init__(self, endpoint: Endpoint, opener: Opener, options: BackendOptions) -> None:
        self.name = str(endpoint)
        self.endpoint = endpoint
        self.opener = opener
        self.capabilities: Capabilities | None = None
        self.is_up = True
        self.contact = float("-inf")
        self.next_probe = 0.0
        self.probed = 0.0
        self._failures = 0
        self._probes = 0
        self._health = options.health
        self.pool = Pool(self._open, limit=options.connections, idle=options.idle, messages=options.messages)

    async def _open(self) -> Connection:
        try:
            connection = await self.opener.open()
        except BackendError as error:
            self.failed(error)
            raise
        self.capabilities = connection.engine.capabilities
        self.contact = asyncio.get_running_loop().time()
        if not self.is_up:
            self.is_up = True
            self._failures = self._health.failures - 1  # it is on probation until it has taken a message
            _log.info("backend_server_up", server=self.name)
        return connection

    def alive(self, now: float) -> None:
        """It has answered the end of a message."""
        self._failures = self._probes = 0
        self.contact = now

    def failed(self, error: BackendError) -> None:
        """It had a fault on a connection that was not an old one."""
        self._failures += 1
        if self.is_up and (self._failures >= self._health.failures or self.capabilities is None):
            self.is_up = False
            _log.warning("backend_server_down", server=self.name, reason=str(error))
            self.pool.drop()
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
        self.pool.enter()
        try:
            self.pool.give_back(await self.pool.open())
        except BackendError:
            return  # ``failed`` has noted it

    async def close(self) -> None:
        """Close the free connections, and wait a moment until all that are leaving are gone."""
        self.pool.retire()
        leaving = [connection.lost for connection in self.opener.connections if connection.is_leaving]
        if leaving:
            await asyncio.wait(leaving, timeout=QUIT_GRACE + 1)
