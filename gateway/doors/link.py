"""The connection to one client: octets in and events out, replies in and octets out.

``ClientLink`` is the asyncio protocol of a connection. It feeds what comes to the engine (``smtp.server``), whose next
event the conversation's task awaits, writes the replies, and puts TLS under it all. What the events mean it does not
know.

What holds here: no more is read from a client than the engine can take; a client that reads nothing is not read from;
what came before TLS and what came through it are never confused. Deadlines are kept by the door, which looks at
``deadline`` of every connection once in a while and calls ``expire``: no timer a command, and no sum. Replies are
gathered with what others are sent (``gathering``), so that whoever reads them is woken once for all of them.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from gateway.address import address_text
from gateway.doors.listening import endpoint_name
from gateway.smtp import reply as replies
from gateway.smtp.events import Event
from gateway.smtp.reply import Reply
from gateway.smtp.server import ServerConnection, State
from gateway.verdict import PROTOCOL, Action, Verdict

if TYPE_CHECKING:
    from gateway.doors.proxy_protocol import Addresses
    from gateway.doors.smtp import SmtpDoor

READ: Final = 16_384
"""Octets that are read from a connection at a time, while it brings commands."""

READ_OF_MESSAGE: Final = 131_072
"""The same while it brings a message, which is a quarter quicker so."""

READ_AHEAD: Final = 8_192
"""Octets that the engine may hold unread before reading pauses."""

SEND_AHEAD: Final = 8_192
"""Octets of replies that may wait for the client to read before nothing more is carried out for it. One reply, or those
of commands that need no decision, may come on top."""


TURN: Final = 50
"""Events that a client who sent them all at once gets in a row, before other clients have their turn: some 2 ms."""

LAST_WORDS: Final = 5.0
"""Seconds that a client gets to read what it was sent before the connection's end."""

AFTER_HELO: Final = frozenset({"CHUNKING"})
"""Extensions that a client may use which has said HELO: it needs no parameter. EHLO sets what is offered."""

_NEVER: Final = float("inf")

_BUFFER_OF_MESSAGE: Final = memoryview(bytearray(READ_OF_MESSAGE))
_BUFFER: Final = _BUFFER_OF_MESSAGE[:READ]
_BUFFER_OF_TLS: Final = memoryview(bytearray(READ))
"""Where every connection is read into: what comes is taken out before another is read."""

TLS: Final = 76_000
"""Octets that TLS takes for a session: OpenSSL's own, and what waits to be deciphered, or to be sent enciphered."""


class SessionEnd(Exception):  # noqa: N818 - it is no error
    """The session is over.

    Attributes:
        verdict: What ended it, None when the client left.
        told: Whether the client has its last reply already (or the engine has queued it).
    """

    def __init__(self, verdict: Verdict | None = None, *, told: bool = False) -> None:
        super().__init__()
        self.verdict = verdict
        self.told = told


def protocol_end(reply: Reply, outcome: str, *, told: bool = False) -> SessionEnd:
    """The session's end by the protocol's own rules."""
    return SessionEnd(Verdict(Action.DISCONNECT, reply, PROTOCOL, outcome), told=told)


class ClientLink(asyncio.BufferedProtocol):
    """One connection.

    Args:
        door: The listener's door, whose ``begin`` is told when the client is there.
        loop: The running event loop.
        server_address: What the client has connected to, None where the connection must be asked.
        proxied: What the PROXY header said, None where there was none.

    Attributes:
        engine: What the client says, and what it is told.
        client_address: The client's address as text.
        client_port: Its port, 0 if unknown.
        server_address: The address and port that it has connected to.
        is_gone: Whether the connection is lost.
        has_spoken: Whether the client has ever sent anything.
    """

    __slots__ = (
        "_buffering",
        "_diverted",
        "_door",
        "_draining",
        "_ended",
        "_expired",
        "_gathering",
        "_loop",
        "_message_end",
        "_proxied",
        "_sending",
        "_session_end",
        "_since",
        "_special",
        "_transport",
        "_turn",
        "_waiter",
        "_wire",
        "_writable",
        "client_address",
        "client_port",
        "engine",
        "has_spoken",
        "is_gone",
        "server_address",
    )

    def __init__(
        self,
        door: "SmtpDoor",
        loop: asyncio.AbstractEventLoop,
        server_address: str | None = None,
        proxied: "Addresses | None" = None,
    ) -> None:
        self.engine = ServerConnection(
            door.engine_options,
            tls=door.initial_tls,
            extensions=AFTER_HELO,
            auth_required=door.auth_required,
        )
        self.client_address = ""
        self.client_port = 0
        self.server_address = server_address or ""
        self.is_gone = False
        self.has_spoken = False
        self._door = door
        self._loop = loop
        self._proxied = proxied
        self._transport: asyncio.Transport
        self._wire: asyncio.Transport  # the same, or what is below it under TLS
        self._waiter: asyncio.Future[None] | None = None  # of the task that waits for octets, or for room to write
        self._since = 0.0  # when the client's turn began
        self._special = False  # one of these four was set, or the connection was lost
        self._ended = False  # the client sends nothing more
        self._expired = False
        self._draining = False
        self._buffering = False  # not reading from the connection
        self._writable = True
        self._gathering = door.gathering
        self._sending = False  # in a few turns of the loop, with what others are sent
        self._turn = 0  # events since others had their turn
        self._diverted: list[bytes] | None = None  # what comes while TLS is not ready
        self._session_end = _NEVER
        self._message_end: float | None = None  # while a message comes

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio.Protocol
        if self.client_address:
            return  # the same connection, now under TLS
        self._transport = self._wire = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport.set_write_buffer_limits(high=SEND_AHEAD)
        if (proxied := self._proxied) is not None:
            self.client_address, self.client_port = address_text(proxied.client), proxied.client_port
            self.server_address = f"{address_text(proxied.server)}:{proxied.server_port}"
        else:
            self.client_address, self.client_port = (transport.get_extra_info("peername") or ("0.0.0.0", 0))[:2]
            self.server_address = self.server_address or endpoint_name(transport.get_extra_info("sockname"))
        if self._door.implicit_tls:
            self._diverted = []
        if whole := self._door.timeouts.session:
            self._session_end = self._loop.time() + whole
        self._door.begin(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002, D102 - asyncio.BufferedProtocol
        return _BUFFER if self._message_end is None else _BUFFER_OF_MESSAGE

    def buffer_updated(self, nbytes: int) -> None:  # noqa: D102 - asyncio.BufferedProtocol
        data = bytes(_BUFFER_OF_MESSAGE[:nbytes])
        if self._diverted is not None:
            self._diverted.append(data)
            if not self.has_spoken or len(self._diverted) > 1:  # enough: more is read when TLS is ready
                self._wire.pause_reading()  # uvloop reads all the same until the handshake is begun
            if not self.has_spoken:
                self.has_spoken = True
                self._wake()
            return
        self.has_spoken = True
        engine = self.engine
        engine.receive_data(data)
        if self._writable:
            self._wake()
        unread = engine.unread
        if not unread.is_empty and len(unread) > READ_AHEAD:
            self._read_no_further()

    def _read_no_further(self) -> None:
        """More waits than may: uvloop may read 32 times before others get their turn."""
        if not self._buffering and not self._transport.is_closing():
            self._buffering = self._special = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends nothing more; what it sent before is still answered, which TLS does not allow."""
        self._ended = self._special = True
        self._wake()
        return self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102 - asyncio.Protocol
        if not self.is_gone:
            self._door.lost(self)
        self.is_gone = self._writable = self._special = True
        self._wake()

    def pause_writing(self) -> None:  # noqa: D102 - asyncio.Protocol
        self._writable = False

    def resume_writing(self) -> None:  # noqa: D102 - asyncio.Protocol
        self._writable = True
        self._wake()

    # What the door calls.

    @property
    def deadline(self) -> float:
        """The loop's time at which the door calls ``expire``."""
        if not self.is_awaited:
            return _NEVER
        timeouts = self._door.timeouts
        if self._message_end is None:
            return min(self._since + timeouts.command, self._session_end)
        return min(self._since + timeouts.data, self._message_end)

    def expire(self) -> None:
        """The deadline has passed."""
        self._expired = self._special = True
        self._wake()

    @property
    def is_awaited(self) -> bool:
        """Whether the session waits for the client, and for nothing else."""
        return self._waiter is not None and not self._waiter.done()

    def drain(self) -> None:
        """End the session as soon as no transaction is open."""
        self._draining = self._special = True
        self._wake()

    # What the conversation calls: octets in.

    async def event(self) -> Event:
        """The next event; awaits octets, with what was replied so far sent first.

        Raises:
            SessionEnd: The client is gone or too slow, or the gateway is shutting down.
        """
        engine = self.engine
        event = engine.next_event()
        if event is not None:
            self._turn += 1
            if self._turn < TURN and engine.unsent < SEND_AHEAD:
                return event
            self._send()
            await asyncio.sleep(0)
            if self._writable and not self.is_gone:
                self._turn = 0
                if self._draining:
                    self._look(event)
                return event
        self._turn = 0
        self._expired = False  # the deadline passed in the moment in which the client went on
        self._since = self._loop.time()
        while event is None or not self._writable:
            if not self._sending:
                self._sending = True
                self._gathering.add(self._send)
            if self._special:
                self._look(event)
            await self._woken()
            event = event or engine.next_event()
            if event is None and self._message_end is not None:  # what is read and not kept makes no events
                self._since = self._loop.time()
        return event

    async def pause(self, seconds: float) -> None:
        """Hold back what is replied next; what was replied so far is sent first.

        It ends early where the client has ended its side or the gateway drains its sessions, and with the time limits
        of the session and of a message. What the client sends meanwhile is taken in up to ``READ_AHEAD``; one that has
        sent more is not seen to leave before the pause is over.

        Args:
            seconds: For how long.

        Raises:
            SessionEnd: The client is gone.
        """
        self._send()
        loop = self._loop
        limit = self._session_end if self._message_end is None else self._message_end
        until = min(loop.time() + seconds, limit)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while not (self.is_gone or self._ended or self._draining):
                    await self._woken()
        if self.is_gone:
            raise SessionEnd

    def _woken(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        """Something has changed: the task, if it waits, looks what at the loop's next turn."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():  # it may have been cancelled
            waiter.set_result(None)

    def _look(self, event: Event | None) -> None:
        """See to what is neither octets nor room to write.

        Raises:
            SessionEnd: The session is over.
        """
        if self.is_gone or (self._ended and event is None):
            raise SessionEnd
        if self._expired:
            raise protocol_end(replies.TIMEOUT, "timeout")
        if self._draining and not self.engine.in_transaction:
            raise protocol_end(replies.SHUTTING_DOWN, "shutdown")
        if self._buffering and event is None and self._writable:
            self._buffering = False
            self._transport.resume_reading()

    @property
    def waiting(self) -> int:
        """Octets that the client has sent ahead, and that are not read yet; under TLS with what that takes."""
        unread = len(self.engine.unread)
        return unread if self._transport is self._wire else unread + TLS

    def expect_message(self) -> None:
        """A message comes: it has time limits of its own."""
        whole = self._door.timeouts.message
        self._message_end = min(self._loop.time() + whole, self._session_end) if whole else self._session_end

    def expect_commands(self) -> None:
        """The message is there, or given up."""
        self._message_end = None

    # Octets out.

    def _send(self) -> None:
        self._sending = False
        data = self.engine.data_to_send()
        if data and not self.is_gone:
            self._transport.write(data)

    def hang_up_soon(self, last_words: Reply | None) -> None:
        """Close at the loop's next turn, behind what was replied and these last words."""
        self._loop.call_soon(self._hang_up, last_words)

    def _hang_up(self, last_words: Reply | None) -> None:
        self._send()
        if last_words is not None and not self.is_gone:
            self._transport.write(last_words.wire)
        self._transport.close()
        # One that reads nothing would stay for ever, also where TLS is closed and has nothing left.
        if not self.is_gone and self._wire.get_write_buffer_size():
            self._loop.call_later(LAST_WORDS, self._wire.abort)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # TLS.

    async def first_octets(self, within: float) -> None:
        """Wait for the beginning of the handshake: a client that leaves without a word needs none.

        Args:
            within: How long it may take, in seconds.

        Raises:
            SessionEnd: The client is gone, or the gateway is shutting down.
            TimeoutError: It does not come.
        """
        self._since = self._loop.time()
        try:
            async with asyncio.timeout(within):
                while not self.has_spoken:
                    if self.is_gone or self._ended:
                        raise SessionEnd
                    if self._draining:
                        raise protocol_end(replies.SHUTTING_DOWN, "shutdown", told=True)
                    await self._woken()
        except TimeoutError:
            raise TimeoutError(f"no handshake was begun: longer than {within:g} seconds") from None

    async def start_tls(self, context: ssl.SSLContext, within: float) -> ssl.SSLObject:
        """The handshake: at the beginning, or behind the reply to STARTTLS.

        What the client says through TLS in the same packet as the handshake's end comes before the caller goes on, and
        must not be taken for octets that came before TLS.

        Args:
            context: The listener's.
            within: How long it may take, in seconds.

        Returns:
            What was agreed on.

        Raises:
            OSError: It failed; nothing can be said to the client any more.
        """
        self._send()
        self._transport.pause_reading()
        loop = self._loop
        enciphered, deciphered = self._diverted, list[bytes]()
        if enciphered is None:
            self._diverted = deciphered
        handshake = loop.create_task(self._shake_hands(context, within))
        try:
            # start_tls stops the reading and puts two calls in line, by which it stands between the transport and this
            # and reads again; what came before goes right after them, ahead of what is read then.
            await asyncio.sleep(0)
            loop.call_soon(self._hand_over, enciphered or [])
            self._diverted = deciphered
            transport = await handshake
        except BaseException:  # the transport is closed, and asyncio says nothing of one that is lost in its handshake
            self.connection_lost(None)
            raise
        finally:
            self._diverted = None
            handshake.cancel()  # where the wait for it was cut off
        assert transport is not None  # noqa: S101 - what start_tls returns
        self._transport = transport
        transport.set_write_buffer_limits(high=SEND_AHEAD)
        cast("_Readable", transport).set_read_buffer_limits(high=READ_AHEAD)
        self._buffering = False
        if self.engine.state is State.TLS:
            self.engine.tls_started()
        for data in deciphered:
            self.has_spoken = True
            self.engine.receive_data(data)
        if len(self.engine.unread) > READ_AHEAD:
            self._read_no_further()
        self._wire.resume_reading()
        return cast("ssl.SSLObject", transport.get_extra_info("ssl_object"))

    async def _shake_hands(self, context: ssl.SSLContext, within: float) -> asyncio.Transport | None:
        if self._transport.is_closing():  # the TLS layer would never hear of it, and wait for ever
            raise ConnectionResetError("the client has left")
        return await self._loop.start_tls(
            self._transport,
            self,
            context,
            server_side=True,
            ssl_handshake_timeout=within,
            ssl_shutdown_timeout=LAST_WORDS,
        )

    def _hand_over(self, enciphered: list[bytes]) -> None:
        """Give the TLS layer what came before it stood."""
        if self._transport.is_closing():
            return
        pieces = _Pieces(cast("asyncio.BufferedProtocol", self._wire.get_protocol()))
        self._wire.set_protocol(pieces)
        for data in enciphered:
            pieces.pour(memoryview(data))


class _Readable(Protocol):
    """What the transports of TLS layers have besides."""

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """How much may wait to be deciphered before nothing more is read."""


class _Pieces(asyncio.BufferedProtocol):
    """Stands between a connection and its TLS layer, which would take 256 KiB at a time, and keep as much.

    Args:
        layer: The TLS layer.
    """

    __slots__ = ("_layer",)

    def __init__(self, layer: asyncio.BufferedProtocol) -> None:
        self._layer = layer

    def pour(self, data: memoryview) -> None:
        """Give it octets."""
        layer = self._layer
        while data:
            buffer = memoryview(layer.get_buffer(len(data)))
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            layer.buffer_updated(count)
            data = data[count:]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio.BufferedProtocol
        return _BUFFER_OF_TLS

    def buffer_updated(self, nbytes: int) -> None:
        self.pour(_BUFFER_OF_TLS[:nbytes])

    def eof_received(self) -> bool | None:
        return self._layer.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._layer.connection_lost(exc)

    def pause_writing(self) -> None:
        self._layer.pause_writing()

    def resume_writing(self) -> None:
        self._layer.resume_writing()
