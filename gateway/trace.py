"""Trace fields: the ``Received`` field that the gateway puts on top of a message.

RFC 5321 4.4 has its form, RFC 3848 and RFC 6531 4.3 its words for the protocol.
"""

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from gateway.session import Transaction

_UNSAFE: Final = re.compile(r'[()<>@;"\\]')
"""What in a client's own words could pass for another part of a Received field, such as a comment (RFC 5322 3.2.2)."""


def received(transaction: Transaction, *, hostname: str, address: str, now: float) -> bytes:
    """The Received field for a transaction (RFC 5321 4.4), with its CRLF.

    Args:
        transaction: The transaction, its recipients decided.
        hostname: The gateway's name.
        address: The client's address as text.
        now: UNIX time in seconds.
    """
    session = transaction.session
    name = session.client_name.name if session.client_name is not None else None
    literal = f"[IPv6:{address}]" if isinstance(session.client_address, IPv6Address) else f"[{address}]"
    protocol = session.protocol
    if any(parameter.keyword == "SMTPUTF8" for parameter in transaction.parameters):
        protocol = "UTF8" + protocol.removeprefix("E")  # RFC 6531 4.3: UTF8SMTP, UTF8SMTPS, UTF8SMTPSA
    helo_name = _UNSAFE.sub("?", session.helo_name or "unknown")
    lines = [f"Received: from {helo_name} ({name or 'unknown'} {literal})"]
    if session.tls is not None:
        lines.append(f"\t(using {session.tls.version} with cipher {session.tls.cipher} ({session.tls.bits} bits))")
    lines.append(f"\tby {hostname} (Lychgate) with {protocol} id {transaction.id}")
    accepted = transaction.accepted
    if len(accepted) == 1:  # naming one of several would betray the others (RFC 5321 7.2)
        lines.append(f"\tfor <{accepted[0].path}>")
    date = _date(int(now))
    return ("\r\n".join(lines) + f";\r\n\t{date}\r\n").encode("utf-8", "surrogateescape")


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    """A date as RFC 5322 3.3 writes it; one for all messages of a second."""
    return format_datetime(datetime.fromtimestamp(second, UTC))
