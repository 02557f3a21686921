"""One transaction with a server: MAIL and RCPT, the message, the end of data.

The server's replies go on unchanged, with these exceptions, by which a fault never becomes a refusal and nothing is lost:

- A 421 says that the server goes, not the gateway: before anything was accepted the transaction is repeated once on a new
  connection or with the next server, unseen by the client; where that fails too the client gets the same text as 451.
- No answer after the end of data was sent: ``BACKEND_UNKNOWN``. Every other fault: ``BACKEND_UNAVAILABLE``.
- A positive reply that is none by RFC 5321 4.3.2 is a fault: replies and commands are out of step.
- LMTP has a reply for each recipient. Where they differ the client gets the worst transient one, so that it tries again.

While the client has not sent its data the connection is parked: the pool may call it back, and it may be lost. Then MAIL
and RCPT are repeated before DATA; nothing was sent yet, so that is safe. An answer that differs is a fault.

A message that was not sent to its end is never completed: the connection is closed without another octet.
"""

import asyncio
import re
from typing import TYPE_CHECKING, Final

from gateway.backend.client_info import hello_name, xclient, xforward
from gateway.backend.connection import Connection, Fault
from gateway.config.backend import ClientInfo
from gateway.session import Content, Recipient, Transaction
from gateway.smtp import reply as replies
from gateway.smtp.client import Capabilities, Command
from gateway.smtp.data import DotStuffer
from gateway.smtp.reply import Reply

if TYPE_CHECKING:
    from gateway.backend.group import Server, ServerGroup

BLOCK: Final = 65_536
"""Octets that are gathered for one write."""

_DSN: Final = frozenset({"RET", "ENVID", "NOTIFY", "ORCPT"})

# "2.0.0 Ok: queued as 4F1B2C" (Postfix), "OK id=1tX-0001" (Exim), "2.0.0 x9 Message accepted for delivery" (Sendmail)
_QUEUE_ID: Final = re.compile(r"queued as ([\w.-]+)|\bid=([\w.-]+)|^([\w.-]+) Message accepted for delivery")


class _LacksExtension(Exception):
    """The server does not offer what the message needs."""


def needed(transaction: Transaction, recipient: Recipient | None) -> frozenset[str]:
    """The extensions that MAIL's and RCPT's parameters need from one end to the other."""
    needs = set()
    for parameter in (*transaction.parameters, *(recipient.parameters if recipient is not None else ())):
        if parameter.keyword == "BODY" and parameter.value is not None and parameter.value.upper() != "7BIT":
            needs.add(parameter.value.upper())
        elif parameter.keyword == "SMTPUTF8":
            needs.add("SMTPUTF8")
        elif parameter.keyword in _DSN:
            needs.add("DSN")
    return frozenset(needs)


def mail_command(transaction: Transaction, offered: Capabilities) -> str:
    """The MAIL command: parameters unchanged, but for SIZE, BODY=7BIT and AUTH where the server does not offer them."""
    command = f"MAIL FROM:<{transaction.reverse_path}>"
    for parameter in transaction.parameters:
        keyword = parameter.keyword
        if keyword in {"SIZE", "AUTH"} and keyword not in offered.keywords:
            continue
        if keyword == "BODY" and "8BITMIME" not in offered.keywords:
            continue
        command += f" {parameter}"
    return command


def rcpt_command(recipient: Recipient) -> str:
    """The RCPT command."""
    command = f"RCPT TO:<{recipient.path.text}>"
    for parameter in recipient.parameters:
        command += f" {parameter}"
    return command


class Delivery:
    """One transaction with one of a group's servers.

    No method raises for a fault of a server: they return a 4xx reply.

    Args:
        group: The servers.
        transaction: What MAIL and RCPT say.
        own: A connection of the session's own, to be used instead of a pool's.

    Attributes:
        group: The group's name.
        server: The server that was asked last, None before one was.
        queue_id: Under which the server queued the message, where it says so.
        reply: The last reply to the end of data, or to what ended it before; None before.
    """

    __slots__ = ("_accepted", "_broken", "_connection", "_group", "_own", "_server", "_transaction", "group", "queue_id", "reply", "server")  # fmt: skip  # noqa: E501

    def __init__(self, group: "ServerGroup", transaction: Transaction, own: Connection | None = None) -> None:
        self.group = group.name
        self.server: str | None = None
        self.queue_id: str | None = None
        self.reply: Reply | None = None
        self._group = group
        self._transaction = transaction
        self._own = own
        self._server: Server | None = None
        self._connection: Connection | None = None
        self._accepted: list[Recipient] = []
        self._broken: Reply | None = None

    async def recipient(self, recipient: Recipient) -> Reply:
        """Ask the server whether it takes the recipient.

        Returns:
            Its reply to RCPT, or to MAIL where it refused that; 4xx for a fault.
        """
        if self._broken is not None:
            return self._broken
        command = (Command.RCPT, rcpt_command(recipient))
        connection = self._unpark()
        reply: Reply | None = None
        if connection is not None:
            if not self._has(connection, needed(self._transaction, recipient)):
                self._park(connection)
                return replies.BACKEND_LACKS_EXTENSION
            try:
                reply = (await connection.exchange([command], self._group.options.timeouts.command))[0]
            except Fault as fault:
                self._connection = None
                if fault.timed_out:
                    self._broken = replies.BACKEND_UNAVAILABLE
                    return self._broken
            except asyncio.CancelledError:
                connection.abort("cancelled")
                raise
            else:
                self._park(connection)
        if reply is None:
            reply = await self._begin(recipient)
        if reply.is_positive:
            self._accepted.append(recipient)
        return reply

    async def send(self, added: list[bytes], content: Content) -> Reply:
        """Send the message: the added header fields, then the content.

        Returns:
            The server's reply to the end of data; 4xx for a fault.

        Raises:
            Exception: What reading the content raised; the server gets no message then.
        """
        self.reply = await self._send(added, content)
        return self.reply

    async def abort(self) -> None:
        """Give the transaction up. Can be called at any time, more than once; after ``send`` it does nothing."""
        connection = self._unpark()
        self._connection = None
        self._accepted.clear()
        if connection is not None:
            connection.needs_reset = True
            self._give_back(connection)

    # Taking and giving back connections.

    def surrender(self) -> Connection:
        """Give the parked connection to whoever needs it more (``pool.Parked``)."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - only a parked delivery is asked
        self._connection = None
        connection.needs_reset = True
        return connection

    def _park(self, connection: Connection) -> None:
        self._connection = connection
        if connection.pool is not None:
            connection.pool.park(self)

    def _unpark(self) -> Connection | None:
        connection = self._connection
        if connection is None:
            return None
        if connection.pool is not None:
            connection.pool.unpark(self)
        if connection.fault is not None:
            self._connection = connection = None
        return connection

    def _give_back(self, connection: Connection) -> None:
        self._connection = None
        if connection.pool is not None:
            connection.pool.give_back(connection)

    @staticmethod
    def _has(connection: Connection, needs: frozenset[str]) -> bool:
        return needs <= connection.engine.capabilities.keywords

    # MAIL and RCPT.

    async def _begin(self, recipient: Recipient | None) -> Reply:
        """Open the transaction: MAIL, the recipients accepted before, and this one.

        Returns:
            The reply to the recipient, or to MAIL where that was refused; without a recipient that to MAIL. 4xx for a fault.
        """
        group = self._group
        tried: set[Server] = set()
        fresh = False
        problem = replies.BACKEND_UNAVAILABLE
        while True:
            try:
                server, connection, pooled = await group.connection(tried, fresh=fresh)
            except Fault as fault:
                return _deferred(fault.reply) if fault.reply is not None else problem
            self._server = server
            self.server = server.name
            try:
                return await self._transact(connection, recipient)
            except _LacksExtension:
                self._give_back(connection)
                tried.add(server)
                problem = replies.BACKEND_LACKS_EXTENSION
            except Fault as fault:
                connection.fail(fault)
                if fault.reply is not None:
                    problem = _deferred(fault.reply)
                if not pooled or fresh or fault.timed_out:
                    tried.add(server)
                    server.failed(fault)
                fresh = True
            except BaseException:
                connection.abort("cancelled")
                raise

    async def _transact(self, connection: Connection, recipient: Recipient | None) -> Reply:
        """MAIL and RCPT on this connection.

        Raises:
            Fault: The connection is of no use.
            _LacksExtension: The server can't take the message.
        """
        options = self._group.options
        commands: list[tuple[Command, str]] = []
        if connection.needs_reset:
            commands.append((Command.RESET, "RSET"))
            connection.needs_reset = False
        if options.client_info is not ClientInfo.NONE:
            if options.client_info is ClientInfo.XCLIENT:
                refusal = await self._announce(connection, commands)
                if refusal is not None:
                    return refusal
            else:
                lines = xforward(self._transaction.session, connection.engine.capabilities.xforward)
                commands += [(Command.XFORWARD, line) for line in lines]
        if self._transaction.parameters or (recipient is not None and recipient.parameters) or self._accepted:
            needs = needed(self._transaction, recipient).union(*(needed(self._transaction, r) for r in self._accepted))
            if not self._has(connection, needs):
                raise _LacksExtension
        skip = len(commands)
        commands.append((Command.MAIL, mail_command(self._transaction, connection.engine.capabilities)))
        commands += [(Command.RCPT, rcpt_command(each)) for each in self._accepted]
        if recipient is not None:
            commands.append((Command.RCPT, rcpt_command(recipient)))
        try:
            answers = await connection.exchange(commands, options.timeouts.command)
        except Fault as fault:
            if len(fault.replies) > skip and not fault.replies[skip].is_positive:
                return fault.replies[skip]  # it refused MAIL and hung up
            raise
        if not all(answer.is_positive for answer in answers[:skip]):
            connection.quit()
            raise Fault("the server refused RSET or XFORWARD")
        mail, rcpts = answers[skip], answers[skip + 1 :]
        if not mail.is_positive:
            self._give_back(connection)
            return mail
        if any(not answer.is_positive for answer in rcpts[: len(self._accepted)]):
            connection.needs_reset = True
            self._give_back(connection)
            self._broken = replies.BACKEND_UNAVAILABLE
            return self._broken
        self._park(connection)
        return mail if recipient is None else rcpts[-1]

    async def _announce(self, connection: Connection, commands: list[tuple[Command, str]]) -> Reply | None:
        """Tell the server by XCLIENT who the client is, unless it knows; returns its refusal of the client.

        Raises:
            Fault: It refuses the command, or the connection is of no use.
        """
        session = self._transaction.session
        lines = xclient(session, connection.engine.capabilities.xclient)
        if not lines or connection.client == lines:
            return None
        timeout = self._group.options.timeouts.command
        offered = connection.engine.capabilities.xclient
        for kind, line in [*commands, *((Command.XCLIENT, line) for line in lines)]:
            answer = await connection.command(kind, line, timeout)
            if not answer.is_positive:
                connection.quit()
                raise Fault(f"the server refused {kind}: {answer}")
        commands.clear()
        assert self._server is not None  # noqa: S101 - the caller has asked it
        await self._server.opener.hello(connection, hello_name(session))
        del offered
        connection.client = lines
        return None

    # The message.

    async def _send(self, added: list[bytes], content: Content) -> Reply:
        if self._broken is not None:
            return self._broken
        if not self._accepted:
            raise RuntimeError("a message without recipients")
        problem = replies.BACKEND_UNAVAILABLE
        for _ in range(2):
            connection = self._unpark()
            if connection is None:
                answer = await self._begin(None)
                if not answer.is_positive:
                    return answer if answer.is_transient else replies.BACKEND_UNAVAILABLE
                connection = self._unpark()
                if connection is None:
                    continue
            self._connection = None
            over = False
            try:
                answer = (await connection.exchange([(Command.DATA, "DATA")], self._group.options.timeouts.command))[0]
                if not answer.is_positive:
                    connection.needs_reset = True
                    self._give_back(connection)
                    return answer
                connection.engine.content(len(self._accepted) if self._group.single_recipient else 1)
                if not await self._stream(connection, added, content):
                    answer = (await connection.replies(1, 0))[0]
                    connection.abort("the server replied before the end of data")
                    return answer if not answer.is_positive else replies.BACKEND_UNAVAILABLE
                over = True
                return await self._end(connection)
            except Fault as fault:
                connection.fail(fault)
                if over:
                    return replies.BACKEND_UNKNOWN if fault.reply is None else _deferred(fault.reply)
                if fault.reply is not None:
                    problem = _deferred(fault.reply)
                if fault.timed_out:
                    return problem
            except BaseException:
                connection.abort("cancelled")
                raise
        return problem

    async def _stream(self, connection: Connection, added: list[bytes], content: Content) -> bool:
        """Send the message up to its end; False when the server replied before.

        Raises:
            Fault: The connection is lost, or the server takes no more.
        """
        stuffer = DotStuffer()
        parts = [stuffer.feed(b"".join(added))]
        size = len(parts[0])
        async for chunk in content.chunks():
            parts.append(stuffer.feed(chunk))
            size += len(chunk)
            if size >= BLOCK:
                if connection.has_reply:
                    return False
                connection.write(b"".join(parts))
                parts.clear()
                size = 0
                if connection.is_paused:
                    await connection.drain(self._group.options.timeouts.data_block)
        parts.append(stuffer.finish())
        if connection.has_reply:
            return False
        connection.write(b"".join(parts))
        return True

    async def _end(self, connection: Connection) -> Reply:
        """The reply to the end of data.

        Raises:
            Fault: There is none.
        """
        count = len(self._accepted) if self._group.single_recipient else 1
        answers = await connection.replies(count, self._group.options.timeouts.end_of_data)
        answer = answers[0] if count == 1 else _worst(answers)
        if answer.is_positive:
            match = _QUEUE_ID.search(answer.text)
            if match is not None:
                self.queue_id = match[match.lastindex or 0]
        if self._server is not None:
            self._server.alive()
        connection.messages += 1
        self._accepted.clear()
        self._give_back(connection)
        return answer


def _deferred(answer: Reply) -> Reply:
    """A reply of the server that must not end the client's session, or refuse for good: as 451, or what it is if 4yz."""
    if answer.code != 421 and answer.is_transient:
        return answer
    enhanced = None if answer.enhanced is None else f"4{answer.enhanced[1:]}"
    return Reply(451, enhanced, answer.text)


def _worst(answers: list[Reply]) -> Reply:
    """One reply for all: positive or permanent where all agree on it, a transient one otherwise."""
    for answer in answers:
        if answer.is_transient:
            return answer
    if all(answer.is_positive for answer in answers) or all(answer.is_permanent for answer in answers):
        return answers[0]
    return replies.BACKEND_UNAVAILABLE
