"""What a mail reader shows of a message, and the interface of a reader."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one reader makes of one message.

    Attributes:
        authors: What it shows as the addresses of the From field, in order.
        author_text: The From field as it shows it.
        fields: Name and value of each field of the header in order, as it sees them; values unfolded.
        error: What it raised, if it did: then the rest may be empty.
    """

    authors: tuple[str, ...] = ()
    author_text: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    error: str = ""


class Reader(Protocol):
    """A library that reads mail."""

    @property
    def name(self) -> str:
        """How tests and tables name it."""
        ...

    def read(self, messages: Sequence[bytes]) -> list[Reading]:
        """What it makes of each message: whole messages as stored, in CRLF or LF lines."""
        ...


def unfolded(value: str) -> str:
    """A field's value as one line, without white space at its ends."""
    return re.sub(r"\r?\n(?=[ \t])", "", value).strip(" \t\r\n")
