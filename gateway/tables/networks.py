"""A table of networks.

An entry is a network in CIDR form (``192.0.2.0/24``, ``2001:db8::/32``) or one address. The bits behind the prefix
must be zero, because a network written as ``192.0.2.1/24`` may mean either the one address or all of them.
IPv4-mapped IPv6 addresses (RFC 4291 2.5.5.2) are the IPv4 addresses that they carry, in entries and in questions.

The networks of one prefix length are one set of integers, so a look-up costs at most one hash look-up for each prefix
length in use (33 for IPv4, 129 for IPv6), however many networks there are.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import ClassVar, Final

from gateway.tables.table import Table

_MAPPED_PREFIX: Final = 96
"""Bits before the IPv4 address in an IPv4-mapped one."""

_IPV6: Final = 6


class _Networks:
    """The prefixes of each length, longest first, for one version of IP each."""

    __slots__ = ("__weakref__", "by_version")

    def __init__(self) -> None:
        # (bits to shift away, prefixes): few enough that a sorted list is quicker than anything clever.
        self.by_version: dict[int, list[tuple[int, set[int]]]] = {4: [], 6: []}

    def add(self, entry: str) -> None:
        text, slash, length_text = entry.partition("/")
        try:
            address = ip_address(text)
        except ValueError:
            raise ValueError(f"{entry!r} is not a network such as 192.0.2.0/24, nor an address") from None
        bits: int = address.max_prefixlen
        length = bits
        if slash:
            if not (length_text.isdecimal() and length_text.isascii() and int(length_text) <= bits):
                raise ValueError(f"{entry!r}: the prefix length must be a number from 0 to {bits}")
            length = int(length_text)
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                raise ValueError(f"{entry!r}: a zone has no meaning here")
            if address.ipv4_mapped is not None and length >= _MAPPED_PREFIX:
                address, bits, length = address.ipv4_mapped, 32, length - _MAPPED_PREFIX
        shift = bits - length
        number = int(address)
        if number >> shift << shift != number:
            network = ip_network((number >> shift << shift, length) if bits == 32 else (address, length), strict=False)  # noqa: PLR2004 - IPv4
            raise ValueError(f"{entry!r} has bits behind its prefix: write {network} or the address alone")
        prefixes = self.by_version[address.version]
        for known_shift, numbers in prefixes:
            if known_shift == shift:
                numbers.add(number >> shift)
                return
        prefixes.append((shift, {number >> shift}))
        prefixes.sort(key=lambda pair: pair[0])

    def finish(self) -> None:
        pass

    def groups(self) -> dict[tuple[int, int], set[int]]:
        return {
            (version, shift): numbers for version, prefixes in self.by_version.items() for shift, numbers in prefixes
        }


class NetworkTable(Table[_Networks]):
    """A table of networks."""

    index_type: ClassVar[type[_Networks]] = _Networks
    entry_help: ClassVar[str] = "Networks (192.0.2.0/24, 2001:db8::/32) or addresses."

    __slots__ = ()

    def find(self, address: IPv4Address | IPv6Address) -> str | None:
        """The smallest network of the table that has the address, or None."""
        if address.version == _IPV6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number = int(address)
        for shift, numbers in self.current().by_version[address.version]:
            if number >> shift in numbers:
                network = type(address)(number >> shift << shift)
                return f"{network}/{address.max_prefixlen - shift}" if shift else str(network)
        return None

    def networks(self) -> Iterator[IPv4Network | IPv6Network]:
        """Its networks."""
        for version, make in ((4, IPv4Network), (6, IPv6Network)):
            bits = 32 if version == 4 else 128  # noqa: PLR2004 - IPv4
            for shift, numbers in self.current().by_version[version]:
                yield from (make((number << shift, bits - shift)) for number in numbers)

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        return self.find(address) is not None
