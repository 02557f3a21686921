r"""For authors of policies: try a policy without a socket, a backend or the real DNS.

A ``Site`` is a gateway as a policy sees it: domains of ours, a DNS zone, a clock that stands still until it is set.
It makes the policy from options as YAML would give them, and sessions, transactions and recipients to hand to it;
``run`` calls the hook of a stage::

    site = Site(domains=["example.com"], zone={"192.0.2.1": {"PTR": ["mail.example.net"]}})
    policy = site.policy(Relay, {"trusted": ["198.51.100.0/24"]})
    transaction = site.transaction("alice@example.net", session=site.session("192.0.2.1"))
    finding = await run(policy, Stage.RCPT, transaction, site.recipient(transaction, "bob@example.org"))
    assert finding is not None and finding.outcome is Relay.denied

What an action comes to in a whole session (replies, delayed refusals, exceptions) is the chain's; ``lychgate
explain`` shows it.

Raises ``ValueError`` for an address, options or a zone that a real gateway would not take either.
"""

import inspect
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.adapters.dns.zone import ZoneResolver
from gateway.adapters.state.memory import MemoryState
from gateway.chain.asking import Question, ask
from gateway.form import HeaderReader
from gateway.policy import Context, Policy
from gateway.resolver import client_name
from gateway.session import (
    Domain,
    Message,
    Recipient,
    RecipientSource,
    RecipientState,
    Session,
    TlsInfo,
    Transaction,
)
from gateway.smtp.grammar import GrammarError, parse_mail, parse_rcpt
from gateway.state import Asking, State
from gateway.verdict import Finding, Stage

NOON: Final = 1_767_268_800.0
"""The time at every site until it is set: 1 January 2026, 12:00 UTC."""

PolicyT = TypeVar("PolicyT", bound=Policy[Any])


class SettableClock:
    """A clock that stands still until it is set."""

    def __init__(self, now: float = NOON) -> None:
        self._now = now

    def now(self) -> float:
        """UNIX time in seconds."""
        return self._now

    def set(self, now: float) -> None:
        """Set the time, in UNIX seconds."""
        self._now = now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


def domain(
    name: str,
    *,
    recipients: RecipientSource | None = None,
    subaddress_separators: str = "",
    message_size: int | None = None,
) -> Domain:
    """A domain of ours."""
    return Domain(
        name=name,
        backend="backend",
        recipients=recipients,
        subaddress_separators=subaddress_separators,
        message_size=message_size,
    )


class _Octets:
    """The content of a message, in memory."""

    def __init__(self, octets: bytes, chunk: int) -> None:
        self.size = len(octets)
        self.ends_with_newline = not octets or octets.endswith(b"\r\n")
        self._octets = octets
        self._chunk = chunk

    @property
    def parts(self) -> Sequence[bytes] | None:
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, max(self.size, 1), self._chunk):
            yield self._octets[start : start + self._chunk]


def message(octets: bytes, *, chunk: int = 65_536) -> Message:
    """A message of its octets as they travel: lines end in CRLF, an empty line ends the header.

    Args:
        octets: The message.
        chunk: Octets that are read at a time.
    """
    header, end, _ = (b"\r\n" + octets).partition(b"\r\n\r\n")  # the first line may be the empty one
    return Message(_Octets(octets, chunk), HeaderReader().read((header + end[:2])[2:]))


class Site:
    """A gateway as a policy sees it.

    Args:
        domains: Our domains: names, or what ``domain`` makes.
        zone: The DNS, in the form of ``gateway.adapters.dns.zone``.
        hostname: The gateway's own name.
        folder: Where relative file names in options start.
        message_size: The gateway's limit in octets, 0 for none.
        state: What is counted together; a memory of its own without it.

    Attributes:
        clock: The clock, to be set.
        context: What policies are handed.
    """

    def __init__(
        self,
        *,
        domains: Iterable[str | Domain] = (),
        zone: Mapping[str, object] | None = None,
        hostname: str = "mx.example.com",
        folder: Path = Path(),
        message_size: int = 50_000_000,
        state: State | None = None,
    ) -> None:
        made = [domain(item) if isinstance(item, str) else item for item in domains]
        self._domains = {item.name: item for item in made}
        self._resolver = ZoneResolver(zone or {})
        self._sessions = 0
        self.clock = SettableClock()
        self.context = Context(
            hostname=hostname,
            folder=folder,
            resolver=self._resolver,
            clock=self.clock,
            domain=self._domains.get,
            message_size=message_size,
            state=MemoryState(self.clock) if state is None else state,
        )

    def policy(self, policy: type[PolicyT], options: Mapping[str, object] | None = None) -> PolicyT:
        """Make a policy with options as YAML gives them; ``start`` is not called."""
        validated = policy.options_type.model_validate(dict(options or {}), context={"folder": self.context.folder})
        return policy(validated, self.context)

    def session(
        self,
        client_address: str = "192.0.2.1",
        *,
        helo_name: str | None = "client.example.net",
        login: str | None = None,
        tls: TlsInfo | None = None,
    ) -> Session:
        """A connection; its client's name is found in the zone."""
        self._sessions += 1
        return Session(
            id=f"S{self._sessions}",
            listener="127.0.0.1:25",
            client_address=ip_address(client_address),
            client_port=40000,
            server_address="127.0.0.1:25",
            started=self.clock.now(),
            resolver=self._resolver,
            find_client_name=partial(client_name, self._resolver),
            helo_name=helo_name,
            extended=True,
            tls=tls,
            login=login,
        )

    def transaction(
        self, mail_from: str = "alice@example.net", parameters: str = "", *, session: Session | None = None
    ) -> Transaction:
        """A transaction after MAIL.

        Args:
            mail_from: The reverse-path without angle brackets; empty for the null reverse-path.
            parameters: As they stand behind the path, such as ``SIZE=1000 BODY=8BITMIME``.
            session: Its session; one of its own without it.
        """
        try:
            reverse_path, parsed = parse_mail(f"FROM:<{mail_from}> {parameters}".rstrip())
        except GrammarError as error:
            raise ValueError(f"MAIL FROM:<{mail_from}> {parameters}: {error}") from None
        session = session or self.session()
        session.transactions += 1
        return Transaction(
            id=f"{session.id}.{session.transactions}",
            session=session,
            reverse_path=reverse_path,
            parameters=parsed,
            started=self.clock.now(),
        )

    def recipient(
        self, transaction: Transaction, rcpt_to: str, parameters: str = "", *, state: RecipientState | None = None
    ) -> Recipient:
        """A further recipient of a transaction.

        Args:
            transaction: What it is added to.
            rcpt_to: The forward-path without angle brackets, a source route included.
            parameters: As they stand behind the path, such as ``NOTIFY=NEVER``.
            state: What became of it; None while the policies look at it.
        """
        try:
            path, parsed = parse_rcpt(f"TO:<{rcpt_to}> {parameters}".rstrip())
        except GrammarError as error:
            raise ValueError(f"RCPT TO:<{rcpt_to}> {parameters}: {error}") from None
        recipient = Recipient(path=path, parameters=parsed, domain=self.context.domain(path.domain), state=state)
        transaction.recipients.append(recipient)
        return recipient


async def run(policy: Policy[Any], stage: Stage, *arguments: object) -> Finding | None:
    """Call a policy's hook as the chain does, and wait for it if need be.

    Args:
        policy: The policy.
        stage: The stage.
        arguments: What the hook of this stage takes.

    Returns:
        What it found.

    Raises:
        ValueError: The policy does not run at this stage, or found what it does not declare, or brings header fields
            along that it may not write.
        Exception: Whatever the policy raises; the chain would do what its ``on_error`` says.
    """
    name = policy.hooks().get(stage)
    if name is None:
        raise ValueError(f"{type(policy).__name__} does not run at {stage.value}")
    result = policy.hook(stage, name)(*arguments)
    answer: Finding | Asking | None = await result if inspect.isawaitable(result) else result
    if isinstance(answer, Asking):
        (concluded,) = await ask(policy.context.state, [Question(answer)])
        if isinstance(concluded, Exception):
            raise concluded
        answer = concluded
    finding = answer
    if finding is not None and policy.outcomes.get(finding.outcome.name) is not finding.outcome:
        raise ValueError(f"{type(policy).__name__} does not declare the outcome {finding.outcome.name!r}")
    if finding is not None:
        policy.check_fields(finding)
    return finding
