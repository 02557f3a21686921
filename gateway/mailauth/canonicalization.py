r"""Canonicalization of header fields and bodies, simple and relaxed (RFC 6376 3.4).

A body streams through: ``update`` takes chunks cut anywhere, also between CR and LF, and gives what is certain so far;
``finish`` gives the rest. What is held back between chunks is counted, not kept: empty lines, which do not count at
the end of a body, and at most a space and a CR. All work is done by methods of ``bytes`` on blocks of ``BLOCK`` octets,
so that lines, spaces and empty lines, however many, cost what their octets cost.

Only CRLF ends a line and only space and tab are white space (RFC 6376 2.8). A bare CR or LF is an octet like any other.
"""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, Protocol

from gateway.header import HeaderField

BLOCK: Final = 65_536
"""Octets of a body that are worked on at a time."""

_CRLFS: Final = b"\r\n" * 4096
_TAB_TO_SPACE: Final = bytes.maketrans(b"\t", b" ")
# In so many octets so many places are many: then what costs less a place is worth a pass more.
_SAMPLE: Final = 2048
_DENSE: Final = 200
# Runs of spaces that are worth a pass of their own.
_LONG_RUN: Final = re.compile(rb" {8,}")
# The value of b= with the white space around it, as the first tag or a later one; a semicolon is found in no time. What
# follows white space is none, so that a match that fails goes over each run of it once more at most.
_FIRST_SIGNATURE: Final = re.compile(rb"[ \t\r\n]*b[ \t\r\n]*=([^;]*)")
_SIGNATURE: Final = re.compile(rb";[ \t\r\n]*b[ \t\r\n]*=([^;]*)")


class Canonicalization(StrEnum):
    """The algorithms, with the words of ``c=``."""

    SIMPLE = "simple"
    RELAXED = "relaxed"


def canonical_field(raw: bytes, canonicalization: Canonicalization) -> bytes:
    """One header field in canonical form, with its CRLF (RFC 6376 3.4.1, 3.4.2).

    Args:
        raw: The field as received, with its CRLF.
        canonicalization: The algorithm for header fields.
    """
    if canonicalization is Canonicalization.SIMPLE:
        return raw
    name, _, value = raw.partition(b":")
    value = _single_spaces(value.replace(b"\r\n", b""))
    return name.strip(b" \t").lower() + b":" + value.strip(b" ") + b"\r\n"


def without_signature(raw: bytes) -> bytes:
    """A signature field with the value of ``b=`` and the white space around it removed (RFC 6376 3.5), no CRLF."""
    name, colon, value = raw.removesuffix(b"\r\n").partition(b":")
    match = _FIRST_SIGNATURE.match(value) or _SIGNATURE.search(value)
    if match is not None:
        value = value[: match.start(1)] + value[match.end(1) :]
    return name + colon + value


def canonical_signature_field(raw: bytes, canonicalization: Canonicalization) -> bytes:
    """A signature field as part of what it signs itself: empty ``b=``, canonical form, no CRLF (RFC 6376 3.7)."""
    return canonical_field(without_signature(raw), canonicalization).removesuffix(b"\r\n")


class SignedFields:
    """The fields of a message as signatures select them.

    Each field is brought into relaxed form at most once, however many signatures there are.

    Args:
        fields: The header in order.

    Attributes:
        repeated: The names, in lower case, of which there is more than one field.
    """

    __slots__ = ("_by_name", "_relaxed", "repeated")

    def __init__(self, fields: Sequence[HeaderField]) -> None:
        self._by_name: dict[str, list[bytes]] = {}
        self._relaxed: dict[str, list[bytes]] = {}
        self.repeated: set[str] = set()
        for field in fields:
            there = self._by_name.get(field.name)
            if there is None:
                self._by_name[field.name] = [field.raw]
            else:
                there.append(field.raw)
                self.repeated.add(field.name)

    def count(self, name: str) -> int:
        """How many fields of a name there are, in lower case."""
        return len(self._by_name.get(name, ()))

    def select(
        self, names: Sequence[str], canonicalization: Canonicalization, *, but: bytes | None = None
    ) -> Iterator[bytes]:
        """The fields that ``h=`` lists, canonical; repeated names from the bottom up (RFC 6376 5.4.2).

        A name that is listed more often than it is there stands for nothing (RFC 6376 3.5), and so the field can't be
        added later.

        Args:
            names: What ``h=`` lists, in lower case.
            canonicalization: The algorithm for header fields.
            but: The signature field itself (the same object), which is never one of those that it lists.
        """
        used: dict[str, int] = {}
        for name in names:
            received = self._by_name.get(name)
            if received is None:
                continue
            number = used.get(name, 0) + 1
            if number <= len(received) and received[-number] is but:
                number += 1
            used[name] = number
            if number <= len(received):
                yield (received if canonicalization is Canonicalization.SIMPLE else self._in_relaxed(name))[-number]

    def _in_relaxed(self, name: str) -> list[bytes]:
        """All fields of a name that is there, in relaxed form."""
        relaxed = self._relaxed.get(name)
        if relaxed is None:
            relaxed = self._relaxed[name] = [
                canonical_field(raw, Canonicalization.RELAXED) for raw in self._by_name[name]
            ]
        return relaxed


class BodyCanonicalizer(Protocol):
    """Takes a body in chunks and gives it back in canonical form, in pieces."""

    def update(self, chunk: bytes) -> Iterator[bytes]:
        """What is certain after a chunk; to be used up before the next. The chunk is at most ``BLOCK`` octets."""
        ...

    def finish(self) -> Iterator[bytes]:
        """The rest, when the body has ended."""
        ...


class SimpleBody:
    """The simple body canonicalization (RFC 6376 3.4.3): without the empty lines at the end, but with a last CRLF."""

    __slots__ = ("_cr", "_lines")

    def __init__(self) -> None:
        self._lines = 0  # line ends held back
        self._cr = b""  # a CR held back, behind them

    def update(self, chunk: bytes) -> Iterator[bytes]:
        """What is certain after a chunk."""
        data = self._cr + chunk if self._cr else chunk
        self._cr = b"\r" if data.endswith(b"\r") else b""
        end = len(data) - len(self._cr)
        start = _line_ends(data, end)
        if start:
            yield from _crlfs(self._lines)
            self._lines = 0
            yield data[:start]
        self._lines += (end - start) // 2

    def finish(self) -> Iterator[bytes]:
        """The rest, when the body has ended. An empty body is one CRLF."""
        if self._cr:
            yield from _crlfs(self._lines)
        yield self._cr + b"\r\n"


class RelaxedBody:
    """The relaxed body canonicalization (RFC 6376 3.4.4, with its erratum 1377 on the last CRLF).

    White space at the end of lines is dropped, other white space becomes one space, then as simple; an empty body stays
    empty.
    """

    __slots__ = ("_empty", "_held", "_lines")

    def __init__(self) -> None:
        self._empty = True
        self._lines = 0  # line ends held back
        self._held = b""  # behind them perhaps a space, perhaps a CR

    def update(self, chunk: bytes) -> Iterator[bytes]:
        """What is certain after a chunk."""
        data = _single_spaces(self._held + chunk if self._held else chunk)
        if b"\n" in data and b" \r\n" in data:  # an octet is found in no time, three are not
            data = _replaced(data, b" \r\n", b"\r\n")
        end = len(data) - data.endswith(b"\r")
        end -= data.endswith(b" ", 0, end)
        self._held = data[end:]
        start = _line_ends(data, end)
        if start:
            yield from _crlfs(self._lines)
            self._lines = 0
            self._empty = False
            yield data[:start]
        self._lines += (end - start) // 2

    def finish(self) -> Iterator[bytes]:
        """The rest, when the body has ended."""
        if self._held.endswith(b"\r"):
            yield from _crlfs(self._lines)
            yield self._held + b"\r\n"
        elif not self._empty:
            yield b"\r\n"


def body_canonicalizer(canonicalization: Canonicalization) -> BodyCanonicalizer:
    """A new one of the kind."""
    return SimpleBody() if canonicalization is Canonicalization.SIMPLE else RelaxedBody()


def _single_spaces(data: bytes) -> bytes:
    """Each run of spaces and tabs as one space."""
    if b"\t" in data:
        is_dense = data.count(b"\t", 0, _SAMPLE) > _DENSE
        data = data.translate(_TAB_TO_SPACE) if is_dense else data.replace(b"\t", b" ")
    if b"  " not in data:
        return data
    if b"   " in data:
        if data.find(b"        ", 0, _SAMPLE) >= 0:
            data = _LONG_RUN.sub(b" ", data)
        while b"   " in data:  # each pass halves the runs, and so costs at most half of the one before
            data = data.replace(b"  ", b" ")
    return _replaced(data, b"  ", b" ")


def _replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """``data.replace(old, new)``, which goes over the data twice, or where there is little to replace over it once."""
    if data.count(old, 0, _SAMPLE) > _DENSE:
        return data.replace(old, new)
    return new.join(data.split(old))


def _line_ends(data: bytes, end: int) -> int:
    """Where the CRLFs begin that stand without a gap before ``end``."""
    if not data.endswith(b"\r\n", 0, end):
        return end
    start = len(data[:end].rstrip(b"\r\n"))
    # Behind it there are only CR and LF: they alternate from the last place on where two of a kind stand together.
    start = max(start, data.rfind(b"\r\r", start, end) + 1, data.rfind(b"\n\n", start, end) + 1)
    return start + data.startswith(b"\n", start)


def _crlfs(count: int) -> Iterator[bytes]:
    """So many CRLFs, in pieces."""
    whole, rest = divmod(2 * count, len(_CRLFS))
    for _ in range(whole):
        yield _CRLFS
    if rest:
        yield _CRLFS[:rest]
