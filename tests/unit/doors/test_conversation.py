"""What holds in a conversation whatever the client, the disk or the service does."""

import asyncio
import base64
import math
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from gateway.backend.connection import Connection
from gateway.config.registry import Registry
from gateway.doors import link
from gateway.doors.link import READ_AHEAD, ClientLink
from gateway.form import HeaderReader
from gateway.gathering import Gathering
from gateway.policy import NoOptions, Policy
from gateway.records import DecisionRecord
from gateway.session import Message, Session, Transaction
from gateway.spool import Spool
from gateway.verdict import Finding
from tests.support.fault_server import EXTENSIONS, FaultServer, say
from tests.support.serving import Client, Site, serving

LINE = b"VRFY somebody\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A certificate for localhost in ``mx.pem``, and who signed it."""
    made = trustme.CA()
    made.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    return made


def context_of(authority: trustme.CA) -> ssl.SSLContext:
    """A client's settings that trust it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def tls(mode: str, **more: Any) -> dict[str, Any]:
    """A listener with TLS."""
    return {"listeners": [{"smtp": "127.0.0.1:0", "tls": {"mode": mode, "certificate": "mx.pem"}} | more]}


def decisions(site: Site) -> list[tuple[str, str | None, str | None]]:
    """Each record's decision."""
    return [(each.decision.result, each.decision.policy, each.decision.outcome) for each in site.records]


async def test_a_record_is_written_before_its_reply_leaves(tmp_path: Path) -> None:
    """When the sink gets a record, nothing of the reply that it describes is on the wire."""
    seen: list[bytes] = []
    async with serving(tmp_path) as site, site.client() as client:
        wire = socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno()))

        def write(_record: DecisionRecord) -> None:
            try:
                seen.append(wire.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except BlockingIOError:
                seen.append(b"")

        site.on_record = write
        await client.begin()
        assert (await client.send("Subject: x")).startswith("250 2.0.0 Ok: queued")
        assert (await client.say("MAIL FROM:<carol@example.org>")).startswith("250")
        assert (await client.say("QUIT")).startswith("221")
        wire.close()
    assert seen == [b"", b""]


async def test_replies_and_commands_are_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written to clients and servers goes with what others are sent, but last words and long messages."""
    async with serving(tmp_path) as site:
        due, add = list[object](), Gathering.add

        def noted(gathering: Gathering, call: Callable[[], None]) -> None:
            due.append(getattr(call, "__self__", None))
            add(gathering, call)

        monkeypatch.setattr(Gathering, "add", noted)
        async with site.client() as client:
            await client.begin()
            assert (await client.send("Subject: x")).startswith("250 2.0.0 Ok: queued")
    kinds = [type(each) for each in due]
    assert kinds.count(ClientLink) >= 6
    assert kinds.count(Connection) >= 2


async def test_an_unforeseen_exception_is_451_with_a_log_line_and_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told to come again, and the log has the session's id."""
    async with serving(tmp_path) as site, site.client() as client:
        monkeypatch.setattr(site.door, "spool", lambda: 1 / 0)
        await client.begin()
        with capture_logs() as logs:
            assert await client.say("DATA") == "354 End data with <CR><LF>.<CR><LF>"
            assert await client.reply() == "451 4.3.0 Local error in processing, try again later"
            assert await client.is_closed()
            await site.empty()
    (line,) = [line for line in logs if line["event"] == "session failed"]
    assert line["session"] == site.records[0].session_id
    assert line["log_level"] == "error"
    assert decisions(site) == [("deferred", "smtp", "error")]


async def test_a_client_that_reads_nothing_is_not_read_from(tmp_path: Path) -> None:
    """Replies that are not taken hold back the reading of commands, and nothing is lost when they are taken at last."""
    count = 400_000
    async with serving(tmp_path, {"limits": {"idle_commands": 10**9}}) as site:
        async with site.client() as client:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that reads nothing
            client.writer.write(LINE * count)
            (conversation,) = site.door._conversations
            while conversation.link._writable:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            for _ in range(500):
                await asyncio.sleep(0)
                assert len(conversation.link.engine.unread) <= READ_AHEAD + 2 * 262_144
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]  # as above
            got = 0
            while got < count:
                got += (await client.reader.readuntil(b"\r\n")).startswith(b"252")
        await site.empty()


async def test_a_client_that_vanishes_under_tls_is_no_longer_counted(tmp_path: Path, authority: trustme.CA) -> None:
    """With one connection for each client, the next one is served once the first has gone."""
    config = tls("starttls") | {"limits": {"connections_per_client": 1}}
    async with serving(tmp_path, config) as site:
        for _ in range(3):
            async with site.client() as client:
                assert "STARTTLS" in await client.say("EHLO client.example.org")
                async with site.client(greeting="421 4.7.0 Too many connections"):
                    pass
                assert (await client.say("STARTTLS")).startswith("220")
                await client.writer.start_tls(context_of(authority), server_hostname="localhost")
                assert (await client.say("EHLO client.example.org")).startswith("250")
            await site.empty()
    assert decisions(site)[1::2] == [("none", None, None)] * 3
    assert decisions(site)[0::2] == [("disconnected", "smtp", "too_many_connections")] * 3


@pytest.mark.usefixtures("authority")
async def test_a_handshake_that_is_cut_off_leaves_no_connection(tmp_path: Path) -> None:
    """A client that does not begin it holds up no shutdown, and is no longer counted then."""
    async with serving(tmp_path, tls("implicit")) as site, site.client(greeting=None) as client:
        client.writer.write(b"\x16")  # the first octet of a handshake
        while not site.door.connections:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        await site.door.drain(0)
        await site.empty()


async def test_what_comes_with_the_end_of_the_handshake_came_through_tls(tmp_path: Path, authority: trustme.CA) -> None:
    """EHLO in the same packet as the client's last octets of the handshake is answered."""
    async with serving(tmp_path, tls("starttls")) as site, site.client() as client:
        await client.say("EHLO client.example.org")
        assert (await client.say("STARTTLS")).startswith("220")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = context_of(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                connection.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.writer.write(outgoing.read())
                incoming.write(await client.reader.read(65_536))
        connection.write(b"EHLO again.example.org\r\n")
        client.writer.write(outgoing.read())
        answer = b""
        while b"SIZE" not in answer:
            incoming.write(await client.reader.read(65_536))
            try:
                answer += connection.read(65_536)
            except ssl.SSLWantReadError:
                continue
        assert answer.startswith(b"250-mx.example.com\r\n")
        assert b"STARTTLS" not in answer


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_handshake_that_fails_or_stalls_ends_the_connection(tmp_path: Path, mode: str) -> None:
    """Octets that are no TLS, or none at all, close the connection; the record says why."""
    for octets in (b"EHLO client.example.org\r\n" * 20, b""):
        config = tls(mode) | {"timeouts": {"tls_handshake": "300ms"}}
        async with serving(tmp_path, config) as site:
            async with site.client(greeting="220 " if mode == "starttls" else None) as client:
                if mode == "starttls":
                    await client.say("EHLO client.example.org")
                    assert (await client.say("STARTTLS")).startswith("220")
                client.writer.write(octets)
                await client.reader.read()
            await site.empty()
            assert decisions(site) == [("disconnected", "smtp", "tls_handshake_failed")]


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_client_that_resets_before_the_handshake_leaves_nothing_behind(tmp_path: Path, mode: str) -> None:
    """Its connection is lost before the TLS layer stands, which hears nothing of it: the session ends all the same."""
    async with serving(tmp_path, tls(mode) | {"records": {"silent_clients": True}}) as site:
        sock = socket.create_connection(("127.0.0.1", site.ports[0]))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if mode == "starttls":
            await asyncio.to_thread(sock.recv, 1000)
            sock.sendall(b"EHLO client.example.org\r\n")
            await asyncio.to_thread(sock.recv, 1000)
            sock.sendall(b"STARTTLS\r\n")
        sock.close()  # before the gateway has seen what came last
        async with asyncio.timeout(20):
            while not site.records:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        await site.empty()
        assert decisions(site) == [("none", None, None)]


async def test_a_client_that_closes_its_tls_and_reads_nothing_is_cut_off(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was sent waits below TLS, which is closed already: the connection does not wait for ever with it."""
    made = ClientLink.connection_made

    def keep_little(layer: ClientLink, transport: asyncio.BaseTransport) -> None:
        """The kernel takes little of what the client does not read."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(layer, transport)

    def flood(port: int) -> ssl.SSLSocket:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.connect(("127.0.0.1", port))
        client = context_of(authority).wrap_socket(plain, server_hostname="localhost")
        client.sendall(b"EHLO client.example.org\r\n" * 150)  # which brings 30 KB of replies
        client.settimeout(0.0)
        return client

    monkeypatch.setattr(link, "LAST_WORDS", 0.05)
    monkeypatch.setattr(ClientLink, "connection_made", keep_little)
    async with serving(tmp_path, tls("implicit") | {"limits": {"idle_commands": 200}}) as site:
        with await asyncio.to_thread(flood, site.ports[0]) as client:
            (conversation,) = site.door._conversations
            while not conversation.link._wire.get_write_buffer_size():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            with suppress(ssl.SSLError):  # what it did not read comes before the gateway's answer to this
                client.unwrap()
            await site.empty()


@pytest.mark.usefixtures("authority")
async def test_octets_in_the_packet_of_starttls_end_the_session(tmp_path: Path) -> None:
    """What was smuggled in before TLS is never carried out (CVE-2011-0411)."""
    async with serving(tmp_path, tls("starttls")) as site:
        async with site.client() as client:
            await client.say("EHLO client.example.org")
            client.writer.write(b"STARTTLS\r\nMAIL FROM:<carol@example.org>\r\n")
            assert (await client.reply()).startswith("421 4.7.0 Octets before the TLS handshake")
            assert await client.is_closed()
        await site.empty()
    assert decisions(site) == [("disconnected", "smtp", "octets_before_tls_handshake")]


@pytest.mark.parametrize("which", ["command", "data", "message", "session"])
async def test_a_client_that_is_too_slow_is_told_so(tmp_path: Path, which: str) -> None:
    """421 4.4.2, and the record says 'timeout'."""
    async with serving(tmp_path, {"timeouts": {which: "150ms"}}) as site:
        async with site.client() as client:
            if which in {"data", "message"}:
                await client.begin()
                assert (await client.say("DATA")).startswith("354")
                client.writer.write(b"Subject: and no more")
            assert (await client.reply()).startswith("421 4.4.2 Timeout exceeded")
            assert await client.is_closed()
        await site.empty()
    assert decisions(site) == [("disconnected", "smtp", "timeout")]
    assert site.backend.messages == []


@pytest.mark.parametrize("message", ["2h", "0s"])
async def test_a_message_does_not_make_a_session_longer(tmp_path: Path, message: str) -> None:
    """While one comes, the session's limit holds besides the message's own, and where that has none."""
    limits = {"session": "1h", "message": message, "data": "3h", "command": "3h"}
    async with serving(tmp_path, {"timeouts": limits}) as site, site.client() as client:
        await client.begin()
        (conversation,) = site.door._conversations
        end = conversation.link.deadline
        assert end <= asyncio.get_running_loop().time() + 3600
        assert (await client.say("DATA")).startswith("354")
        assert conversation.link.deadline == end


async def test_a_refused_message_may_come_slowly_to_its_end(tmp_path: Path) -> None:
    """Its octets make no events, and still each is a sign of life: the client is told why it is refused."""
    async with serving(tmp_path, {"timeouts": {"data": "1s"}}) as site:
        async with site.client() as client:
            await client.begin()
            assert (await client.say("DATA")).startswith("354")
            client.writer.write(b"a bare\nLF\r\n")
            for _ in range(15):  # the pace of the client, half a time-out longer than one
                client.writer.write(b"x")
                await asyncio.sleep(0.1)
            client.writer.write(b"\r\n.\r\n")
            assert (await client.reply()).startswith("554 5.6.0")
        await site.empty()
    assert decisions(site) == [("rejected", "smtp", "bare_newline")]


async def test_idle_clients_are_told_of_the_end_and_transactions_may_finish(tmp_path: Path) -> None:
    """On shutdown one between transactions gets 421 at once, one in a transaction after it; new ones are not taken."""
    async with serving(tmp_path) as site, site.client() as idle, site.client() as busy:
        await busy.begin()
        draining = asyncio.create_task(site.door.drain(20.0))
        assert (await idle.reply()).startswith("421 4.3.2 Service closing")
        assert await idle.is_closed()
        assert (await busy.send("Subject: x")).startswith("250")
        assert (await busy.reply()).startswith("421 4.3.2")
        await draining
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the kernel has it
            await asyncio.open_connection("127.0.0.1", site.ports[0])
    assert sorted(decisions(site)) == [("accepted", "backend", None), ("disconnected", "smtp", "shutdown")]


async def test_one_that_was_accepted_just_before_the_end_is_recorded_as_such(tmp_path: Path) -> None:
    """A client whose connection came while the door closed gets 421, and the record names the shutdown."""
    async with serving(tmp_path) as site:
        site.door._draining = True
        async with site.client(greeting="421 4.3.2") as client:
            assert await client.is_closed()
        await site.empty()
    assert decisions(site) == [("disconnected", "smtp", "shutdown")]


async def test_what_is_left_when_the_grace_is_over_is_ended_by_force(tmp_path: Path) -> None:
    """A transaction that does not end in time is aborted: 421, a record, and nothing at the backend."""
    async with serving(tmp_path) as site, site.client() as client:
        await client.begin()
        assert (await client.say("DATA")).startswith("354")
        await site.door.drain(0.05)
        assert (await client.reply()).startswith("421 4.3.2")
        assert await client.is_closed()
    assert decisions(site) == [("disconnected", "smtp", "shutdown")]
    assert site.backend.messages == []


class Gate(Policy[NoOptions]):
    """Holds a message until the test lets it go; has the last word at the end of the session."""

    name = "gate"
    reached: asyncio.Event
    opened: asyncio.Event

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        assert transaction.message is message
        self.reached.set()
        await self.opened.wait()
        return None

    def on_close(self, session: Session) -> Finding | None:
        assert session.messages >= 0
        raise RuntimeError("at the very end")


@pytest.fixture
async def gate() -> AsyncIterator[Registry]:
    """The registry with the closed gate."""
    Gate.reached, Gate.opened = asyncio.Event(), asyncio.Event()
    yield Registry.of(Gate)
    Gate.opened.set()


async def test_a_client_that_vanishes_while_its_message_is_checked_may_get_it_twice_but_not_lose_it(
    tmp_path: Path, gate: Registry
) -> None:
    """The message goes on to the backend, and the record says so."""
    async with serving(tmp_path, {"policies": ["gate"]}, registry=gate) as site:
        async with site.client() as client:
            await client.begin()
            await client.say("DATA")
            client.writer.write(b"Subject: x\r\n.\r\n")
            await Gate.reached.wait()
        Gate.opened.set()
        await site.empty()
    assert decisions(site) == [("accepted", "backend", None)]
    assert len(site.backend.messages) == 1


async def test_commands_behind_a_message_wait_for_its_reply(tmp_path: Path, gate: Registry) -> None:
    """What a client pipelines behind its message is answered in order, and only then read on."""
    async with serving(tmp_path, {"policies": ["gate"], "limits": {"idle_commands": 10**6}}, registry=gate) as site:
        async with site.client() as client:
            await client.begin()
            await client.say("DATA")
            client.writer.write(b"Subject: x\r\n.\r\n" + LINE * 50_000)
            await Gate.reached.wait()
            (conversation,) = site.door._conversations
            while not conversation.link._buffering:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            assert READ_AHEAD < len(conversation.link.engine.unread) <= READ_AHEAD + 262_144
            assert conversation.link.deadline == math.inf  # it is not the client's turn
            Gate.opened.set()
            assert (await client.reply()).startswith("250 2.0.0 Ok: queued")
            for _ in range(50_000):
                assert (await client.reader.readuntil(b"\r\n")).startswith(b"252")
        await site.empty()


async def test_a_disk_without_room_is_452(tmp_path: Path) -> None:
    """The message is read to its end, refused for now with a reference, and the session goes on."""
    (tmp_path / "spool").mkdir()
    async with serving(tmp_path, {"spool": {"directory": "spool", "memory": 10}}) as site, site.client() as client:
        (tmp_path / "spool").rmdir()
        await client.begin()
        with capture_logs() as logs:
            answer = await client.send("Subject: " + "x" * 1000)
        assert answer == f"452 4.3.1 Insufficient system storage, try again later [{site.records[0].id}]"
        assert [line["event"] for line in logs] == ["spool failed"]
        (tmp_path / "spool").mkdir()
        await client.begin()
        assert (await client.send("Subject: " + "x" * 1000)).startswith("250")
    assert decisions(site) == [("deferred", "smtp", "spool_failed"), ("accepted", "backend", None)]


async def test_a_spool_that_can_not_be_read_is_452_and_leaves_no_half_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the disk while the backend is given the message is told to the client; nothing is completed there."""

    class Broken(Spool):
        parts = None

        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"X" * 100_000
            raise OSError(5, "Input/output error")

    async with serving(tmp_path) as site, site.client() as client:
        monkeypatch.setattr(site.door, "spool", lambda: Broken(100, None, HeaderReader()))
        await client.begin()
        assert (await client.send("Subject: x")).startswith("452 4.3.1 Insufficient system storage")
        assert (await client.say("NOOP")).startswith("250")
    assert decisions(site) == [("deferred", "smtp", "spool_failed")]
    assert site.backend.messages == []


async def test_no_file_stays_open_behind_a_message(tmp_path: Path) -> None:
    """RSET between chunks, a refused chunk, a vanished client and a message that went well close their spools."""
    async with serving(tmp_path, {"spool": {"memory": 0}}) as site:
        async with site.client() as client:
            before = _deleted_files()
            for ending in (b"RSET\r\n", b"HELO again.example.org\r\n", b"BDAT 2\r\n\rxRSET\r\n", b"BDAT 0 LAST\r\n"):
                await client.begin()
                client.writer.write(b"BDAT 12\r\nSubject: x\r\n")
                assert (await client.reply()).startswith("250")
                assert len(_deleted_files()) == len(before) + 1
                client.writer.write(ending)
                for _ in range(ending.count(b"\n")):
                    await client.reply()
                await _closed(before)
            await client.begin()
            client.writer.write(b"BDAT 12\r\nSubject: x\r\n")
            await client.reply()
        await site.empty()
        await _closed(before)
    assert [result for result, *_ in decisions(site)] == ["aborted", "aborted", "rejected", "accepted", "aborted"]


async def _closed(before: list[str]) -> None:
    """A thread of the spool lets go of the file a moment after its last write."""
    async with asyncio.timeout(20):
        while _deleted_files() != before:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


def _deleted_files() -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            target = str(descriptor.readlink())
            if target.endswith("(deleted)") and tempfile.gettempdir() in target:
                found.append(descriptor.name)
    return sorted(found)


async def _secured(client: Client, authority: trustme.CA) -> str:
    await client.say("EHLO client.example.org")
    assert (await client.say("STARTTLS")).startswith("220")
    await client.writer.start_tls(context_of(authority), server_hostname="localhost")
    return await client.say("EHLO client.example.org")


PLAIN = base64.b64encode(b"\0submitter\0secret").decode()


async def test_authentication_passes_through_and_names_the_client(tmp_path: Path, authority: trustme.CA) -> None:
    """AUTH is offered under TLS as the backend offers it, its answers pass, and the record has just the name."""
    backend = FaultServer(extensions=[*EXTENSIONS, "AUTH PLAIN LOGIN"])
    config = tls("starttls", auth={"required": True}) | {"policies": ["relay"]}
    async with serving(tmp_path, config, backend=backend) as site:
        async with site.client() as client:
            assert "AUTH" not in await client.say("EHLO client.example.org")
            assert "AUTH PLAIN LOGIN" in await _secured(client, authority)
            assert (await client.say("MAIL FROM:<me@example.com>")).startswith("530 5.7.0")
            assert await client.say("AUTH PLAIN") == "334 "
            assert (await client.say(PLAIN)).startswith("235 2.7.0")
            assert (await client.say(f"AUTH PLAIN {PLAIN}")).startswith("503 5.5.1")
            await client.say("MAIL FROM:<me@example.com>")
            assert (await client.say("RCPT TO:<you@elsewhere.example>")).startswith("250")
            assert (await client.send("Subject: x")).startswith("250 2.0.0 Ok: queued")
        await site.empty()
    (record,) = site.records
    assert record.client.login == "submitter"
    assert b"with ESMTPSA id" in backend.messages[0].data
    assert "secret" not in str(record)


async def test_held_mail_of_an_authenticated_client_goes_to_the_quarantine(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """Not over the connection by which it authenticated, which is to another backend; its other mail does."""
    policies = ["relay", {"at_rcpt": {"match": "held@", "on": {"found": "quarantine"}}}]
    async with FaultServer(extensions=[*EXTENSIONS, "AUTH PLAIN"]) as own, FaultServer() as quarantine:
        backends = {"own": own.port, "held": quarantine.port}
        config = tls("starttls", auth={"required": True, "backend": "own"}) | {
            "policies": policies,
            "backends": {name: {"servers": [f"127.0.0.1:{port}"]} for name, port in backends.items()},
            "default_backend": "own",
            "quarantine": {"backend": "held"},
        }
        async with serving(tmp_path, config) as site:
            async with site.client() as client:
                await _secured(client, authority)
                assert (await client.say(f"AUTH PLAIN {PLAIN}")).startswith("235")
                for recipient in ("held@elsewhere.example", "you@elsewhere.example"):
                    await client.say("MAIL FROM:<me@example.com>")
                    assert (await client.say(f"RCPT TO:<{recipient}>")).startswith("250")
                    assert (await client.send("Subject: x")).startswith("250 2.0.0 Ok: queued")
            await site.empty()
    assert [message.recipients for message in quarantine.messages] == [("RCPT TO:<held@elsewhere.example>",)]
    assert [message.recipients for message in own.messages] == [("RCPT TO:<you@elsewhere.example>",)]
    assert [record.decision.result for record in site.records] == ["quarantined", "accepted"]


async def test_what_is_end_to_end_is_offered_where_the_quarantine_has_it_too(tmp_path: Path) -> None:
    """A message that it can't take could not be held; where nothing is ever held it does not matter."""
    for policies, offered in (([{"at_rcpt": {"on": {"found": "quarantine"}}}], False), ([], True)):
        async with FaultServer() as own, FaultServer(extensions=["PIPELINING"]) as quarantine:
            servers = {"own": own.port, "held": quarantine.port}
            config = {
                "policies": policies,
                "backends": {name: {"servers": [f"127.0.0.1:{port}"]} for name, port in servers.items()},
                "default_backend": "own",
                "quarantine": {"backend": "held"},
            }
            async with serving(tmp_path, config) as site, site.client() as client:
                async with asyncio.timeout(20):
                    while any(each.capabilities is None for each in site.door._groups.values()):  # noqa: ASYNC110 - no event
                        await asyncio.sleep(0)
                assert ("SMTPUTF8" in await client.say("EHLO client.example.org")) is offered


async def test_a_failed_authentication_is_the_backends_word_and_a_fault_is_454(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """535 passes through and can be tried again; without the backend it is 454, never 5xx."""
    backend = FaultServer({"auth": say(b"535 5.7.8 No\r\n", times=1)}, extensions=[*EXTENSIONS, "AUTH PLAIN"])
    async with serving(tmp_path, tls("starttls", auth={"required": False}), backend=backend) as site:
        async with site.client() as client:
            await _secured(client, authority)
            assert (await client.say(f"AUTH PLAIN {PLAIN}")).startswith("535 5.7.8 No")
            assert (await client.say(f"AUTH PLAIN {PLAIN}")).startswith("235")
        async with site.client() as client:
            await _secured(client, authority)
            await backend.stop()
            assert (await client.say(f"AUTH PLAIN {PLAIN}")).startswith("454 4.7.0")
            assert (await client.say("NOOP")).startswith("250")
        await site.empty()


async def test_a_session_with_many_hellos_stays_small(tmp_path: Path) -> None:
    """A repeated HELO replaces what the one before found, so that neither memory nor records grow with it."""
    async with serving(tmp_path, {"policies": [{"at_helo": {"on": {"found": "tag"}}}]}) as site:
        async with site.client() as client:
            for _ in range(50):
                assert (await client.say("HELO client.example.org")).startswith("250")
            (conversation,) = site.door._conversations
            assert len(conversation._session.checks) == 1
            await client.say("MAIL FROM:<carol@example.org>")
        await site.empty()
    assert len(site.records[0].checks) == 1


async def test_recipients_beyond_the_limit_are_deferred_and_not_remembered(tmp_path: Path) -> None:
    """The hard limit is 452 4.5.3 and keeps nothing; the message goes to those before."""
    async with serving(tmp_path, {"limits": {"recipients": 100}}) as site:
        async with site.client() as client:
            await client.begin()
            commands = b"".join(b"RCPT TO:<u%d@example.com>\r\n" % number for number in range(150))
            client.writer.write(commands)
            answers = [await client.reply() for _ in range(150)]
            assert [answer[:3] for answer in answers] == ["250"] * 99 + ["452"] * 51
            assert answers[-1].startswith("452 4.5.3 Too many recipients [")
            assert (await client.send("Subject: x")).startswith("250")
        await site.empty()
    assert len(site.records[0].recipients) == 100
    assert len(site.backend.messages[0].recipients) == 100


async def test_implicit_tls_takes_a_hello_that_is_there_already(tmp_path: Path, authority: trustme.CA) -> None:
    """The first octets of the handshake may have come before the connection is served."""
    async with serving(tmp_path, tls("implicit")) as site:
        for _ in range(5):
            sock = socket.create_connection(("127.0.0.1", site.ports[0]))  # the kernel accepts it
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            connection = context_of(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                connection.do_handshake()
            sock.sendall(outgoing.read())  # and so its first octets, before the loop has seen either
            reader, writer = await asyncio.open_connection(sock=sock)
            async with asyncio.timeout(20):
                while True:
                    incoming.write(await reader.read(65_536))
                    try:
                        connection.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        continue
                writer.write(outgoing.read())
                while True:
                    try:
                        assert connection.read(100).startswith(b"220 mx.example.com")
                        break
                    except ssl.SSLWantReadError:
                        incoming.write(await reader.read(65_536))
            writer.transport.abort()
        await site.empty()


async def test_a_conversation_may_be_given_up_while_its_client_is_seen_to(tmp_path: Path) -> None:
    """Its task is cancelled while it waits, and before that has ended the gateway drains."""
    async with serving(tmp_path) as site, site.client() as client:
        await client.say("EHLO client.example.org")
        (conversation,) = site.door._conversations
        assert conversation.task is not None
        while conversation.link.deadline == float("inf"):  # noqa: ASYNC110 - nothing tells that it waits
            await asyncio.sleep(0)
        conversation.task.cancel()
        conversation.link.drain()
        assert (await client.reply()).startswith("421 4.3.2")
        assert await client.is_closed()
