"""greylist: a sender that is not known yet is asked to come again; most that send spam do not.

Runs at RCPT. What is noted is the triplet of client, sender and recipient. A new one is put off with 450 for ``delay``;
when it comes again within ``window`` it passes, and is then remembered for ``keep`` after its last message. When
``clients_after`` triplets of a client have passed, the client is known and no more is asked of it.

The client is its network (``ipv4_prefix``, ``ipv6_prefix``), because large senders try again from a neighbouring
address. With ``by_domain`` it is the sender's domain instead, where SPF authenticates it (put ``spf`` before this
policy): a sender with addresses all over the world is one client then. With ``at: message`` the policy runs when the
message has come, and knows the domain of a DKIM signature, too; that costs the message, and one new recipient puts off
all.

Senders are compared without case, without a ``+detail``, and with every number as ``#``, because mailing lists and
bounce addresses carry numbers that differ from message to message; recipients without case, and without a detail where
their domain has ``subaddress``. Clients that have authenticated are never put off.

What is noted is shared by all workers and machines (``state:``): a client may come again anywhere. When the state is
away ``on_error`` holds: by default mail passes.
"""

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from gateway.policy import OnError, Options, Policy
from gateway.session import Message, Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Greet, Greeted, Greeting, subject
from gateway.subjects import SEPARATORS, SUBADDRESS, dkim_domain, network, sender, spf_domain, wanted
from gateway.tables import AddressTable, NameTable, NetworkTable
from gateway.units import Duration, counted
from gateway.verdict import Action, Finding, Outcome, Stage

_NUMBERS: Final = re.compile(r"(?<![a-z0-9])[0-9a-f]{8,}(?![a-z0-9])|[0-9]+")
"""Numbers, and long ones in hexadecimal."""


class At(StrEnum):
    """When the policy runs."""

    RCPT = "rcpt"
    MESSAGE = "message"


class GreylistOptions(Options):
    """The options of ``greylist``."""

    delay: Duration = Field(default=300.0, description="How long a new triplet has to wait.", gt=0)
    window: Duration = Field(default=172_800.0, description="Within which time it must come again.")
    keep: Duration = Field(
        default=3_024_000.0,
        description="How long it is remembered after its last message; more than a month by default.",
        gt=0,
    )
    clients_after: Annotated[int, Field(ge=0)] = Field(
        default=5, description="Of how many triplets a client must have come again to be known itself; 0 for never."
    )
    by_domain: bool = Field(
        default=True,
        description="Whether a sender that SPF (with `at: message`, also DKIM) authenticates is known by its domain "
        "instead of its client's network.",
    )
    at: At = Field(default=At.RCPT, description="`rcpt`, or `message` to know the domains of DKIM signatures.")
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = Field(
        default=24, description="The length of the networks by which IPv4 clients are known."
    )
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = Field(default=64, description="The same for IPv6.")
    subaddress: str = Field(default="+", pattern=SEPARATORS, description=SUBADDRESS)
    exclude_clients: NetworkTable = Field(default=NetworkTable(), description="Clients that need not wait.")
    exclude_names: NameTable = Field(default=NameTable(), description="Clients that need not wait, by their names.")
    exclude_senders: AddressTable = Field(default=AddressTable(), description="Senders that need not wait.")
    exclude_recipients: AddressTable = Field(
        default=AddressTable(), description="Recipients whose mail need not wait, such as `postmaster@`."
    )

    @model_validator(mode="after")
    def _can_pass(self) -> Self:
        if self.window <= self.delay:
            raise ValueError("'window' must be longer than 'delay', or nothing ever passes")
        return self


class Greylist(Policy[GreylistOptions]):
    """Puts off senders that are not known yet."""

    name = "greylist"
    on_error = OnError.PASS
    uses_state = True

    greylisted = Outcome(
        "greylisted",
        Action.DEFER,
        Reply(450, "4.7.1", "Greylisted, try again later"),
        "The triplet is new or came again too early; the reply says in how many seconds to come back.",
    )
    known = Outcome(
        "known",
        Action.PASS,
        Reply(450, "4.7.1", "Greylisted"),
        "The triplet has waited, or its client is known; the record shows which.",
    )

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:
        """The one that ``at`` names."""
        assert isinstance(options, GreylistOptions)  # noqa: S101 - its own
        return {stage: hook for stage, hook in cls.hooks().items() if stage.value == options.at.value}

    async def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        """Look at one triplet."""
        if await self._is_excluded(transaction) or recipient.path in self.options.exclude_recipients:
            return None
        greet = self._greet(transaction, recipient)
        return self._found(greet, await self.context.state.greet(greet))

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:  # noqa: ARG002 - the hook's
        """Look at the triplets of all recipients; the one that has to wait longest speaks for all."""
        excluded = self.options.exclude_recipients
        recipients = [recipient for recipient in transaction.accepted if recipient.path not in excluded]
        if not recipients or await self._is_excluded(transaction):
            return None
        greets = [self._greet(transaction, recipient) for recipient in recipients]
        greetings: Sequence[Greeting] = await asyncio.gather(*map(self.context.state.greet, greets))
        at = max(range(len(greets)), key=lambda index: greetings[index].wait)
        return self._found(greets[at], greetings[at])

    async def _is_excluded(self, transaction: Transaction) -> bool:
        session, options = transaction.session, self.options
        if session.login is not None or session.client_address in options.exclude_clients:
            return True
        if transaction.reverse_path in options.exclude_senders:
            return True
        if options.exclude_names.is_empty:
            return False
        name = (await session.resolve_client_name()).name
        return name is not None and name in options.exclude_names

    def _greet(self, transaction: Transaction, recipient: Recipient) -> Greet:
        options = self.options
        parts = {
            "sender": _plain(sender(transaction, options.subaddress)),
            "recipient": wanted(recipient, options.subaddress),
        }
        return Greet(
            client=self._client(transaction.session, transaction),
            envelope=subject(**parts),
            delay=options.delay,
            window=options.window,
            keep=options.keep,
            passes=options.clients_after,
        )

    def _client(self, session: Session, transaction: Transaction) -> str:
        options = self.options
        if options.by_domain:
            signed = dkim_domain(transaction) if options.at is At.MESSAGE else None
            domain = signed or spf_domain(transaction)
            if domain is not None:
                return subject(domain=domain)
        return subject(client_address=network(session.client_address, options.ipv4_prefix, options.ipv6_prefix))

    def _found(self, greet: Greet, greeting: Greeting) -> Finding:
        evidence: dict[str, Any] = {
            "client": greet.client,
            "status": greeting.status.value,
            "client_passes": greeting.passes,
        }
        if greeting.status is not Greeted.CLIENT:
            evidence["waited"] = round(greeting.waited)
        if greeting.status.may_pass:
            return self.known(**evidence)
        seconds = max(1, math.ceil(greeting.wait))
        told = Reply(450, "4.7.1", f"Greylisted, try again in {counted(seconds, 'second')}")
        return self.greylisted(reply=told, wait=seconds, **evidence)


def _plain(address: str) -> str:
    """A sender with every number as ``#``, but for those in its domain."""
    local_part, at, domain = address.rpartition("@")
    return f"{_NUMBERS.sub('#', local_part)}{at}{domain}"
