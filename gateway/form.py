r"""The form of a message's header: one reading for the policies, for Postfix and for everybody who reads the mail.

Readers differ about what a field is and where the header ends. ``HeaderReader`` takes the header section as it came and
gives it as it is judged and forwarded, a ``HeaderSection``. What readers could take in two ways is mended:

- Leading lines that match ``>*From `` (an mbox file's) become ``X-Mailbox-Line: ...``, as Postfix does it. It can't do
  so itself, because the gateway's own fields stand above them.
- White space between a field's name and its colon is removed: some readers take such a line for the end of the header.
- A last line without CRLF (possible with BDAT) gets it.
- A From field in which a quoted string or a comment is folded is unfolded, if readers who end the string at the fold
  find another author in it than those who don't.
- The header ends where Postfix ends it, at the first line that is no field and continues none (``gateway/header.py``).
  An empty line is inserted there, so that it ends there for every reader. This is also what becomes of a first line
  that begins with white space: without the empty line it would continue the gateway's own field above it.

Where a reader who goes on after that end could find an author or a result (a From, Sender, Reply-To or
Authentication-Results field), the message is malformed. So is every message that needs mending, if that is asked for.

Fields that only the gateway may write are removed: Authentication-Results that claim one of our names (RFC 8601 5),
``X-Lychgate-...``, and the fields that configured tags write.

Lines end in CRLF, and no CR or LF stands alone: ``gateway/smtp/data.py`` sees to that. Nothing is raised, and the time
is linear in the header, whatever else it holds.
"""

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Final

from gateway.header import MAX_NAME, HeaderField, field_at, header_fields
from gateway.mailauth.author import read_from
from gateway.mailauth.authserv_claims import forged

RESERVED: Final = "x-lychgate-"
"""How the names of the gateway's own fields begin."""

MAX_LINE: Final = 1000
"""Octets of a line with its CRLF (RFC 5321 4.5.3.1.6): what is unfolded is no longer than that."""

_RESULTS: Final = "authentication-results"


class Mend(StrEnum):
    """What was mended in a header."""

    MBOX_LINE = "mbox_line"
    SPACE_BEFORE_COLON = "space_before_colon"
    LAST_LINE = "last_line"
    FOLDED_FROM = "folded_from"
    HEADER_END = "header_end"


IN_WORDS: Final = {
    Mend.MBOX_LINE: "it begins with a line of an mbox file",
    Mend.SPACE_BEFORE_COLON: "white space stands before the colon of a field",
    Mend.LAST_LINE: "the last line of the header has no CRLF",
    Mend.FOLDED_FROM: "the From field is folded within a quoted string or a comment",
    Mend.HEADER_END: "a line that is no field ends the header",
}
"""Why a header needs mending."""

# A line that neither begins a field whose colon follows its name at once nor continues one: most headers have none. To
# look at the beginnings of lines only is five times as fast as to match every field.
_ODD_LINE: Final = re.compile(rb"\n(?![!-9;-~]{1,%d}:|[ \t]|\Z)" % MAX_NAME)
_MBOX_LINE: Final = re.compile(rb">*From [^\r\n]*(?:\r\n|\Z)")
_FIELD: Final = re.compile(rb"([!-9;-~]{1,%d})([ \t]*)(:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*)(\r\n|\Z)" % MAX_NAME)

# Where some reader or other begins a line, and what some reader or other leaves out of a field's name.
_LINE_ENDS: Final = b"\r\n\x0b\x0c\x1c\x1d\x1e\x85"
_LINE_SEPARATORS: Final = re.compile(rb"\xe2\x80[\xa8\xa9]")
_IN_NAMES: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-:"
_TO_NAMES: Final = bytes.maketrans(_LINE_ENDS, b"\n" * len(_LINE_ENDS))
_NOT_IN_NAMES: Final = bytes(octet for octet in range(256) if octet not in _IN_NAMES + _LINE_ENDS)
_TELLING: Final = re.compile(rf"\n(from|sender|reply-to|{_RESULTS}):".encode())


class HeaderSection:
    """A header section as it is judged and forwarded.

    Attributes:
        received: Its octets as they came: up to the empty line, which is not included.
        octets: Its octets as they are forwarded: whole fields, each with its CRLF.
        rest: What of ``received`` stands after the header's end; the beginning of the body.
        mended: What was mended, each once.
        removed: The fields that are not forwarded.
        malformed: Why the message is to be refused, in words; empty if it is not.
    """

    __slots__ = ("_fields", "malformed", "mended", "octets", "received", "removed", "rest")

    def __init__(
        self,
        received: bytes,
        octets: bytes,
        rest: bytes = b"",
        *,
        mended: tuple[Mend, ...] = (),
        removed: tuple[HeaderField, ...] = (),
        malformed: str = "",
    ) -> None:
        self.received = received
        self.octets = octets
        self.rest = rest
        self.mended = mended
        self.removed = removed
        self.malformed = malformed
        self._fields: tuple[HeaderField, ...] | None = None

    @property
    def fields(self) -> tuple[HeaderField, ...]:
        """The header fields in order; read on first use."""
        if self._fields is None:
            self._fields = tuple(header_fields(self.octets))
        return self._fields

    @property
    def is_changed(self) -> bool:
        """Whether what is forwarded differs from what was received."""
        return bool(self.mended or self.removed)

    @property
    def forwarded(self) -> bytes:
        """What is forwarded in the place of ``received``."""
        return self.octets + b"\r\n" + self.rest if Mend.HEADER_END in self.mended else self.octets


class HeaderReader:
    """Reads header sections.

    Args:
        authserv_ids: Our names in Authentication-Results fields.
        written: Names of fields that configured tags write, in any case.
        strict: Whether what needs mending is malformed.
    """

    __slots__ = ("_authserv_ids", "_strict", "_suspect", "_written")

    def __init__(
        self, authserv_ids: Collection[str] = (), written: Collection[str] = (), *, strict: bool = False
    ) -> None:
        self._authserv_ids = authserv_ids
        self._written = written = frozenset(name.lower() for name in written)
        self._strict = strict
        self._suspect = tuple(f"\n{name}".encode() for name in (RESERVED, f"{_RESULTS}:", *(f"{w}:" for w in written)))

    def read(self, received: bytes) -> HeaderSection:
        """Read a header section.

        Args:
            received: Its octets up to the empty line, which is not included; all of the message if it has none.
        """
        if not received:
            return HeaderSection(received, received)
        octets, rest = received, b""
        mended: tuple[Mend, ...] = ()
        lowered = b"\n" + received.lower()
        if _ODD_LINE.search(lowered) or received[-1:] != b"\n" or received[0] in b" \t":
            octets, rest, mended = _mended(received)
            lowered = b"\n" + octets.lower()
        unfolded = _unfolded_from(octets, lowered.find(b"\nfrom:"))
        if unfolded is not None:
            octets, mended = unfolded, (*mended, Mend.FOLDED_FROM)
        malformed = self._malformed(rest, mended) if mended else ""
        if not any(name in lowered for name in self._suspect):
            return HeaderSection(received, octets, rest, mended=mended, malformed=malformed)
        fields = list(header_fields(octets))
        unwanted = set(map(id, forged(fields, self._authserv_ids)))
        removed = tuple(field for field in fields if id(field) in unwanted or self._is_ours(field.name))
        kept = set(map(id, fields)) - set(map(id, removed))
        octets = b"".join(field.raw for field in fields if id(field) in kept)
        return HeaderSection(received, octets, rest, mended=mended, removed=removed, malformed=malformed)

    def _is_ours(self, name: str) -> bool:
        return name in self._written or name.startswith(RESERVED)

    def _malformed(self, rest: bytes, mended: tuple[Mend, ...]) -> str:
        hidden = _hidden(rest)
        if hidden:
            return f"after the end of the header stands what some readers take for a field {hidden}"
        return IN_WORDS[mended[0]] if self._strict else ""


def _mended(received: bytes) -> tuple[bytes, bytes, tuple[Mend, ...]]:
    """The header as it is forwarded, what follows its end, and what was mended."""
    parts: list[bytes] = []
    mended: dict[Mend, None] = {}
    position = 0
    while (line := _MBOX_LINE.match(received, position)) is not None and line[0]:
        parts.append(b"X-Mailbox-Line: " + line[0])
        mended[Mend.MBOX_LINE] = None
        position = line.end()
    while (field := _FIELD.match(received, position)) is not None:
        name, space, value, end = field.groups()
        parts.append(name + value + end)
        if space:
            mended[Mend.SPACE_BEFORE_COLON] = None
        position = field.end()
    if parts and not parts[-1].endswith(b"\r\n"):
        parts.append(b"\r\n")
        mended[Mend.LAST_LINE] = None
    rest = received[position:]
    if rest:
        mended[Mend.HEADER_END] = None
    return b"".join(parts), rest, tuple(mended)


def _unfolded_from(header: bytes, position: int) -> bytes | None:
    """A header with its From field unfolded, if some readers find another author in the folded one; else None.

    Args:
        header: The header, of whole fields.
        position: Where the From field begins; negative without one.
    """
    if position < 0:
        return None
    end = header.find(b"\r\n", position) + 2
    if header[end : end + 1] not in {b" ", b"\t"}:
        return None
    field = field_at(header, position)
    if field is None or len(field.raw) > MAX_LINE:
        return None
    unfolded = field.raw.replace(b"\r\n", b"") + b"\r\n"
    if read_from(field.raw) == read_from(unfolded):
        return None
    return header[:position] + unfolded + header[position + len(field.raw) :]


def _hidden(rest: bytes) -> str:
    """The name of a telling field that some reader could find in what follows the header's end; empty if none could."""
    lines = _LINE_SEPARATORS.sub(b"\n", b"\n" + rest).lower().translate(_TO_NAMES, _NOT_IN_NAMES)
    found = _TELLING.search(lines)
    return "" if found is None else found[1].decode("ascii")
