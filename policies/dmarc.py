"""dmarc: is the author who they say, and if not, what does their domain ask for (RFC 9989)?

Runs when the message has come, behind ``spf`` and ``dkim``. Takes the domain of the From field, finds its DMARC record,
and looks whether SPF or DKIM passes for a domain that is aligned with it. What was found is left on the transaction;
the outcome is ``pass``, ``none`` (there is no record) or what the domain asks for: ``reject``, ``quarantine``, or
``fail`` for nothing. ``t=y`` in the record makes that one step weaker.

A message whose From field names no domain, several, or can't be read in one way only is ``bad_from``: it is outside of
DMARC, and so a way around it (RFC 9989, Denial of DMARC Processing Attacks).

Mail that fails because it was forwarded can be rescued by ARC: with ``arc`` before this policy, ``trust_arc`` lists the
sealers whose recorded results count (outcome ``arc_trusted``); ``gateway/mailauth/recorded.py`` says which sets do.

A fault is ``temperror`` and never a refusal: the DNS not answering for the record, or for SPF or DKIM of a domain that
would be aligned. Clients that have authenticated and those in ``trusted`` are not checked.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from pydantic import Field

from gateway.mailauth.author import read_author
from gateway.mailauth.dmarc import DnsFaultError, Evaluation, TreeWalks, evaluate, questions
from gateway.mailauth.dmarc_record import PolicyRecord
from gateway.mailauth.recorded import TrustedPass, trusted_pass
from gateway.mailauth.results import Arc, ArcResult, Disposition, DmarcResult
from gateway.mailauth.results import Dmarc as Result
from gateway.policy import OnError, Options, Policy
from gateway.resolver import ask_ahead
from gateway.session import Message, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.tables import NameTable, NetworkTable
from gateway.verdict import Action, Finding, Outcome

# RFC 7372 3.3: 5.7.26, several authentication checks failed. RFC 9989, Rejecting Messages: the text has the word DMARC.
_FAILED: Final = "5.7.26"
_BAD_FROM = Reply(550, "5.7.1", "The From field must have addresses of exactly one domain (RFC 9989)")
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
        "bad_from", Action.REJECT, _BAD_FROM, "The From field is missing, repeated, malformed, or has several domains."
    )

    @classmethod
    def also_requires(cls, options: Options) -> tuple[str, ...]:
        """Nobody's seals count where nobody has looked at them."""
        return ("arc",) if isinstance(options, DmarcOptions) and not options.trust_arc.is_empty else ()

    def look_ahead(self, transaction: Transaction, message: Message) -> None:
        """Ask for the records of the author's domain while dkim waits for keys."""
        if not self._leaves_out(transaction.session):
            transaction.author = author = read_author(message.fields, message.header)
            ask_ahead(transaction.session.resolver, questions(author.domain) if author.fault is None else ())

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        """Evaluate DMARC for a message that has come."""
        session = transaction.session
        if self._leaves_out(session):
            return None
        author = transaction.author or read_author(message.fields, message.header)
        if author.fault is not None:
            transaction.dmarc = Result(result=DmarcResult.PERMERROR, reason=author.reason)
            return self.bad_from(reason=author.reason, fault=author.fault.value)
        # What stays if the time is over before the evaluation is.
        transaction.dmarc = Result(
            result=DmarcResult.TEMPERROR, reason="the evaluation did not end", domain=author.domain
        )
        walks = TreeWalks(session.resolver)
        found = await evaluate(author.domain, transaction.spf, transaction.dkim, walks)
        rescue = None
        if found.dmarc.result is DmarcResult.FAIL and found.record is not None and transaction.arc is not None:
            found, rescue = await self._rescued(found, found.record, transaction.arc, walks)
        transaction.dmarc = found.dmarc
        return self._finding(found, rescue, transaction.arc)

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

    def _finding(self, found: Evaluation, rescue: TrustedPass | None, arc: Arc | None) -> Finding:
        dmarc, record = found
        evidence: dict[str, object] = {
            "domain": dmarc.domain,
            "result": dmarc.result,
            "disposition": dmarc.disposition,
            "reason": dmarc.reason,
        }
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
