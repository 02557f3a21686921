"""Recipients in a directory: against a real OpenLDAP server."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.adapters.recipients.ldap import LdapLookup
from gateway.config.recipients import LdapOptions
from gateway.lookup.answer import UnverifiableError
from tests.support.loops import on_uvloop
from tests.support.ports import free_port
from tests.support.slapd import ADMIN, PASSWORD, SUFFIX, Slapd

pytestmark = pytest.mark.peer("slapd", "ldapsearch")

ENTRIES = """\
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.com
mail: alice.a@example.com
mobile: 1

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob
cn:: QsO2Yg==
sn: (B*)
mail: bob@example.com

dn: ou=sub,ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: sub

dn: uid=deep,ou=sub,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: deep
cn: Deep
sn: D
mail: deep@example.com
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, ``ca.pem``, and a certificate for ``localhost``."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    return folder


@pytest.fixture(scope="module")
def directory(certificates: Path) -> Iterator[Slapd]:
    """One server for all tests that leave it running."""
    with Slapd(ENTRIES, certificates=certificates) as server:
        yield server


@pytest.fixture(scope="module")
def private() -> Iterator[Slapd]:
    """One in which nobody may search without a bind."""
    with Slapd(ENTRIES, private=True) as server:
        yield server


@asynccontextmanager
async def asking(directory: Slapd, **settings: Any) -> AsyncIterator[LdapLookup]:
    """What asks a directory for ``(mail=%s)``, with further settings."""
    given = {"server_host": directory.url, "search_base": SUFFIX, "query_filter": "(mail=%s)"} | settings
    lookup = LdapLookup(LdapOptions.model_validate(given))
    try:
        yield lookup
    finally:
        await lookup.close()


async def answers(lookup: LdapLookup, *addresses: str) -> list[bool | None]:
    """What comes of addresses, None where it can't be told."""
    found: list[bool | None] = []
    for address in addresses:
        local_part, _, domain = address.rpartition("@")
        try:
            found.append((await lookup.ask(local_part, domain)).exists)
        except UnverifiableError:
            found.append(None)
    return found


async def test_entries_are_found(directory: Slapd) -> None:
    """One address of several, in any case; others are unknown."""
    async with asking(directory) as lookup:
        assert await answers(lookup, "alice@example.com", "alice.a@example.com", "ALICE@example.com") == [True] * 3
        assert await answers(lookup, "nobody@example.com", "alice@example.net") == [False] * 2


@pytest.mark.parametrize("local_part", ["*", "a*", "alice)(uid=*", "*)(mail=*", "\\2a", "alice\0", "(", "ä*", "%u"])
async def test_no_address_becomes_part_of_the_filter(directory: Slapd, local_part: str) -> None:
    """What would find somebody if it were read as a filter finds nobody."""
    async with asking(directory, query_filter="(&(mail=%u)(objectClass=*))") as lookup:
        assert (await lookup.ask(local_part, "example.com")).exists is False
    async with asking(directory, search_base=f"uid=%u,ou=people,{SUFFIX}", query_filter="(objectClass=*)") as lookup:
        assert (await answers(lookup, f"{local_part}@example.com"))[0] is not True


@pytest.mark.parametrize(
    "text",
    [
        "(mail=alice@example.com)", "(uid=ALICE)", "(uid=a*)", "(uid=*e)", "(uid=a*i*e)", "(uid=*x*)", "(mail=*)",
        "(mobile=*)", "(&(uid=alice)(mobile=*))", "(&(uid=bob)(mobile=*))", "(|(uid=x)(uid=bob))", "(!(uid=*))",
        "(!(objectClass=*))", "(sn=\\28B\\2a\\29)", "(cn=Böb)", "(cn=B\\c3\\b6b)", "(uid~=alice)", "(uid>=bob)",
        "(uid<=a)", "(uid:caseIgnoreMatch:=BOB)", "(uid:caseExactMatch:=BOB)", "(ou:dn:=people)",
        "(:dn:2.5.13.2:=people)",
        "(uid;x-none=alice)", "(0.9.2342.19200300.100.1.1=bob)", "(cn=)",
    ],
)  # fmt: skip
async def test_filters_mean_what_they_mean_to_ldapsearch(directory: Slapd, text: str) -> None:
    """Another client, with the same filter on the same server, finds something where this one does."""
    command = ["ldapsearch", "-x", "-LLL", "-z", "1", "-H", directory.url, "-b", SUFFIX, text, "1.1"]
    told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=30)
    async with asking(directory, query_filter=text) as lookup:
        found = (await answers(lookup, "x@y"))[0]
    if told.returncode in {0, 4}:  # success, and the size limit
        assert found is ("dn:" in told.stdout)
    else:
        assert found is not True


async def test_an_entry_must_have_a_result_attribute(directory: Slapd) -> None:
    """Where attributes are named: bob has no mobile; any one of several will do."""
    async with asking(directory, result_attribute="mobile") as lookup:
        assert await answers(lookup, "alice@example.com", "bob@example.com") == [True, False]
    async with asking(directory, result_attribute=["pager", "mail"]) as lookup:
        assert await answers(lookup, "bob@example.com") == [True]


@pytest.mark.parametrize(("scope", "wanted"), [("sub", [True, True]), ("one", [True, False]), ("base", [False, False])])
async def test_scopes(directory: Slapd, scope: str, wanted: list[bool]) -> None:
    """Alice stands right below the base, the other one deeper."""
    async with asking(directory, search_base=f"ou=people,{SUFFIX}", scope=scope) as lookup:
        assert await answers(lookup, "alice@example.com", "deep@example.com") == wanted


async def test_a_base_made_of_the_address(directory: Slapd) -> None:
    """A domain that has no branch has no addresses; a fixed base that does not exist is a mistake, not a no."""
    async with asking(directory, search_base="dc=%2,dc=%1") as lookup:
        assert await answers(lookup, "alice@example.com", "alice@example.org", "alice@com") == [True, False, False]
    async with asking(directory, search_base="dc=example,dc=org") as lookup:
        assert await answers(lookup, "alice@example.com") == [None]


async def test_binding(private: Slapd) -> None:
    """With the password everything is found; without or with a wrong one nothing can be told."""
    async with asking(private, bind_dn=ADMIN, bind_pw=PASSWORD) as lookup:
        assert await answers(lookup, "alice@example.com", "nobody@example.com") == [True, False]
    async with asking(private) as lookup:
        assert await answers(lookup, "alice@example.com") == [None]
    async with asking(private, bind_dn=ADMIN, bind_pw="wrong") as lookup:
        with pytest.raises(UnverifiableError, match="the bind was refused: 49"):
            await lookup.ask("alice", "example.com")


@pytest.mark.parametrize("settings", [{"bind": False}, {"version": 2}])
async def test_without_a_bind_and_with_version_2(directory: Slapd, settings: dict[str, Any]) -> None:
    """Both work where the server lets them."""
    async with asking(directory, **settings) as lookup:
        assert await answers(lookup, "alice@example.com", "nobody@example.com") == [True, False]


def test_tls(directory: Slapd, certificates: Path) -> None:
    """By StartTLS and by ldaps, on both event loops, with a certificate that must be right."""

    async def look() -> None:
        ca = str(certificates / "ca.pem")
        secure: list[dict[str, Any]] = [{"start_tls": True}, {"server_host": directory.secure_url}]
        for settings in secure:
            async with asking(directory, tls_ca_cert_file=ca, **settings) as lookup:
                assert await answers(lookup, "alice@example.com", "nobody@example.com") == [True, False]
            async with asking(directory, tls_ca_cert_file=str(certificates / "other.pem"), **settings) as lookup:
                with pytest.raises(UnverifiableError, match="certificate verify failed"):
                    await lookup.ask("alice", "example.com")
            async with asking(directory, tls_require_cert=False, **settings) as lookup:
                assert await answers(lookup, "alice@example.com") == [True]

    asyncio.run(look())
    on_uvloop(look)()


async def test_start_tls_is_never_done_without(private: Slapd) -> None:
    """A server that does not offer it is not asked, and gets no password."""
    async with asking(private, start_tls=True, bind_dn=ADMIN, bind_pw=PASSWORD) as lookup:
        with pytest.raises(UnverifiableError, match="StartTLS was refused"):
            await lookup.ask("alice", "example.com")


async def test_a_unix_socket(directory: Slapd) -> None:
    """ldapi:// with the path percent-encoded."""
    async with asking(directory, server_host=directory.socket_url) as lookup:
        assert await answers(lookup, "alice@example.com") == [True]


async def test_the_next_server_is_asked_when_one_is_away(directory: Slapd) -> None:
    """In the order written; with none there nothing can be told."""
    nobody = f"ldap://127.0.0.1:{free_port()}"
    async with asking(directory, server_host=[nobody, directory.url]) as lookup:
        assert await answers(lookup, "alice@example.com") == [True]
    async with asking(directory, server_host=nobody) as lookup:
        assert await answers(lookup, "alice@example.com") == [None]


async def test_many_questions_share_a_connection(directory: Slapd) -> None:
    """Each gets its own answer."""
    async with asking(directory) as lookup:
        addresses = ["alice@example.com", "nobody@example.com"] * 100
        found = await asyncio.gather(*(answers(lookup, address) for address in addresses))
        assert found == [[True], [False]] * 100


async def test_a_server_that_was_restarted_is_asked_again() -> None:
    """The kept connection is replaced without a failure; while the server is away nothing can be told."""
    with Slapd(ENTRIES) as directory:
        async with asking(directory) as lookup:
            assert await answers(lookup, "alice@example.com") == [True]
            directory.stop()
            assert await answers(lookup, "alice@example.com", "nobody@example.com") == [None, None]
            directory.start()
            assert await answers(lookup, "alice@example.com", "nobody@example.com") == [True, False]


async def test_a_server_that_stalls_holds_nothing_up_for_good() -> None:
    """Who asks gives up after their own time; when it goes on, so do the answers."""
    with Slapd(ENTRIES) as directory:
        async with asking(directory) as lookup:
            assert await answers(lookup, "alice@example.com") == [True]
            directory.pause()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await lookup.ask("alice", "example.com")
            directory.resume()
            assert await answers(lookup, "nobody@example.com", "alice@example.com") == [False, True]


async def test_a_server_that_speaks_something_else_is_no_directory() -> None:
    """Nothing can be told of what it says."""

    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        options = {"server_host": f"ldap://127.0.0.1:{port}", "search_base": SUFFIX}
        lookup = LdapLookup(LdapOptions.model_validate(options))
        with pytest.raises(UnverifiableError, match="is not LDAP"):
            await lookup.ask("alice", "example.com")
