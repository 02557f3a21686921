"""A table of mail addresses.

===================== =====================================================
Entry                 Matches
===================== =====================================================
``user@example.com``  that address
``@example.com``      every address of the domain (``example.com`` means the same)
``.example.com``      every address of every domain below it
``user@``             that local part in every domain
``<>``                the null reverse-path
===================== =====================================================

Case matters nowhere: RFC 5321 2.4 leaves the local part's to its host, but no list should be evaded by it. A local
part that needs quotes is written with or without them. The narrowest entry is named first.
"""

import re
import unicodedata
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Final

from gateway.smtp.path import Mailbox, NullReversePath, ReversePath
from gateway.tables.names import Domains, read_domain
from gateway.tables.table import Table

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')  # RFC 5321 4.1.2: Quoted-string
_PAIR = re.compile(r"\\(.)")
_PLAIN = re.compile(r"[A-Za-z0-9._+=-]{1,64}")  # what nearly all are: there may be millions
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # RFC 5321 4.1.2: in no form of an address
_SPECIAL = re.compile(r'[()<>\[\]:;,\\"@\s]')  # RFC 5321 4.1.2: what atoms lack
MAX_LOCAL_PART: Final = 253  # octets: a path has at most 256 with its brackets and the @ (RFC 5321 4.5.3.1.3)


def normalize_local_part(local_part: str) -> str:
    """A local part for comparison."""
    return local_part.lower() if local_part.isascii() else unicodedata.normalize("NFC", local_part.lower())


def read_local_part(text: str, entry: str) -> str:
    """Normalize the local part of an entry.

    Raises:
        ValueError: No address has it: it has white space or special characters outside quotes, it is meant as a
            pattern, or it is too long.
    """
    if _PLAIN.fullmatch(text) is not None:
        return text.lower()
    quoted = _QUOTED.fullmatch(text)
    if not text or (quoted is None and any(character.isspace() for character in text)):
        raise ValueError(f"{entry!r} is not an address; one entry a line, with nothing behind it")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_LOCAL_PART:
        raise ValueError(f"{entry[:40]!r}... is longer than an address can be")
    if _CONTROL.search(text) is not None:
        raise ValueError(f"{entry!r} matches no address: it has a control character")
    if quoted is not None:
        return normalize_local_part(_PAIR.sub(r"\1", quoted[1]))
    special = _SPECIAL.search(text)
    if special is not None:
        raise ValueError(f"{entry!r} matches no address: {special[0]!r} stands in none without quotes")
    if "*" in text:
        raise ValueError(f"{entry!r} is a pattern, and none are taken here; @example.com is every address of a domain")
    return normalize_local_part(text)


class Addresses:
    """Addresses, local parts and domains."""

    __slots__ = ("__weakref__", "addresses", "domains", "local_parts", "null")

    def __init__(self) -> None:
        self.addresses: set[tuple[str, str]] = set()
        self.local_parts: set[str] = set()
        self.domains = Domains()
        self.null = False

    def add(self, entry: str) -> None:
        """Take an entry."""
        local_part, at, domain = entry.rpartition("@")
        if entry == "<>":
            self.null = True
        elif not at and "." not in entry:
            raise ValueError(f"{entry!r} is not an address; write @{entry} for a domain, {entry}@ for a local part")
        elif not local_part:
            self.domains.add(domain)
        elif not domain:
            self.local_parts.add(read_local_part(local_part, entry))
        else:
            self.addresses.add((read_local_part(local_part, entry), read_domain(domain, entry)))

    def finish(self) -> None:
        """Nothing is left to do."""

    def groups(self) -> dict[str, AbstractSet[Any]]:
        """All entries by their form."""
        null = {"<>"} if self.null else set[str]()
        return {
            "addresses": self.addresses, "local_parts": self.local_parts, "null": null, **self.domains.groups()
        }  # fmt: skip


class AddressTable(Table[Addresses]):
    """A table of mail addresses."""

    index_type: ClassVar[type[Addresses]] = Addresses
    entry_help: ClassVar[str] = (
        "Addresses (user@example.com), @example.com for a domain, .example.com for the domains below it, user@ for a "
        "local part in every domain, <> for the null reverse-path."
    )

    __slots__ = ()

    def find(self, path: ReversePath) -> str | None:
        """The entry that the path matches, or None."""
        index = self.current()
        if isinstance(path, NullReversePath):
            return "<>" if index.null else None
        return find_mailbox(index, path)

    def __contains__(self, path: ReversePath) -> bool:
        return self.find(path) is not None


def find_mailbox(index: Addresses, mailbox: Mailbox) -> str | None:
    """The entry that an address matches, or None."""
    local_part = normalize_local_part(mailbox.local_part)
    if (local_part, mailbox.domain) in index.addresses:
        return f"{local_part}@{mailbox.domain}"
    domain = index.domains.find(mailbox.domain)
    if domain is not None:
        return domain if domain.startswith(".") else f"@{domain}"
    return f"{local_part}@" if local_part in index.local_parts else None
