"""Telling Postfix who the client is: XCLIENT and XFORWARD (Postfix's XCLIENT_README and XFORWARD_README).

Both take ``NAME=value`` pairs, values as xtext (RFC 3461 4). Only attributes that the server offers are sent. A command
is no longer than 512 octets; more attributes go into further commands.

XCLIENT makes the server act as if the client itself had connected. It holds until another client is announced; the
server answers it with a greeting and wants EHLO again. Its refusal there is about the client, and goes on to the client.
XFORWARD is for the server's log only, and the server forgets it at the end of each transaction.
"""

import re
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final

from gateway.backend.connection import BackendError, Connection
from gateway.backend.opening import Opener
from gateway.resolver import NameStatus
from gateway.session import Session
from gateway.smtp.client import Command
from gateway.smtp.reply import Reply

MAX_COMMAND: Final = 510
"""Octets of a command line without CRLF (RFC 5321 4.5.3.1.4)."""

UNAVAILABLE: Final = "[UNAVAILABLE]"

# xchar = any ASCII CHAR between "!" (33) and "~" (126) inclusive, except for "+" and "="   (RFC 3461 4)
_NOT_XCHAR: Final = re.compile(rb"[^!-*,-<>-~]")
_NOT_ALLOWED: Final = frozenset({500, 501, 502, 503, 550})
"""Replies about the command, not about the client: unknown, malformed, out of order, or not permitted to us."""

_HELO_NAME: Final = re.compile(r"[!-~]{1,255}")


def xtext(value: str) -> str:
    """Encode a value as xtext."""
    octets = _NOT_XCHAR.sub(lambda match: b"+%02X" % match[0][0], value.encode("utf-8", "surrogateescape"))
    return octets.decode("ascii")


def _name(session: Session) -> str:
    name = session.client_name
    if name is None or name.name is None:
        return "[TEMPUNAVAIL]" if name is not None and name.status is NameStatus.TEMPORARY else UNAVAILABLE
    return name.name


def _address(session: Session) -> str:
    address = session.client_address
    return f"IPV6:{address}" if isinstance(address, IPv6Address) else str(address)


def _values(session: Session) -> dict[str, str]:
    server_address, _, server_port = session.server_address.rpartition(":")
    server_address = server_address.strip("[]")
    return {
        "NAME": _name(session),
        "ADDR": _address(session),
        "PORT": str(session.client_port) if session.client_port else UNAVAILABLE,
        "PROTO": "ESMTP" if session.extended else "SMTP",
        "HELO": (session.helo_name or UNAVAILABLE)[:255],
        "LOGIN": session.login or UNAVAILABLE,
        "DESTADDR": (f"IPV6:{server_address}" if ":" in server_address else server_address) or UNAVAILABLE,
        "DESTPORT": server_port if server_port.isdecimal() else UNAVAILABLE,
        "SOURCE": "REMOTE",
    }


def _commands(verb: str, session: Session, names: tuple[str, ...], offered: frozenset[str]) -> tuple[str, ...]:
    values = _values(session)
    lines: list[str] = []
    line = verb
    for name in names:
        if name not in offered:
            continue
        attribute = f" {name}={xtext(values[name])}"
        if len(line) + len(attribute) > MAX_COMMAND and line != verb:
            lines.append(line)
            line = verb
        line += attribute
    if line != verb:
        lines.append(line)
    return tuple(lines)


def xclient(session: Session, offered: frozenset[str]) -> tuple[str, ...]:
    """The XCLIENT commands for a client, none when the server takes no attribute.

    A client without a login gets ``LOGIN=[UNAVAILABLE]``, so that it does not inherit the one before it.
    """
    names = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
    return _commands("XCLIENT", session, names, offered)


def xforward(session: Session, offered: frozenset[str]) -> tuple[str, ...]:
    """The XFORWARD commands for a client, none when the server takes no attribute."""
    return _commands("XFORWARD", session, ("NAME", "ADDR", "PORT", "PROTO", "HELO", "SOURCE"), offered)


async def announce(
    connection: Connection, opener: Opener, session: Session, before: list[tuple[Command, str]]
) -> Reply | None:
    """Tell the server by XCLIENT who the client is, unless it knows.

    Args:
        connection: The connection.
        opener: Says EHLO.
        session: The client's.
        before: Commands to send first; the list is emptied when they were.

    Returns:
        The server's refusal of the client, None when it goes on.

    Raises:
        BackendError: It refuses the command itself, or the connection is of no use.
    """
    lines = xclient(session, connection.engine.capabilities.xclient)
    if not lines or connection.client == lines:
        return None
    offered = connection.engine.capabilities.xclient
    for kind, line in [*before, *((Command.XCLIENT, line) for line in lines)]:
        answer = await connection.command(kind, line, opener.timeouts.command)
        if answer.code in _NOT_ALLOWED:
            raise BackendError(f"the server refused {kind}: {answer}")
        if not answer.is_positive:
            connection.quit()
            return answer
    before.clear()
    # The server takes this name for the client's.
    name = session.helo_name
    answer = await opener.hello(connection, name if name is not None and _HELO_NAME.fullmatch(name) else None)
    if not answer.is_positive:
        connection.quit()
        return answer
    capabilities = connection.engine.capabilities
    if not capabilities.xclient:  # Postfix offers XCLIENT by the real address, others may stop to: it was offered here
        connection.engine.capabilities = replace(capabilities, xclient=offered)
    connection.client = lines
    return None
