"""AUTH passed through to aiosmtpd, an independent server, and to servers that fail."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from gateway.smtp import reply as replies
from tests.support import backend
from tests.support.backend import ADDED, Bytes, short
from tests.support.fault_server import Act, FaultServer, kill, say, say_and_close, stall

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # it is a test's peer

PLAIN = b64encode(b"\0joe\0secret")


class Peer:
    """An aiosmtpd handler and authenticator."""

    def __init__(self) -> None:
        self.logins: list[object] = []

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        """Let joe in."""
        return AuthResult(success=data == LoginPassword(b"joe", b"secret"), handled=False, auth_data=data)

    async def handle_DATA(self, _server: SMTP, session: Session, _envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        """Note who sent the message."""
        self.logins.append(session.auth_data)
        return "250 2.0.0 Ok"


@asynccontextmanager
async def listen(peer: Peer) -> AsyncIterator[int]:
    """An aiosmtpd server that requires AUTH; yields its port."""
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(peer, authenticator=peer.authenticate, auth_require_tls=False, auth_required=True), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_plain() -> None:
    """AUTH PLAIN with an initial response, then messages over the authenticated connection only."""
    peer = Peer()
    async with listen(peer) as port, backend.group(port) as servers:
        relay = await servers.authenticate(backend.session())
        assert set(relay.mechanisms) == {"PLAIN", "LOGIN"}
        assert (await relay.start("PLAIN", PLAIN)).code == 235
        for _ in range(2):
            delivery = relay.delivery(backend.transaction())
            assert (await delivery.recipient(backend.recipient())).code == 250
            assert (await delivery.send(ADDED, Bytes(backend.BODY))).code == 250
        assert (await backend.deliver(servers))[0].code == 450  # 530: the pool's connections are not authenticated
        await relay.close()
        await relay.close()
    assert peer.logins == [LoginPassword(b"joe", b"secret")] * 2


async def test_login() -> None:
    """AUTH LOGIN with its two challenges."""
    async with listen(Peer()) as port, backend.group(port) as servers:
        relay = await servers.authenticate(backend.session())
        assert (await relay.start("LOGIN", None)).code == 334
        assert (await relay.respond(b64encode(b"joe"))).code == 334
        assert (await relay.respond(b64encode(b"secret"))).code == 235
        await relay.close()


async def test_a_wrong_password_and_giving_up() -> None:
    """Refusals and the end of a cancelled exchange come back unchanged."""
    async with listen(Peer()) as port, backend.group(port) as servers:
        relay = await servers.authenticate(backend.session())
        assert (await relay.start("PLAIN", b64encode(b"\0joe\0wrong"))).code == 535
        assert (await relay.start("LOGIN", None)).code == 334
        assert (await relay.respond(b"*")).code == 501
        assert (await relay.start("PLAIN", PLAIN)).code == 235
        await relay.close()


@pytest.mark.parametrize(
    "act",
    [kill(), stall(), say_and_close("421 4.3.2 Bye"), say("250 2.0.0 What"), say("503 5.5.1 Error: AUTH not enabled")],
)
async def test_faults(act: Act) -> None:
    """A fault while authenticating is 454, never a refusal of the password."""
    extensions = ("PIPELINING", "AUTH PLAIN")
    timeouts = short(command="100ms")
    async with FaultServer(extensions=extensions) as server, backend.group(server.port, timeouts=timeouts) as servers:
        relay = await servers.authenticate(backend.session())
        server.script = {"auth": act}
        assert await relay.start("PLAIN", PLAIN) == replies.AUTH_UNAVAILABLE
        assert await relay.respond(PLAIN) == replies.AUTH_UNAVAILABLE
        await relay.close()


async def test_no_server() -> None:
    """Without a server there are no mechanisms, and AUTH is 454."""
    async with FaultServer() as server:
        port = server.port
    async with backend.group(port) as servers:
        relay = await servers.authenticate(backend.session())
        assert relay.mechanisms == ()
        assert await relay.start("PLAIN", PLAIN) == replies.AUTH_UNAVAILABLE
        answer = await relay.delivery(backend.transaction()).recipient(backend.recipient())
        assert answer == replies.BACKEND_UNAVAILABLE
        await relay.close()


async def test_the_authenticated_connection_is_lost() -> None:
    """After the loss mail is deferred: it is not sent over a connection that is not authenticated."""
    extensions = ("PIPELINING", "AUTH PLAIN")
    async with FaultServer(extensions=extensions) as server, backend.group(server.port) as servers:
        relay = await servers.authenticate(backend.session())
        assert (await relay.start("PLAIN", PLAIN)).code == 235
        delivery = relay.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        await server.stop()
        await server.start()
        assert (await delivery.send(ADDED, Bytes(backend.BODY))).is_transient
        answer = await relay.delivery(backend.transaction()).recipient(backend.recipient())
        assert answer == replies.BACKEND_UNAVAILABLE
        assert server.messages == []
        await relay.close()


async def test_the_client_is_announced_once() -> None:
    """With XCLIENT the client is announced before AUTH, and not again before each message."""
    extensions = ("PIPELINING", "AUTH PLAIN", "XCLIENT ADDR LOGIN")
    async with (
        FaultServer(extensions=extensions) as server,
        backend.group(server.port, client_info="xclient") as servers,
    ):
        of = backend.session()
        relay = await servers.authenticate(of)
        assert (await relay.start("PLAIN", None)).code == 334
        assert (await relay.respond(PLAIN)).code == 235
        of.login = "joe"
        delivery = relay.delivery(backend.transaction(of=of))
        assert (await delivery.recipient(backend.recipient())).code == 250
        delivery.abort()
        await relay.close()
        assert [command for command in server.commands if command.startswith("XCLIENT")] == [
            "XCLIENT LOGIN=[UNAVAILABLE] ADDR=192.0.2.7"
        ]


async def test_a_response_that_hides_a_command() -> None:
    """A response with a line end is refused and not passed on."""
    async with FaultServer(extensions=("AUTH PLAIN",)) as server, backend.group(server.port) as servers:
        relay = await servers.authenticate(backend.session())
        assert (await relay.start("PLAIN", b"x\r\nMAIL FROM:<>")).is_permanent
        assert (await relay.start("PLAIN", PLAIN)).code == 235
        await relay.close()
        assert not any(command.startswith("MAIL") for command in server.commands)


@pytest.mark.parametrize(
    ("step", "act"),
    [
        ("greeting", say("554 5.3.2 Go away")),
        ("xclient", say("550 5.7.0 Not permitted")),
        ("xclient", say("554 5.7.1 Client refused")),
        ("xclient", kill()),
    ],
)
async def test_the_next_server_authenticates(step: str, act: Act) -> None:
    """Where the first server can't be used the next one is asked."""
    extensions = ("PIPELINING", "AUTH PLAIN", "XCLIENT ADDR")
    async with (
        FaultServer(extensions=extensions) as first,
        FaultServer(extensions=extensions) as second,
        backend.group(first.port, second.port, client_info="xclient") as servers,
    ):
        first.script = {step: act}
        relay = await servers.authenticate(backend.session())
        assert (await relay.start("PLAIN", PLAIN)).code == 235
        assert any(command.startswith("AUTH") for command in second.commands)
        await relay.close()


async def test_the_client_vanishes_while_authenticating() -> None:
    """An exchange that is cancelled closes the connection: its reply would be taken for another's."""
    async with FaultServer(extensions=("AUTH PLAIN",)) as server, backend.group(server.port) as servers:
        relay = await servers.authenticate(backend.session())
        server.script = {"auth": stall()}
        task = asyncio.ensure_future(relay.start("PLAIN", PLAIN))
        await server.until_step("auth")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until_open(1)  # the pool's
        assert await relay.start("PLAIN", PLAIN) == replies.AUTH_UNAVAILABLE
        await relay.close()
