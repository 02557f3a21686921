"""IP addresses as text, and which of them are reached over the Internet: the same on every Python.

Python writes an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) with hexadecimal digits up to 3.12 and with dots from 3.13
on, and which addresses it calls global depends on its patch level. Texts of addresses are keys of what is counted and
compared, so they are made here.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

_LOW: Final = 0xFFFF

# The IANA Special-Purpose Address Registries (RFC 6890): what is not globally reachable, multicast, and what within
# these is reachable after all.
_LOCAL4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
)  # fmt: skip
_GLOBAL4: Final = (IPv4Address("192.0.0.9"), IPv4Address("192.0.0.10"))
_UNICAST6: Final = IPv6Network("2000::/3")  # RFC 4291 2.4: all that has been given out
_LOCAL6: Final = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_GLOBAL6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:3::/32", "2001:4:112::/48", "2001:20::/28",
        "2001:30::/28",
    )
)  # fmt: skip


def address_text(address: IPv4Address | IPv6Address) -> str:
    """An address as text; of an IPv4-mapped one the IPv4 address in hexadecimal digits, ``::ffff:c000:201``."""
    if isinstance(address, IPv4Address) or address.ipv4_mapped is None:
        return str(address)
    number = int(address.ipv4_mapped)
    zone = "" if address.scope_id is None else f"%{address.scope_id}"
    return f"::ffff:{number >> 16:x}:{number & _LOW:x}{zone}"


def network_text(network: IPv4Network | IPv6Network) -> str:
    """A network as text, with its length."""
    return f"{address_text(network.network_address)}/{network.prefixlen}"


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address can be one that is reached over the Internet; an IPv4-mapped one counts as what it carries."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            is_local = address not in _UNICAST6 or any(address in network for network in _LOCAL6)
            return not is_local or any(address in network for network in _GLOBAL6)
        address = address.ipv4_mapped
    return address in _GLOBAL4 or not any(address in network for network in _LOCAL4)
