"""Which domains a mail reader could show of a text that is no plain address, in whatever way it reads it.

Readers differ in what they leave out (comments, quotes, brackets), in whether comments nest, whether white space parts
what it stands in, and whether they decode encoded words first. ``shown_domains`` looks at the text in each of these
views, and gives every domain after an ``@``. It gives rather too many: who uses them asks each to be authentic.

Time is linear in the text, but for what is put together of pieces, which is bounded.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import idna

from gateway.mailauth.cfws import comment_end
from gateway.mailauth.encoded_words import ENCODED_WORD, LOOSE_WORD, readings

MAX_PIECES: Final = 20
"""Pieces of a domain that are put together one by one; beyond that all of them at once."""

MAX_LABEL: Final = 63
"""Octets of a label (RFC 1035 2.3.4)."""

MAX_DOMAIN: Final = 253
"""Octets of a domain name as text (RFC 1035 2.3.4: 255 on the wire)."""

WIDE_AT: Final = re.compile("[\uff20\ufe6b]")
"""Full-width and small ``@``, which some reader may show or map as one."""

_LABELS: Final = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)")
_QUOTES: Final = re.compile(r'["\\]')
_BRACKETS: Final = re.compile("[<>()]")
_FLAT_COMMENT: Final = re.compile(r"\([^)]*\)")  # as readers see it to whom comments don't nest
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[("]|[^("]+')
_SPACE: Final = re.compile(r"[\s\ufeff]+")  # white space to JavaScript, too
_AFTER_AT: Final = re.compile(
    r"@[\s\ufeff<>]*((?:[A-Za-z0-9._-]|[^\x00-\x7f])(?:[A-Za-z0-9._\s-]|[^\x00-\x7f])*)(\?=)?"
)
_TO_LAST_WORD: Final = re.compile(r".*[A-Za-z0-9]", re.DOTALL)  # what a reader sees who looks for the end of a word


class UnreadableError(Exception):
    """Nobody can say what a reader would show; the text says why."""


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
    return domain if is_domain(domain) else None


def is_domain(domain: str) -> bool:
    """Whether a text in lower case is a domain name of A-labels."""
    return len(domain) <= MAX_DOMAIN and _LABELS.fullmatch(domain) is not None


def shown_domains(text: str, *, is_name: bool = False) -> Iterator[str]:
    """Every domain with a dot that stands after an ``@``, in lower case, A-labels.

    Args:
        text: The text.
        is_name: Whether it is meant to be a name, so that what can't be read in it is no fault.

    Raises:
        UnreadableError: Nobody can say what a reader would show.
    """
    text = WIDE_AT.sub("@", text)
    yield from _domains_in(text, is_name=is_name)
    if "=?" in text:
        for spaced, glued in dict.fromkeys(_decoded(text, is_name=is_name)):
            yield from _domains_in(spaced, is_name=is_name)
            yield from _domains_in(_SPACE.sub(".", spaced), is_name=True)  # some join what they decoded by dots
            yield from _domains_in(_SPACE.sub(".", glued), is_name=True)


def _decoded(text: str, *, is_name: bool) -> Iterator[tuple[str, str]]:
    """A text with its encoded words decoded: by their charsets, and octet by octet.

    Returns:
        Twice the text: with each of the words a word of its own, and with neighbours as one (RFC 2047 6.2).
    """
    words = list((ENCODED_WORD if is_name else LOOSE_WORD).finditer(text))
    texts: list[tuple[str, ...]] = []
    for word in words:
        known = readings(word)
        if not is_name and (known is None or not known[0].partition("@")[2].isascii()):
            raise UnreadableError("an encoded word in the From field that readers decode differently")
        texts.append(known or ("",))
    ends = [0, *(word.end() for word in words)]
    between = [text[end : word.start()] for end, word in zip(ends, words, strict=False)]
    for reading in (0, -1):
        spaced = "".join(f"{gap} {each[reading]} " for gap, each in zip(between, texts, strict=True))
        glued = "".join(
            (gap if number == 0 or not gap.isspace() else "") + each[reading]
            for number, (gap, each) in enumerate(zip(between, texts, strict=True))
        )
        rest = text[ends[-1] :]
        yield WIDE_AT.sub("@", spaced + rest), WIDE_AT.sub("@", glued + rest)


def _domains_in(text: str, *, is_name: bool) -> Iterator[str]:
    """The domains in a text without encoded words."""
    if "@" not in text:
        return
    runs: dict[str, None] = {}
    for view, (in_pieces, in_brackets) in _views(text).items():
        for match in _AFTER_AT.finditer(view):
            if not (is_name and match[2]):  # the end of an encoded word in which no reader sees an address
                is_followed = in_brackets and view[match.end() : match.end() + 1] == "@"
                runs |= dict.fromkeys(_runs(match[1], in_pieces=in_pieces, is_followed=is_followed))
    for run in runs:
        names = {run.strip("."): None, run.strip(".-_"): None, run.partition("..")[0]: None}
        word = _TO_LAST_WORD.match(run)
        if word is not None:
            names[word[0]] = None
        if "xn--" in run.lower():
            names[_with_u_labels(run)] = None
        found = [domain for name in names if (domain := a_label_domain(name)) is not None]
        yield from (domain for domain in found if "." in domain)
        if not is_name and not found and not run.isascii():
            raise UnreadableError("a domain in the From field that is none")


def _views(text: str) -> dict[str, tuple[bool, bool]]:
    """A text as readers see it who leave out comments, quotes or brackets.

    Returns:
        Of each view whether they join what white space parts, and whether brackets may be white space in it.
    """
    plain = _without_comments(text)
    views = {text: (True, False), plain: (True, False)}
    if any(mark in text for mark in '()"\\<>'):
        bare = _QUOTES.sub("", plain)
        views[bare] = (True, False)
        if text.count("<") > 1 or text.count(">") > 1:
            views.setdefault(_BRACKETS.sub(" ", bare), (True, True))
        else:
            views.setdefault(_BRACKETS.sub("", bare), (False, False))
        end = text.rfind(")") + 1
        views.setdefault(_FLAT_COMMENT.sub("", text[:end]) + text[end:], (False, False))
    return views


def _runs(pieces: str, *, in_pieces: bool, is_followed: bool) -> Iterator[str]:
    """What readers might take for a domain: the first of some pieces, the first two together, and so on, and all.

    Args:
        pieces: The pieces, with white space between them.
        in_pieces: Whether more than the first may belong to the domain.
        is_followed: Whether the last is the local part of another address.
    """
    if any("\udc80" <= character <= "\udcff" for character in pieces):  # octets that are no UTF-8: perhaps Latin-1
        pieces = pieces.encode("utf-8", "surrogateescape").decode("latin-1")
    parts = [part for part in _SPACE.split(pieces) if part]
    if is_followed and len(parts) > 1:
        parts.pop()
    joined = ""
    for part in parts[: MAX_PIECES if in_pieces else 1]:
        joined += part
        yield joined
    if in_pieces:
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
    """A text without its comments; what does not end is left in."""
    kept = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        end = None if match is None else comment_end(text, match.end()) if match[0] == "(" else match.end()
        if end is None or text[position:end] == '"':
            kept.append(text[position:])
            break
        if text[position] != "(":
            kept.append(text[position:end])
        position = end
    return "".join(kept)
