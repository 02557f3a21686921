"""Who authenticated, as far as the exchange tells."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp.sasl import login_name


def line(octets: bytes) -> bytes:
    """A response as it travels."""
    return base64.b64encode(octets)


@pytest.mark.parametrize(
    ("mechanism", "responses", "name"),
    [
        ("PLAIN", [line(b"\0alice\0secret")], "alice"),
        ("PLAIN", [b"=", line(b"admin\0alice\0secret")], "alice"),
        ("PLAIN", [line(b"no separators")], "(PLAIN)"),
        ("LOGIN", [line(b"alice"), line(b"secret")], "alice"),
        ("CRAM-MD5", [line(b"alice smith 0123456789abcdef")], "alice smith"),
        ("SCRAM-SHA-256", [line(b"n,,n=al=2Cice=3D,r=nonce"), line(b"c=biws,p=x")], "al,ice="),
        ("XOAUTH2", [line(b"user=alice@example.com\x01auth=Bearer x\x01\x01")], "alice@example.com"),
        ("OAUTHBEARER", [line(b"n,a=alice@example.com,\x01auth=Bearer x\x01\x01")], "alice@example.com"),
        ("OAUTHBEARER", [line(b"n,,\x01auth=Bearer x\x01\x01")], "(OAUTHBEARER)"),
        ("GSSAPI", [line(b"\x60\x82")], "(GSSAPI)"),
        ("LOGIN", [], "(LOGIN)"),
        ("LOGIN", [b"no base64!"], "(LOGIN)"),
        ("LOGIN", [line(b"a\r\nb\x1b[0m")], "a??b?[0m"),
        ("LOGIN", [line(b"x" * 1000)], "x" * 255),
    ],
)
def test_the_name_is_read_from_the_exchange(mechanism: str, responses: list[bytes], name: str) -> None:
    """Each mechanism's own place; what can't be read is called by the mechanism; nothing unprintable gets through."""
    assert login_name(mechanism, responses) == name


@given(
    st.sampled_from(["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "XOAUTH2", "OAUTHBEARER", "X"]),
    st.lists(st.binary(max_size=40) | st.binary(max_size=40).map(base64.b64encode), max_size=3),
)
def test_any_exchange_gives_a_short_printable_name(mechanism: str, responses: list[bytes]) -> None:
    """Nothing that a client sends raises, is empty, or holds control characters."""
    name = login_name(mechanism, responses)
    assert 0 < len(name) <= 255
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name)
