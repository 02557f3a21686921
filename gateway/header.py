"""Header fields of a message, octet by octet, because signatures are made over the octets (RFC 5322 2.2).

What a field is here is what Postfix takes for one: a name of printable ASCII, perhaps spaces or tabs, a colon; further
lines belong to it that begin with a space or a tab. The first line that is none of these ends the header.
``gateway/form.py`` makes that end plain to readers who would see another one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 998
"""Octets of a field's name: a line has no more (RFC 5322 2.1.1), and Postfix reads lines in pieces of 2,048."""


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One header field.

    Attributes:
        name: In lower case.
        raw: The field's octets, its name and final CRLF included.
    """

    name: str
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands after the colon, unfolded, without surrounding white space."""
        return self.raw.partition(b":")[2].replace(b"\r\n", b"").strip()

    @property
    def unfolded(self) -> str:
        """The whole field in one line, for people."""
        return b" ".join(self.raw.split()).decode("utf-8", "backslashreplace")


# RFC 5322 2.2 and 3.6.8: field-name ":" field-body CRLF, where a line that begins with white space continues the one
# before it; 4.5 allows white space before the colon. No octet can be taken in two ways, so that the time is in
# proportion to the octets.
_FIELD: Final = re.compile(rb"([!-9;-~]{1,%d})[ \t]*:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n" % MAX_NAME)


# What a message has of its own (RFC 5322 3.6, RFC 2045, RFC 8601, RFC 6376, RFC 8617). Fields of a name that the
# gateway writes are removed from what comes in, and a second one would be read in two ways.
_MESSAGES_OWN: Final = re.compile(
    r"from|sender|reply-to|to|cc|bcc|date|subject|message-id|in-reply-to|references|received|return-path|delivered-to"
    r"|mime-version|(?:content|resent|arc)-.*|authentication-results|dkim-signature"
)
_ADDED: Final = re.compile(r"[!-9;-~]+:[ \t]?[ -~]*")  # RFC 5322 2.2: printable US-ASCII but the colon, a colon, text
_MAX_LINE: Final = 998  # RFC 5322 2.1.1


def is_messages_own(name: str) -> bool:
    """Whether fields of this name, in any case, are the message's own, which nobody on its way may write."""
    return _MESSAGES_OWN.fullmatch(name.lower()) is not None


def is_one_line(field: str) -> bool:
    """Whether a text is a header field of one line, as it is added to a message: ``X-Name: text``."""
    return len(field) <= _MAX_LINE and _ADDED.fullmatch(field) is not None


def header_fields(header: bytes) -> Iterator[HeaderField]:
    """The fields of a header section in order; a line that is no field and continues none ends it (RFC 5322 2.2)."""
    position = 0
    while (match := _FIELD.match(header, position)) is not None:
        position = match.end()
        yield HeaderField(match[1].decode("ascii").lower(), match[0])


def field_at(header: bytes, position: int) -> HeaderField | None:
    """The field that begins at an octet, None if none does."""
    match = _FIELD.match(header, position)
    return None if match is None else HeaderField(match[1].decode("ascii").lower(), match[0])
