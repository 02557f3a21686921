"""ARC sets of any form, made tag by tag by the letter of RFC 8617, on the keys and forms of ``dkim_signing``.

What a test wants to be wrong it says by tags that override the good ones.
"""

import re
from base64 import b64encode
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.adapters.dns.zone import ZoneResolver
from gateway.header import header_fields
from gateway.mailauth.arc import ArcOptions, verify_chain
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.results import Arc
from gateway.resolver import Resolver
from tests.support.dkim_signing import BODY, NOW, SELECTOR, key_record, relaxed_field, rsa_key, signature, written

KINDS = ("arc-authentication-results", "arc-message-signature", "arc-seal")

Changes = Mapping[str, str | None]


def sealed(
    header: bytes,
    body: bytes = BODY,
    *,
    domain: str = "list.example",
    recorded: str = "dmarc=pass header.from=example.com",
    message: Changes | None = None,
    seal: Changes | None = None,
    way: str | None = None,
    instance: str = "",
) -> bytes:
    """A header with one more ARC set on top (RFC 8617 5.1).

    Args:
        header: The header as it came.
        body: The body.
        domain: Who seals.
        recorded: What stands behind the authserv-id in ARC-Authentication-Results.
        message: Tags of the ARC-Message-Signature that override the good ones, None for one that is to be missing.
        seal: The same for the ARC-Seal.
        way: How a message signature without ``c=`` is made: simple or relaxed.
        instance: What ARC-Authentication-Results begins with in place of ``i=`` and its semicolon.
    """
    number = header.lower().count(b"arc-seal:") + 1
    start = instance or f"i={number};"
    results = f"ARC-Authentication-Results: {start}\r\n mx.{domain}; {recorded}\r\n".encode()
    good: dict[str, str | None] = {"v": None, "i": str(number), "d": domain, "h": "from:to:subject"}
    signed = signature(header, body, rsa_key(), good | dict(message or {}), name=b"ARC-Message-Signature", way=way)
    tags = {
        "i": str(number),
        "a": "rsa-sha256",
        "cv": "none" if number == 1 else "pass",
        "d": domain,
        "s": SELECTOR,
    }
    tags = {name: value for name, value in (tags | dict(seal or {})).items() if value is not None}
    empty = b"ARC-Seal: " + written(tags | {"b": ""}).encode()
    fields = [field for field in header_fields(header) if field.name in KINDS]
    older = sorted((_instance(field.raw), KINDS.index(field.name), field.raw) for field in fields)
    covered = b"".join(relaxed_field(raw) for _, _, raw in older) + relaxed_field(results) + relaxed_field(signed)
    octets = rsa_key().sign(covered + relaxed_field(empty).removesuffix(b"\r\n"), PKCS1v15(), SHA256())
    return empty + b64encode(octets) + b"\r\n" + signed + results + header


def _instance(raw: bytes) -> int:
    match = re.search(rb"[^a-z]i *= *([0-9]+)", raw)
    assert match is not None
    return int(match[1])


def arc_zone(*domains: str) -> dict[str, object]:
    """A zone with the key of each sealer."""
    return {f"{SELECTOR}._domainkey.{domain}": {"TXT": key_record(rsa_key())} for domain in domains}


async def validated(
    header: bytes,
    body: bytes = BODY,
    resolver: Resolver | Mapping[str, object] | None = None,
    *,
    options: ArcOptions | None = None,
) -> Arc:
    """What the chain of a message comes to; by default with the key of list.example."""
    fields = tuple(header_fields(header))
    hashes = BodyHashes(fields, 0)
    hashes.update(body)
    if resolver is None:
        resolver = arc_zone("list.example")
    source = ZoneResolver(resolver) if isinstance(resolver, Mapping) else resolver
    return await verify_chain(fields, hashes, source, NOW, options or ArcOptions())
