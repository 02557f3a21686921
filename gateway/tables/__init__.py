"""Look-up tables for policies: networks, names, addresses, and the recipients of a domain.

Each is a field type for a policy's options. An administrator writes it as a list, or names a file, or both::

    trusted: [192.0.2.0/24, "2001:db8::/32"]
    trusted: {file: trusted.txt}
    trusted: {list: [192.0.2.0/24], file: trusted.txt}

What the entries of each kind look like stands at the top of its module. Files are read and watched by ``table``.
However many entries a table has, a look-up costs the same: a fixed number of hash look-ups.
"""

from gateway.tables.addresses import AddressTable
from gateway.tables.kept import KeptTable, ListStatus, Shelf
from gateway.tables.names import NameTable
from gateway.tables.networks import NetworkTable
from gateway.tables.recipients import AddressList, ListKind, RecipientFile
from gateway.tables.table import Losses, Table

__all__ = [
    "AddressList",
    "AddressTable",
    "KeptTable",
    "ListKind",
    "ListStatus",
    "Losses",
    "NameTable",
    "NetworkTable",
    "RecipientFile",
    "Shelf",
    "Table",
]
