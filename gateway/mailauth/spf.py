"""SPF: may this client send for this domain? ``check_host()`` of RFC 7208, for the reverse-path and the HELO name.

The evaluation is pyspf's (``spf_query``). It runs without threads and never waits: what is known is taken at once; a
question that is open ends the run, is asked of the ``Resolver``, and the check is run again. With a warm cache there is
one run and nothing is awaited. Questions that belong together (the hosts of an ``mx``) are asked at the same time.
Any number of checks can be under way; what they share is the ``SpfMemory``, if they are given one.

Bounds, all in ``Limits``: terms that ask the DNS, void look-ups, names of an ``mx`` and of a client, questions in all,
seconds in all. Nothing is raised for what a domain publishes or the DNS answers.

Known limits: a ``redirect`` whose domain-spec has the local part is a permerror for a local part that is not US-ASCII,
where RFC 8616 4 lets it not match. Of pyspf's extensions none is in use.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from gateway.mailauth.results import Spf, SpfCheck, SpfResult
from gateway.mailauth.spf_memory import SpfMemory
from gateway.mailauth.spf_query import Answers, Client, Open, Query
from gateway.mailauth.spf_record import MAX_RECORD, Qualified, domain_name
from gateway.mailauth.spf_steps import one_line, steps
from gateway.resolver import RecordType, Resolver
from gateway.smtp.path import Mailbox, ReversePath

Address: TypeAlias = IPv4Address | IPv6Address

_MAX_REASON = 300
_OF_LOCAL_PART: Final = frozenset("ls")
_OF_TRANSACTION: Final = frozenset("hlst")
"""Macro letters whose values differ between two checks of one domain for one client (RFC 7208 7.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one check may take.

    Attributes:
        lookups: Terms that ask the DNS (RFC 7208 4.6.4: 10).
        void_lookups: Questions to which there is nothing (RFC 7208 4.6.4: 2).
        names: Hosts of one ``mx``, names of the client (RFC 7208 4.6.4: 10).
        queries: DNS questions in all. The limits of the RFC allow 111.
        time: Seconds in all (RFC 7208 4.6.4: at least 20).
    """

    lookups: int = 10
    void_lookups: int = 2
    names: int = 10
    queries: int = 60
    time: float = 20.0


DEFAULT_LIMITS = Limits()


async def check_host(
    resolver: Resolver,
    *,
    address: Address,
    domain: str,
    local_part: str = "postmaster",
    helo: str = "",
    receiver: str = "unknown",
    now: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
) -> SpfCheck:
    """Check whether a client may send for a domain (RFC 7208 4.1).

    Args:
        resolver: Asks the DNS; its ``known`` gives what needs no asking.
        address: The client.
        domain: The domain, as the client gave it.
        local_part: The sender's local part, for macros.
        helo: The HELO name, for macros.
        receiver: The gateway's own name, for macros.
        now: UNIX time in seconds, for macros.
        limits: What it may take.

    Returns:
        The result. Whatever the arguments, the domain's records and the DNS are, there is one.
    """
    check = _Check(
        resolver, address=address, client=Client.of(address), domain=domain, local_part=local_part, helo=helo,
        receiver=receiver, now=now, limits=limits,
    )  # fmt: skip
    return check.run() or await check.finish()


async def check_sender(
    resolver: Resolver,
    *,
    address: Address,
    reverse_path: ReversePath,
    helo: str | None,
    check_helo: bool = True,
    receiver: str = "unknown",
    now: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
    memory: SpfMemory | None = None,
) -> Spf:
    """Check the reverse-path and, if wanted, the HELO name (RFC 7208 2.3, 2.4), side by side.

    With the null reverse-path both are the same check. A HELO name that is no domain name is not checked. Results in
    ``memory`` are taken as they are; it belongs to these limits.
    """
    helo_name = helo or ""
    helo_domain = domain_name(helo_name) if check_helo else None
    if memory is not None and isinstance(reverse_path, Mailbox) and helo_domain is not None:
        remembered = memory.get((address, reverse_path.domain))
        remembered_helo = None if remembered is None else memory.get((address, helo_domain))
        if remembered is not None and remembered_helo is not None:
            return Spf(mail_from=remembered, helo=remembered_helo)
    client = Client.of(address)

    def check(domain: str, local_part: str) -> _Check:
        return _Check(
            resolver, address=address, client=client, domain=domain, local_part=local_part, helo=helo_name,
            receiver=receiver, now=now, limits=limits, memory=memory,
        )  # fmt: skip

    if not isinstance(reverse_path, Mailbox):
        only = check(helo_name, "postmaster")
        result = only.run() or await only.finish()
        return Spf(mail_from=result, helo=None if helo_domain is None else result)
    first = check(reverse_path.domain, reverse_path.local_part)
    if helo_domain is None or helo_domain == first.domain:
        mail_from = first.run() or await first.finish()
        if helo_domain is None:
            return Spf(mail_from=mail_from)
        if first.letters.isdisjoint(_OF_LOCAL_PART):
            return Spf(mail_from=mail_from, helo=mail_from)
        second = check(helo_domain, "postmaster")
        return Spf(mail_from=mail_from, helo=second.run() or await second.finish())
    second = check(helo_domain, "postmaster")
    found, found_helo = first.run(), second.run()
    if found is None and found_helo is None:
        found, found_helo = await asyncio.gather(first.finish(), second.finish())
    return Spf(mail_from=found or await first.finish(), helo=found_helo or await second.finish())


class _Check:
    """One check: its runs, and the questions between them.

    Attributes:
        domain: The domain in the form in which it is checked, None if it is none.
        letters: The macro letters that it asked for.
    """

    __slots__ = (
        "_address",
        "_answers",
        "_client",
        "_given",
        "_helo",
        "_limits",
        "_local_part",
        "_memory",
        "_now",
        "_receiver",
        "_resolver",
        "_since",
        "domain",
        "letters",
    )

    def __init__(
        self,
        resolver: Resolver,
        *,
        address: Address,
        client: Client,
        domain: str,
        local_part: str,
        helo: str,
        receiver: str,
        now: float,
        limits: Limits,
        memory: SpfMemory | None = None,
    ) -> None:
        self.domain = domain_name(domain)
        self.letters: set[str] = set()
        self._given = domain
        self._resolver = resolver
        self._limits = limits
        self._answers = Answers(resolver.known, limits.queries)
        self._address = address
        self._client = client
        self._local_part = local_part or "postmaster"  # RFC 7208 4.3
        self._helo = helo
        self._receiver = receiver
        self._now = now
        self._memory = memory
        self._since = 0.0 if memory is None else memory.now()

    def run(self) -> SpfCheck | None:
        """Evaluate on what is known; None where a question is open."""
        if self.domain is None:
            domain = one_line(self._given.lower(), 255)
            return SpfCheck(
                result=SpfResult.NONE, domain=domain, reason=f"{domain or 'the empty name'} is no domain name"
            )
        memory = self._memory
        answers = self._answers
        if memory is not None and not answers.known:
            remembered = memory.get((self._address, self.domain))
            if remembered is not None:
                return remembered
        limits = self._limits
        answers.open.clear()
        if answers.at_hand(self.domain, RecordType.TXT) is None:
            return None
        query = Query(
            answers,
            client=self._client,
            domain=self.domain,
            local_part=self._local_part,
            helo=self._helo,
            receiver=self._receiver,
            now=self._now,
            lookups=limits.lookups,
            void_lookups=limits.void_lookups,
            names=limits.names,
        )
        try:
            found = query.check()[0]
        except Open:
            return None
        self.letters |= query.letters
        told = self._told(query, found)
        if memory is not None and self.letters.isdisjoint(_OF_TRANSACTION):
            memory.put((self._address, self.domain), told, answers.known.values(), self._since)
        return told

    async def finish(self) -> SpfCheck:
        """Ask what is open, and evaluate again, until there is a result or the time is over."""
        try:
            async with asyncio.timeout(self._limits.time):
                while True:
                    questions = list(self._answers.open)
                    if len(questions) == 1:  # needs no task of its own
                        self._answers.known[questions[0]] = await self._resolver.lookup(*questions[0])
                    else:
                        answers = await asyncio.gather(*(self._resolver.lookup(*question) for question in questions))
                        self._answers.known.update(zip(questions, answers, strict=True))
                    found = self.run()
                    if found is not None:
                        return found
        except TimeoutError:
            return SpfCheck(
                result=SpfResult.TEMPERROR,
                domain=self.domain or "",
                reason=f"the DNS took longer than {self._limits.time:g} s",
                queries=len(self._answers.known),
            )

    def _told(self, query: Query, found: str) -> SpfCheck:
        """The result in words."""
        result = SpfResult(found)
        domain = self.domain or ""
        mechanism = found.term if isinstance(found, Qualified) else None
        return SpfCheck(
            result=result,
            domain=domain,
            mechanism=mechanism,
            reason=one_line(self._reason(query, result, mechanism), _MAX_REASON),
            explanation=query.explanation,
            record=None if query.record is None else one_line(query.record, MAX_RECORD),
            queries=len(self._answers.known),
            tell=partial(steps, query.top, self._known),
        )

    def _reason(self, query: Query, result: SpfResult, mechanism: str | None) -> str:
        if result in {SpfResult.TEMPERROR, SpfResult.PERMERROR}:
            where = f" (record of {query.failed_in})" if query.failed_in not in {None, self.domain} else ""
            return ": ".join([str(query.prob), *(str(term) for term in query.mech)]) + where
        if query.record is None:
            return f"{self.domain} has no SPF record"
        if mechanism is None:
            return "nothing in the record matched"
        frame = query.top
        while frame is not None and frame.redirect is not None:
            frame = frame.redirect
        return f"{query.c} matched {mechanism} of {self.domain if frame is None else frame.domain}"

    def _known(self, name: str, record_type: RecordType) -> tuple[str, tuple[str, ...]] | None:
        answer = self._answers.known.get((name, record_type))
        return None if answer is None else (answer.status.value, answer.records)
