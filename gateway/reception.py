"""Reception: one client's way through the chain, step by step, and the decision record at its end.

It knows no socket and no backend: the SMTP door walks a connection through it, ``explain`` an imagined one. Each step
updates the ``Session`` or ``Transaction``, runs the chain's stage and gives the ``Verdict``; a verdict with a reply is
what the client is told. Here live the three rules that span stages:

* ``delay_reject``: refusals at connect, helo and mail are held back and given to each recipient, so that the record has
  the envelope, and a recipient's own settings and exceptions have their say. ``disconnect`` is not held back: it
  protects.
* What limits count in advance is given back when the mail does not come through: for a recipient when it is refused,
  for the message at the end of its transaction. What was accepted or discarded stays counted, and what may have been
  accepted, too.
* Recipients whose settings behind the data or whose backends differ are split: the later ones get ``452 4.5.3``,
  because the end of data has one answer for all; the sender brings them in a transaction of their own (RFC 5321
  4.5.3.1.10).

Each transaction leaves one record, and each connection that never came to one. A record is written before the reply it
describes is sent.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway import weight
from gateway.address import address_text
from gateway.chain import Chain, Found, Ruling, Seen, Variant, applied, recipient_seen
from gateway.policy import Clock
from gateway.recording import RESULTS, decision_of, outcome_of, record_of
from gateway.records import BackendRecord, DecisionPart, RecordSink, Result
from gateway.session import Domain, Message, Recipient, RecipientState, Session, Transaction
from gateway.smtp import reply as replies
from gateway.smtp.path import Mailbox, Parameter, ReversePath
from gateway.smtp.reply import MAX_REPLY_LINE, Reply
from gateway.trace import Identity, received, sender_authentication
from gateway.verdict import GO_ON, PROTOCOL, Action, ByPolicy, Check, Stage, Verdict

if TYPE_CHECKING:
    from gateway.mailauth.results import Spf

_PROBLEMS: Final[Mapping[Reply, str]] = {
    replies.NUL_IN_DATA: "nul",
    replies.BARE_NEWLINE_DATA: "bare_newline",
    replies.HEADER_TOO_BIG: "header_too_large",
    replies.MESSAGE_TOO_BIG: "too_large",
    replies.INSUFFICIENT_STORAGE: "spool_failed",
    replies.MALFORMED_HEADER: "malformed_header",
}
"""What the record calls the protocol's reasons to refuse a message."""

# By names of this module, because members of an enum are slow to find before Python 3.12.
_CONNECT, _HELO, _MAIL, _RCPT, _DATA, _MESSAGE, _CLOSE = Stage
_ACCEPTED: Final = RecipientState.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for all sessions of a listener.

    Attributes:
        chain: The listener's chain.
        domain: Finds our domain of a name, None if it is not ours.
        backend: Tells the name of the server group that a recipient's mail goes to.
        recipient_limit: The most RCPT commands of one transaction, refused ones too.
        recipient_overshoot: How many a session may have above that; the next one ends it (as Postfix's
            smtpd_recipient_overshoot_limit).
        transaction_memory: Octets that a transaction may hold beside its message; a recipient that does not fit is one
            above the limit.
        single_recipient: The groups that take one recipient a transaction (LMTP answers each recipient by itself).
        sink: Takes the records.
        clock: Tells the time.
        identity: The gateway's names.
        delay_reject: Whether early refusals are held back until RCPT.
    """

    chain: Chain
    domain: Callable[[str], Domain | None]
    backend: Callable[[Session, Recipient], str]
    recipient_limit: int
    recipient_overshoot: int
    transaction_memory: int
    single_recipient: frozenset[str]
    sink: RecordSink
    clock: Clock
    identity: Identity
    delay_reject: bool


class _Sharing(NamedTuple):
    """What recipients must have in common to share a transaction."""

    backend: str
    limit: int | None
    tags: frozenset[bytes]
    after_data: object


class Reception:
    """Walks one session through the chain.

    Args:
        session: The session, fresh.
        rules: What holds for it.
        client: The client's address as text, where it is at hand.

    Attributes:
        chain: The listener's chain.
        transaction: The open transaction, None between them.
        in_doubt: Whether the backend may have accepted the message, because it was handed over and no answer is known.
    """

    __slots__ = (
        "_accepted_spf",
        "_anew",
        "_client",
        "_discarded",
        "_first",
        "_has_accepted",
        "_held",
        "_held_octets",
        "_overshoot",
        "_pending",
        "_recorded",
        "_refused",
        "_rules",
        "_shared",
        "_spf",
        "_started",
        "_tags",
        "_weighed",
        "_written",
        "chain",
        "in_doubt",
        "session",
        "transaction",
    )

    def __init__(self, session: Session, rules: Rules, client: str | None = None) -> None:
        self.session = session
        self.chain = rules.chain
        self.transaction: Transaction | None = None
        self.in_doubt = False
        self._rules = rules
        self._client = client or address_text(session.client_address)
        self._held: list[Ruling] = []
        self._anew: dict[tuple[Stage, int], Found] = {}
        # What was found before RCPT with the options that hold for all, and with those of the accepted recipients.
        self._spf: Spf | None = None
        self._accepted_spf: Spf | None = None
        self._pending: list[Ruling] = []  # of the recipient whose answer the backend is asked for
        self._tags: list[bytes] = []
        self._has_accepted = False
        self._held_octets = 0  # beside the message, as far as it was counted: see _has_room
        self._weighed = 0  # checks that were counted
        self._overshoot = 0  # recipients above the limit, in the session
        self._first: tuple[Recipient, Variant, Seen, list[Ruling]]  # the first recipient that was accepted
        self._shared: _Sharing | None = None  # what it must have in common with others, once there are any
        self._refused: Verdict | None = None  # the connection or HELO, at once
        self._discarded: Verdict | None = None  # at DATA: the message is read first
        self._recorded: Verdict | None = None
        self._started = time.perf_counter()
        self._written = False

    # The steps of the session.

    async def connect(self) -> Verdict:
        """The client has connected; runs before the greeting."""
        return await self._session_stage(_CONNECT) if _CONNECT in self.chain.common.steps else GO_ON

    def refuse_client(self, verdict: Verdict) -> Reply:
        """What a client that is refused at connect is greeted with: 554, or 421 (RFC 5321 3.1)."""
        reply = verdict.reply or replies.LOCAL_ERROR
        reply = (
            _greeting(self._rules.identity.hostname, reply)
            if verdict.action is Action.REJECT
            else reply.as_disconnection()
        )
        self._refused = replace(verdict, reply=reply)
        return reply

    def tls_failed(self, reason: str, *, left: bool) -> Verdict | None:
        """The TLS handshake failed; nothing can be said to the client any more.

        Args:
            reason: Why.
            left: Whether the client closed the connection, and not the gateway.
        """
        check = Check(policy=PROTOCOL.value, stage=_CONNECT, recipient=None)
        check.outcome, check.action = "tls_handshake_failed", Action.DISCONNECT
        check.evidence = {"reason": reason}
        self.session.checks.append(check)
        return None if left else Verdict(Action.DISCONNECT, None, PROTOCOL, check.outcome, _CONNECT)

    async def helo(self, name: str, *, extended: bool) -> Verdict:
        """HELO or EHLO; a repeated one forgets what the earlier one found (RFC 5321 4.1.4)."""
        self.abort()
        self.session.helo_name = name
        self.session.extended = extended
        if self._held:
            self._held = [ruling for ruling in self._held if ruling.stage is _CONNECT]
        if self.session.checks:
            self.session.checks[:] = [check for check in self.session.checks if check.stage is _CONNECT]
        return await self._session_stage(_HELO) if _HELO in self.chain.common.steps else GO_ON

    async def mail(self, path: ReversePath, parameters: tuple[Parameter, ...]) -> Verdict:
        """MAIL: begins a transaction. A verdict with a reply ends it at once."""
        session = self.session
        session.transactions += 1
        self._started = time.perf_counter()
        transaction = Transaction(
            id=f"{session.id}.{session.transactions}",
            session=session,
            reverse_path=path,
            parameters=parameters,
            started=self._rules.clock.now(),
        )
        self.transaction = transaction
        self._anew.clear()
        self._has_accepted = False
        self._held_octets = self._weighed = 0
        verdict = self._refused or GO_ON
        if self._refused is None and _MAIL in self.chain.common.steps:
            verdict = await self._early_stage(_MAIL, Seen(session, path), (transaction,), transaction.checks)
        self._spf = transaction.spf
        if verdict.reply is not None:
            session.refusals += 1
            if verdict.action is Action.REJECT and isinstance(verdict.by, ByPolicy):
                self.chain.refused(transaction, None, verdict.by.id)
            self.finish(RESULTS[verdict.action], verdict, verdict.reply)
        return verdict

    async def rcpt(
        self, path: Mailbox, parameters: tuple[Parameter, ...], waiting: int = 0
    ) -> tuple[Recipient, Verdict]:
        """RCPT: a verdict with a reply refuses or discards the recipient; otherwise the backend has the next word.

        Args:
            path: The forward-path.
            parameters: Its parameters.
            waiting: Octets that the client has sent ahead: what it holds, too.
        """
        transaction = self._open()
        recipient = Recipient(path=path, parameters=parameters, domain=self._rules.domain(path.domain))
        if transaction.recipients and not self._has_room(
            transaction, waiting
        ):  # not noted, or a client could fill the memory
            return recipient, self._refuse(recipient, self._one_too_many())
        transaction.recipients.append(recipient)
        variant = self.chain.variant(recipient.domain)
        seen = recipient_seen(transaction, recipient)
        rulings: list[Ruling] = []
        transaction.spf = self._spf
        if self._held or variant.anew:
            rulings = await self.chain.early(variant, self._held, seen, transaction, self._anew)
        if _ending(rulings) is None:
            rulings += await self.chain.run(_RCPT, variant, seen, (transaction, recipient), transaction.checks)
        ruling = _ending(rulings)
        if ruling is not None:
            return recipient, self._refuse(recipient, self._verdict(ruling))
        split = self._split(recipient, variant, seen, rulings)
        if split is not None:
            return recipient, self._refuse(recipient, split)
        self._pending = rulings
        return recipient, GO_ON

    def _has_room(self, transaction: Transaction, waiting: int) -> bool:
        """Whether a transaction may have one more recipient: by their number, and by what it holds already."""
        recipients, checks, reservations = transaction.recipients, transaction.checks, transaction.reservations
        self._held_octets += weight.of_recipient(*recipients[-1:-3:-1]) + weight.of_checks(checks[self._weighed :])
        self._weighed = len(checks)
        octets = waiting + self._held_octets + weight.of_reservations(reservations)
        return len(recipients) < self._rules.recipient_limit and octets < self._rules.transaction_memory

    def _one_too_many(self) -> Verdict:
        """The answer to a recipient above the limit, and in the end to a client that goes on all the same."""
        self._overshoot += 1
        if self._overshoot > self._rules.recipient_overshoot:
            told = replies.TOO_MANY_COMMANDS.with_reference(self.reference)
            return Verdict(Action.DISCONNECT, told, PROTOCOL, "too_many_recipients", _RCPT)
        told = replies.TOO_MANY_RECIPIENTS.with_reference(self.reference)
        return Verdict(Action.DEFER, told, PROTOCOL, "too_many_recipients", _RCPT)

    def told(self, reply: Reply) -> Reply:
        """A backend's reply as the client gets it: unchanged; what the gateway says in its place has a reference."""
        if reply.code != replies.BACKEND_UNAVAILABLE.code or reply not in replies.BACKEND_FAULTS:
            return reply
        return reply.with_reference(self.reference)

    def answered(self, recipient: Recipient, reply: Reply) -> None:
        """What the backend said to a recipient that the chain let through."""
        recipient.reply = reply
        if reply.is_positive:
            recipient.state = _ACCEPTED
            self._has_accepted = True
            self._accepted_spf = self._open().spf
            if self._pending:
                self._tag(self._pending)
            return
        recipient.state = RecipientState.DEFERRED if reply.is_transient else RecipientState.REJECTED
        self.session.refusals += 1
        if self._open().reservations:
            self.chain.give_back(self._open(), recipient)
        if not reply.is_transient:
            self.chain.refused(self._open(), recipient, None)

    async def data(self) -> Verdict:
        """DATA or the first BDAT: before the message is asked for. One that is to be discarded is asked for, too."""
        transaction = self._open()
        if not self._has_accepted:  # every recipient is discarded
            discarded = (each.verdict for each in transaction.recipients if each.state is RecipientState.DISCARDED)
            verdict = next(discarded, None) or GO_ON
        else:
            transaction.spf = self._accepted_spf
            verdict = await self._late_stage(_DATA, (transaction,))
        if verdict is GO_ON or verdict.action is not Action.DISCARD:
            return verdict
        self._discarded = replace(verdict, reply=replies.ACCEPTED)
        return GO_ON

    async def message(self, message: Message) -> Verdict:
        """The message has come: without a reply in the verdict it may be forwarded, with ``message.added`` on top."""
        transaction = self._open()
        transaction.message = message
        if message.section.malformed and self._discarded is None:
            return self.problem(replies.MALFORMED_HEADER)
        verdict = self._discarded or await self._late_stage(_MESSAGE, (transaction, message))
        if verdict.reply is None:
            names = self._rules.identity
            message.added[:0] = [
                # Above Received: SpamAssassin believes what stands there, not what stands below, where a stranger's
                # server could have put it.
                *sender_authentication(transaction, authserv_id=names.authserv_id, address=self._client),
                received(transaction, hostname=names.hostname, address=self._client, now=self._rules.clock.now()),
                *self._tags,
            ]
        return verdict

    def problem(self, reply: Reply) -> Verdict:
        """The protocol's refusal of a message, or the gateway's inability to take it."""
        self.session.refusals += 1
        action = Action.DEFER if reply.is_transient else Action.REJECT
        return Verdict(action, reply.with_reference(self.reference), PROTOCOL, _PROBLEMS.get(reply), _MESSAGE)

    # The ends.

    def finish(
        self, result: Result, verdict: Verdict | None, reply: Reply | None, backend: BackendRecord | None = None
    ) -> None:
        """End the transaction with its result and write its record.

        Args:
            result: A word of ``DecisionPart.result``.
            verdict: What decided, None where it was not a policy (then the backend, if there is one, or the protocol).
            reply: The last reply to the client.
            backend: The backend's part, None if it was not asked.
        """
        transaction = self._open()
        self.transaction = None
        self._recorded = verdict
        self._discarded = None
        if self._held:
            self._held = [ruling for ruling in self._held if ruling.stage is not _MAIL]
        self._tags = []
        if result == "accepted":
            self.session.messages += 1
        elif transaction.reservations and result != "discarded" and not self.in_doubt:
            self.chain.give_back(transaction)
        self.in_doubt = False
        decision = decision_of(result, verdict, backend)
        self._write(transaction, decision, reply, backend)

    def abort(self, backend: BackendRecord | None = None) -> None:
        """The client gave up the transaction, if there is one: RSET, a new HELO, QUIT, or the connection ended."""
        if self.transaction is not None:
            self.finish(*outcome_of(self.transaction), backend=backend)

    async def close(
        self, verdict: Verdict | None = None, reply: Reply | None = None, backend: BackendRecord | None = None
    ) -> None:
        """The connection has ended, or is being ended by the gateway with a reply.

        Args:
            verdict: Why the gateway ends it, None when the client did. A policy's refusal of the client, told before,
                counts more than how the connection came to its end.
            reply: The last reply to the client.
            backend: The backend's part in an open transaction.
        """
        if self._refused is not None and (verdict is None or verdict.by is PROTOCOL):
            verdict, reply = self._refused, self._refused.reply
        by_policy = verdict is not None and isinstance(verdict.by, ByPolicy)
        if self.transaction is not None:
            result, decided, last = outcome_of(self.transaction)
            if verdict is not None and (by_policy or result == "aborted"):
                result, decided, last = RESULTS[verdict.action], verdict, reply
            self.finish(result, decided, last, backend)
        session = self.session
        checks: list[Check] = []
        if _CLOSE in self.chain.common.steps:
            await self.chain.run(_CLOSE, self.chain.common, Seen(session), (session,), checks)
        if not self._written or (by_policy and verdict is not self._recorded):
            session.checks += checks
            result = "none" if verdict is None else RESULTS[verdict.action]
            self._write(None, decision_of(result, verdict, None), reply, None)

    # How stages are run.

    async def _session_stage(self, stage: Stage) -> Verdict:
        verdict = await self._early_stage(stage, Seen(self.session), (self.session,), self.session.checks)
        self._refused = None if verdict.reply is None else verdict
        return verdict

    async def _early_stage(
        self, stage: Stage, seen: Seen, arguments: tuple[object, ...], checks: list[Check]
    ) -> Verdict:
        chain = self.chain
        if self._held and self._refusal_stands():
            return GO_ON
        # What is discarded must look accepted, so it too waits for RCPT, and with it what is refused behind it.
        waits = self._rules.delay_reject or (bool(self._held) and bool(applied(self._held, Action.DISCARD)))
        rulings = await chain.run(stage, chain.common, seen, arguments, checks, to_the_end=waits)
        if not rulings:
            return GO_ON
        for ruling in applied(rulings, Action.DISCONNECT, Action.DEFER, Action.REJECT, Action.DISCARD):
            if ruling.response.action is Action.DISCARD:
                waits = True
            elif not waits or ruling.response.action is Action.DISCONNECT:
                return self._verdict(ruling)
        self._held += rulings
        return GO_ON

    def _tag(self, rulings: Iterable[Ruling]) -> None:
        """Note the header fields of tags, each once."""
        for field in map(_tag_field, applied(rulings, Action.TAG)):
            if field not in self._tags:
                self._tags.append(field)

    def _refusal_stands(self) -> bool:
        """Whether a refusal is held that no recipient's settings can lift, so that nothing needs to run behind it."""
        return any(self.chain.is_final(ruling) for ruling in self._held)

    async def _late_stage(self, stage: Stage, arguments: tuple[object, ...]) -> Verdict:
        """Run a stage by the settings of the first recipient, which are those of all (``_split``)."""
        _, variant, seen, _ = self._first
        if stage not in variant.steps:
            return GO_ON
        transaction = self._open()
        if variant.ahead and transaction.message is not None:
            self.chain.look_ahead(variant, seen, transaction, transaction.message)
        rulings = await self.chain.run(stage, variant, seen, arguments, transaction.checks)
        if not rulings:
            return GO_ON
        self._tag(rulings)
        ruling = _ending(rulings)
        if ruling is None:
            return GO_ON
        self.session.refusals += ruling.response.action is not Action.DISCARD
        if ruling.response.action is Action.REJECT:
            self.chain.refused(transaction, None, ruling.step.id)
        return self._verdict(ruling)

    def _verdict(self, ruling: Ruling) -> Verdict:
        """The one place where a ruling becomes a reply."""
        action = ruling.response.action
        reply = ruling.response.reply or ruling.finding.reply
        if action is Action.DISCARD:
            reply = replies.ACCEPTED
        else:
            if action is Action.DEFER:
                reply = reply.as_deferral()
            elif action is Action.REJECT:
                reply = reply.as_rejection()
            elif action is Action.DISCONNECT:
                reply = reply.as_disconnection()
            reply = reply.with_reference(self.reference)
        return Verdict(action, reply, ByPolicy(ruling.step.id), ruling.finding.outcome.name, ruling.stage)

    @property
    def reference(self) -> str:
        """What finds the present record: the transaction's id, or the session's."""
        return self.session.id if self.transaction is None else self.transaction.id

    def _refuse(self, recipient: Recipient, verdict: Verdict) -> Verdict:
        if verdict.action is Action.DISCARD:
            recipient.state = RecipientState.DISCARDED
            verdict = Verdict(Action.DISCARD, replies.RECIPIENT_OK, verdict.by, verdict.outcome, verdict.stage)
        else:
            rejected = verdict.action is Action.REJECT
            recipient.state = RecipientState.REJECTED if rejected else RecipientState.DEFERRED
            if isinstance(verdict.by, ByPolicy):
                self.session.refusals += 1
                if rejected:
                    self.chain.refused(self._open(), recipient, verdict.by.id)
            if self._open().reservations:
                self.chain.give_back(self._open(), recipient)
        recipient.reply = verdict.reply
        recipient.verdict = verdict
        return verdict

    def _split(self, recipient: Recipient, variant: Variant, seen: Seen, rulings: list[Ruling]) -> Verdict | None:
        """The 452 for a recipient that can not share the transaction with those accepted before, None if it can."""
        if not self._has_accepted:
            self._first = (recipient, variant, seen, rulings)
            self._shared = None
            return None
        if self._shared is None:
            self._shared = self._sharing(*self._first)
        sharing = self._sharing(recipient, variant, seen, rulings)
        if sharing == self._shared and sharing.backend not in self._rules.single_recipient:
            return None
        told = replies.SPLIT_RECIPIENTS.with_reference(self.reference)
        return Verdict(Action.DEFER, told, PROTOCOL, "split", _RCPT)

    def _sharing(self, recipient: Recipient, variant: Variant, seen: Seen, rulings: list[Ruling]) -> _Sharing:
        domain = recipient.domain
        return _Sharing(
            backend=self._rules.backend(self.session, recipient),
            limit=None if domain is None else domain.message_size,
            # What one recipient is tagged with another must not get.
            tags=frozenset(map(_tag_field, applied(rulings, Action.TAG))),
            after_data=self.chain.after_data(variant, seen),
        )

    def _open(self) -> Transaction:
        if self.transaction is None:
            raise RuntimeError("no transaction is open")
        return self.transaction

    # The record.

    def _write(
        self,
        transaction: Transaction | None,
        decision: DecisionPart,
        reply: Reply | None,
        backend: BackendRecord | None,
    ) -> None:
        self._written = True
        record = record_of(
            self.session,
            transaction,
            decision=decision,
            reply=reply,
            backend=backend,
            gateway=self._rules.identity.hostname,
            address=self._client,
            duration=time.perf_counter() - self._started,
        )
        self._rules.sink.write(record)


def _ending(rulings: list[Ruling]) -> Ruling | None:
    """The ruling that ends the stage, if one does."""
    for ruling in rulings:
        if ruling.applies and ruling.response.action.ends_stage:
            return ruling
    return None


def _greeting(hostname: str, reply: Reply) -> Reply:
    """A refusal as a greeting: the gateway's name comes first, and an enhanced code is mere text (RFC 2034 3)."""
    lines = reply.text.split("\n")
    if reply.enhanced is not None:
        lines = [f"{reply.enhanced} {line}" for line in lines]
    fits = len(f"554 {hostname} {lines[0]}\r\n".encode("utf-8", "surrogateescape")) <= MAX_REPLY_LINE
    return Reply(554, None, f"{hostname}{' ' if fits else chr(10)}" + "\n".join(lines))


def _tag_field(ruling: Ruling) -> bytes:
    """The header field of a tag: the operator's own, or one that names policy and outcome."""
    default = f"X-Lychgate-Tag: policy={ruling.step.id}; outcome={ruling.finding.outcome.name}"
    return (ruling.response.header or default).encode() + b"\r\n"
