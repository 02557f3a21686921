"""One client's conversation: from the octets of its connection to the reply to its message.

``Conversation`` is the asyncio protocol of a connection and the one task that serves it. The engine (``smtp.server``)
turns octets into events; each event is a step of the ``Reception`` (the chain has its say), and where the chain lets
through, of the backend's ``Delivery``. Read ``_serve`` and the methods below it in order: they are a message's way.

What holds here: the client's 250 at the end of data is the backend's own; whatever goes wrong is a 4xx; no more is
read from the client than the engine can take; a client that vanishes leaves nothing behind at the backend. Deadlines
are kept by the door, which looks at ``deadline`` of every conversation once in a while and calls ``expire``: no timer
a command.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, cast

import structlog

from gateway.backend import AuthRelay, Delivery
from gateway.bell import Bell
from gateway.doors.listening import endpoint_name
from gateway.doors.tls import tls_info
from gateway.recording import PROTOCOL, RESULTS, reply_record
from gateway.records import BackendRecord, Result
from gateway.resolver import ClientName
from gateway.session import Address, Recipient, Session, new_id
from gateway.smtp import reply as replies
from gateway.smtp.events import (
    Auth,
    AuthResponse,
    Bdat,
    Chunk,
    Data,
    EndOfChunk,
    EndOfData,
    Event,
    Fatal,
    FatalReason,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Reset,
    StartTls,
)
from gateway.smtp.reply import Reply
from gateway.smtp.sasl import login_name
from gateway.smtp.server import ServerConnection
from gateway.verdict import Action, Verdict

if TYPE_CHECKING:
    from gateway.doors.proxy_protocol import Addresses
    from gateway.doors.smtp import SmtpDoor
    from gateway.spool import Spool

log = structlog.get_logger("lychgate.smtp")

READ_AHEAD: Final = 65_536
"""Octets the engine may hold unread before reading pauses; uvloop hands over up to 256 KiB at a time."""

TURN: Final = 50
"""Events that a client who sent them all at once gets in a row, before other clients have their turn: some 2 ms."""

LAST_WORDS: Final = 5.0
"""Seconds that a client gets to read what it was sent before the connection's end."""


class _EndError(Exception):
    """The conversation is over.

    Attributes:
        verdict: What ended it, None when the client left.
        told: Whether the client has its last reply already (or the engine has queued it).
    """

    def __init__(self, verdict: Verdict | None = None, *, told: bool = False) -> None:
        super().__init__()
        self.verdict = verdict
        self.told = told


def _protocol_end(reply: Reply, outcome: str, *, told: bool = False) -> _EndError:
    return _EndError(Verdict(Action.DISCONNECT, reply, PROTOCOL, outcome), told=told)


class Conversation(asyncio.Protocol):
    """One connection.

    Args:
        door: The listener's door.
        loop: The running event loop.
        server_address: What the client has connected to, None where the connection must be asked.
        proxied: What the PROXY header said, None where there was none.

    Attributes:
        client_address: By which connections are counted.
        deadline: The loop's time at which the door calls ``expire``.
        task: The task that serves the connection, None before it is connected.
    """

    __slots__ = (
        "_auth",
        "_bell",
        "_buffering",
        "_deciphered",
        "_delivery",
        "_door",
        "_draining",
        "_enciphered",
        "_ended",
        "_engine",
        "_expired",
        "_gone",
        "_idle",
        "_loop",
        "_message_end",
        "_peer",
        "_proxied",
        "_reception",
        "_relay",
        "_sending",
        "_server_address",
        "_session",
        "_session_end",
        "_spool",
        "_transport",
        "_turn",
        "_writable",
        "client_address",
        "deadline",
        "task",
    )

    def __init__(
        self,
        door: "SmtpDoor",
        loop: asyncio.AbstractEventLoop,
        server_address: str | None = None,
        proxied: "Addresses | None" = None,
    ) -> None:
        self.client_address = ""
        self.deadline = float("inf")
        self.task: asyncio.Task[None] | None = None
        self._door = door
        self._server_address = server_address
        self._proxied = proxied
        self._loop = loop
        self._bell = Bell(loop)  # rung for whatever the task waits for: octets, or room to write
        self._engine = ServerConnection(
            door.engine_options,
            tls=door.initial_tls,
            extensions=frozenset(),  # HELO sets them
            auth_required=door.auth_required,
        )
        self._gone = False  # the connection to the client
        self._ended = False  # the client sends nothing more
        self._expired = False
        self._draining = False
        self._idle = False  # waiting for a command with no transaction open
        self._buffering = False  # not reading from the connection
        self._writable = True
        self._sending = False  # at the loop's next turn
        self._turn = 0  # events since others had their turn
        self._enciphered: list[bytes] | None = None  # what came before the handshake, of implicit TLS
        self._deciphered: list[bytes] | None = None  # what came while the handshake is awaited
        self._spool: Spool | None = None
        self._delivery: Delivery | None = None
        self._relay: AuthRelay | None = None
        self._auth: tuple[str, list[bytes]] | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio.Protocol
        if self.task is not None:
            return  # the same connection, now under TLS
        self._peer: tuple[str, int]
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        if self._proxied is not None:
            self._peer = (str(self._proxied.client), self._proxied.client_port)
        else:
            self._peer = (transport.get_extra_info("peername") or ("0.0.0.0", 0))[:2]
        self.client_address = self._peer[0]
        if self._door.implicit_tls:
            self._transport.pause_reading()
            self._enciphered = []  # uvloop reads all the same until the handshake is begun
        refusal = self._door.admit(self)
        self.task = self._loop.create_task(self._run(refusal))

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio.Protocol
        if self._enciphered is not None:
            self._enciphered.append(data)
            return
        if self._deciphered is not None:
            self._deciphered.append(data)
            return
        self._engine.receive_data(data)
        if self._writable:
            self._bell.ring()
        if self._engine.buffered > READ_AHEAD and not self._buffering and not self._transport.is_closing():
            self._buffering = True  # uvloop may read 32 times before others get their turn
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends nothing more; what it sent before is still answered, which TLS does not allow."""
        self._ended = True
        self._bell.ring()
        return self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102 - asyncio.Protocol
        self._gone = self._writable = True
        self._bell.ring()

    def pause_writing(self) -> None:  # noqa: D102 - asyncio.Protocol
        self._writable = False

    def resume_writing(self) -> None:  # noqa: D102 - asyncio.Protocol
        self._writable = True
        self._bell.ring()

    # What the door calls.

    def expire(self) -> None:
        """The deadline has passed."""
        self._expired = True
        self._bell.ring()

    def drain(self) -> None:
        """End the session as soon as no transaction is open."""
        self._draining = True
        if self._idle:
            self._bell.ring()

    # The task.

    async def _run(self, refusal: Reply | None) -> None:
        try:
            self._session = self._new_session()
            self._reception = self._door.reception(self._session, _address(self.client_address)[1])
        except BaseException:  # cancelled too: no client may be left hanging
            self._transport.abort()
            self._door.forget(self)
            raise
        end = _EndError()
        try:
            await self._serve(refusal)
        except _EndError as ended:
            end = ended.with_traceback(None)  # which would hold this frame, and it the exception: a cycle
        except asyncio.CancelledError:
            end = _protocol_end(replies.SHUTTING_DOWN, "shutdown")
        except Exception:
            log.exception("session failed", session=self._session.id)
            end = _EndError(Verdict(Action.DEFER, replies.LOCAL_ERROR, PROTOCOL, "error"))
        await self._close(end)

    async def _close(self, end: _EndError) -> None:
        """Leave nothing behind: at the backend, in the record, on the wire."""
        reply = None if end.verdict is None else end.verdict.reply
        try:
            backend = await self._abort_delivery()
            if self._relay is not None:
                await self._relay.close()
            await self._reception.close(end.verdict, reply, backend)
        finally:
            self._forget_message()
            self._session.resolve_client_name = _not_asked  # the session was in it: no cycle is left behind
            self._door.forget(self)
            self._loop.call_soon(self._hang_up, None if end.told else reply)

    def _hang_up(self, reply: Reply | None) -> None:
        """Send what is left, and these last words; then close."""
        self._send()
        if reply is not None and not self._gone:
            self._transport.write(reply.wire)
        self._transport.close()
        if not self._gone and self._transport.get_write_buffer_size():  # one that reads nothing would stay for ever
            self._loop.call_later(LAST_WORDS, self._transport.abort)

    async def _serve(self, refusal: Reply | None) -> None:  # noqa: C901, PLR0912 - a table of events, read in order
        """The session, command by command."""
        if refusal is not None:  # under implicit TLS without a word: a handshake would keep what is one too many
            raise _protocol_end(refusal, "too_many_connections", told=self._door.implicit_tls)
        if self._door.implicit_tls:
            self._take(await self._start_tls())
        verdict = await self._reception.connect()
        if verdict.reply is not None:
            await self._refuse_client(verdict)
        self._engine.greet(self._door.greeting)
        while True:
            event = await self._event()
            match event:
                case Rcpt():
                    await self._rcpt(event)
                case Mail():
                    self._answer(await self._reception.mail(event.path, event.parameters), replies.SENDER_OK)
                case Data():
                    await self._data()
                case Bdat():
                    await self._bdat()
                case Hello():
                    await self._hello(event)
                case Quit():
                    await self._reset()
                    self._engine.reply(replies.BYE)
                    return
                case Reset():
                    await self._reset()
                    self._engine.reply(replies.OK)
                case Refused():
                    self._session.errors += 1
                case StartTls():
                    await self._starttls_command()
                case Auth() | AuthResponse():
                    await self._authenticate(event)
                case Fatal():
                    reason = event.reason.value
                    log.info("session ended", session=self._session.id, client=self.client_address, reason=reason)
                    raise _protocol_end(event.reply, event.reason.value, told=True)
                case _:
                    raise RuntimeError(f"no step for {event}")

    async def _refuse_client(self, verdict: Verdict) -> None:
        """Refused before the greeting: 554, behind which only QUIT is taken (RFC 5321 3.1), or 421."""
        greeting = self._reception.refuse_client(verdict)
        if verdict.action is not Action.REJECT:
            raise _EndError(replace(verdict, reply=greeting))
        self._engine.greet(greeting)
        while not isinstance(event := await self._event(), Quit | Fatal):
            self._session.errors += isinstance(event, Refused)
        if isinstance(event, Quit):
            self._engine.reply(replies.BYE)
        raise _EndError

    async def _hello(self, event: Hello) -> None:
        await self._reset()
        verdict = await self._reception.helo(event.name, extended=event.extended)
        self._engine.extensions = self._door.extensions()
        self._engine.auth_mechanisms = self._door.auth_mechanisms(self._session)
        self._answer(verdict, self._engine.hello_reply())

    async def _reset(self) -> None:
        """The client gives up the transaction, if there is one."""
        backend = await self._abort_delivery()
        self._forget_message()
        self._reception.abort(backend)

    async def _rcpt(self, event: Rcpt) -> None:
        recipient, verdict = await self._reception.rcpt(event.path, event.parameters)
        if verdict.reply is None:
            delivery = await self._delivery_for(recipient)
            reply = self._reception.told(await delivery.recipient(recipient))
            self._reception.answered(recipient, reply)
            self._engine.reply(reply)
            return
        self._answer(verdict, verdict.reply)

    async def _delivery_for(self, recipient: Recipient) -> Delivery:
        group = self._door.group(self._session, recipient)
        if self._delivery is not None and self._delivery.group != group.name:
            await self._abort_delivery()  # it took none of the recipients before: those it takes decide the group
        if self._delivery is None:
            transaction = self._reception.transaction
            assert transaction is not None  # noqa: S101 - RCPT comes behind MAIL
            if self._relay is not None and self._session.login is not None:
                self._delivery = self._relay.delivery(transaction)
            else:
                self._delivery = group.delivery(transaction)
        return self._delivery

    async def _data(self) -> None:
        verdict = await self._reception.data()
        if verdict.reply is not None:
            await self._end_message(verdict)
            return
        self._engine.reply(replies.START_MAIL_INPUT)
        spool = self._begin_message()
        problem: Reply | None = None
        while isinstance(event := await self._event(), Chunk):
            if problem is None and spool.append(event.data):
                problem = await self._flush(spool)
        assert isinstance(event, EndOfData)  # noqa: S101 - the engine's order
        await self._end_of_data(problem or event.problem)

    async def _bdat(self) -> None:  # noqa: C901, PLR0912 - a table of events, read in order
        """A message in chunks (RFC 3030): the octets of every chunk are read, also those of a refused one."""
        verdict = await self._reception.data()
        problem = verdict.reply
        spool = self._begin_message() if problem is None else None
        while True:
            following = await self._event()
            match following:
                case Chunk():
                    if problem is None and spool is not None and spool.append(following.data):
                        problem = await self._flush(spool)
                case Bdat():
                    pass
                case EndOfChunk():
                    refusal = problem or following.problem
                    if refusal is not None:
                        decided = verdict if verdict.reply is not None else self._reception.problem(refusal)
                        await self._end_message(decided)
                        return
                    self._engine.reply(replies.CHUNK_OK)
                case EndOfData():
                    if verdict.reply is not None:
                        await self._end_message(verdict)
                    else:
                        await self._end_of_data(problem or following.problem)
                    return
                case Reset() | Hello() | Quit():
                    await self._other_than_chunk(following)
                    return
                case Refused():
                    self._session.errors += 1
                case Fatal():
                    raise _protocol_end(following.reply, following.reason.value, told=True)
                case _:
                    raise RuntimeError(f"{following} between chunks")

    async def _other_than_chunk(self, event: Reset | Hello | Quit) -> None:
        """The client gives up a message between its chunks."""
        if isinstance(event, Hello):
            await self._hello(event)
            return
        await self._reset()
        if isinstance(event, Quit):
            self._engine.reply(replies.BYE)
            raise _EndError
        self._engine.reply(replies.OK)

    def _begin_message(self) -> "Spool":
        whole = self._door.timeouts.message
        self._message_end = min(self._loop.time() + whole, self._session_end) if whole else self._session_end
        self._spool = spool = self._door.spool()
        return spool

    async def _flush(self, spool: "Spool") -> Reply | None:
        try:
            await spool.flush()
        except OSError as error:
            log.error("spool failed", session=self._session.id, error=str(error))  # noqa: TRY400 - the disk, not the code
            return replies.INSUFFICIENT_STORAGE
        return None

    async def _end_of_data(self, problem: Reply | None) -> None:
        """The message is there: the chain's last word, then the backend's, which is the client's reply."""
        reception, spool = self._reception, self._spool
        assert spool is not None  # noqa: S101 - made when the message began
        if problem is not None:
            await self._end_message(reception.problem(problem))
            return
        message = spool.message()
        verdict = await reception.message(message)
        if verdict.reply is not None:
            await self._end_message(verdict)
            return
        delivery = self._delivery
        assert delivery is not None  # noqa: S101 - a recipient was accepted
        try:
            reply = reception.told(await delivery.send(message.added, message.forwarded))
        except OSError as error:
            log.error("spool failed", session=self._session.id, error=str(error))  # noqa: TRY400 - no programming error
            await self._end_message(reception.problem(replies.INSUFFICIENT_STORAGE))
            return
        self._delivery = None
        result: Result = "accepted" if reply.is_positive else "deferred" if reply.is_transient else "rejected"
        reception.finish(result, None, reply, _backend_record(delivery))
        self._forget_message()
        self._engine.reply(reply)

    async def _end_message(self, verdict: Verdict) -> None:
        """The transaction ends without the backend: refused or discarded at DATA or at the end of data."""
        backend = await self._abort_delivery()
        self._reception.finish(RESULTS[verdict.action], verdict, verdict.reply, backend)
        self._forget_message()
        self._answer(verdict, replies.ACCEPTED)

    def _forget_message(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _answer(self, verdict: Verdict, reply: Reply) -> None:
        """Reply with the verdict's own words if it has any; a disconnecting one ends the session."""
        if verdict.action is Action.DISCONNECT:
            raise _EndError(verdict)
        self._engine.reply(verdict.reply or reply)

    async def _abort_delivery(self) -> BackendRecord | None:
        """Give up what the backend has of the transaction; returns its part for the record."""
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return None
        await delivery.abort()
        return _backend_record(delivery)

    # TLS and AUTH.

    async def _starttls_command(self) -> None:
        certificate = self._door.certificate
        if certificate is None:
            self._engine.reply(replies.TLS_NOT_AVAILABLE)
            return
        self._transport.pause_reading()
        await self._reset()
        self._engine.reply(replies.READY_FOR_TLS)
        if self._engine.buffered:  # early octets: next_event ends the session
            self._transport.resume_reading()
            return
        self._send()
        deciphered = await self._start_tls()
        self._session.helo_name = None
        self._session.extended = False
        self._engine.tls_started()
        self._take(deciphered)

    def _hand_over(self, enciphered: list[bytes]) -> None:
        """Give the TLS layer what came before it stood."""
        layer = cast("asyncio.BufferedProtocol", self._transport.get_protocol())
        for data in enciphered:
            view = memoryview(data)
            while view:
                buffer = memoryview(layer.get_buffer(len(view)))
                count = min(len(buffer), len(view))
                buffer[:count] = view[:count]
                layer.buffer_updated(count)
                view = view[count:]

    def _take(self, deciphered: list[bytes]) -> None:
        for data in deciphered:
            self.data_received(data)

    async def _start_tls(self) -> list[bytes]:
        """The handshake.

        Returns:
            What the client said through TLS in the same packet as the handshake's end: it comes before this task goes
            on, and must not be taken for octets that came before TLS.

        Raises:
            _EndError: It failed.
        """
        certificate = self._door.certificate
        assert certificate is not None  # noqa: S101 - a listener with TLS has one
        loop = self._loop
        deciphered: list[bytes] = []
        self._deciphered = deciphered
        handshake = loop.create_task(
            loop.start_tls(
                self._transport,
                self,
                certificate.context,
                server_side=True,
                ssl_handshake_timeout=self._door.timeouts.tls_handshake,
            )
        )
        try:
            if self._enciphered is not None:
                # start_tls stops the reading and puts two calls in line, by which it stands between the transport and
                # this and reads again; what came before goes right behind them, ahead of what is read then.
                await asyncio.sleep(0)
                loop.call_soon(self._hand_over, self._enciphered)
                self._enciphered = None
            transport = await handshake
        except OSError as error:  # ssl.SSLError and TimeoutError, too
            reason = str(error) or type(error).__name__
            log.info("TLS handshake failed", session=self._session.id, client=self.client_address, error=reason)
            self._gone = True
            left = isinstance(error, ConnectionResetError)
            raise _EndError(self._reception.tls_failed(reason, left=left), told=True) from None
        finally:
            self._deciphered = None
            handshake.cancel()  # where the wait for it was cut off
        assert transport is not None  # noqa: S101 - what start_tls returns
        self._transport = transport
        self._buffering = False
        self._session.tls = tls_info(transport.get_extra_info("ssl_object"))
        return deciphered

    async def _authenticate(self, event: Auth | AuthResponse) -> None:
        """AUTH is the backend's business (RFC 4954): its challenges and its answer pass through."""
        if isinstance(event, Auth):
            if self._relay is None:
                self._relay = await self._door.auth_relay(self._session)
            initial = event.initial_response
            self._auth = (event.mechanism, [] if initial is None else [initial])
            reply = await self._relay.start(event.mechanism, initial)
        else:
            assert self._relay is not None  # noqa: S101 - the engine's order
            assert self._auth is not None  # noqa: S101 - the same
            self._auth[1].append(event.line)
            reply = await self._relay.respond(event.line)
        if reply.code == 235:  # noqa: PLR2004 - RFC 4954 6
            mechanism, responses = self._auth
            self._session.login = login_name(mechanism, responses)
            login = self._session.login
            log.info("authenticated", session=self._session.id, client=self.client_address, login=login)
        elif not reply.is_positive:
            self._session.refusals += 1
            client, told = self.client_address, str(reply)
            log.info("authentication failed", session=self._session.id, client=client, reply=told)
            await self._relay.close()
            self._relay = None
            # Each guess is on a connection of its own, so the backend can't count them.
            self._engine.error_count += reply.is_permanent
            if self._engine.error_count > self._door.engine_options.errors:
                raise _protocol_end(replies.TOO_MANY_ERRORS, FatalReason.TOO_MANY_ERRORS.value)
        self._engine.reply(reply)

    # Octets in and out.

    async def _event(self) -> Event:
        """The next event; awaits octets, with what was replied so far sent first.

        Raises:
            _EndError: The client is gone or too slow, or the gateway is shutting down.
        """
        engine = self._engine
        event = engine.next_event()
        if event is not None:
            self._turn += 1
            if self._turn >= TURN:
                self._turn = 0
                await asyncio.sleep(0)
            return event
        self._turn = 0
        self._set_deadline()
        self._idle = self._reception.transaction is None
        try:
            while event is None or not self._writable:
                self._send_soon()
                if self._gone or (self._ended and event is None):
                    raise _EndError
                if self._expired:
                    raise _protocol_end(replies.TIMEOUT, "timeout")
                if self._draining and self._idle:
                    raise _protocol_end(replies.SHUTTING_DOWN, "shutdown")
                if self._buffering and event is None and self._writable:
                    self._buffering = False
                    self._transport.resume_reading()
                await self._bell
                event = event or engine.next_event()
                if event is None and self._spool is not None:  # what is read without being kept makes no events
                    self._set_deadline()
        finally:
            self._idle = False
            self.deadline = float("inf")
        return event

    def _set_deadline(self) -> None:
        """Until when the client has to say something: a command, or more of its message."""
        timeouts = self._door.timeouts
        if self._spool is None:
            self.deadline = min(self._loop.time() + timeouts.command, self._session_end)
        else:
            self.deadline = min(self._loop.time() + timeouts.data, self._message_end)

    def _send_soon(self) -> None:
        """Have what was replied so far written at the loop's next turn, with what others are sent."""
        if not self._sending:
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        data = self._engine.data_to_send()
        if data and not self._gone:
            self._transport.write(data)

    # The session's beginning.

    def _new_session(self) -> Session:
        door = self._door
        if self._proxied is not None:
            server = f"{self._proxied.server}:{self._proxied.server_port}"
        else:
            server = self._server_address or endpoint_name(self._transport.get_extra_info("sockname"))
        now = door.clock.now()
        whole = door.timeouts.session
        self._session_end = self._loop.time() + whole if whole else float("inf")
        session = Session(
            id=new_id(now),
            listener=door.name,
            client_address=_address(self.client_address)[0],
            client_port=self._peer[1],
            server_address=server,
            started=now,
            resolver=door.session_resolver(),
            resolve_client_name=_not_asked,
        )
        session.resolve_client_name = _name_finder(session, door.client_name)
        door.name_client(session)
        return session


@lru_cache(maxsize=1024)
def _address(host: str) -> tuple[Address, str]:
    """The address of a peer and its text; without the zone of a link-local one, and an IPv4 one as such."""
    address = ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address, str(address)


def _backend_record(delivery: Delivery) -> BackendRecord:
    return BackendRecord(
        group=delivery.group, server=delivery.server, reply=reply_record(delivery.reply), queue_id=delivery.queue_id
    )


async def _not_asked() -> ClientName:
    raise RuntimeError("the session has just begun, or has ended")


def _name_finder(session: Session, find: Callable[[str], Awaitable[ClientName]]) -> Callable[[], Awaitable[ClientName]]:
    async def resolve() -> ClientName:
        if session.client_name is None:
            session.client_name = await find(str(session.client_address))
        return session.client_name

    return resolve
