"""A table of host and domain names.

An entry is ``mail.example.com`` (that name alone), or ``.example.com`` or ``*.example.com`` (every name below it, at
any depth, but not ``example.com`` itself), or an address literal ``[192.0.2.1]``, as HELO may have. Case and a final
dot do not matter; a name in another script is its A-labels (``xn--``).

A look-up costs one hash look-up for each label of the name asked for, however many entries there are.
"""

import re
from functools import lru_cache
from typing import ClassVar, Final

import idna

from gateway.smtp.grammar import GrammarError, parse_mailbox
from gateway.tables.table import Table

MAX_NAME: Final = 255
"""Octets of a name (RFC 1035 2.3.4). Nothing longer can match, and so nothing longer is taken apart."""

# Host names, more freely than RFC 5321's Domain: underscores occur, and an entry must be able to name what clients say.
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_MAX_LABEL: Final = 63  # RFC 1035 2.3.4


def normalize_domain(name: str) -> str:
    """A domain for comparison: lower case, A-labels, no final dot; what has no such form stays as it is."""
    name = name.lower().removesuffix(".")
    try:
        if name.startswith("["):
            return parse_mailbox(f"postmaster@{name}").domain  # one form for each address, as in paths
        return name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    except (GrammarError, idna.IDNAError):
        return name


def read_domain(text: str, entry: str) -> str:
    """Check and normalize the domain of an entry.

    Raises:
        ValueError: It is no domain.
    """
    domain = _checked(text)
    if domain is None:
        raise ValueError(f"{entry!r}: {text!r} is not a domain name")
    return domain


@lru_cache(maxsize=1024)  # a million addresses are of a few domains
def _checked(text: str) -> str | None:
    """The domain normalized, None if it is none."""
    domain = normalize_domain(text)
    if len(domain) > MAX_NAME or not (_is_literal(domain) if domain.startswith("[") else _is_name(domain)):
        return None
    return domain


def _is_name(domain: str) -> bool:
    return _NAME.fullmatch(domain) is not None and max(map(len, domain.split("."))) <= _MAX_LABEL


def _is_literal(domain: str) -> bool:
    """Whether an address stands in the brackets (RFC 5321 4.1.3)."""
    try:
        parse_mailbox(f"postmaster@{domain}")
    except GrammarError:
        return False
    return True


class Domains:
    """Names, and the domains whose subdomains are meant."""

    __slots__ = ("__weakref__", "exact", "parents")

    def __init__(self) -> None:
        self.exact: set[str] = set()
        self.parents: set[str] = set()

    def add(self, entry: str) -> None:
        """Take a name or ``.example.com``."""
        parent = entry.removeprefix("*")
        if parent.startswith("."):
            self.parents.add(read_domain(parent[1:], entry))
        else:
            self.exact.add(read_domain(entry, entry))

    def finish(self) -> None:
        """Nothing is left to do."""

    def groups(self) -> dict[str, set[str]]:
        """All names, and all domains whose subdomains are meant."""
        return {"exact": self.exact, "parents": self.parents}

    def find(self, domain: str) -> str | None:
        """The entry that a normalized domain matches, the narrowest first."""
        if len(domain) > MAX_NAME:
            return None
        if domain in self.exact:
            return domain
        if self.parents:
            dot = domain.find(".")
            while dot >= 0:
                if domain[dot + 1 :] in self.parents:
                    return domain[dot:]
                dot = domain.find(".", dot + 1)
        return None


class NameTable(Table[Domains]):
    """A table of host and domain names."""

    index_type: ClassVar[type[Domains]] = Domains
    entry_help: ClassVar[str] = "Names (mail.example.com), or .example.com for every name below it."

    __slots__ = ()

    def find(self, name: str) -> str | None:
        """The entry that the name matches, or None."""
        return self.current().find(normalize_domain(name))

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None
