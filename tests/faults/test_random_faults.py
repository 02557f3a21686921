"""Clients that say anything that makes sense, and a backend that fails anywhere at random.

What must hold whatever happens: what a client was told 250 for is at the backend; what it did not end is not; a fault
is never a refusal; and when all is over nothing is left in use. The seed of a run that fails is in its name.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.worker import Worker
from tests.support.fault_server import EXTENSIONS, Act, FaultServer, kill, say, say_and_close, stall
from tests.support.loops import on_uvloop
from tests.support.serving import Client, Site, serving

SESSIONS: Final = 100
AT_ONCE: Final = 8

STEPS: Final = ("greeting", "ehlo", "xclient", "mail", "rcpt", "data", "content", "end", "rset")
FAULTS: Final[tuple[Callable[[int], Act], ...]] = (
    kill,
    stall,
    lambda times: say_and_close("421 4.3.2 Going down", times),
    lambda times: say("451 4.3.0 Not now", times),
    lambda times: say("what?", times),
    lambda times: say_and_close("25", times),
    lambda times: say("299 2.0.0 Splendid", times),
    lambda times: say("503 5.5.1 Error: need MAIL command", times),
)
REFUSAL: Final = "550 5.7.1 By a policy of the backend's own"


class Crowd:
    """Clients whose messages carry marks, and what they were told.

    Attributes:
        told: A mark to the reply to the message's end; None where the client left in its middle.
        answers: Every reply.
    """

    def __init__(self, seed: int, site: Site) -> None:
        self.told: dict[str, str | None] = {}
        self.answers: list[str] = []
        self._random = random.Random(seed)  # noqa: S311 - it chooses cases, not secrets
        self._site = site
        self._marks = 0

    async def come(self, server: FaultServer) -> None:
        """All clients, some at a time, while the server's faults change with each."""
        waiting = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with waiting:
                server.script = self._script()
                server._counts.clear()
                with suppress(ConnectionError):
                    await self._session()

        async with asyncio.TaskGroup() as clients:
            for _ in range(SESSIONS):
                clients.create_task(one())
        server.script = {}

    def _script(self) -> dict[str, Act]:
        choose = self._random
        script = {
            step: choose.choice(FAULTS)(choose.choice((1, 2, 5)))
            for step in choose.sample(STEPS, choose.choice((0, 1, 2)))
        }
        if choose.random() < 0.2:
            script[choose.choice(("mail", "rcpt", "data", "end"))] = say(REFUSAL, 1)
        return script

    async def _session(self) -> None:
        async with self._site.client() as client:
            await self._say(client, "EHLO client.example.org")
            for _ in range(self._random.randrange(1, 8)):
                if not await self._transaction(client):
                    return
            await self._say(client, "QUIT")

    async def _transaction(self, client: Client) -> bool:
        """One transaction, or a part of it; False when the client leaves, or was left."""
        choose = self._random
        if choose.random() < 0.2:
            return bool(
                await self._say(
                    client, choose.choice(("NOOP", "RSET", "DATA", "BDAT 0 LAST", "EHLO other.example.org"))
                )
            )
        if not await self._say(client, "MAIL FROM:<carol@example.org>"):
            return False
        accepted = False
        for _ in range(choose.randrange(1, 4)):
            answer = await self._say(client, f"RCPT TO:<{choose.choice('abc')}@example.com>")
            accepted |= answer.startswith("250")
        if not accepted or choose.random() < 0.1:
            return bool(await self._say(client, "RSET"))
        return await self._message(client)

    async def _message(self, client: Client) -> bool:
        choose = self._random
        self._marks += 1
        mark = f"mark-{self._marks}-end"
        text = f"Subject: {mark}\r\n\r\n.\r\n..\r\n" + ("x" * 70 + "\r\n") * choose.choice((1, 1, 1, 3000))
        self.told[mark] = None
        if choose.random() < 0.3:
            octets = text.encode()[: -2 if choose.random() < 0.3 else None]
            first = octets[: choose.randrange(len(octets))]
            client.writer.write(f"BDAT {len(first)}\r\n".encode() + first)
            if not await self._heard(client) or choose.random() < 0.1:
                return False
            client.writer.write(f"BDAT {len(octets) - len(first)} LAST\r\n".encode() + octets[len(first) :])
        else:
            if not (await self._say(client, "DATA")).startswith("354"):
                return True
            stuffed = text.replace("\r\n.", "\r\n..").encode()
            if choose.random() < 0.1:
                client.writer.write(stuffed[: len(stuffed) // 2])
                return False
            client.writer.write(stuffed + b".\r\n")
        self.told[mark] = await self._heard(client)
        return bool(self.told[mark])

    async def _say(self, client: Client, line: str) -> str:
        client.writer.write(line.encode() + b"\r\n")
        return await self._heard(client)

    async def _heard(self, client: Client) -> str:
        answer = await client.reply()
        self.answers.append(answer)
        return answer


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "options", [{}, {"client_info": "xclient"}, {"order": "round_robin", "health": {"failures": 1}}], ids=str
)
@on_uvloop
async def test_whatever_fails_nothing_is_lost_halved_or_refused(
    tmp_path: Path, seed: int, options: dict[str, Any]
) -> None:
    """250 means that the backend has it; no 5xx but the backend's refusals and the protocol's own; nothing leaks."""
    extensions = (*EXTENSIONS, "CHUNKING", "XCLIENT NAME ADDR PORT PROTO HELO LOGIN")
    async with FaultServer(extensions=extensions) as server:
        config = {
            "backends": {
                "backend": {
                    "servers": [f"127.0.0.1:{server.port}", f"localhost:{server.port}"],
                    "connections": 3,
                    "timeouts": dict.fromkeys(("connect", "greeting", "command", "data_block", "end_of_data"), "300ms"),
                    "health": {"interval": "200ms"},
                    **options,
                }
            },
            "limits": {"connections_per_client": 0},
        }
        async with serving(tmp_path, config) as site:
            crowd = Crowd(seed, site)
            await crowd.come(server)
            await site.empty()
            _hold(crowd, server)
            await _nothing_is_left(site.worker)


def _hold(crowd: Crowd, server: FaultServer) -> None:
    """What was said and what is there."""
    found = Counter(match for message in server.messages for match in re.findall(rb"mark-\d+-end", message.data))
    arrived = {mark.decode(): count for mark, count in found.items()}
    assert sum(1 for answer in crowd.told.values() if answer is not None and answer.startswith("250")) > SESSIONS / 4
    for mark, answer in crowd.told.items():
        if answer is not None and answer.startswith("250"):
            assert arrived.get(mark) == 1, (mark, answer)
        elif answer is None:
            assert mark not in arrived, "a message that its client did not end"
        elif mark in arrived:
            assert answer.startswith("451 4.4.2"), (mark, answer)
    refused = {answer for answer in crowd.answers if answer.startswith("5")}
    assert refused <= {REFUSAL, *(answer for answer in refused if re.match("503 5.5.1|554 5.5.1", answer))}, refused
    assert not {answer for answer in refused if "need MAIL command" in answer}


async def _nothing_is_left(worker: Worker) -> None:
    """No connection is in use, none is waited for."""
    group = worker._groups["backend"]
    if group._probes:
        await asyncio.wait(group._probes.values())
    for server in group.servers:
        leaving = [connection.lost for connection in server.opener.connections if connection.is_leaving]
        if leaving:
            await asyncio.wait(leaving)
        assert server.pool.count == server.pool.idle
        assert not server.pool._parked
        assert not server.pool._waiters
