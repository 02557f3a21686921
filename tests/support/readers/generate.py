r"""Generated From fields and headers: what real mail has, what attacks have, and what lies between.

``from_values`` gives the values of From fields: shapes that were seen or could be, with the domains of a bank and of
an attacker in their places; the same with a few octets changed; and rows of what the grammar is made of. ``headers``
gives whole messages whose header has oddities: mbox lines, white space where none should be, control characters, bare
CR and LF, lines without a colon, a header that does not end, forged fields. The same dice give the same.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

BANK: Final = ("bank.example", "mail.bank.example", "BANK.example")
OTHERS: Final = ("attack.example", "a.attack.example", "bank.example.attack.example", "sender.example", "sender.test")
INTERNATIONAL: Final = (
    "bücher.example",
    "xn--bcher-kva.example",
    "BÜCHER.example",
    "bank.example.é.test",
    "bank\uff0eexample",
)
NO_DOMAINS: Final = (
    "localhost",
    "[192.0.2.1]",
    "[IPv6:2001:db8::1]",
    "bank.example.",
    "bank..example",
    "-bank.example",
    "[bank.example]",
)

NAMES: Final = (
    "Jane", "Jane Doe", "J. Doe", "Doe", "O'Hara", "Team @ Acme", "Team @Acme", "AT&T", "Jane (at) Bank", "Ann-Lou",
    "Jörg Müller", "田中", "jane@", "@jane", "Acme, Inc.", "Acme; Inc.", 'Jane "JD" Doe', "<Jane>", "Jane: Bank",
    "[Bank]", "Bank (Alerts)", "6' 2", "jane at bank", "", "Re: bank", "Jane\\", "=?", "=?utf-8?q?", "?=",
    "jane\uff20bank.example",
)  # fmt: skip

CHARSETS: Final = (
    ("iso-8859-1", "latin-1"), ("windows-1252", "cp1252"), ("iso-2022-jp", "iso-2022-jp"), ("shift_jis", "shift_jis"),
    ("gb18030", "gb18030"), ("big5", "big5"), ("utf-16be", "utf-16be"), ("utf-16", "utf-16be"), ("ucs-2be", "utf-16be"),
    ("utf-16-le", "utf-16le"), ("utf-32", "utf-32be"), ("utf-7", "utf-7"), ("unicode-1-1-utf-7", "utf-7"),
    ("cp37", "cp037"), ("cp1047", "cp037"), ("x-unknown", "utf-8"), ("utf-8*en", "utf-8"),
)  # fmt: skip
"""Names of charsets in encoded words, and what Python calls what is written in them."""

_ESCAPES: Final = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\", "e": ""}


def _table(name: str) -> tuple[str, ...]:
    """The lines of a file of this folder, but for comments, with what its first lines say about backslashes."""

    def written(match: re.Match[str]) -> str:
        return _ESCAPES[match[1]] if match[1] in _ESCAPES else chr(int(match[1][1:], 16))

    lines = (Path(__file__).parent / name).read_text("utf-8").splitlines()
    return tuple(re.sub(r"\\(x..|u....|.)", written, line) for line in lines if not line.startswith("# "))


SHAPES: Final = _table("from_shapes.txt")
"""What From fields look like; the file says what stands for what."""


_PIECES: Final = (
    *'<>,;:@()"\\.[]%!\'/=&_ \t\r\n\0\x0b\x7f', "é", "\u200b", "\u00a0", "  ", "\r\n ", "\r\n\t", "\r\n \r\n ",
    "=?utf-8?q?", "?=", "=40", "=2C", "mailto:", "via", *(f"=?utf-8?q?{mark}?=" for mark in '"(),:;<>@[]\\'), "\ufeff",
)  # fmt: skip
_PARTS: Final = ("{a}", "{b}", "{n}", "{l}", "{A}", "{eb}", "{en}", '"{b}"', "({b})", "<{a}>", "<{b}>")


def from_values(dice: Random) -> Iterator[bytes]:
    """Values of From fields without end, as they stand between the colon and the final CRLF."""
    while True:
        kind = dice.random()
        if kind < 0.45:
            value = _shape(dice)
        elif kind < 0.55:
            value = dice.choice((", ", ",", "; ", ";", " ", "\r\n ")).join(_shape(dice) for _ in range(2))
        elif kind < 0.85:
            value = _changed(dice, _shape(dice))
        else:
            value = _row(dice)
        yield _octets(dice, value)


def ordinary_from(dice: Random) -> bytes:
    """The value of a From field of honest mail."""
    return _octets(dice, _filled(dice, dice.choice(SHAPES[:8]), OTHERS))


def _octets(dice: Random, text: str) -> bytes:
    """UTF-8, or now and then Latin-1 where that can be."""
    if not text.isascii() and dice.random() < 0.3:
        return text.encode("latin-1", "replace")
    return text.encode("utf-8", "replace")


def _domain(dice: Random) -> str:
    kind = dice.random()
    if kind < 0.45:
        return dice.choice(BANK)
    return dice.choice(OTHERS if kind < 0.9 else INTERNATIONAL if kind < 0.97 else NO_DOMAINS)


def _encoded(dice: Random, text: str) -> str:
    """An encoded word (RFC 2047), now and then with what may not stand in one."""
    if dice.random() < 0.15:
        charset, codec = dice.choice(CHARSETS)
        return f"=?{charset}?b?{base64.b64encode(text.encode(codec, 'replace')).decode()}?="
    if dice.random() < 0.5:
        return f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="
    plain = r"[^a-z0-9<>,.;:@\"()\\]" if dice.random() < 0.2 else r"[^a-z0-9.]"
    quoted = re.sub(
        plain, lambda match: "".join(f"={octet:02X}" for octet in match[0].encode()), text, flags=re.IGNORECASE
    )
    return f"=?UTF-8?Q?{quoted}?="


def _filled(dice: Random, shape: str, domains: Sequence[str] = ()) -> str:
    first, second = (dice.choice(domains) if domains else _domain(dice) for _ in range(2))
    local = [dice.choice(("jane", "x", "info", "a.b", "a+b", "no-reply", "MAILER-DAEMON")) for _ in range(3)]
    address, other = f"{local[0]}@{first}", f"{local[1]}@{second}"
    name = dice.choice(NAMES)
    named = dice.choice(
        (other, f"Jane <{other}>", f"{other}, ", f'"{other}" <{other}>', f"{name} {other}", f"G: {other};")
    )
    values = {"a": address, "b": other, "A": first, "B": second, "n": name, "l": local[2], "x": dice.choice(NO_DOMAINS)}
    encoded = {"en": name, "eb": named, "el": local[2], "eB": second}
    return shape.format_map(values | {key: _encoded(dice, text) for key, text in encoded.items()})


def _shape(dice: Random) -> str:
    return _filled(dice, dice.choice(SHAPES))


def _changed(dice: Random, text: str) -> str:
    """The same with one to three small changes."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        start = dice.randrange(len(text) + 1)
        end = min(len(text), start + dice.choice((0, 0, 1, 1, 2, 5)))
        put = dice.choice((dice.choice(_PIECES), "", text[start:end] * 2, _filled(dice, "{b}")))
        text = text[:start] + put + text[end:]
    return _without_ends(text)


def _row(dice: Random) -> str:
    """A row of what the grammar is made of."""
    shapes = (dice.choice(dice.choice((_PIECES, _PARTS))) for _ in range(dice.randrange(1, 9)))
    return _without_ends("".join(_filled(dice, shape) if "{" in shape else shape for shape in shapes))


def _without_ends(text: str) -> str:
    """No CRLF but those that fold: the value stays in its field."""
    lines = text.split("\r\n")
    return "\r\n".join([lines[0], *(line if line[:1] in {" ", "\t"} else f" {line}" for line in lines[1:])])


_TELLING: Final = ("From", "Sender", "Reply-To", "Authentication-Results")
_OTHERS: Final = (
    "Subject", "To", "Received", "X-Odd", "Resent-From", "Return-Path", "Bcc", "Content-Length", "Status", "Lines",
    "X-Mailbox-Line", "Message-ID", "List-Id", "MIME-Version", "X-From", "From-X",
)  # fmt: skip
_INVISIBLE: Final = (
    b" \t", *(octet.encode("latin-1") for octet in "\0\1\x08\x0b\x0c\x1b\x1c\x1e\x1f\x7f\x85\xa0\xff\r\n\t "),
    *(character.encode() for character in "\x85\xa0\xad\u200b\u2028\u3000\ufeff"),
)  # fmt: skip
_ORDINARY: Final = (
    b"To: a@t.example", b"Subject: a letter", b"Date: Mon, 1 Jun 2026 10:00:00 +0000", b"X-A: a\r\n b",
)  # fmt: skip
_HONEST: Final = (
    b"X-Folded: a\r\n \r\n b",
    b"X-Empty:",
    b"X-Odd : x",
    b"X-8bit: \xe9\xff",
    b"X-8bit: \xc3\xa9",
    b"<a@b>: x",
)
_LINES: Final = (
    *(line.encode("latin-1") for line in _table("header_lines.txt")), b"X-Long: " + b"a" * 1500, b"a" * 1100 + b": x",
    b"a" * 2100 + b": x", b"X-Long: " + b"a" * 2042 + b"From: jane@bank.example", b"X-Folds: a" + b"\r\n b" * 300,
)  # fmt: skip
_ENDS: Final = (b"\r\n\r\n", b"\r\n\r\n", b"\r\n", b"", b"\r\n \r\n", b"\r\n\t\r\n\r\n", b"\r\n\r\r\n")
_BODIES: Final = (
    b"Hello.\r\n", b"", b"From: jane@bank.example\r\n\r\nHello.\r\n", b">From x Mon Jun  1\r\n", b" Hello.\r\n", b"Hi",
)  # fmt: skip


def headers(dice: Random, forged: Sequence[bytes] = ()) -> Iterator[bytes]:
    """Messages without end. Every second one has nothing but what is honest, if odd.

    Args:
        dice: What chooses.
        forged: Fields that only the gateway may write, without CRLF, to be among the client's.
    """
    while True:
        hostile = dice.random() < 0.5
        lines = [b"From: " + (next(from_values(dice)) if dice.random() < 0.15 else ordinary_from(dice))]
        lines += dice.sample(_ORDINARY, 3)
        dice.shuffle(lines)
        for _ in range(dice.choice((1, 1, 2, 3)) if hostile else dice.choice((0, 1))):
            line = _odd_line(dice, forged) if hostile else dice.choice((*_HONEST, *forged))
            lines.insert(dice.choice((0, len(lines), dice.randrange(len(lines) + 1))), line)
        yield b"\r\n".join(lines) + _end(dice, hostile=hostile)


def _odd_line(dice: Random, forged: Sequence[bytes]) -> bytes:
    kind = dice.random()
    if kind < 0.35:
        return dice.choice(_LINES)
    if kind < 0.5 and forged:
        line = dice.choice(forged)
    else:
        name = dice.choice(_TELLING if kind < 0.8 else _OTHERS)
        line = f"{name}: jane@bank.example".encode()
    if dice.random() < 0.3:
        line = dice.choice((bytes.upper, bytes.lower, bytes.swapcase))(line)
    name_ends = line.index(b":")
    for _ in range(dice.choice((0, 1, 1, 2))):
        at = dice.choice((0, name_ends, dice.randrange(name_ends), name_ends + 1, len(line)))
        line = line[:at] + dice.choice(_INVISIBLE) + line[at:]
    if dice.random() < 0.25:
        line = b"X-Before: x" + dice.choice((*_INVISIBLE, b"\r\r\n", b"\n\n", b"\r\r", b"\r\n ", b"\r\n \0")) + line
    return line


def _end(dice: Random, *, hostile: bool) -> bytes:
    """What follows the last line of the header: its end, and a body."""
    end = dice.choice(_ENDS if hostile else _ENDS[:4])
    return end + dice.choice(_BODIES) if end.endswith(b"\r\n\r\n") else end
