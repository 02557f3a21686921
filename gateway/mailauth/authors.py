"""The result of DMARC for all authors of a message, and what trusted sealers make up for (RFC 9989 11.5).

One author's domain is judged as ``dmarc`` evaluates it. Several of one organization are one author: the worst result
counts. Of several organizations each must pass, and no record is no pass. A fault never makes it worse: what can't be
told now is a temperror, unless another author does not pass for certain.

What fails may be made up for by ARC (``recorded``): by a trusted sealer who recorded that the author was authenticated.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from gateway.mailauth.dmarc import DnsFaultError, TreeWalks, evaluate
from gateway.mailauth.recorded import TrustedPass, trusted_pass
from gateway.mailauth.results import (
    Arc,
    ArcResult,
    Disposition,
    DkimSignature,
    Dmarc,
    DmarcResult,
    PolicyRecord,
    Spf,
)

MAX_DOMAINS: Final = 20
"""Author's domains that are evaluated, those of one organization among them; nobody has so many."""

_SHOWN: Final = 10
"""Domains that a reason names."""

_FAILURES: Final = {Disposition.NONE: 2, Disposition.QUARANTINE: 4, Disposition.REJECT: 5}
_UNTOLD: Final = 3  # the severity of a temperror


class Judgement(NamedTuple):
    """What DMARC found for an author's domain, and the sealer's word that makes up for a failure."""

    dmarc: Dmarc
    rescue: TrustedPass | None = None

    @property
    def passes(self) -> bool:
        """Whether the author is who they say, or a trusted sealer says so."""
        return self.dmarc.result is DmarcResult.PASS or self.rescue is not None

    @property
    def severity(self) -> int:
        """The higher, the worse for the message."""
        if self.passes:
            return 0
        if self.dmarc.result is DmarcResult.FAIL:
            return _FAILURES[self.dmarc.disposition]
        return _UNTOLD if self.dmarc.result is DmarcResult.TEMPERROR else 1


class Disunited(NamedTuple):
    """Authors of several organizations that do not all pass.

    Attributes:
        domain: The first author's domain that does not pass.
        reason: Why, in words.
    """

    domain: str
    reason: str


class TooMany(NamedTuple):
    """More authors than are judged.

    Attributes:
        reason: How many, in words.
    """

    reason: str


class Judge:
    """Judges the authors of one message.

    Args:
        walks: Ask the DNS.
        spf: What SPF came to, None if nobody looked.
        dkim: What each signature came to, None if nobody looked.
        arc: What the chain of ARC sets came to, None if nobody looked.
        is_trusted: Whether the operator trusts a sealer; None if they trust none.
    """

    def __init__(
        self,
        walks: TreeWalks,
        *,
        spf: Spf | None,
        dkim: Sequence[DkimSignature] | None,
        arc: Arc | None,
        is_trusted: Callable[[str], bool] | None,
    ) -> None:
        self._walks = walks
        self._spf = spf
        self._dkim = dkim
        self._arc = arc
        self._is_trusted = is_trusted

    async def one(self, domain: str) -> Judgement:
        """Judge one author's domain."""
        dmarc = await evaluate(domain, self._spf, self._dkim, self._walks)
        if dmarc.result is not DmarcResult.FAIL or dmarc.published is None:
            return Judgement(dmarc)
        if self._arc is None or self._is_trusted is None:
            return Judgement(dmarc)
        return await self._rescued(dmarc, dmarc.published, self._arc, self._is_trusted)

    async def all(
        self, domains: Sequence[str], *, organizations: int, registered: Callable[[str], str]
    ) -> Judgement | Disunited | TooMany:
        """Judge several author's domains.

        Args:
            domains: The domains, in the order of the From field.
            organizations: Of how many organizations they may be.
            registered: The organizational domain of a domain for which no DMARC record tells it.
        """
        if len(domains) > MAX_DOMAINS:
            return TooMany(f"the From field has addresses of {len(domains)} domains")
        found: set[str] = set()
        untold: list[Judgement] = []
        for domain in domains:
            try:
                found.add(await self._organization(domain, registered))
            except DnsFaultError as fault:
                untold.append(Judgement(Dmarc(result=DmarcResult.TEMPERROR, reason=str(fault), domain=domain)))
        if len(found) > organizations:
            return TooMany(f"the From field has authors of {len(found)} organizations")
        judged = [await self.one(domain) for domain in domains]
        worst = max(judged, key=lambda each: each.severity)
        if worst.passes:
            return next((each for each in judged if each.rescue is not None), worst)
        certain = [each for each in judged if not each.passes and each.dmarc.result is not DmarcResult.TEMPERROR]
        if len(found) > 1 and certain:
            dmarc = certain[0].dmarc
            names = ", ".join(domains[:_SHOWN])
            return Disunited(dmarc.domain, f"of {names} each must pass, and {dmarc.domain} does not: {dmarc.reason}")
        # Where nobody can tell whether they are of one organization, what is refused either way is certain.
        return untold[0] if untold and worst.severity <= _UNTOLD else worst

    async def _organization(self, domain: str, registered: Callable[[str], str]) -> str:
        if await self._walks.policy(domain) is None:
            return registered(domain)
        return await self._walks.organization(domain)

    async def _rescued(
        self, dmarc: Dmarc, record: PolicyRecord, arc: Arc, is_trusted: Callable[[str], bool]
    ) -> Judgement:
        """What becomes of a failure by what trusted sealers recorded."""
        unfinished = not arc.sets
        if arc.result is ArcResult.TEMPERROR and (unfinished or any(is_trusted(each.domain) for each in arc.sets)):
            reason = f"DMARC fails, and whether ARC makes up for it can't be told now: {arc.reason}"
            return _undecided(dmarc, reason)
        walks = self._walks
        ask = partial(
            trusted_pass,
            domain=dmarc.domain,
            is_trusted=is_trusted,
            spf_aligned=lambda domain: walks.are_aligned(domain, dmarc.domain, record.spf_mode),
            dkim_aligned=lambda domain: walks.are_aligned(domain, dmarc.domain, record.dkim_mode),
        )
        try:
            rescue = await ask(arc)
            if rescue is None and arc.untold and await ask(replace(arc, oldest_pass=0)) is not None:
                reason = f"whether the message is as ARC set {arc.untold[0]} sealed it can't be told now"
                return _undecided(dmarc, reason)
        except DnsFaultError as fault:
            return _undecided(dmarc, str(fault))
        if rescue is None:
            return Judgement(dmarc)
        return Judgement(replace(dmarc, disposition=Disposition.NONE, arc_sealer=rescue.sealer), rescue)


def _undecided(dmarc: Dmarc, reason: str) -> Judgement:
    """A failure that may be none once the DNS answers."""
    return Judgement(replace(dmarc, result=DmarcResult.TEMPERROR, disposition=Disposition.NONE, reason=reason))
