r"""Message octets on the wire: end of data, dot-stuffing, bare newlines, NUL, size (RFC 5321 2.3.8, 4.1.1.4, 4.5.2).

Streaming and on whole chunks: everything takes octets cut anywhere, runs ``bytes`` methods over them, and holds back no
more than the four octets that could begin the end of data. Nothing here loops over lines.

There is one reading of the wire: only ``CRLF.CRLF`` ends a message, and a dot is stuffing only after CRLF. What else a
message can hold that some other server would read as a line's end is refused, or made harmless:

- A bare CR or LF: ``BareNewlines.REJECT`` refuses the message, ``NORMALIZE`` makes each a CRLF; after it a dot is text.
- A NUL: ``NulOctets.REJECT`` refuses the message, because a server that drops NULs would see ``CRLF . CRLF`` in
  ``CRLF NUL . CRLF``; ``ACCEPT`` lets it pass.

A refused message is read on to its true end, keeping nothing of it.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

from gateway.smtp import reply
from gateway.smtp.reply import Reply

CR: Final = 0x0D
LF: Final = 0x0A
NUL: Final = 0x00
"""Octets as numbers: to look for an octet in ``bytes`` takes CPython some ns that way, and 300 where it is bytes."""

_CRLF: Final = b"\r\n"
_END: Final = b"\r\n.\r\n"
_A_NUL: Final = re.compile(rb"\0")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_BARE_OR_NUL: Final = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")


class BareNewlines(StrEnum):
    """What becomes of a CR without LF, and of an LF without CR, in a message."""

    REJECT = "reject"
    NORMALIZE = "normalize"


class NulOctets(StrEnum):
    """What becomes of a NUL octet in a message."""

    REJECT = "reject"
    ACCEPT = "accept"


class _Cleaner(msgspec.Struct, eq=False):
    """The policies on bare newlines and NUL, for octets that are not cut within a CRLF.

    Attributes:
        bare_newlines: What becomes of bare CR and LF.
        nul: What becomes of NUL.
        problem: Why the message is refused, None as long as it is not. May be set from outside, too; from then on
            octets are read to the end of the message and dropped.
    """

    bare_newlines: BareNewlines = BareNewlines.REJECT
    nul: NulOctets = NulOctets.REJECT
    problem: Reply | None = None

    def _clean(self, data: bytes) -> bytes:
        """Apply the policies; before a problem return what precedes it, so that all framings count the same octets."""
        rest = data.replace(_CRLF, b"")  # three times as fast as counting each
        bare = CR in rest or LF in rest
        if bare and self.bare_newlines is BareNewlines.REJECT:
            return self._cut(data, _BARE if self.nul is NulOctets.ACCEPT else _BARE_OR_NUL)
        if NUL in data and self.nul is NulOctets.REJECT:
            data = self._cut(data, _A_NUL)
        return data.replace(_CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", _CRLF) if bare else data

    def _cut(self, data: bytes, problem: re.Pattern[bytes]) -> bytes:
        match = problem.search(data)
        if match is None:
            return data
        self.problem = reply.NUL_IN_DATA if match[0] == b"\0" else reply.BARE_NEWLINE_DATA
        return data[: match.start()]


class DataDecoder(_Cleaner):
    """The octets after DATA: finds their end and removes the dot-stuffing.

    Attributes:
        finished: Whether the end of data has come; nothing may be fed after it.
        rest: What was fed behind the end of data.
    """

    # DATA's own CRLF begins the first line: a message may be empty, or begin with a dot.
    _held: bytes = _CRLF
    _skip: int = 2
    finished: bool = False
    rest: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Take octets from the wire and return those of the message that are certain; ``b""`` after a problem."""
        data = self._held + data
        dot = data.find(b"\r\n.")
        end = -1 if dot < 0 else data.find(_END, dot)
        if end >= 0:
            self.finished = True
            self.rest = data[end + 5 :]
            self._held = b""
            certain = end + 2
        else:
            certain = len(data) - _held_back(data)
            self._held = data[certain:]
        if self.problem is not None or not certain:
            return b""
        stuffed = 0 <= dot != end  # a dot before the one of the end
        data = data[:certain].replace(b"\r\n.", _CRLF)[self._skip :] if stuffed else data[self._skip : certain]
        self._skip = 0
        return self._clean(data)


def _held_back(data: bytes) -> int:
    """How many octets at the end could belong to ``CRLF.CRLF``, or be half a CRLF."""
    if data.endswith(b"\r\n"):
        return 2
    if data.endswith(b"\r"):
        return 4 if data.endswith(b"\r\n.\r") else 1
    return 3 if data.endswith(b"\r\n.") else 0


class BdatChecker(_Cleaner):
    """The octets of BDAT chunks (RFC 3030): no dots, but the same policies; a CRLF may be cut by two chunks."""

    _held: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Take octets of a chunk and return those of the message that are certain; ``b""`` after a problem."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data.endswith(b"\r"):
            self._held = b"\r"
            data = data[:-1]
        return b"" if self.problem is not None else self._clean(data)

    def finish(self) -> bytes:
        """Return what was held back at the end of the message."""
        data, self._held = self._held, b""
        return b"" if self.problem is not None else self._clean(data)


class SizeMeter:
    """Counts the octets of a message and of its header section against their limits.

    Attributes:
        size: Octets so far.
    """

    __slots__ = ("_header_limit", "_in_header", "_limit", "_line_limit", "_lines", "_tail", "size")

    def __init__(self, limit: int, header_limit: int, header_lines: int = 0) -> None:
        """``limit`` and ``header_limit`` are in octets; 0 is no limit, of lines either."""
        self.size = 0
        self._limit = limit
        # A limit that the other one implies never decides.
        self._header_limit = header_limit if not limit or header_limit < limit else 0
        self._line_limit = header_lines
        self._lines = 0
        self._in_header = bool(self._header_limit or header_lines)
        self._tail = _CRLF  # a message that begins with an empty line has no header

    def add(self, data: bytes) -> Reply | None:
        """Count octets of the message; return the refusal if they are too many."""
        before = self.size
        self.size += len(data)
        if self._in_header:
            window = self._tail + data
            end = window.find(b"\r\n\r\n")
            # The header section ends with the CRLF of its last line; not found: with what there is, at the earliest,
            # or before a CR that may begin the empty line.
            header = before - len(self._tail) + end + 2 if end >= 0 else self.size - window.endswith(b"\r\n\r")
            if self._header_limit and header > self._header_limit:
                return reply.HEADER_TOO_BIG
            if self._line_limit:
                self._lines += window.count(b"\n", len(self._tail), len(window) if end < 0 else end + 2)
                if self._lines > self._line_limit:
                    return reply.HEADER_TOO_BIG
            self._in_header = end < 0
            self._tail = window[-3:]
        return reply.MESSAGE_TOO_BIG if self._limit and self.size > self._limit else None


class DotStuffer(msgspec.Struct, eq=False):
    """Makes message octets fit for DATA: the client's side of dot-stuffing (RFC 5321 4.5.2).

    The octets must hold no bare CR or LF, as the decoders see to.
    """

    _tail: bytes = _CRLF  # the end of what was sent before: nothing, a CR, or CRLF

    def feed(self, data: bytes) -> bytes:
        """Take octets of the message, cut anywhere; return them with a dot before each line that begins with one."""
        if not data:
            return data
        tail = self._tail
        out = data.replace(b"\r\n.", b"\r\n..")
        if out.startswith(b".") and tail == _CRLF:
            out = b"." + out
        elif out.startswith(b"\n.") and tail == b"\r":
            out = b"\n." + out[1:]
        end = (tail + data[-2:])[-2:]
        self._tail = end if end == _CRLF else b"\r" if end[-1:] == b"\r" else b""
        return out

    def finish(self) -> bytes:
        """The end of data, completing a last line that has no CRLF."""
        if self._tail == _CRLF:
            return b".\r\n"
        return b"\n.\r\n" if self._tail == b"\r" else _END
