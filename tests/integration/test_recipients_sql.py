"""Recipients in a database: against real PostgreSQL and MariaDB servers, and SQLite."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.sql import SqlLookup, says_yes
from gateway.config.recipients import SqlOptions
from gateway.lookup.answer import UnverifiableError
from tests.support.databases import PASSWORD, Database, MariaDb, PostgreSql
from tests.support.loops import on_uvloop

QUERY = "SELECT 1 FROM users WHERE address = :address"
TABLE = """\
CREATE TABLE users (address varchar(200), name varchar(100), domain varchar(100), active {boolean});
INSERT INTO users VALUES ('alice@example.com', 'alice', 'example.com', {true});
INSERT INTO users VALUES ('bob@example.com', 'bob', 'example.com', {false});
INSERT INTO users VALUES ('carol@example.com', 'carol', 'example.com', NULL);
"""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSql]:
    """One server for all tests that leave it running."""
    with PostgreSql() as database:
        database.run(TABLE.format(boolean="boolean", true="true", false="false") + "GRANT SELECT ON users TO lychgate;")
        yield database


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    """The same."""
    with MariaDb() as database:
        database.run("USE mail; " + TABLE.format(boolean="bit(1)", true="b'1'", false="b'0'"))
        yield database


def write(path: Path, *names: str) -> None:
    """Make a file of SQLite with these users."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLE.format(boolean="integer", true="1", false="0"))
        for name in names:
            connection.execute("INSERT INTO users VALUES (?, ?, 'example.com', 1)", (f"{name}@example.com", name))
        connection.commit()


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    """A file of SQLite."""
    write(tmp_path / "users.db")
    return tmp_path / "users.db"


PLACES = (
    pytest.param("postgresql", marks=pytest.mark.peer("postgresql")),
    pytest.param("mariadb", marks=pytest.mark.peer("mariadb")),
    "sqlite",
)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the users are: settings for each kind of database."""
    found = request.getfixturevalue(request.param)
    if isinstance(found, Database):
        return {"url": found.url, "password": PASSWORD}
    return {"url": f"sqlite:///{found}"}


@asynccontextmanager
async def asking(place: dict[str, Any], query: str = QUERY, folder: Path | None = None) -> AsyncIterator[SqlLookup]:
    """What asks a database."""
    lookup = SqlLookup(SqlOptions.model_validate({**place, "query": query}), folder or Path("/"))
    try:
        yield lookup
    finally:
        await lookup.close()


async def answers(lookup: SqlLookup, *users: str) -> list[bool]:
    """Whether users of example.com exist."""
    return [(await lookup.ask(user, "example.com")).exists for user in users]


async def test_rows_are_found(place: dict[str, Any]) -> None:
    """An address that has one exists."""
    async with asking(place) as lookup:
        assert await answers(lookup, "alice", "bob", "nobody", "") == [True, True, False, False]
        assert (await lookup.ask("alice", "example.net")).exists is False


async def test_each_parameter_may_be_named(place: dict[str, Any]) -> None:
    """Some, all, or one of them twice."""
    async with asking(place, "SELECT 1 FROM users WHERE name = :local_part AND domain = :domain") as lookup:
        assert await answers(lookup, "alice", "nobody") == [True, False]
    async with asking(place, "SELECT 1 FROM users WHERE address = :address OR name = :address") as lookup:
        assert await answers(lookup, "alice", "nobody") == [True, False]


async def test_the_first_column_says_whether_it_is_one(place: dict[str, Any]) -> None:
    """NULL, false and 0 are a no, so that counting and EXISTS mean what they seem to."""
    async with asking(place, "SELECT active FROM users WHERE address = :address") as lookup:
        assert await answers(lookup, "alice", "bob", "carol") == [True, False, False]
    for query in (
        "SELECT count(*) FROM users WHERE address = :address",
        "SELECT EXISTS (SELECT 1 FROM users WHERE address = :address)",
        "SELECT name FROM users WHERE address = :address",
    ):
        async with asking(place, query) as lookup:
            assert await answers(lookup, "alice", "nobody") == [True, False]


NO = ("", " ", "0", "00", "0.0", "-0", "f", "False", "FALSE", "n", "N ", "no", "No", "off")
YES = ("1", "-1", "0.5", "10", "t", "true", "Y", "yes", "on", "0x", "nobody", "alice", "N/A")


@pytest.mark.parametrize("said", NO + YES)
async def test_text_that_says_no_is_a_no(place: dict[str, Any], said: str) -> None:
    """Flags are text in many a database."""
    query = f"SELECT '{said}' FROM users WHERE address = :address"  # noqa: S608 - one of these
    async with asking(place, query) as lookup:
        assert await answers(lookup, "alice", "nobody") == [said in YES, False]


@pytest.mark.parametrize(
    ("value", "exists"),
    [
        *((value, False) for value in (None, False, 0, 0.0, Decimal("0.00"))),
        *((value, False) for value in (b"", b"\0\0", b"0", b"N", bytearray(b"no"), memoryview(b"\0"))),
        *((value, True) for value in (True, 2, Decimal("0.01"), b"\1", b"\0\1", b"Y", memoryview(b"1"))),
    ],
)
def test_values_of_any_driver_say_yes_or_no(value: object, exists: bool) -> None:  # noqa: FBT001 - a column of the table
    """Numbers, truth values, and octets that hold a bit or a text."""
    assert says_yes(value, "alice") is exists


def test_somebody_may_be_called_no() -> None:
    """A query that gives the user's own name finds the user."""
    assert [says_yes(name, name) for name in ("no", "N", "off", "0", "")] == [True, True, True, True, False]


@pytest.mark.parametrize("user", ["' OR '1'='1", "x'; DROP TABLE users; --", "%", "\\", ":address", "ä'ö", 'a"b'])
async def test_no_address_becomes_part_of_the_query(place: dict[str, Any], user: str) -> None:
    """It travels apart from it."""
    async with asking(place) as lookup:
        assert await answers(lookup, user, "alice") == [False, True]


async def test_many_questions_at_once(place: dict[str, Any]) -> None:
    """More than there are connections: each is answered."""
    async with asking(place) as lookup:
        found = await asyncio.gather(*(answers(lookup, user) for user in ["alice", "nobody"] * 20))
        assert found == [[True], [False]] * 20


async def test_a_wrong_query_can_not_tell(place: dict[str, Any]) -> None:
    """What the database says is told; it is no reason to refuse mail."""
    async with asking(place, "SELECT 1 FROM people WHERE address = :address") as lookup:
        source = CachedSource("sql", lookup, SqlOptions.model_fields["cache"].default, timeout=30)
        with pytest.raises(UnverifiableError, match="people"):
            await source.find("alice", "example.com")


def test_on_the_event_loop_of_the_service(place: dict[str, Any]) -> None:
    """The drivers work on uvloop as well."""

    async def look() -> None:
        async with asking(place) as lookup:
            assert await answers(lookup, "alice", "nobody") == [True, False]

    on_uvloop(look)()


@pytest.mark.peer("postgresql")
async def test_a_wrong_password_can_not_tell(postgresql: PostgreSql) -> None:
    """And the right one is not shown."""
    async with asking({"url": postgresql.url, "password": "wrong"}) as lookup:
        with pytest.raises(Exception, match="password authentication failed"):
            await lookup.ask("alice", "example.com")


@pytest.mark.peer("postgresql")
async def test_a_server_that_was_restarted_is_asked_again(tmp_path: Path) -> None:
    """The kept connection is replaced unseen; while the server is away nothing can be told."""
    with PostgreSql() as database:
        database.run(TABLE.format(boolean="boolean", true="true", false="false") + "GRANT SELECT ON users TO lychgate;")
        async with asking({"url": database.url, "password": PASSWORD}, folder=tmp_path) as lookup:
            assert await answers(lookup, "alice") == [True]
            await asyncio.to_thread(database.stop)
            with pytest.raises(Exception, match=r"refused|closed|terminat"):
                await lookup.ask("alice", "example.com")
            await asyncio.to_thread(database.start)
            assert await answers(lookup, "alice", "nobody") == [True, False]
            await asyncio.to_thread(database.stop)
            await asyncio.to_thread(database.start)
            assert await answers(lookup, "alice", "nobody") == [True, False]  # nobody noticed


@pytest.mark.peer("mariadb")
async def test_a_server_that_stalls_holds_nothing_up_for_good(mariadb: MariaDb) -> None:
    """Who asks gives up after the time-out; when it goes on, so do the answers."""
    async with asking({"url": mariadb.url, "password": PASSWORD}) as lookup:
        source = CachedSource("sql", lookup, SqlOptions.model_fields["cache"].default, timeout=0.3)
        assert await answers(lookup, "alice") == [True]
        mariadb.pause()
        try:
            with pytest.raises(UnverifiableError, match="no answer within"):
                await source.find("bob", "example.com")
        finally:
            mariadb.resume()
        assert await answers(lookup, "alice", "nobody") == [True, False]


async def test_a_file_of_sqlite_is_only_read(tmp_path: Path) -> None:
    """A relative name starts in the configuration's folder; a wrong one makes no file; changes are seen."""
    place = {"url": "sqlite:///users.db"}
    async with asking(place, folder=tmp_path) as lookup:
        with pytest.raises(Exception, match="unable to open"):
            await lookup.ask("alice", "example.com")
        assert not (tmp_path / "users.db").exists()
        write(tmp_path / "users.db")
        assert await answers(lookup, "alice", "dave") == [True, False]
        with closing(sqlite3.connect(tmp_path / "users.db")) as connection:
            connection.execute("INSERT INTO users VALUES ('dave@example.com', 'dave', 'example.com', 1)")
            connection.commit()
        assert await answers(lookup, "dave") == [True]
    async with asking(place, "INSERT INTO users VALUES (:address, '', '', 1) RETURNING 1", tmp_path) as lookup:
        with pytest.raises(Exception, match="readonly"):
            await lookup.ask("eve", "example.com")
