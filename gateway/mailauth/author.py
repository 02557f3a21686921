"""The author's domains: those that any common reader might take from a message's From field (RFC 9989 3.2.2, 11.5).

``read_author`` gives them in lower case as A-labels, or says why there are none. Mail readers differ in what they show
of a From field that is not written by the rules; DMARC must not protect one domain while people see another. So each
element of the address list gives

- the domain of its address;
- where its address stands in angle brackets, with a display name before them: the domain of an address that stands
  unquoted in that name. What is quoted, a comment or an encoded word there is a name and no more: it may hold ``@``;
- everywhere else, and wherever the element is odd: every domain after an ``@``, in quoted strings, comments and decoded
  words, too, however a reader might put the pieces together.

What has no dot, or is no domain name, is no domain. Where it can't be told what a reader would put together (control
characters, a domain that is no UTF-8, an encoded word with an address beside other words) the field is malformed.

``docs/message-form.md`` tells which readers were looked at. Time is linear in the field; never raises.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Final

import idna
import msgspec

from gateway.header import HeaderField
from gateway.mailauth.cfws import comment_end
from gateway.mailauth.encoded_words import ENCODED_WORD, decode, is_sound

MAX_FIELD: Final = 10_000
"""Octets of a From field that are read; ten times what RFC 5322 2.1.1 allows one line. More counts as malformed."""

MAX_ADDRESSES: Final = 50
"""``@`` signs that are read; more count as malformed, so that a field can't cost more than its length."""

MAX_PIECES: Final = 20
"""Pieces of a domain that are put together one by one; beyond that all of them at once."""

MAX_LABEL: Final = 63
"""Octets of a label (RFC 1035 2.3.4)."""

MAX_DOMAIN: Final = 253
"""Octets of a domain name as text (RFC 1035 2.3.4: 255 on the wire)."""


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


class _MalformedError(Exception):
    """The field can't be read safely; the text says why."""


# By far the most fields: nothing, a quoted string or plain words, and an address in angle brackets or alone.
_COMMON: Final = re.compile(
    rb"(?:\"[^\"\\\x00-\x1f\x7f]*\"[ \t]*|[A-Za-z0-9 !#$%&'*+\-/=?^_`{|}~.]*)"
    rb"<([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]+@[A-Za-z0-9_.-]+)>"
    rb"|([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]+@[A-Za-z0-9_.-]+)"
)
_FOLD: Final = "\x1f"  # in the place of CRLF while a field is read: white space to Python, and no longer in the field
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LABELS: Final = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)")

# What is quoted, a comment's mark, what parts the elements of a list, a backslash outside of quotes, other text.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[(,;:<>\\"]|[^(,;:<>\\"]+')
_SEPARATORS: Final = frozenset(",;:")  # a group's name is an element of its own

# An address as it may stand in angle brackets: nothing in it that any reader takes for something else.
_ADDRESS: Final = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]|[^\x00-\x7f\uff20\ufe6b])+@(?:[A-Za-z0-9_.-]|[^\x00-\x7f\uff20\ufe6b])+"
)
_WIDE_AT: Final = re.compile("[\uff20\ufe6b]")  # full-width and small @
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LIST_SEPARATORS: Final = re.compile("[,;]")
_INSIDE: Final = re.compile("<([^<>]*)")
_QUOTES: Final = re.compile(r'["\\]')
_BRACKETS: Final = re.compile("[<>()]")
_FLAT_COMMENT: Final = re.compile(r"\([^)]*\)")  # as readers see it to whom comments don't nest
_AFTER_AT: Final = re.compile(r"@[\s<>]*((?:[A-Za-z0-9._-]|[^\x00-\x7f])(?:[A-Za-z0-9._\s-]|[^\x00-\x7f])*)")
_TAIL: Final = re.compile(r"[^A-Za-z0-9]+\Z")  # what a reader leaves out who looks for the end of a word
_PHRASE: Final = re.compile(r"(?:[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~. \t\x1f]|[^\x00-\x7f])*")


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
    common = _COMMON.fullmatch(value.strip(b" \t\r\n"))
    if common is not None:
        local_part, _, domain = (common[1] or common[2]).decode("ascii").partition("@")
        domain = domain.lower()
        if "." in domain and _is_domain(domain) and "=?" not in local_part and "xn--" not in domain:
            return Author((domain,))
    unfolded = value.replace(b"\r\n", b"")
    if _CONTROL.search(unfolded) is not None:
        return Author((), AuthorFault.MALFORMED, "a control character in the From field")
    text = value[:-2].replace(b"\r\n", _FOLD.encode()).decode("utf-8", "surrogateescape")
    try:
        domains = tuple(dict.fromkeys(domain for element in _elements(text) for domain in _domains(element)))
    except _MalformedError as error:
        return Author((), AuthorFault.MALFORMED, str(error))
    if domains:
        return Author(domains)
    if "@" in text or "@" in decode(text) or _WIDE_AT.search(text) is not None:
        return Author((), AuthorFault.NO_DOMAIN, "the From field has no address with a domain")
    return Author((), AuthorFault.NO_ADDRESS, "the From field has no address")


def a_label_domain(domain: str) -> str | None:
    """A domain as it is compared: lower case, A-labels (RFC 5890 2.3), no final dot; None if it is no domain name."""
    domain = domain.removesuffix(".")
    if len(domain) > MAX_DOMAIN:
        return None
    if not domain.isascii():
        try:
            # UTS 46 first, as for the envelope: people write U-labels in capitals, too
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except UnicodeError:  # IDNAError is one
            return None
    domain = domain.lower()
    return domain if _is_domain(domain) else None


def _is_domain(domain: str) -> bool:
    return len(domain) <= MAX_DOMAIN and _LABELS.fullmatch(domain) is not None


class _Element(msgspec.Struct):
    """An element of an address list, in pieces.

    Attributes:
        text: All of it.
        before: What stands before its angle brackets, as pieces: quoted strings, comments and other text.
        address: What the angle brackets hold.
        brackets: How many angle brackets it has; 2 if it has the one pair.
        odd: Whether something stands in it that readers take differently, so that no piece of it is only a name.
    """

    text: str = ""
    before: list[str] = []
    address: str = ""
    brackets: int = 0
    odd: bool = False

    def add(self, token: str) -> None:
        """Add the next token."""
        self.text += token
        is_comment = token[0] == "("
        if (is_comment or token[0] == '"') and _FOLD in token:  # some readers end it there
            self.odd = True
        if is_comment and token.rfind("(") > 0 and "@" in token:  # to some readers comments don't nest
            self.odd = True
        if token in {"<", ">"}:
            self.odd = self.odd or self.brackets > 1 or token != "<>"[self.brackets]
            self.brackets += 1
        elif self.brackets == 0:
            self.before.append(token)
            self.odd = self.odd or token.startswith("\\")
        elif self.brackets == 1:
            self.address += token
        else:  # after the brackets a comment may stand
            self.odd = self.odd or not (is_comment or token.isspace())


def _elements(text: str) -> Iterator[_Element]:
    """The elements of an address list (RFC 5322 3.4), names of groups among them; what can't be parted is one."""
    if text.count("@") > MAX_ADDRESSES:
        raise _MalformedError(f"more than {MAX_ADDRESSES} addresses in the From field")
    elements = [_Element()]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        end = None if match is None else comment_end(text, match.end()) if match[0] == "(" else match.end()
        if end is None or text[position:end] == '"':
            yield _Element(text=text, odd=True)  # a quoted string or a comment that does not end
            return
        token, position = text[position:end], end
        if token in _SEPARATORS and elements[-1].brackets % 2 == 0:
            elements.append(_Element())
        else:
            elements[-1].add(token)
    yield from elements
    # Some readers put together what stands in several pairs of brackets.
    for segment in _LIST_SEPARATORS.split(_QUOTED.sub("", text)) if text.count("<") > 1 else ():
        inside = _INSIDE.findall(segment)
        if len(inside) > 1:
            yield _Element(text=" ".join(inside), odd=True)


def _domains(element: _Element) -> Iterator[str]:
    """The domains that some reader might show of an element."""
    if element.odd or element.brackets != 2 or not _is_plain(element.address):  # noqa: PLR2004 - one pair
        yield from _all_domains(element.text)
        return
    yield from _found(element.address)
    before = "".join(element.before)
    bare = "".join(piece for piece in element.before if piece[0] not in '"(')
    words = ENCODED_WORD.sub(_emptied, bare)
    encoded = words != bare and "@" in _decoded(bare)
    if "@" in words or (encoded and (bare != before or _PHRASE.fullmatch(words) is None)):
        yield from _all_domains(before, certain=False)


def _is_plain(address: str) -> bool:
    """Whether what stands in angle brackets is an address, and the same one for every reader."""
    address = address.strip()
    return _ADDRESS.fullmatch(address) is not None and address.isprintable() and "=?" not in address


def _emptied(word: re.Match[str]) -> str:
    """Nothing for an encoded word; it stays if readers who do not decode it could find an address in it."""
    return word[0] if word[0].count("@") > 1 else ""


def _all_domains(text: str, *, certain: bool = True) -> Iterator[str]:
    """Every domain that stands after an ``@``, in whatever a reader might make of a text.

    Args:
        text: The text.
        certain: Whether what follows an ``@`` is meant to be a domain, so that one which can't be read is a fault.
    """
    text = _WIDE_AT.sub("@", text)
    if "=?" in text:
        outside = _without_comments(text).strip(' \t\x1f"')
        alone = ENCODED_WORD.fullmatch(outside) is not None
        for word in ENCODED_WORD.finditer(text):
            # Some readers put its text and its neighbours' together, with dots or without.
            joins = not alone and ("@" in outside[: max(outside.find(word[0]), 0)] or "@" in _decoded(word[0]))
            if joins or not is_sound(word) or not _decoded(word[0]).partition("@")[2].isascii():
                raise _MalformedError("an encoded word beside an address in the From field")
        if "=?" in ENCODED_WORD.sub("", text):
            raise _MalformedError("an encoded word in the From field that is none for some readers")
        yield from _found(_decoded(text), certain=certain)
    yield from _found(text, certain=certain)


def _decoded(text: str) -> str:
    return _WIDE_AT.sub("@", decode(text))


def _found(text: str, *, certain: bool = True) -> Iterator[str]:
    """The domains in a text, which may be written in pieces (``certain`` as in ``_all_domains``)."""
    if "@" not in text:
        return
    found_runs = (
        run
        for view, in_pieces in _views(text).items()
        for match in _AFTER_AT.finditer(view)
        for run in _runs(match[1], in_pieces=in_pieces)
    )
    for run in dict.fromkeys(found_runs):
        names = {run.strip("."): None, run.strip(".-_"): None, run.partition("..")[0]: None, _TAIL.sub("", run): None}
        if "xn--" in run.lower():
            names[_with_u_labels(run)] = None
        found = [domain for name in names if (domain := a_label_domain(name)) is not None]
        yield from (domain for domain in found if "." in domain)
        if certain and not found and not run.isascii():
            raise _MalformedError("a domain in the From field that is none")


def _views(text: str) -> dict[str, bool]:
    """A text as readers see it who leave out comments, quotes or brackets, and whether they join what spaces part."""
    plain = _without_comments(text)
    views = {text: True, plain: True}
    if any(mark in text for mark in '()"\\<>'):
        bare = _QUOTES.sub("", plain)
        views[bare] = True
        several = text.count("<") > 1 or text.count(">") > 1
        views.setdefault(_BRACKETS.sub(" " if several else "", bare), several)
        views.setdefault(_FLAT_COMMENT.sub("", text), False)
    return views


def _runs(pieces: str, *, in_pieces: bool) -> Iterator[str]:
    """What readers might take for a domain: the first of some pieces, the first two together, and so on, and all.

    Args:
        pieces: The pieces, with white space between them.
        in_pieces: Whether more than the first may belong to the domain.
    """
    if any("\udc80" <= character <= "\udcff" for character in pieces):  # octets that are no UTF-8: perhaps Latin-1
        pieces = pieces.encode("utf-8", "surrogateescape").decode("latin-1")
    parts = pieces.split() if in_pieces else pieces.split(maxsplit=1)[:1]
    joined = ""
    for part in parts[:MAX_PIECES]:
        joined += part
        yield joined
    yield "".join(parts)


def _with_u_labels(name: str) -> str:
    """A name as readers show it who decode each A-label, also those that are none (RFC 3492)."""
    labels = name.split(".")
    for number, label in enumerate(labels):
        if label.isascii() and label.lower().startswith("xn--") and len(label) <= MAX_LABEL:
            with suppress(UnicodeError):
                labels[number] = label[4:].encode("ascii").decode("punycode")
    return ".".join(labels)


def _without_comments(text: str) -> str:
    """A text without its comments; one that does not end is left in."""
    kept = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        end = None if match is None else comment_end(text, match.end()) if match[0] == "(" else match.end()
        if end is None:
            kept.append(text[position:])
            break
        if text[position] != "(":
            kept.append(text[position:end])
        position = end
    return "".join(kept)
