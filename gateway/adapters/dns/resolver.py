"""The DNS: the ``Resolver`` of a running gateway.

Asks recursive name servers, over UDP with EDNS and over TCP where an answer is truncated (RFC 7766). Every way a
question can end is a ``Status``; ``lookup`` never raises for it. The files beside this one do the work: ``wire``
reads and writes messages, ``server`` sends and receives them, ``exchange`` fails over, ``cache`` remembers
answers.

Owned state: the cache, and the questions in flight, so that identical ones are asked once. The number of questions in
flight is bounded: those above it wait their turn within their own time-out, and each is given up after ``timeout``
whatever the servers do.

Known limits: DNSSEC is the recursive server's business; a changed ``/etc/resolv.conf`` is read at the next reload.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Final, Self

import dns.exception
import dns.resolver
import structlog

from gateway.adapters.dns.cache import AnswerCache, Key, Lifetimes
from gateway.adapters.dns.exchange import Exchange
from gateway.adapters.dns.server import NameServer
from gateway.adapters.dns.wire import encode_question
from gateway.config.names import NAME_SERVER_PORT, parse_server
from gateway.config.options import DnsOptions
from gateway.resolver import Answer, RecordType, Status

log = structlog.get_logger("lychgate.dns")

_DEFAULTS: Final = Lifetimes()


class DnsResolver:
    """Answers DNS questions from the cache or a name server; one for each worker."""

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        timeout: float = 5.0,
        cache: int = 10_000,
        concurrency: int = 1000,
        lifetimes: Lifetimes = _DEFAULTS,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked yet, so a resolver can be made while no server can be reached.

        Args:
            servers: ``address`` or ``address:port`` (``[address]:port`` for IPv6) of recursive name servers, asked in
                this order; empty for those of ``resolv_conf``.
            timeout: Seconds for one question in all, over all servers and tries.
            cache: How many answers are kept; the longest unused goes first.
            concurrency: How many questions are in flight at once.
            lifetimes: How long answers are kept.
            resolv_conf: Where the system names its servers; without any, the local machine is asked, as resolv.conf(5)
                says.
            clock: Seconds that never go back, for the cache.
        """
        addresses = [parse_server(server) for server in servers] or _system_servers(resolv_conf)
        self._lifetimes = lifetimes
        self._cache = AnswerCache(cache, clock)
        self._waiting: dict[Key, list[asyncio.Future[Answer]]] = {}
        self._exchange = Exchange(
            [NameServer(*address) for address in addresses], timeout=timeout, concurrency=concurrency
        )

    @classmethod
    def from_options(cls, options: DnsOptions) -> Self:
        """The resolver that the configuration describes."""
        return cls(
            options.servers,
            timeout=options.timeout,
            cache=options.cache,
            concurrency=options.concurrency,
            lifetimes=Lifetimes(
                floor=options.min_ttl,
                cap=options.max_ttl,
                negative_cap=options.max_negative_ttl,
                failure=options.failure_ttl,
            ),
        )

    @property
    def queries(self) -> int:
        """How many questions went to the name servers."""
        return self._exchange.started

    @property
    def servers(self) -> tuple[str, ...]:
        """The name servers in the order in which they are asked."""
        return tuple(str(server) for server in self._exchange.servers)

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Ask one question. The name is in A-labels, with or without the final dot."""
        key = (name.lower().removesuffix("."), record_type)
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
            return await answer
        try:
            question = encode_question(*key)
        except ValueError:
            # It can't be written in the DNS, so it is not in it.
            return Answer(Status.NXDOMAIN, ttl=self._lifetimes.failure)
        # Others may come to wait for the same answer: whoever gives up does not stop the question, it ends by itself.
        self._waiting[key] = [answer]
        self._exchange.ask(question, record_type, partial(self._answered, key))
        return await answer

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """The cached answer, None if there is none."""
        return self._cache.get((name.lower().removesuffix("."), record_type))

    async def close(self) -> None:
        """Stop the questions in flight; who waits for them is cancelled."""
        await self._exchange.close()
        for waiting in self._waiting.values():
            for future in waiting:
                future.cancel()
        self._waiting.clear()

    def _answered(self, key: Key, answer: Answer, problem: str, *, asked: bool) -> None:
        answer = Answer(answer.status, answer.records, self._lifetimes.of(answer))
        if asked:
            self._cache.put(key, answer)
        if answer.status.is_temporary:
            name, record_type = key
            reason = problem if asked else "too many questions in flight"
            log.info(
                "dns question failed", status=answer.status.value, name=name, type=record_type.value, reason=reason
            )
        for future in self._waiting.pop(key):
            if not future.done():  # its asker has not given up
                future.set_result(answer)


def _system_servers(resolv_conf: Path) -> list[tuple[str, int]]:
    found = dns.resolver.Resolver(configure=False)
    try:
        found.read_resolv_conf(StringIO("\n".join(_usable(resolv_conf.read_text("latin-1")))))
    except (OSError, ValueError, dns.exception.DNSException) as error:
        log.warning("no name servers configured, asking the local machine", file=str(resolv_conf), error=str(error))
        return [("127.0.0.1", NAME_SERVER_PORT)]
    return [(str(address), NAME_SERVER_PORT) for address in found.nameservers]


def _usable(text: str) -> Iterator[str]:
    """The lines of a resolv.conf but those whose name server is none: one of them must not hide the others."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"]:
            try:
                ipaddress.ip_address(words[1])
            except (IndexError, ValueError):
                log.warning("a name server of the system can't be used", line=line)
                continue
        yield line
