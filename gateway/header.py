"""Header fields of a message, as received (RFC 5322 2.2).

They are read as leniently as mail servers and readers do, and kept octet by octet, because signatures are made over
the octets.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One header field.

    Attributes:
        name: In lower case.
        raw: The field's octets as received, its name and final CRLF included.
    """

    name: str
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, unfolded, without surrounding white space."""
        return self.raw.partition(b":")[2].replace(b"\r\n", b"").strip()

    @property
    def unfolded(self) -> str:
        """The whole field in one line, for people."""
        return b" ".join(self.raw.split()).decode("utf-8", "backslashreplace")


# RFC 5322 2.2: field-name ":" field-body CRLF, where a line that begins with white space continues the one before.
# Any octets may stand before the colon; white space around them does not count. Nothing is tried twice, so that the
# time is in proportion to the octets.
_FIELD: Final = re.compile(rb"([^:\r]*+):[^\r]*+(?:\r\n[ \t][^\r]*+)*+\r\n")


def header_fields(header: bytes) -> Iterator[HeaderField]:
    """The fields of a header section in order; a line that is no field and continues none ends it (RFC 5322 2.2)."""
    position = 0
    while (match := _FIELD.match(header, position)) is not None and (name := match[1].strip(b" \t")):
        position = match.end()
        yield HeaderField(name.decode("latin-1").lower(), match[0])


def hidden_fields(rest: bytes) -> Iterator[HeaderField]:
    """What stands behind the fields of a header section, as readers see it that go on behind a line that is no field.

    Args:
        rest: The octets of the header section that no field covers.

    Returns:
        All of it in order; lines that are no field have no name.
    """
    position = 0
    while position < len(rest):
        match = _FIELD.match(rest, position)
        if match is not None and (name := match[1].strip(b" \t")):
            yield HeaderField(name.decode("latin-1").lower(), match[0])
            position = match.end()
        else:
            end = rest.find(b"\r\n", position) + 2
            end = end if end >= 2 else len(rest)  # noqa: PLR2004 - it was found
            yield HeaderField("", rest[position:end])
            position = end


def field_at(header: bytes, position: int) -> HeaderField | None:
    """The field that begins at an octet, None if none does."""
    match = _FIELD.match(header, position)
    return None if match is None else HeaderField(match[1].strip(b" \t").decode("latin-1").lower(), match[0])
