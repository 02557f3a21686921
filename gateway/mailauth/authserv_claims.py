"""Forged Authentication-Results fields: those that claim to be the gateway's own (RFC 8601 5).

Whoever trusts the gateway's field trusts its ``authserv-id``; so a field that came with the message and claims one of
ours must go. Readers differ in how they find the id, so this parser takes what any of them might: odd folding, comments
before and behind it, any case, quoted strings, a version, final dots, encoded words, U-labels for A-labels. A field
that is well-formed is judged by its id alone and otherwise kept byte for byte. One that is not goes if an id of ours
stands anywhere before the first result.

Nothing is raised, and the time is linear in the field, whatever it holds. Of one message ``MAX_READ`` octets are
judged; fields beyond that go: RFC 8601 5 lets a receiver remove them all.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

import idna

from gateway.header import HeaderField
from gateway.mailauth.cfws import comment_end
from gateway.mailauth.encoded_words import ENCODED_WORD, decoded_word

MAX_READ: Final = 32_768
"""Octets of all such fields of a message that are read, from the top; ten hops leave some 10,000."""

_NAME: Final = "authentication-results"

# RFC 8601 2.2: authres-payload = [CFWS] authserv-id [ CFWS authres-version ] ( no-result / 1*resinfo ) [CFWS] [CRLF]
_PLAIN: Final = re.compile(rb"[ \t\r\n]*([A-Za-z0-9._-]+)(?:[ \t\r\n]+[0-9]+)?[ \t\r\n]*(?:;|\Z)")
_PART: Final = re.compile(
    r"""
    (?P<space> [ \t\r\n]+)
  | (?P<quoted> " [^"\\]* (?: \\. [^"\\]* )* ")
  | (?P<open> [("])
  | (?P<end> ;)
  | (?P<run> [^ \t\r\n(";]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_TOKEN: Final = re.compile(r"[\w.-]+")  # what an id is made of that nobody could read in another way
_RESULT: Final = re.compile(r"=")
_VERSION: Final = re.compile(r"[0-9]+")
_ESCAPES: Final = re.compile(r'[\\"]')


def forged(fields: Iterable[HeaderField], authserv_ids: Collection[str]) -> list[HeaderField]:
    """The Authentication-Results fields that claim one of the ids, or are beyond what is read, in order.

    Args:
        fields: The fields of a message.
        authserv_ids: Our ids: host names as A-labels or U-labels, in any case.
    """
    found = []
    read = 0
    for field in fields:
        if field.name == _NAME:
            read += len(field.raw)
            if read > MAX_READ or claims(field.value, authserv_ids):
                found.append(field)
    return found


def claims(value: bytes, authserv_ids: Collection[str]) -> bool:
    """Whether an Authentication-Results field claims one of our ids, or might in the eyes of some reader.

    Args:
        value: What stands behind the colon, folded or not.
        authserv_ids: Our ids.
    """
    ours = _known(frozenset(authserv_ids))
    plain = _PLAIN.match(value)
    if plain is not None:
        return plain[1].decode("ascii").lower().strip(".") in ours.names
    words, well_formed = _words(value.decode("utf-8", "replace"))
    if well_formed:
        return _canonical(words[0]).strip(".") in ours.names
    for joined in (" ".join(words), "".join(words)):  # parted by a comment, a fold or a quote
        for instead in (" ", ""):  # control characters end a name for some readers, others pass over them
            if ours.pattern.search(_canonical(joined, instead)):
                return True
    return False


class _Ids:
    """Our ids in every form, and a pattern that finds one that is no part of a longer name."""

    __slots__ = ("names", "pattern")

    def __init__(self, authserv_ids: Iterable[str]) -> None:
        self.names = {form for authserv_id in authserv_ids for form in _forms(_canonical(authserv_id).strip("."))}
        choice = "|".join(re.escape(name) for name in sorted(self.names)) or r"(?!)"
        self.pattern = re.compile(rf"(?<![\w-])(?<![\w-]\.)(?:{choice})(?!\.?[\w-])")


@lru_cache(maxsize=16)
def _known(authserv_ids: frozenset[str]) -> _Ids:
    return _Ids(authserv_ids)


def _forms(name: str) -> set[str]:
    """A name as it is, as A-labels and as U-labels."""
    try:
        return {name, idna.encode(name, uts46=True).decode("ascii"), idna.decode(name)}
    except idna.IDNAError:
        return {name}


def _canonical(text: str, instead: str = "") -> str:
    """In lower case and compatible forms; what has no shape, like a control character, replaced."""
    if text.isascii() and text.isprintable():
        return text.lower()
    shaped = (
        instead if character == "\ufffd" or not character.isprintable() else unicodedata.normalize("NFKC", character)
        for character in text
    )
    return "".join(shaped).casefold().replace("\u3002", ".")


def _words(text: str) -> tuple[list[str], bool]:
    """The words before the first semicolon or result, comments left out, and whether they are an id and its version.

    Of a quoted string or a comment without end the rest of the field is taken for words.
    """
    words: list[str] = []
    parted = True  # white space or a comment stands between this word and the one before
    well_formed = True
    position = 0
    while (part := _PART.match(text, position)) is not None:
        position = part.end()
        if part["end"]:
            break
        if part["space"]:
            parted = True
        elif part["open"]:
            end = comment_end(text, position) if part["open"] == "(" else None
            if end is None:
                return [*words, text[position:]], False
            parted, position = True, end
        else:
            quoted, run = part["quoted"], part["run"]
            word = _without_escapes(quoted[1:-1]) if quoted else _decoded(run)
            before, *results = _RESULT.split(word, maxsplit=1)
            words.append(before)
            if results:
                return words, False
            well_formed = well_formed and parted and _is_plain(word)
            parted = False
    return words, well_formed and len(words) >= 1 and words[1:] == [
        word for word in words[1:2] if _VERSION.fullmatch(word)
    ]


def _is_plain(word: str) -> bool:
    return _TOKEN.fullmatch(word) is not None


def _without_escapes(text: str) -> str:
    return _ESCAPES.sub("", text)


def _decoded(word: str) -> str:
    """A word with its encoded words decoded, backslashes left out."""
    return _without_escapes(ENCODED_WORD.sub(_decoded_word, word) if "=?" in word else word)


def _decoded_word(match: re.Match[str]) -> str:
    decoded = decoded_word(match)
    return match[0].replace("=", " ") if decoded is None else decoded
