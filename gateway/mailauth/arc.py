"""ARC: what the chain of seals that earlier hops left in a message proves (RFC 8617 5.2).

Each hop that handles authenticated mail may add a set of three fields: what it found (ARC-Authentication-Results), a
signature over the message (ARC-Message-Signature), and a seal over all sets so far (ARC-Seal). ``verify_chain`` tells
whether the chain is whole: its structure, the newest message signature and every seal. That proves who wrote each
set, not that they are honest; ``recorded`` says which sealers to believe.

How it goes, cheapest first, so that a forged chain costs little:

1. Structure: instances 1 to N, one field of each kind, at most so many sets; ``cv`` none, then pass (5.2 steps 1 to 3).
   What is too long or malformed fails before anything is computed.
2. The body hash of the newest message signature; no question is asked of the DNS for a changed body.
3. The newest message signature and the newest seal; two keys, asked for at once.
4. All other seals, and older message signatures for ``oldest_pass``; their keys, asked for at once.

A key that can't be looked up now makes the chain a temperror, unless something else is certain to be wrong; one of an
older message signature only counts as not verifying. A message signature with ``l=`` that leaves out part of the body
does not verify, nor one that has expired, nor one that lists ARC-Seal (4.1.2). One without ``c=`` is tried both ways:
relaxed, and simple.

Time is linear in the fields, however many sets there are. Never raises.
"""

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from gateway.header import HeaderField
from gateway.mailauth.body import MAX_ARC_SETS, BodyHashes
from gateway.mailauth.canonicalization import (
    Canonicalization,
    SignedFields,
    canonical_field,
    canonical_signature_field,
)
from gateway.mailauth.cfws import skip_cfws
from gateway.mailauth.dkim import header_digest, is_large
from gateway.mailauth.keys import Algorithm, Fault, Key, KeyLimits, Keys, find_keys, key_name, verify_digest
from gateway.mailauth.results import Arc, ArcResult, ArcSet, DkimResult
from gateway.mailauth.signature import (
    Form,
    Malformed,
    Signature,
    domain_name,
    parse_signature,
    read_algorithm,
    required,
)
from gateway.mailauth.tags import TagError, decode_base64, field_text, parse_tags, quoted
from gateway.resolver import Resolver

RESULTS: Final = "arc-authentication-results"
MESSAGE_SIGNATURE: Final = Form.ARC.value
SEAL: Final = "arc-seal"
_KINDS: Final = {RESULTS: "ARC-Authentication-Results", MESSAGE_SIGNATURE: "ARC-Message-Signature", SEAL: "ARC-Seal"}

# RFC 8617 4.1.1 and 4.2.1: [CFWS] %s"i" [CFWS] "=" [CFWS] instance-value [CFWS] ";"; 1*2DIGIT, 1 to 50
_RECORDED_INSTANCE: Final = (re.compile(r"i"), re.compile(r"="), re.compile(r"[0-9]{1,2}"), re.compile(r";"))
_INSTANCE: Final = re.compile(r"[0-9]{1,2}")
_TIME: Final = re.compile(r"[0-9]{1,12}")  # RFC 6376 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ArcOptions:
    """What is accepted.

    Attributes:
        sets: How many sets a chain may have; a longer one fails. At most 50 (RFC 8617 4.2.1).
        keys: Which sizes of RSA keys count.
        clock_skew: Seconds by which a signer's clock may differ.
    """

    sets: int = MAX_ARC_SETS
    keys: KeyLimits = field(default_factory=KeyLimits)
    clock_skew: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seal:
    """An ARC-Seal field (RFC 8617 4.1.3)."""

    algorithm: Algorithm
    domain: str
    selector: str
    octets: bytes
    status: str

    @property
    def key_name(self) -> str:
        return key_name(self.selector, self.domain)


@dataclass(frozen=True, slots=True)
class _Set:
    """One set, read: its fields as received, and what they say."""

    results: HeaderField
    recorded: str
    signature_field: HeaderField
    signature: Signature | Malformed
    seal_field: HeaderField
    seal: _Seal


class _BrokenError(Exception):
    """The chain is not well-formed; the text says why."""


def has_chain(fields: Iterable[HeaderField]) -> bool:
    """Whether a message has any field of a chain."""
    return any(each.name in _KINDS for each in fields)


async def verify_chain(
    fields: Sequence[HeaderField], hashes: BodyHashes, resolver: Resolver, now: float, options: ArcOptions
) -> Arc:
    """Validate the chain of a message (RFC 8617 5.2).

    Args:
        fields: Its header.
        hashes: Its body's hashes; all of the body has come.
        resolver: Asks the DNS; one TXT question for each different key.
        now: UNIX time in seconds.
        options: What is accepted.
    """
    found: dict[str, list[HeaderField]] = {kind: [] for kind in _KINDS}
    for each in fields:
        if each.name in found:
            found[each.name].append(each)
    if not any(found.values()):
        return Arc(result=ArcResult.NONE)
    try:
        sets = _read_chain(found, hashes, options.sets)
    except _BrokenError as error:
        return Arc(result=ArcResult.FAIL, reason=str(error))
    except TagError as error:
        return Arc(result=ArcResult.FAIL, reason=f"the chain can't be read: {error}")
    chain = _Chain(sets, fields, hashes, now, options)
    return await chain.verify(resolver)


def _read_chain(found: Mapping[str, list[HeaderField]], hashes: BodyHashes, limit: int) -> tuple[_Set, ...]:
    """The sets in order of their instances (RFC 8617 5.2 steps 1 to 3).

    Raises:
        _BrokenError: The chain is not well-formed, or says itself that it is broken.
        TagError: A field is malformed.
    """
    count = max(len(each) for each in found.values())
    if count > limit:
        raise _BrokenError(f"the chain has {count} sets, more than {limit}")
    results = _by_instance(_KINDS[RESULTS], count, map(_read_results, found[RESULTS]))
    signatures = _by_instance(
        _KINDS[MESSAGE_SIGNATURE], count, (_read_signature(each, hashes) for each in found[MESSAGE_SIGNATURE])
    )
    seals = _by_instance(_KINDS[SEAL], count, map(_read_seal, found[SEAL]))
    for number, (_, seal) in enumerate(seals, 1):
        if seal.status == "fail":
            raise _BrokenError(f"the chain was broken when {seal.domain} sealed it as instance {number} (cv=fail)")
        if seal.status != ("none" if number == 1 else "pass"):
            raise _BrokenError(f"the seal of instance {number} has cv={seal.status}")
    return tuple(_Set(*results[index], *signatures[index], *seals[index]) for index in range(count))


_ReadT = TypeVar("_ReadT")


def _by_instance(
    kind: str, count: int, read: Iterable[tuple[int, HeaderField, _ReadT]]
) -> list[tuple[HeaderField, _ReadT]]:
    """The fields of one kind in order; there must be exactly one of each instance from 1 on.

    Raises:
        _BrokenError: There is not.
    """
    there: dict[int, tuple[HeaderField, _ReadT]] = {}
    for instance, header_field, parsed in read:
        if instance in there:
            raise _BrokenError(f"the chain has two fields {kind} of instance {instance}")
        there[instance] = header_field, parsed
    for number in range(1, count + 1):
        if number not in there:
            raise _BrokenError(f"the chain has no {kind} of instance {number}")
    return [there[number] for number in range(1, count + 1)]


def _read_results(header_field: HeaderField) -> tuple[int, HeaderField, str]:
    """An ARC-Authentication-Results field (RFC 8617 4.1.1)."""
    text = header_field.raw.partition(b":")[2].replace(b"\r\n", b"").decode("utf-8", "replace")
    position = 0
    words: list[str] = []
    for word in _RECORDED_INSTANCE:
        match = word.match(text, skip_cfws(text, position))
        if match is None:
            raise _BrokenError("an ARC-Authentication-Results field does not begin with i=")
        words.append(match[0])
        position = match.end()
    return _instance(words[2]), header_field, text[position:].strip(" \t")


def _read_signature(header_field: HeaderField, hashes: BodyHashes) -> tuple[int, HeaderField, Signature | Malformed]:
    """An ARC-Message-Signature field (RFC 8617 4.1.2); all but the newest may be malformed."""
    signature = hashes.parsed(header_field) or parse_signature(header_field, Form.ARC)
    if isinstance(signature, Signature):
        return _instance(signature.instance), header_field, signature
    try:
        instance = required(parse_tags(field_text(header_field.raw), strict=True), "i")
    except TagError:
        raise _BrokenError(f"an ARC-Message-Signature field can't be read: {signature.reason}") from None
    return _instance(instance), header_field, signature


def _read_seal(header_field: HeaderField) -> tuple[int, HeaderField, _Seal]:
    """An ARC-Seal field (RFC 8617 4.1.3)."""
    tags = parse_tags(field_text(header_field.raw), strict=True)
    if "h" in tags:
        raise _BrokenError("an ARC-Seal field has h=, which it must not have")
    if "t" in tags and _TIME.fullmatch(tags["t"]) is None:
        raise TagError(f"t={quoted(tags['t'])} is no number")
    status = required(tags, "cv")
    if status not in {"none", "pass", "fail"}:
        raise TagError(f"cv={quoted(status)} is no status")
    seal = _Seal(
        algorithm=read_algorithm(tags),
        domain=domain_name("d", required(tags, "d")),
        selector=domain_name("s", required(tags, "s")),
        octets=decode_base64("b", required(tags, "b")),
        status=status,
    )
    return _instance(required(tags, "i")), header_field, seal


def _instance(value: str) -> int:
    """``i=``: 1 to 50 (RFC 8617 4.2.1)."""
    if _INSTANCE.fullmatch(value) is None or not 1 <= int(value) <= MAX_ARC_SETS:
        raise _BrokenError(f"i={quoted(value)} is no instance")
    return int(value)


def _together(signature: Signature, faults: Sequence[Fault]) -> Fault:
    """Why a message signature verifies in none of its readings: what hinders each, if that is not the same."""
    first = faults[0]
    if all(fault.reason == first.reason for fault in faults):
        return first
    ways = [reading.header_canonicalization for reading in signature.readings]
    reasons = [f"read as {way}: {fault.reason}" for way, fault in zip(ways, faults, strict=True)]
    return Fault(first.result, "; ".join(reasons), first.key)


class _Chain:
    """A well-formed chain, and what its validation needs."""

    def __init__(
        self, sets: Sequence[_Set], fields: Sequence[HeaderField], hashes: BodyHashes, now: float, options: ArcOptions
    ) -> None:
        self._sets = sets
        self._is_large = is_large(fields)
        self._fields = SignedFields(fields)
        self._hashes = hashes
        self._now = now
        self._options = options

    async def verify(self, resolver: Resolver) -> Arc:
        """Validate the newest set, then what is below it (RFC 8617 5.2 steps 4 to 7)."""
        newest = self._sets[-1]
        count = len(self._sets)
        signature = self._fit(newest.signature)
        if isinstance(signature, Fault):
            return self._of_fault(signature, f"the message signature of instance {count}")
        keys = dict(await find_keys(resolver, (signature.key_name, newest.seal.key_name)))
        fault = self._verify_signature(signature, keys)
        if fault is not None:
            return self._of_fault(fault, f"the message signature of instance {count}")
        digests = self._seal_digests()
        fault = self._verify_seal(newest.seal, digests[-1], keys)
        if fault is not None:
            return self._of_fault(fault, f"the seal of instance {count}")
        older = self._sets[:-1]
        signatures = [self._fit(each.signature) for each in older]
        names = [each.key_name for each in signatures if not isinstance(each, Fault)]
        names += [each.seal.key_name for each in older]
        missing = [name for name in names if name not in keys]
        if missing:
            keys |= await find_keys(resolver, missing)
        faults = [
            (number, fault)
            for number in range(count - 1, 0, -1)
            if (fault := self._verify_seal(older[number - 1].seal, digests[number - 1], keys)) is not None
        ]
        if faults:
            certain = [each for each in faults if each[1].result is not DkimResult.TEMPERROR]
            number, fault = (certain or faults)[0]
            return self._of_fault(fault, f"the seal of instance {number}")
        return await self._passed(signatures, keys)

    async def _passed(self, older: Sequence[Signature | Fault], keys: Mapping[str, Keys]) -> Arc:
        """A chain that passes, with the oldest message signature that still verifies."""
        oldest = len(self._sets)
        untold: tuple[int, ...] = ()
        for number in range(len(self._sets) - 1, 0, -1):
            signature = older[number - 1]
            if self._is_large:
                await asyncio.sleep(0)
            fault = signature if isinstance(signature, Fault) else self._verify_signature(signature, keys)
            if fault is not None:
                untold = (number,) if fault.result is DkimResult.TEMPERROR else ()
                break
            oldest = number
        return self._arc(ArcResult.PASS, oldest_pass=0 if oldest == 1 else oldest, untold=untold)

    def _fit(self, signature: Signature | Malformed) -> Signature | Fault:
        """A message signature that may verify in one of its readings, or why it can't, whatever its key is."""
        if isinstance(signature, Malformed):
            return Fault(signature.result, signature.reason)
        if SEAL in signature.names:
            return Fault(DkimResult.PERMERROR, "it covers ARC-Seal fields, which it must not")
        skew = self._options.clock_skew
        if signature.expires_at is not None and signature.expires_at + skew < self._now:
            return Fault(DkimResult.POLICY, "it has expired")
        if signature.signed_at is not None and signature.signed_at - skew > self._now:
            return Fault(DkimResult.POLICY, "it is from the future")
        faults = [self._fault_in_body(reading) for reading in signature.readings]
        found = [fault for fault in faults if fault is not None]
        return _together(signature, found) if len(found) == len(faults) else signature

    def _fault_in_body(self, signature: Signature) -> Fault | None:
        """Why the body is not as it was signed, None if it is."""
        body = self._hashes.of(signature)
        if body is None:
            return Fault(DkimResult.TEMPERROR, "the body was not hashed for it")
        if body.digest != signature.body_hash:
            return Fault(DkimResult.FAIL, "the body was changed: its hash is not that of bh=")
        if body.covered < body.size:
            reason = f"l= covers only the first {body.covered} of the body's {body.size} octets"
            return Fault(DkimResult.POLICY, reason)
        return None

    def _verify_signature(self, signature: Signature, keys: Mapping[str, Keys]) -> Fault | None:
        """Why a message signature does not verify in any of its readings, None if it does in one."""
        found = keys[signature.key_name]
        if isinstance(found, Fault):
            return found
        faults: list[Fault] = []
        for each in signature.readings:
            verified: Key | Fault | None = self._fault_in_body(each)
            if verified is None:
                digest = header_digest(self._fields, each)
                verified = verify_digest(found, each.algorithm, digest, each.octets, self._options.keys)
            if not isinstance(verified, Fault):
                return None
            faults.append(verified)
        return _together(signature, faults)

    def _verify_seal(self, seal: _Seal, digest: bytes, keys: Mapping[str, Keys]) -> Fault | None:
        verified = verify_digest(keys[seal.key_name], seal.algorithm, digest, seal.octets, self._options.keys)
        return verified if isinstance(verified, Fault) else None

    def _seal_digests(self) -> list[bytes]:
        """What each seal signs: all sets up to its own, in relaxed form, its own ``b=`` empty (RFC 8617 5.1.1)."""
        digests = []
        sets = hashlib.sha256()
        for each in self._sets:
            sets.update(canonical_field(each.results.raw, Canonicalization.RELAXED))
            sets.update(canonical_field(each.signature_field.raw, Canonicalization.RELAXED))
            signed = sets.copy()
            signed.update(canonical_signature_field(each.seal_field.raw, Canonicalization.RELAXED))
            digests.append(signed.digest())
            sets.update(canonical_field(each.seal_field.raw, Canonicalization.RELAXED))
        return digests

    def _of_fault(self, fault: Fault, what: str) -> Arc:
        temporary = fault.result is DkimResult.TEMPERROR
        return self._arc(ArcResult.TEMPERROR if temporary else ArcResult.FAIL, f"{what}: {fault.reason}")

    def _arc(
        self, result: ArcResult, reason: str = "", *, oldest_pass: int | None = None, untold: tuple[int, ...] = ()
    ) -> Arc:
        sets = tuple(
            ArcSet(
                instance=number,
                domain=each.seal.domain,
                selector=each.seal.selector,
                authentication_results=each.recorded,
                signs_from=isinstance(each.signature, Signature) and "from" in each.signature.names,
            )
            for number, each in enumerate(self._sets, 1)
        )
        return Arc(
            result=result,
            reason=reason,
            oldest_pass=oldest_pass,
            sealer=sets[-1].domain,
            sets=sets,
            untold=untold,
        )
