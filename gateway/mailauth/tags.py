"""Tag lists: ``name=value; name=value``, as in DKIM-Signature fields, key records and ARC (RFC 6376 3.2, RFC 8617 4.1).

Strict where a lenient reading would let two programs read two things: names are unique and case counts, values hold
no control characters. Tags whose names are none by the letter, such as ``x-note=1``, are passed over, and so are empty
tags (``;;``) of DKIM, as other verifiers do (``docs/decisions/dkim.md`` has a table). In ARC empty tags and names that
do not begin with a letter are errors: its public test data wants such a chain to fail. All of it takes time in
proportion to the text.

Raises ``TagError``, whose text says in words for an administrator what is wrong; it quotes at most a short piece of
what it was given, and nothing that does not belong in one line.
"""

import re
from typing import Final

from gateway.smtp import encoded

# RFC 6376 3.2: tval = 1*VALCHAR, VALCHAR = %x21-3A / %x3C-7E; RFC 8616 3 adds UTF-8. White space may stand between.
_FORBIDDEN: Final = re.compile("[^\t -~\xa0-\U0010ffff]")
# RFC 6376 3.2: tag-name = ALPHA *ALNUMPUNC
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# What is no name by the letter, but looks like one that somebody chose: x-note, x.note.
_FOREIGN_NAME: Final = re.compile(r"[A-Za-z][!-:<-~]*")
MAX_TAGS: Final = 100
"""Tags of one list; the standards define 13 for a signature. More would only cost time."""
_QUOTED: Final = 30
"""Characters of foreign text in an error: enough to find it by."""


class TagError(ValueError):
    """It is no tag list, or a value is not of its form."""


def quoted(text: str) -> str:
    """A piece of foreign text for a sentence: short, printable, in quotes."""
    return ascii(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def field_text(raw: bytes) -> str:
    """What stands behind the colon of a header field, unfolded (RFC 5322 2.2.3).

    Raises:
        TagError: It is not UTF-8 (RFC 6532 3.2).
    """
    try:
        return raw.partition(b":")[2].replace(b"\r\n", b"").decode()
    except UnicodeDecodeError:
        raise TagError("it holds octets that are not UTF-8") from None


def parse_tags(text: str, *, strict: bool = False) -> dict[str, str]:
    """Read a tag list (RFC 6376 3.2).

    Args:
        text: The list, unfolded.
        strict: Whether empty tags, and names that do not even begin with a letter, are errors; else they are passed
            over. An empty tag at the end is always allowed.

    Returns:
        The values by name in the order of the list, without surrounding white space.

    Raises:
        TagError: It is not one, has a tag twice, or too many.
    """
    if text.count(";") > MAX_TAGS:
        raise TagError(f"it has more than {MAX_TAGS} tags")
    if (match := _FORBIDDEN.search(text)) is not None:
        raise TagError(f"it holds the control character {match[0]!a}")
    tags: dict[str, str] = {}
    parts = text.split(";")
    if not parts[-1].strip(" \t"):
        parts.pop()
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip(" \t")
        if not equals or _NAME.fullmatch(name) is None:
            is_harmless = bool(equals) or not name  # a word without an equals sign is an error everywhere
            if is_harmless and (not strict or _FOREIGN_NAME.fullmatch(name) is not None):
                continue
            raise TagError(f"{quoted(part.strip())} is not of the form name=value")
        if name in tags:
            raise TagError(f"the tag {name[:_QUOTED]}= is there twice")
        tags[name] = value.strip(" \t")
    return tags


def without_white_space(value: str) -> str:
    """A value without the white space that folding may have put anywhere into it."""
    return value.replace(" ", "").replace("\t", "")


def split_list(value: str) -> list[str]:
    """The parts of a list with colons, such as ``h=`` (RFC 6376 3.5), without white space around them.

    Empty parts stand for nothing, wherever they are.
    """
    return [stripped for part in value.split(":") if (stripped := part.strip(" \t"))]


def decode_base64(tag: str, value: str) -> bytes:
    """The octets of a base64 value, in which white space does not count (RFC 6376 2.10).

    Args:
        tag: Its name, for the error.
        value: The value.

    Raises:
        TagError: It is not base64.
    """
    try:
        return encoded.decode_base64(without_white_space(value))
    except ValueError:
        raise TagError(f"{tag}= is not base64") from None
