"""The author's domains: those that any common reader might take from a message's From field (RFC 9989 3.2.2, 11.5).

``read_author`` gives them in lower case as A-labels, or says why there are none. Mail readers differ in what they show
of a From field that is not written by the rules; DMARC must not protect one domain while people see another. So each
element of the address list gives

- the domain of its address;
- where its address stands in angle brackets, with a display name before them: the domain of an address that stands
  unquoted in that name. What is quoted, a comment or an encoded word there is a name and no more: it may hold ``@``;
- everywhere else, and wherever the element is odd: every domain after an ``@``, in quoted strings, comments and decoded
  words, too, however a reader might put the pieces together (``shown``).

What has no dot, or is no domain name, is no domain. Where it can't be told what a reader would put together (control
characters, a domain that is no UTF-8, an encoded word outside of a name that readers decode differently) the field is
malformed. ``docs/message-form.md`` tells which readers were looked at. Never raises.
"""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

import msgspec

from gateway.header import HeaderField
from gateway.mailauth.cfws import comment_end
from gateway.mailauth.encoded_words import ENCODED_WORD, LOOSE_WORD, decode
from gateway.mailauth.shown import WIDE_AT, UnreadableError, a_label_domain, is_domain, shown_domains

__all__ = ["MAX_ADDRESSES", "MAX_FIELD", "Author", "AuthorFault", "a_label_domain", "read_author", "read_from"]

MAX_FIELD: Final = 10_000
"""Octets of a From field that are read; ten times what RFC 5322 2.1.1 allows one line. More counts as malformed."""

MAX_ADDRESSES: Final = 50
"""``@`` signs that are read; more count as malformed, so that a field can't cost more than its length."""

MAX_LINE: Final = 998
"""Octets of a line (RFC 5322 2.1.1). Mail servers fold longer ones, wherever that falls."""


class AuthorFault(StrEnum):
    """Why a message has no author's domain."""

    MISSING = "missing"
    REPEATED = "repeated"
    MALFORMED = "malformed"
    NO_ADDRESS = "no_address"
    NO_DOMAIN = "no_domain"


class Author(msgspec.Struct, frozen=True):
    """What the From field says.

    Attributes:
        domains: The author's domains in lower case, A-labels, each once; empty with a fault.
        fault: Why there are none: no From field, several, one that can't be read, no ``@`` in it, or no domain.
        reason: The same in words.
    """

    domains: tuple[str, ...]
    fault: AuthorFault | None = None
    reason: str = ""


# By far the most fields: nothing, a quoted string or plain words, and an address in angle brackets or alone.
_COMMON: Final = re.compile(
    rb"(?:\"[^\"\\\x00-\x1f\x7f]*\"[ \t]*|[A-Za-z0-9 !#$%&'*+\-/=?^_`{|}~.]*)"
    rb"<([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]+@[A-Za-z0-9_.-]+)>"
    rb"|([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]+@[A-Za-z0-9_.-]+)"
)
_FOLD: Final = "\x1f"  # in the place of CRLF while a field is read: white space to Python, and no longer in the field
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

# What is quoted, a comment's mark, what parts the elements of a list, a backslash outside of quotes, other text.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[(,;:<>\\"]|[^(,;:<>\\"]+')
_STRUCTURE: Final = re.compile(r'[][",:;<>()\\]')

# An address that all readers read alike.
_ADDRESS: Final = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]|[^\x00-\x7f\uff20\ufe6b])+@(?:[A-Za-z0-9_.-]|[^\x00-\x7f\uff20\ufe6b])+"
)
# White space of other scripts, and what has no width or turns the direction: the same on every Python.
_UNSEEN: Final = re.compile(
    r"[\x80-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)
_PHRASE: Final = re.compile(r"(?:[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~. \t\x1f]|[^\x00-\x7f])*")
_ENDS_LATE: Final = re.compile(r"\).*[<,:;].*@|\).*@.*[>,:;]", re.DOTALL)


def read_author(fields: Iterable[HeaderField]) -> Author:
    """The author's domains of a message, by its header fields."""
    found = [field for field in fields if field.name == "from"]
    if len(found) > 1:
        return Author((), AuthorFault.REPEATED, f"{len(found)} From fields")
    if not found:
        return Author((), AuthorFault.MISSING, "no From field")
    return read_from(found[0].raw)


def read_from(raw: bytes) -> Author:
    """The author's domains of one From field, given with its name and final CRLF."""
    if len(raw) > MAX_FIELD:
        return Author((), AuthorFault.MALFORMED, f"a From field of {len(raw)} octets")
    value = raw[raw.find(b":") + 1 :]
    common = _COMMON.fullmatch(value.strip(b" \t\r\n")) if len(raw) <= MAX_LINE else None
    if common is not None:
        local_part, _, domain = (common[1] or common[2]).decode("ascii").partition("@")
        domain = domain.lower()
        if "." in domain and is_domain(domain) and "=?" not in local_part and "xn--" not in domain:
            return Author((domain,))
    if _CONTROL.search(value.replace(b"\r\n", b"")) is not None:
        return Author((), AuthorFault.MALFORMED, "a control character in the From field")
    text = value[:-2].replace(b"\r\n", _FOLD.encode()).decode("utf-8", "surrogateescape")
    if text.count("@") > MAX_ADDRESSES:
        return Author((), AuthorFault.MALFORMED, f"more than {MAX_ADDRESSES} addresses in the From field")
    is_long = any(len(line) > MAX_LINE for line in raw.split(b"\r\n"))
    try:
        domains = tuple(dict.fromkeys(domain for each in _elements(text, odd=is_long) for domain in _domains(each)))
    except UnreadableError as error:
        return Author((), AuthorFault.MALFORMED, str(error))
    if domains:
        return Author(domains)
    if "@" in text or "@" in decode(text) or WIDE_AT.search(text) is not None:
        return Author((), AuthorFault.NO_DOMAIN, "the From field has no address with a domain")
    return Author((), AuthorFault.NO_ADDRESS, "the From field has no address")


class _Element(msgspec.Struct):
    """An element of an address list, in pieces.

    Attributes:
        text: All of it.
        before: What stands before its angle brackets, as pieces: quoted strings, comments and other text.
        address: What the angle brackets hold.
        brackets: How many angle brackets it has; 2 if it has the one pair.
        odd: Whether something stands in it that readers take differently, so that no piece of it is only a name.
    """

    odd: bool
    text: str = ""
    before: list[str] = []
    address: str = ""
    brackets: int = 0

    def add(self, token: str) -> None:
        """Add the next token."""
        self.text += token
        is_comment = token[0] == "("
        if (is_comment or token[0] == '"') and _FOLD in token:  # some readers end it there
            self.odd = True
        if is_comment and token.rfind("(") > 0 and _ENDS_LATE.search(token):  # to some readers comments don't nest
            self.odd = True
        if token in {"<", ">"}:
            self.odd = self.odd or self.brackets > 1 or token != "<>"[self.brackets]
            self.brackets += 1
        elif self.brackets == 0:
            if token[0] == "\\" or (any(mark in token for mark in "[])") and any("@" in each for each in self.before)):
                self.odd = self.odd or token[0] not in '"('
            self.before.append(token)
        elif self.brackets == 1:
            self.address += token
        else:  # after the brackets a comment may stand
            self.odd = self.odd or not (is_comment or token.isspace())


def _elements(text: str, *, odd: bool) -> Iterator[_Element]:
    """The elements of an address list (RFC 5322 3.4), names of groups among them; what can't be parted is one.

    Args:
        text: The list.
        odd: Whether nothing in it is only a name.
    """
    if any(_STRUCTURE.search(word[3]) for word in LOOSE_WORD.finditer(text)):  # some readers see the encoded word first
        yield _Element(odd=True, text=text)
    elements = [_Element(odd=odd)]
    inside = [""]  # what stands in brackets, by segments between commas and semicolons
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        end = None if match is None else comment_end(text, match.end()) if match[0] == "(" else match.end()
        if end is None or text[position:end] == '"':
            yield _Element(odd=True, text=text)  # a quoted string or a comment that does not end
            return
        token, position = text[position:end], end
        if token in {",", ";", ":"} and elements[-1].brackets % 2 == 0:
            odd = odd or token == ":"  # noqa: S105 - readers differ in what a group is
            elements[-1].odd = elements[-1].odd or odd
            elements.append(_Element(odd=odd))
            if token != ":":  # noqa: S105 - the same
                inside.append("")
        else:
            elements[-1].add(token)
            if token == ">" or (elements[-1].brackets % 2 and token[0] != "("):  # noqa: S105 - the same
                inside[-1] += token
    yield from elements
    for segment in inside:  # some readers put together what stands in several pairs of brackets
        if segment.count("<") > 1:
            yield _Element(odd=True, text=segment)


def _domains(element: _Element) -> Iterator[str]:
    """The domains that some reader might show of an element."""
    if element.odd or element.brackets not in {0, 2}:
        yield from shown_domains(element.text)
        return
    if not element.brackets:
        comments = "".join(piece for piece in element.before if piece[0] == "(")
        outside = "".join(piece for piece in element.before if piece[0] != "(")
        if _is_plain(outside) and outside.strip() in element.text:
            yield from shown_domains(outside)
            yield from shown_domains(comments, is_name=True)
        else:
            yield from shown_domains(element.text)
        return
    if not _is_plain(element.address):
        yield from shown_domains(element.text)
        return
    yield from shown_domains(element.address)
    bare = "".join(piece for piece in element.before if piece[0] not in '"(')
    words = ENCODED_WORD.sub(_emptied, bare)
    is_encoded = words != bare and "@" in WIDE_AT.sub("@", decode(bare))
    is_mixed = any(piece[0] == '"' for piece in element.before) or _PHRASE.fullmatch(words) is None
    if "@" in words or (is_encoded and is_mixed):
        yield from shown_domains("".join(element.before), is_name=True)


def _is_plain(address: str) -> bool:
    """Whether a text is an address, and the same one for every reader."""
    address = address.strip()
    return _ADDRESS.fullmatch(address) is not None and _UNSEEN.search(address) is None and "=?" not in address


def _emptied(word: re.Match[str]) -> str:
    """Nothing for an encoded word; it stays if readers who do not decode it could find an address in it."""
    return word[0] if word[0].count("@") > 1 else ""
