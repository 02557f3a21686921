"""Base64 by the letter (RFC 4648 3 and 4). What Python's own strict mode takes differs between its patch levels."""

import binascii
import re
from typing import Final

# Groups of four, the last one padded.
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def decode_base64(text: str) -> bytes:
    """The octets that a text without white space stands for.

    Raises:
        ValueError: It is not base64.
    """
    if len(text) % 4 or _BASE64.fullmatch(text) is None:
        raise ValueError("not base64")
    return binascii.a2b_base64(text)
