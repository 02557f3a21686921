"""Encoded words (RFC 2047), decoded as the most tolerant readers do: anywhere, of any length, in any charset they know.

For looking at what a reader might show, not for showing it. Time is linear; never raises.
"""

import quopri
import re
from base64 import b64decode
from typing import Final

# RFC 2047 2, and RFC 2231 5 for the language after an asterisk.
ENCODED_WORD: Final = re.compile(r"=\?([^?*\s]{1,40})(?:\*[^?\s]{0,40})?\?([bq])\?([^?\s]*)\?=", re.IGNORECASE)

_QUOTED: Final = re.compile(r"(?:[^=]|=[0-9A-Fa-f]{2})*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")

# Charsets that mail has; other names that Python takes are no charsets, or slow.
_CHARSET: Final = re.compile(
    r"(?:us-)?ascii|utf-?(?:7|8|16|32)(?:[bl]e)?|iso-?8859-\d{1,2}|(?:windows-|cp)\d{3,4}|koi8-[rtu]|iso-2022-(?:jp|kr)"
    r"|shift_jis|euc-(?:jp|kr)|gb2312|gbk|gb18030|big5|macintosh|tis-620",
    re.IGNORECASE,
)


def decoded_word(match: re.Match[str]) -> str | None:
    """What a match of ``ENCODED_WORD`` stands for; None if its base64 can't be read."""
    charset, encoding, word = match.groups()
    octets = word.encode("utf-8", "replace")
    try:
        octets = b64decode(octets + b"==") if encoding in "bB" else quopri.decodestring(octets, header=True)
    except ValueError:
        return None
    try:
        return octets.decode(charset if _CHARSET.fullmatch(charset) else "utf-8", "replace")
    except (LookupError, UnicodeError):
        return octets.decode("utf-8", "replace")


def is_sound(match: re.Match[str]) -> bool:
    """Whether all readers decode a match of ``ENCODED_WORD`` to the same octets: nothing in it is left open."""
    if match[2] in "qQ":
        return _QUOTED.fullmatch(match[3]) is not None
    return len(match[3]) % 4 == 0 and _BASE64.fullmatch(match[3]) is not None


def decode(text: str) -> str:
    """A text with each encoded word decoded; white space between two of them stays."""
    return ENCODED_WORD.sub(lambda match: decoded_word(match) or "", text) if "=?" in text else text
