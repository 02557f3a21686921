"""Not known is not a no: every sort of half an answer of the state that gateways share.

A server that speaks Redis's protocol, and answers what the policies ask by half. None of them may find by it that there
was too much, or that a sender has to wait: they raise, and ``on_error`` holds.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final, Self

import pytest

from gateway.adapters.state.redis import RedisState
from gateway.config.state import StateOptions
from gateway.policy import Policy
from gateway.testing import Site, run
from gateway.verdict import Stage
from policies.concurrency import Concurrency
from policies.greylist import Greylist
from policies.rate_limit import RateLimit

HALVES: Final = [
    b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"+OK\r\n", b":0\r\n", b"$2\r\n00\r\n", b"*1\r\n:0\r\n",
    b"*2\r\n:0\r\n:0\r\n", b"*3\r\n$-1\r\n:0\r\n:0\r\n", b"*3\r\n:0\r\n$-1\r\n:0\r\n", b"*3\r\n:2\r\n:0\r\n:0\r\n",
    b"*3\r\n$1\r\n0\r\n:0\r\n:0\r\n", b"*4\r\n:0\r\n:0\r\n:0\r\n:0\r\n", b"*6\r\n" + b":0\r\n" * 6,
    b"*4\r\n$3\r\nold\r\n:9\r\n:0\r\n:0\r\n", b"*4\r\n$3\r\nnew\r\n$-1\r\n:0\r\n:0\r\n", b"*3\r\n:0\r\n:0", b"",
    b"-LOADING\r\n", b"-ERR what\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b":0\r\n:0\r\n",
]  # fmt: skip


class HalfRedis:
    """A server that says OK to whatever opens a connection, and one thing to every script; no whole one, and it closes.

    Attributes:
        says: What it says to scripts.
        port: Its port.
    """

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.port = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    command = await self._command(reader)
                    is_script = command[0].upper() in {b"EVAL", b"EVALSHA"}
                    writer.write(self.says if is_script else b"+OK\r\n")
                    await writer.drain()
                    if is_script and not self.says.endswith(b"\r\n"):
                        break
        finally:
            writer.close()

    async def _command(self, reader: asyncio.StreamReader) -> list[bytes]:
        """One command, an array of strings."""
        words = []
        for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        return words


async def _found(policy: type[Policy[Any]], options: dict[str, object], stage: Stage, state: RedisState) -> str:
    """What a policy finds: the outcome's name, or that it raised."""
    site = Site(state=state, domains=["example.com"])
    transaction = site.transaction()
    made = site.policy(policy, options)
    try:
        if stage is Stage.CONNECT:
            finding = await run(made, stage, transaction.session)
        elif stage is Stage.MAIL:
            finding = await run(made, stage, transaction)
        else:
            finding = await run(made, stage, transaction, site.recipient(transaction, "bob@example.com"))
    except Exception:  # noqa: BLE001 - any will do: on_error holds
        return "on_error"
    assert finding is not None
    return finding.outcome.name


POLICIES: Final[list[tuple[type[Policy[Any]], dict[str, object], Stage]]] = [
    (RateLimit, {"limit": "1/h"}, Stage.MAIL),
    (Concurrency, {"limit": 1}, Stage.CONNECT),
    (Greylist, {}, Stage.RCPT),
]


@pytest.mark.parametrize("half", HALVES, ids=range(len(HALVES)))
async def test_half_an_answer_of_the_state_is_neither_too_much_nor_too_early(half: bytes) -> None:
    """Each policy leaves it to ``on_error``, whatever the state says by half."""
    async with HalfRedis(half) as server:
        for policy, options, stage in POLICIES:
            state = RedisState(StateOptions(url=f"redis://127.0.0.1:{server.port}/0", timeout="250ms"))
            await state.start()
            found = await _found(policy, options, stage, state)
            await state.stop()
            assert (policy.name, found) == (policy.name, "on_error")


@pytest.mark.parametrize("granted", [0, 1])
async def test_whole_answers_are_taken(granted: int) -> None:
    """What the server says in whole counts, so that the halves above are told from it."""
    async with HalfRedis(b"*3\r\n:%d\r\n:1000\r\n:0\r\n" % granted) as server:
        state = RedisState(StateOptions(url=f"redis://127.0.0.1:{server.port}/0", timeout="250ms"))
        await state.start()
        found = [await _found(*case, state) for case in POLICIES[:2]]
        await state.stop()
    assert found == [("exceeded", "within")[granted]] * 2
