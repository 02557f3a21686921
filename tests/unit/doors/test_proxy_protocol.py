"""The PROXY header: every form that a load balancer sends, and nothing else."""

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.proxy_protocol import Addresses, ProxyError, SilentError, parse_v1, parse_v2, read_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = struct.pack("!4s4sHH", bytes([192, 0, 2, 1]), bytes([198, 51, 100, 25]), 40000, 25)
V6 = struct.pack("!16s16sHH", bytes.fromhex("20010db8" + "0" * 23 + "1"), bytes(16), 40000, 25)


def v2(body: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def shown(addresses: Addresses | None) -> tuple[str, int, str, int] | None:
    """The addresses as text."""
    if addresses is None:
        return None
    return str(addresses.client), addresses.client_port, str(addresses.server), addresses.server_port


IPV4 = ("192.0.2.1", 40000, "198.51.100.25", 25)
GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.25 40000 25\r\n", IPV4),
    (b"PROXY TCP6 2001:db8::1 :: 40000 25\r\n", ("2001:db8::1", 40000, "::", 25)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (v2(V4), IPV4),
    (v2(V4 + b"\x04\x00\x01x"), IPV4),  # with a TLV
    (v2(V6, family=0x21), ("2001:db8::1", 40000, "::", 25)),
    (v2(b"", command=0x20, family=0), None),  # LOCAL
    (v2(V4, family=0x12), None),  # UDP
    (v2(b"x" * 216, family=0x31), None),  # UNIX
]
BAD = [
    b"EHLO client.example.org\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.25 40000\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.25 40000 65536\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.25 -1 25\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.25 40000 25\r\n",
    b"PROXY TCP5 192.0.2.1 198.51.100.25 40000 25\r\n",
    b"PROXY TCP4 192.0.2.1  198.51.100.25 40000 25\r\n",
    b"PROXY " + b"x" * 200 + b"\r\n",
    v2(V4[:-1]),
    v2(V4, command=0x11),
    v2(V4, command=0x22),
    v2(b"x" * 3000),
]


async def read(octets: bytes, *, close: bool = False, behind: bytes = b"") -> tuple[Addresses | None, bytes]:
    """Read a header from a socket; returns it and what is left."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(octets + behind)
        if close:
            theirs.close()
        async with asyncio.timeout(20):
            found = await read_header(ours)
        return found, ours.recv(1000) if behind else b""


@pytest.mark.parametrize(("octets", "expected"), GOOD)
async def test_headers_are_read_and_nothing_behind_them(
    octets: bytes, expected: tuple[str, int, str, int] | None
) -> None:
    """Both versions give the addresses, or none for the load balancer's own connections; the rest is left alone."""
    for behind in (b"", b"EHLO client.example.org\r\n", b"\x16\x03\x01"):
        found, rest = await read(octets, behind=behind)
        assert shown(found) == expected
        assert rest == behind


@pytest.mark.parametrize(("octets", "expected"), GOOD[:6])
async def test_a_header_may_come_octet_by_octet(octets: bytes, expected: tuple[str, int, str, int] | None) -> None:
    """However the network cuts it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reading = asyncio.create_task(read_header(ours))
        for index in range(len(octets)):
            theirs.sendall(octets[index : index + 1])
            for _ in range(5):
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert shown(await reading) == expected


@pytest.mark.parametrize("octets", BAD)
async def test_anything_else_is_a_proxy_error(octets: bytes) -> None:
    """What is no header, or names impossible addresses, is refused."""
    with pytest.raises(ProxyError):
        await read(octets)


async def test_a_peer_that_leaves_without_a_word_is_no_error() -> None:
    """It has only looked whether anybody is there."""
    with pytest.raises(SilentError):
        await read(b"", close=True)


@pytest.mark.parametrize("octets", [b"P", b"PROXY TCP4 192.0.2.1", SIGNATURE, v2(V4)[:-1]])
async def test_a_peer_that_goes_away_is_an_oserror(octets: bytes) -> None:
    """The header must be whole."""
    with pytest.raises(OSError, match="went away"):
        await read(octets, close=True)


@given(st.binary(max_size=120) | st.text(max_size=100).map(lambda text: b"PROXY TCP4 " + text.encode()))
def test_any_line_gives_addresses_or_an_error(line: bytes) -> None:
    """Nothing else comes out of version 1."""
    try:
        parse_v1(line)
    except ProxyError as error:
        assert str(error).isprintable()  # noqa: PT017 - it may also be none


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60))
def test_any_parts_give_addresses_or_an_error(command: int, family: int, body: bytes) -> None:
    """Nothing else comes out of version 2."""
    try:
        found = parse_v2(command, family, body)
    except ProxyError:
        return
    assert found is None or found.client.version == (4 if family == 0x11 else 6)
