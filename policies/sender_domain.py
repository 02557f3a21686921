"""sender_domain: refuses senders whose domain does not exist or takes no mail.

Runs at MAIL. To the reverse-path go answers and notifications, so its domain must be able to receive: it has MX
records, or without them an address itself (RFC 5321 5.1). A null MX says that it takes no mail (RFC 7505). The MX
records are asked for first, because most domains have some; both kinds of addresses then at the same time.

Where the MX records lead is looked at only with ``mx_hosts``, because each host is a question or two more. A host leads
nowhere when it has no address, or none that is reached over the Internet: loopback, unspecified, private, link-local,
multicast, reserved. One good host is enough; of many the first ten are asked.

The null reverse-path has no domain. Clients that have authenticated and those in ``trusted`` are not checked: they are
ours, and may use names that the public DNS does not have. Single domains of that kind go into ``ignore``.

When the DNS gives no answer nothing is known of the domain, and the outcome is ``unverifiable``. An address that was
found counts even if the MX question had no answer: the domain exists, and its mail has somewhere to go. Some name
servers say NXDOMAIN to one type of question although the name has records of another, so that a domain does not exist
only when all three questions say so.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from pydantic import Field

from gateway.address import is_global
from gateway.policy import OnError, Options, Policy
from gateway.resolver import Answer, RecordType, Resolver, Status
from gateway.session import Transaction
from gateway.smtp.path import Mailbox
from gateway.smtp.reply import Reply
from gateway.tables import NameTable, NetworkTable
from gateway.verdict import Action, Finding, Outcome

MAX_HOSTS: Final = 10
"""MX hosts that are looked at: a domain with more has good ones among the first."""

_UNKNOWN = Reply(550, "5.1.8", "The sender's domain does not exist")
_UNREACHABLE = Reply(550, "5.1.8", "The sender's domain has neither MX nor address records")
_NULL_MX = Reply(550, "5.7.27", "The sender's domain takes no mail (null MX)")  # RFC 7505 4.2
_BOGUS_MX = Reply(451, "4.1.8", "The mail hosts of the sender's domain can't be reached")
_LITERAL = Reply(550, "5.1.8", "An address literal is not accepted as the sender's domain")
_UNVERIFIABLE = Reply(451, "4.1.8", "The sender's domain can't be looked up now, try again later")


class SenderDomainOptions(Options):
    """The options of ``sender_domain``."""

    trusted: NetworkTable = Field(
        default=NetworkTable(), description="Clients that are not checked, besides those that have authenticated."
    )
    ignore: NameTable = Field(default=NameTable(), description="Domains that are not looked at.")
    mx_hosts: bool = Field(
        default=False, description="Whether to look at where the MX records lead, too, for the outcome bogus_mx."
    )


class SenderDomain(Policy[SenderDomainOptions]):
    """Refuses senders whose domain does not exist or takes no mail."""

    name = "sender_domain"
    on_error = OnError.PASS
    timeout = 20.0

    unknown = Outcome("unknown", Action.REJECT, _UNKNOWN, "The domain does not exist.")
    no_mail = Outcome(
        "no_mail", Action.REJECT, _NULL_MX, "The domain says that it takes no mail: a null MX (RFC 7505)."
    )
    unreachable = Outcome("unreachable", Action.REJECT, _UNREACHABLE, "The domain has neither MX nor address records.")
    bogus_mx = Outcome(
        "bogus_mx",
        Action.DEFER,
        _BOGUS_MX,
        "None of the domain's mail hosts has an address that is reached over the Internet; with mx_hosts only.",
    )
    literal = Outcome("literal", Action.PASS, _LITERAL, "The sender has an address literal in place of a domain.")
    unverifiable = Outcome("unverifiable", Action.DEFER, _UNVERIFIABLE, "The DNS gave no answer.")

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        """Look the domain up."""
        session = transaction.session
        path = transaction.reverse_path
        if not isinstance(path, Mailbox) or session.login is not None or session.client_address in self.options.trusted:
            return None
        domain = path.domain
        if domain.startswith("["):
            return self.literal(domain=domain)
        if domain in self.options.ignore:
            return None
        mx = session.resolver.known(domain, RecordType.MX) or await session.resolver.lookup(domain, RecordType.MX)
        if mx.status is not Status.FOUND:
            return await self._by_address(session.resolver, domain, mx)
        hosts = _hosts(mx.records)
        if not hosts:
            return self.no_mail(domain=domain, mx=list(mx.records))
        return await self._by_hosts(session.resolver, domain, hosts) if self.options.mx_hosts else None

    async def _by_address(self, resolver: Resolver, domain: str, mx: Answer) -> Finding | None:
        """Without MX records the domain is its own mail host (RFC 5321 5.1)."""
        a, aaaa = await _addresses(resolver, domain)
        if a.records or aaaa.records:
            if self.options.mx_hosts and not _has_global((*a.records, *aaaa.records)):
                return self.bogus_mx(domain=domain, hosts={domain: [*a.records, *aaaa.records]})
            return None
        statuses = {mx.status, a.status, aaaa.status}
        outcome = self.unreachable
        if statuses == {Status.NXDOMAIN}:
            outcome = self.unknown
        elif any(status.is_temporary for status in statuses):
            outcome = self.unverifiable
        return outcome(domain=domain, mx=mx.status.value, a=a.status.value, aaaa=aaaa.status.value)

    async def _by_hosts(self, resolver: Resolver, domain: str, hosts: Sequence[str]) -> Finding | None:
        """Look where the MX records lead."""
        answers = await asyncio.gather(*(_addresses(resolver, host) for host in hosts[:MAX_HOSTS]))
        found = {host: [*a.records, *aaaa.records] for host, (a, aaaa) in zip(hosts[:MAX_HOSTS], answers, strict=True)}
        if any(_has_global(addresses) for addresses in found.values()):
            return None
        if any(answer.status.is_temporary for pair in answers for answer in pair):
            return self.unverifiable(domain=domain, hosts=found)
        return self.bogus_mx(domain=domain, hosts=found)


def _hosts(records: Sequence[str]) -> list[str]:
    """The hosts of MX records, best first, the root aside, which means that there is none (RFC 7505 3)."""
    pairs = sorted((int(preference), host) for preference, _, host in (record.partition(" ") for record in records))
    return [host for _, host in pairs if host not in {"", "."}]


async def _addresses(resolver: Resolver, host: str) -> tuple[Answer, Answer]:
    """Both kinds of addresses of a host, asked for at the same time."""
    return await asyncio.gather(resolver.lookup(host, RecordType.A), resolver.lookup(host, RecordType.AAAA))


def _has_global(addresses: Sequence[str]) -> bool:
    """Whether one of the addresses can be reached over the Internet."""
    return any(is_global(ip_address(text)) for text in addresses)
