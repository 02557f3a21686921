"""Trace fields: ``Received`` and ``Authentication-Results``, which the gateway puts on top of a message.

RFC 5321 4.4 has the form of the first, RFC 3848 and RFC 6531 4.3 its words for the protocol; RFC 8601 has the second.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from gateway.mailauth.authentication_results import authentication_results
from gateway.session import Transaction

_UNSAFE: Final = re.compile(r'[()<>@;"\\]')
"""What in a client's own words could pass for another part of a Received field, such as a comment (RFC 5322 3.2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """By what names the gateway goes.

    Attributes:
        hostname: Its own.
        authserv_id: Under which it adds Authentication-Results, None where it adds none.
    """

    hostname: str
    authserv_id: str | None = None


def sender_authentication(transaction: Transaction, *, authserv_id: str | None, address: str) -> list[bytes]:
    """The Authentication-Results field, with its CRLF; none where no policy looked at who sent the message.

    Args:
        transaction: The transaction.
        authserv_id: The gateway's name in it, None where it adds none.
        address: The client's address as text.
    """
    found = transaction.authentication
    spf, dkim, arc, dmarc = found.spf, found.dkim, found.arc, found.dmarc
    if authserv_id is None or (spf is None and dkim is None and arc is None and dmarc is None):
        return []
    field = authentication_results(
        authserv_id,
        spf=spf,
        dkim=dkim,
        arc=arc,
        dmarc=dmarc,
        mail_from=transaction.reverse_path.text,
        helo_name=transaction.session.helo_name,
        client_address=address,
        client_name=transaction.session.client_name,
        login=transaction.session.login,
        smtputf8=any(parameter.keyword == "SMTPUTF8" for parameter in transaction.parameters),
    )
    return [field]


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
    if transaction.parameters and any(parameter.keyword == "SMTPUTF8" for parameter in transaction.parameters):
        protocol = "UTF8" + protocol.removeprefix("E")  # RFC 6531 4.3: UTF8SMTP, UTF8SMTPS, UTF8SMTPSA
    lines = [f"Received: from {_harmless(session.helo_name or 'unknown')} ({name or 'unknown'} {literal})"]
    if session.tls is not None:
        lines.append(f"\t(using {session.tls.version} with cipher {session.tls.cipher} ({session.tls.bits} bits))")
    lines.append(f"\tby {hostname} (Lychgate) with {protocol} id {transaction.id}")
    recipients = transaction.recipients
    accepted = recipients if len(recipients) == 1 else transaction.accepted  # the only one is no refused one
    if len(accepted) == 1:  # naming one of several would betray the others (RFC 5321 7.2)
        lines.append(f"\tfor <{accepted[0].path.text}>")
    date = _date(int(now))
    return ("\r\n".join(lines) + f";\r\n\t{date}\r\n").encode("utf-8", "surrogateescape")


@lru_cache(maxsize=512)
def _harmless(helo_name: str) -> str:
    return _UNSAFE.sub("?", helo_name)


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    """A date as RFC 5322 3.3 writes it; one for all messages of a second."""
    return format_datetime(datetime.fromtimestamp(second, UTC))
