"""Hashes of bodies: the right octets under every signature, at any chunk boundary, each canonical form made once."""

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable

import pytest

from gateway.header import HeaderField, header_fields
from gateway.mailauth.body import MAX_ARC_SETS, BodyHash, BodyHashes, hash_body
from gateway.mailauth.canonicalization import BLOCK
from gateway.mailauth.signature import Form, Signature, parse_signature
from tests.support.dkim_signing import canonical_body

BODY = b"One \t line.\r\n\r\nAnother  one. \r\n\r\n\r\n"


def field(tags: str = "", form: Form = Form.DKIM) -> HeaderField:
    """A signature field that can be read."""
    value = f"a=rsa-sha256; d=example.com; s=s1; h=from; b=AAAA; bh={b64encode(bytes(32)).decode()}; {tags}"
    version = "v=1" if form is Form.DKIM else "i=1"
    (made,) = header_fields(f"{form.value}: {version}; {value}\r\n".encode())
    return made


def read(made: HeaderField) -> Signature:
    """The field, read."""
    signature = parse_signature(made, Form(made.name))
    assert isinstance(signature, Signature), signature
    return signature


def hashed(fields: Iterable[HeaderField], chunks: Iterable[bytes], signatures: int = 10) -> BodyHashes:
    """The hashes of a body in chunks."""
    hashes = BodyHashes(tuple(fields), signatures)
    for chunk in chunks:
        hashes.update(chunk)
    return hashes


def expected(kind: str, length: int | None = None, body: bytes = BODY) -> BodyHash:
    """What a hash should be, by the letter."""
    canonical = canonical_body(body, kind)
    if length is not None and length > len(canonical):
        return BodyHash(None, length, len(canonical))
    covered = canonical[:length]
    return BodyHash(hashlib.sha256(covered).digest(), len(covered), len(canonical))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_each_signature_gets_its_own_hash(size: int) -> None:
    """Both canonicalizations and any number of lengths, in one go, however the body is cut."""
    size_of = {kind: len(canonical_body(BODY, kind)) for kind in ("simple", "relaxed")}
    wanted = [
        (kind, length)
        for kind in ("simple", "relaxed")
        for length in (None, 0, 1, 7, 8, size_of[kind] - 1, size_of[kind], size_of[kind] + 1)
    ]
    fields = [field(f"c=relaxed/{kind}" + ("" if length is None else f"; l={length}")) for kind, length in wanted]
    hashes = hashed(fields, [BODY[start : start + size] for start in range(0, len(BODY), size)], len(fields))
    for made, (kind, length) in zip(fields, wanted, strict=True):
        assert hashes.of(read(made)) == expected(kind, length), (kind, length)


def test_a_large_chunk_is_worked_on_in_blocks() -> None:
    """A chunk of several blocks, with line ends and spaces at their borders, gives the same hash."""
    body = (
        (b"x" * (BLOCK - 3) + b" \r\n") * 2
        + b" " * (2 * BLOCK)
        + b"\r\n"
        + b"\r\n" * BLOCK
        + b"y\r\n"
        + b"\r\n" * BLOCK
    )
    fields = [field("c=simple/relaxed"), field("c=simple/simple")]
    hashes = hashed(fields, [body])
    assert hashes.of(read(fields[0])) == expected("relaxed", body=body)
    assert hashes.of(read(fields[1])) == expected("simple", body=body)


def test_dkim_and_arc_share_the_work() -> None:
    """An ARC-Message-Signature's hash comes from the same stream as a DKIM-Signature's."""
    fields = [field("c=relaxed/relaxed", Form.ARC), field("c=relaxed/relaxed; l=5")]
    hashes = hashed(fields, [BODY])
    assert hashes.of(read(fields[0])) == expected("relaxed")
    assert hashes.of(read(fields[1])) == expected("relaxed", 5)
    assert len(hashes._streams) == 1


def test_without_a_signature_nothing_is_hashed() -> None:
    """Unsigned mail, and signatures that can't be read, cost nothing."""
    broken = HeaderField("dkim-signature", b"DKIM-Signature: v=1\r\n")
    hashes = hashed([broken, HeaderField("from", b"From: x\r\n")], [BODY])
    assert not hashes._streams
    assert hashes.of(read(field())) is None


def test_what_was_not_prepared_has_no_hash() -> None:
    """Another length than those of the fields can't be told behind the body."""
    fields = [field("c=simple/simple; l=5")]
    hashes = hashed(fields, [BODY])
    assert hashes.of(read(field("c=simple/simple; l=6"))) is None
    assert hashes.of(read(field("c=simple/simple"))) == expected("simple")


def test_the_number_of_fields_is_bounded() -> None:
    """Of ten thousand signature fields so many are read as were asked for, and fifty of ARC; from the top."""
    fields = [field(f"l={number}", form) for number in range(10_000) for form in Form]
    hashes = hashed(fields, [BODY], signatures=3)
    assert [hashes.parsed(each) is not None for each in fields[:12:2]] == [True] * 3 + [False] * 3
    assert len(hashes._parsed) == 3 + MAX_ARC_SETS


async def test_a_body_can_be_hashed_behind_its_arrival() -> None:
    """The header and the empty line are left out, wherever the chunks are cut."""
    header = b"From: x\r\n"
    message = header + b"\r\n" + BODY
    fields = [field("c=simple/simple")]
    for size in (1, 4, 10, 11, 12, 1000):

        async def chunks(size: int = size) -> AsyncIterator[bytes]:
            for start in range(0, len(message), size):
                yield message[start : start + size]

        hashes = await hash_body(chunks(), header_size=len(header), fields=fields, signatures=10)
        assert hashes.of(read(fields[0])) == expected("simple")
        assert hashes.signatures == 10
