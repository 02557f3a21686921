"""Recipients of a web service: against Python's own HTTP server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.http import HttpLookup
from gateway.config.recipients import HttpOptions
from gateway.lookup.answer import UnverifiableError
from tests.support.loops import on_uvloop
from tests.support.ports import free_port
from tests.support.web_service import WebService

ANSWERS = {
    "/alice%40example.com": (200, b'{"exists": true, "mailbox": "a"}'),
    "/bob%40example.com": (200, b'{"exists": false}'),
    "/carol%40example.com": (200, b"true"),
    "/dave%40example.com": (200, b" false\n"),
    "/field%40example.com": (200, b'{"known": true}'),
    "/in?query=a%2F..%2Fb%3F%23%25%20%C3%A9%40example.com": (200, b"true"),
    "/html%40example.com": (200, b"<p>Hello"),
    "/list%40example.com": (200, b"[true]"),
    "/text%40example.com": (200, b'{"exists": "no"}'),
    "/none%40example.com": (200, b'{"exists": null}'),
    "/deep%40example.com": (200, b"[" * 60_000),
    "/large%40example.com": (200, b" " * 70_000 + b"false"),
    "/moved%40example.com": (302, b""),
    "/empty%40example.com": (204, b""),
    "/refused%40example.com": (403, b'{"exists": false}'),
    "/broken%40example.com": (500, b'{"exists": false}'),
    "/busy%40example.com": (503, b"false"),
    "/example.com/users/alice": (200, b"true"),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, ``ca.pem``, and a certificate for ``localhost``."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    return folder


@pytest.fixture
def service() -> Iterator[WebService]:
    """The service."""
    with WebService(ANSWERS) as running:
        yield running


@asynccontextmanager
async def asking(service: WebService, path: str = "/{address}", **settings: Any) -> AsyncIterator[HttpLookup]:
    """What asks a service."""
    lookup = HttpLookup(HttpOptions.model_validate({"url": service.url + path, **settings}))
    try:
        yield lookup
    finally:
        await lookup.close()


async def exists(lookup: HttpLookup, *users: str) -> list[bool]:
    """Whether users of example.com exist."""
    return [(await lookup.ask(user, "example.com")).exists for user in users]


def test_json_says_whether_it_exists(service: WebService) -> None:
    """A truth value, or an object with one; on both event loops."""

    async def look() -> None:
        async with asking(service) as lookup:
            assert await exists(lookup, "alice", "bob", "carol", "dave") == [True, False, True, False]

    asyncio.run(look())
    on_uvloop(look)()


async def test_the_field_may_have_another_name(service: WebService) -> None:
    """As configured."""
    async with asking(service, field="known") as lookup:
        assert await exists(lookup, "field") == [True]


@pytest.mark.parametrize(
    "user",
    ["html", "list", "text", "none", "deep", "large", "moved", "empty", "refused", "broken", "busy", "nobody", "field"],
)
async def test_everything_else_is_no_answer(service: WebService, user: str) -> None:
    """Whatever a broken service, a proxy or a login page says: mail is not refused for it."""
    service.headers["Location"] = "/bob%40example.com"
    async with asking(service) as lookup:
        with pytest.raises(UnverifiableError):
            await lookup.ask(user, "example.com")
    assert len(service.requests) == 1


async def test_404_is_a_no_where_the_configuration_says_so(service: WebService) -> None:
    """And only that."""
    async with asking(service, not_found="no") as lookup:
        assert await exists(lookup, "nobody", "alice") == [False, True]
        with pytest.raises(UnverifiableError):
            await lookup.ask("refused", "example.com")


async def test_no_address_becomes_another_url(service: WebService) -> None:
    """What is put in is percent-encoded once, whatever it holds."""
    async with asking(service, "/in?query={address}") as lookup:
        assert await exists(lookup, "a/../b?#% é") == [True]
    async with asking(service) as lookup:
        with pytest.raises(UnverifiableError):
            await lookup.ask("{domain}", "example.com")
        assert service.requests[-1][0] == "/%7Bdomain%7D%40example.com"
    async with asking(service, "/{domain}/users/{local_part}") as lookup:
        assert await exists(lookup, "alice") == [True]


async def test_who_asks(service: WebService) -> None:
    """By Basic authentication or a token, or without."""
    async with asking(service, user="gateway", password="p:w") as lookup:  # noqa: S106 - of this test
        await exists(lookup, "alice")
    async with asking(service, token="abc") as lookup:  # noqa: S106 - of this test
        await exists(lookup, "alice")
    async with asking(service) as lookup:
        await exists(lookup, "alice")
    sent = [fields.get("Authorization") for _, fields in service.requests]
    assert sent == ["Basic Z2F0ZXdheTpwOnc=", "Bearer abc", None]


async def test_tls_must_be_right(certificates: Path) -> None:
    """By the named authority; without it the certificate is nobody's."""
    with WebService(ANSWERS, certificates=certificates) as service:
        async with asking(service, ca=str(certificates / "ca.pem")) as lookup:
            assert await exists(lookup, "alice", "bob") == [True, False]
        async with asking(service) as lookup:
            with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
                await lookup.ask("alice", "example.com")


async def test_a_service_that_stalls_or_is_away_can_not_tell(service: WebService) -> None:
    """Within the time-out; and when it answers again so does the source."""
    async with asking(service) as lookup:
        source = CachedSource("http", lookup, HttpOptions.model_fields["cache"].default, timeout=0.2)
        service.gate.clear()
        with pytest.raises(UnverifiableError, match="no answer within"):
            await source.find("alice", "example.com")
        service.gate.set()
        assert (await source.ask("alice", "example.com")).exists
    nobody = HttpLookup(HttpOptions.model_validate({"url": f"http://127.0.0.1:{free_port()}/{{address}}"}))
    with pytest.raises(OSError, match="Cannot connect"):
        await nobody.ask("alice", "example.com")
    await nobody.close()
