"""Public keys of DKIM and ARC: key records, how they are found, and what they verify (RFC 6376 3.6, 8301, 8463).

A record may be folded (RFC 6376 2.8), and people paste line ends into the DNS: CR and LF count as white space, with or
without a space after them. The words in ``k=``, ``h=``, ``s=`` and ``t=`` may be in any case, as the ABNF has them
(RFC 5234 2.3), and ``h=`` and ``s=`` without a word are as if they were not there.

``find_keys`` asks the DNS for the keys of several signatures at once and takes no step out of the running task when
the answers are known. ``verify_digest`` tells whether a signature is of one of the keys. What can't be used is a
``Fault``: the result it comes to and the reason for it. Nothing here raises.

Keys are read once and kept by the record's text, up to ``_KEPT`` of them. A name with several records is not as RFC
6376 3.6.2.2 wants it; up to ``MAX_KEYS`` are tried (RFC 6376 6.1.2), so that the order of the answers does not matter.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.mailauth.results import DkimResult
from gateway.mailauth.tags import TagError, decode_base64, parse_tags, quoted, split_list
from gateway.resolver import Answer, RecordType, Resolver, Status

MAX_KEYS: Final = 3
"""Keys of one name that are tried; a site that changes its key may have two for a while."""

MAX_KEY_TEXT: Final = 8192
"""Characters of ``p=``: more than RSA of 32768 bits, far beyond any key in use."""

MAX_EXPONENT_BITS: Final = 64
"""Of an RSA key. Usual is 17; a long one would make verification cost as much as signing."""

_KEPT: Final = 1024
_KEPT_TEXT: Final = 4096
_PADDING: Final = PKCS1v15()
_PREHASHED: Final = Prehashed(SHA256())


class KeyType(StrEnum):
    """The words of ``k=``."""

    RSA = "rsa"
    ED25519 = "ed25519"


class Algorithm(StrEnum):
    """The algorithms of ``a=`` that are verified (RFC 8301, 8463)."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"

    @property
    def key_type(self) -> KeyType:
        """The kind of key that it takes."""
        return KeyType.RSA if self is Algorithm.RSA_SHA256 else KeyType.ED25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key record that can be used for mail and SHA-256.

    Attributes:
        public: The key.
        bits: Its size.
        testing: ``t=y``: the domain is testing DKIM.
        strict: ``t=s``: the domain of ``i=`` must be that of ``d=`` itself.
    """

    public: RSAPublicKey | Ed25519PublicKey
    bits: int
    testing: bool = False
    strict: bool = False

    @property
    def key_type(self) -> KeyType:
        """Its kind."""
        return KeyType.ED25519 if isinstance(self.public, Ed25519PublicKey) else KeyType.RSA


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a signature can't be verified, or is not good.

    Attributes:
        result: What it comes to in DKIM.
        reason: Why, in a sentence.
        key: The key, if one was read.
    """

    result: DkimResult
    reason: str
    key: Key | None = None


Keys: TypeAlias = tuple[Key, ...] | Fault
"""The keys of one name, or why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """Which RSA keys count (RFC 8301 3.2).

    Attributes:
        minimum: The smallest, in bits.
        maximum: The largest, in bits.
    """

    minimum: int = 1024
    maximum: int = 4096


def key_name(selector: str, domain: str) -> str:
    """Where the key of a selector stands (RFC 6376 3.6.2.1). Both in A-labels (RFC 8616 4)."""
    return f"{selector}._domainkey.{domain}"


async def find_keys(resolver: Resolver, names: Iterable[str]) -> Mapping[str, Keys]:
    """Ask for the keys of names, all at once; each name is asked for once.

    Args:
        resolver: Asks the DNS.
        names: What ``key_name`` made.
    """
    answers = {name: resolver.known(name, RecordType.TXT) for name in names}
    unknown = [name for name, answer in answers.items() if answer is None]
    if len(unknown) == 1:
        answers[unknown[0]] = await resolver.lookup(unknown[0], RecordType.TXT)
    elif unknown:
        found = await asyncio.gather(*(resolver.lookup(name, RecordType.TXT) for name in unknown))
        answers.update(zip(unknown, found, strict=True))
    return {name: keys_of(answer, name) for name, answer in answers.items() if answer is not None}


def keys_of(answer: Answer, name: str) -> Keys:
    """What the DNS's answer for a name comes to (RFC 6376 6.1.2)."""
    match answer.status:
        case Status.FOUND:
            pass
        case Status.SERVFAIL | Status.TIMEOUT:
            return Fault(DkimResult.TEMPERROR, f"the key can't be looked up now: {answer.status} for {name}")
        case Status.NXDOMAIN:
            return Fault(DkimResult.PERMERROR, f"there is no key: {name} does not exist")
        case _:
            return Fault(DkimResult.PERMERROR, f"there is no key: {name} has no TXT record")
    read = [parse_key(record) for record in answer.records]
    keys = tuple(each for each in read if isinstance(each, Key))
    if keys:
        return keys[:MAX_KEYS]
    # Other records beside a revoked key say nothing about it.
    faults = [each for each in read if isinstance(each, Fault)]
    first = next((fault for fault in faults if fault is not _NO_KEY_RECORD), _NO_KEY_RECORD)
    return Fault(first.result, f"{first.reason} ({name})")


def parse_key(record: str) -> Key | Fault:
    """Read a key record (RFC 6376 3.6.1).

    Args:
        record: The TXT record, its octets as latin-1 characters.
    """
    return _parse_kept(record) if len(record) <= _KEPT_TEXT else _parse(record)


def verify_digest(
    keys: Keys, algorithm: Algorithm, digest: bytes, signature: bytes, limits: KeyLimits | None = None
) -> Key | Fault:
    """Whether a signature is of one of the keys.

    Args:
        keys: What was found under the name.
        algorithm: ``a=``.
        digest: The SHA-256 of the canonical header fields that are signed (RFC 6376 3.7).
        signature: The octets of ``b=``.
        limits: Which sizes of RSA keys count.

    Returns:
        The key it was made with, or why it is none.
    """
    if isinstance(keys, Fault):
        return keys
    limits = limits or KeyLimits()
    faults: list[Fault] = []
    for key in keys:
        fault = _verify(key, algorithm, digest, signature, limits)
        if fault is None:
            return key
        faults.append(fault)
    return next((fault for fault in faults if fault.result is DkimResult.FAIL), faults[0])


def _verify(key: Key, algorithm: Algorithm, digest: bytes, signature: bytes, limits: KeyLimits) -> Fault | None:
    """Why the signature is not of this key, None if it is."""
    if key.key_type is not algorithm.key_type:
        reason = f"the key is of the type {key.key_type}, the signature's algorithm is {algorithm}"
        return Fault(DkimResult.PERMERROR, reason, key)
    try:
        if isinstance(key.public, Ed25519PublicKey):
            key.public.verify(signature, digest)  # RFC 8463 3: the hash is what is signed
            return None
        if key.bits < limits.minimum:
            return Fault(DkimResult.POLICY, f"the key has {key.bits} bits, fewer than {limits.minimum}", key)
        if key.bits > limits.maximum:
            return Fault(DkimResult.POLICY, f"the key has {key.bits} bits, more than {limits.maximum}", key)
        key.public.verify(signature, digest, _PADDING, _PREHASHED)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        reason = "the signature does not fit: a signed header field was changed, or another key made it"
        return Fault(DkimResult.FAIL, reason, key)
    return None


def _permanent(reason: str) -> Fault:
    return Fault(DkimResult.PERMERROR, reason)


_NO_KEY_RECORD: Final = _permanent("the TXT record is no key record")
_LINE_ENDS: Final = str.maketrans("\r\n", "  ")


def _parse(record: str) -> Key | Fault:
    try:
        text = record.encode("latin-1", "replace").decode("utf-8", "replace")
        tags = parse_tags(text.translate(_LINE_ENDS) if "\r" in text or "\n" in text else text)
        version = tags.get("v")
        if ("p" not in tags and version != "DKIM1") or (version is not None and version != "DKIM1"):
            return _NO_KEY_RECORD
        if version is not None and next(iter(tags)) != "v":
            return _permanent("the key record is malformed: v= must be its first tag")
        if (fault := _unfit(tags)) is not None:
            return fault
        if "p" not in tags:
            return _permanent("the key record is malformed: it has no p=")
        if not tags["p"]:
            return _permanent("the key has been revoked: p= is empty")
        return _key(tags)
    except TagError as error:
        return _permanent(f"the key record is malformed: {error}")


_parse_kept: Final = lru_cache(maxsize=_KEPT)(_parse)


def _unfit(tags: Mapping[str, str]) -> Fault | None:
    """Why the key is not for mail with SHA-256; values that are not known are passed over (RFC 6376 3.6.1)."""
    services = _words(tags, "s")
    if services and "*" not in services and "email" not in services:
        return _permanent(f"the key is not for mail: s={quoted(tags['s'])}")
    hashes = _words(tags, "h")
    if hashes and "sha256" not in hashes:
        return _permanent(f"the key is not for SHA-256: h={quoted(tags['h'])}")
    return None


def _words(tags: Mapping[str, str], name: str) -> list[str]:
    """The words that a tag lists, in lower case; none without the tag."""
    return split_list(tags[name].lower()) if name in tags else []


def _key(tags: Mapping[str, str]) -> Key | Fault:
    flags = _words(tags, "t")
    kind = tags.get("k", "rsa").lower()
    if len(tags["p"]) > MAX_KEY_TEXT:
        return Fault(DkimResult.POLICY, f"the key is too large: p= has {len(tags['p'])} characters")
    if kind == KeyType.ED25519:
        octets = decode_base64("p", tags["p"])
        if len(octets) != 32:  # noqa: PLR2004 - RFC 8463 4.2: the key itself, of 256 bits
            return _permanent(f"the key record is malformed: an Ed25519 key has 32 octets, p= has {len(octets)}")
        return Key(
            public=Ed25519PublicKey.from_public_bytes(octets), bits=256, testing="y" in flags, strict="s" in flags
        )
    if kind != KeyType.RSA:
        return _permanent(f"the key is of an unknown type: k={quoted(tags['k'])}")
    try:
        # RFC 6376 3.6.1 says RSAPublicKey, and its errata and all signers SubjectPublicKeyInfo; both are read.
        public = load_der_public_key(decode_base64("p", tags["p"]))
    except (UnsupportedAlgorithm, ValueError) as error:
        if isinstance(error, TagError):
            raise
        return _permanent("the key record is malformed: p= holds no RSA key")
    if not isinstance(public, RSAPublicKey):
        return _permanent("the key record is malformed: p= holds no RSA key")
    if public.public_numbers().e.bit_length() > MAX_EXPONENT_BITS:
        return Fault(DkimResult.POLICY, "the key has an exponent that is too large")
    return Key(public=public, bits=public.key_size, testing="y" in flags, strict="s" in flags)
