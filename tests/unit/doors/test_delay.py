"""A delay slows one reply down, and holds up nothing else."""

import asyncio
import os
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_server import FaultServer
from tests.support.serving import Client, Site, serving

SLOW: dict[str, Any] = {"found": {"action": "pass", "delay": "60s"}}


def config(*policies: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration with these policies; what is slow takes longer than a test waits."""
    return {"policies": list(policies)} | more


async def is_held_back(site: Site) -> None:
    """Wait until a reply is held back."""
    async with asyncio.timeout(20):
        while not any(each._admission._delayed for each in site.door._conversations):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)


async def whole_message(site: Site) -> None:
    """Another client brings a message."""
    async with site.client() as client:
        await client.begin("dora@example.org")
        assert (await client.send("Subject: meanwhile")).startswith("250 2.0.0 Ok: queued")


def has_nothing(client: Client) -> bool:
    """Whether no octet has come to a client."""
    wire = socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno()))
    try:
        return wire.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"never"
    except BlockingIOError:
        return not client.reader._buffer  # type: ignore[attr-defined]  # what was read and not taken
    finally:
        wire.close()


STEPS = {
    "mail": ({"at_mail": {"match": "carol", "on": SLOW}}, ["MAIL FROM:<carol@example.org>"]),
    "rcpt": (
        {"at_rcpt": {"match": "carol", "on": SLOW}},
        ["MAIL FROM:<carol@example.org>", "RCPT TO:<alice@example.com>"],
    ),
    "refused": (
        {"at_rcpt": {"match": "carol", "on": {"found": {"delay": "60s"}}}},
        ["MAIL FROM:<carol@example.org>", "RCPT TO:<alice@example.com>"],
    ),
    "data": (
        {"at_data": {"match": "carol", "on": SLOW}},
        ["MAIL FROM:<carol@example.org>", "RCPT TO:<alice@example.com>", "DATA"],
    ),
    "message": (
        {"at_message": {"match": "carol", "on": SLOW}},
        ["MAIL FROM:<carol@example.org>", "RCPT TO:<alice@example.com>", "DATA", "Subject: x\r\n."],
    ),
    "chunk": (
        {"at_message": {"match": "carol", "on": SLOW}},
        ["MAIL FROM:<carol@example.org>", "RCPT TO:<alice@example.com>", "BDAT 14 LAST\r\nSubject: x\r\n"],
    ),
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_delay_holds_up_nobody_and_ends_with_a_drain(tmp_path: Path, step: str) -> None:
    """While one reply is held back others bring mail, over the backend's only connection; a drain lets it go."""
    policy, commands = STEPS[step]
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(FaultServer())
        only = {"backend": {"servers": [f"127.0.0.1:{backend.port}"], "connections": 1}}
        site = await stack.enter_async_context(serving(tmp_path, config(policy, backends=only)))
        client = await stack.enter_async_context(site.client())
        await client.say("HELO client.example.org")
        for line in commands[:-1]:
            await client.say(line)
        client.writer.write(commands[-1].encode() + b"\r\n")
        await is_held_back(site)
        await whole_message(site)
        assert has_nothing(client)
        draining = asyncio.ensure_future(site.door.drain(20))
        answer = await client.reply()
        assert answer[0] in ("5" if step == "refused" else "23"), answer
        client.writer.transport.abort()
        await draining
    taken = [message.data.rpartition(b"Subject: ")[2].split(b"\r\n")[0] for message in backend.messages]
    assert taken == [b"meanwhile", *([b"x"] if step in {"message", "chunk"} else [])]


@pytest.mark.parametrize("step", STEPS)
async def test_a_delay_ends_when_the_client_leaves(tmp_path: Path, step: str) -> None:
    """The session is over at once, and a message that was held back is not sent on."""
    policy, commands = STEPS[step]
    async with serving(tmp_path, config(policy)) as site:
        async with site.client() as client:
            await client.say("HELO client.example.org")
            for line in commands[:-1]:
                await client.say(line)
            client.writer.write(commands[-1].encode() + b"\r\n")
            await is_held_back(site)
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
            client.writer.transport.abort()
        await site.empty()
        assert not site.door._conversations
    assert site.backend.messages == []
    assert [record.decision.result for record in site.records] == ["rejected" if step == "refused" else "aborted"]


async def test_a_delay_ends_when_the_client_says_no_more(tmp_path: Path) -> None:
    """What it sent before is answered at once, because it can read still; the replies before that came already."""
    async with serving(tmp_path, config({"at_mail": {"on": SLOW}})) as site, site.client() as client:
        client.writer.write(b"HELO client.example.org\r\nMAIL FROM:<carol@example.org>\r\n")
        await is_held_back(site)
        assert await client.reply() == "250 mx.example.com"
        assert has_nothing(client)
        client.writer.write_eof()
        assert await client.reply() == "250 2.1.0 Sender ok"


@pytest.mark.parametrize("limit", ["session", "message"])
async def test_a_delay_ends_with_the_sessions_deadlines(tmp_path: Path, limit: str) -> None:
    """No delay lasts beyond the time limit of the session, or of the message that comes."""
    policy, commands = STEPS["mail" if limit == "session" else "message"]
    settings = config(policy, timeouts={limit: "200ms"})
    async with serving(tmp_path, settings) as site, site.client() as client:
        await client.say("HELO client.example.org")
        for line in commands:
            answer = await client.say(line)
        assert answer.startswith("250")
        if limit == "session":
            assert (await client.reply()).startswith("421 ")


async def test_a_command_timeout_is_the_clients_and_not_the_gateways(tmp_path: Path) -> None:
    """While the gateway holds a reply back the client has not to say anything, and gets its whole time afterwards."""
    policy = {"at_mail": {"on": {"found": {"action": "pass", "delay": "300ms"}}}}
    settings = config(policy, timeouts={"command": "200ms"})
    async with serving(tmp_path, settings) as site, site.client() as client:
        await client.say("HELO client.example.org")
        assert await client.say("MAIL FROM:<carol@example.org>") == "250 2.1.0 Sender ok"
        assert (await client.say("RSET")).startswith("250")


async def test_a_reply_comes_after_its_delay(tmp_path: Path) -> None:
    """What comes meanwhile is answered afterwards."""
    policy = {"at_mail": {"on": {"found": {"action": "pass", "delay": "60ms"}}}}
    async with serving(tmp_path, config(policy)) as site, site.client() as client:
        await client.say("HELO client.example.org")
        began = time.monotonic()
        client.writer.write(b"MAIL FROM:<carol@example.org>\r\n")
        await is_held_back(site)
        client.writer.write(b"NOOP\r\n")
        assert await client.reply() == "250 2.1.0 Sender ok"
        assert time.monotonic() - began > 0.055  # timers go by milliseconds
        assert (await client.reply()).startswith("250 2.0.0")


async def test_a_delayed_greeting_is_said_once(tmp_path: Path) -> None:
    """At connect the greeting is what is held back."""
    policy = {"at_connect": {"on": {"found": {"action": "pass", "delay": "60s"}}}}
    async with serving(tmp_path, config(policy)) as site, site.client(greeting=None) as client:
        await is_held_back(site)
        assert has_nothing(client)
        client.writer.write_eof()
        assert await client.reply() == "220 mx.example.com ESMTP Lychgate"
        assert await client.is_closed()
