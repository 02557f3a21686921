"""aiosmtpd as a mail server behind the gateway: an independent reading of what the gateway sends, kept octet by octet.

    with Sink() as sink:
        ... 127.0.0.1:sink.port ...
        sink.messages[0].content

It runs in a thread of its own. It knows the users of ``USERS`` (AUTH PLAIN and LOGIN), and answers a recipient or a
message with what ``answers`` says for it.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.ports import free_port

USERS: Final = {b"alice@example.com": b"open sesame"}
"""Logins and passwords."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A message that was accepted."""

    sender: str
    sender_options: tuple[str, ...]
    recipients: tuple[str, ...]
    content: bytes
    login: str | None


class Sink:
    """The server; a context manager.

    Args:
        answers: A recipient's address, or ``DATA``, to the reply it gets, with its lines.
        auth: Whether AUTH is offered.

    Attributes:
        port: On 127.0.0.1.
        messages: What was accepted.
    """

    def __init__(self, answers: Mapping[str, str] | None = None, *, auth: bool = False) -> None:
        self.answers = dict(answers or {})
        self.messages: list[Kept] = []
        self.port = free_port()
        self._changed = threading.Condition()
        self._stopped = False
        options: dict[str, Any] = (
            {"authenticator": _authenticate, "auth_require_tls": False, "auth_exclude_mechanism": ["LOGIN"]}
            if auth
            else {}
        )
        self._controller = Controller(
            _Handler(self),
            "127.0.0.1",
            self.port,
            data_size_limit=0,
            enable_SMTPUTF8=True,
            decode_data=False,
            **options,
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening and close the connections. Can be called again."""
        if not self._stopped:
            self._stopped = True
            self._controller.stop()

    def has(self, count: int, within: float) -> bool:
        """Whether so many messages are accepted in so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.messages) >= count, within)

    def until(self, count: int) -> list[Kept]:
        """Wait until so many messages were accepted."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.messages) >= count, 30), self.messages
        return self.messages

    def keep(self, message: Kept) -> None:
        """Take a message."""
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()


class _Handler:
    """What aiosmtpd calls."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self._sink.answers.get(address)
        if answer is not None:
            return answer
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options += options
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - the same
        answer = self._sink.answers.get("DATA")
        if answer is not None:
            return answer
        assert envelope.mail_from is not None
        assert isinstance(envelope.content, bytes)
        data: Any = session.auth_data  # aiosmtpd says None
        login = data.login.decode() if isinstance(data, LoginPassword) else None
        self._sink.keep(
            Kept(envelope.mail_from, tuple(envelope.mail_options), tuple(envelope.rcpt_tos), envelope.content, login)
        )
        return f"250 2.0.0 Ok: queued as S{len(self._sink.messages)}"


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    right = USERS.get(data.login) == data.password
    return AuthResult(success=right, handled=False, auth_data=data if right else None)
