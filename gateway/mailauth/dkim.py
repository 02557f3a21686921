"""DKIM: what each signature of a message comes to (RFC 6376 6.1, 8301, 8463, 8616).

``verify`` puts together what the other modules know: ``signature`` reads the fields, ``body`` has hashed the body,
``keys`` finds the keys, ``canonicalization`` selects what was signed. It gives one result for each signature that is
looked at and never raises for anything that a message or the DNS holds.

Results, with the words of RFC 8601 2.7.1:

- ``pass``: the signature verified, and covers what a reader sees.
- ``fail``: it did not verify: the body or a signed field was changed, or another key made it.
- ``policy``: it may verify, but is not accepted: it has expired or comes from the future, its key is too small or too
  large, ``l=`` covers less than the body, or a field that is signed stands beside an unsigned one of its name.
- ``neutral``: its version, algorithm, canonicalization or way to the key is not known here.
- ``temperror``: the DNS did not answer.
- ``permerror``: it breaks the rules of RFC 6376, or there is no key to it.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway.header import HeaderField
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.canonicalization import SignedFields, canonical_signature_field
from gateway.mailauth.keys import Fault, Key, KeyLimits, Keys, find_keys, verify_digest
from gateway.mailauth.results import DkimResult, DkimSignature
from gateway.mailauth.signature import Malformed, Signature, parse_signature
from gateway.resolver import Resolver

SINGLE_FIELDS: Final = (
    "subject",
    "date",
    "sender",
    "reply-to",
    "to",
    "cc",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
)
"""Fields that a message has at most once (RFC 5322 3.6, RFC 2045) and that change what a reader sees."""

_LARGE_HEADER: Final = 262_144
"""What ``is_large`` goes by, in octets: a signature over so much takes about a millisecond."""

# Of several results, what says most about the message: an unknown one could have been a pass, then how near it came.
_ORDER: Final = (
    DkimResult.PASS,
    DkimResult.TEMPERROR,
    DkimResult.POLICY,
    DkimResult.FAIL,
    DkimResult.PERMERROR,
    DkimResult.NEUTRAL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DkimOptions:
    """What is accepted.

    Attributes:
        signatures: How many signatures are looked at; ``selection`` says which.
        keys: Which sizes of RSA keys count.
        trust_body_length: Whether ``l=`` may cover less than the body (RFC 6376 8.2 warns of it).
        clock_skew: Seconds by which the signer's clock may differ.
        single: Names of fields, in lower case, of which no unsigned one may stand beside a signed one; From is always
            one of them.
    """

    signatures: int = 10
    keys: KeyLimits = field(default_factory=KeyLimits)
    trust_body_length: bool = False
    clock_skew: float = 300.0
    single: frozenset[str] = frozenset(SINGLE_FIELDS)


def is_large(fields: Iterable[HeaderField]) -> bool:
    """Whether a header is so large that other sessions should get their turn between two signatures."""
    return sum(len(each.raw) for each in fields) > _LARGE_HEADER


async def verify(
    fields: Sequence[HeaderField],
    hashes: BodyHashes,
    resolver: Resolver,
    now: float,
    options: DkimOptions,
) -> tuple[DkimSignature, ...]:
    """Verify the signatures of a message.

    Args:
        fields: Its header.
        hashes: Its body's hashes, made from the same header for at least so many signatures as ``options`` say; all of
            the body has come.
        resolver: Asks the DNS; one TXT question for each different key.
        now: UNIX time in seconds.
        options: What is accepted.

    Returns:
        What each came to, from the top of the header.
    """
    found = hashes.selection.first(options.signatures)
    if not found:
        return ()
    signatures = [hashes.parsed(each) or parse_signature(each) for each in found]
    faults = [_untimely(each, now, options.clock_skew) for each in signatures]
    keys = await find_keys(
        resolver,
        [
            each.key_name
            for each, fault in zip(signatures, faults, strict=True)
            if fault is None and isinstance(each, Signature)
        ],
    )
    message = _Message(fields, hashes, options)
    pauses = len(found) > 1 and is_large(fields)
    results: list[DkimSignature] = []
    for each, fault in zip(signatures, faults, strict=True):
        if results and pauses:
            await asyncio.sleep(0)
        if isinstance(each, Malformed):
            results.append(_of_malformed(each))
        else:
            results.append(_result(each, fault or message.verify(each, keys[each.key_name])))
    return tuple(results)


def overall(signatures: Iterable[DkimSignature]) -> DkimResult:
    """What a message's signatures come to together: a pass if one passes, else what says most.

    A signature that did not verify while its domain is testing (``t=y``) counts as neutral, because it must not be
    treated otherwise than none (RFC 6376 3.6.1).
    """
    results = {
        DkimResult.NEUTRAL if each.testing and each.result is not DkimResult.PASS else each.result
        for each in signatures
    }
    return next((result for result in _ORDER if result in results), DkimResult.NONE)


def header_digest(fields: SignedFields, signature: Signature) -> bytes:
    """The SHA-256 that is signed: of the fields in ``h=``, then the signature field itself (RFC 6376 3.7)."""
    kind = signature.header_canonicalization
    sha256 = hashlib.sha256()
    for octets in fields.select(signature.names, kind, but=signature.raw):
        sha256.update(octets)
    sha256.update(canonical_signature_field(signature.raw, kind))
    return sha256.digest()


class _Message:
    """What the signatures of one message share."""

    __slots__ = ("_fields", "_hashes", "_options", "_repeated")

    def __init__(self, fields: Sequence[HeaderField], hashes: BodyHashes, options: DkimOptions) -> None:
        self._fields = SignedFields(fields)
        self._hashes = hashes
        self._options = options
        self._repeated = sorted(self._fields.repeated & {"from", *options.single}) if self._fields.repeated else []

    def verify(self, signature: Signature, keys: Keys) -> Key | Fault:
        """Verify one signature (RFC 6376 6.1.3).

        Returns:
            The key with which it passes, or why it does not.
        """
        if isinstance(keys, Fault):
            return keys
        body = self._hashes.of(signature)
        if body is None:
            return Fault(DkimResult.TEMPERROR, "the body was not hashed for this signature", keys[0])
        if body.digest is None:
            reason = f"the body was changed: it has {body.size} octets, l= says {body.covered}"
            return Fault(DkimResult.FAIL, reason, keys[0])
        if body.digest != signature.body_hash:
            return Fault(DkimResult.FAIL, "the body was changed: its hash is not that of bh=", keys[0])
        key = verify_digest(
            keys, signature.algorithm, header_digest(self._fields, signature), signature.octets, self._options.keys
        )
        if isinstance(key, Fault):
            return key
        if key.strict and signature.auid_domain != signature.domain:
            reason = f"the key does not allow subdomains (t=s), and i= is in {signature.auid_domain}"
            return Fault(DkimResult.PERMERROR, reason, key)
        if body.covered < body.size and not self._options.trust_body_length:
            reason = f"l= covers only the first {body.covered} of the body's {body.size} octets"
            return Fault(DkimResult.POLICY, reason, key)
        unsigned = self._unsigned(signature)
        return Fault(DkimResult.POLICY, unsigned, key) if unsigned else key

    def _unsigned(self, signature: Signature) -> str:
        """Why a reader may see another field than the one that is signed, empty if none does."""
        if not self._repeated:
            return ""
        signed = Counter(signature.names)
        for name in self._repeated:
            if 0 < signed[name] < self._fields.count(name):
                return (
                    f"the message has {self._fields.count(name)} fields {name}, of which only {signed[name]} "
                    f"{'is' if signed[name] == 1 else 'are'} signed"
                )
        return ""


def _untimely(signature: Signature | Malformed, now: float, skew: float) -> Fault | None:
    """Why the time is not right for a signature, None if it is (RFC 6376 3.5, ``t=`` and ``x=``)."""
    if isinstance(signature, Malformed):
        return None
    if signature.expires_at is not None and signature.expires_at + skew < now:
        return Fault(DkimResult.POLICY, f"the signature expired at {_date(signature.expires_at)}")
    if signature.signed_at is not None and signature.signed_at - skew > now:
        return Fault(
            DkimResult.POLICY, f"the signature is from the future: it was made at {_date(signature.signed_at)}"
        )
    return None


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # after the year 9999


def _of_malformed(signature: Malformed) -> DkimSignature:
    return DkimSignature(
        result=signature.result,
        reason=f"the signature can't be read: {signature.reason}",
        domain=signature.domain,
        selector=signature.selector,
        algorithm=signature.algorithm,
        signature=signature.shown,
    )


def _result(signature: Signature, found: Key | Fault) -> DkimSignature:
    fault = found if isinstance(found, Fault) else None
    key = found if isinstance(found, Key) else found.key
    return DkimSignature(
        result=DkimResult.PASS if fault is None else fault.result,
        reason="" if fault is None else fault.reason,
        domain=signature.domain,
        selector=signature.selector,
        algorithm=signature.algorithm.value,
        auid=signature.auid,
        signature=signature.shown,
        key_bits=None if key is None else key.bits,
        testing=key is not None and key.testing,
        body_length=signature.body_length,
    )
