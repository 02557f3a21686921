"""DKIM signatures of any form, made tag by tag by the letter of RFC 6376, with keys that are made once.

Independent of what is tested: canonical forms are made here line by line with regular expressions. What a test wants
to be wrong it says by tags that override the good ones.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.adapters.dns.zone import ZoneResolver
from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.dkim import DkimOptions, verify
from gateway.mailauth.results import DkimSignature
from gateway.resolver import Resolver

NOW: Final = 1_700_000_000.0
DOMAIN: Final = "example.com"
SELECTOR: Final = "s1"

HEADER: Final = (
    b"Received: from client.example.com by mx.example.net\r\n\twith ESMTPS; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"From: Alice <alice@example.com>\r\n"
    b"To: bob@example.net\r\n"
    b"Subject: About  the\r\n  lychgate \r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"Message-ID: <1@example.com>\r\n"
)
BODY: Final = b"Hi,\t  Bob. \r\n\r\nIt is  roofed.\t\r\n\r\n\r\n"


@cache
def rsa_key(bits: int = 2048) -> RSAPrivateKey:
    """The RSA key of a size."""
    return generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ed25519_key() -> Ed25519PrivateKey:
    """The Ed25519 key."""
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def key_record(key: RSAPrivateKey | Ed25519PrivateKey, **tags: str) -> str:
    """A key record; tags override or add to the good ones."""
    if isinstance(key, RSAPrivateKey):
        kind, octets = "rsa", key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        kind, octets = "ed25519", key.public_key().public_bytes_raw()
    return written({"v": "DKIM1", "k": kind, "p": b64encode(octets).decode()} | tags)


def written(tags: Mapping[str, str]) -> str:
    """A tag list."""
    return "; ".join(f"{name}={value}" for name, value in tags.items())


def relaxed_field(raw: bytes) -> bytes:
    """RFC 6376 3.4.2, step by step."""
    name, _, value = raw.partition(b":")
    value = re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.strip(b" \t").lower() + b":" + value + b"\r\n"


def canonical_body(body: bytes, kind: str) -> bytes:
    """RFC 6376 3.4.3 and 3.4.4, line by line."""
    lines = body.split(b"\r\n")
    if kind == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).removesuffix(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines) or (b"\r\n" if kind == "simple" else b"")


def signature(
    header: bytes,
    body: bytes,
    key: RSAPrivateKey | Ed25519PrivateKey,
    changes: Mapping[str, str | None],
    *,
    name: bytes = b"DKIM-Signature",
    way: str | None = None,
) -> bytes:
    """A signature field.

    Args:
        header: The header that it is put on.
        body: The body.
        key: The key.
        changes: Tags that override the good ones, None for a tag that is to be missing.
        name: The field's name.
        way: The canonicalization of header and body where there is no ``c=``; simple without it.
    """
    kind = "rsa" if isinstance(key, RSAPrivateKey) else "ed25519"
    good = {"v": "1", "a": f"{kind}-sha256", "c": "relaxed/relaxed", "d": DOMAIN, "s": SELECTOR, "h": "from:to:subject"}
    tags = {tag: value for tag, value in (good | dict(changes)).items() if value is not None and tag != "b"}
    header_kind, _, body_kind = tags.get("c", f"{way}/{way}" if way else "simple/simple").partition("/")
    if "bh" not in changes:
        covered = canonical_body(body, body_kind or "simple")
        if tags.get("l", "").isdecimal():
            covered = covered[: int(tags["l"])]
        tags["bh"] = b64encode(hashlib.sha256(covered).digest()).decode()
    empty = name + b": " + written(tags | {"b": ""}).encode()
    relax = header_kind == "relaxed"
    signed = b"".join(relaxed_field(each) if relax else each for each in picked(header, tags.get("h", "").split(":")))
    signed += relaxed_field(empty).removesuffix(b"\r\n") if relax else empty
    if isinstance(key, Ed25519PrivateKey):
        octets = key.sign(hashlib.sha256(signed).digest())
    else:
        octets = key.sign(signed, PKCS1v15(), SHA1() if tags.get("a") == "rsa-sha1" else SHA256())  # noqa: S303 - what must be refused
    value = changes.get("b", b64encode(octets).decode())
    return empty + (value or "").encode() + b"\r\n" if value is not None else empty[: -len("; b=")] + b"\r\n"


def picked(header: bytes, names: Sequence[str]) -> list[bytes]:
    """The fields that ``h=`` lists, from the bottom up."""
    left = [(field.name, field.raw) for field in header_fields(header)]
    found = []
    for name in names:
        for index in range(len(left) - 1, -1, -1):
            if left[index][0] == name.strip().lower():
                found.append(left.pop(index)[1])
                break
    return found


async def checked(
    header: bytes,
    body: bytes,
    resolver: Resolver | Mapping[str, object],
    *,
    options: DkimOptions | None = None,
    now: float = NOW,
    chunk: int = 7,
) -> tuple[DkimSignature, ...]:
    """What the signatures of a message come to; its body comes in chunks."""
    options = options or DkimOptions()
    fields = tuple(header_fields(header))
    hashes = BodyHashes(fields, options.signatures)
    for start in range(0, len(body), chunk):
        hashes.update(body[start : start + chunk])
    source = ZoneResolver(resolver) if isinstance(resolver, Mapping) else resolver
    return await verify(fields, hashes, source, now, options)


def zone(record: str | Sequence[str] | None = None) -> dict[str, object]:
    """A zone with the key under ``SELECTOR``; by default that of ``rsa_key``."""
    return {f"{SELECTOR}._domainkey.{DOMAIN}": {"TXT": key_record(rsa_key()) if record is None else record}}
