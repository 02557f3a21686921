"""How much of a message is read before its task runs."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.doors.link import READ_AHEAD
from gateway.smtp.server import ServerConnection
from tests.support.serving import serving

READ = 262_144
"""Octets that uvloop and asyncio read at most at a time."""

LINE = b"x" * 76 + b"\r\n"


async def test_a_message_that_waits_to_be_read_is_not_read_into_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading stops at the limit, although libuv reads a socket 32 times before the conversation gets its turn."""
    most = 0
    receive = ServerConnection.receive_data

    def observed(engine: ServerConnection, data: bytes) -> None:
        nonlocal most
        receive(engine, data)
        most = max(most, len(engine.unread))

    monkeypatch.setattr(ServerConnection, "receive_data", observed)
    async with serving(tmp_path) as site, site.client() as client:
        await client.begin()
        assert (await client.say("DATA")).startswith("354")
        wire = client.writer.get_extra_info("socket")
        data = b"Subject: x\r\n\r\n" + LINE * (8 * 2**20 // len(LINE))
        sent = 0
        with socket.socket(fileno=os.dup(wire.fileno())) as filled, suppress(BlockingIOError):
            while sent < len(data):  # until the system takes no more: all that is there before the gateway reads
                sent += filled.send(data[sent : sent + READ], socket.MSG_DONTWAIT)
        client.writer.write(data[sent:] + b".\r\n")
        assert (await client.reply()).startswith("250")
    assert sent > 2 * READ
    assert most <= READ_AHEAD + READ
