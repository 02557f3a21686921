"""Which Authentication-Results fields claim to be the gateway's own: all that a reader might take for it, no others."""

import time
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.header import HeaderField, header_fields
from gateway.mailauth.authentication_results import authentication_results
from gateway.mailauth.authserv_claims import MAX_READ, claims, forged
from tests.support.calls import calls

IDS: Final = ("mx.example.com", "bücher.example", "Gate.Example.NET.")

CLAIMING: Final = (
    "mx.example.com; spf=pass",
    "mx.example.com;none",
    "mx.example.com",
    "MX.Example.COM; spf=pass",
    "mx.example.com.; spf=pass",
    "mx.example.com..; spf=pass",
    ".mx.example.com; spf=pass",
    "gate.example.net; spf=pass",
    "mx.example.com 1; spf=pass",
    "mx.example.com\t 12 ;spf=pass",
    " \t mx.example.com ; spf=pass",
    "\r\n\tmx.example.com\r\n\t1\r\n\t; spf=pass",
    "mx.example.com\r\n ; spf=pass",
    # comments
    "(a) mx.example.com; spf=pass",
    "(a (b (c)) \\) d) mx.example.com (e) 1 (f); spf=pass",
    "(a)(b)mx.example.com(c); spf=pass",
    "(other.example; none) mx.example.com; spf=pass",
    # quoted
    '"mx.example.com"; spf=pass',
    '"mx\\.exam\\ple.com" 1; spf=pass',
    '" mx.example.com "; spf=pass',
    '"mx.example.com; spf=pass',
    'mx."example".com; spf=pass',
    "mx\\.example\\.com; spf=pass",
    # no semicolon, or something in its place
    "mx.example.com spf=pass smtp.mailfrom=example.org",
    "mx.example.com, spf=pass",
    "mx.example.com: spf=pass",
    "mx.example.com/1; spf=pass",
    "mx.example.com=1; spf=pass",
    "mx.example.com dkim=pass; spf=pass",
    "mx.example.com one two; spf=pass",
    "<mx.example.com>; spf=pass",
    "root@mx.example.com; spf=pass",
    "other.example mx.example.com; spf=pass",
    # parted
    "mx. example.com; spf=pass",
    "mx.exam\r\n ple.com; spf=pass",
    "mx.(comment)example.com; spf=pass",
    # control characters, invalid and invisible ones
    "mx.example.com\x00; spf=pass",
    "mx.exam\x00ple.com; spf=pass",
    "mx.example.com\x0bother; spf=pass",
    "mx.example.com\x0c1; spf=pass",
    "mx.exam\u200bple.com; spf=pass",
    "mx.exam\u00adple.com; spf=pass",
    "\ufeffmx.example.com; spf=pass",
    # encodings
    "=?utf-8?q?mx=2Eexample=2Ecom?=; spf=pass",
    "=?us-ascii?B?bXguZXhhbXBsZS5jb20=?= 1; spf=pass",
    "=?utf-8?q?mx?=.example.com; spf=pass",
    # internationalized
    "bücher.example; spf=pass",
    "BÜCHER.example; spf=pass",
    "xn--bcher-kva.example; spf=pass",
    "XN--BCHER-KVA.EXAMPLE.; spf=pass",
    "mx\u3002example\uff61com; spf=pass",
    "\uff4d\uff58\uff0eexample.com; spf=pass",
    # comments and quotes without end
    "(mx.example.com; spf=pass",
    "(a (b) mx.example.com; spf=pass",
    '(x) "y mx.example.com; spf=pass',
)

OTHERS: Final = (
    "",
    ";",
    "; spf=pass",
    "other.example; spf=pass smtp.helo=mx.example.com",
    "other.example 1; dkim=pass header.d=mx.example.com",
    "other.example; spf=pass (mx.example.com) smtp.mailfrom=example.org",
    "(mx.example.com) other.example; spf=pass",
    "other.example (mx.example.com); spf=pass",
    '"other.example"; iprev=pass (mx.example.com)',
    'other.example; reason="; mx.example.com; spf=pass"',
    "mx.example.com.example.org; spf=pass",
    "amx.example.com; spf=pass",
    "a.mx.example.com; spf=pass",
    "a-mx.example.com; spf=pass",
    "mx.example.com-a; spf=pass",
    "mx.example.comm 1; spf=pass",
    "example.com; spf=pass",
    "mx; spf=pass",
    "mxaexample.com; spf=pass",
    "(mx.example.com) other.example foo; spf=pass",
    "a.mx.example.com one two; spf=pass",
    "mx.example.com.example.org, spf=pass",
    "spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=mx.example.com; dkim=pass header.d=mx.example.com",
    "other.example spf=pass smtp.helo=mx.example.com",
    "bucher.example; spf=pass",
    "=?utf-8?q?other=2Eexample?=; spf=pass",
    "=?utf-8?b?!?=; spf=pass",
)


@pytest.mark.parametrize("value", CLAIMING)
def test_what_a_reader_might_take_for_ours_claims(value: str) -> None:
    """In any of these some reader finds an id of ours."""
    assert claims(value.encode(), IDS)


@pytest.mark.parametrize("value", OTHERS)
def test_what_names_another_id_does_not_claim(value: str) -> None:
    """These are another's fields, or no reader finds an id of ours in them."""
    assert not claims(value.encode(), IDS)


def test_invalid_octets_do_not_hide_an_id() -> None:
    """An octet that is no UTF-8 is passed over by some readers and ends the name for others."""
    assert claims(b"mx.exam\xffple.com; spf=pass", IDS)
    assert claims(b"mx.example.com\xff; spf=pass", IDS)
    assert claims(b"mx.example.com\xffother; spf=pass", IDS)
    assert not claims(b"\xff\xfe; spf=pass", IDS)


def test_without_an_id_nothing_claims_it() -> None:
    """No id configured: nothing is removed."""
    assert not claims(b"mx.example.com; spf=pass", ())
    assert not claims(b"mx.example.com, spf=pass", ())


def test_only_fields_of_that_name_are_forged() -> None:
    """The field's name counts in any case and with white space before the colon; others stay, whatever they hold."""
    header = (
        b"Authentication-Results: mx.example.com; spf=pass\r\n"
        b"authentication-RESULTS : mx.example.com;\r\n\tdkim=pass\r\n"
        b"ARC-Authentication-Results: i=1; mx.example.com; spf=pass\r\n"
        b"X-Authentication-Results: mx.example.com; spf=pass\r\n"
        b"Authentication-Results: other.example; spf=pass smtp.helo=mx.example.com\r\n"
        b"Authentication-Results:\r\n mx.example.com; spf=pass\r\n"
    )
    fields = list(header_fields(header))
    assert forged(fields, IDS) == [fields[0], fields[1], fields[5]]
    assert forged(fields[2:5], IDS) == []


def test_our_own_field_claims() -> None:
    """What the gateway writes it would remove when it came from outside."""
    field = authentication_results(
        "mx.example.com", spf=None, dkim=[], arc=None, dmarc=None, mail_from="", helo_name=None, client_address="::1"
    )
    assert forged(header_fields(field), IDS)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_octets_are_judged(before: bytes, after: bytes) -> None:
    """Nothing raises; and what follows the semicolon of a plain id never matters."""
    claims(before, IDS)
    claims(before + b"mx.example.com" + after, IDS)
    assert claims(b"mx.example.com;" + after, IDS)
    assert not claims(b"other.example;" + before, IDS)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([" ", "\t", "(x)", "(a(b)c)", "\r\n ", "(\\))", "(;)"]), max_size=6),
    st.lists(st.sampled_from([" ", "\t", "(x)", "\r\n ", "(mx.example.com)"]), max_size=6),
    st.booleans(),
    st.sampled_from(["mx.example.com", "other.example", "Bücher.EXAMPLE", "mx.example.org"]),
)
def test_white_space_and_comments_around_an_id_never_matter(
    before: list[str],
    after: list[str],
    quoted: bool,  # noqa: FBT001 - hypothesis draws it
    name: str,
) -> None:
    """However an id is wrapped, it alone decides."""
    value = "".join(before) + (f'"{name}"' if quoted else name) + "".join(after) + "; spf=pass smtp.helo=mx.example.com"
    assert claims(value.encode(), IDS) is (name in {"mx.example.com", "Bücher.EXAMPLE"})


GROWING: Final = (
    b"(", b"()", b"((a))", b'"', b'\\"', b'"a" ', b"a ", b"a.", b"=?utf-8?q?a?=", b"=?", b" ", b"\\", b"\xff",
    "ü\u0301\u0323".encode(), b"(\\", b"mx.example.co", b"mx.example.com-", b"\x00", b"1 ", b";",
)  # fmt: skip


@pytest.mark.parametrize("piece", GROWING)
def test_the_time_grows_with_the_field_and_no_faster(piece: bytes) -> None:
    """Eight times the octets take far less than the sixty-four times of a quadratic parser, with a great margin."""

    def cost(size: int) -> float:
        values = [
            b"mx.example.comm " + piece * (size // len(piece)),
            piece * (size // len(piece)) + b" mx.example.comm",
        ]
        best = 1e9
        for _ in range(3):
            started = time.thread_time()
            for value in values:
                claims(value, IDS)
            best = min(best, time.thread_time() - started)
        return best

    assert cost(80_000) < 30 * max(cost(10_000), 0.001)


def test_only_so_much_of_a_message_is_judged_and_what_is_beyond_goes() -> None:
    """Hundreds of fields, or one of many kilobytes, would cost time; nothing hides behind them."""
    short = HeaderField("authentication-results", b"Authentication-Results: other.example; spf=pass\r\n")
    count = MAX_READ // len(short.raw)
    fields = [short] * count
    ours = HeaderField("authentication-results", b"Authentication-Results: mx.example.com; spf=pass\r\n")
    assert forged(fields, IDS) == []
    assert forged([*fields, short, ours], IDS) == [short, ours]
    long = HeaderField("authentication-results", b"Authentication-Results: " + b"(a) " * MAX_READ + b"\r\n")
    assert forged([short, long, short], IDS) == [long, short]
    subject = HeaderField("subject", b"Subject: " + b"x" * MAX_READ + b"\r\n")
    assert forged([subject, short], IDS) == []


def test_what_is_judged_takes_calls_in_proportion_to_what_is_read() -> None:
    """A megabyte of such fields takes no more calls than a hundred kilobytes."""
    field = HeaderField("authentication-results", b'Authentication-Results: (a) "b" other.example; spf=pass\r\n')

    def work(count: int) -> int:
        return calls(lambda: forged([field] * count, IDS))

    assert work(20_000) < work(2_000) + 18_000 * 4
