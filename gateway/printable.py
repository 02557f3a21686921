r"""Text that others chose, made fit to be shown: on a terminal, in the log, in a file that somebody will look at.

Anything may stand in what a client, a backend or the DNS said. A terminal obeys control characters (C0, DEL, and C1 as
UTF-8, too), a line end begins a line of its own, characters that turn the reading direction or have no width make one
address look like another. All of these are written out. What is left has one line and is what it looks like.
"""

import re
from collections.abc import Callable
from typing import Final

# What str.isprintable() takes although nothing is seen of it: fillers, variation selectors, a blank of Braille.
_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

_PECULIAR: Final = re.compile("[^ -~]+")


def printable(text: str) -> str:
    r"""The text with everything escaped that could be taken for something else, such as ``\n`` or ``\x1b``."""
    return text if _is_printable(text) else _PECULIAR.sub(lambda found: _each(found[0], _escaped), text)


def printable_json(text: str) -> str:
    r"""JSON with the same escaped in JSON's own way, so that who reads it gets the very text.

    An octet that is no UTF-8, which JSON can't hold, becomes the text ``\xff``.

    Args:
        text: JSON; line ends between its values stay.
    """
    return text if _is_printable(text) else _PECULIAR.sub(lambda found: _each(found[0], _json_escaped), text)


def _each(text: str, escape: Callable[[str], str]) -> str:
    if _is_printable(text):
        return text
    return "".join(character if _is_printable(character) else escape(character) for character in text)


def _is_printable(text: str) -> bool:
    return text.isprintable() and (text.isascii() or _UNSEEN.search(text) is None)


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # noqa: PLR2004 - an octet that is no UTF-8, as PEP 383 keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(character: str) -> str:
    if character == "\n":
        return character
    if 0xD800 <= ord(character) <= 0xDFFF:  # noqa: PLR2004 - half a character (RFC 8259 8.2)
        return "\\" + _escaped(character)
    octets = character.encode("utf-16-be")
    return "".join(f"\\u{octets[at]:02x}{octets[at + 1]:02x}" for at in range(0, len(octets), 2))
