"""loop: refuses messages that go in circles (RFC 5321 6.3).

Runs when the message has arrived, and counts its ``Received`` fields: every server that a message passes adds one.
Two signs count:

- more than ``hops`` fields in all. RFC 5321 6.3 wants a large limit, normally 100; the default is 50 as that of
  Postfix (hopcount_limit), because a Postfix behind the gateway refuses such messages anyway;
- more than ``own`` fields that this gateway added itself, found by its own name behind ``by``. Forwarding may rightly
  bring a message back once or twice, and a loop through here shows sooner by it.

Whoever writes a false ``Received`` field only makes their own message be refused.
"""

import re

from pydantic import Field

from gateway.policy import Context, Options, Policy
from gateway.session import Message, Transaction
from gateway.smtp.reply import Reply
from gateway.verdict import Action, Finding, Outcome


class LoopOptions(Options):
    """The options of ``loop``."""

    hops: int = Field(default=50, ge=1, description="How many Received fields a message may have.")
    own: int = Field(default=5, ge=0, description="How many of them may be this gateway's own; 0 for any number.")


class Loop(Policy[LoopOptions]):
    """Refuses messages that go in circles."""

    name = "loop"

    looping = Outcome(
        "looping",
        Action.REJECT,
        Reply(554, "5.4.6", "Routing loop detected: the message has passed too many servers"),
        "The message has passed too many servers, or this gateway too often.",
    )

    def __init__(self, options: LoopOptions, context: Context) -> None:
        super().__init__(options, context)
        # RFC 5321 4.4: By-domain = CFWS "BY" FWS Extended-Domain
        name = re.escape(context.hostname.encode())
        self._by_us = re.compile(rb"(?:^|[\s)])by\s+%b\.?(?=[\s;(]|$)" % name, re.IGNORECASE)

    def on_message(self, transaction: Transaction, message: Message) -> Finding | None:  # noqa: ARG002 - the hook's signature
        """Count the Received fields."""
        received = message.all("Received")
        limit = self.options.own
        own = sum(self._by_us.search(field.value) is not None for field in received) if limit < len(received) else 0
        if len(received) > self.options.hops or (limit and own > limit):
            return self.looping(hops=len(received), own=own)
        return None
