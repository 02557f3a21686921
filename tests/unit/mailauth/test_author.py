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
    "tabs and spaces": b"\t Alice\t <alice@example.com> \t",
}


@pytest.mark.parametrize("value", READ.values(), ids=READ.keys())
def test_what_people_write_is_read(value: bytes) -> None:
    """The domain is found however the rest of the field looks."""
    assert read_from(b"From: " + value + b"\r\n") == Author("example.com")


MALFORMED = {
    "an unquoted address of another domain as display name": b"bob@example.net <alice@example.com>",
    "an address and a second one in brackets": b"alice@example.com bob@example.com <alice@example.com>",
    "two addresses in brackets": b"<bob@example.net> <alice@example.com>",
    "brackets in brackets": b"<<alice@example.com>>",
    "an open bracket": b"Alice <alice@example.com",
    "a closing bracket alone": b"alice@example.com>",
    "text behind the brackets": b"<alice@example.com> bob@example.net",
    "text behind the address": b"alice@example.com Alice",
    "two at signs": b"<alice@example.net@example.com>",
    "no local part": b"<@example.com>",
    "no domain": b"<alice@>",
    "no at sign in brackets": b"Alice <alice>",
    "a route": b"<@example.net,@example.org:alice@example.com>",
    "an encoded word in the local part": b"=?utf-8?q?bob=40example.net=00?=@example.com",
    "an encoded word in a quoted local part": b'"=?utf-8?q?bob=40example.net?="@example.com',
    "an at sign in a quoted local part": b'"bob@example.net"@example.com',
    "a full-width at sign": "bob\uff20example.net@example.com".encode(),
    "a direction mark": "<bob\u202e@example.com>".encode(),
    "no UTF-8 in the local part": b"<al\xefce@example.com>",
    "no UTF-8 in the domain": b"<alice@ex\xe4mple.com>",
    "a comment within the domain": b"alice@example(.net).com",
    "a comment before the domain": b"alice@(example.net)example.com",
    "white space within the address": b"alice @example.com",
    "white space within the domain": b"<alice@example .com>",
    "an address literal": b"alice@[192.0.2.1]",
    "a domain that is none": b"<alice@example..com>",
    "a label of 64 octets": b"<alice@" + b"a" * 64 + b".com>",
    "a domain of 254 octets": b"<alice@" + b"a." * 126 + b"aa>",
    "a U-label that is none": "<alice@ex\u2488ample.com>".encode(),
    "an open quote": b'"Alice <alice@example.com>',
    "an open comment": b"(Alice <alice@example.com>",
    "a NUL": b"Alice <alice@example.com\x00.example.net>",
    "a bare LF": b"alice@example.com\n bob@example.net",
    "an escape": b"\x1b[2K <alice@example.com>",
    "an address as the name of a group": b"bob@example.net: alice@example.com;",
    "a colon in a display name of a group": b"Sales: Re: Alice <alice@example.com>;",
    "an open bracket before a comma": b"<alice@example.com, bob@example.com>",
    "more addresses than are read": b"a@example.com," * (MAX_ADDRESSES + 1),
    "more octets than are read": b" " * MAX_FIELD + b"alice@example.com",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_readers_could_see_differently_has_no_domain(value: bytes) -> None:
    """A field that can't be read in one way only is malformed, and the reason says why."""
    author = read_from(b"From: " + value + b"\r\n")
    assert (author.domain, author.fault) == ("", AuthorFault.MALFORMED)
    assert author.reason.isprintable()
    assert author.reason


@pytest.mark.parametrize("value", [b"", b"   ", b"<>", b"Alice <>", b"root", b"Alice Doe", b"undisclosed:;", b",,;"])
def test_a_field_may_have_no_address(value: bytes) -> None:
    """Names alone, empty brackets and empty groups (RFC 6854) are no addresses."""
    assert read_from(b"From:" + value + b"\r\n").fault is AuthorFault.NO_ADDRESS


@pytest.mark.parametrize(
    "value",
    [
        b"alice@example.com, bob@example.net",
        b"Team: alice@example.com, Bob <bob@example.net>;",
        b"alice@example.com; bob@mail.example.com",
        b"alice@example.com, bob@example.com, carol@example.net",
    ],
)
def test_addresses_of_several_domains_give_none(value: bytes) -> None:
    """More than one domain is told apart from a malformed field (RFC 9989 5.3.1)."""
    assert read_from(b"From: " + value + b"\r\n").fault is AuthorFault.SEVERAL_DOMAINS


def test_u_labels_become_a_labels() -> None:
    """Domains in other scripts are compared as A-labels (RFC 9989 5.3.1), capitals and their dots included."""
    assert read_from("From: <j@Bücher.example>\r\n".encode()).domain == "xn--bcher-kva.example"
    assert read_from("From: <j@почта。рф>\r\n".encode()).domain == a_label_domain("xn--80a1acny.xn--p1ai")


def _read(header: bytes) -> Author:
    return read_author(tuple(header_fields(header)), header)


def test_a_message_has_one_from_field() -> None:
    """None is missing, two are repeated, in any case and order."""
    assert _read(b"Subject: x\r\nFrom: a@example.com\r\n") == Author("example.com")
    assert _read(b"Subject: x\r\n").fault is AuthorFault.MISSING
    assert _read(b"").fault is AuthorFault.MISSING
    assert _read(b"FROM : a@example.com\r\nTo: x\r\nfrom: a@example.com\r\n").fault is AuthorFault.REPEATED


@pytest.mark.parametrize(
    "header",
    [
        b"From: a@example.com\r\nno field\r\nFrom: b@example.net\r\n",
        b"From: a@example.com\r\nno field\r\n \tFROM : b@example.net\r\n",
        b"no field\r\nFrom: b@example.net\r\n",
        b"From: a@example.com\r\nSubject: x\nFrom: b@example.net\r\n",
        b"From: a@example.com\r\nSubject: x\rfrom: b@example.net\r\n",
        b"Subject: x\n From: b@example.net\r\n",
    ],
)
def test_a_hidden_from_field_counts(header: bytes) -> None:
    """What readers find behind a broken line or a bare line end is a From field, too."""
    assert _read(header).fault is AuthorFault.REPEATED


def test_from_in_a_folded_line_is_no_field() -> None:
    """A continuation line that looks like a From field belongs to its field."""
    header = b"Subject: he said\r\n From: nobody\r\nFrom: a@example.com\r\n"
    assert _read(header) == Author("example.com")


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_octets_have_a_domain_or_a_reason(octets: bytes) -> None:
    """Whatever stands there, the answer is a domain in A-labels or why there is none, never both."""
    author = _read(b"From: " + octets + b"\r\n")
    assert (author.fault is None) is bool(author.domain)
    assert bool(author.reason) is not bool(author.domain)
    assert author.domain == author.domain.lower()
    assert author.domain.isascii()


@given(st.text(alphabet='ab@.<>()[]",;:\\ \t=?ä\u3002', max_size=60))
@settings(max_examples=500)
def test_any_mixture_of_specials_is_read(text: str) -> None:
    """What the grammar is made of, in any order."""
    author = read_from(b"From: " + text.encode() + b"\r\n")
    assert author.fault is not None or a_label_domain(author.domain) == author.domain


GROWING: Final = (
    b" ",
    b"a ",
    b"<",
    b'"',
    b"(",
    b"[",
    b"\\",
    b"a@",
    b"@",
    b'"\\',
    b"a@b,",
    b"\t\r\n ",
    b":",
    b"[a",
    b"a.",
    b"\xff",
)


@pytest.mark.parametrize("piece", GROWING)
def test_the_time_grows_with_the_field_and_no_faster(piece: bytes) -> None:
    """Eight times the octets take far less than the sixty-four times of a quadratic reader, with a great margin."""

    def cost(size: int) -> float:
        raw = b"From: " + piece * (size // len(piece)) + b"\r\n"
        best = 1e9
        for _ in range(3):
            started = time.thread_time()
            read_from(raw)
            best = min(best, time.thread_time() - started)
        return best

    assert cost(MAX_FIELD - 100) < 30 * max(cost(MAX_FIELD // 8), 0.001)
