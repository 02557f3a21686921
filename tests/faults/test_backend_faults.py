"""The backend layer against servers that fail at every step: no 5xx of a fault, no exception, no 250 for nothing."""

import asyncio
from typing import Any

import pytest

from gateway.smtp import reply as replies
from gateway.smtp.reply import Reply
from tests.support import backend
from tests.support.backend import ADDED, Bytes, short
from tests.support.fault_server import Act, FaultServer, Then, kill, say, say_and_close, stall
from tests.support.loops import on_uvloop

STEPS = ("greeting", "ehlo", "mail", "rcpt", "data", "content", "end")

FAULTS = {
    "kill": kill(),
    "stall": stall(),
    "421": say_and_close("421 4.3.2 Going down"),
    "garbage": say("\x00\xff what?"),
    "half a reply": say_and_close("25"),
    "an unfinished reply": Act(say=b"250-2.0.0 and\r\n", then=kill().then),
    "a reply that is none here": say("299 2.0.0 Splendid"),
    "an endless line": say(b"250 " + b"x" * 20_000),
    "two codes": say("250-a\r\n550 b"),
}

LARGE = b"Subject: big\r\n\r\n" + b"0123456789\r\n" * 2_000_000

PATIENT = {"failures": 100, "interval": "1h"}

TIMEOUTS = short(connect="300ms", greeting="100ms", command="100ms", data_block="100ms", end_of_data="100ms")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("chunk", [None, 500], ids=["in memory", "in a file"])
@on_uvloop
async def test_every_fault_at_every_step(step: str, fault: str, chunk: int | None) -> None:
    """A server that always fails at a step makes a 4xx reply, and is not said to have accepted the message."""
    async with FaultServer() as server:
        async with backend.group(server.port, timeouts=TIMEOUTS, health=PATIENT) as servers:
            server.script = {step: FAULTS[fault]}
            for connection in servers.servers[0].pool._idle.copy():  # the start's own: opened before things went wrong
                connection.abort("test")
            body = b"Subject: x\r\n\r\n" + b"line\r\n" * 100
            answer, delivery = await backend.deliver(servers, body, chunk=chunk)
            delivery.abort()
            assert answer.is_transient, answer
            assert answer.code != 421
            if step == "end" and fault != "421":
                assert answer == replies.BACKEND_UNKNOWN
            if fault == "421":
                assert answer == Reply(451, "4.3.2", "Going down")
        assert server.messages == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["kill", "421", "garbage", "half a reply", "an unfinished reply"])
@on_uvloop
async def test_one_fault_before_the_end_is_not_seen(step: str, fault: str) -> None:
    """A fault that happens once, before the end of data, is repaired with a new connection or the next server."""
    act = FAULTS[fault]
    once = Act(say=act.say, then=act.then, times=1)
    async with (
        FaultServer() as first,
        FaultServer() as second,
        backend.group(first.port, second.port, health=PATIENT) as servers,
    ):
        assert (await backend.deliver(servers))[0].code == 250
        first.script = {step: once}
        first._counts.clear()
        for connection in servers.servers[0].pool._idle.copy():
            if step in {"greeting", "ehlo"}:
                connection.abort("test")
        # A large one for faults in its middle: a small one is sent to its end at once.
        answer, _ = await backend.deliver(servers, LARGE if step == "content" else backend.BODY)
        if step == "end":
            assert answer.is_transient
            assert len(first.messages) + len(second.messages) == 1
        else:
            assert answer.code == 250, answer
            assert len(first.messages) + len(second.messages) == 2


@on_uvloop
@pytest.mark.parametrize("step", ["xclient", "xforward", "rset"])
@pytest.mark.parametrize("fault", [*FAULTS, "500", "421 to the client"])
async def test_faults_before_mail(step: str, fault: str) -> None:
    """A fault in what comes before MAIL makes 4xx or is repaired; a refused XFORWARD does not matter."""
    acts = FAULTS | {"500": say("500 5.5.1 What?"), "421 to the client": say_and_close("421 4.7.0 Not you")}
    extensions = ("PIPELINING", "XCLIENT ADDR", "XFORWARD ADDR")
    info = step if step != "rset" else "none"
    async with FaultServer(extensions=extensions) as server:
        fields: dict[str, Any] = {"timeouts": TIMEOUTS, "health": PATIENT, "client_info": info}
        async with backend.group(server.port, **fields) as servers:
            if step == "rset":
                given_up = servers.delivery(backend.transaction())
                await given_up.recipient(backend.recipient())
                given_up.abort()
            server.script = {step: acts[fault]}
            answer, _ = await backend.deliver(servers)
            if (step, fault) == ("xforward", "500") or (step == "rset" and fault != "stall"):
                assert answer.code == 250
            else:
                assert answer.is_transient, answer
                assert answer.code != 421
        assert len(server.messages) == (answer.code == 250)


@pytest.mark.parametrize("chunk", [None, 500], ids=["in memory", "in a file"])
@pytest.mark.parametrize("times", [0, 1, 2, 3])
async def test_a_message_is_sent_twice_at_most(chunk: int | None, times: int) -> None:
    """A connection that is lost before the message's end is replaced once; the next time the client is to try again."""
    async with FaultServer() as server, backend.group(server.port, health=PATIENT) as servers:
        if times:
            server.script = {"data": kill(times)}
        answer, delivery = await backend.deliver(servers, chunk=chunk)
        delivery.abort()
        assert (answer.code, len(server.messages)) == ((250, 1) if times < 2 else (451, 0))
        assert server.commands.count("DATA") == min(times + 1, 2)


@pytest.mark.parametrize(("text", "code"), [("503 5.5.1 Error: nested", 250), ("550 5.7.1 No such client here", 550)])
async def test_an_answer_to_ehlo_behind_xclient(text: str, code: int) -> None:
    """One out of step is repaired on a new connection; one about the client goes to the client."""
    async with FaultServer(extensions=("PIPELINING", "XCLIENT ADDR HELO")) as server:
        async with backend.group(server.port, client_info="xclient") as servers:
            server._counts.clear()
            server.script = {"ehlo": say(text, 1)}
            assert (await backend.deliver(servers))[0].code == code
        assert len(server.messages) == (code == 250)


async def test_the_answer_to_the_end_is_lost() -> None:
    """The server accepts the message and dies before it says so: the client gets 451 and may bring it again."""
    async with FaultServer({"end": kill(accept=True)}) as server, backend.group(server.port) as servers:
        answer, delivery = await backend.deliver(servers)
        assert answer == replies.BACKEND_UNKNOWN
        assert delivery.queue_id is None
        assert len(server.messages) == 1


async def test_accepted_and_at_once_going_down() -> None:
    """A 250 counts although a 421 follows it in the same packet."""
    last = say("250 2.0.0 Ok: queued as X1\r\n421 4.3.2 Going down", then=Then.CLOSE, accept=True)
    async with FaultServer({"end": last}) as server, backend.group(server.port) as servers:
        answer, delivery = await backend.deliver(servers)
        assert answer == Reply(250, "2.0.0", "Ok: queued as X1")
        assert delivery.queue_id == "X1"


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("text", ["450 4.7.1 Try later", "550-5.7.1 No\r\n550 5.7.1 never", "554 No codes here"])
async def test_refusals_are_unchanged(step: str, text: str) -> None:
    """The server's 4xx and 5xx at each step come back as they are, and the connection is used again."""
    async with FaultServer({step: say(text, times=1)}) as server, backend.group(server.port) as servers:
        answer, _ = await backend.deliver(servers)
        assert answer.wire == text.encode() + b"\r\n"
        assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == 1
        assert server.commands.count("RSET") == (step != "end")  # the transaction was left open


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("530 5.7.0 Must issue a STARTTLS command first", Reply(450, "4.7.0", "Must issue a STARTTLS command first")),
        ("503 5.5.1 Error: send HELO/EHLO first", Reply(450, "4.5.1", "Error: send HELO/EHLO first")),
        ("502 5.5.2 Error: command not recognized", Reply(450, "4.5.2", "Error: command not recognized")),
    ],
    ids=["530", "503", "502"],
)
async def test_what_is_about_the_gateway_refuses_no_mail(step: str, text: str, told: Reply) -> None:
    """A server that wants TLS or AUTH of the gateway, or is out of step with it, makes 4xx; another one takes over."""
    async with FaultServer({step: say(text)}) as wanting, FaultServer() as other:
        async with backend.group(wanting.port) as servers:
            assert (await backend.deliver(servers))[0] == told
            assert servers.is_up
        if step in {"mail", "rcpt"}:
            async with backend.group(wanting.port, other.port) as servers:
                assert (await backend.deliver(servers))[0].code == 250
        assert len(other.messages) == (step in {"mail", "rcpt"})
        assert wanting.messages == []


async def test_a_later_recipient_out_of_step_is_repeated_on_a_new_connection() -> None:
    """When the server has forgotten the transaction, the recipients so far are asked for once more."""
    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        server.script = {"rcpt": say("503 5.5.1 Error: need MAIL command", times=1)}
        server._counts.clear()
        assert (await delivery.recipient(backend.recipient("bob@example.com"))).code == 250
        assert (await delivery.send(ADDED, Bytes(backend.BODY))).code == 250
        assert server.messages[0].recipients == ("RCPT TO:<alice@example.com>", "RCPT TO:<bob@example.com>")


@pytest.mark.parametrize("text", ["452 4.3.1 Full", "552 5.3.4 Too big"])
async def test_an_early_refusal_of_the_content(text: str) -> None:
    """A server that refuses in the middle of the message is heard, and gets no end of data."""
    async with FaultServer({"content": say_and_close(text)}) as server, backend.group(server.port) as servers:
        answer, _ = await backend.deliver(servers, LARGE)
        # The server closes on unread octets: its reply can be lost on the way, and then it is a fault.
        assert answer.wire == text.encode() + b"\r\n" or answer == replies.BACKEND_UNAVAILABLE
        assert server.messages == []


async def test_an_early_reply_about_the_gateway_is_no_refusal() -> None:
    """Out of step in the middle of the content makes 4xx."""
    script = {"content": say("503 5.5.1 Error: need RCPT")}
    async with FaultServer(script) as server, backend.group(server.port) as servers:
        assert (await backend.deliver(servers, LARGE))[0] == replies.BACKEND_UNAVAILABLE


async def test_an_early_positive_reply_is_no_acceptance() -> None:
    """A 250 before the end of data is not believed."""
    async with FaultServer({"content": say("250 2.0.0 Ok")}) as server, backend.group(server.port) as servers:
        answer, _ = await backend.deliver(servers, LARGE)
        assert answer.is_transient
        assert server.messages == []


async def test_a_server_that_takes_no_data_in_time() -> None:
    """A server that stops to read in the middle of a large message is given up, with bounded memory."""
    async with FaultServer({"content": stall()}) as server:
        async with backend.group(server.port, timeouts=short(data_block="200ms")) as servers:
            assert (await backend.deliver(servers, LARGE))[0] == replies.BACKEND_UNAVAILABLE
        assert server.messages == []


@pytest.mark.parametrize("body", [b"Subject: small\r\n", LARGE])
async def test_the_end_of_data_has_a_time_limit_of_its_own(body: bytes) -> None:
    """The server may take longer for the reply to the message than for those to commands (RFC 5321 4.5.3.2.6)."""
    timeouts = short(command="100ms", end_of_data="500ms")
    async with FaultServer({"end": stall()}) as server, backend.group(server.port, timeouts=timeouts) as servers:
        delivery = servers.delivery(backend.transaction())
        await delivery.recipient(backend.recipient())
        begun = asyncio.get_running_loop().time()
        assert await delivery.send(ADDED, Bytes(body)) == replies.BACKEND_UNKNOWN
        assert asyncio.get_running_loop().time() - begun >= 0.5


async def test_the_content_can_not_be_read() -> None:
    """When reading the message fails the error is raised, and the server gets no end of data."""

    class Broken(Bytes):
        async def chunks(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - as in the base class
            yield b"Subject: x\r\n" * 10_000
            raise OSError("disk")

    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        await delivery.recipient(backend.recipient())
        with pytest.raises(OSError, match="disk"):
            await delivery.send(ADDED, Broken(backend.BODY, 1000))
        delivery.abort()
        assert (await backend.deliver(servers))[0].code == 250
        assert len(server.messages) == 1


async def test_a_connection_lost_while_the_client_is_slow() -> None:
    """MAIL and RCPT are repeated on a new connection when the old one is lost before DATA."""
    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        for name in ("alice", "bob"):
            assert (await delivery.recipient(backend.recipient(f"{name}@example.com"))).code == 250
        await server.stop()
        await server.start()
        assert (await delivery.recipient(backend.recipient("carol@example.com"))).code == 250
        await server.stop()
        await server.start()
        assert (await delivery.send(ADDED, Bytes(backend.BODY))).code == 250
        assert [message.recipients for message in server.messages] == [
            tuple(f"RCPT TO:<{name}@example.com>" for name in ("alice", "bob", "carol"))
        ]


@pytest.mark.parametrize("step", ["mail", "rcpt"])
@pytest.mark.parametrize("text", ["550 5.1.1 No more", "450 4.2.0 Later"])
async def test_another_answer_when_repeated(step: str, text: str) -> None:
    """A recipient that was accepted and then, when it is repeated, is not: the message is deferred, never refused."""
    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        server.script = {step: say(text)}
        await server.stop()
        await server.start()
        assert (await delivery.send(ADDED, Bytes(backend.BODY))).is_transient
        assert server.messages == []


async def test_another_recipient_after_a_repetition_that_failed() -> None:
    """A delivery whose accepted recipient was refused on repetition accepts no more recipients and no message."""
    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        server.script = {"rcpt": say("550 5.1.1 No more", times=1)}
        server._counts.clear()
        await server.stop()
        await server.start()
        for _ in range(2):
            assert (await delivery.recipient(backend.recipient("bob@example.com"))).is_transient
        assert (await delivery.send(ADDED, Bytes(backend.BODY))).is_transient
        assert server.messages == []


async def test_no_server_at_all() -> None:
    """Without any server the start succeeds, the group is down and recipients are deferred."""
    async with FaultServer() as server:
        port = server.port
    async with backend.group(port) as servers:
        assert not servers.is_up
        assert servers.capabilities is None
        answer, delivery = await backend.deliver(servers)
        assert answer == replies.BACKEND_UNAVAILABLE
        assert delivery.server is None


async def test_a_stalled_greeting_does_not_hold_the_start() -> None:
    """A server that accepts connections and says nothing is down after the connect time-out."""
    timeouts = short(connect="100ms", greeting="1h")
    async with FaultServer({"greeting": stall()}) as server, backend.group(server.port, timeouts=timeouts) as servers:
        assert not servers.is_up


async def test_the_next_server_takes_over() -> None:
    """When the first server dies the second takes the mail, and the first is asked again and taken back."""
    async with FaultServer() as first, FaultServer() as second:
        health = {"interval": "80ms", "failures": 1}
        async with backend.group(first.port, second.port, health=health, connections=2) as servers:
            assert (await backend.deliver(servers))[1].server == f"127.0.0.1:{first.port}"
            await first.stop()
            for _ in range(2):
                answer, delivery = await backend.deliver(servers)
                assert answer.code == 250
                assert delivery.server == f"127.0.0.1:{second.port}"
            assert not servers.servers[0].is_up
            assert servers.is_up
            await first.start()
            await first.until("EHLO", 2)
            async with asyncio.timeout(10):
                while (await backend.deliver(servers))[1].server != f"127.0.0.1:{first.port}":
                    pass  # the EHLO has come, its reply will


async def test_a_client_can_not_take_the_server_down() -> None:
    """421 replies within sessions, which may be about one client, do not make the server down."""
    script = {"rcpt": say_and_close("421 4.7.0 Too many from you")}
    health = {"failures": 1, "interval": "1h"}
    async with FaultServer(script) as server, backend.group(server.port, health=health) as servers:
        for _ in range(3):
            assert (await backend.deliver(servers))[0] == Reply(451, "4.7.0", "Too many from you")
        assert servers.is_up
        server.script.clear()
        assert (await backend.deliver(servers))[0].code == 250


async def test_the_client_vanishes_after_rcpt() -> None:
    """An abandoned transaction is reset on its connection before the next, and leaves no message."""
    async with FaultServer() as server, backend.group(server.port) as servers:
        delivery = servers.delivery(backend.transaction())
        await delivery.recipient(backend.recipient())
        delivery.abort()
        delivery.abort()
        assert (await backend.deliver(servers))[0].code == 250
        assert server.connections == 1
        verbs = [command.split(" ")[0] for command in server.commands]
        assert verbs == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]
        assert len(server.messages) == 1


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@on_uvloop
async def test_the_client_vanishes_while_the_server_stalls(step: str) -> None:
    """A delivery cancelled at any step closes its connection, and the next message gets another."""
    async with FaultServer({step: stall(times=1)}) as server, backend.group(server.port, connections=1) as servers:
        task = asyncio.ensure_future(backend.deliver(servers))
        await server.until_step(step)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until_open(0)
        assert (await backend.deliver(servers))[0].code == 250
        assert len(server.messages) == 1
        assert servers.servers[0].pool.count == 1


@on_uvloop
async def test_starttls_with_early_bytes() -> None:
    """Octets behind the reply to STARTTLS close the connection; nothing is sent over it, in plain text or TLS."""
    extensions = ("PIPELINING", "STARTTLS")
    injected = say("220 2.0.0 Go ahead\r\n250 2.0.0 injected")
    async with FaultServer({"starttls": injected}, extensions=extensions) as server:
        async with backend.group(server.port, tls={"mode": "required"}) as servers:
            assert not servers.is_up
            assert (await backend.deliver(servers))[0].is_transient
        assert {command.split(" ")[0] for command in server.commands} == {"EHLO", "STARTTLS"}


@pytest.mark.parametrize(
    "act",
    [
        say("454 4.7.0 Not now"),
        say("220 go\r\n250-early"),
        say("220 Go, but no TLS"),
        kill(),
        say("220 2.0.0 Go ahead", then=Then.STALL),
    ],
)
@on_uvloop
async def test_opportunistic_tls_falls_back(act: Act) -> None:
    """Where STARTTLS or the handshake fails, opportunistic TLS goes on in plain text over a new connection."""
    extensions = ("PIPELINING", "STARTTLS")
    async with FaultServer({"starttls": act}, extensions=extensions) as server:
        tls = {"mode": "opportunistic"}
        async with backend.group(server.port, tls=tls, timeouts=short(connect="300ms")) as servers:
            assert (await backend.deliver(servers))[0].code == 250
            assert server.connections == 2
            assert len(server.messages) == 1


async def test_a_refused_mail_before_the_server_hangs_up() -> None:
    """A refusal of MAIL counts although the connection is closed before the reply to RCPT."""
    script = {"mail": say_and_close("550 5.7.1 Not you")}
    async with FaultServer(script) as server, backend.group(server.port) as servers:
        assert (await backend.deliver(servers))[0] == Reply(550, "5.7.1", "Not you")


async def test_a_later_recipient_stalls() -> None:
    """When the server stalls at a later RCPT the delivery accepts no more, and no message."""
    async with FaultServer() as server, backend.group(server.port, timeouts=short(command="100ms")) as servers:
        delivery = servers.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        server.script = {"rcpt": stall()}
        for _ in range(2):
            assert await delivery.recipient(backend.recipient("bob@example.com")) == replies.BACKEND_UNAVAILABLE
        assert await delivery.send(ADDED, Bytes(backend.BODY)) == replies.BACKEND_UNAVAILABLE
        delivery.abort()
        assert server.messages == []
        assert servers.servers[0].pool.count == 0


async def test_the_client_vanishes_at_a_later_recipient() -> None:
    """A delivery cancelled at a later RCPT closes its connection."""
    async with FaultServer() as server, backend.group(server.port, connections=1) as servers:
        delivery = servers.delivery(backend.transaction())
        assert (await delivery.recipient(backend.recipient())).code == 250
        server.script = {"rcpt": stall(times=1)}
        server._counts.clear()
        task = asyncio.ensure_future(delivery.recipient(backend.recipient("bob@example.com")))
        await server.until_step("rcpt")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        delivery.abort()
        assert (await backend.deliver(servers))[0].code == 250
        assert servers.servers[0].pool.count == 1


@pytest.mark.parametrize("step", ["greeting", "ehlo", "starttls"])
async def test_the_client_vanishes_while_a_connection_is_opened(step: str) -> None:
    """A delivery cancelled while its connection is opened leaves neither connection nor place behind."""
    extensions = ("PIPELINING", "STARTTLS")
    async with FaultServer(extensions=extensions) as server:
        fields: dict[str, Any] = {"tls": {"mode": "required"} if step == "starttls" else {"mode": "off"}}
        async with backend.group(server.port, health=PATIENT, **fields) as servers:
            servers.servers[0].is_up = True
            servers.servers[0].pool.drop()
            await server.until_open(0)
            server.script = {step: stall()}
            server._counts.clear()
            task = asyncio.ensure_future(backend.deliver(servers))
            await server.until_step(step)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until_open(0)
            assert servers.servers[0].pool.count == 0
