"""Listening sockets: bound once by the supervisor while it may, and handed to the workers."""

import errno
import socket
from ipaddress import ip_address
from typing import Final

from gateway.config.model import Endpoint

BACKLOG: Final = 1024
"""Connections that wait in the kernel to be accepted."""


class ListenError(Exception):
    """An address can't be listened on."""


def bind(endpoint: Endpoint) -> list[socket.socket]:
    """Bind and listen on an address; a name with several addresses gives several sockets.

    Raises:
        ListenError: It can't be bound.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            listening.setblocking(False)
    except OSError as error:
        for listening in sockets:
            listening.close()
        remedy = "; only root, or the service's unit, may take a port below 1024" if error.errno == errno.EACCES else ""
        raise ListenError(f"can not listen on {endpoint}: {error.strerror or error}{remedy}") from error
    return sockets


def address_of(listening: socket.socket) -> str | None:
    """What every client of a listening socket has connected to, None where it listens on all addresses."""
    local = listening.getsockname()
    return None if ip_address(local[0]).is_unspecified else endpoint_name(local)


def endpoint_name(local: tuple[str, int] | None) -> str:
    """An end of a connection for records, as a socket tells it."""
    host, port = (local or ("0.0.0.0", 0))[:2]
    return f"{host}:{port}"
