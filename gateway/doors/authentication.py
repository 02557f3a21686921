"""AUTH for one client: its exchange goes to the backend, whose challenges and answer go to the client (RFC 4954)."""

from typing import TYPE_CHECKING

import structlog

from gateway.address import address_text
from gateway.session import Session
from gateway.smtp.events import Auth, AuthResponse
from gateway.smtp.reply import Reply
from gateway.smtp.sasl import login_name

if TYPE_CHECKING:
    from gateway.backend import AuthRelay
    from gateway.doors.smtp import SmtpDoor

log = structlog.get_logger("lychgate.smtp")

_AUTHENTICATED = 235  # RFC 4954 6


class Authentication:
    """The exchanges of one session.

    Args:
        door: Knows the backend that is asked.
        session: Gets the ``login``.

    Attributes:
        relay: The backend's connection that is asked, and over which the session's mail goes afterwards; None without.
    """

    __slots__ = ("_door", "_mechanism", "_responses", "_session", "relay")

    def __init__(self, door: "SmtpDoor", session: Session) -> None:
        self.relay: AuthRelay | None = None
        self._door = door
        self._session = session
        self._mechanism = ""
        self._responses: list[bytes] = []

    async def answer(self, event: Auth | AuthResponse) -> Reply:
        """The backend's reply to what the client said."""
        if isinstance(event, Auth):
            if self.relay is None:
                self.relay = await self._door.auth_relay(self._session)
            initial = event.initial_response
            self._mechanism = event.mechanism
            self._responses = [] if initial is None else [initial]
            reply = await self.relay.start(event.mechanism, initial)
        else:
            assert self.relay is not None  # noqa: S101 - the engine's order
            self._responses.append(event.line)
            reply = await self.relay.respond(event.line)
        session = self._session
        client = address_text(session.client_address)
        if reply.code == _AUTHENTICATED:
            session.login = login_name(self._mechanism, self._responses)
            log.info("authenticated", session=session.id, client=client, login=session.login)
        elif not reply.is_positive:
            session.refusals += 1
            self._door.client_lines.info("authentication failed", session=session.id, client=client, reply=str(reply))
            await self.close()
        return reply

    async def close(self) -> None:
        """Leave the backend."""
        if self.relay is not None:
            await self.relay.close()
            self.relay = None
