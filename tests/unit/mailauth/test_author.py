"""The Author Domain: what people write is read, what readers could see differently is not."""

import time
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.header import header_fields
from gateway.mailauth.author import (
    MAX_ADDRESSES,
    MAX_FIELD,
    Author,
    AuthorFault,
    a_label_domain,
    read_author,
    read_from,
)

READ = {
    "an address in brackets": b"Alice <alice@example.com>",
    "an address alone": b"alice@example.com",
    "nothing but brackets": b"<alice@example.com>",
    "capitals": b"Alice <alice@EXAMPLE.Com>",
    "a quoted display name": b'"Alice, Ltd. <sales>" <alice@example.com>',
    "a quoted pair": b'"Alice \\"Al\\" <x@example.net>" <alice@example.com>',
    "a quoted address of another domain, which is a display name": b'"bob@example.net" <alice@example.com>',
    "an unquoted address of the same domain as display name": b"alice@Example.com <alice@example.com>",
    "an unquoted comma": b"Doe, Alice <alice@example.com>",
    "an unquoted dot and apostrophe": b"Alice O'Neil Jr. <alice@example.com>",
    "unquoted brackets": b"[Announce] Alice <alice@example.com>",
    "an unquoted colon, read as a group that never ends": b"Re: Alice <alice@example.com>",
    "an encoded word as display name": b"=?utf-8?q?Al=C3=AFce?= <alice@example.com>",
    "an encoded word that decodes to an address": b"=?utf-8?q?bob=40example.net?= <alice@example.com>",
    "octets that are no UTF-8 in the display name": b"Al\xefce <alice@example.com>",
    "UTF-8 in the display name": "Alïce <alice@example.com>".encode(),
    "UTF-8 in the local part": "<alïce@example.com>".encode(),
    "a comment behind": b"alice@example.com (Alice (of Sales) \\) Ltd.)",
    "a comment before": b"(Alice) <alice@example.com>",
    "comments around within the brackets": b"Alice < (a) alice@example.com (b) >",
    "a quoted local part": b'"alice doe"@example.com',
    "dots that RFC 5322 forbids, as some providers have them": b"a..lice.@example.com",
    "a group": b"Sales: alice@example.com, Bob <bob@example.com>;",
    "several addresses of one domain": b"alice@example.com, bob@example.com",
    "semicolons between addresses": b"alice@example.com; bob@example.com",
    "empty elements": b", ,alice@example.com,,",
    "a final dot": b"alice@example.com.",
    "folding": b"Alice\r\n <alice@example.com>\r\n ",
    "brackets in brackets": b"<<alice@example.com>>",
    "an open bracket": b"Alice <alice@example.com",
    "a closing bracket alone": b"alice@example.com>",
    "text after the brackets": b"<alice@example.com> Alice",
    "a name without brackets": b"Alice alice@example.com",
    "a quoted name without brackets": b'"Alice" alice@example.com',
    "an encoded name without brackets": b"=?utf-8?q?Al=C3=AFce?= alice@example.com",
    "no local part": b"<@example.com>",
    "a route of one domain": b"<@example.com:alice@example.com>",
    "white space within the address": b"alice @ example.com",
    "a comment before the domain": b"alice@(c)example.com",
    "an open quote": b'"Alice <alice@example.com>',
    "an inch": b'6" pipe <alice@example.com>',
    "an open comment": b"(Alice <alice@example.com>",
    "a closing parenthesis": b"Alice :-) <alice@example.com>",
    "backslashes": b"Alice \\ Bob <alice@example.com>",
    "a quoted local part with specials": b'"al<i>ce,"@example.com',
    "a direction mark in the local part": "<bob\u202e@example.com>".encode(),
    "no UTF-8 in the local part": b"<al\xefce@example.com>",
    "no UTF-8 in a comment": b"alice@example.com (Al\xefce)",
    "a mailto": b"Alice <mailto:alice@example.com>",
    "a colon in a display name of a group": b"Sales: Re: Alice <alice@example.com>;",
    "tabs and spaces": b"\t Alice\t <alice@example.com> \t",
}


@pytest.mark.parametrize("value", READ.values(), ids=READ.keys())
def test_what_people_write_is_read(value: bytes) -> None:
    """The domain is found however the rest of the field looks."""
    assert read_from(b"From: " + value + b"\r\n") == Author(("example.com",))


BANK = ("bank.example", "attack.example")
SEVERAL: dict[bytes, tuple[str, ...]] = {
    # An element of its own, in quotes, a comment or an encoded word.
    b'"a@bank.example", <x@attack.example>': BANK,
    b'"a@bank.example"; <x@attack.example>': BANK,
    b"(a@bank.example), <x@attack.example>": BANK,
    b"(a@bank.example); x@attack.example": BANK,
    b"=?utf-8?q?a=40bank.example?=, <x@attack.example>": BANK,
    b"=?utf-8?b?SmFuZSA8YUBiYW5rLmV4YW1wbGU+?=, <x@attack.example>": BANK,
    b"=?utf-8*en?q?a=40bank.example?=, <x@attack.example>": BANK,
    b'"=?utf-8?q?a=40bank.example?=", <x@attack.example>': BANK,
    "a\uff20bank.example, <x@attack.example>".encode(): BANK,
    # Names of groups, routes.
    b"a@bank.example: x@attack.example;": BANK,
    b'"a@bank.example": x@attack.example;': BANK,
    b"<@bank.example:x@attack.example>": BANK,
    b"<@bank.example,@mid.example:x@attack.example>": ("bank.example", "mid.example", "attack.example"),
    b"Team: a@bank.example, Bob <x@attack.example>;": BANK,
    # Without quotes before angle brackets.
    b"a@bank.example <x@attack.example>": ("attack.example", "bank.example"),
    b"'a@bank.example' <x@attack.example>": ("attack.example", "bank.example"),
    b"a @ bank.example <x@attack.example>": ("attack.example", "bank.example"),
    b'"Jane "a@bank.example" Doe" <x@attack.example>': ("attack.example", "bank.example"),
    b"a@bank.example via X <x@attack.example>": ("attack.example", "bank.example", "bank.exampleviax"),
    b"@bank.example <x@attack.example>": ("attack.example", "bank.example"),
    # Several addresses, and none of them alone in its brackets.
    b"<a@bank.example> <x@attack.example>": BANK,
    b"<a@bank.example> x@attack.example": BANK,
    b'<x@attack.example> "a@bank.example"': ("attack.example", "bank.example"),
    b"<<a@bank.example> x@attack.example>": BANK,
    b"<a@bank.example x@attack.example>": ("bank.example", "attack.example", "bank.examplex"),
    b"a@bank.example@attack.example": BANK,
    b"<a@bank.example@attack.example>": BANK,
    b'"a@bank.example"@attack.example': BANK,
    b'<"a@bank.example"@attack.example>': BANK,
    b"<x@attack.example(a@bank.example)>": ("attack.example", "bank.example"),
    b"x@attack.example (a@bank.example)": ("attack.example", "bank.example"),
    b'"a@bank.example" <>': ("bank.example",),
    b"a@bank.example <>": ("bank.example",),
    # What does not end, and what is escaped outside of quotes.
    b'"a@bank.example <x@attack.example>': BANK,
    b"(a@bank.example <x@attack.example>": BANK,
    b'"a@bank.example\\" <x@attack.example>': BANK,
    b'Jane \\"a@bank.example" <x@attack.example>': BANK,
    b"a@bank.example> <x@attack.example": BANK,
    b'<x@attack.example, "a@bank.example" <y@attack.example>': ("attack.example", "bank.example"),
    b'=?utf-8?q?"?= <a@bank.example>, "<x@attack.example>': BANK,
    b'=?utf-8?q?"?= <a@bank.example> "<x@attack.example>': BANK,
    b"=?utf-8?q?(?= <a@bank.example>, )<x@attack.example>": BANK,
    b"=?utf-8*en?q?(?= <a@bank.example>, )<x@attack.example>": BANK,
    b"=?utf-8?q?a(b c?= <a@bank.example>,) <x@attack.example>": BANK,
    b"jane@(n(x@attack.example)bank.example": BANK,
    b"x@attack.example> via <bank.example@": ("attack.example",),
    b"<x@bank.example>via <Jane>": ("bank.example", "bank.examplejane"),
    b"<x@bank.example..attack.example>, <x@attack.example>": BANK,
    b"=?utf-8?q?a=EF=BC=A0bank.example?=, <x@attack.example>": BANK,
    b"=?utf-8?q?jan@bank.example@x?= <x@attack.example>": ("attack.example", "bank.example"),
    b"=?utf-8?q?a=40bank.example=2C?= via [Bank] <x@attack.example>": BANK,
    b'=?utf-8?q?a=40bank.example=2C?= via Jane "JD" Doe <x@attack.example>': BANK,
    b"x@l o n g e r n a m e . b a n k . e x a m p l e": ("longername.bank.example",),
    '"a@bank.example" <x\u200b@attack.example>'.encode(): BANK,
    b"x@xn--" + "\uff42\uff41\uff4e\uff4b".encode("punycode") + b".example": ("bank.example",),
    # Marks in a name after an address in quotes, the names of groups.
    b'"a@bank.example" [External] <x@attack.example>': BANK,
    b'"a@bank.example"] <x@attack.example>': BANK,
    b'"a@bank.example") <x@attack.example>': BANK,
    b"=?utf-8?q?a=40bank.example?= <x@attack.example>:;": BANK,
    b': "a@bank.example" <x@attack.example>': BANK,
    b"(a (b) <a@bank.example>) <x@attack.example>": BANK,
    b"(Inc. (b) a@bank.example; Inc.) <x@attack.example>": BANK,
    # Long lines, which mail servers fold anywhere.
    b'"' + b"p" * 991 + b'a@bank.example" <x@attack.example>': BANK,
    # A domain in pieces, some of them encoded.
    b"x@bank =?utf-8?q?example?=, <x@attack.example>": BANK,
    b"=?utf-8?q?x=40bank?= =?utf-8?q?example?=, <x@attack.example>": BANK,
    b"=?utf-8?q?a=40bank.example?= x, <x@attack.example>": BANK,
    b"=?utf-8?q?a=40bank.example=00?=@attack.example": BANK,
    b'"=?utf-8?q?a=40bank.example?="@attack.example': BANK,
    b"=?shift_jis?q?a=81=40bank.example?=, <x@attack.example>": BANK,
    b"a@bank.example\xef\xbb\xbfx@attack.example": BANK,
    b"x <a@bank.example\xef\xbb\xbf.attack.example>": ("bank.example", "bank.example.attack.example"),
    b"x@xn--bank-.example, <x@attack.example>": BANK,
    # A domain in pieces.
    b"x@bank.example(c).attack.example": ("bank.example", "bank.example.attack.example"),
    b"x@bank.example .attack.example": ("bank.example", "bank.example.attack.example"),
    b'x@"bank".example': ("bank.example",),
    b"x@bank\\.example": ("bank.example",),
    b"x@bank.example-/y": ("bank.example",),
    b"x@ba nk.exam ple Doe, <x@attack.example>": ("bank.exam", "bank.example", "bank.exampledoe", "attack.example"),
    # Octets that are no UTF-8, which some readers take for Latin-1.
    b"x@b\xfccher.example, <x@attack.example>": ("xn--bcher-kva.example", "attack.example"),
    b"x@b\xfccher.example <x@attack.example>": ("attack.example", "xn--bcher-kva.example"),
}


@pytest.mark.parametrize("value", SEVERAL)
def test_the_domains_are_those_that_any_reader_might_take(value: bytes) -> None:
    """Of each element, in whatever way readers put it together."""
    author = read_from(b"From: " + value + b"\r\n")
    assert author.fault is None
    assert set(SEVERAL[value]) <= set(author.domains)
    assert all(not domain.startswith("bank.example") or "bank.example" in SEVERAL[value] for domain in author.domains)


NAMES_ONLY = [
    b'"a@bank.example" <x@example.com>',
    b'"a@bank.example via DocuSign" <x@example.com>',
    b'"a@bank.example, <b@bank.example>; (c" <x@example.com>',
    b'"=?utf-8?q?a=40bank.example?=" <x@example.com>',
    b"(a@bank.example) <x@example.com>",
    b"<x@example.com> (a@bank.example)",
    b"Jane (a@bank.example) Doe <x@example.com>",
    b"=?utf-8?q?a=40bank.example?= <x@example.com>",
    b"=?utf-8?q?a=40bank.example=2C?= via X <x@example.com>",
    b'"a@bank.example"\r\n\t<x@example.com>',
    '"a@bank.example" <j@B\u00fccher.example>'.encode(),
    b"Team @ Acme <x@example.com>",
    b"=?UTF-8?Q?Jane @ Acme?= <x@example.com>",
    b"=?UTF-8?Q?Jane @ Acme.com?= <x@example.com>",
    b"=?UTF-8?Q?Doe, Jane (Sales)?= <x@example.com>",
    b"(Jane (a@bank.example)) <x@example.com>",
    b"((a@bank.example)) <x@example.com>",
    b"(a (b) a@bank.example) <x@example.com>",
    b'[Ext] "a@bank.example" <x@example.com>',
    b"=?utf-8?q?a=40bank.example?= (Group) <x@example.com>",
    b"<x@example.com> <x@example.com>",
    b"x@example.com <x@example.com> <x@example.com>",
    b"x@example.com (=?iso-2022-jp?b?GyRCRURDZhsoQg?=)",
    b"x@example.com (=?x-mine?q?J?=)",
    b"=?x-mine?q?a?= <x@example.com>",
    b"Team @Acme <x@example.com>",
    b"Jane (at) Bank <x@example.com>",
    "Laden \uff20 bank.example <x@example.com>".encode(),
]


@pytest.mark.parametrize("value", NAMES_ONLY)
def test_a_name_beside_an_address_is_only_a_name(value: bytes) -> None:
    """What is quoted, in a comment or encoded beside an address in brackets; without quotes what has no domain."""
    assert read_from(b"From: " + value + b"\r\n").domains in {("example.com",), ("xn--bcher-kva.example",)}


MALFORMED = {
    "an encoded word of a charset that is none of mail": b"=?utf-16be?b?AGEAQABi?=, <x@attack.example>",
    "one of a charset that nobody knows, in quotes": b'"=?x-mine?q?jane?=", <x@attack.example>',
    "one of EBCDIC as the name of a group": b"=?cp37?q?jane=7cbank?=: <x@attack.example>;",
    "one whose base64 is not whole": b"=?utf-8?b?eEBCQU5LLmwbGUsIA==?=, <x@attack.example>",
    "one whose base64 has a tab in it": b"=?utf-8?b?SmFuZSA8YUBi\tYW5rLmV4YW1wbGU+?=, <x@attack.example>",
    "one of an encoding that is none": b"=?utf-8?qq?a?=, <x@attack.example>",
    "one with an escape that is none": b"=?utf-8?q?==4022a.b=40bank.example?=, <x@attack.example>",
    "one with an address that goes on in another script": "=?utf-8?q?j=40bank.exampleé?=, <x@attack.example>".encode(),
    "no UTF-8 in the domain": b"<alice@ex\x96mple.com>",
    "a U-label that is none": "<alice@ex\u2488ample.com>".encode(),
    "a NUL": b"Alice <alice@example.com\x00.example.net>",
    "a bare LF": b"alice@example.com\n bob@example.net",
    "a DEL": b"Alice <alice@example.com\x7f>",
    "an escape": b"\x1b[2K <alice@example.com>",
    "more addresses than are read": b"a@example.com," * (MAX_ADDRESSES + 1),
    "more octets than are read": b" " * MAX_FIELD + b"alice@example.com",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_can_not_be_read_safely_is_malformed(value: bytes) -> None:
    """Where nobody can say what readers would show there is no domain, and the reason says why."""
    author = read_from(b"From: " + value + b"\r\n")
    assert (author.domains, author.fault) == ((), AuthorFault.MALFORMED)
    assert author.reason.isprintable()
    assert author.reason


@pytest.mark.parametrize(
    "value",
    [b"", b"   ", b"<>", b"Alice <>", b"root", b"Alice Doe", b"undisclosed:;", b",,;", b"MAILER-DAEMON (Mail System)"],
)
def test_a_field_may_have_no_address(value: bytes) -> None:
    """Names alone, empty brackets and empty groups (RFC 6854) are no addresses."""
    assert read_from(b"From:" + value + b"\r\n").fault is AuthorFault.NO_ADDRESS


@pytest.mark.parametrize(
    "value",
    [
        b"root@localhost",
        b"<alice@>",
        b"alice@[192.0.2.1]",
        b"<alice@example..com>",
        b"<alice@" + b"a" * 64 + b".com>",
        b"<alice@" + b"a." * 126 + b"aa>",
        b"Team @ Acme",
        b"=?utf-8?q?alice=40localhost?=",
        "alice\uff20localhost".encode(),
    ],
)
def test_an_address_may_have_no_domain(value: bytes) -> None:
    """What has no dot or is no name is no domain; the field is not without an ``@``, which a bounce needs."""
    assert read_from(b"From: " + value + b"\r\n").fault is AuthorFault.NO_DOMAIN


def test_u_labels_become_a_labels() -> None:
    """Domains in other scripts are compared as A-labels (RFC 9989 5.3.1), capitals and their dots included."""
    assert read_from("From: <j@Bücher.example>\r\n".encode()).domains == ("xn--bcher-kva.example",)
    assert read_from("From: <j@почта。рф>\r\n".encode()).domains == ("xn--80a1acny.xn--p1ai",)
    assert read_from("From: j@ex\u200bample.com\r\n".encode()).domains == ("example.com",)


def _read(header: bytes) -> Author:
    return read_author(header_fields(header))


def test_a_message_has_one_from_field() -> None:
    """None is missing, two are repeated, in any case and order."""
    assert _read(b"Subject: x\r\nFrom: a@example.com\r\n") == Author(("example.com",))
    assert _read(b"Subject: x\r\n").fault is AuthorFault.MISSING
    assert _read(b"").fault is AuthorFault.MISSING
    assert _read(b"FROM : a@example.com\r\nTo: x\r\nfrom: a@example.com\r\n").fault is AuthorFault.REPEATED


def test_from_in_a_folded_line_is_no_field() -> None:
    """A continuation line that looks like a From field belongs to its field."""
    header = b"Subject: he said\r\n From: nobody\r\nFrom: a@example.com\r\n"
    assert _read(header) == Author(("example.com",))


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_octets_have_a_domain_or_a_reason(octets: bytes) -> None:
    """Whatever stands there, the answer is a domain in A-labels or why there is none, never both."""
    author = _read(b"From: " + octets + b"\r\n")
    assert (author.fault is None) is bool(author.domains)
    assert bool(author.reason) is not bool(author.domains)
    for domain in author.domains:
        assert a_label_domain(domain) == domain
        assert "." in domain


@given(st.text(alphabet='ab@.<>()[]",;:\\ \t=?ä\u3002', max_size=60))
@settings(max_examples=500)
def test_any_mixture_of_specials_is_read(text: str) -> None:
    """What the grammar is made of, in any order."""
    author = read_from(b"From: " + text.encode() + b"\r\n")
    assert author.fault is not None or all(a_label_domain(domain) == domain for domain in author.domains)


GROWING: Final = [
    *((b"", piece, b"") for piece in (b" ", b"a ", b"<", b'"', b"(", b"[", b"\\", b"a@", b"@", b'"\\', b"a@b,", b":")),
    *((b"", piece, b"") for piece in (b"\t\r\n ", b"[a", b"a.", b"\xff", b"=?utf-8?q?a?= ", b"=?utf-8?q?a", b'"a" ')),
    (b"x@a", b".", b"b"),
    (b"x@a", b"-", b"b"),
    (b"x@a.example", "\u00e9".encode(), b""),
    (b'x@a.example"', b'"\\', b""),
    (b'<x@a.example> <y@b.example> ("', b'\\"', b")"),
    (b"x@a.example ", b"(", b""),
    (b'"', b"(", b'" x@a.example'),
    (b"x@a.example ", b"(a ", b""),
    (b"x@", b"xn--a.", b"example"),
    (b"x@a.example", b" a", b""),
    (b"x@a.example", b"> <a", b">"),
    (b"", b"a:", b"x@a.example"),
    (b"", b"=?utf-8?q?a=40b?= ", b"x@a.example"),
]


@pytest.mark.parametrize(("start", "piece", "end"), GROWING)
def test_the_time_grows_with_the_field_and_no_faster(start: bytes, piece: bytes, end: bytes) -> None:
    """Eight times the octets take far less than the sixty-four times of a quadratic reader, with a great margin."""

    def cost(size: int) -> float:
        raw = b"From: " + start + piece * (size // len(piece)) + end + b"\r\n"
        best = 1e9
        for _ in range(3):
            started = time.thread_time()
            read_from(raw)
            best = min(best, time.thread_time() - started)
        return best

    assert cost(MAX_FIELD - 200) < 30 * max(cost(MAX_FIELD // 8), 0.001)
