"""What holds for all sessions of a listener, whatever its door."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.admission.trace import Identity
from gateway.chain.chain import Chain
from gateway.policy import Clock
from gateway.records import RecordSink
from gateway.session import Domain, Recipient, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for all sessions of a listener.

    Attributes:
        chain: The listener's chain.
        domain: Finds our domain of a name, None if it is not ours.
        backend: Gives the name of the server group that a recipient's mail goes to.
        quarantine: The name of the server group that held mail goes to, None where no policy holds any.
        recipient_limit: The most RCPT commands of one transaction, refused ones too.
        recipient_overshoot: How many RCPT commands a transaction may have above that; the next one ends the session (as
            Postfix's smtpd_recipient_overshoot_limit).
        transaction_memory: Octets that a transaction may hold beside its message; a recipient that does not fit is one
            above the limit.
        single_recipient: The groups that take one recipient a transaction (LMTP answers each recipient by itself).
        sink: Takes the records.
        clock: Gives the time.
        identity: The gateway's names.
        delay_reject: Whether early refusals are held back until RCPT.
        session_delay: Seconds by which the replies of a session may be held back in all.
    """

    chain: Chain
    domain: Callable[[str], Domain | None]
    backend: Callable[[Session, Recipient], str]
    quarantine: str | None
    recipient_limit: int
    recipient_overshoot: int
    transaction_memory: int
    single_recipient: frozenset[str]
    sink: RecordSink
    clock: Clock
    identity: Identity
    delay_reject: bool
    session_delay: float
