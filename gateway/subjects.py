"""Whom limits count: the parts of a mail by which clients, senders and recipients are told apart.

A ``Key`` names a part; ``subjects`` makes the text that stands for its value in the shared state. What is not there (no
login, no SPF pass) has no subject, and is not counted. Domains are in lower case, local parts too: few servers tell
cases apart, and who is counted must not get another bucket by writing ``Bob@``. The same holds for the detail of a
subaddress, ``bob+detail@`` (RFC 5233).

The organizational domain of a client's name is that of the public suffix list (publicsuffix.org), as the installed
``publicsuffixlist`` has it, and not DMARC's (RFC 9989 4.10.2): to find that takes up to 8 questions for each name, and
its owner could say by ``psd=n`` that each host is an organization. See ``docs/decisions/libraries.md``.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache, lru_cache
from typing import Final, TypeAlias

from publicsuffixlist import PublicSuffixList

from gateway.address import address_text
from gateway.mailauth.results import DkimResult, SpfResult
from gateway.session import Address, Recipient, Session, Transaction, without_detail
from gateway.smtp.path import Mailbox
from gateway.state import subject
from gateway.verdict import Stage

_IPV4: Final = 4

SEPARATORS: Final = r"^[^\s@A-Za-z0-9]*$"
"""What a setting of separators looks like: characters that part a user from a detail in a local part."""

SUBADDRESS: Final = (
    "Characters that part a user from a detail, so that `user+x` counts as `user`: in senders, and in recipients of "
    'domains that are not ours. Ours have their own `subaddress`. With `""` each detail counts by itself, everywhere.'
)
"""What a setting of ``separators`` means, for its documentation."""


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


@lru_cache(maxsize=4096)
def network(address: Address, ipv4_prefix: int, ipv6_prefix: int) -> str:
    """The network of an address, of these lengths: ``192.0.2.0/24``; an address alone without a length.

    Remembered: to write an address takes longer than to find out that it was written before.
    """
    length = ipv4_prefix if address.version == _IPV4 else ipv6_prefix
    shift = address.max_prefixlen - length
    if not shift:
        return address_text(address)
    return f"{address_text(type(address)(int(address) >> shift << shift))}/{length}"


@lru_cache(maxsize=4096)
def organizational_domain(name: str) -> str:
    """The organizational domain of a host: its public suffix and one label more, in lower case.

    Suffixes are also those in the list's private part, below which each name has an owner of its own. A top-level
    domain that is not listed is a public suffix. What has no organizational domain (a public suffix, a single label)
    stands for itself. Remembered, because who connects once often connects again.

    Args:
        name: A host name in A-labels, with or without the dot of the root.
    """
    return _public_suffixes().privatesuffix(name) or name.lower().removesuffix(".")


@cache
def _public_suffixes() -> PublicSuffixList:
    """The list: read once a process, in some 30 ms, and 1.5 MB large."""
    return PublicSuffixList()


def spf_domain(transaction: Transaction) -> str | None:
    """The sender's domain if SPF authenticates it (RFC 7208), None otherwise."""
    spf = transaction.authentication.spf
    if spf is None or spf.mail_from.result is not SpfResult.PASS:
        return None
    return spf.mail_from.domain or None


def dkim_domain(transaction: Transaction) -> str | None:
    """The domain that DKIM authenticates (RFC 6376): the one aligned with the author's, or of the first signature."""
    found = transaction.authentication
    if found.dmarc is not None and found.dmarc.dkim_aligned is not None:
        return found.dmarc.dkim_aligned
    passed = (signature.domain for signature in found.dkim or () if signature.result is DkimResult.PASS)
    return next(passed, None)


class Subjects:
    """Makes subjects of keys.

    Args:
        keys: The keys, in the order in which they stand in the text.
        ipv4_prefix: The length of the networks that IPv4 clients are counted by.
        ipv6_prefix: The same for IPv6.
        separators: What parts a user from a detail in senders, and in recipients of domains that are not ours; empty
            where details are counted by themselves, those of our domains, too.
    """

    def __init__(
        self, keys: Sequence[Key], ipv4_prefix: int = 32, ipv6_prefix: int = 64, separators: str = "+"
    ) -> None:
        self._keys = tuple(keys)
        self._separators = separators
        self._prefixes = (ipv4_prefix, ipv6_prefix)
        if Key.CLIENT_DOMAIN in self._keys:
            _public_suffixes()  # read at the start, not while clients wait
        self._parts = [self._part(key) for key in keys]

    @property
    def asks_dns(self) -> bool:
        """Whether the client's name is needed, which is looked up first."""
        return Key.CLIENT_NAME in self._keys or Key.CLIENT_DOMAIN in self._keys

    def of(
        self, session: Session, transaction: Transaction | None = None, recipient: Recipient | None = None
    ) -> str | None:
        """The subject; None where a part of it is not there."""
        values: list[str] = []
        for part in self._parts:
            value = part(session, transaction, recipient)
            if value is None:
                return None
            values.append(value)
        return _text(self._keys, tuple(values))

    def _part(self, key: Key) -> "_Part":
        """What finds the value of a key: chosen once, because a message asks for it at each limit."""
        separators = self._separators
        if key is Key.CLIENT_ADDRESS:
            return lambda session, _transaction, _recipient: network(session.client_address, *self._prefixes)
        if key in _OF_SESSION:
            of_session = _OF_SESSION[key]
            return lambda session, _transaction, _recipient: of_session(session)
        if key is Key.REVERSE_PATH:
            return lambda _session, transaction, _recipient: sender(transaction, separators) if transaction else None
        if key is Key.RECIPIENT:
            return lambda _session, _transaction, recipient: wanted(recipient, separators) if recipient else None
        if key in _OF_TRANSACTION:
            of_transaction = _OF_TRANSACTION[key]
            return lambda _session, transaction, _recipient: of_transaction(transaction) if transaction else None
        return lambda _session, _transaction, recipient: recipient.path.domain if recipient else None


@lru_cache(maxsize=4096)
def _text(keys: tuple[Key, ...], values: tuple[str, ...]) -> str:
    """The subject of these values; remembered, because who sends one message often sends more."""
    return subject(**dict(zip(keys, values, strict=True)))


def _client_name(session: Session) -> str | None:
    return None if session.client_name is None else session.client_name.name


def _client_domain(session: Session) -> str | None:
    name = _client_name(session)
    return None if name is None else organizational_domain(name)


def user_address(path: Mailbox, separators: str) -> str:
    """An address as it is compared: in lower case, and without a detail where there are separators."""
    local_part = path.local_part.lower()
    if separators:
        local_part = without_detail(local_part, separators) or local_part
    return f"{local_part}@{path.domain}"


def sender(transaction: Transaction, separators: str) -> str:
    """The sender as it is compared; ``<>`` for the null reverse-path."""
    path = transaction.reverse_path
    return user_address(path, separators) if isinstance(path, Mailbox) else "<>"


def wanted(recipient: Recipient, separators: str) -> str:
    """A recipient as it is compared: one of ours by its domain's separators, unless there are to be none."""
    if separators and recipient.domain is not None:
        separators = recipient.domain.subaddress_separators
    return user_address(recipient.path, separators)


_Part: TypeAlias = Callable[[Session, Transaction | None, Recipient | None], str | None]

_OF_SESSION: Final[Mapping[Key, Callable[[Session], str | None]]] = {
    Key.CLIENT_NAME: _client_name,
    Key.CLIENT_DOMAIN: _client_domain,
    Key.HELO_NAME: lambda session: session.helo_name and session.helo_name.lower(),
    Key.LOGIN: lambda session: session.login,
}
_OF_TRANSACTION: Final[Mapping[Key, Callable[[Transaction], str | None]]] = {
    Key.REVERSE_PATH_DOMAIN: lambda mail: mail.reverse_path.domain if isinstance(mail.reverse_path, Mailbox) else "<>",
    Key.SPF_DOMAIN: spf_domain,
    Key.DKIM_DOMAIN: dkim_domain,
}
