"""size: refuses messages that are larger than the limit (RFC 1870).

Runs at MAIL and RCPT on the size that the client declared with ``SIZE=``, and when the message has arrived on its
real size, so that a client that declares nothing, or less than it sends, gains nothing by it. Each domain may have a
``message_size`` of its own: it is asked at RCPT, and of several recipients the smallest counts. No limit here can be
larger than the gateway's ``limits.message_size``, which is enforced while a message is being received.
"""

from pydantic import Field

from gateway.policy import Options, Policy
from gateway.session import Domain, Recipient, Transaction
from gateway.session import Message as ReceivedMessage
from gateway.smtp.reply import Reply
from gateway.units import Size as Octets
from gateway.verdict import Action, Finding, Outcome


class SizeOptions(Options):
    """The options of ``size``."""

    limit: Octets | None = Field(
        default=None,
        description="The largest message, for every recipient; 0 for none. Unset: the gateway's limits.message_size.",
    )


class Size(Policy[SizeOptions]):
    """Refuses messages that are larger than the limit."""

    name = "size"

    too_large = Outcome(
        "too_large",
        Action.REJECT,
        Reply(552, "5.3.4", "Message size exceeds the limit"),
        "The message, or the size that the client declared for it, is larger than the limit.",
    )

    def on_mail(self, transaction: Transaction) -> Finding | None:
        """Compare the declared size with the limit for all."""
        return self._check(transaction.declared_size, None)

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        """Compare the declared size with the limit of the recipient's domain."""
        return self._check(transaction.declared_size, recipient.domain)

    def on_message(self, transaction: Transaction, message: ReceivedMessage) -> Finding | None:
        """Compare the real size with the smallest limit of the recipients."""
        domains = [each.domain for each in transaction.accepted if each.domain and each.domain.message_size]
        smallest = min(domains, key=lambda domain: domain.message_size or 0) if domains else None
        return self._check(message.size, smallest)

    def _check(self, size: int | None, domain: Domain | None) -> Finding | None:
        if size is None:
            return None
        limit = self.context.message_size if self.options.limit is None else self.options.limit
        limiting = None
        if domain is not None and domain.message_size and (limit == 0 or domain.message_size < limit):
            limit, limiting = domain.message_size, domain.name
        if limit == 0 or size <= limit:
            return None
        return self.too_large(size=size, limit=limit, domain=limiting)
