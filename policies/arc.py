"""arc: did those who handed the message on seal it, and is the chain of their seals whole (RFC 8617)?

Runs when the message has come; its body has been hashed by then, while it came in. What the chain came to is left on
the transaction, for DMARC, the Authentication-Results field and the decision record. The outcome is the chain's status:
``none``, ``pass`` or ``fail``; ``temperror`` where a key can't be looked up now.

By itself it decides nothing: anybody can seal, and a broken chain is as good as none (RFC 8617 5.2.1, 9). ``dmarc``
uses what was recorded by the sealers that its ``trust_arc`` lists.
"""

from typing import Final

from pydantic import Field

from gateway.mailauth.arc import ArcOptions, has_chain, verify_chain
from gateway.mailauth.body import hash_body
from gateway.mailauth.keys import KeyLimits
from gateway.mailauth.results import Arc as Result
from gateway.mailauth.results import ArcResult
from gateway.policy import Context, OnError, Options, Policy
from gateway.session import Message, Transaction
from gateway.smtp.reply import Reply
from gateway.units import Duration
from gateway.verdict import Action, Finding, Outcome

# RFC 8617 5.2.2 would have 5.7.29 for a chain that fails; RFC 3463 3.8: X.7.5, a key was not available.
_FAIL = Reply(550, "5.7.29", "The ARC chain does not validate")
_TEMPERROR = Reply(451, "4.7.5", "The key of an ARC seal can't be looked up, try again later")
_DENIED = Reply(550, "5.7.1", "Access denied")

_UNFINISHED: Final = Result(result=ArcResult.TEMPERROR, reason="the validation did not end")


class ArcPolicyOptions(Options):
    """The options of ``arc``."""

    sets: int = Field(
        default=50, ge=1, le=50, description="How many sets a chain may have; a longer one fails (RFC 8617 4.2.1: 50)."
    )
    minimum_key: int = Field(
        default=1024, ge=1024, le=4096, description="The smallest RSA key in bits; a smaller one fails."
    )
    maximum_key: int = Field(
        default=4096, ge=4096, le=16384, description="The largest RSA key in bits; a larger one fails."
    )
    clock_skew: Duration = Field(
        default=300.0, ge=0, description="By how much a signer's clock may differ, for the times in t= and x=."
    )


class Arc(Policy[ArcPolicyOptions]):
    """Validates the chain of seals of those who handed the message on."""

    name = "arc"
    on_error = OnError.PASS
    timeout = 30.0
    hashes_body = True

    none = Outcome("none", Action.PASS, _DENIED, "The message has no chain.")
    passed = Outcome("pass", Action.PASS, _DENIED, "The chain is whole, and the message is as the last hop sealed it.")
    fail = Outcome("fail", Action.PASS, _FAIL, "The chain is malformed or broken, or the message was changed since.")
    temperror = Outcome("temperror", Action.PASS, _TEMPERROR, "The DNS gave no answer, so it can't be told now.")

    def __init__(self, options: ArcPolicyOptions, context: Context) -> None:
        super().__init__(options, context)
        self._accepted = ArcOptions(
            sets=options.sets,
            keys=KeyLimits(minimum=options.minimum_key, maximum=options.maximum_key),
            clock_skew=options.clock_skew,
        )

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        """Validate the chain."""
        if not has_chain(message.fields):
            transaction.authentication.arc = Result(result=ArcResult.NONE)
            return self.none()
        # What stays if the time is over before this ends: never nothing, or DMARC would take it for no chain.
        transaction.authentication.arc = _UNFINISHED
        hashes = message.body_hashes
        if hashes is None:
            hashes = await hash_body(
                message.forwarded.chunks(), header_size=len(message.header), fields=message.fields, signatures=0
            )
        found = await verify_chain(
            message.fields, hashes, transaction.session.resolver, self.context.clock.now(), self._accepted
        )
        transaction.authentication.arc = found
        return self.outcomes[found.result.value](
            reason=found.reason,
            oldest_pass=found.oldest_pass,
            sealer=found.sealer,
            sets=[
                {"instance": each.instance, "domain": each.domain, "selector": each.selector, "from": each.signs_from}
                for each in found.sets
            ],
        )
