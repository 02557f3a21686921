"""Header fields: read as Postfix reads them, octet by octet, and in linear time."""

import pytest

from gateway.header import MAX_NAME, HeaderField, field_at, header_fields


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (b"", []),
        (b"A: 1\r\nb:2\r\n", [("a", b"A: 1\r\n"), ("b", b"b:2\r\n")]),
        (b"A \t: 1\r\n  2\r\n\t3\r\nB: 4\r\n", [("a", b"A \t: 1\r\n  2\r\n\t3\r\n"), ("b", b"B: 4\r\n")]),
        (b" A: 1\r\n", []),
        (b"A b: 1\r\n", []),
        (b"\xc4: \xff\r\n", []),
        (b"A\x01: 1\r\n", []),
        (b"A\x00: 1\r\n", []),
        (b"\xef\xbb\xbfA: 1\r\n", []),
        (b"!#{|}~: \xff\x01\r\n", [("!#{|}~", b"!#{|}~: \xff\x01\r\n")]),
        (b"a" * MAX_NAME + b": 1\r\n", [("a" * MAX_NAME, b"a" * MAX_NAME + b": 1\r\n")]),
        (b"a" * (MAX_NAME + 1) + b": 1\r\n", []),
        (b"A: 1\r\nno field\r\nB: 2\r\n", [("a", b"A: 1\r\n")]),
        (b"A: 1\r\n : 2\r\nB: 3\r\n", [("a", b"A: 1\r\n : 2\r\n"), ("b", b"B: 3\r\n")]),
        (b"A: 1\r\n: 2\r\n", [("a", b"A: 1\r\n")]),
        (b"A: 1\rB: 2\r\n", []),
        (b"A: 1\nB: 2\r\n", []),
        (b"A: 1", []),
    ],
)
def test_fields(header: bytes, fields: list[tuple[str, bytes]]) -> None:
    """Names in lower case without white space around them; a line that is no field ends the header."""
    assert [(field.name, field.raw) for field in header_fields(header)] == fields


def test_a_field_at_an_octet() -> None:
    """The one that begins there, or none."""
    header = b"A: 1\r\nB : 2\r\n"
    assert field_at(header, 6) == HeaderField("b", b"B : 2\r\n")
    assert field_at(header, len(header)) is None


@pytest.mark.parametrize(
    "line", [b"a" + b" " * 2_000_000 + b"b: x\r\n", b"a" + b" " * 2_000_000 + b"b\r\n", b":\r\n " * 500_000]
)
def test_long_lines_end(line: bytes) -> None:
    """Megabytes of spaces before a colon, with or without one, and of folds: quadratic work would take hours."""
    assert sum(1 for _ in header_fields(b"A: 1\r\n" + line)) >= 1
    assert field_at(line, 0) is None or line.count(b":")
