"""One connection to a server: an asyncio protocol around ``smtp.client``.

One timer a connection serves all its time-outs: it is moved only when a deadline comes before it, so that a message
costs no timers. Commands are gathered with what others are sent (``gathering``), so that whoever reads them is woken
once for all of them. Whatever goes wrong (loss, garbage, time-out, a 421) is a ``BackendError``; a connection that had
one is closed and keeps it in ``fault``.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import msgspec

from gateway.config.backend import BackendTimeouts
from gateway.gathering import gathering
from gateway.smtp.client import SERVICE_CLOSING, ClientConnection, Command
from gateway.smtp.reply import Reply

if TYPE_CHECKING:
    from gateway.backend.pool import Pool

QUIT_GRACE: Final = 2.0
"""Seconds that a server gets to close the connection after QUIT."""

ABOUT_GATEWAY: Final = frozenset({500, 502, 503, 530})
"""Replies about the gateway, and not about a client or a message: an unknown command, one out of order, or that TLS or
AUTH is wanted first (RFC 5321 4.2.2, RFC 3207 4, RFC 4954 6)."""

_NEVER: Final = float("inf")


class BackendError(Exception):
    """The server or the connection to it failed; nothing is known but what ``replies`` says.

    Attributes:
        reply: The server's own words, when it had any (421, or a refusing greeting).
        replies: The replies to the first commands of the exchange that failed.
        timed_out: Whether it stalled, so that asking it again means waiting again.
        counts: Whether it counts against the server's health.
    """

    def __init__(
        self, reason: str, *, reply: Reply | None = None, timed_out: bool = False, counts: bool = True
    ) -> None:
        super().__init__(reason)
        self.reply = reply
        self.counts = counts
        self.replies: list[Reply] = []
        self.timed_out = timed_out


class Identity(NamedTuple):
    """Who a client is, as servers learn it; two connections for the same one are alike.

    Attributes:
        attributes: Those of XCLIENT and XFORWARD in the order in which they are sent, their values as sent.
        helo_name: Its name in HELO as it is, which EHLO says after XCLIENT.
        login: The name with which it authenticated as it is, None where it did not.
    """

    attributes: Mapping[str, str]
    helo_name: str | None
    login: str | None


class _Message(msgspec.Struct):
    data: bytes
    replies: int
    within: float


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        engine: The conversation.
        loop: The event loop.
        fault: Why it is of no use any more, None while it is.
        pool: The pool that counts it, None outside one.
        idle_until: The loop's time until which it is kept unused.
        messages: How many messages it carried.
        refusals: How many replies were refusals since the server last took a message.
        resets: How many transactions were given up since then.
        needs_reset: Whether a transaction was left open, so that RSET comes first.
        client: Of which client the server was told by XCLIENT, None where of none.
        secure: Whether it is under TLS.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = ClientConnection()
        self.fault: BackendError | None = None
        self.pool: Pool | None = None
        self.idle_until = 0.0
        self.messages = 0
        self.refusals = 0
        self.resets = 0
        self.needs_reset = False
        self.client: Identity | None = None
        self.secure = False
        self.transport: asyncio.Transport | None = None
        self.lost = loop.create_future()
        self.loop = loop
        self._gathering = gathering(loop)
        self._unsent: list[bytes] = []  # until a few turns of the loop have gathered more
        self._replies: list[Reply] = []
        self._wanted = 0
        self._message: _Message | None = None  # to be written once the server asks for it
        self._waiter: asyncio.Future[None] | None = None  # of who waits for replies, room to write, or a fault
        self._paused = False
        self._quitting = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio.Protocol
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio.Protocol
        for reply in self.engine.receive_data(data):
            if reply.code == SERVICE_CLOSING:
                self.fail(BackendError(f"the server said {reply}", reply=reply, counts=False))
                return
            if not reply.is_positive:
                self.refusals += 1
            self._replies.append(reply)
        if self.engine.problem is not None:
            self.fail(BackendError(self.engine.problem))
        elif self._quitting:
            self.abort("QUIT")
        elif self._message is not None and self._replies:
            self._answered(self._message)
        elif len(self._replies) >= self._wanted:
            self._wake()

    def eof_received(self) -> None:  # noqa: D102 - asyncio.Protocol
        self.fail(BackendError("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 - asyncio.Protocol
        self.fail(BackendError(f"the connection was lost: {exc}" if exc else "the connection was lost"))
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:  # noqa: D102 - asyncio.Protocol
        self._paused = True

    def resume_writing(self) -> None:  # noqa: D102 - asyncio.Protocol
        self._paused = False
        if not self._wanted:  # who waits for replies is not woken for less
            self._wake()

    # What the backend layer calls.

    @property
    def has_reply(self) -> bool:
        """Whether a reply is there that nobody has taken: in the middle of data, an early one."""
        return bool(self._replies)

    @property
    def is_paused(self) -> bool:
        """Whether the server takes data slower than it is written."""
        return self._paused

    def serves(self, client: Identity | None) -> bool:
        """Whether it can be used for this client (``client_info``); None where clients are not announced."""
        return client is None or self.client is None or self.client == client or self.is_neutral

    @property
    def is_neutral(self) -> bool:
        """Whether it can be used for any client."""
        return self.client is None or bool(self.engine.capabilities.xclient)

    @property
    def is_leaving(self) -> bool:
        """Whether it is being closed."""
        return self.fault is not None or self._quitting

    def write(self, data: bytes) -> None:
        """Send octets in a few turns of the loop, with what others are sent.

        Raises:
            BackendError: The connection is lost.
        """
        if self.fault is not None:
            raise self.fault
        if not self._unsent:
            self._gathering.add(self._send)
        self._unsent.append(data)

    def write_now(self, data: bytes) -> None:
        """Send octets at once, so that ``is_paused`` says whether the server takes more.

        Raises:
            BackendError: The connection is lost.
        """
        self.write(data)
        self._send()

    def _send(self) -> None:
        unsent = self._unsent
        if unsent and self.fault is None:
            assert self.transport is not None  # noqa: S101 - set since connection_made
            self.transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
        unsent.clear()

    async def drain(self, within: float) -> None:
        """Wait until the server takes more data, or has replied early.

        Raises:
            BackendError: The connection is lost, or nothing was taken in time.
        """
        while self._paused and self.fault is None and not self._replies:
            self._arm(within)
            await self._woken()
        if self.fault is not None:
            raise self.fault

    async def replies(self, count: int, within: float) -> list[Reply]:
        """The replies to the next commands, none of which is a 421.

        Raises:
            BackendError: They do not come; its ``replies`` has those that did.
        """
        if len(self._replies) < count and self.fault is None:
            self._arm(within)
            self._wanted = count
            try:
                await self._woken()
                count = self._wanted
            finally:
                self._wanted = 0
        replies, self._replies = self._replies, []
        if len(replies) >= count:
            return replies
        assert self.fault is not None  # noqa: S101 - the only other reason
        self.fault.replies = replies
        raise self.fault

    def _woken(self) -> asyncio.Future[None]:
        self._waiter = self.loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        """What is waited for has come: who waits goes on at the loop's next turn."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():  # it may have been cancelled
            waiter.set_result(None)

    def message(self, data: bytes, count: int, timeouts: BackendTimeouts) -> Awaitable[list[Reply]]:
        """Send DATA, and the message as soon as the server asks for it.

        Args:
            data: The message, dot-stuffed, and its end.
            count: How many replies its end has.
            timeouts: How long the server may take.

        Returns:
            Its reply to DATA, and where that was 354 those to the end.

        Raises:
            BackendError: As ``replies`` does.
        """
        self.write(self.engine.data())
        self._message = _Message(data, count, timeouts.end_of_data)
        return self.replies(1 + count, timeouts.command)

    def _answered(self, message: "_Message") -> None:
        """The server has answered DATA: nobody has to be woken to send the message."""
        self._message = None
        if self._replies[0].is_positive:
            self.engine.content(None, message.replies)
            self.engine.content_sent = True
            self.write(message.data)
            self._arm(message.within)
        else:
            self._wanted = 1
            self._wake()

    def exchange(self, commands: list[tuple[Command, str]], within: float) -> Awaitable[list[Reply]]:
        """Send commands and await their replies: in one write where the server has PIPELINING (RFC 2920).

        Raises:
            BackendError: The connection is of no use any more.
        """
        if len(commands) == 1 or "PIPELINING" in self.engine.capabilities.keywords:
            self.write(self.engine.commands(commands))
            return self.replies(len(commands), within)
        return self._one_by_one(commands, within)

    async def _one_by_one(self, commands: list[tuple[Command, str]], within: float) -> list[Reply]:
        replies: list[Reply] = []
        try:
            for command in commands:
                self.write(self.engine.commands([command]))
                replies += await self.replies(1, within)
        except BackendError as fault:
            fault.replies = replies
            raise
        return replies

    async def command(self, kind: Command, line: str, within: float) -> Reply:
        """Send one command and await its reply.

        Raises:
            BackendError: The connection is of no use any more.
        """
        return (await self.exchange([(kind, line)], within))[0]

    def fail(self, fault: BackendError) -> None:
        """Close the connection at once, for this reason; what was not sent yet never is."""
        if self.fault is None:
            self.fault = fault
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = _NEVER
        if self.transport is not None:
            self.transport.abort()
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.lost(self)
        self._wake()

    def abort(self, reason: str) -> None:
        """Close the connection at once."""
        self.fail(BackendError(reason))

    def quit(self) -> None:
        """Say QUIT; the connection closes when the server has answered, or after a moment."""
        if self.fault is not None or self._quitting:
            return
        self.write(self.engine.commands([(Command.QUIT, "QUIT")]))
        self._quitting = True
        self._arm(QUIT_GRACE)
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.lost(self)

    def _arm(self, within: float) -> None:
        self._deadline = self.loop.time() + within
        if self._timer_at > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self.loop.call_at(self._deadline, self._on_timer)
        self._timer_at = self._deadline

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = _NEVER
        if (self._waiter is None or self._waiter.done()) and not self._quitting:
            return
        if self.loop.time() >= self._deadline:
            self.fail(BackendError("no answer in time", timed_out=True))
        else:
            self._set_timer()
