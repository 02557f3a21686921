"""dmarc: is the author who they say, and if not, what does their domain ask for (RFC 9989)?

Runs when the message has come, after ``spf`` and ``dkim``. Takes the domain of the From field, finds its DMARC record,
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
from typing import Final

from pydantic import Field

from gateway.mailauth.author import Author, AuthorFault, read_author
from gateway.mailauth.authors import Disunited, Judge, Judgement, TooMany
from gateway.mailauth.dmarc import TreeWalks, questions
from gateway.mailauth.results import Arc, Disposition, DmarcResult, PolicyRecord
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
            transaction.authentication.author = author = read_author(message.fields)
            for domain in author.domains[: self.options.organizations]:
                ask_ahead(transaction.session.resolver, questions(domain))

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        """Evaluate DMARC for a message that has come."""
        session, options = transaction.session, self.options
        if self._leaves_out(session):
            return None
        found = transaction.authentication
        author = found.author or read_author(message.fields)
        domains = author.domains
        if author.fault is not None:
            return self._without_domain(transaction, author, author.fault)
        # What stays if the time is over before the evaluation is.
        found.dmarc = Result(result=DmarcResult.TEMPERROR, reason="the evaluation did not end", domain=domains[0])
        judge = Judge(
            TreeWalks(session.resolver),
            spf=found.spf,
            dkim=found.dkim,
            arc=found.arc,
            is_trusted=None if options.trust_arc.is_empty else options.trust_arc.__contains__,
        )
        judged: Judgement | Disunited | TooMany
        if len(domains) == 1:
            judged = await judge.one(domains[0])
        else:
            judged = await judge.all(domains, organizations=options.organizations, registered=organizational_domain)
        if isinstance(judged, TooMany):
            found.dmarc = Result(result=DmarcResult.PERMERROR, reason=judged.reason)
            evidence = {"reason": judged.reason, "fault": "too_many"}
            return Finding(self.bad_from, evidence, replace(_BAD_FROM, text="The From field has too many authors"))
        if isinstance(judged, Disunited):
            return self._disunited(transaction, judged)
        found.dmarc = judged.dmarc
        return self._finding(judged, found.arc, domains)

    def _without_domain(self, transaction: Transaction, author: Author, fault: AuthorFault) -> Finding:
        """No domain to evaluate: a bounce may name no author, other mail must."""
        if isinstance(transaction.reverse_path, NullReversePath) and fault in {
            AuthorFault.MISSING,
            AuthorFault.NO_ADDRESS,
        }:
            reason = f"a bounce without an author: {author.reason}"
            transaction.authentication.dmarc = Result(result=DmarcResult.NONE, reason=reason)
            return self.no_author(reason=author.reason, fault=fault.value)
        transaction.authentication.dmarc = Result(result=DmarcResult.PERMERROR, reason=author.reason)
        evidence = {"reason": author.reason, "fault": fault.value}
        return Finding(self.bad_from, evidence, _BAD_FROM_REPLIES[fault])

    def _disunited(self, transaction: Transaction, found: Disunited) -> Finding:
        """Authors of several organizations that do not all pass."""
        domain, reason = found
        transaction.authentication.dmarc = Result(result=DmarcResult.PERMERROR, reason=reason, domain=domain)
        text = f"The From field has authors of several organizations, and {domain} does not pass DMARC (RFC 9989 11.5)"
        evidence = {"reason": reason, "fault": "several_organizations", "domain": domain}
        return Finding(self.bad_from, evidence, replace(_BAD_FROM, text=text))

    def _leaves_out(self, session: Session) -> bool:
        return session.login is not None or session.client_address in self.options.trusted

    def _finding(self, judged: Judgement, arc: Arc | None, domains: Sequence[str]) -> Finding:
        dmarc, rescue = judged
        record = dmarc.published
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
    for tag, reports in (("rua", record.aggregate_reports), ("ruf", record.failure_reports)):
        if reports:
            evidence[tag] = [each.address for each in reports]
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
