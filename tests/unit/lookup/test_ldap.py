"""LDAP without I/O: requests, and replies at any framing."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup import ber, ldap
from gateway.lookup.ldap import Decoder, Kind, Message, escaped_dn


def response(message_id: int, kind: Kind, code: int, text: str = "") -> bytes:
    """A result as a server sends it."""
    content = ber.integer(code, ber.ENUMERATED) + ber.octets(b"") + ber.octets(text.encode())
    return ber.element(ber.SEQUENCE, ber.integer(message_id), ber.element(kind, content))


def entry(message_id: int) -> bytes:
    """An entry without attributes."""
    name = ber.octets(b"uid=alice,dc=example")
    return ber.element(ber.SEQUENCE, ber.integer(message_id), ber.element(0x64, name, ber.element(ber.SEQUENCE)))


def test_a_bind_as_rfc_4511_has_it() -> None:
    """Octet by octet."""
    assert ldap.bind_request(1, 3, "cn=a", "pw") == bytes.fromhex("3012 020101 600d 020103 0404636e3d61 80027077")


def test_a_search_as_rfc_4511_has_it() -> None:
    """For one entry, names only, no attributes."""
    octets = ldap.search_request(
        7, base="dc=x", scope=2, dereference=0, seconds=5, encoded_filter=ber.octets(b"mail", 0x87)
    )
    assert octets == bytes.fromhex(
        "3027 020107 6322 040464633d78 0a0102 0a0100 020101 020105 0101ff 87046d61696c 30050403312e31"
    )


def test_start_tls_and_unbind_as_rfc_4511_has_them() -> None:
    """Octet by octet."""
    assert ldap.start_tls_request(2) == bytes.fromhex("301d 020102 7718 8016") + b"1.3.6.1.4.1.1466.20037"
    assert ldap.unbind_request(3) == bytes.fromhex("3005 020103 4200")


STREAM = (
    response(1, Kind.BIND_RESPONSE, 0)
    + entry(2)
    + ber.element(ber.SEQUENCE, ber.integer(2), ber.element(0x73, ber.octets(b"ldap://other/")))
    + response(2, Kind.SEARCH_DONE, 4, "x" * 300)
    + response(0, Kind.EXTENDED_RESPONSE, 52, "going down")
)
MESSAGES = [
    Message(1, Kind.BIND_RESPONSE, 0),
    Message(2, Kind.SEARCH_ENTRY),
    Message(2, Kind.SEARCH_REFERENCE),
    Message(2, Kind.SEARCH_DONE, 4, "x" * 300),
    Message(0, Kind.EXTENDED_RESPONSE, 52, "going down"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_replies_at_any_framing(cuts: list[int]) -> None:
    """However the octets are cut, the same messages come."""
    decoder = Decoder()
    found: list[Message] = []
    places = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(places):
        found += decoder.feed(STREAM[start:end])
    assert found == MESSAGES
    assert decoder.is_empty


def test_a_part_of_a_message_is_kept() -> None:
    """It is seen, because before TLS it would be an injection."""
    decoder = Decoder()
    assert decoder.feed(STREAM[:5]) == []
    assert not decoder.is_empty


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x30\x80\x00\x00",
        b"\x30\x85\x01\x00\x00\x00\x00",
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x00",
        b"\x30\x05\x02\x01\x01\x61\x7f",
        ber.element(ber.SEQUENCE, ber.integer(1), ber.element(0x6F)),
        ber.element(ber.SEQUENCE, ber.integer(1), ber.element(0x61, ber.integer(0))),
        ber.element(ber.SEQUENCE, ber.octets(b"1"), ber.element(0x61)),
        ber.element(ber.SEQUENCE, ber.element(2), ber.element(0x64)),
    ],
)
def test_what_is_not_ldap_is_an_error(octets: bytes) -> None:
    """A server that talks something else, cuts its elements off, or announces gigabytes."""
    with pytest.raises(ber.BerError):
        Decoder().feed(octets)


@given(st.binary(max_size=60))
def test_any_octets_are_messages_or_an_error(octets: bytes) -> None:
    """Nothing else comes of them."""
    with suppress(ber.BerError):
        Decoder().feed(b"\x30" + octets)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("alice", "alice"),
        ("a,b+c", "a\\,b\\+c"),
        ('say "x"', 'say \\"x\\"'),
        (" a ", "\\20a\\20"),
        (" ", "\\20"),
        ("#1=<>;\\", "\\231\\3d\\<\\>\\;\\\\"),
        ("a\0b\nc", "a\\00b\\0ac"),
    ],
)
def test_values_in_names_are_escaped(value: str, wanted: str) -> None:
    """As RFC 4514 2.4 says."""
    assert escaped_dn(value) == wanted


@given(st.integers(0, 2**40), st.binary(max_size=300))
def test_elements_are_read_as_they_were_written(number: int, content: bytes) -> None:
    """Whatever their length."""
    (first, second) = ber.elements(ber.integer(number) + ber.octets(content))
    assert (first[0], ber.number(first[1])) == (ber.INTEGER, number)
    assert second == (ber.OCTETS, content)
