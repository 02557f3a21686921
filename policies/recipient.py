"""recipient: refuses recipients that do not exist.

Runs at RCPT, for recipients of domains that have a source of ``recipients`` in the configuration; for other domains
of ours every address is let through, and the mail server behind the gateway says whether it exists. Addresses of
domains that are not ours (from clients that may relay) are not its business.

An address is looked up as it is; if it is unknown and the domain has subaddress separators, once more without the
detail: ``user+detail`` is ``user`` (RFC 5233). ``postmaster`` exists in every domain, in any case of letters (RFC
5321 4.5.1).

When the source can't be asked now, the client is told to come again: the address may exist.
"""

from gateway.policy import NoOptions, OnError, Policy
from gateway.session import Recipient, Transaction, without_detail
from gateway.smtp.reply import Reply
from gateway.verdict import Action, Finding, Outcome


class KnownRecipient(Policy[NoOptions]):
    """Refuses recipients that do not exist."""

    name = "recipient"
    on_error = OnError.DEFER

    unknown = Outcome("unknown", Action.REJECT, Reply(550, "5.1.1", "User unknown"), "The domain has no such address.")
    unverifiable = Outcome(
        "unverifiable",
        Action.DEFER,
        Reply(451, "4.3.0", "The recipient can't be checked now, try again later"),
        "Whether the address exists could not be found out now.",
    )

    async def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:  # noqa: ARG002 - the hook's signature
        """Look the recipient up."""
        domain = recipient.domain
        local_part = recipient.path.local_part
        if domain is None or domain.recipients is None or local_part.lower() == "postmaster":
            return None
        try:
            known = await domain.recipients.find(local_part, recipient.path.domain)
            if not known:
                user = without_detail(local_part, domain.subaddress_separators)
                known = user is not None and await domain.recipients.find(user, recipient.path.domain)
        except Exception as error:  # noqa: BLE001 - a source may raise whatever its driver does; all of it means 'not now'
            return self.unverifiable(domain=recipient.path.domain, error=f"{type(error).__name__}: {error}")
        return None if known else self.unknown(domain=recipient.path.domain, local_part=local_part)
