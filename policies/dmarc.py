"""dmarc: is the author who they say, and if not, what does their domain ask for (RFC 9989)?

Runs when the message has come, behind ``spf`` and ``dkim``. Takes the domain of the From field, finds its DMARC record,
and looks whether SPF or DKIM passes for a domain that is aligned with it. What was found is left on the transaction;
the outcome is ``pass``, ``none`` (there is no record) or what the domain asks for: ``reject``, ``quarantine``, or
``fail`` for nothing. ``t=y`` in the record makes that one step weaker.

The author's domains are those that any common reader might take from the From field (``gateway/mailauth/author.py``).
Several of one organization are one author: each is evaluated, and the worst result counts. Of several organizations
each must pass (RFC 9989 11.5), else the message is ``bad_from``. So is one whose From field gives no domain at all, or
can't be read in one way only: it is outside of DMARC, and so a way around it. A bounce that names no author is
``no_author``.

Mail that fails because it was forwarded can be rescued by ARC: with ``arc`` before this policy, ``trust_arc`` lists the
sealers whose recorded results count (outcome ``arc_trusted``); ``gateway/mailauth/recorded.py`` says which sets do.

A fault is ``temperror`` and never a refusal: the DNS not answering for the record, or for SPF or DKIM of a domain that
would be aligned. Clients that have authenticated and those in ``trusted`` are not checked.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from pydantic import Field

from gateway.mailauth.author import Author, AuthorFault, read_author
from gateway.mailauth.dmarc import DnsFaultError, Evaluation, TreeWalks, evaluate, questions
from gateway.mailauth.dmarc_record import PolicyRecord
from gateway.mailauth.recorded import TrustedPass, trusted_pass
from gateway.mailauth.results import Arc, ArcResult, Disposition, DmarcResult
from gateway.mailauth.results import Dmarc as Result
from gateway.policy import OnError, Options, Policy
from gateway.resolver import ask_ahead
from gateway.session import Message, Session, Transaction
from gateway.smtp.path import NullReversePath
from gateway.smtp.reply import Reply
from gateway.subjects import organizational_domain
from gateway.tables import NameTable, NetworkTable
from gateway.verdict import Action, Finding, Outcome

# RFC 7372 3.3: 5.7.26, several authentication checks failed. RFC 9989, Rejecting Messages: the text has the word DMARC.
_FAILED: Final = "5.7.26"
_BAD_FROM = Reply(550, "5.7.1", "The From field gives no author that DMARC can be evaluated for (RFC 9989)")
_NO_AUTHOR = Reply(550, "5.7.1", "The From field names no author (RFC 5322 3.6.2)")
_BAD_FROM_REPLIES: Final = {
    AuthorFault.MISSING: Reply(550, "5.7.1", "A message must have a From field (RFC 5322 3.6)"),
    AuthorFault.REPEATED: Reply(550, "5.7.1", "A message must have only one From field (RFC 5322 3.6)"),
    AuthorFault.MALFORMED: Reply(550, "5.7.1", "The From field can't be read in one way only (RFC 5322 3.4)"),
    AuthorFault.NO_ADDRESS: Reply(550, "5.7.1", "The From field must have an address (RFC 5322 3.6.2)"),
    AuthorFault.NO_DOMAIN: Reply(550, "5.7.1", "The From field must have an address with a domain (RFC 5322 3.4.1)"),
}
_REJECT = Reply(550, _FAILED, "Rejected by the DMARC policy of the author's domain")
_QUARANTINE = Reply(550, _FAILED, "DMARC fails, and the author's domain asks for quarantine")
_FAIL = Reply(550, _FAILED, "DMARC fails for the author's domain")
_TEMPERROR = Reply(451, "4.4.3", "DMARC can't be evaluated now because the DNS gave no answer, try again later")
_NONE = Reply(550, "5.7.1", "The author's domain has no DMARC record")
_PASS = Reply(550, "5.7.1", "Mail of this domain is not accepted")

_LISTED: Final = 20
"""Errors of a DMARC record that the record of the decision lists."""

_MAX_DOMAINS: Final = 20
"""Author's domains that are evaluated, those of one organization among them; nobody has so many."""


_SEVERITIES: Final = {Disposition.NONE: 2, Disposition.QUARANTINE: 4, Disposition.REJECT: 5}


class _Judged(NamedTuple):
    """What DMARC found for one of the author's domains, and what ARC made up for."""

    found: Evaluation
    rescue: TrustedPass | None

    @property
    def passes(self) -> bool:
        """Whether the author is who they say, or a trusted sealer says so."""
        return self.found.dmarc.result is DmarcResult.PASS or self.rescue is not None

    @property
    def severity(self) -> int:
        """The higher, the worse."""
        dmarc = self.found.dmarc
        if self.passes:
            return 0
        if dmarc.result is DmarcResult.FAIL:
            return _SEVERITIES[dmarc.disposition]
        return 3 if dmarc.result is DmarcResult.TEMPERROR else 1


class DmarcOptions(Options):
    """The options of ``dmarc``."""

    trusted: NetworkTable = Field(
        default_factory=lambda: NetworkTable(["127.0.0.0/8", "::1"]),
        description="Clients that are not checked, besides those that have authenticated: our own servers, forwarders.",
    )
    trust_arc: NameTable = Field(
        default=NameTable(),
        description=(
            "Domains whose ARC seals count: if such a sealer recorded that the author was authenticated, a failure is "
            "arc_trusted instead. Needs the policy arc before this one."
        ),
    )
    organizations: int = Field(
        default=5,
        ge=1,
        le=20,
        description="Organizations that the authors may be of; more are bad_from (RFC 9989 11.5).",
    )


class Dmarc(Policy[DmarcOptions]):
    """Checks that the author is who they say, as their domain asks."""

    name = "dmarc"
    on_error = OnError.DEFER
    timeout = 30.0
    requires = ("spf", "dkim")

    none = Outcome("none", Action.PASS, _NONE, "The author's domain has no DMARC record, or one that asks for nothing.")
    passed = Outcome("pass", Action.PASS, _PASS, "SPF or DKIM passes in alignment with the author's domain.")
    fail = Outcome("fail", Action.PASS, _FAIL, "Neither does, and the author's domain asks for nothing (p=none).")
    quarantine = Outcome("quarantine", Action.TAG, _QUARANTINE, "Neither does, and the domain asks for quarantine.")
    reject = Outcome("reject", Action.REJECT, _REJECT, "Neither does, and the domain asks for rejection.")
    arc_trusted = Outcome(
        "arc_trusted", Action.PASS, _FAIL, "Neither does, but a sealer in trust_arc recorded that one did before."
    )
    temperror = Outcome("temperror", Action.DEFER, _TEMPERROR, "It can't be told now, because of a fault in the DNS.")
    bad_from = Outcome(
        "bad_from",
        Action.REJECT,
        _BAD_FROM,
        "The From field is missing, repeated or malformed, gives no domain, or has authors of several organizations of "
        "which one does not pass.",
    )
    no_author = Outcome(
        "no_author",
        Action.TAG,
        _NO_AUTHOR,
        "A bounce (null reverse-path) whose From field has no address, or is missing.",
    )

    @classmethod
    def also_requires(cls, options: Options) -> tuple[str, ...]:
        """Nobody's seals count where nobody has looked at them."""
        return ("arc",) if isinstance(options, DmarcOptions) and not options.trust_arc.is_empty else ()

    def look_ahead(self, transaction: Transaction, message: Message) -> None:
        """Ask for the records of the author's domains while dkim waits for keys."""
        if not self._leaves_out(transaction.session):
            transaction.author = author = read_author(message.fields)
            for domain in author.domains[: self.options.organizations]:
                ask_ahead(transaction.session.resolver, questions(domain))

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        """Evaluate DMARC for a message that has come."""
        session = transaction.session
        if self._leaves_out(session):
            return None
        author = transaction.author or read_author(message.fields)
        domains = author.domains
        if author.fault is not None:
            return self._without_domain(transaction, author, author.fault)
        if len(domains) > _MAX_DOMAINS:
            return self._bad_from(transaction, domains[0], f"the From field has addresses of {len(domains)} domains")
        # What stays if the time is over before the evaluation is.
        transaction.dmarc = Result(result=DmarcResult.TEMPERROR, reason="the evaluation did not end", domain=domains[0])
        walks = TreeWalks(session.resolver)
        if len(domains) == 1:
            worst = await self._judged(domains[0], transaction, walks)
        else:
            judged = await self._judged_all(domains, transaction, walks)
            if isinstance(judged, Finding):
                return judged
            worst = judged
        transaction.dmarc = worst.found.dmarc
        return self._finding(worst.found, worst.rescue, transaction.arc, domains)

    def _without_domain(self, transaction: Transaction, author: Author, fault: AuthorFault) -> Finding:
        """No domain to evaluate: a bounce may name no author, other mail must."""
        if isinstance(transaction.reverse_path, NullReversePath) and fault in {
            AuthorFault.MISSING,
            AuthorFault.NO_ADDRESS,
        }:
            transaction.dmarc = Result(result=DmarcResult.NONE, reason=f"a bounce without an author: {author.reason}")
            return self.no_author(reason=author.reason, fault=fault.value)
        transaction.dmarc = Result(result=DmarcResult.PERMERROR, reason=author.reason)
        evidence = {"reason": author.reason, "fault": fault.value}
        return Finding(self.bad_from, evidence, _BAD_FROM_REPLIES[fault])

    def _bad_from(self, transaction: Transaction, domain: str, reason: str) -> Finding:
        """Authors of several organizations that do not all pass; the domain is the first that does not."""
        transaction.dmarc = Result(result=DmarcResult.PERMERROR, reason=reason, domain=domain)
        text = f"The From field has authors of several organizations, and {domain} does not pass DMARC (RFC 9989 11.5)"
        evidence = {"reason": reason, "fault": "several_organizations", "domain": domain}
        return Finding(self.bad_from, evidence, replace(_BAD_FROM, text=text))

    async def _judged(self, domain: str, transaction: Transaction, walks: TreeWalks) -> _Judged:
        """What DMARC finds for one of the author's domains."""
        found = await evaluate(domain, transaction.spf, transaction.dkim, walks)
        if found.dmarc.result is DmarcResult.FAIL and found.record is not None and transaction.arc is not None:
            return _Judged(*await self._rescued(found, found.record, transaction.arc, walks))
        return _Judged(found, None)

    @staticmethod
    async def _organization(domain: str, walks: TreeWalks) -> str:
        """The organizational domain; where no DMARC record tells it, that of the public suffix list."""
        if await walks.policy(domain) is None:
            return organizational_domain(domain)
        return await walks.organization(domain)

    async def _judged_all(
        self, domains: Sequence[str], transaction: Transaction, walks: TreeWalks
    ) -> _Judged | Finding:
        """What DMARC finds for several domains: the worst of one organization; of several all must pass."""
        try:
            organizations = {await self._organization(domain, walks) for domain in domains}
        except DnsFaultError as fault:
            unknown = Result(result=DmarcResult.TEMPERROR, reason=str(fault), domain=domains[0])
            return _Judged(Evaluation(unknown, None), None)
        if len(organizations) > self.options.organizations:
            reason = f"the From field has authors of {len(organizations)} organizations"
            return self._bad_from(transaction, domains[0], reason)
        judged = [await self._judged(domain, transaction, walks) for domain in domains]
        worst = max(judged, key=lambda each: each.severity)
        if len(organizations) == 1 or worst.passes:
            return next((each for each in judged if worst.passes and each.rescue is not None), worst)
        refused = [each.found.dmarc for each in judged if not each.passes]
        certain = [dmarc for dmarc in refused if dmarc.result is not DmarcResult.TEMPERROR]
        if not certain:
            return worst
        dmarc = certain[0]
        reason = (
            f"of the authors {', '.join(domains[:_LISTED])} each must pass, and {dmarc.domain} does not: {dmarc.reason}"
        )
        return self._bad_from(transaction, dmarc.domain, reason)

    def _leaves_out(self, session: Session) -> bool:
        return session.login is not None or session.client_address in self.options.trusted

    async def _rescued(
        self, found: Evaluation, record: PolicyRecord, arc: Arc, walks: TreeWalks
    ) -> tuple[Evaluation, TrustedPass | None]:
        """What a failure comes to by what trusted sealers recorded."""
        dmarc = found.dmarc
        trusted = self.options.trust_arc
        unfinished = not arc.sets and not trusted.is_empty
        if arc.result is ArcResult.TEMPERROR and (unfinished or any(each.domain in trusted for each in arc.sets)):
            reason = f"DMARC fails, and whether ARC makes up for it can't be told now: {arc.reason}"
            return _undecided(found, reason), None
        ask = partial(
            trusted_pass,
            domain=dmarc.domain,
            is_trusted=trusted.__contains__,
            spf_aligned=lambda domain: walks.are_aligned(domain, dmarc.domain, record.spf_mode),
            dkim_aligned=lambda domain: walks.are_aligned(domain, dmarc.domain, record.dkim_mode),
        )
        try:
            rescue = await ask(arc)
            if rescue is None and arc.untold and await ask(replace(arc, oldest_pass=0)) is not None:
                reason = f"whether the message is as ARC set {arc.untold[0]} sealed it can't be told now"
                return _undecided(found, reason), None
        except DnsFaultError as fault:
            return _undecided(found, str(fault)), None
        if rescue is not None:
            dmarc = replace(dmarc, disposition=Disposition.NONE, arc_sealer=rescue.sealer)
        return Evaluation(dmarc, record), rescue

    def _finding(
        self, found: Evaluation, rescue: TrustedPass | None, arc: Arc | None, domains: Sequence[str]
    ) -> Finding:
        dmarc, record = found
        evidence: dict[str, object] = {
            "domain": dmarc.domain,
            "result": dmarc.result,
            "disposition": dmarc.disposition,
            "reason": dmarc.reason,
        }
        if len(domains) > 1:
            evidence["authors"] = list(domains)
        if record is not None:
            evidence |= _published(dmarc, record)
        outcome = self.outcomes[dmarc.result]
        reply = None
        if rescue is not None and arc is not None:
            outcome = self.arc_trusted
            evidence["arc"] = f"{rescue.sealer} recorded {rescue.method}=pass as ARC set {rescue.instance}"
            evidence["override"] = _override("local_policy", _chain(arc))
        elif dmarc.result is DmarcResult.FAIL:
            if dmarc.policy is not dmarc.disposition:
                evidence["override"] = _override("policy_test_mode", "t=y")
            if dmarc.disposition is Disposition.QUARANTINE:
                outcome = self.quarantine
            elif dmarc.disposition is Disposition.REJECT:
                outcome = self.reject
                reply = replace(_REJECT, text=f"Rejected by the DMARC policy of {dmarc.domain}")
        return Finding(outcome, evidence, reply or outcome.reply)


def _undecided(found: Evaluation, reason: str) -> Evaluation:
    """A failure that may be none once the DNS answers."""
    dmarc = replace(found.dmarc, result=DmarcResult.TEMPERROR, disposition=Disposition.NONE, reason=reason)
    return Evaluation(dmarc, found.record)


def _published(dmarc: Result, record: PolicyRecord) -> dict[str, object]:
    """What the domain published, with the names of RFC 9990's policy_published, and where it wants reports."""
    published: dict[str, object] = {
        "domain": dmarc.record_domain,
        "discovery_method": "treewalk",
        "p": record.policy,
        "sp": record.for_subdomains,
        "np": record.for_nonexistent,
        "fo": ":".join(record.failure_options),
        "adkim": record.dkim_mode[0],
        "aspf": record.spf_mode[0],
        "testing": "y" if record.testing else "n",
    }
    evidence: dict[str, object] = {
        "organizational_domain": dmarc.organizational_domain,
        "policy_published": published,
    }
    if record.aggregate_uris:
        evidence["rua"] = list(record.aggregate_uris)
    if record.failure_uris:
        evidence["ruf"] = list(record.failure_uris)
    if record.errors:
        evidence["errors"] = list(record.errors[:_LISTED])
    return evidence


def _override(kind: str, comment: str) -> dict[str, str]:
    """Why the disposition is not the policy, with the words of RFC 9990's reason element."""
    return {"type": kind, "comment": comment}


def _chain(arc: Arc) -> str:
    """A chain as reports name it (RFC 8617 7.2.2)."""
    seals = (
        f"as[{each.instance}].d={each.domain} as[{each.instance}].s={each.selector}" for each in reversed(arc.sets)
    )
    return f"arc={arc.result.value} {' '.join(seals)}"
