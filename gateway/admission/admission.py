"""Admission: one client's way through the chain, step by step, whatever door it came by, and the record at its end.

It knows no socket, no protocol's octets and no backend: a door walks a client through it, ``explain`` an imagined one.
Each step updates the ``Session`` or ``Transaction``, runs the chain's stage and gives the ``Verdict``; a verdict with a
reply is what the client gets. What is to change in a message is a value, which each door applies in its own way. Here
live the rules that span stages (a further one, about recipients that share a transaction, lives in ``proceeding``):

* ``delay_reject``: refusals at connect, helo and mail are held back and given to each recipient, so that the record has
  the envelope, and a recipient's own settings and exceptions have their say. ``disconnect`` is not held back: it
  protects.
* ``quarantine``: the mail is accepted and goes to another backend. The door asks which one (``backend``).
* ``delay``: the reply to a step is held back. The door asks for how long (``take_delay``); what was held back at an
  early stage is not held back again at RCPT.
* What limits count in advance is given back when the mail does not come through: for a recipient when it is refused,
  for the message at the end of its transaction. What was accepted, held or discarded stays counted, and what may have
  been accepted, too.

Each transaction leaves one record, and each connection that had none. A record is written before the reply it
describes is sent.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, assert_never

import structlog

from gateway.address import address_text
from gateway.admission.proceeding import Candidate, Proceeding
from gateway.admission.recording import decision_of, outcome_of, record_of, result_of, state_of
from gateway.admission.replies import PROBLEMS, as_greeting, by_policy, by_protocol, of_backend
from gateway.admission.rules import Rules
from gateway.admission.trace import received, sender_authentication
from gateway.chain.chain import envelope_of
from gateway.chain.rule import Envelope, Ruling, applied, ending
from gateway.records import BackendRecord, DecisionPart, Result
from gateway.session import Changes, Message, Recipient, RecipientState, Session, Transaction
from gateway.smtp import reply as replies
from gateway.smtp.path import Mailbox, Parameter, ReversePath
from gateway.smtp.reply import Reply
from gateway.verdict import GO_ON, PROTOCOL, Action, ByPolicy, Check, Stage, Verdict

log = structlog.get_logger("lychgate.admission")

# By names of this module, because members of an enum are slow to find before Python 3.12.
_CONNECT, _HELO, _MAIL, _RCPT, _DATA, _MESSAGE, _CLOSE = Stage
_ACCEPTED: Final = RecipientState.ACCEPTED


class Admission:
    """Walks one session through the chain.

    Args:
        session: The session, fresh.
        rules: What holds for it.
        client: The client's address as text, where it is at hand.

    Attributes:
        session: The session.
        in_doubt: Whether the backend may have accepted the message, because it was handed over and no answer is known.
    """

    __slots__ = (
        "_chain",
        "_client",
        "_delay",
        "_delayed",
        "_held",
        "_proceeding",
        "_recorded",
        "_refused",
        "_rules",
        "_started",
        "_written",
        "in_doubt",
        "session",
    )

    def __init__(self, session: Session, rules: Rules, client: str | None = None) -> None:
        self.session = session
        self.in_doubt = False
        self._rules = rules
        self._chain = rules.chain
        self._client = client or address_text(session.client_address)
        self._delay = 0.0  # of the present step, not taken yet
        self._delayed = 0.0  # in the session so far
        self._held: list[Ruling] = []  # until RCPT
        self._proceeding: Proceeding | None = None  # of the open transaction
        self._refused: Verdict | None = None  # the connection or HELO, at once
        self._recorded: Verdict | None = None
        self._started = time.perf_counter()
        self._written = False

    @property
    def transaction(self) -> Transaction | None:
        """The open transaction, None between them."""
        return None if self._proceeding is None else self._proceeding.transaction

    @property
    def reference(self) -> str:
        """What finds the present record: the transaction's id, or the session's."""
        return self.session.id if self._proceeding is None else self._proceeding.transaction.id

    @property
    def backend(self) -> str:
        """The name of the backend that the mail goes to.

        After ``rcpt``: that of the recipient, who was let through. After ``message``: that of the message, which may be
        another than its recipients' own.
        """
        return self._open().backend

    def take_delay(self) -> float:
        """Seconds by which the reply to the present step is to be held back; each step's are given once."""
        if not self._delay:
            return 0.0
        delay = min(self._delay, max(0.0, self._rules.session_delay - self._delayed))
        self._delay = 0.0
        self._delayed += delay
        return delay

    # The steps of the session.

    async def connect(self) -> Verdict:
        """The client has connected; runs before the greeting."""
        return await self._session_stage(_CONNECT) if _CONNECT in self._chain.common.steps else GO_ON

    def refuse_client(self, verdict: Verdict) -> Reply:
        """What a client that is refused at connect is greeted with: 554, or 421 (RFC 5321 3.1)."""
        reply = as_greeting(self._rules.identity.hostname, verdict)
        self._refused = replace(verdict, reply=reply)
        return reply

    def tls_failed(self, reason: str, *, left: bool) -> Verdict | None:
        """The TLS handshake failed; nothing can be said to the client any more.

        Args:
            reason: Why.
            left: Whether the client closed the connection, and not the gateway.
        """
        check = Check(policy=PROTOCOL.value, stage=_CONNECT, recipient=None, evidence={"reason": reason})
        check.outcome, check.action = "tls_handshake_failed", Action.DISCONNECT
        self.session.checks.append(check)
        return None if left else Verdict(Action.DISCONNECT, None, PROTOCOL, check.outcome, _CONNECT)

    async def helo(self, name: str, *, extended: bool) -> Verdict:
        """HELO or EHLO; a repeated one forgets what the earlier one found (RFC 5321 4.1.4)."""
        self.abort()
        session = self.session
        session.helo_name = name
        session.extended = extended
        if self._held:
            self._held = [ruling for ruling in self._held if ruling.stage is _CONNECT]
        if session.checks:
            session.checks[:] = [check for check in session.checks if check.stage is _CONNECT]
        return await self._session_stage(_HELO) if _HELO in self._chain.common.steps else GO_ON

    async def mail(self, path: ReversePath, parameters: tuple[Parameter, ...]) -> Verdict:
        """MAIL: begins a transaction. A verdict with a reply ends it at once."""
        session = self.session
        session.transactions += 1
        transaction = Transaction(
            id=f"{session.id}.{session.transactions}",
            session=session,
            reverse_path=path,
            parameters=parameters,
            started=self._rules.clock.now(),
        )
        self._proceeding = Proceeding(transaction, self._rules)
        verdict = self._refused or GO_ON
        if self._refused is None and _MAIL in self._chain.common.steps:
            verdict = await self._early_stage(_MAIL, envelope_of(transaction, None), (transaction,), transaction.checks)
        if verdict.reply is not None:
            session.refusals += 1
            if verdict.action is Action.REJECT and isinstance(verdict.by, ByPolicy):
                self._chain.refused(transaction, None, verdict.by.id)
            self.finish(result_of(verdict.action), verdict, verdict.reply)
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
        proceeding, chain = self._open(), self._chain
        transaction = proceeding.transaction
        recipient = Recipient(path=path, parameters=parameters, domain=self._rules.domain(path.domain))
        if not proceeding.has_room(waiting):  # not noted, or a client could fill the memory
            return recipient, self._refuse(recipient, self._one_too_many(proceeding))
        transaction.recipients.append(recipient)
        variant = chain.variant(recipient.domain)
        envelope = envelope_of(transaction, recipient)
        proceeding.look_at(variant)
        rulings: list[Ruling] = []
        if self._held or variant.own_early:
            rulings = await chain.early(variant, self._held, envelope, transaction, proceeding.found)
            if rulings:
                before = {(ruling.stage, ruling.policy): ruling.delay for ruling in self._held}
                self._hold_back(each for each in rulings if each.delay != before.get((each.stage, each.policy)))
        if ending(rulings) is None:
            found = await chain.run(_RCPT, variant, envelope, (transaction, recipient), transaction.checks)
            self._hold_back(found)
            rulings += found
        ruling = ending(rulings)
        if ruling is not None:
            return recipient, self._refuse(recipient, by_policy(ruling, self.reference))
        candidate = Candidate(recipient, variant, envelope, rulings)
        if not proceeding.can_share(candidate):
            return recipient, self._refuse(
                recipient, by_protocol(replies.SPLIT_RECIPIENTS, "split", _RCPT, self.reference)
            )
        proceeding.candidate = candidate
        return recipient, GO_ON

    def _one_too_many(self, proceeding: Proceeding) -> Verdict:
        """The answer to a recipient above the limit, and in the end to a client that goes on all the same."""
        proceeding.turned_away += 1
        rules, commands = self._rules, len(proceeding.transaction.recipients) + proceeding.turned_away
        is_enough = commands > rules.recipient_limit + rules.recipient_overshoot
        reply = replies.TOO_MANY_RECIPIENTS.as_disconnection() if is_enough else replies.TOO_MANY_RECIPIENTS
        return by_protocol(reply, "too_many_recipients", _RCPT, self.reference)

    def answered(self, recipient: Recipient, answer: Reply) -> Reply:
        """What the backend said to a recipient that the chain let through; returns what the client gets."""
        proceeding = self._open()
        transaction = proceeding.transaction
        reply = recipient.reply = of_backend(self._unless_held(answer), transaction.id)
        if reply.is_positive:
            recipient.state = _ACCEPTED
            proceeding.accept()
            return reply
        recipient.state = RecipientState.DEFERRED if reply.is_transient else RecipientState.REJECTED
        self.session.refusals += 1
        if transaction.reservations:
            self._chain.give_back(transaction, recipient)
        if not reply.is_transient:
            self._chain.refused(transaction, recipient, None)
        return reply

    async def data(self) -> Verdict:
        """DATA or the first BDAT: before the message is asked for. One that is to be discarded is asked for, too."""
        proceeding = self._open()
        transaction = proceeding.transaction
        if proceeding.first is None:  # every recipient is discarded
            discarded = (each.verdict for each in transaction.recipients if each.state is RecipientState.DISCARDED)
            verdict = next(discarded, None) or GO_ON
        else:
            proceeding.look_at_message()
            verdict = await self._late_stage(proceeding, _DATA, (transaction,))
        if verdict is GO_ON or verdict.action is not Action.DISCARD:
            return verdict
        proceeding.discarded = replace(verdict, reply=replies.ACCEPTED)
        return GO_ON

    async def message(self, message: Message) -> Verdict:
        """The message has come: without a reply in the verdict it may be forwarded, with its ``changes``."""
        proceeding = self._open()
        transaction = proceeding.transaction
        transaction.message = message
        if message.section.malformed and proceeding.discarded is None:
            return self.problem(replies.MALFORMED_HEADER)
        return proceeding.discarded or await self._late_stage(proceeding, _MESSAGE, (transaction, message))

    def changes(self, message: Message) -> Changes:
        """What the gateway changes in a message that it forwards."""
        proceeding, names = self._open(), self._rules.identity
        transaction = proceeding.transaction
        return Changes(
            on_top=[
                # Above Received: SpamAssassin believes what stands there, not what stands below, where a stranger's
                # server could have put it.
                *sender_authentication(transaction, authserv_id=names.authserv_id, address=self._client),
                received(transaction, hostname=names.hostname, address=self._client, now=self._rules.clock.now()),
                *proceeding.fields,
            ],
            removed=message.section.removed,
            mended=message.section.mended,
        )

    def problem(self, reply: Reply) -> Verdict:
        """The protocol's refusal of a message, or the gateway's inability to take it."""
        self.session.refusals += 1
        return by_protocol(reply, PROBLEMS.get(reply), _MESSAGE, self.reference)

    # The ends.

    def delivered(self, answer: Reply, backend: BackendRecord) -> Reply:
        """End the transaction with the backend's answer to its message; returns what the client gets.

        Args:
            answer: The backend's answer, or what the gateway says in its place.
            backend: The backend's part, for the record.
        """
        self.in_doubt = answer == replies.BACKEND_UNKNOWN
        reply = of_backend(self._unless_held(answer), self.reference)
        result: Result = "accepted" if reply.is_positive else "deferred" if reply.is_transient else "rejected"
        self.finish(result, None, reply, backend)
        return reply

    def _unless_held(self, answer: Reply) -> Reply:
        """A backend's reply; where mail is to be held, a refusal for good is a fault, which is never a refusal."""
        if not answer.is_permanent or not self._open().is_held:
            return answer
        log.warning("quarantine refused", transaction=self.reference, backend=self.backend, reply=str(answer))
        return replies.BACKEND_UNAVAILABLE

    def finish(
        self, result: Result, verdict: Verdict | None, reply: Reply | None, backend: BackendRecord | None = None
    ) -> None:
        """End the transaction with its result and write its record.

        Args:
            result: A word of ``DecisionPart.result``; what was ``accepted`` and is held becomes ``quarantined``.
            verdict: What decided, None where it was not a policy (then the backend, if there is one, or the protocol).
            reply: The last reply to the client.
            backend: The backend's part, None if it was not asked.
        """
        proceeding = self._open()
        transaction = proceeding.transaction
        proceeding.unpack()
        if result == "accepted" and proceeding.quarantine is not None:
            verdict = by_policy(proceeding.quarantine, transaction.id)
            result = result_of(verdict.action)
        self._proceeding = None
        self._recorded = verdict
        if self._held:
            self._held = [ruling for ruling in self._held if ruling.stage is not _MAIL]
        if result in {"accepted", "quarantined"}:
            self.session.messages += 1
        elif transaction.reservations and result != "discarded" and not self.in_doubt:
            self._chain.give_back(transaction)
        self.in_doubt = False
        decision = decision_of(result, verdict, backend)
        self._write(transaction, decision, reply, backend, proceeding.started)

    def abort(self, backend: BackendRecord | None = None) -> None:
        """The client gave up the transaction, if there is one: RSET, a new HELO, QUIT, or the connection ended."""
        if self._proceeding is not None:
            self.finish(*outcome_of(self._proceeding.transaction), backend=backend)

    async def close(
        self,
        verdict: Verdict | None = None,
        reply: Reply | None = None,
        backend: BackendRecord | None = None,
        *,
        is_recorded: bool = True,
    ) -> None:
        """The connection has ended, or is being ended by the gateway with a reply.

        Args:
            verdict: Why the gateway ends it, None when the client did. A policy's refusal of the client, given before,
                counts more than how the connection ended.
            reply: The last reply to the client.
            backend: The backend's part in an open transaction.
            is_recorded: Whether a connection on which nothing was decided leaves a record.
        """
        if self._refused is not None and (verdict is None or verdict.by is PROTOCOL):
            verdict, reply = self._refused, self._refused.reply
        by_a_policy = verdict is not None and isinstance(verdict.by, ByPolicy)
        if self._proceeding is not None:
            result, decided, last = outcome_of(self._proceeding.transaction)
            if verdict is not None and (by_a_policy or result == "aborted"):
                result, decided, last = result_of(verdict.action), verdict, reply
            self.finish(result, decided, last, backend)
        session, chain = self.session, self._chain
        checks: list[Check] = []
        if _CLOSE in chain.common.steps:
            await chain.run(_CLOSE, chain.common, Envelope(session.client_address), (session,), checks)
        if verdict is None and not is_recorded:
            return
        if not self._written or (by_a_policy and verdict is not self._recorded):
            session.checks += checks
            result = "none" if verdict is None else result_of(verdict.action)
            self._write(None, decision_of(result, verdict, None), reply, None, self._started)

    # How stages are run.

    async def _session_stage(self, stage: Stage) -> Verdict:
        session = self.session
        verdict = await self._early_stage(stage, Envelope(session.client_address), (session,), session.checks)
        self._refused = None if verdict.reply is None else verdict
        return verdict

    async def _early_stage(
        self, stage: Stage, envelope: Envelope, arguments: tuple[object, ...], checks: list[Check]
    ) -> Verdict:
        chain = self._chain
        if self._held and any(map(chain.is_final, self._held)):
            return GO_ON  # no recipient's settings can lift it, so nothing needs to run after it
        # What is discarded must look accepted, so it too waits for RCPT, and with it what is refused after it.
        waits = self._rules.delay_reject or (bool(self._held) and bool(applied(self._held, Action.DISCARD)))
        rulings = await chain.run(stage, chain.common, envelope, arguments, checks, to_the_end=waits)
        if not rulings:
            return GO_ON
        self._hold_back(rulings)
        for ruling in rulings:
            if not ruling.ends_stage:
                continue
            match ruling.response.action:
                case Action.DISCARD:
                    waits = True
                case Action.DISCONNECT:
                    return by_policy(ruling, self.reference)
                case Action.DEFER | Action.REJECT:
                    if not waits:
                        return by_policy(ruling, self.reference)
                case Action.PASS | Action.TAG | Action.QUARANTINE:
                    pass
                case action:
                    assert_never(action)
        self._held += rulings
        return GO_ON

    async def _late_stage(self, proceeding: Proceeding, stage: Stage, arguments: tuple[object, ...]) -> Verdict:
        """Run a stage by the settings of the first recipient, which are those of all (``Proceeding.can_share``)."""
        first, transaction, chain = proceeding.first, proceeding.transaction, self._chain
        if first is None or stage not in first.variant.steps:
            return GO_ON
        if first.variant.ahead and transaction.message is not None:
            chain.look_ahead(first.variant, first.envelope, transaction, transaction.message)
        rulings = await chain.run(stage, first.variant, first.envelope, arguments, transaction.checks)
        if not rulings:
            return GO_ON
        self._hold_back(rulings)
        proceeding.note(rulings)
        ruling = ending(rulings)
        if ruling is None:
            return GO_ON
        self.session.refusals += ruling.response.action is not Action.DISCARD
        if ruling.response.action is Action.REJECT:
            chain.refused(transaction, None, ruling.policy)
        return by_policy(ruling, transaction.id)

    def _hold_back(self, rulings: Iterable[Ruling]) -> None:
        """The reply to the present step is held back for as long as the longest of these says."""
        self._delay = max([self._delay, *(ruling.delay for ruling in rulings)])

    def _refuse(self, recipient: Recipient, verdict: Verdict) -> Verdict:
        transaction = self._open().transaction
        recipient.state = state_of(verdict.action)
        if recipient.state is RecipientState.DISCARDED:
            verdict = replace(verdict, reply=replies.RECIPIENT_OK)
        else:
            rejected = recipient.state is RecipientState.REJECTED
            if isinstance(verdict.by, ByPolicy):
                self.session.refusals += 1
                if rejected:
                    self._chain.refused(transaction, recipient, verdict.by.id)
            if transaction.reservations:
                self._chain.give_back(transaction, recipient)
        recipient.reply = verdict.reply
        recipient.verdict = verdict
        return verdict

    def _open(self) -> Proceeding:
        if self._proceeding is None:
            raise RuntimeError("no transaction is open")
        return self._proceeding

    # The record.

    def _write(
        self,
        transaction: Transaction | None,
        decision: DecisionPart,
        reply: Reply | None,
        backend: BackendRecord | None,
        started: float,
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
            duration=time.perf_counter() - started,
        )
        self._rules.sink.write(record)
