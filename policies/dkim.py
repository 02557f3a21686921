"""dkim: are the signatures of the message good, and whose are they (RFC 6376, 8301, 8463, 8616)?

Runs when the message has arrived; its body has been hashed by then, while it came in. What each signature came to is
left on the transaction, for DMARC, the Authentication-Results field and the decision record. The outcome is what they
come to together, in the words of RFC 8601 2.7.1: ``pass`` if one passes, else what says most about the message.

A broken signature is no reason to refuse mail: whoever changes a message on its way, as mailing lists do, breaks it
(RFC 6376 6.3 wants it to count as none). So every outcome passes unless the operator says otherwise; DMARC is where the
domain in From says what should follow. Of a domain that is testing (``t=y``) a signature that is not good counts as
neutral.

Keys are asked for all at once. A time-out, of the DNS or of this policy, is ``temperror``.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import Field

from gateway.mailauth.body import hash_body
from gateway.mailauth.dkim import SINGLE_FIELDS, DkimOptions, overall, verify
from gateway.mailauth.keys import KeyLimits
from gateway.mailauth.results import DkimResult, DkimSignature
from gateway.policy import Context, OnError, Options, Policy
from gateway.session import Message, Transaction
from gateway.smtp.reply import Reply
from gateway.units import Duration
from gateway.verdict import Action, Finding, Outcome

# RFC 7372 3.1: X.7.20 no passing signature, X.7.21 no acceptable one. RFC 3463 3.8: X.7.5 a key was not available.
_NO_PASS = Reply(550, "5.7.20", "No passing DKIM signature found")
_NOT_ACCEPTABLE = Reply(550, "5.7.21", "No acceptable DKIM signature found")
_TEMPERROR = Reply(451, "4.7.5", "The key of a DKIM signature can't be looked up, try again later")
_DENIED = Reply(550, "5.7.1", "Access denied")

_UNFINISHED: Final = DkimSignature(result=DkimResult.TEMPERROR, reason="the verification did not end")


class DkimPolicyOptions(Options):
    """The options of ``dkim``."""

    signatures: int = Field(
        default=10,
        ge=1,
        le=100,
        description="How many signatures are verified, the author's own first; others are counted only.",
    )
    minimum_key: int = Field(
        default=1024, ge=1024, le=4096, description="The smallest RSA key in bits; a smaller one gives policy."
    )
    maximum_key: int = Field(
        default=4096, ge=4096, le=16384, description="The largest RSA key in bits; a larger one gives policy."
    )
    partial_body: bool = Field(
        default=False,
        description="Whether a signature may cover only the beginning of the body (l=); otherwise it gives policy.",
    )
    clock_skew: Duration = Field(
        default=300.0, ge=0, description="By how much a signer's clock may differ, for the times in t= and x=."
    )
    single_fields: tuple[str, ...] = Field(
        default=SINGLE_FIELDS,
        description=(
            "Fields of which no unsigned one may stand beside a signed one, because a reader may show the wrong one; "
            "otherwise the signature gives policy. From is always one of them."
        ),
    )


class Dkim(Policy[DkimPolicyOptions]):
    """Verifies the signatures of a message."""

    name = "dkim"
    on_error = OnError.PASS
    timeout = 30.0
    hashes_body = True

    none = Outcome("none", Action.PASS, _NO_PASS, "The message is not signed.")
    passed = Outcome("pass", Action.PASS, _DENIED, "At least one signature is good.")
    fail = Outcome("fail", Action.PASS, _NO_PASS, "The body or a signed field was changed, or another key signed.")
    policy = Outcome(
        "policy",
        Action.PASS,
        _NOT_ACCEPTABLE,
        "A signature is not accepted: expired, too small a key, part of the body, unsigned fields beside signed ones.",
    )
    neutral = Outcome(
        "neutral",
        Action.PASS,
        _NO_PASS,
        "A signature is of a kind that is not known, or not good while its domain is testing.",
    )
    temperror = Outcome("temperror", Action.PASS, _TEMPERROR, "The DNS gave no answer, so it can't be told now.")
    permerror = Outcome("permerror", Action.PASS, _NO_PASS, "A signature is malformed, or there is no key to it.")

    def __init__(self, options: DkimPolicyOptions, context: Context) -> None:
        super().__init__(options, context)
        self._accepted = DkimOptions(
            signatures=options.signatures,
            keys=KeyLimits(minimum=options.minimum_key, maximum=options.maximum_key),
            trust_body_length=options.partial_body,
            clock_skew=options.clock_skew,
            single=frozenset(name.lower() for name in options.single_fields),
        )

    @property
    def signatures(self) -> int:
        """For how many signatures bodies are hashed while they come in."""
        return self.options.signatures

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        """Verify the signatures."""
        count = sum(each.name == "dkim-signature" for each in message.fields)
        if not count:
            transaction.authentication.dkim = ()
            return self.none()
        # What stays if the time is over before this ends: never nothing, or DMARC would take it for no signature.
        transaction.authentication.dkim = (_UNFINISHED,)
        hashes = message.body_hashes
        if hashes is None or hashes.signatures < min(count, self.options.signatures):
            hashes = await hash_body(
                message.forwarded.chunks(),
                header_size=len(message.header),
                fields=message.fields,
                signatures=self.options.signatures,
            )
        found = await verify(
            message.fields,
            hashes,
            transaction.session.resolver,
            self.context.clock.now(),
            self._accepted,
        )
        transaction.authentication.dkim = found
        return self.outcomes[overall(found)](signatures=_evidence(found), ignored=count - len(found))


def _evidence(found: Sequence[DkimSignature]) -> list[dict[str, object]]:
    """What the record shows of each signature: what tells it from the others, and what is out of the ordinary."""
    shown: list[dict[str, object]] = []
    for each in found:
        entry: dict[str, object] = {"result": each.result, "domain": each.domain, "selector": each.selector}
        more = {
            "reason": each.reason,
            "algorithm": each.algorithm,
            "auid": each.auid if each.auid != f"@{each.domain}" else "",
            "key_bits": each.key_bits,
            "testing": each.testing,
            "body_length": each.body_length,
            "signature": each.signature,
        }
        notable = {name: value for name, value in more.items() if value not in {None, ""} and value is not False}
        shown.append(entry | notable)
    return shown
