"""Recipients behind socketmap and tcp_table: a server that Postfix's own client understands, and ours as well."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.recipients.tables import TableLookup
from gateway.config.recipients import SocketmapOptions, TcpOptions
from gateway.lookup.answer import Answer, UnverifiableError
from gateway.lookup.socketmap import Socketmap
from gateway.lookup.tcp_table import TcpTable
from tests.support.loops import on_uvloop
from tests.support.table_server import TableServer

USERS = {"alice@example.com": "box one", "jörg@example.com": "box", "a b%c@example.com": "50% off"}
KINDS = ("socketmap", "tcp")


def serving(kind: str, **settings: Any) -> TableServer:
    """A server with these users."""
    return TableServer(USERS, socketmap="virtual" if kind == "socketmap" else None, **settings)


@asynccontextmanager
async def asking(kind: str, server: str, **settings: Any) -> AsyncIterator[TableLookup]:
    """What asks a server."""
    given = {"server": server, **settings}
    if kind == "socketmap":
        lookup = TableLookup(SocketmapOptions.model_validate(given | {"map": "virtual"}), Socketmap("virtual"))
    else:
        lookup = TableLookup(TcpOptions.model_validate(given), TcpTable())
    try:
        yield lookup
    finally:
        await lookup.close()


async def exists(lookup: TableLookup, *users: str) -> list[bool]:
    """Whether users of example.com exist."""
    return [(await lookup.ask(user, "example.com")).exists for user in users]


@pytest.mark.peer("postfix")
@pytest.mark.parametrize("kind", KINDS)
async def test_the_server_speaks_as_postfix_expects(kind: str, tmp_path: Path) -> None:
    """Postfix's own client finds and does not find the same: so what our client is tested with is right."""
    (tmp_path / "main.cf").touch()  # a Postfix that was installed without questions has none
    async with serving(kind) as server:
        where = (
            f"socketmap:inet:127.0.0.1:{server.port}:virtual" if kind == "socketmap" else f"tcp:127.0.0.1:{server.port}"
        )
        for key, status, found in (
            ("alice@example.com", 0, "box one"),
            ("nobody@example.com", 1, ""),
            ("a b%c@example.com", 0, "50% off"),
        ):
            command = ["postmap", "-c", str(tmp_path), "-q", key, where]
            told = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False, timeout=30
            )
            assert (told.returncode, told.stdout.rstrip("\n"), told.stderr) == (status, found, "")
        assert server.asked == ["alice@example.com", "nobody@example.com", "a b%c@example.com"]


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_found(kind: str, tmp_path: Path) -> None:
    """On both event loops, by TCP and by a UNIX socket, over one kept connection."""

    async def look() -> None:
        path = tmp_path / f"{type(asyncio.get_running_loop()).__module__}.sock"
        async with serving(kind, path=path) as server:
            for where in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", f"unix:{path}"):
                async with asking(kind, where) as lookup:
                    assert await exists(lookup, "alice", "nobody", "jörg", "a b%c") == [True, False, True, True]
            assert server.connections == 3

    asyncio.run(look())
    on_uvloop(look)()


@pytest.mark.parametrize(
    ("key", "wanted"), [("address", "alice@example.com"), ("local_part", "alice"), ("domain", "example.com")]
)
async def test_what_is_looked_up(key: str, wanted: str) -> None:
    """The address, or a part of it."""
    async with serving("tcp") as server, asking("tcp", f"127.0.0.1:{server.port}", key=key) as lookup:
        await exists(lookup, "alice")
        assert server.asked == [wanted]


@pytest.mark.parametrize("kind", KINDS)
async def test_connections_are_bounded(kind: str) -> None:
    """Many questions at once share them."""
    async with serving(kind) as server, asking(kind, f"127.0.0.1:{server.port}", connections=3) as lookup:
        found = await asyncio.gather(*(exists(lookup, user) for user in ["alice", "nobody"] * 50))
        assert found == [[True], [False]] * 50
        assert server.connections <= 3


@pytest.mark.parametrize(
    ("kind", "reply", "words"),
    [
        ("socketmap", b"16:TEMP no database,", "TEMP no database"),
        ("socketmap", b"12:PERM bad map,", "PERM bad map"),
        ("tcp", b"400 no%20database\n", "400 no database"),
    ],
)
async def test_an_error_of_the_server_is_no_answer(kind: str, reply: bytes, words: str) -> None:
    """And the connection stays: the next question goes over it."""
    served = serving(kind, replies={"odd@example.com": reply})
    async with served as server, asking(kind, f"127.0.0.1:{server.port}") as lookup:
        with pytest.raises(UnverifiableError, match=words):
            await lookup.ask("odd", "example.com")
        assert await exists(lookup, "alice") == [True]
        assert server.connections == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", [b"", b"nonsense\n", b"5:", b"200 x\n200 y\n", b"2:OK,2:OK,"])
async def test_what_is_no_reply_is_no_answer(kind: str, reply: bytes) -> None:
    """It closes the connection, and the next question opens another: no reply is taken for another's."""
    served = serving(kind, replies={"odd@example.com": reply})
    async with served as server, asking(kind, f"127.0.0.1:{server.port}") as lookup:
        problem: Answer | None = None
        with pytest.raises((Exception, TimeoutError)):
            async with asyncio.timeout(0.2):
                problem = await lookup.ask("odd", "example.com")
        assert problem is None
        assert await exists(lookup, "alice", "nobody") == [True, False]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_kept_connection_that_was_closed_is_replaced(kind: str) -> None:
    """Unseen; while nobody listens nothing can be told."""
    async with serving(kind) as server, asking(kind, f"127.0.0.1:{server.port}") as lookup:
        assert await exists(lookup, "alice") == [True]
        server.cut()
        assert await exists(lookup, "alice", "nobody") == [True, False]
        await server.stop()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await lookup.ask("alice", "example.com")
        await server.listen(server.port)
        assert await exists(lookup, "alice", "nobody") == [True, False]
