"""spf: may this client send for this domain (RFC 7208)?

Runs at MAIL. Checks the reverse-path's domain, or with the null reverse-path the HELO name in its place (RFC 7208 2.4),
and by default the HELO name besides (RFC 7208 2.3). What was found is left on the transaction, for DMARC, the
Authentication-Results field and the decision record; the outcome is the reverse-path's result in the RFC's word. Only
where that is no fail and the HELO name's is one, the outcome is ``helo_fail``.

Clients that have authenticated and those in ``trusted`` are not checked, and nothing is left on the transaction: they
send for others, from anywhere. Forwarders and secondary mail servers of one's own belong in ``trusted``.

A domain's explanation of a fail (``exp=``) is a stranger's text. It reaches the client as one line of printable
US-ASCII, with the domain's name before it (RFC 7208 6.2).

The DNS not answering is ``temperror``, and whatever a domain publishes ends within the limits; neither raises.
"""

from dataclasses import replace
from typing import Any, Final

from pydantic import Field

from gateway.address import address_text
from gateway.mailauth.results import Spf as Result
from gateway.mailauth.results import SpfCheck, SpfResult
from gateway.mailauth.spf import check_sender
from gateway.mailauth.spf_memory import SpfMemory
from gateway.mailauth.spf_questions import Limits
from gateway.policy import Context, OnError, Options, Policy
from gateway.session import Transaction
from gateway.smtp.path import Mailbox
from gateway.smtp.reply import Reply
from gateway.tables import NetworkTable
from gateway.units import Duration
from gateway.verdict import Action, Finding, Outcome

_MAX_LINE: Final = 480
"""Characters of a line of the reply: RFC 5321 4.5.3.1.5 allows 512 octets with the codes."""

_DENIED = Reply(550, "5.7.1", "Access denied")
_NO_RECORD = Reply(550, "5.7.1", "The sender's domain has no SPF record")
_NOT_SAID = Reply(550, "5.7.1", "The sender's domain does not say by SPF that this client may send for it")
_FAIL = Reply(550, "5.7.23", "SPF: this client may not send for the sender's domain")  # RFC 7372 3.2
_HELO_FAIL = Reply(550, "5.7.23", "SPF: this client may not use its HELO name")
_TEMPERROR = Reply(451, "4.7.24", "SPF: the DNS of the sender's domain gave no answer, try again later")
_PERMERROR = Reply(550, "5.7.24", "SPF: the record of the sender's domain can't be evaluated")


class SpfOptions(Options):
    """The options of ``spf``."""

    trusted: NetworkTable = Field(
        default=NetworkTable(["127.0.0.0/8", "::1"]),
        description=(
            "Clients that are not checked, besides those that have authenticated: our own servers, forwarders. "
            "By default the machine itself, 127.0.0.0/8 and ::1."
        ),
    )
    helo: bool = Field(default=True, description="Whether the HELO name is checked besides the reverse-path.")
    explanation: bool = Field(
        default=True, description="Whether a refused client is told what the domain itself says about it (exp=)."
    )
    lookups: int = Field(
        default=10, ge=1, le=20, description="Terms of a check that ask the DNS; more is a permerror (RFC 7208 4.6.4)."
    )
    void_lookups: int = Field(
        default=2,
        ge=0,
        description="Terms of a check that ask for what is not there; more is a permerror (RFC 7208 4.6.4).",
    )
    queries: int = Field(default=60, ge=11, description="DNS questions of a record's terms; more is a permerror.")
    time: Duration = Field(
        default=20.0,
        gt=0,
        description="How long the DNS may take for both names together; longer is a temperror (RFC 7208 4.6.4).",
    )


class Spf(Policy[SpfOptions]):
    """Checks who may send for a domain."""

    name = "spf"
    on_error = OnError.DEFER
    timeout = 30.0

    none = Outcome("none", Action.PASS, _NO_RECORD, "The domain has no SPF record, or there is no domain.")
    neutral = Outcome("neutral", Action.PASS, _NOT_SAID, "The domain says nothing about the client.")
    passed = Outcome("pass", Action.PASS, _DENIED, "The client may send for the domain.")
    fail = Outcome("fail", Action.REJECT, _FAIL, "The client may not send for the domain.")
    softfail = Outcome("softfail", Action.TAG, _NOT_SAID, "The client probably may not send for the domain.")
    temperror = Outcome("temperror", Action.DEFER, _TEMPERROR, "The DNS gave no answer, so it can't be told now.")
    permerror = Outcome("permerror", Action.PASS, _PERMERROR, "The domain's record is wrong or goes beyond the limits.")
    helo_fail = Outcome(
        "helo_fail",
        Action.REJECT,
        _HELO_FAIL,
        "The client may not use its HELO name, whatever the reverse-path came to, unless that is fail, too.",
    )

    def __init__(self, options: SpfOptions, context: Context) -> None:
        super().__init__(options, context)
        self._limits = Limits(
            lookups=options.lookups, void_lookups=options.void_lookups, queries=options.queries, time=options.time
        )
        self._memory = SpfMemory()

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        """Check the reverse-path and the HELO name."""
        session = transaction.session
        options = self.options
        if session.login is not None or session.client_address in options.trusted:
            transaction.authentication.spf = None  # which other options may have left
            return None
        path = transaction.reverse_path
        domain = path.domain if isinstance(path, Mailbox) else (session.helo_name or "").lower()
        try:
            found = await check_sender(
                session.resolver,
                address=session.client_address,
                reverse_path=path,
                helo=session.helo_name,
                check_helo=options.helo,
                receiver=self.context.hostname,
                now=self.context.clock.now(),
                limits=self._limits,
                memory=self._memory,
            )
        except BaseException:
            # What stays if the time is over before the check is: never nothing, or DMARC would take it for that.
            unfinished = SpfCheck(result=SpfResult.TEMPERROR, domain=domain, reason="the check did not end")
            transaction.authentication.spf = Result(mail_from=unfinished)
            raise
        transaction.authentication.spf = found
        checked, helo = found.mail_from, found.helo
        client = address_text(session.client_address)
        if helo is not None and helo.result is SpfResult.FAIL and checked.result is not SpfResult.FAIL:
            refusal = self._reply(_HELO_FAIL, helo, f"SPF: {client} may not say HELO {helo.domain}")
            return self.helo_fail(reply=refusal, **_evidence("helo", helo), mail_from=checked.result)
        evidence = _evidence("mailfrom", checked) | {"helo": None if helo is None else helo.result}
        if checked.result is SpfResult.FAIL:
            refusal = self._reply(_FAIL, checked, f"SPF: {client} may not send for {checked.domain}")
            return self.fail(reply=refusal, **evidence)
        return self.outcomes[checked.result](**evidence)

    def _reply(self, reply: Reply, checked: SpfCheck, text: str) -> Reply:
        """The reply to a fail: who may not do what, and what the domain says about it."""
        lines = [text]
        if self.options.explanation and checked.explanation:
            lines.append(f"{checked.domain} explains: {checked.explanation}")
        return replace(reply, text="\n".join(line[:_MAX_LINE] for line in lines))


def _evidence(identity: str, checked: SpfCheck) -> dict[str, Any]:
    """What the record shows of a check: all that was tried, unless it passed or there was nothing to try."""
    evidence: dict[str, Any] = {
        "identity": identity,  # the words of RFC 7208 9.1
        "domain": checked.domain,
        "result": checked.result,
        "mechanism": checked.mechanism,
        "reason": checked.reason,
    }
    if checked.result not in {SpfResult.PASS, SpfResult.NONE}:
        evidence |= {"record": checked.record, "steps": list(checked.steps), "queries": checked.queries}
    if checked.explanation is not None:
        evidence["explanation"] = checked.explanation
    return evidence
