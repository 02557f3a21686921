"""AUTH passed through: the client's exchange goes to a server, over a connection of the session's own (RFC 4954).

The server decides who may log in; the gateway never keeps a password. After the ``235`` the session's messages go over
the same connection, so that the server knows for whom it takes them. When that connection is lost the session's mail is
deferred: another connection would not be authenticated. A fault is ``AUTH_UNAVAILABLE``, 454.
"""

from typing import TYPE_CHECKING, Self

from gateway.backend.client_info import announce, identity
from gateway.backend.connection import ABOUT_GATEWAY, BackendError, Connection, Identity
from gateway.backend.delivery import Delivery
from gateway.config.backend import ClientInfo
from gateway.session import Session, Transaction
from gateway.smtp import reply as replies
from gateway.smtp.client import Command
from gateway.smtp.reply import Reply

if TYPE_CHECKING:
    from gateway.backend.group import ServerGroup
    from gateway.backend.server import Server


class AuthRelay:
    """One session's connection to a server. Made by ``ServerGroup.authenticate``.

    Attributes:
        name: The group's name.
        options: The group's options.
        single_recipient: Whether a transaction should have one recipient.
        announces: Whether each delivery announces its client by XCLIENT.
        mechanisms: What the server offers, empty without a connection.
    """

    def __init__(self, group: "ServerGroup", found: "tuple[Server, Connection] | None") -> None:
        self.name = group.name
        self.options = group.options
        self.single_recipient = group.single_recipient
        self.announces = False  # the client was announced once, before it authenticated
        self._found = found
        self.mechanisms: tuple[str, ...] = () if found is None else found[1].engine.capabilities.auth

    @classmethod
    async def open(cls, group: "ServerGroup", session: Session) -> Self:
        """Connect to the first server that can be reached; without one every AUTH is answered with 454."""
        await group.ask_if_down()
        for server in group.candidates():
            if not server.is_up:
                continue
            try:
                connection = await server.opener.open()
            except BackendError as error:
                server.failed(error)
                continue
            try:
                if group.options.client_info is ClientInfo.XCLIENT:
                    refusal = await announce(connection, server.opener, identity(session), [])
                    if refusal is not None:
                        continue
            except BackendError as error:
                connection.fail(error)
                continue
            except BaseException:  # cancelled too: no connection may stay half used
                connection.abort("cancelled")
                raise
            return cls(group, (server, connection))
        return cls(group, None)

    async def start(self, mechanism: str, initial_response: bytes | None) -> Reply:
        """AUTH with a mechanism.

        Args:
            mechanism: Its name.
            initial_response: As the client sent it, in base64 (``b"="`` for an empty one); None without one.

        Returns:
            The server's reply: 334 with a challenge, 235, or a refusal; 454 for a fault.
        """
        line = f"AUTH {mechanism}"
        if initial_response is not None:
            line += " " + initial_response.decode("latin-1")
        return await self._exchange(line)

    async def respond(self, line: bytes) -> Reply:
        """The client's answer to a challenge, in base64; ``b"*"`` gives up."""
        return await self._exchange(line.decode("latin-1"))

    def delivery(self, transaction: Transaction) -> Delivery:
        """A transaction over this connection."""
        return Delivery(self, transaction)

    async def close(self) -> None:
        """Say QUIT. Can be called more than once."""
        if self._found is not None:
            self._found[1].quit()
            self._found = None

    def at_hand(
        self,
        tried: "set[Server]",  # noqa: ARG002 - of the protocol
        client: Identity | None,  # noqa: ARG002 - of the protocol
    ) -> "tuple[Server, Connection, bool] | None":
        """The connection is had by ``connection`` only (``delivery.Source``)."""
        return None

    async def connection(
        self,
        tried: "set[Server]",
        client: Identity | None,  # noqa: ARG002 - of the protocol
        *,
        fresh: bool,
    ) -> "tuple[Server, Connection, bool]":
        """The connection (``delivery.Source``).

        Raises:
            BackendError: It is lost or has failed.
        """
        if self._found is None or self._found[1].fault is not None or fresh or self._found[0] in tried:
            raise BackendError("the authenticated connection is lost")
        return *self._found, True

    async def _exchange(self, line: str) -> Reply:
        if self._found is None:
            return replies.AUTH_UNAVAILABLE
        server, connection = self._found
        try:
            reply = await connection.command(Command.AUTH, line, self.options.timeouts.command)
        except BackendError as error:
            if error.timed_out:
                server.failed(error)
            return replies.AUTH_UNAVAILABLE
        except ValueError:  # the client's line can't be passed on
            return replies.SYNTAX_ERROR
        except BaseException:  # cancelled too: no connection may stay half used
            connection.abort("cancelled")
            raise
        return replies.AUTH_UNAVAILABLE if reply.code in ABOUT_GATEWAY else reply
