"""The PROXY protocol, versions 1 and 2: who a load balancer says the client is (HAProxy's proxy-protocol.txt).

``read_header`` takes exactly the header's octets from a fresh socket, so that what follows, be it a TLS handshake or
SMTP, is left for whoever comes next. Only a listener's trusted peers are asked for one; the door decides that.

Raises ``ProxyError`` for anything that is not a header of version 1 or 2, ``OSError`` when the peer goes away in the
middle of one, and ``SilentError`` when it goes away before: so a load balancer probes whether anybody listens.
"""

import asyncio
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from gateway.session import Address

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"  # section 2.2
_V1_LIMIT: Final = 107  # section 2.1: the longest line, CRLF included
_V2_LIMIT: Final = 2048  # of addresses and TLVs; the addresses take 36 octets


class ProxyError(Exception):
    """The peer sent no valid header."""


class SilentError(Exception):
    """The peer has left without a word."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The client and the address that it connected to."""

    client: Address
    client_port: int
    server: Address
    server_port: int


async def read_header(connection: socket.socket) -> Addresses | None:
    """Read a header from a non-blocking socket.

    Returns:
        The addresses, or None for a connection of the load balancer's own (``UNKNOWN`` and ``LOCAL``: health checks).
    """
    start = await _beginning(connection)
    start += await _exactly(connection, len(_SIGNATURE) - len(start))
    if start == _SIGNATURE:
        return parse_v2(*await _v2(connection))
    if not start.startswith(b"PROXY "):
        raise ProxyError("no PROXY header")
    line = bytearray(start)
    while not line.endswith(b"\r\n"):
        if len(line) >= _V1_LIMIT:
            raise ProxyError("a PROXY line without an end")
        # Look before taking: what stands behind the line is not ours.
        await _readable(connection)
        seen = connection.recv(_V1_LIMIT - len(line), socket.MSG_PEEK)
        end = seen.find(b"\n") + 1
        line += await _exactly(connection, end or max(1, len(seen)))
    return parse_v1(bytes(line))


def parse_v1(line: bytes) -> Addresses | None:
    """Read a line of version 1, its CRLF included.

    Raises:
        ProxyError: It is none.
    """
    words = line.removesuffix(b"\r\n").decode("ascii", "replace").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return None
    try:
        _, family, client, server, client_port, server_port = words
        addresses = Addresses(
            ipaddress.ip_address(client), _port(client_port), ipaddress.ip_address(server), _port(server_port)
        )
    except ValueError as error:
        raise ProxyError(f"not a PROXY line: {line!r}") from error
    version = {"TCP4": 4, "TCP6": 6}.get(family)
    if addresses.client.version != version or addresses.server.version != version:
        raise ProxyError(f"the addresses of {line!r} are not of its family")
    return addresses


def parse_v2(command: int, family: int, body: bytes) -> Addresses | None:
    """Read the parts of a header of version 2.

    Args:
        command: The octet of version and command.
        family: The octet of address family and transport.
        body: Addresses and TLVs; TLVs are not looked at.

    Raises:
        ProxyError: It is none.
    """
    if command == 0x20:  # LOCAL  # noqa: PLR2004 - section 2.2
        return None
    if command != 0x21:  # PROXY  # noqa: PLR2004 - section 2.2
        raise ProxyError(f"version and command {command:#x}")
    layout = {0x11: "!4s4sHH", 0x21: "!16s16sHH"}.get(family)
    if layout is None:
        return None  # UNSPEC, UDP and UNIX: the receiver should ignore the addresses
    if len(body) < struct.calcsize(layout):
        raise ProxyError("a header of version 2 that is too short for its addresses")
    client, server, client_port, server_port = struct.unpack_from(layout, body)
    return Addresses(ipaddress.ip_address(client), client_port, ipaddress.ip_address(server), server_port)


async def _v2(connection: socket.socket) -> tuple[int, int, bytes]:
    command, family, length = struct.unpack("!BBH", await _exactly(connection, 4))
    if length > _V2_LIMIT:
        raise ProxyError(f"a header of version 2 of {length} octets")
    return command, family, await _exactly(connection, length)


async def _beginning(connection: socket.socket) -> bytes:
    """The first octets that come, not more than tell what they begin."""
    try:
        start = await asyncio.get_running_loop().sock_recv(connection, len(_SIGNATURE))
    except ConnectionError:  # many a probe resets its connection
        start = b""
    if not start:
        raise SilentError
    return start


async def _exactly(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(connection, count - len(data))
        if not part:
            raise ConnectionResetError("the peer went away in its PROXY header")
        data += part
    return bytes(data)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:  # noqa: PLR2004 - the largest port
        raise ValueError(f"{text!r} is not a port")
    return int(text)
