"""Base64 by the letter (RFC 4648 3 and 4): groups of four characters, the last one padded, and nothing else.

Python's own strict mode takes too much padding on some of its patch levels, so that is looked at first.
"""

import binascii


def decode_base64(text: str) -> bytes:
    """The octets that a text without white space stands for.

    Raises:
        ValueError: It is not base64.
    """
    if len(text) % 4 or text.endswith("==="):
        raise ValueError("not base64")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        raise ValueError("not base64") from error
