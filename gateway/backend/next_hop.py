"""The MX hosts of a domain as endpoints (RFC 5321 5.1, RFC 7505).

Hosts are ordered by preference, equal ones shuffled. A domain without MX is its own MX of preference 0, by its address
records; a null MX says that it takes no mail: no endpoints. Nor has a domain that does not exist any, which is believed
when the questions for its addresses say so, too. Each host's addresses are asked for here, IPv6 first. At most
``MAX_HOSTS`` hosts are used. What holds for a part of the hosts only, because of others nothing could be told, does not
last.
"""

import asyncio
import ipaddress
import random
from dataclasses import dataclass
from typing import Final

from gateway.address import address_text
from gateway.backend.opening import Endpoint
from gateway.config.backend import NextHop
from gateway.resolver import RecordType, Resolver, Status

MAX_HOSTS: Final = 10
"""Hosts of one domain; Postfix's smtp_mx_address_limit is 5 addresses."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up came to.

    Attributes:
        endpoints: In the order to try them.
        expires: For how many seconds it holds (later: until when); 0 where of a host nothing could be told.
    """

    endpoints: tuple[Endpoint, ...]
    expires: float


async def expand(resolver: Resolver, hop: NextHop, port: int) -> Found | None:
    """Look the MX hosts of a domain up; None when nothing can be told now."""
    answer = await resolver.lookup(hop.target, RecordType.MX)
    if answer.status.is_temporary:
        return None
    hosts = [(0, hop.target)]
    if answer.status is Status.FOUND:
        pairs = [record.split() for record in answer.records]
        hosts = [(int(preference), exchange.rstrip(".").lower()) for preference, exchange in pairs if exchange != "."]
    random.shuffle(hosts)
    hosts.sort(key=lambda host: host[0])
    hosts = hosts[:MAX_HOSTS]
    addresses = await asyncio.gather(*(_addresses(resolver, name) for _, name in hosts))
    endpoints = tuple(
        Endpoint(name=name, addresses=found, port=port)
        for (_, name), found in zip(hosts, addresses, strict=True)
        if found
    )
    untold = None in addresses
    if untold and not endpoints:
        return None
    return Found(endpoints, 0.0 if untold else answer.ttl)


async def _addresses(resolver: Resolver, name: str) -> tuple[str, ...] | None:
    answers = await asyncio.gather(resolver.lookup(name, RecordType.AAAA), resolver.lookup(name, RecordType.A))
    found = tuple(address_text(ipaddress.ip_address(record)) for answer in answers for record in answer.records)
    if not found and any(answer.status.is_temporary for answer in answers):
        return None
    return found
