r"""Recipients of a web service, asked by GET.

Only ``200`` with JSON is an answer: ``true`` or ``false``, or an object that has one of them in the configured field.
``404`` is a no where the configuration says so. Anything else, a redirect too, says nothing about the address.

In a query a value may have any characters. In a path it may not: servers decode ``%2F`` before they look where a path
leads, take ``\`` for a slash, drop an empty segment, and follow ``.`` and ``..`` (RFC 3986 6.2.2.3), encoded or not.
So the answer to such a value would be about another path, and perhaps about another address: it is not asked for.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

import aiohttp
from yarl import URL

from gateway.config.recipients import HttpOptions
from gateway.lookup.answer import Answer, UnverifiableError
from gateway.tls import client_context

MAX_BODY: Final = 65_536
"""Octets of an answer: a truth value and whatever a service likes to say beside it."""


class HttpLookup:
    """Asks a web service.

    Args:
        options: Where it is, and how one comes in.
    """

    folds_case = True

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, local_part: str, domain: str) -> Answer:
        """See ``Lookup``."""
        if self._session is None:
            self._session = _session(self._options)
        url = _url(self._options.url, {"address": f"{local_part}@{domain}", "local_part": local_part, "domain": domain})
        async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
            if response.status == 404 and self._options.not_found == "no":  # noqa: PLR2004 - Not Found
                return Answer(False, "404")
            if response.status != 200:  # noqa: PLR2004 - OK
                raise UnverifiableError(f"the server answered {response.status} {response.reason or ''}".strip())
            body = await _whole(response)
        return self._read(body)

    def forget(self, domain: str | None) -> None:
        """Nothing is remembered here."""

    async def close(self) -> None:
        """See ``Lookup``."""
        if self._session is not None:
            await self._session.close()

    def _read(self, body: bytes) -> Answer:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise UnverifiableError(f"the server's answer is not JSON: {body[:40]!r}") from None
        if isinstance(found, dict):
            found = found.get(self._options.field)
        if not isinstance(found, bool):
            raise UnverifiableError(f"the server's answer says neither true nor false: {body[:80]!r}")
        return Answer(found, body[:200].decode("utf-8", "replace"))


def _url(template: str, values: Mapping[str, str]) -> str:
    """A URL with an address put in.

    Raises:
        UnverifiableError: Its path would lead elsewhere.
    """
    encoded = {name: quote(value, safe="", errors="surrogateescape") for name, value in values.items()}
    path, mark, query = template.partition("?")
    segments = path.split("/")
    filled = [_filled(segment, encoded) for segment in segments]
    for segment, full in zip(segments, filled, strict=True):
        plain = unquote(full)
        if full != segment and (plain in {"", ".", ".."} or "/" in plain or "\\" in plain):
            raise UnverifiableError("the address can't be asked for in the path of a URL; in its query it could")
    return "/".join(filled) + mark + _filled(query, encoded)


def _filled(template: str, encoded: Mapping[str, str]) -> str:
    for name, value in encoded.items():  # which has no braces
        template = template.replace(f"{{{name}}}", value)
    return template


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise UnverifiableError(f"an answer of more than {MAX_BODY} octets")
    return body


def _session(options: HttpOptions) -> aiohttp.ClientSession:
    headers = {"Accept": "application/json", "User-Agent": "lychgate"}
    if options.token is not None:
        headers["Authorization"] = f"Bearer {options.token.get_secret_value()}"
    elif options.user is not None and options.password is not None:
        login = f"{options.user}:{options.password.get_secret_value()}"
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"  # RFC 7617 2.1: UTF-8
    context = client_context(options.ca)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=options.connections, ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=options.timeout),
        headers=headers,
        auto_decompress=False,
    )
