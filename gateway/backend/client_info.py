"""Telling Postfix who the client is: XCLIENT and XFORWARD (Postfix's XCLIENT_README and XFORWARD_README).

Both take ``NAME=value`` pairs, values as xtext (RFC 3461 4). Only attributes that the server offers are sent. A command
is no longer than 512 octets; more attributes go into further commands.

XCLIENT makes the server act as if the client itself had connected. The server answers it with a greeting and wants
EHLO again; its refusal there is about the client, and goes on to the client. Who may use XCLIENT Postfix asks again
after each one, by the address just announced: so ADDR comes last, and a connection serves one client only, unless the
server still offers XCLIENT afterwards. A Postfix that speaks IPv4 only takes no IPv6 address: it is told that the
address is unknown.

A name is ``[UNAVAILABLE]`` when the DNS said that the client has none, and ``[TEMPUNAVAIL]`` as long as it has not said
so: it gave no answer, it has not answered yet, or it was not asked. Postfix refuses a client for good by the former
alone (``unknown_client_reject_code``).

A client chooses its HELO name and its login, and may choose one of these words. So a value that reads like one, in any
case, is never sent as itself, nor is one that is empty or longer than Postfix takes (``MAX_VALUE``): it would have the
whole command refused, and with it the address. For a HELO name ``[UNAVAILABLE]`` is sent, and after XCLIENT the EHLO
says it as it is. With a login that can't be said nothing is sent: without it the server would take the client for
somebody else, and may refuse its mail for good.

XFORWARD is for the server's log only: a refusal of it is of no account. Postfix forgets it with each transaction, so it
is sent with each. Postfix knows no ``[TEMPUNAVAIL]`` there, and would not log the address either, so that a name is
``[UNAVAILABLE]`` as well while it is not known.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

import structlog

from gateway.address import address_text
from gateway.backend.connection import ABOUT_GATEWAY, BackendError, Connection, Identity
from gateway.backend.opening import Opener
from gateway.resolver import NameStatus
from gateway.session import Session
from gateway.smtp.client import Command
from gateway.smtp.reply import Reply

MAX_VALUE: Final = 255
"""Octets of a value as xtext (XFORWARD_README; Postfix asks the same of XCLIENT)."""

MAX_COMMAND: Final = 510
"""Octets of a command line without CRLF (RFC 5321 4.5.3.1.4)."""

UNAVAILABLE: Final = "[UNAVAILABLE]"
NOT_KNOWN_NOW: Final = "[TEMPUNAVAIL]"

# xtext = *( xchar / hexchar ); hexchar = ASCII "+" immediately followed by two upper case hexadecimal digits
# (RFC 3461 4). A hexchar may stand for anything, and here stands for all but these: Postfix parts a command into words
# before it decodes them, and there takes a quote, a backslash or a bracket for the begin of a word with spaces.
_NOT_PLAIN: Final = re.compile(rb"[^A-Za-z0-9._-]")
_MARKERS: Final = frozenset({"[unavailable]", "[tempunavail]"})
_log = structlog.get_logger("gateway.backend")

_SYNTAX_ERROR: Final = 501
_V6_ADDRESS: Final = re.compile(" ADDR=IPV6:[^ ]*")

_NOT_ALLOWED: Final = frozenset({500, 501, 502, 503, 550})
"""Replies about the command, not about the client: unknown, malformed, out of order, or not permitted to us."""

_HELO_NAME: Final = re.compile(r"[!-~]{1,255}")


def xtext(value: str) -> str:
    """Encode a value as xtext, which is one word whatever it stands for."""
    octets = _NOT_PLAIN.sub(lambda match: b"+%02X" % match[0][0], value.encode("utf-8", "surrogateescape"))
    return octets.decode("ascii")


@lru_cache(maxsize=1024)
def _word(value: str | None) -> str:
    """A value as it is sent; ``[UNAVAILABLE]`` where there is none, or none that the server would read as itself."""
    if not value or "\0" in value or value.lower() in _MARKERS:  # a NUL would end it
        return UNAVAILABLE
    written = xtext(value)
    return written if len(written) <= MAX_VALUE else UNAVAILABLE


def _name(session: Session) -> str:
    name = session.client_name
    if name is None:
        return NOT_KNOWN_NOW
    if name.name is None:
        return UNAVAILABLE if name.status is NameStatus.UNKNOWN else NOT_KNOWN_NOW
    return _word(name.name)


def _address(session: Session) -> str:
    address = session.client_address
    return f"IPV6:{address_text(address)}" if isinstance(address, IPv6Address) else str(address)


def identity(session: Session) -> Identity:
    """What a server can be told of a client."""
    server_address, _, server_port = session.server_address.rpartition(":")
    server_address = server_address.strip("[]")
    attributes = {
        "NAME": _name(session),
        "HELO": _word(session.helo_name),
        "PROTO": "ESMTP" if session.extended else "SMTP",
        "LOGIN": _word(session.login),
        "DESTADDR": (f"IPV6:{server_address}" if ":" in server_address else server_address) or UNAVAILABLE,
        "DESTPORT": server_port if server_port.isdecimal() else UNAVAILABLE,
        "SOURCE": "REMOTE",
        "PORT": str(session.client_port) if session.client_port else UNAVAILABLE,
        "ADDR": _address(session),
    }
    return Identity(attributes, session.helo_name, session.login)


def _commands(verb: str, attributes: Mapping[str, str], offered: frozenset[str]) -> list[str]:
    lines: list[str] = []
    line = verb
    for name, value in attributes.items():
        if name not in offered:
            continue
        attribute = f" {name}={value}"
        if len(line) + len(attribute) > MAX_COMMAND and line != verb:
            lines.append(line)
            line = verb
        line += attribute
    if line != verb:
        lines.append(line)
    return lines


def xclient(client: Identity, offered: frozenset[str]) -> list[str]:
    """The XCLIENT commands for a client, none when the server takes no attribute.

    A client without a login gets ``LOGIN=[UNAVAILABLE]``, so that it does not inherit the one before it.
    """
    return _commands("XCLIENT", client.attributes, offered - {"SOURCE"})


def xforward(client: Identity, offered: frozenset[str]) -> list[str]:
    """The XFORWARD commands for a client, none when the server takes no attribute."""
    attributes = client.attributes
    if attributes["NAME"] == NOT_KNOWN_NOW:
        attributes = {**attributes, "NAME": UNAVAILABLE}
    return _commands("XFORWARD", attributes, offered - {"LOGIN", "DESTADDR", "DESTPORT"})


async def announce(
    connection: Connection, opener: Opener, client: Identity, before: list[tuple[Command, str]]
) -> Reply | None:
    """Tell the server by XCLIENT who the client is, unless it knows.

    A server that does not offer XCLIENT gets no mail: it would take the gateway for the client, and may trust its
    address.

    Args:
        connection: The connection.
        opener: Says EHLO.
        client: The client's identity.
        before: Commands to send first; the list is emptied when they were.

    Returns:
        The server's refusal of the client, None when it goes on.

    Raises:
        BackendError: It does not offer the command or refuses it, the client's login can't be said by it, or the
            connection is of no use.
    """
    if connection.client == client:
        return None
    offered = connection.engine.capabilities.xclient
    if client.login is not None and client.attributes["LOGIN"] == UNAVAILABLE and "LOGIN" in offered:
        _log.warning("backend_login_not_announced", server=str(opener.endpoint), login=client.login)
        raise BackendError("the client's login can't be said by XCLIENT", counts=False)
    lines = xclient(client, offered)
    if not lines:
        _log.warning("backend_offers_no_xclient", server=str(opener.endpoint))
        raise BackendError("the server does not offer XCLIENT to the gateway", counts=False)
    for kind, line in [*before, *((Command.XCLIENT, line) for line in lines)]:
        answer = await connection.command(kind, line, opener.timeouts.command)
        if answer.code == _SYNTAX_ERROR and " ADDR=IPV6:" in line:  # a Postfix with inet_protocols = ipv4
            unknown = _V6_ADDRESS.sub(f" ADDR={UNAVAILABLE}", line)
            answer = await connection.command(kind, unknown, opener.timeouts.command)
        if answer.code in _NOT_ALLOWED:
            _log.warning("backend_refused_client_info", server=str(opener.endpoint), command=kind, reply=str(answer))
            raise BackendError(f"the server refused {kind}: {answer}", counts=False)
        if not answer.is_positive:
            connection.quit()
            return answer
    before.clear()
    # The server takes this name for the client's.
    name = client.helo_name
    answer = await opener.hello(connection, name if name is not None and _HELO_NAME.fullmatch(name) else None)
    if answer.code in ABOUT_GATEWAY:
        raise BackendError(f"the server refused EHLO behind XCLIENT: {answer}", counts=False)
    if not answer.is_positive:
        connection.quit()
        return answer
    connection.client = client
    return None
