"""The interface of DNS: questions, answers, and why there is none.

An adapter implements ``Resolver``; policies and backends are handed one. NXDOMAIN, no data, SERVFAIL and time-out stay
apart (``Status``), because what follows from each differs. ``lookup`` never raises for what a server answers or fails
to. ``SessionResolver`` stands between one session and the resolver of the worker, and bounds what the session may ask.
"""

import asyncio
import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

import msgspec

# RFC 1123 2.1, with "_" because it occurs; not all digits and dots, which would look like an address. Postfix takes no
# other names by XCLIENT either.
_HOST_NAME: Final = re.compile(
    r"(?![0-9.]*$)(?=.{1,255}$)(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*"
)


_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Status(StrEnum):
    """How a question ended."""

    FOUND = "found"
    NO_DATA = "no data"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    TIMEOUT = "timeout"

    @property
    def is_temporary(self) -> bool:
        """Whether asking later may help: nothing is known about the name."""
        return self in {Status.SERVFAIL, Status.TIMEOUT}


class RecordType(StrEnum):
    """The types of records that the gateway asks for."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    MX = "MX"
    NS = "NS"
    PTR = "PTR"
    SOA = "SOA"
    TXT = "TXT"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to.

    Attributes:
        status: How it ended; ``records`` is empty unless it is ``FOUND``.
        records: The record data as text: an address for A and AAAA, a name without the final dot for PTR and the like,
            ``preference exchange`` for MX, for TXT the strings of the record joined (octets as latin-1 characters).
        ttl: Seconds for which the answer holds.
    """

    status: Status
    records: tuple[str, ...] = ()
    ttl: float = 0.0


_Question: TypeAlias = tuple[str, RecordType]


class Resolver(Protocol):
    """Answers DNS questions."""

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Ask one question. The name is in A-labels, without the final dot."""
        ...

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """The answer that is at hand without asking anyone, None if there is none."""
        ...


class SessionResolver(msgspec.Struct, eq=False):
    """What one session asks the DNS by: a ``Resolver`` that bounds the questions and the time of its session.

    Answers at hand are free. Above a limit the others end as ``TIMEOUT`` at once, without asking: nothing is known of
    the name, so what follows is what follows where the DNS does not answer.

    Attributes:
        resolver: Answers what may be asked.
        query_limit: How many questions may be passed on.
        time_limit: For how many seconds the session may wait for answers in all; what it waits for at the same time
            counts once.
        longest: After how many seconds the resolver itself gives a question up; as long as the session has more left,
            nobody else needs to watch the time.
        queries: How many questions were passed on so far.
        exhausted: Whether a question was not asked, or was given up, because of a limit.
    """

    resolver: Resolver
    query_limit: int
    time_limit: float
    longest: float = math.inf
    queries: int = 0
    exhausted: bool = False
    _spent: float = 0.0
    _waiting: int = 0
    _began: float = 0.0

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """The answer that is at hand without asking anyone, None if there is none."""
        return self.resolver.known(name, record_type)

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Ask one question, if the session still may. The name is in A-labels, without the final dot."""
        answer = self.resolver.known(name, record_type)
        if answer is not None:
            return answer
        now = asyncio.get_running_loop().time()
        left = self.time_limit - self._spent - (now - self._began if self._waiting else 0.0)
        if self.queries >= self.query_limit or left <= 0:
            self.exhausted = True
            return Answer(Status.TIMEOUT)
        self.queries += 1
        if not self._waiting:
            self._began = now
        self._waiting += 1
        try:
            if left > self.longest:
                return await self.resolver.lookup(name, record_type)
            async with asyncio.timeout(left):
                return await self.resolver.lookup(name, record_type)
        except TimeoutError:
            self.exhausted = True
            return Answer(Status.TIMEOUT)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._spent += asyncio.get_running_loop().time() - self._began


_ahead: Final[set[asyncio.Task[Answer]]] = set()
"""What was asked ahead and is not answered: the event loop alone would not keep it."""


def ask_ahead(resolver: Resolver, questions: Iterable[_Question]) -> None:
    """Ask what is not known, and wait for nothing: who asks the same soon finds the answer, or waits for the same."""
    for name, record_type in questions:
        if resolver.known(name, record_type) is None:
            task = asyncio.ensure_future(resolver.lookup(name, record_type))
            _ahead.add(task)
            task.add_done_callback(_ahead.discard)


class NameStatus(StrEnum):
    """What is known of the client's name."""

    CONFIRMED = "confirmed"
    UNKNOWN = "unknown"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class ClientName:
    """The client's name, confirmed by its own address records, as Postfix's ``client_name``."""

    name: str | None
    status: NameStatus


_MOST_NAMES: Final = 5
"""PTR names of a client that are looked at, so that its owner can't make us ask for hundreds."""


async def client_name(resolver: Resolver, address: str) -> ClientName:
    """Look up the client's name: its PTR names, of which the first that has the address itself is taken (RFC 8601 3).

    A name that is no host name does not count, because whoever owns the address writes into the DNS what they like.

    Args:
        resolver: Asks the DNS; at most one PTR question and five address questions.
        address: The client's IP address.
    """
    ip = ipaddress.ip_address(address)
    pointers = await resolver.lookup(ip.reverse_pointer, RecordType.PTR)
    questions = _confirming(ip, pointers)
    answers = await asyncio.gather(*(resolver.lookup(*question) for question in questions))
    return _confirmed(ip, pointers, dict(zip(questions, answers, strict=True)))


def known_client_name(resolver: Resolver, address: str) -> ClientName | None:
    """What ``client_name`` would find without asking anyone, None if it would have to ask."""
    ip = ipaddress.ip_address(address)
    pointers = resolver.known(ip.reverse_pointer, RecordType.PTR)
    if pointers is None:
        return None
    answers: dict[_Question, Answer] = {}
    for question in _confirming(ip, pointers):
        answer = resolver.known(*question)
        if answer is None:
            return None
        answers[question] = answer
    return _confirmed(ip, pointers, answers)


def _confirming(ip: _Address, pointers: Answer) -> list[_Question]:
    """The questions by which a client's PTR names are confirmed."""
    record_type = RecordType.AAAA if isinstance(ip, ipaddress.IPv6Address) else RecordType.A
    return [(name, record_type) for name in pointers.records[:_MOST_NAMES] if _HOST_NAME.fullmatch(name)]


def _confirmed(ip: _Address, pointers: Answer, answers: Mapping[_Question, Answer]) -> ClientName:
    """The first name that has the address, or why there is none."""
    for (name, _), answer in answers.items():
        if any(ipaddress.ip_address(record) == ip for record in answer.records):
            return ClientName(name.lower(), NameStatus.CONFIRMED)
    temporary = any(answer.status.is_temporary for answer in (pointers, *answers.values()))
    return ClientName(None, NameStatus.TEMPORARY if temporary else NameStatus.UNKNOWN)
