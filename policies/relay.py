"""relay: no open relay. Refuses recipients of domains that are not ours.

Runs at RCPT. A recipient is let through when its domain is one of ``domains:``, or when the client is one that may
relay: it is in ``trusted``, or it has authenticated. ``<postmaster>`` without a domain is always ours (RFC 5321
4.5.1).

An address of our own domain can still ask for another one. For clients that may not relay these are refused too,
unless ``untrusted_routing`` says otherwise, because a mail server behind the gateway may rewrite them after the
check: ``user%other@ours``, ``other!user@ours`` and the quoted ``"user@other"@ours``. A source route
(``<@a,@b:user@c>``) is ignored, as RFC 5321 appendix C says: what counts is the address behind it, and the record
shows it. An address literal is ours only when it is listed under ``domains:``.

Stands early in the chain. When it can't run, mail is deferred: a wrong pass would relay.
"""

from enum import StrEnum

from pydantic import Field

from gateway.policy import OnError, Options, Policy
from gateway.session import Recipient, Transaction
from gateway.smtp.reply import Reply
from gateway.tables import NetworkTable
from gateway.verdict import Action, Finding, Outcome

_RELAY_DENIED = Reply(554, "5.7.1", "Relay access denied")
_ROUTED = Reply(550, "5.1.3", "Source routes are not accepted")


class UntrustedRouting(StrEnum):
    """What happens to addresses of our domains whose local part asks for another one."""

    REJECT = "reject"
    ACCEPT = "accept"


class Trick(StrEnum):
    """Why a recipient is not ours, for the record."""

    FOREIGN_DOMAIN = "foreign_domain"
    ADDRESS_LITERAL = "address_literal"
    NO_DOMAIN = "no_domain"
    PERCENT_HACK = "percent_hack"
    BANG_PATH = "bang_path"
    QUOTED_AT = "quoted_at"


_ROUTING = {"@": Trick.QUOTED_AT, "%": Trick.PERCENT_HACK, "!": Trick.BANG_PATH}


class RelayOptions(Options):
    """The options of ``relay``."""

    trusted: NetworkTable = Field(
        default=NetworkTable(),
        description="Clients that may send to any domain, besides those that have authenticated.",
    )
    untrusted_routing: UntrustedRouting = Field(
        default=UntrustedRouting.REJECT,
        description=(
            "Whether the others may use %, ! or a quoted @ in a local part of our domains. Set it to accept only if "
            "there are such local parts and no mail server behind the gateway rewrites them."
        ),
    )


class Relay(Policy[RelayOptions]):
    """Refuses recipients of domains that are not ours."""

    name = "relay"
    on_error = OnError.DEFER

    denied = Outcome(
        "denied",
        Action.REJECT,
        _RELAY_DENIED,
        "The recipient is not ours, and the client is neither trusted nor authenticated.",
    )
    source_route = Outcome(
        "source_route",
        Action.PASS,
        _ROUTED,
        "The recipient has a source route, which is ignored (RFC 5321 appendix C).",
    )

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        """Refuse what is not ours."""
        session = transaction.session
        trick = self._trick(recipient)
        route = recipient.path.source_route
        if trick is not None and session.login is None and session.client_address not in self.options.trusted:
            return self.denied(reason=trick.value, domain=recipient.path.domain, source_route=list(route))
        return self.source_route(hosts=list(route)) if route else None

    def _trick(self, recipient: Recipient) -> Trick | None:
        path = recipient.path
        if recipient.domain is None:
            if path.domain.startswith("["):
                return Trick.ADDRESS_LITERAL
            if path.domain:
                return Trick.FOREIGN_DOMAIN
            return None if path.local_part.lower() == "postmaster" else Trick.NO_DOMAIN
        if _ROUTING.keys().isdisjoint(path.local_part) or self.options.untrusted_routing is UntrustedRouting.ACCEPT:
            return None
        return next(trick for character, trick in _ROUTING.items() if character in path.local_part)
