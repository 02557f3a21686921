"""LMTP, against aiosmtpd's LMTP server and one that answers each recipient differently."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support import backend
from tests.support.backend import ADDED, Bytes
from tests.support.fault_server import FaultServer, say


class Inbox:
    """An aiosmtpd handler that keeps what it gets."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep the message."""
        self.envelopes.append(envelope)
        return "250 2.0.0 Delivered"


@asynccontextmanager
async def listen(factory: type[SMTP], inbox: Inbox) -> AsyncIterator[int]:
    """An aiosmtpd server in this loop; yields its port."""
    server = await asyncio.get_running_loop().create_server(
        lambda: factory(inbox, hostname="peer.example", enable_SMTPUTF8=True), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("factory", "protocol"), [(LMTP, "lmtp"), (SMTP, "smtp")])
async def test_aiosmtpd(factory: type[SMTP], protocol: str) -> None:
    """Messages arrive unchanged at an independent server that speaks the protocol."""
    inbox = Inbox()
    async with listen(factory, inbox) as port, backend.group(port, protocol=protocol) as servers:
        assert servers.single_recipient is (protocol == "lmtp")
        body = b"Subject: x\r\n\r\n.a\r\n..b\r\n"
        for _ in range(3):
            assert (await backend.deliver(servers, body))[0].code == 250
    assert [envelope.content for envelope in inbox.envelopes] == [ADDED[0] + body] * 3
    assert inbox.envelopes[0].mail_from == "a@sender.example"
    assert inbox.envelopes[0].rcpt_tos == ["alice@example.com"]


async def test_lhlo() -> None:
    """LMTP begins with LHLO, and two recipients' replies belong to one message."""
    async with FaultServer(lmtp=True) as server, backend.group(server.port, protocol="lmtp") as servers:
        for _ in range(2):
            delivery = servers.delivery(backend.transaction())
            for name in ("alice", "bob"):
                await delivery.recipient(backend.recipient(f"{name}@example.com"))
            answer = await delivery.send(ADDED, Bytes(backend.BODY))
            assert answer.code == 250
        assert server.commands[0] == "LHLO gateway.example"
        assert len(server.messages) == 2
        assert server.connections == 1


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["250 2.0.0 a", "250 2.0.0 b"], "250 2.0.0 a"),
        (["250 2.0.0 a", "452 4.2.2 Full"], "452 4.2.2 Full"),
        (["550 5.1.1 a", "452 4.2.2 Full"], "452 4.2.2 Full"),
        (["550 5.1.1 a", "552 5.2.2 b"], "550 5.1.1 a"),
        (["250 2.0.0 a", "552 5.2.2 b"], "451 4.4.1"),
    ],
)
async def test_answers_that_differ(answers: list[str], expected: str) -> None:
    """One answer for several recipients is never better than the worst that can be retried."""
    script = {"end": say("\r\n".join(answers))}
    async with (
        FaultServer(script, lmtp=True) as server,
        backend.group(server.port, protocol="lmtp") as servers,
    ):
        delivery = servers.delivery(backend.transaction())
        for name in ("alice", "bob"):
            await delivery.recipient(backend.recipient(f"{name}@example.com"))
        answer = await delivery.send(ADDED, Bytes(backend.BODY))
    assert answer.wire.decode().startswith(expected)
