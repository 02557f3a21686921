"""One transaction with a server: MAIL and RCPT, the message, the end of data.

The server's replies go on unchanged, with these exceptions, so that a fault is never a refusal and nothing is lost:

- A 421 says that the server goes, not the gateway. Before anything was accepted the transaction is repeated once on a
  new connection or with the next server, unseen by the client; if that fails too, the client gets the text as 451.
- No answer after the end of data was sent: ``BACKEND_UNKNOWN``. Every other fault: ``BACKEND_UNAVAILABLE``.
- A positive reply that is none by RFC 5321 4.3.2 is a fault: replies and commands are out of step.
- So is one that is about the gateway and not about the message: an unknown command, one out of
  order, or that TLS or AUTH is wanted first (500, 502, 503, 530). Its words are passed on in class 4.
- LMTP has a reply for each recipient. Where they differ the client gets a transient one, so that it tries again.

While the client has not sent its data the connection is parked: the pool may call it back, and it may be lost. Then
MAIL and RCPT are repeated before DATA: nothing was sent yet, so that is safe. An answer that differs then is a fault.

A message that was not sent to its end is never completed: the connection is closed without another octet.
"""

import re
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from gateway.backend.client_info import announce, identity, xforward
from gateway.backend.commands import mail_command, needed, rcpt_command
from gateway.backend.connection import ABOUT_GATEWAY, BackendError, Connection, Identity
from gateway.config.backend import BackendOptions, ClientInfo
from gateway.session import Content, Recipient, Transaction
from gateway.smtp import reply as replies
from gateway.smtp.client import SERVICE_CLOSING, Command
from gateway.smtp.data import DotStuffer
from gateway.smtp.reply import Reply

if TYPE_CHECKING:
    from gateway.backend.pool import Pool
    from gateway.backend.server import Server

_log = structlog.get_logger("gateway.backend")

BLOCK: Final = 65_536
"""Octets that are gathered for one write."""

# By names of this module, because members of an enum are slow to find before Python 3.12.
_MAIL: Final = Command.MAIL
_RCPT: Final = Command.RCPT
_RESET: Final = Command.RESET
_XFORWARD: Final = ClientInfo.XFORWARD

# "2.0.0 Ok: queued as 4F1B2C" (Postfix), "OK id=1tX-0001" (Exim), "2.0.0 x9 Message accepted for delivery" (Sendmail)
_QUEUE_ID: Final = re.compile(r"queued as ([\w.-]+)|\bid=([\w.-]+)|^([\w.-]+) Message accepted for delivery")


class Source(Protocol):
    """Where connections come from: a group's pools, or the one connection of an authenticated session."""

    name: str
    options: BackendOptions
    single_recipient: bool
    announces: bool

    def at_hand(self, tried: "set[Server]", client: Identity | None) -> "tuple[Server, Connection, bool] | None":
        """A kept connection of the first server in line, None where that takes more than a look."""
        ...

    async def connection(
        self, tried: "set[Server]", client: Identity | None, *, fresh: bool
    ) -> "tuple[Server, Connection, bool]":
        """A connection, see ``ServerGroup.connection``."""
        ...


class _LacksExtensionError(Exception):
    """The server does not offer what the message needs."""


class Delivery:
    """One transaction with one of a group's servers.

    No method raises for a fault of a server: they return a 4xx reply.

    Args:
        source: Where connections come from.
        transaction: What MAIL and RCPT say.

    Attributes:
        group: The group's name.
        server: The server that was asked last, None before one was.
        queue_id: Under which the server queued the message, where it says so.
    """

    __slots__ = (
        "_accepted", "_broken", "_client", "_connection", "_options", "_parked", "_server", "_source", "_transaction",
        "group", "queue_id", "server",
    )  # fmt: skip

    def __init__(self, source: Source, transaction: Transaction) -> None:
        self.group = source.name
        self.server: str | None = None
        self.queue_id: str | None = None
        self._source = source
        self._options = source.options
        self._transaction = transaction
        self._client = identity(transaction.session) if source.announces else None
        self._server: Server | None = None
        self._connection: Connection | None = None
        self._parked: Pool | None = None
        self._accepted: list[Recipient] = []
        self._broken: Reply | None = None

    async def recipient(self, recipient: Recipient) -> Reply:
        """Ask the server whether it takes the recipient.

        Returns:
            Its reply to RCPT, or to MAIL where it refused that; 4xx for a fault.
        """
        if self._broken is not None:
            return self._broken
        connection = self._unpark()
        reply = None if connection is None else await self._further(connection, recipient)
        if reply is None:
            reply = await self._begin(recipient)
        if reply.is_positive:
            self._accepted.append(recipient)
        return reply

    def abort(self) -> None:
        """Give the transaction up: after any other call has returned or was cancelled; more than once does no harm."""
        connection = self._unpark()
        self._accepted.clear()
        if connection is not None:
            connection.needs_reset = True
            self._release(connection)

    # Taking and giving back connections.

    def surrender(self) -> Connection:
        """Give the parked connection to whoever needs it more (``pool.Parked``)."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - only a parked delivery is asked
        self._connection = self._parked = None
        connection.needs_reset = True
        return connection

    def _park(self, connection: Connection) -> None:
        self._connection = connection
        pool = connection.pool
        if pool is not None:
            self._parked = pool
            pool.park(self, connection.loop.time())

    def _unpark(self) -> Connection | None:
        """The parked connection, None where there is none or it was lost."""
        connection, self._connection = self._connection, None
        if self._parked is not None:
            self._parked.unpark(self)
            self._parked = None
        return None if connection is None or connection.fault is not None else connection

    @staticmethod
    def _release(connection: Connection) -> None:
        if connection.pool is not None:
            connection.pool.give_back(connection)

    # MAIL and RCPT.

    async def _further(self, connection: Connection, recipient: Recipient) -> Reply | None:
        """RCPT in the open transaction; None when the connection is lost, so that it is to be repeated on another."""
        if (
            recipient.parameters
            and not needed(self._transaction, [recipient]) <= connection.engine.capabilities.keywords
        ):
            self._park(connection)
            return replies.BACKEND_LACKS_EXTENSION
        try:
            reply = await connection.command(Command.RCPT, rcpt_command(recipient), self._options.timeouts.command)
        except BackendError as error:
            if not error.timed_out:
                return None
            self._note(error)
            self._broken = replies.BACKEND_UNAVAILABLE
            return self._broken
        except BaseException:  # cancelled too: no half transaction may stay
            connection.abort("cancelled")
            raise
        if reply.code in ABOUT_GATEWAY:
            connection.fail(self._refuses_gateway(reply))
            return None
        self._park(connection)
        return reply

    async def _begin(self, recipient: Recipient | None) -> Reply:
        """Open the transaction: MAIL, the recipients accepted before, and this one.

        Returns:
            The reply to the recipient, or to MAIL where that was refused; without a recipient that to MAIL. 4xx for a
            fault.
        """
        tried: set[Server] = set()
        fresh = False
        problem = replies.BACKEND_UNAVAILABLE
        while True:
            try:
                at_hand = None if fresh else self._source.at_hand(tried, self._client)
                server, connection, kept = at_hand or await self._source.connection(tried, self._client, fresh=fresh)
            except BackendError as error:
                return problem if error.reply is None else _deferred(error.reply)
            self._server = server
            self.server = server.name
            try:
                return await self._transact(connection, server, recipient)
            except _LacksExtensionError:
                self._release(connection)
                tried.add(server)
                problem = replies.BACKEND_LACKS_EXTENSION
            except BackendError as error:
                connection.fail(error)
                if error.reply is not None:
                    problem = _deferred(error.reply)
                if not kept or fresh or error.timed_out:
                    tried.add(server)
                    self._note(error)
                fresh = True
            except BaseException:  # cancelled too: no half transaction may stay
                connection.abort("cancelled")
                raise

    async def _transact(self, connection: Connection, server: "Server", recipient: Recipient | None) -> Reply:
        """MAIL and RCPT on this connection.

        Raises:
            BackendError: The connection is of no use.
            _LacksExtensionError: The server can't take the message.
        """
        commands = self._prologue(connection)
        if self._client is not None:
            refusal = await announce(connection, server.opener, self._client, commands)
            if refusal is not None:
                return _unless_closing(refusal)
        recipients = self._accepted if recipient is None else [*self._accepted, recipient]
        offered = connection.engine.capabilities
        lacking = needed(self._transaction, recipients) - offered.keywords
        if lacking:
            connection.needs_reset = bool(commands)
            raise _LacksExtensionError
        first = len(commands)
        commands.append((_MAIL, mail_command(self._transaction, offered)))
        for each in recipients:
            commands.append((_RCPT, rcpt_command(each)))
        try:
            answers = await connection.exchange(commands, self._options.timeouts.command)
        except BackendError as error:
            if len(error.replies) <= first or error.replies[first].is_positive:
                raise
            answers = error.replies  # it refused MAIL and hung up
        if first and commands[0][0] is _RESET and not answers[0].is_positive:
            raise BackendError(f"the server refused RSET: {answers[0]}")
        mail, *rcpts = answers[first:]
        for answer in (mail, *rcpts) if mail.is_positive else (mail,):
            if answer.code in ABOUT_GATEWAY:
                raise self._refuses_gateway(answer)
        return self._judged(connection, mail, rcpts)

    def _prologue(self, connection: Connection) -> list[tuple[Command, str]]:
        """The commands before MAIL."""
        commands: list[tuple[Command, str]] = []
        if connection.needs_reset:
            commands.append((_RESET, "RSET"))
            connection.needs_reset = False
            connection.resets += 1
        if self._options.client_info is _XFORWARD:
            offered = connection.engine.capabilities.xforward
            commands += [(Command.XFORWARD, line) for line in xforward(identity(self._transaction.session), offered)]
        return commands

    def _judged(self, connection: Connection, mail: Reply, rcpts: list[Reply]) -> Reply:
        """Park the connection with its transaction open, or release it; returns the reply that counts."""
        if not mail.is_positive:
            connection.needs_reset = True  # Postfix holds the SIZE of a refused MAIL against the next one
            self._release(connection)
            return mail
        again = rcpts[: len(self._accepted)]  # it had accepted them before
        if again and not all(answer.is_positive for answer in again):
            connection.needs_reset = True
            self._release(connection)
            self._broken = replies.BACKEND_UNAVAILABLE
            return self._broken
        if rcpts[-1].is_positive or self._accepted:
            self._park(connection)
        else:  # the transaction has no recipient: others can use the connection until one comes
            connection.needs_reset = True
            self._release(connection)
        return rcpts[-1]

    # The message.

    async def send(self, added: list[bytes], content: Content) -> Reply:
        """Send the message: the added header fields, then the content. There must be an accepted recipient.

        Returns:
            The server's reply to the end of data; 4xx for a fault.

        Raises:
            Exception: What reading the content raised; the server gets no message then.
        """
        if self._broken is not None:
            return self._broken
        if not self._accepted:
            raise RuntimeError("a message without recipients")
        problem = replies.BACKEND_UNAVAILABLE
        for _ in range(2):
            connection = self._unpark() or await self._reopened()
            if isinstance(connection, Reply):
                return connection
            try:
                return await self._content(connection, added, content)
            except BackendError as error:
                connection.fail(error)
                problem = replies.BACKEND_UNAVAILABLE if error.reply is None else _deferred(error.reply)
                if connection.engine.content_sent or error.timed_out:
                    self._note(error)
                    unknown = connection.engine.content_sent and error.reply is None
                    return replies.BACKEND_UNKNOWN if unknown else problem
            except BaseException:  # cancelled too: no half transaction may stay
                connection.abort("cancelled")
                raise
        return problem

    async def _reopened(self) -> Connection | Reply:
        """A connection on which MAIL and all recipients were accepted once more; a 4xx reply where there is none."""
        answer = await self._begin(None)
        return self._unpark() or (answer if answer.is_transient else replies.BACKEND_UNAVAILABLE)

    async def _content(self, connection: Connection, added: list[bytes], content: Content) -> Reply:
        """DATA, or BDAT for a message that DATA would change, and the message; returns the reply to its end.

        Raises:
            BackendError: The connection is of no use any more.
        """
        engine = connection.engine
        engine.content_sent = False
        count = len(self._accepted) if self._source.single_recipient else 1
        timeouts = self._options.timeouts
        if not content.ends_with_newline and "CHUNKING" in engine.capabilities.keywords:
            size = sum(map(len, added)) + content.size
            connection.write(engine.content(f"BDAT {size} LAST", count))
            return await self._stream(connection, added, content, None, count)
        stuffer = DotStuffer()
        parts = content.parts if content.size < BLOCK else None
        if parts is not None:
            data = stuffer.feed(b"".join([*added, *parts])) + stuffer.finish()
            asked, *answers = await connection.message(data, count, timeouts)
            return self._refused(connection, asked) or self._ended(connection, answers)
        connection.write(engine.data())
        asked = (await connection.replies(1, timeouts.command))[0]
        refusal = self._refused(connection, asked)
        if refusal is not None:
            return refusal
        engine.content(None, count)
        return await self._stream(connection, added, content, stuffer, count)

    def _refused(self, connection: Connection, asked: Reply) -> Reply | None:
        """The reply to DATA where the server does not ask for the message."""
        if asked.code in ABOUT_GATEWAY:
            raise self._refuses_gateway(asked)
        if asked.is_positive:
            return None
        connection.needs_reset = True
        self._release(connection)
        return asked

    async def _stream(
        self, connection: Connection, added: list[bytes], content: Content, stuffer: DotStuffer | None, count: int
    ) -> Reply:
        """Send the message to its end; returns the reply to it, or the one that came before.

        Raises:
            BackendError: The connection is lost, or the server takes no more.
        """
        parts = list(added)
        size = 0
        async for chunk in content.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size >= BLOCK:
                data = b"".join(parts)
                parts.clear()
                size = 0
                if connection.has_reply:
                    return await self._early(connection)
                connection.write_now(data if stuffer is None else stuffer.feed(data))
                if connection.is_paused:
                    await connection.drain(self._options.timeouts.data_block)
        data = b"".join(parts)
        if connection.has_reply:
            return await self._early(connection)
        connection.engine.content_sent = True
        connection.write(data if stuffer is None else stuffer.feed(data) + stuffer.finish())
        return self._ended(connection, await connection.replies(count, self._options.timeouts.end_of_data))

    @staticmethod
    async def _early(connection: Connection) -> Reply:
        """The server has replied in the middle of the message: only a refusal is believed."""
        early = (await connection.replies(1, 0))[0]
        connection.abort("the server replied before the end of data")
        refusal = not early.is_positive and early.code not in ABOUT_GATEWAY
        return early if refusal else replies.BACKEND_UNAVAILABLE

    def _ended(self, connection: Connection, answers: list[Reply]) -> Reply:
        """The server has answered the end of the message: the connection is free again."""
        answer = answers[0] if len(answers) == 1 else _one_for_all(answers)
        if answer.code in ABOUT_GATEWAY:
            raise self._refuses_gateway(answer)
        if answer.is_positive:
            match = _QUEUE_ID.search(answer.text)
            if match is not None:
                self.queue_id = match[match.lastindex or 0]
            connection.refusals = connection.resets = 0
        connection.messages += 1
        self._accepted.clear()
        if self._server is not None:
            self._server.alive(connection.loop.time())
        self._release(connection)
        return answer

    def _refuses_gateway(self, answer: Reply) -> BackendError:
        """What the server says is about the gateway; perhaps about this connection only, so not about its health."""
        _log.warning("backend_refuses_gateway", server=self.server, reply=str(answer))
        return BackendError(f"the server said {answer}", reply=answer, counts=False)

    def _note(self, error: BackendError) -> None:
        """Tell the server's health, unless it is perhaps about this client: a 421, a refused announcement."""
        if self._server is not None and error.counts:
            self._server.failed(error)


def _unless_closing(answer: Reply) -> Reply:
    """A reply that must not end the client's session: 421 as 451."""
    return Reply(451, answer.enhanced, answer.text) if answer.code == SERVICE_CLOSING else answer


def _deferred(answer: Reply) -> Reply:
    """A server's words in a fault, which is never a refusal: in class 4."""
    return _unless_closing(answer if answer.is_transient else answer.as_deferral())


def _one_for_all(answers: list[Reply]) -> Reply:
    """One reply for all recipients: positive or permanent where all agree on that, a transient one otherwise."""
    for answer in answers:
        if answer.is_transient:
            return answer
    if all(answer.is_positive for answer in answers) or all(answer.is_permanent for answer in answers):
        return answers[0]
    return replies.BACKEND_UNAVAILABLE
