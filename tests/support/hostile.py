"""Values that a client may choose, and that mean something where they are put: one list for every place.

``VALUES`` has them by name. A client can't say each of them everywhere: ``local_parts``, ``helo_names`` and ``domains``
give those that the grammar of SMTP takes there, as the gateway reads them. ``is_harmless`` says what anything that is
shown must be.
"""

import re
import unicodedata
from typing import Final

from gateway.smtp.grammar import GrammarError, parse_hello, parse_mailbox, parse_rcpt

VALUES: Final = {
    # markers of XCLIENT and XFORWARD, and words for what is not there
    "unavailable": "[UNAVAILABLE]",
    "unavailable in lower case": "[unavailable]",
    "temporarily unavailable": "[TEMPUNAVAIL]",
    "temporarily unavailable in mixed case": "[TempUnavail]",
    "undefined": "[UNDEFINED]",
    "unknown": "unknown",
    "nothing": "",
    "null reverse-path": "<>",
    # paths and URLs
    "here": ".",
    "up": "..",
    "up to another": "../alice",
    "up from within": "x/../alice",
    "two up": "x/y/../../alice",
    "up, encoded": "%2e%2e",
    "up to another, encoded": "..%2falice",
    "up, with backslashes": "..\\alice",
    "from the root": "/users/alice",
    "a slash": "/",
    "a slash at the end": "alice/",
    "a query": "alice?x=1",
    "a fragment": "alice#x",
    "a parameter of a path": "alice;x",
    # what parts or escapes
    "xtext": "+5BUNAVAILABLE+5D",
    "equals signs": "=" * 100,
    "plus signs": "+" * 250,
    "at": "alice@example.com",
    "comma and name": "alice,sender=bob",
    "braces": "alice}:{bob",
    "a place of a URL": "{domain}",
    "a place of LDAP": "%u%s%%",
    "a filter": "*)(uid=*",
    "a star": "*",
    "a DN": "alice,ou=people",
    "a plus in a DN": "alice+cn=x",
    "a hash first": "#616c696365",
    "a backslash and a space": "alice\\ ",
    "a space at the end": "zoe ",
    "spaces alone": "  ",
    "SQL": "' OR '1'='1",
    "a wildcard of SQL": "al%",
    "quotes": '"',
    "a backslash": "\\",
    "no": "no",
    "nought": "0",
    "JSON": '"}{"reply": true',
    "markup": "[red]x[/red]",
    "a link of rich": "[link=http://x.example]x[/]",
    "an encoded word": "=?utf-8?q?=0d=0aX:_y?=",
    "a result": "spf=pass;",
    "a comment": "x) dkim=pass (y",
    "a Prometheus label": 'x",le="0',
    # the DNS
    "a label of 64": "l" * 64 + ".example",
    "a long name": ".".join(["l" * 60] * 5),
    "an empty label": "a..example",
    "a dot first": ".example",
    "an escaped dot": "a\\.example",
    "an octet in decimals": "a\\000.example",
    "an underscore": "_dmarc.example",
    "an address": "192.0.2.1",
    # terminals and lines
    "CR LF": "a\r\nRCPT TO:<b>",
    "LF": "a\nb",
    "CR": "a\rb",
    "a tab": "a\tb",
    "NUL": "a\0b",
    "DEL": "a\x7fb",
    "BEL": "a\x07b",
    "a backspace": "a\x08b",
    "ESC": "\x1b[31mred\x1b]0;title\x07",
    "CSI of C1": "\x9b31mred",
    "NEL": "a\x85b",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "right-to-left override": "a\u202egro.live\u202c",
    "an isolate": "a\u2067b\u2069",
    "zero width": "al\u200bice",
    "a joiner that nobody sees": "al\u034fice",
    "a filler": "al\u3164ice",
    "a variation selector": "alice\ufe0f",
    "a tag": "alice\U000e0041",
    "a soft hyphen": "al\xadice",
    "a space that does not break": "al\xa0ice",
    "wide": "万能视频",
    "combining": "a\u0301\u0302\u0303",
    "letters": "jörg",
    "an octet that is no UTF-8": "a\udcffb",
    "half a character": "a\ud83db",
    "an astral character": "a\U0001f600b",
    # length
    "300 letters": "a" * 300,
    "255 letters": "a" * 255,
    "90 letters of two octets": "é" * 90,
}


def said() -> dict[str, str]:
    """Those that can come as octets: all but half a character, which only JSON can write."""
    return {name: value for name, value in VALUES.items() if not re.search("[\ud800-\udbff]", value)}


def local_parts() -> dict[str, str]:
    """Those that a client can say as a local part, as the gateway reads them."""
    return {name: value for name, value in VALUES.items() if is_local_part(value)}


def is_local_part(value: str) -> bool:
    """Whether RCPT takes it, in quotes; what it reads is then this very value."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    try:
        mailbox, _ = parse_rcpt(f'TO:<"{quoted}"@example.com>')
    except GrammarError:
        return False
    assert mailbox.local_part == value
    return True


def helo_names() -> dict[str, str]:
    """Those that a client can say in HELO."""
    found = {}
    for name, value in VALUES.items():
        try:
            found[name] = parse_hello(value)
        except GrammarError:
            continue
    return found


def domains() -> dict[str, str]:
    """Those that a client can say as a domain, in A-labels."""
    found = {}
    for name, value in VALUES.items():
        try:
            found[name] = parse_mailbox(f"x@{value}").domain
        except GrammarError:
            continue
    return found


def is_harmless(shown: str) -> bool:
    """Whether a terminal shows it as it is: no control, format, private or separating character but LF and space."""
    return all(
        character in "\n " or (unicodedata.category(character)[0] not in "CZ" and not _is_unseen(character))
        for character in shown
    )


def _is_unseen(character: str) -> bool:
    name = unicodedata.name(character, "")
    return "VARIATION SELECTOR" in name or "FILLER" in name or name == "COMBINING GRAPHEME JOINER"
