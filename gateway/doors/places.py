"""The places for connections: how many clients a worker serves at one time, in all and of one client.

One ``Places`` counts for all listeners of a worker. A connection has its place until it is really gone: one that is
being closed still takes a descriptor, under TLS until its client has answered or its time is over.
"""

from ipaddress import IPv6Address, ip_network

from gateway.config.model import Config


class Places:
    """Counts connections.

    Args:
        config: Says how many there may be.

    Attributes:
        limit: This worker's share of the connections in all.
    """

    def __init__(self, config: Config) -> None:
        self.limit = -(-config.limits.connections // config.workers)
        self._of_one_client = config.limits.connections_per_client
        self._taken = 0
        self._clients: dict[str, int] = {}

    def take(self, address: str) -> bool:
        """A client has connected from an address; returns whether there is room. It is counted in any case."""
        client = one_client(address)
        self._taken += 1
        of_client = self._clients.get(client, 0) + 1
        self._clients[client] = of_client
        return self._taken <= self.limit and not 0 < self._of_one_client < of_client

    def leave(self, address: str) -> None:
        """Its connection is gone."""
        client = one_client(address)
        self._taken -= 1
        left = self._clients.pop(client, 0) - 1
        if left > 0:
            self._clients[client] = left


def one_client(address: str) -> str:
    """What counts as one client: an IPv4 address, and the /64 of an IPv6 address, which is one site (RFC 6177).

    An IPv4-mapped one, as load balancers may tell it, is the IPv4 address.
    """
    if ":" not in address:
        return address
    full = IPv6Address(address.partition("%")[0])
    return str(full.ipv4_mapped or ip_network((full, 64), strict=False))
