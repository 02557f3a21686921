"""Hashes of a message's body for its signatures, made while it streams in (RFC 6376 3.7, ``bh=``).

A message may have many signatures, but there are two canonicalizations: each that is asked for runs once, with one
SHA-256. A signature with ``l=`` gets a copy of that hash as it stands after so many octets. So the cost of a body does
not grow with the signatures, and nothing of it is kept. Without a signature nothing is done.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.header import HeaderField
from gateway.mailauth.canonicalization import BLOCK, Canonicalization, body_canonicalizer
from gateway.mailauth.selection import Selection
from gateway.mailauth.signature import Form, Malformed, Signature, parse_signature

MAX_ARC_SETS: Final = 50
"""ARC-Message-Signature fields that are looked at, from the top: a chain has at most 50 sets (RFC 8617 4.2.1)."""

_MESSAGE_SIGNATURE: Final = Form.ARC.value


@dataclass(frozen=True, slots=True)
class BodyHash:
    """The hash of a body, or of its beginning.

    Attributes:
        digest: The SHA-256; None when the body is shorter than ``l=``.
        covered: Octets of the canonical body that it covers.
        size: Octets of the canonical body.
    """

    digest: bytes | None
    covered: int
    size: int


class BodyHashes:
    """The hashes of one body that its signature fields ask for.

    Args:
        fields: The message's header.
        signatures: How many DKIM-Signature fields are looked at; ``selection`` says which.

    Attributes:
        signatures: The same.
        selection: Says which.
    """

    __slots__ = ("_finished", "_parsed", "_streams", "selection", "signatures")

    def __init__(self, fields: Sequence[HeaderField], signatures: int) -> None:
        self.signatures = signatures
        self.selection = Selection(fields)
        message_signatures = [field for field in fields if field.name == _MESSAGE_SIGNATURE]
        self._parsed = {field: parse_signature(field) for field in self.selection.first(signatures)}
        self._parsed |= {field: parse_signature(field, Form.ARC) for field in message_signatures[:MAX_ARC_SETS]}
        wanted: dict[Canonicalization, set[int]] = {}
        for parsed in self._parsed.values():
            for reading in parsed.readings if isinstance(parsed, Signature) else ():
                lengths = wanted.setdefault(reading.body_canonicalization, set())
                if reading.body_length is not None:
                    lengths.add(reading.body_length)
        self._streams = {each: _Stream(each, lengths) for each, lengths in wanted.items()}
        self._finished = False

    def update(self, chunk: bytes) -> None:
        """Take the next octets of the body, cut anywhere; the first are those behind the empty line."""
        if not self._streams:
            return
        if len(chunk) <= BLOCK:
            for stream in self._streams.values():
                stream.update(chunk)
            return
        view = memoryview(chunk)
        for start in range(0, len(chunk), BLOCK):
            block = bytes(view[start : start + BLOCK])
            for stream in self._streams.values():
                stream.update(block)

    def parsed(self, field: HeaderField) -> Signature | Malformed | None:
        """A signature field as it was read, None if it was not among those that are looked at."""
        return self._parsed.get(field)

    def of(self, signature: Signature) -> BodyHash | None:
        """The hash for a signature, when the whole body has come; None if it was not prepared for it."""
        if not self._finished:
            self._finished = True
            for stream in self._streams.values():
                stream.finish()
        asked = self._streams.get(signature.body_canonicalization)
        return None if asked is None else asked.hash(signature.body_length)


class _Stream:
    """A body in one canonical form, and its hash."""

    __slots__ = ("_canonicalizer", "_digests", "_left", "_sha256", "_size")

    def __init__(self, canonicalization: Canonicalization, lengths: set[int]) -> None:
        self._canonicalizer = body_canonicalizer(canonicalization)
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._left = sorted(lengths, reverse=True)
        self._digests: dict[int, bytes | None] = dict.fromkeys(lengths)
        self._cut(b"")

    def update(self, block: bytes) -> None:
        for piece in self._canonicalizer.update(block):
            self._add(piece)

    def finish(self) -> None:
        for piece in self._canonicalizer.finish():
            self._add(piece)

    def hash(self, length: int | None) -> BodyHash | None:
        if length is None:
            return BodyHash(self._sha256.digest(), self._size, self._size)
        if length not in self._digests:
            return None
        return BodyHash(self._digests[length], length, self._size)

    def _add(self, piece: bytes) -> None:
        rest = self._cut(piece) if self._left else piece
        self._sha256.update(rest)
        self._size += len(rest)

    def _cut(self, piece: bytes) -> bytes:
        """Note the hash at each ``l=`` that a piece reaches.

        Returns:
            What of the piece is left.
        """
        while self._left and (wanted := self._left[-1] - self._size) <= len(piece):
            self._sha256.update(piece[:wanted])
            self._size += wanted
            piece = piece[wanted:]
            self._digests[self._left.pop()] = self._sha256.digest()
        return piece


async def hash_body(
    chunks: AsyncIterator[bytes], *, header_size: int, fields: Sequence[HeaderField], signatures: int
) -> BodyHashes:
    """Hash the body of a message that has already come.

    Args:
        chunks: The message from its first octet.
        header_size: Octets of the header, without the empty line behind it.
        fields: The message's header.
        signatures: How many DKIM-Signature fields are looked at.
    """
    hashes = BodyHashes(fields, signatures)
    skip = header_size + len(b"\r\n")
    async for chunk in chunks:
        if skip < len(chunk):
            hashes.update(chunk[skip:] if skip else chunk)
        skip = max(0, skip - len(chunk))
    return hashes
