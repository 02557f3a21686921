"""limits: bounds on what one client may do in one session.

- ``recipients``: recipients of one message, at RCPT. The rest is deferred with ``452 4.5.3``, and the sender brings
  them in a further transaction (RFC 5321 4.5.3.1.10). At least 100 must be possible (RFC 5321 4.5.3.1.8).
- ``messages``: messages of one session, at MAIL.
- ``refusals``: refused recipients, senders and messages and protocol errors of one session, together, at MAIL and
  RCPT. It ends sessions that try out addresses.

The last two end the session with ``421``: a sender in good faith comes back on a new connection and goes on there.
Rates over many sessions are not counted here.
"""

from pydantic import Field

from gateway.policy import Options, Policy
from gateway.session import Recipient, RecipientState, Session, Transaction
from gateway.smtp import reply
from gateway.smtp.reply import Reply
from gateway.verdict import Action, Finding, Outcome


class LimitsOptions(Options):
    """The options of ``limits``."""

    recipients: int = Field(
        default=1000, ge=100, description="Recipients of one message, at least 100 (RFC 5321 4.5.3.1.8)."
    )
    messages: int = Field(default=100, ge=0, description="Accepted messages of one session; 0 for any number.")
    refusals: int = Field(
        default=100,
        ge=0,
        description=(
            "Refusals and protocol errors of one session; 0 for any number. A mailing list with dead addresses in good "
            "faith has some, too: do not set it near 20."
        ),
    )


class Limits(Policy[LimitsOptions]):
    """Bounds what one client may do in one session."""

    name = "limits"

    too_many_recipients = Outcome(
        "too_many_recipients", Action.DEFER, reply.TOO_MANY_RECIPIENTS, "The message has as many recipients as it may."
    )
    too_many_messages = Outcome(
        "too_many_messages",
        Action.DISCONNECT,
        Reply(421, "4.7.0", "Too many messages in one session, come back on a new connection"),
        "The session has brought as many messages as it may.",
    )
    too_many_refusals = Outcome(
        "too_many_refusals",
        Action.DISCONNECT,
        Reply(421, "4.7.0", "Too many refused commands, closing the connection"),
        "Too much of the session was refused.",
    )

    def on_mail(self, transaction: Transaction) -> Finding | None:
        """Count refusals and messages."""
        session = transaction.session
        limit = self.options.messages
        if limit and session.messages >= limit:
            return self.too_many_messages(messages=session.messages, limit=limit)
        return self._refusals(session)

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        """Count refusals and recipients."""
        limit = self.options.recipients
        if len(transaction.recipients) >= limit:  # most messages have few, and need no closer look
            accepted = sum(
                known.state is RecipientState.ACCEPTED for known in transaction.recipients if known is not recipient
            )
            if accepted >= limit:
                return self.too_many_recipients(recipients=accepted, limit=limit)
        return self._refusals(transaction.session)

    def _refusals(self, session: Session) -> Finding | None:
        limit = self.options.refusals
        if limit and session.refusals + session.errors >= limit:
            return self.too_many_refusals(refusals=session.refusals, errors=session.errors, limit=limit)
        return None
