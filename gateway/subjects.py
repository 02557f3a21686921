"""Whom limits count: the parts of a mail by which clients, senders and recipients are told apart.

A ``Key`` names a part; ``subjects`` makes the text that stands for its value in the shared state. What is not there (no
login, no SPF pass) has no subject, and is not counted. Domains are in lower case, local parts too: few servers tell
cases apart, and who is counted must not get another bucket by writing ``Bob@``.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from gateway.mailauth.results import DkimResult, SpfResult
from gateway.session import Address, Recipient, Session, Transaction
from gateway.smtp.path import Mailbox
from gateway.state import subject
from gateway.verdict import Stage

_IPV4: Final = 4


class Key(StrEnum):
    """A part of a mail by which it is counted."""

    CLIENT_ADDRESS = "client_address"
    CLIENT_NAME = "client_name"
    CLIENT_DOMAIN = "client_domain"
    HELO_NAME = "helo_name"
    LOGIN = "login"
    REVERSE_PATH = "reverse_path"
    REVERSE_PATH_DOMAIN = "reverse_path_domain"
    SPF_DOMAIN = "spf_domain"
    RECIPIENT = "recipient"
    RECIPIENT_DOMAIN = "recipient_domain"
    DKIM_DOMAIN = "dkim_domain"

    @property
    def known_at(self) -> Stage:
        """The first stage at which it is known."""
        return _KNOWN_AT[self]


_KNOWN_AT: Final[Mapping[Key, Stage]] = {
    Key.CLIENT_ADDRESS: Stage.CONNECT,
    Key.CLIENT_NAME: Stage.CONNECT,
    Key.CLIENT_DOMAIN: Stage.CONNECT,
    Key.HELO_NAME: Stage.HELO,
    Key.LOGIN: Stage.MAIL,
    Key.REVERSE_PATH: Stage.MAIL,
    Key.REVERSE_PATH_DOMAIN: Stage.MAIL,
    Key.SPF_DOMAIN: Stage.MAIL,
    Key.RECIPIENT: Stage.RCPT,
    Key.RECIPIENT_DOMAIN: Stage.RCPT,
    Key.DKIM_DOMAIN: Stage.MESSAGE,
}
ORDER: Final = tuple(Stage)


def known_at(keys: Sequence[Key]) -> Stage:
    """The first stage at which all of these are known."""
    return max((key.known_at for key in keys), key=ORDER.index)


def network(address: Address, ipv4_prefix: int, ipv6_prefix: int) -> str:
    """The network of an address, of these lengths: ``192.0.2.0/24``; an address alone without a length."""
    length = ipv4_prefix if address.version == _IPV4 else ipv6_prefix
    shift = address.max_prefixlen - length
    if not shift:
        return str(address)
    return f"{type(address)(int(address) >> shift << shift)}/{length}"


def spf_domain(transaction: Transaction) -> str | None:
    """The sender's domain if SPF authenticates it (RFC 7208), None otherwise."""
    spf = transaction.spf
    if spf is None or spf.mail_from.result is not SpfResult.PASS:
        return None
    return spf.mail_from.domain or None


def dkim_domain(transaction: Transaction) -> str | None:
    """The domain that DKIM authenticates (RFC 6376): the one aligned with the author's, or of the first signature."""
    if transaction.dmarc is not None and transaction.dmarc.dkim_aligned is not None:
        return transaction.dmarc.dkim_aligned
    passed = (signature.domain for signature in transaction.dkim or () if signature.result is DkimResult.PASS)
    return next(passed, None)


class Subjects:
    """Makes subjects of keys.

    Args:
        keys: The keys, in the order in which they stand in the text.
        ipv4_prefix: The length of the networks that IPv4 clients are counted by.
        ipv6_prefix: The same for IPv6.
    """

    def __init__(self, keys: Sequence[Key], ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> None:
        self._keys = keys
        self._prefixes = (ipv4_prefix, ipv6_prefix)

    @property
    def asks_dns(self) -> bool:
        """Whether the client's name is needed, which is looked up first."""
        return Key.CLIENT_NAME in self._keys or Key.CLIENT_DOMAIN in self._keys

    def of(
        self, session: Session, transaction: Transaction | None = None, recipient: Recipient | None = None
    ) -> str | None:
        """The subject; None where a part of it is not there."""
        parts: dict[str, str] = {}
        for key in self._keys:
            value = self._session_part(key, session)
            if value is None and transaction is not None:
                value = _transaction_part(key, transaction)
            if value is None and recipient is not None:
                value = _recipient_part(key, recipient)
            if value is None:
                return None
            parts[key] = value
        return subject(**parts)

    def _session_part(self, key: Key, session: Session) -> str | None:
        if key is Key.CLIENT_ADDRESS:
            return network(session.client_address, *self._prefixes)
        if key in {Key.CLIENT_NAME, Key.CLIENT_DOMAIN}:
            name = None if session.client_name is None else session.client_name.name
            if name is None:
                return None
            above = name.partition(".")[2]
            return above if key is Key.CLIENT_DOMAIN and "." in above else name
        if key is Key.HELO_NAME:
            return None if session.helo_name is None else session.helo_name.lower()
        return session.login if key is Key.LOGIN else None


def _transaction_part(key: Key, transaction: Transaction) -> str | None:
    path = transaction.reverse_path
    if key is Key.REVERSE_PATH:
        return f"{path.local_part.lower()}@{path.domain}" if isinstance(path, Mailbox) else "<>"
    if key is Key.REVERSE_PATH_DOMAIN:
        return path.domain if isinstance(path, Mailbox) else "<>"
    if key is Key.SPF_DOMAIN:
        return spf_domain(transaction)
    return dkim_domain(transaction) if key is Key.DKIM_DOMAIN else None


def _recipient_part(key: Key, recipient: Recipient) -> str | None:
    path = recipient.path
    if key is Key.RECIPIENT:
        return f"{path.local_part.lower()}@{path.domain}"
    return path.domain if key is Key.RECIPIENT_DOMAIN else None
