"""DMARC: whether SPF or DKIM authenticates the Author Domain, and what its owner asks for if not (RFC 9989).

``evaluate`` takes the Author Domain (``author``) and what SPF and DKIM came to. By DNS Tree Walks of at most 8
questions it finds the policy record and the organizational domains (4.10), decides on alignment (4.10.2), and gives
the result with the policy and the disposition that it comes to.

No question is asked whose answer can't change the result: an identifier that is the Author Domain itself is aligned, in
strict mode nothing else is, and a domain that does not end in the Author Domain's organizational domain can't share it.
With all answers cached (``Resolver.known``) nothing is suspended. What a walk may need beyond the Author Domain itself
is asked for at the same time.

Decided here where the RFC leaves it open (see ``docs/decisions/dmarc.md``):

- A DNS fault gives temperror unless a pass is certain without the answer. So does an SPF or DKIM temperror, but only of
  a domain that would be aligned: a stranger's broken key changes nothing.
- A top-level domain's record without ``psd`` is read as ``psd=y``, so that ``d=com`` is never aligned with example.com.

Never raises for what a message, a record or the DNS says.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.mailauth.dmarc_record import policy_record
from gateway.mailauth.results import (
    AlignmentMode,
    Disposition,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    PolicyRecord,
    Psd,
    Spf,
    SpfResult,
)
from gateway.resolver import Answer, RecordType, Resolver, Status

MAX_WALK: Final = 8
"""Questions of one DNS Tree Walk (RFC 9989 4.10)."""

MAX_NAME: Final = 253
"""Octets of a name as text (RFC 1035 2.3.4); a longer one can't exist and is not asked for."""

MAX_DETAILS: Final = 5
"""Checks that the reason of a failure tells of."""

MAX_REASON: Final = 120
"""Characters of the reason of each of them."""

_WEAKER: Final = {
    Disposition.REJECT: Disposition.QUARANTINE,
    Disposition.QUARANTINE: Disposition.NONE,
    Disposition.NONE: Disposition.NONE,
}
"""What ``t=y`` makes of a policy (RFC 9989 4.7)."""

# Types by which a cached answer may already tell whether a domain exists.
_EXISTENCE: Final = (RecordType.A, RecordType.MX, RecordType.TXT, RecordType.AAAA, RecordType.NS)
# Those that are asked for until one does: broken name servers say NXDOMAIN to one type although there is another.
_ASKED: Final = (RecordType.A, RecordType.MX, RecordType.AAAA)

_EXISTS: Final = frozenset({Status.FOUND, Status.NO_DATA})


class DnsFaultError(Exception):
    """The DNS did not answer a question that matters; the text names it."""


async def evaluate(domain: str, spf: Spf | None, dkim: Sequence[DkimSignature] | None, walks: "TreeWalks") -> Dmarc:
    """Evaluate DMARC for one message.

    Args:
        domain: The Author Domain in lower case, A-labels.
        spf: What SPF came to, None if nobody looked.
        dkim: What each signature came to, None if nobody looked.
        walks: Ask the DNS: at most 8 questions for the Author Domain, 8 for each authenticated domain below its
            organizational domain, and three for its existence.
    """
    try:
        found = await walks.policy(domain)
    except DnsFaultError as fault:
        return Dmarc(result=DmarcResult.TEMPERROR, reason=str(fault), domain=domain)
    if found is None:
        return Dmarc(result=DmarcResult.NONE, reason=f"no DMARC record for {domain}", domain=domain)
    place, record = found
    if not record.applies:
        reason = f"the DMARC record of {place} asks for nothing: {', '.join(record.errors)}"
        return Dmarc(result=DmarcResult.NONE, reason=reason, domain=domain, record_domain=place, published=record)
    alignment = _Alignment(domain, record, walks)
    await alignment.look(spf, dkim)
    policy = record.policy if place == domain else record.for_subdomains
    disposition = Disposition.NONE
    reason = ""
    if alignment.spf is not None or alignment.dkim is not None:
        result = DmarcResult.PASS
    else:
        result, reason = DmarcResult.FAIL, alignment.why_not(spf, dkim)
        if not alignment.faults and place != domain and record.for_nonexistent is not policy:
            try:
                policy = policy if await walks.exists(domain) else record.for_nonexistent
            except DnsFaultError as fault:
                alignment.faults.append(str(fault))
        if alignment.faults:
            result, reason = DmarcResult.TEMPERROR, alignment.faults[0]
        else:
            disposition = _WEAKER[policy] if record.testing else policy
    return Dmarc(
        result=result,
        reason=reason,
        domain=domain,
        policy=policy,
        disposition=disposition,
        record_domain=place,
        published=record,
        organizational_domain=walks.known_organization(domain),
        spf_aligned=alignment.spf,
        dkim_aligned=alignment.dkim,
    )


class TreeWalks:
    """The DNS Tree Walks for one message (RFC 9989 4.10): no name is asked for twice.

    Each method raises ``DnsFaultError`` where the DNS does not answer.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._records: dict[str, PolicyRecord | None] = {}
        self._ahead: dict[str, Answer] = {}
        self._organizations: dict[str, str] = {}

    async def policy(self, domain: str) -> tuple[str, PolicyRecord] | None:
        """The policy record for an Author Domain, and where it stands (RFC 9989 4.10.1).

        That is its own, else that of its organizational domain, else that of the Public Suffix Domain above.
        """
        record = await self._record(domain)
        if record is not None:
            return domain, record
        found = await self._walk(domain)
        organization = self._organizations[domain] = _organizational_domain(domain, found)
        for place, record in found:
            if place == organization or _is_public_suffix(place, record):
                return place, record
        return None

    async def organization(self, domain: str) -> str:
        """The organizational domain of a domain (RFC 9989 4.10.2)."""
        organization = self._organizations.get(domain)
        if organization is None:
            organization = self._organizations[domain] = _organizational_domain(domain, await self._walk(domain))
        return organization

    def known_organization(self, domain: str) -> str | None:
        """The organizational domain, if it was needed."""
        return self._organizations.get(domain)

    async def are_aligned(self, identifier: str, domain: str, mode: AlignmentMode) -> bool:
        """Whether an authenticated identifier is aligned with an Author Domain."""
        if identifier == domain:
            return True
        if mode is AlignmentMode.STRICT or identifier.rpartition(".")[2] != domain.rpartition(".")[2]:
            return False
        organization = await self.organization(domain)
        if identifier == organization:  # each record on the way up from it was met on the way up from the Author Domain
            return True
        return identifier.endswith("." + organization) and await self.organization(identifier) == organization

    async def exists(self, domain: str) -> bool:
        """Whether a domain exists: not each question for it gives NXDOMAIN (RFC 9989 3.2.13, RFC 8020)."""
        known = (self._resolver.known(domain, record_type) for record_type in _EXISTENCE)
        if any(answer is not None and answer.status in _EXISTS for answer in known):
            return True
        for record_type in _ASKED:
            if (await self._ask(domain, record_type)).status in _EXISTS:
                return True
        return False

    async def _walk(self, start: str) -> list[tuple[str, PolicyRecord]]:
        """The records that a walk from a domain meets, from the longest name to the shortest."""
        found = []
        names = list(walk_names(start))
        await self._ask_ahead(names)
        for name in names:
            record = await self._record(name)
            if record is not None:
                found.append((name, record))
                if record.psd is not Psd.UNSAID:
                    break
        return found

    async def _ask_ahead(self, names: Sequence[str]) -> None:
        """Ask about several domains at the same time; only ``psd`` could have made some of the questions needless."""
        questions = {
            name: "_dmarc." + name
            for name in names
            if name not in self._records
            and name not in self._ahead
            and self._resolver.known("_dmarc." + name, RecordType.TXT) is None
        }
        questions = {name: question for name, question in questions.items() if len(question) <= MAX_NAME}
        if len(questions) > 1:
            lookups = (self._resolver.lookup(question, RecordType.TXT) for question in questions.values())
            self._ahead |= zip(questions, await asyncio.gather(*lookups), strict=True)

    async def _record(self, domain: str) -> PolicyRecord | None:
        if domain in self._records:
            return self._records[domain]
        name = "_dmarc." + domain
        record = None
        if len(name) <= MAX_NAME:
            ahead = self._ahead.get(domain)
            answer = await self._ask(name, RecordType.TXT) if ahead is None else _certain(ahead, name, RecordType.TXT)
            record = policy_record(answer.records)
        self._records[domain] = record
        return record

    async def _ask(self, name: str, record_type: RecordType) -> Answer:
        answer = self._resolver.known(name, record_type)
        if answer is None:
            answer = await self._resolver.lookup(name, record_type)
        return _certain(answer, name, record_type)


def _certain(answer: Answer, name: str, record_type: RecordType) -> Answer:
    """An answer that is none of a fault.

    Raises:
        DnsFaultError: It is.
    """
    if answer.status.is_temporary:
        raise DnsFaultError(f"the DNS did not answer for {name} {record_type.value} ({answer.status.value})")
    return answer


def questions(domain: str) -> Iterator[tuple[str, RecordType]]:
    """What a DNS Tree Walk from an Author Domain asks if no record ends it."""
    for name in walk_names(domain):
        if len(name) <= MAX_NAME - len("_dmarc."):
            yield "_dmarc." + name, RecordType.TXT


def walk_names(start: str) -> Iterator[str]:
    """The domains that a DNS Tree Walk asks about, in order (RFC 9989 4.10): at most 8."""
    yield start
    labels = start.split(".")
    for count in range(min(len(labels), MAX_WALK) - 1, 0, -1):
        yield ".".join(labels[-count:])


def _is_public_suffix(name: str, record: PolicyRecord) -> bool:
    return record.psd is Psd.YES or (record.psd is Psd.UNSAID and "." not in name)


def _organizational_domain(start: str, found: Sequence[tuple[str, PolicyRecord]]) -> str:
    """The organizational domain by the records that a walk met, longest name first (RFC 9989 4.10.2)."""
    for name, record in found:
        if record.psd is Psd.NO:
            return name
        if name != start and _is_public_suffix(name, record):
            return start[: -len(name) - 1].rpartition(".")[2] + "." + name
    return found[-1][0] if found else start


class _Alignment:
    """Which authenticated identifiers are aligned with the Author Domain.

    Attributes:
        spf: The domain by which SPF passes in alignment, None if it does not.
        dkim: The signing domain by which DKIM does.
        faults: Why it can't be told, if something did not answer.
    """

    def __init__(self, domain: str, record: PolicyRecord, walks: TreeWalks) -> None:
        self.spf: str | None = None
        self.dkim: str | None = None
        self.faults: list[str] = []
        self._domain = domain
        self._record = record
        self._walks = walks
        self._unaligned: list[str] = []

    async def look(self, spf: Spf | None, dkim: Sequence[DkimSignature] | None) -> None:
        """Look at what SPF and DKIM came to."""
        if spf is not None:
            check = spf.mail_from
            if check.result is SpfResult.PASS and await self._is_aligned(check.domain, self._record.spf_mode, "SPF"):
                self.spf = check.domain
        if dkim:
            passing = dict.fromkeys(signature.domain for signature in dkim if signature.result is DkimResult.PASS)
            for domain in (self._domain,) if self._domain in passing else passing:
                if await self._is_aligned(domain, self._record.dkim_mode, "DKIM"):
                    self.dkim = domain
                    break
        if self.spf is None and self.dkim is None:
            await self._look_for_faults(spf, dkim or ())

    async def _look_for_faults(self, spf: Spf | None, dkim: Sequence[DkimSignature]) -> None:
        """Note each check that a fault kept from passing in alignment."""
        if (
            spf is not None
            and spf.mail_from.result is SpfResult.TEMPERROR
            and await self._may_be_aligned(spf.mail_from.domain, self._record.spf_mode)
        ):
            self.faults.append(f"SPF can't be told now for {spf.mail_from.domain}: {spf.mail_from.reason}")
        faulty = {s.domain: s.reason for s in reversed(dkim) if s.result is DkimResult.TEMPERROR}
        for domain, reason in faulty.items():
            if await self._may_be_aligned(domain, self._record.dkim_mode):
                self.faults.append(f"DKIM can't be told now for {domain}: {reason}")

    async def _is_aligned(self, identifier: str, mode: AlignmentMode, method: str) -> bool:
        try:
            if await self._walks.are_aligned(identifier, self._domain, mode):
                return True
        except DnsFaultError as fault:
            self.faults.append(str(fault))
        self._unaligned.append(f"{method} passes for {identifier}, which is not aligned")
        return False

    async def _may_be_aligned(self, identifier: str, mode: AlignmentMode) -> bool:
        """Whether an identifier is aligned, or nobody knows: it could not be read, or the DNS does not tell."""
        try:
            return not identifier or await self._walks.are_aligned(identifier, self._domain, mode)
        except DnsFaultError:
            return True

    def why_not(self, spf: Spf | None, dkim: Sequence[DkimSignature] | None) -> str:
        """Why DMARC fails, in words: what became of SPF and of each signature."""
        details = list(self._unaligned)
        if spf is None:
            details.append("SPF was not looked at")
        elif spf.mail_from.result is not SpfResult.PASS:
            details.append(_why(f"SPF is {spf.mail_from.result} for {spf.mail_from.domain}", spf.mail_from.reason))
        if not dkim:
            details.append("DKIM was not looked at" if dkim is None else "there is no DKIM signature")
        details += [
            _why(f"DKIM is {signature.result} for {signature.domain or 'a signature'}", signature.reason)
            for signature in dkim or ()
            if signature.result is not DkimResult.PASS
        ]
        if len(details) > MAX_DETAILS:
            details[MAX_DETAILS:] = [f"and {len(details) - MAX_DETAILS} more"]
        return f"neither SPF nor DKIM passes in alignment with {self._domain}: {'; '.join(details)}"


def _why(what: str, reason: str) -> str:
    return f"{what} ({reason[:MAX_REASON]})" if reason else what
