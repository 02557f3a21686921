"""One client's conversation: from the first octets of its connection to the reply to its message.

``Conversation`` is the one task that serves a connection. The engine (``smtp.server``) makes events of what comes over
the client's ``link``; each event sets a step going (``_STEPS``, at the end) of the ``Admission``, where the chain has
its say, and where the chain lets through, of the backend's ``Delivery``. Read ``_serve`` and the methods below it in
order: they are a message's way.

What holds here: the client's 250 at the end of data is the backend's own; whatever goes wrong is a 4xx; a client that
vanishes leaves nothing behind at the backend.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import structlog

from gateway.admission.admission import Admission
from gateway.admission.recording import reply_record, result_of
from gateway.backend import Delivery, ServerGroup
from gateway.doors.authentication import Authentication
from gateway.doors.link import ClientLink, SessionEnd, protocol_end
from gateway.doors.tls import tls_info
from gateway.records import BackendRecord
from gateway.session import Address, Session, new_id
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
from gateway.verdict import PROTOCOL, Action, Verdict

if TYPE_CHECKING:
    from gateway.doors.smtp import SmtpDoor
    from gateway.spool import Spool

log = structlog.get_logger("lychgate.smtp")


class Conversation:
    """One session.

    Args:
        door: The listener's door.
        link: The connection to the client.

    Attributes:
        link: The connection to the client.
        task: The task that runs it, None before the door has made one.
    """

    __slots__ = (
        "_admission",
        "_authentication",
        "_delivery",
        "_door",
        "_engine",
        "_is_ending",
        "_session",
        "_spool",
        "link",
        "task",
    )

    def __init__(self, door: "SmtpDoor", link: ClientLink) -> None:
        self.link = link
        self.task: asyncio.Task[None] | None = None
        self._door = door
        self._engine = link.engine
        self._is_ending = False
        self._spool: Spool | None = None
        self._delivery: Delivery | None = None
        self._authentication: Authentication | None = None

    async def run(self, refusal: Reply | None) -> None:
        """Serve the client to the end; a refusal is all that it hears."""
        try:
            address, client = _address(self.link.client_address)
            self._session = self._new_session(address)
            self._door.name_client(self._session, client, ask=refusal is None)
            self._admission = Admission(self._session, self._door.rules, client)
        except BaseException:  # cancelled too: no client may be left hanging
            self.link.abort()
            self._door.forget(self)
            raise
        try:
            await self._serve(refusal)
            end = _LEFT
        except SessionEnd as ended:
            end = ended.with_traceback(None)  # which would hold this frame, and it the exception: a cycle
        except asyncio.CancelledError:
            end = protocol_end(replies.SHUTTING_DOWN, "shutdown")
        except Exception:
            log.exception("session failed", session=self._session.id)
            end = SessionEnd(Verdict(Action.DEFER, replies.LOCAL_ERROR, PROTOCOL, "error"))
        await self._close(end)

    def break_off(self) -> None:
        """End the session where no transaction is open, whatever it waits for: a handshake, a policy, a backend."""
        if self.task is not None and not self._is_ending and not self._engine.in_transaction:
            self.task.cancel()

    async def _close(self, end: SessionEnd) -> None:
        """Leave nothing behind: at the backend, in the record, on the wire."""
        self._is_ending = True
        reply = None if end.verdict is None else end.verdict.reply
        try:
            backend = self._abort_delivery()
            if self._authentication is not None:
                await self._authentication.close()
            is_silent = end.verdict is None and not self.link.has_spoken
            self._door.silent += is_silent
            is_recorded = not is_silent or self._door.records_silent
            await self._admission.close(end.verdict, reply, backend, is_recorded=is_recorded)
        finally:
            self._forget_message()
            self._door.forget(self)
            self.link.hang_up_soon(None if end.told else reply)

    async def _serve(self, refusal: Reply | None) -> None:
        """The session, command by command."""
        if refusal is not None:  # under implicit TLS without a word: a handshake would keep what is one too many
            outcome = "shutdown" if refusal is replies.SHUTTING_DOWN else "too_many_connections"
            raise protocol_end(refusal, outcome, told=self._door.implicit_tls)
        if self._door.implicit_tls:
            await self._start_tls()
        verdict = await self._admission.connect()
        await self._hold_back()
        if verdict.reply is not None:
            await self._refuse_client(verdict)
        self._engine.greet(self._door.greeting)
        while type(event := await self.link.event()) is not Quit:
            await _STEPS[type(event)](self, event)
        self._reset()
        self._engine.reply(replies.BYE)

    async def _refuse_client(self, verdict: Verdict) -> None:
        """Refused before the greeting: 554, behind which only QUIT is taken (RFC 5321 3.1), or 421."""
        greeting = self._admission.refuse_client(verdict)
        if verdict.action is not Action.REJECT:
            raise SessionEnd(replace(verdict, reply=greeting))
        self._engine.greet(greeting)
        while not isinstance(event := await self.link.event(), Quit | Fatal):
            self._session.errors += isinstance(event, Refused)
        if isinstance(event, Quit):
            self._engine.reply(replies.BYE)
        raise SessionEnd

    async def _hello(self, event: Hello) -> None:
        self._reset()
        verdict = await self._admission.helo(event.name, extended=event.extended)
        if event.extended:
            self._engine.extensions = self._door.extensions()
        self._engine.auth_mechanisms = self._door.auth_mechanisms(self._session)
        await self._answer(verdict, self._engine.hello_reply())

    async def _mail(self, event: Mail) -> None:
        await self._answer(await self._admission.mail(event.path, event.parameters), replies.SENDER_OK)

    async def _rcpt(self, event: Rcpt) -> None:
        recipient, verdict = await self._admission.rcpt(event.path, event.parameters, self.link.waiting)
        if verdict.reply is not None:
            await self._answer(verdict, verdict.reply)
            return
        await self._hold_back()  # before the backend is asked, which waits for nobody
        group = self._door.group(self._admission.backend)
        if self._delivery is not None and self._delivery.group != group.name:
            self._abort_delivery()  # it took none of the recipients before: those it takes decide the group
        if self._delivery is None:
            self._delivery = self._new_delivery(group)
        self._engine.reply(self._admission.answered(recipient, await self._delivery.recipient(recipient)))

    def _new_delivery(self, group: ServerGroup) -> Delivery:
        transaction = self._admission.transaction
        assert transaction is not None  # noqa: S101 - RCPT comes behind MAIL
        relay = None if self._authentication is None else self._authentication.relay
        if relay is not None and relay.name == group.name and self._session.login is not None:
            return relay.delivery(transaction)
        return group.delivery(transaction)

    async def _data(self, _event: Data) -> None:
        verdict = await self._admission.data()
        if verdict.reply is not None:
            await self._end_message(verdict)
            return
        await self._hold_back()
        self._engine.reply(replies.START_MAIL_INPUT)
        spool = self._begin_message()
        problem: Reply | None = None
        while isinstance(event := await self.link.event(), Chunk):
            if problem is None and spool.append(event.data):
                problem = await self._flush(spool)
        assert isinstance(event, EndOfData)  # noqa: S101 - the engine's order
        if event.data and problem is None and spool.append(event.data):
            problem = await self._flush(spool)
        await self._end_of_data(problem or event.problem)

    async def _bdat(self, _event: Bdat) -> None:  # noqa: C901, PLR0912 - a table of events, read in order
        """A message in chunks (RFC 3030): the octets of every chunk are read, also those of a refused one."""
        verdict = await self._admission.data()
        problem = verdict.reply
        spool = self._begin_message() if problem is None else None
        while True:
            following = await self.link.event()
            match following:
                case Chunk():
                    if problem is None and spool is not None and spool.append(following.data):
                        problem = await self._flush(spool)
                case Bdat():
                    pass
                case EndOfChunk():
                    refusal = problem or following.problem
                    if refusal is not None:
                        decided = verdict if verdict.reply is not None else self._admission.problem(refusal)
                        await self._end_message(decided)
                        return
                    await self._hold_back()
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
                    await self._refused(following)
                case Fatal():
                    await self._fatal(following)
                case _:
                    raise RuntimeError(f"{following} between chunks")

    async def _other_than_chunk(self, event: Reset | Hello | Quit) -> None:
        """The client gives up a message between its chunks."""
        if isinstance(event, Hello):
            await self._hello(event)
            return
        self._reset()
        if isinstance(event, Quit):
            self._engine.reply(replies.BYE)
            raise SessionEnd
        self._engine.reply(replies.OK)

    def _begin_message(self) -> "Spool":
        self.link.expect_message()
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
        admission, spool = self._admission, self._spool
        assert spool is not None  # noqa: S101 - made when the message began
        if problem is not None:
            await self._end_message(admission.problem(problem))
            return
        message = spool.message()
        verdict = await admission.message(message)
        if verdict.reply is not None:
            await self._end_message(verdict)
            return
        await self._hold_back()
        delivery = self._delivery
        assert delivery is not None  # noqa: S101 - a recipient was accepted
        if delivery.group != admission.backend:
            delivery, refusal = await self._redirected(admission.backend)
            if refusal is not None:
                backend = _backend_record(delivery, refusal)
                self._abort_delivery()
                self._end_delivered(admission.delivered(refusal, backend))
                return
        admission.in_doubt = True  # if this ends without an answer nobody knows whether the backend has the message
        try:
            answer = await delivery.send(admission.changes(message).on_top, message.forwarded)
        except OSError as error:
            admission.in_doubt = False
            log.error("spool failed", session=self._session.id, error=str(error))  # noqa: TRY400 - no programming error
            await self._end_message(admission.problem(replies.INSUFFICIENT_STORAGE))
            return
        self._delivery = None
        self._end_delivered(admission.delivered(answer, _backend_record(delivery, answer)))

    async def _redirected(self, backend: str) -> tuple[Delivery, Reply | None]:
        """Open the transaction at another backend, to which the whole message goes in place of its recipients' own.

        Returns:
            The delivery, and the reply by which the backend refuses a recipient.
        """
        transaction = self._admission.transaction
        assert transaction is not None  # noqa: S101 - its message has come
        self._abort_delivery()
        self._delivery = delivery = self._new_delivery(self._door.group(backend))
        for recipient in transaction.accepted:
            answer = await delivery.recipient(recipient)
            if not answer.is_positive:
                return delivery, answer
        return delivery, None

    def _end_delivered(self, reply: Reply) -> None:
        """The transaction has ended with a backend's word."""
        self._forget_message()
        self._engine.reply(reply)

    async def _end_message(self, verdict: Verdict) -> None:
        """The transaction ends without the backend: refused or discarded at DATA or at the end of data."""
        backend = self._abort_delivery()
        self._admission.finish(result_of(verdict.action), verdict, verdict.reply, backend)
        self._forget_message()
        await self._answer(verdict, replies.ACCEPTED)

    def _forget_message(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
            self.link.expect_commands()

    async def _answer(self, verdict: Verdict, reply: Reply) -> None:
        """Reply with the verdict's own words if it has any; a disconnecting one ends the session."""
        await self._hold_back()
        if verdict.reply is not None and verdict.action is Action.DISCONNECT:
            if verdict.by is PROTOCOL:
                self._say_why(verdict.outcome)
            raise SessionEnd(verdict)
        self._engine.reply(verdict.reply or reply)

    async def _hold_back(self) -> None:
        """Hold the reply to the present step back, if a policy's delay says so."""
        delay = self._admission.take_delay()
        if delay:
            await self.link.pause(delay)

    def _abort_delivery(self) -> BackendRecord | None:
        """Give up what the backend has of the transaction; returns its part for the record."""
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return None
        delivery.abort()
        return _backend_record(delivery, None)

    # Other commands.

    async def _rset(self, _event: Reset) -> None:
        self._reset()
        self._engine.reply(replies.OK)

    def _reset(self) -> None:
        """The client gives up the transaction, if there is one."""
        if self._admission.transaction is None:
            return
        backend = self._abort_delivery()
        self._forget_message()
        self._admission.abort(backend)

    async def _refused(self, _event: Refused) -> None:
        """The engine has refused a command."""
        self._session.errors += 1

    async def _fatal(self, event: Fatal) -> None:
        """The engine has ended the session."""
        self._say_why(event.reason.value)
        raise protocol_end(event.reply, event.reason.value, told=True)

    def _say_why(self, reason: str | None) -> None:
        """The gateway ends the session: the log has the reason, whatever was recorded of its transactions."""
        client = self.link.client_address
        self._door.client_lines.info("session ended", session=self._session.id, client=client, reason=reason)

    # TLS and AUTH.

    async def _starttls(self, _event: StartTls) -> None:
        """STARTTLS: what was said before is forgotten (RFC 3207 4.2)."""
        if self._door.certificate is None:
            self._engine.reply(replies.TLS_NOT_AVAILABLE)
            return
        self._engine.reply(replies.READY_FOR_TLS)
        if self._engine.unread.is_empty:  # otherwise the next event ends the session
            await self._start_tls()
            self._session.helo_name = None
            self._session.extended = False

    async def _start_tls(self) -> None:
        certificate, within = self._door.certificate, self._door.timeouts.tls_handshake
        assert certificate is not None  # noqa: S101 - a listener with TLS has one
        try:
            if not self.link.has_spoken:
                await self.link.first_octets(within)
            agreed = await self.link.start_tls(certificate.context, within)
        except OSError as error:  # ssl.SSLError and TimeoutError, too
            reason, client = str(error) or type(error).__name__, self.link.client_address
            self._door.client_lines.info("TLS handshake failed", session=self._session.id, client=client, error=reason)
            left = isinstance(error, ConnectionResetError)
            raise SessionEnd(self._admission.tls_failed(reason, left=left), told=True) from None
        self._session.tls = tls_info(agreed)

    async def _authenticate(self, event: Auth | AuthResponse) -> None:
        if self._authentication is None:
            self._authentication = Authentication(self._door, self._session)
        reply = await self._authentication.answer(event)
        if reply.is_permanent:  # each guess is on a connection of its own, so the backend can't count them
            self._engine.error_count += 1
            if self._engine.error_count > self._door.engine_options.errors:
                self._say_why(FatalReason.TOO_MANY_ERRORS.value)
                raise protocol_end(replies.TOO_MANY_ERRORS, FatalReason.TOO_MANY_ERRORS.value)
        self._engine.reply(reply)

    # The session's beginning.

    def _new_session(self, address: Address) -> Session:
        door, link = self._door, self.link
        now = door.clock.now()
        return Session(
            id=new_id(now),
            listener=door.name,
            client_address=address,
            client_port=link.client_port,
            server_address=link.server_address,
            started=now,
            resolver=door.session_resolver(),
            find_client_name=door.find_client_name,
        )


_STEPS: Final[Mapping[type[Event], Callable[[Conversation, Any], Awaitable[None]]]] = {
    Hello: Conversation._hello,  # noqa: SLF001 - its own
    Mail: Conversation._mail,  # noqa: SLF001 - its own
    Rcpt: Conversation._rcpt,  # noqa: SLF001 - its own
    Data: Conversation._data,  # noqa: SLF001 - its own
    Bdat: Conversation._bdat,  # noqa: SLF001 - its own
    Reset: Conversation._rset,  # noqa: SLF001 - its own
    Refused: Conversation._refused,  # noqa: SLF001 - its own
    StartTls: Conversation._starttls,  # noqa: SLF001 - its own
    Auth: Conversation._authenticate,  # noqa: SLF001 - its own
    AuthResponse: Conversation._authenticate,  # noqa: SLF001 - its own
    Fatal: Conversation._fatal,  # noqa: SLF001 - its own
}
"""What each event sets going, between messages; QUIT ends the session."""


_LEFT: Final = SessionEnd()
"""The client has said QUIT."""


@lru_cache(maxsize=1024)
def _address(host: str) -> tuple[Address, str]:
    """The address of a peer and its text; without the zone of a link-local one, and an IPv4 one as such."""
    address = ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address, str(address)


def _backend_record(delivery: Delivery, reply: Reply | None) -> BackendRecord:
    return BackendRecord(
        group=delivery.group, server=delivery.server, reply=reply_record(reply), queue_id=delivery.queue_id
    )
