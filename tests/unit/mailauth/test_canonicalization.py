"""Canonicalization: RFC 6376's own examples, the same at any chunk boundary, and in linear time."""

import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.header import HeaderField, header_fields
from gateway.mailauth.canonicalization import (
    Canonicalization,
    SignedFields,
    body_canonicalizer,
    canonical_field,
    canonical_signature_field,
    without_signature,
)

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED


def body(canonicalization: Canonicalization, chunks: Iterable[bytes]) -> bytes:
    """A body in canonical form."""
    canonicalizer = body_canonicalizer(canonicalization)
    pieces = [piece for chunk in chunks for piece in canonicalizer.update(chunk)]
    return b"".join([*pieces, *canonicalizer.finish()])


def plain(canonicalization: Canonicalization, octets: bytes) -> bytes:
    """The same by the letter of RFC 6376 3.4.3 and 3.4.4, line by line."""
    lines = octets.split(b"\r\n")
    if canonicalization is RELAXED:
        lines = [re.sub(rb"[ \t]+", b" ", line).removesuffix(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return b"\r\n" if canonicalization is SIMPLE else b""
    return b"".join(line + b"\r\n" for line in lines)


@pytest.mark.parametrize(
    ("canonicalization", "expected"),
    [(RELAXED, b" C\r\nD E\r\n"), (SIMPLE, b" C \r\nD \t E\r\n")],
)
def test_the_body_of_the_rfcs_example(canonicalization: Canonicalization, expected: bytes) -> None:
    """RFC 6376 3.4.5's body comes out as it says."""
    assert body(canonicalization, [b" C \r\nD \t E\r\n\r\n\r\n"]) == expected


@pytest.mark.parametrize(
    ("octets", "simple", "relaxed"),
    [
        (b"", b"\r\n", b""),
        (b"\r\n", b"\r\n", b""),
        (b"\r\n\r\n\r\n", b"\r\n", b""),
        (b" \t\r\n \r\n", b" \t\r\n \r\n", b""),
        (b"a", b"a\r\n", b"a\r\n"),
        (b"a ", b"a \r\n", b"a\r\n"),
        (b"a\r", b"a\r\r\n", b"a\r\r\n"),
        (b"a\n\n", b"a\n\n\r\n", b"a\n\n\r\n"),
        (b"a\r\n\r\n\r", b"a\r\n\r\n\r\r\n", b"a\r\n\r\n\r\r\n"),
        (b"a \r \r\n", b"a \r \r\n", b"a \r\r\n"),
        (b"a\v \f\r\n", b"a\v \f\r\n", b"a\v \f\r\n"),
        (b"\r\n\r\nb\r\n\r\n", b"\r\n\r\nb\r\n", b"\r\n\r\nb\r\n"),
    ],
)
def test_the_ends_of_bodies(octets: bytes, simple: bytes, relaxed: bytes) -> None:
    """Empty lines at the end do not count, a last CRLF is added, and only CRLF, space and tab mean anything."""
    assert body(SIMPLE, [octets]) == simple
    assert body(RELAXED, [octets]) == relaxed


@given(
    st.lists(st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\r\n", b"a", b"\v", b"\xff", b"  \r\n"]), max_size=24),
    st.lists(st.integers(1, 6), max_size=30),
    st.sampled_from(Canonicalization),
)
@example([b"a", b" ", b"\r", b"\n", b" ", b"\r", b"\n"], [1] * 7, RELAXED)
def test_chunk_boundaries_change_nothing(parts: list[bytes], sizes: list[int], kind: Canonicalization) -> None:
    """However a body is cut, it comes out as the RFC's own steps make it."""
    octets = b"".join(parts)
    chunks = []
    rest = octets
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert body(kind, [*chunks, rest]) == plain(kind, octets)


@pytest.mark.parametrize("length", range(1, 40))
def test_runs_of_white_space_of_any_length_are_one_space(length: int) -> None:
    """Short and long ones, alone and beside others, in bodies and in header fields."""
    for run in (b" " * length, b"\t" * length, (b" \t" * length)[:length]):
        for text, expected in ((b"a%bb", b"a b"), (b"%ba", b" a"), (b"a  b   c%bd    e", b"a b c d e")):
            assert body(RELAXED, [text % run]) == expected + b"\r\n"
            assert canonical_field(b"A:" + text % run + b"\r\n", RELAXED) == b"a:" + expected.strip() + b"\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"A: X\r\n", b"a:X\r\n"),
        (b"B : Y\t\r\n\tZ  \r\n", b"b:Y Z\r\n"),
        (b"Subject:\r\n", b"subject:\r\n"),
        (b"Subject: \t \r\n", b"subject:\r\n"),
        (b"SUBJect \t:\r\n  a\r\n b: c\r\n", b"subject:a b: c\r\n"),
        (b"X: a\v \fb\xff\n  c\r\n", b"x:a\v \fb\xff\n c\r\n"),
    ],
)
def test_relaxed_header_fields(raw: bytes, expected: bytes) -> None:
    """Names in lower case, unfolded, white space one space or none (RFC 6376 3.4.2); no other octet changes."""
    assert canonical_field(raw, RELAXED) == expected
    assert canonical_field(raw, SIMPLE) == raw


@pytest.mark.parametrize(
    ("raw", "without", "relaxed"),
    [
        (b"DKIM-Signature: a=1; b=xyz; c=2\r\n", b"DKIM-Signature: a=1; b=; c=2", b"dkim-signature:a=1; b=; c=2"),
        (b"D: a=1; bh=b=; b = x\r\n yz \r\n", b"D: a=1; bh=b=; b =", b"d:a=1; bh=b=; b ="),
        (b"D: b=x\r\n ;c=1\r\n", b"D: b=;c=1", b"d:b=;c=1"),
        (b"D:\r\n b=x;\r\n", b"D:\r\n b=;", b"d:b=;"),
        (b"b=x: b=y\r\n", b"b=x: b=", b"b=x:b="),
        (b"D: a=b=c; xb=1\r\n", b"D: a=b=c; xb=1", b"d:a=b=c; xb=1"),
    ],
)
def test_the_signature_field_itself(raw: bytes, without: bytes, relaxed: bytes) -> None:
    """The value of b= goes with the white space around it, nothing else does, and there is no last CRLF."""
    assert without_signature(raw) == without
    assert canonical_signature_field(raw, SIMPLE) == without
    assert canonical_signature_field(raw, RELAXED) == relaxed


def selected(header: bytes, names: str, own: int | None = None) -> list[bytes]:
    """The values of the fields that are signed."""
    fields = tuple(header_fields(header))
    chosen = SignedFields(fields).select(names.split(":"), RELAXED, but=None if own is None else fields[own].raw)
    return [field.removesuffix(b"\r\n") for field in chosen]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a", [b"a:3"]),
        ("a:a", [b"a:3", b"a:1"]),
        ("a:b:a:a:a:c", [b"a:3", b"b:2", b"a:1"]),
        ("c", []),
    ],
)
def test_repeated_names_are_taken_from_the_bottom_up(names: str, expected: list[bytes]) -> None:
    """RFC 6376 5.4.2; a name that is listed once too often stands for nothing."""
    assert selected(b"A: 1\r\nB: 2\r\na: 3\r\n", names) == expected


def test_a_signature_field_does_not_sign_itself_as_one_of_its_fields() -> None:
    """Where h= lists the field's own name, other fields of that name are meant."""
    header = b"D: 1\r\nD: 2\r\nD: 3\r\n"
    assert selected(header, "d:d:d", own=1) == [b"d:3", b"d:1"]
    assert selected(header, "d", own=2) == [b"d:2"]
    assert selected(header, "d:d:d", own=0) == [b"d:3", b"d:2"]


def test_a_field_is_brought_into_relaxed_form_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten signatures over the same fields cost their canonicalization once."""
    calls: list[bytes] = []

    def counted(raw: bytes, kind: Canonicalization) -> bytes:
        calls.append(raw)
        return canonical_field(raw, kind)

    monkeypatch.setattr("gateway.mailauth.canonicalization.canonical_field", counted)
    fields = SignedFields([HeaderField("a", b"A: 1\r\n"), HeaderField("a", b"A: 2\r\n"), HeaderField("b", b"B: 3\r\n")])
    for _ in range(10):
        assert len(list(fields.select(["a", "b", "a"], RELAXED))) == 3
    assert len(calls) == 3
