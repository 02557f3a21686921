"""The part of the Basic Encoding Rules that LDAP uses (RFC 4511 5.1): definite lengths, tags of one octet."""

from collections.abc import Iterator
from typing import Final

INTEGER: Final = 0x02
OCTETS: Final = 0x04
NULL: Final = 0x05
BOOLEAN: Final = 0x01
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30

_LONG: Final = 0x80
_MAX_LENGTH_OCTETS: Final = 4  # of a length: 4 GiB, far above any limit on messages


class BerError(Exception):
    """Octets that are none of BER, or none that LDAP allows."""


def element(tag: int, *content: bytes) -> bytes:
    """An element of a tag and its content."""
    octets = b"".join(content)
    size = len(octets)
    if size < _LONG:
        return bytes((tag, size)) + octets
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, _LONG | len(length))) + length + octets


def integer(number: int, tag: int = INTEGER) -> bytes:
    """An integer of zero or more."""
    return element(tag, number.to_bytes(number.bit_length() // 8 + 1))


def octets(content: bytes, tag: int = OCTETS) -> bytes:
    """An octet string."""
    return element(tag, content)


def boolean(value: object, tag: int = BOOLEAN) -> bytes:
    """A truth value."""
    return element(tag, b"\xff" if value else b"\x00")


def size_of(data: bytes, start: int = 0) -> tuple[int, int] | None:
    """Where the content of the element begins that starts here, and where it ends; None until that can be told.

    Raises:
        BerError: No element starts here.
    """
    if len(data) < start + 2:
        return None
    first = data[start + 1]
    begin = start + 2
    if first < _LONG:
        return begin, begin + first
    count = first & 0x7F
    if not 0 < count <= _MAX_LENGTH_OCTETS:
        raise BerError("a length that is indefinite or too long")
    if len(data) < begin + count:
        return None
    return begin + count, begin + count + int.from_bytes(data[begin : begin + count])


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a content, each with its tag.

    Raises:
        BerError: It is not made of whole elements.
    """
    position = 0
    while position < len(data):
        found = size_of(data, position)
        if found is None or found[1] > len(data):
            raise BerError("an element is cut off")
        yield data[position], data[found[0] : found[1]]
        position = found[1]


def number(content: bytes) -> int:
    """The value of an INTEGER or ENUMERATED.

    Raises:
        BerError: It is none.
    """
    if not 0 < len(content) <= 8:  # noqa: PLR2004 - RFC 4511 4.1.1: at most 31 bits, with room for what servers do
        raise BerError("an integer of a wrong length")
    return int.from_bytes(content, signed=True)
