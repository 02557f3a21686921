"""Sources of recipients fail while mail is offered: nobody is refused for good, and nobody waits for long.

Each question is about an address of its own, so that no memory answers. What is down costs the first few their
time-out, and the others nothing; what is remembered flows on.
"""

from pathlib import Path
from typing import Any

import pytest

from gateway.config.registry import Registry
from tests.support.databases import PASSWORD, PostgreSql
from tests.support.server_process import ServerProcess
from tests.support.serving import Client, Site, serving
from tests.support.slapd import SUFFIX, Slapd

QUERY = "SELECT 1 FROM users WHERE address = :address"
TABLE = """\
CREATE TABLE users (address text);
INSERT INTO users VALUES ('alice@example.com');
GRANT SELECT ON users TO lychgate;
"""
ENTRIES = """\
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: uid=alice,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.com
"""
CACHE = {"yes": "1ms", "no": "1ms", "unknown": "1ms"}
"""So that every answer is the source's own, but for a yes that has grown old."""


class Offers:
    """Offers recipients on one connection."""

    def __init__(self, site: Site, client: Client) -> None:
        self._site = site
        self._client = client
        self._number = 0

    @property
    def source(self) -> Any:
        """The gateway's source."""
        (source,) = self._site.worker._sources.caches
        return source

    async def unknown(self) -> str:
        """Offer an address that nobody has asked about; returns the code."""
        self._number += 1
        return await self._rcpt(f"user{self._number}")

    async def alice(self) -> str:
        """Offer one that exists."""
        return await self._rcpt("alice")

    async def _rcpt(self, user: str) -> str:
        return (await self._client.say(f"RCPT TO:<{user}@example.com>"))[:3]


async def _holds(folder: Path, source: dict[str, Any], server: ServerProcess, *, pause: bool) -> None:
    config = {
        "domains": {"example.com": {"recipients": source}},
        "policies": ["recipient"],
        "limits": {"errors": 10_000, "session_memory": "10MB"},
    }
    async with serving(folder, config, registry=Registry.installed()) as site, site.client() as client:
        offers = Offers(site, client)
        assert (await client.say("HELO client.example.org"))[:3] == "250"
        assert (await client.say("MAIL FROM:<carol@example.org>"))[:3] == "250"
        assert (await offers.alice(), await offers.unknown()) == ("250", "550")
        (server.pause if pause else server.stop)()
        while not offers.source.breaker.is_tripped:
            assert await offers.unknown() == "451"
        asked = offers.source.asked
        for _ in range(200):
            assert await offers.unknown() == "451"
            assert await offers.alice() == "250"
        assert offers.source.asked == asked
        (server.resume if pause else server.start)()
        await offers.source.breaker.healed.wait()
        assert (await offers.alice(), await offers.unknown()) == ("250", "550")


@pytest.mark.peer("postgresql")
@pytest.mark.parametrize("pause", [True, False], ids=["frozen", "stopped"])
async def test_a_database_that_is_away(tmp_path: Path, *, pause: bool) -> None:
    """Unknown recipients are to come again, known ones are taken, and the database is left alone until it is back."""
    with PostgreSql() as database:
        database.run(TABLE)
        section = {"url": database.url, "password": PASSWORD, "query": QUERY, "timeout": "300ms", "cache": CACHE}
        await _holds(tmp_path, {"sql": section}, database, pause=pause)


@pytest.mark.peer("slapd")
@pytest.mark.parametrize("pause", [True, False], ids=["frozen", "stopped"])
async def test_a_directory_that_is_away(tmp_path: Path, *, pause: bool) -> None:
    """The same for LDAP."""
    with Slapd(ENTRIES) as server:
        section = {"server_host": server.url, "search_base": SUFFIX, "query_filter": "(mail=%s)"}
        await _holds(tmp_path, {"ldap": {**section, "timeout": "300ms", "cache": CACHE}}, server, pause=pause)
