"""DNS by dnspython: the ``Resolver`` of a running gateway.

Asks recursive name servers over UDP, over TCP where an answer is truncated (RFC 7766), with EDNS and a payload that
needs no fragments. Every way a question can end is a ``Status``; ``lookup`` never raises for it. Owned
state: a bounded cache (answers by their TTL, negative ones by the SOA's, RFC 2308 5, failures for a few seconds, RFC
9520), and the questions in flight, so that identical ones are asked once. The number of questions in flight is bounded:
those above it wait their turn within their own time-out, and each is given up after ``timeout`` whatever the servers
do.

Known limits: DNSSEC is the recursive server's business; a changed ``/etc/resolv.conf`` is read at the next reload.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdata
import dns.resolver
import structlog

from gateway.resolver import Answer, RecordType, Status

log = structlog.get_logger("lychgate.dns")

MAX_TTL: Final = 86_400.0
"""The longest an answer is kept in seconds: RFC 8767 4 wants a cap of days, a week at most."""
MAX_NEGATIVE_TTL: Final = 3 * 3600.0
"""The longest a negative answer is kept in seconds (RFC 2308 5)."""
FAILURE_TTL: Final = 5.0
"""How long a failure is remembered in seconds (RFC 9520 3.2: at least 1 second, at most 5 minutes)."""
PAYLOAD: Final = 1232
"""The UDP payload in octets that EDNS announces: it fits IPv6's smallest packet (RFC 8200 5)."""

_PORT: Final = 53
_MAX_PORT: Final = 65535
_Key = tuple[str, RecordType]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cached answer, and until when it holds by the clock."""

    answer: Answer
    expires: float


class DnsResolver:
    """Answers DNS questions from the cache or a name server; one for each worker.

    Attributes:
        queries: How many questions went to the name servers.
    """

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        timeout: float = 5.0,
        cache: int = 10_000,
        concurrency: int = 500,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked yet, so a resolver can be made while no server can be reached.

        Args:
            servers: ``address`` or ``address:port`` (``[address]:port`` for IPv6) of recursive name servers, asked in
                this order; empty for those of ``resolv_conf``.
            timeout: Seconds for one question in all, over all servers and tries.
            cache: How many answers are kept; the longest unused goes first.
            concurrency: How many questions are in flight at once; each holds a socket.
            resolv_conf: Where the system names its servers; without any, the local machine is asked, as resolv.conf(5)
                says.
            clock: Seconds that never go back, for the cache.
        """
        self.queries = 0
        self._timeout = timeout
        self._room = cache
        self._clock = clock
        self._cache: OrderedDict[_Key, _Entry] = OrderedDict()
        self._in_flight: dict[_Key, asyncio.Task[Answer]] = {}
        self._places = asyncio.Semaphore(concurrency)
        self._resolver = _stub_resolver([parse_server(server) for server in servers], timeout, resolv_conf)
        self._backend = dns.asyncbackend.get_backend("asyncio")

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Ask one question. The name is in A-labels, with or without the final dot."""
        key = (name.lower().removesuffix("."), record_type)
        cached = self._cached(key)
        if cached is not None:
            return cached
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key), name=f"dns {record_type}")
            self._in_flight[key] = task
        # Others may wait for the same answer, so whoever gives up does not stop the question; its own time-out ends it.
        return await asyncio.shield(task)

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """The cached answer, None if there is none."""
        return self._cached((name.lower().removesuffix("."), record_type))

    async def close(self) -> None:
        """Stop the questions in flight."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cached(self, key: _Key) -> Answer | None:
        entry = self._cache.get(key)
        if entry is None:
            return None
        left = entry.expires - self._clock()
        if left <= 0:
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return replace(entry.answer, ttl=left)

    async def _ask(self, key: _Key) -> Answer:
        try:
            answer = await self._query(*key)
            self._keep(key, answer)
            return answer
        finally:
            del self._in_flight[key]

    def _keep(self, key: _Key, answer: Answer) -> None:
        if self._room <= 0 or answer.ttl <= 0:
            return
        while len(self._cache) >= self._room:
            self._cache.popitem(last=False)
        self._cache[key] = _Entry(answer, self._clock() + answer.ttl)

    async def _query(self, name: str, record_type: RecordType) -> Answer:
        try:
            qname = dns.name.from_text(name.encode("ascii"), dns.name.root)
        except (dns.exception.DNSException, UnicodeEncodeError):
            return Answer(Status.NXDOMAIN, ttl=FAILURE_TTL)  # it can't be written in the DNS, so it is not in it
        try:
            async with asyncio.timeout(self._timeout), self._places:
                self.queries += 1
                found = await self._resolver.resolve(
                    qname, record_type.value, raise_on_no_answer=False, search=False, backend=self._backend
                )
        except (TimeoutError, dns.resolver.LifetimeTimeout):
            return self._failed(Status.TIMEOUT, name, record_type)
        except dns.resolver.NXDOMAIN as error:
            response: Any = error.kwargs["responses"][qname]
            return Answer(Status.NXDOMAIN, ttl=min(float(response.resolve_chaining().minimum_ttl), MAX_NEGATIVE_TTL))
        except (dns.exception.DNSException, OSError) as error:
            return self._failed(Status.SERVFAIL, name, record_type, error=type(error).__name__)
        ttl = float(found.chaining_result.minimum_ttl)
        if found.rrset is None:
            return Answer(Status.NO_DATA, ttl=min(ttl, MAX_NEGATIVE_TTL))
        return Answer(Status.FOUND, tuple(_text(record_type, rdata) for rdata in found.rrset), min(ttl, MAX_TTL))

    def _failed(self, status: Status, name: str, record_type: RecordType, **detail: str) -> Answer:
        log.info("dns question failed", status=status.value, name=name, type=record_type.value, **detail)
        return Answer(status, ttl=FAILURE_TTL)


def parse_server(text: str) -> tuple[str, int]:
    """Read a name server's address and port: ``192.0.2.1``, ``192.0.2.1:53``, ``2001:db8::1``, ``[2001:db8::1]:53``.

    Raises:
        ValueError: It is none.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and rest == port):
            raise ValueError(f"{text!r} is not the address of a name server")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ipaddress.ip_address(host))
        number = int(port) if port else _PORT
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not the address of a name server, such as 192.0.2.1 or [2001:db8::1]:53"
        ) from error
    if not 0 < number <= _MAX_PORT:
        raise ValueError(f"{text!r}: there is no port {number}")
    return address, number


def _stub_resolver(servers: Sequence[tuple[str, int]], timeout: float, resolv_conf: Path) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    if not servers:
        servers = _system_servers(resolv_conf)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in servers]
    resolver.lifetime = timeout
    resolver.timeout = timeout / (len(servers) + 1)  # so that within the time-out each is tried, and the first again
    resolver.use_edns(0, 0, PAYLOAD)
    resolver.flags = dns.flags.RD
    return resolver


def _system_servers(resolv_conf: Path) -> list[tuple[str, int]]:
    found = dns.resolver.Resolver(configure=False)
    try:
        found.read_resolv_conf(str(resolv_conf))
    except (OSError, ValueError, dns.exception.DNSException) as error:
        log.warning("no name servers configured, asking the local machine", file=str(resolv_conf), error=str(error))
        return [("127.0.0.1", _PORT)]
    return [(str(address), _PORT) for address in found.nameservers]


def _text(record_type: RecordType, rdata: Any) -> str:
    match record_type:
        case RecordType.A | RecordType.AAAA:
            return str(rdata.address)
        case RecordType.TXT:
            return b"".join(rdata.strings).decode("latin-1")
        case RecordType.MX:
            return f"{rdata.preference} {rdata.exchange.to_text(omit_final_dot=True)}"
        case RecordType.CNAME | RecordType.NS | RecordType.PTR:
            return str(rdata.target.to_text(omit_final_dot=True))
        case RecordType.SOA:
            return str(rdata.to_text())
