"""Recipients in a database: PostgreSQL (psycopg), MariaDB and MySQL (aiomysql), SQLite (aiosqlite), by SQLAlchemy.

The query has named parameters, which the driver carries apart from the query's text. It runs outside of transactions. A
file of SQLite is opened for reading only, so that a wrong name makes no empty database. A connection that was lost
while unused is replaced once, unseen.
"""

import re
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.config.recipients import SQL_DRIVERS, SqlOptions
from gateway.lookup.answer import Answer, UnverifiableError

_ZERO: Final = re.compile(r"[+-]?0+(?:\.0*)?|[+-]?\.0+")

RECYCLE: Final = 1800
"""Seconds after which a connection is replaced: firewalls and servers forget those that are older."""


class SqlLookup:
    """Asks a database.

    Args:
        options: Where it is, and the query.
        folder: Where a relative file name of SQLite starts.
    """

    folds_case = True

    def __init__(self, options: SqlOptions, folder: Path) -> None:
        self._query = text(options.query)
        self._names = frozenset(self._query.compile().params)
        self._engine = _engine(options, folder)

    async def ask(self, local_part: str, domain: str) -> Answer:
        """See ``Lookup``."""
        values = {"address": f"{local_part}@{domain}", "local_part": local_part, "domain": domain}
        parameters = {name: value for name, value in values.items() if name in self._names}
        try:
            row = await self._first(parameters)
        except DBAPIError as error:
            if error.connection_invalidated:
                row = await self._first(parameters)
            elif isinstance(error, OperationalError | InterfaceError):  # of the connection, not of the query
                raise
            else:
                raise UnverifiableError(f"the database answered: {error}") from error
        if row is None:
            return Answer(False, "no row")
        return Answer(says_yes(row[0], local_part), f"a row that begins with {row[0]!r}")

    async def _first(self, parameters: dict[str, str]) -> Any:
        async with self._engine.connect() as connection:
            return (await connection.execute(self._query, parameters)).first()

    def forget(self, domain: str | None) -> None:
        """Nothing is remembered here."""

    async def close(self) -> None:
        """See ``Lookup``."""
        await self._engine.dispose()


def _engine(options: SqlOptions, folder: Path) -> AsyncEngine:
    url = make_url(options.url)
    if options.password is not None:
        url = url.set(password=options.password.get_secret_value())
    scheme = url.drivername
    url = url.set(drivername=f"{scheme}+{SQL_DRIVERS[scheme][0]}")
    arguments: dict[str, Any] = {}
    if scheme == "sqlite":
        url = _read_only(url, folder)
    elif scheme == "postgresql":
        arguments["prepare_threshold"] = None  # poolers such as PgBouncer give each query another connection
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=options.connections,
        max_overflow=0,
        pool_timeout=options.timeout,
        pool_recycle=RECYCLE,
        connect_args=arguments,
        hide_parameters=True,
    )


def _read_only(url: URL, folder: Path) -> URL:
    """The URL of a file of SQLite, absolute and for reading only."""
    path = (folder / (url.database or "")).absolute()
    return url.set(database=path.as_uri(), query={"mode": "ro", "uri": "true"})


_NO: Final = frozenset({"", "f", "false", "n", "no", "off"})
"""Texts that say no, as databases without truth values have them; so do numbers that are 0."""


def says_yes(value: object, local_part: str) -> bool:
    """Whether the first column of a row means that the address exists.

    Flags are often text; MariaDB's BIT is octets, and so is the text of some drivers.

    Args:
        value: What the database gave.
        local_part: Who was asked about: a query may give the name of the user, and somebody may be called ``no``.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        octets = bytes(value)
        if not any(octets):
            return False
        value = octets.decode("latin-1")
    if not isinstance(value, str):
        return bool(value)
    text = value.strip().lower()
    return text == local_part.lower() != "" or (text not in _NO and _ZERO.fullmatch(text) is None)
