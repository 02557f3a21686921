"""Encoded words (RFC 2047), decoded as the most tolerant readers do: anywhere, of any length, with spaces in them.

For looking at what a reader might show, not for showing it. Time is linear; never raises.
"""

import quopri
import re
from base64 import b64decode
from typing import Final

# RFC 2047 2, and RFC 2231 5 for the language after an asterisk.
ENCODED_WORD: Final = re.compile(r"=\?([^?*\s]{1,40})(?:\*[^?\s]{0,40})?\?([bq])\?([^?\s]*)\?=", re.IGNORECASE)
LOOSE_WORD: Final = re.compile(r"=\?([^?*]*)(?:\*[^?]*)?\?([^?]*)\?([^?]*)\?=")
"""What any reader might take for one: with white space in it, as broken mailers write it, and with any names."""

_QUOTED: Final = re.compile(r"(?:[^=]|=[0-9A-Fa-f]{2})*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")

# Charsets in which mail is written, and in which an octet of US-ASCII that stands alone is what it is in US-ASCII.
# Others are no charsets of mail (UTF-16, EBCDIC), and readers differ in whether they know them.
_CHARSET: Final = re.compile(
    r"(?:us-)?ascii|utf-?8|iso-?8859-\d{1,2}|latin-?1|(?:windows-|cp)(?:125\d|874|932|866|437|850)|windows-31j"
    r"|koi8-[rtu]|iso-2022-jp|shift_jis|euc-(?:jp|kr)|ks_c_5601-1987|gb2312|gbk|gb18030|big5|macintosh|tis-620",
    re.IGNORECASE,
)


def decoded_word(match: re.Match[str]) -> str | None:
    """What a match of ``ENCODED_WORD`` or ``LOOSE_WORD`` stands for; None if its base64 can't be read."""
    octets = _octets(match)
    return None if octets is None else _text(match[1], octets)


def readings(match: re.Match[str]) -> tuple[str, ...] | None:
    """The texts that readers may take from a match of ``LOOSE_WORD``; None where they may decode it to anything.

    The second one is of the octets themselves, where a charset of several octets a character may have hidden some.
    """
    octets = _octets(match) if _is_sound(match) else None
    if octets is None or _CHARSET.fullmatch(match[1]) is None:
        return None
    return tuple(dict.fromkeys((_text(match[1], octets), octets.decode("latin-1"))))


def decode(text: str) -> str:
    """A text with each encoded word decoded; white space between two of them stays."""
    return LOOSE_WORD.sub(lambda match: decoded_word(match) or "", text) if "=?" in text else text


def _is_sound(match: re.Match[str]) -> bool:
    """Whether all readers decode a word to the same octets: nothing in it is left open."""
    encoding, word = match[2], match[3]
    if encoding in {"q", "Q"}:
        return _QUOTED.fullmatch(word) is not None
    return encoding in {"b", "B"} and len(word.rstrip("=")) % 4 != 1 and _BASE64.fullmatch(word) is not None


def _octets(match: re.Match[str]) -> bytes | None:
    word = match[3].encode("utf-8", "surrogateescape")
    try:
        return b64decode(word + b"==") if match[2] in {"b", "B"} else quopri.decodestring(word, header=True)
    except ValueError:
        return None


def _text(charset: str, octets: bytes) -> str:
    try:
        return octets.decode(charset if _CHARSET.fullmatch(charset) else "utf-8", "replace")
    except (LookupError, UnicodeError):
        return octets.decode("utf-8", "replace")
