"""Explain: walk one imagined session through a listener's chain and tell every step.

It uses the SMTP engine and the ``Admission`` that the SMTP door uses, with no socket and no backend: what the chain
lets through counts as accepted by the backend. DNS questions are asked for real or of a zone file; each is told with
its answer. The state is what is handed in. What a real attempt would have asked besides is told at the end. What comes
out is the list of steps and the decision record that a real session would have left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from typing import Literal, TypeVar

from gateway.adapters.state.memory import MemoryState
from gateway.admission import weight
from gateway.admission.admission import Admission
from gateway.admission.recording import result_of
from gateway.admission.rules import Rules
from gateway.assembly import build_chains, build_sources, header_reader, identity_of, our_domains
from gateway.config.backend import BackendProtocol
from gateway.config.model import Config, DelayReject, Listener
from gateway.config.problems import listed
from gateway.doors.smtp import engine_options
from gateway.form import IN_WORDS
from gateway.header import HeaderField
from gateway.policy import Clock
from gateway.records import BackendRecord, DecisionRecord, Result
from gateway.resolver import Answer, RecordType, Resolver, SessionResolver, client_name
from gateway.session import Changes, Recipient, Session, Transaction, new_id
from gateway.smtp import reply as replies
from gateway.smtp.events import Chunk, EndOfData, Fatal, Hello, Mail, Rcpt, Refused
from gateway.smtp.reply import Reply
from gateway.smtp.server import ServerConnection, TlsState
from gateway.spool import Spool
from gateway.state import State
from gateway.units import counted, format_duration
from gateway.verdict import PROTOCOL, Action, Check, Verdict


@dataclass(frozen=True, slots=True)
class Question:
    """One DNS question and its answer."""

    name: str
    record_type: RecordType
    answer: Answer


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the session.

    Attributes:
        command: What the client did: its command as on the wire, ``connect``, or the message.
        checks: The policies that ran, with what they found.
        questions: The DNS questions they asked.
        reply: What the client is told.
        note: What else there is to know, such as the backend that would be asked.
    """

    command: str
    checks: tuple[Check, ...]
    questions: tuple[Question, ...]
    reply: Reply
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is to be explained.

    Attributes:
        client_address: The client's IP address.
        helo: The argument of EHLO.
        mail_from: The reverse-path without angle brackets; empty for the null reverse-path.
        recipients: The forward-paths without angle brackets.
        message: The message with CRLF line ends, None to stop behind RCPT.
        login: The name the client authenticated with, None without AUTH.
    """

    client_address: str
    helo: str
    mail_from: str
    recipients: Sequence[str]
    message: bytes | None = None
    login: str | None = None


@dataclass(slots=True)
class Explanation:
    """What came of an attempt.

    Attributes:
        steps: What happened, in order.
        records: The decision records.
        not_asked: What a real attempt would have asked besides, in words.
    """

    lost = 0

    steps: list[Step] = field(default_factory=list)
    records: list[DecisionRecord] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)

    @property
    def record(self) -> DecisionRecord:
        """The decision record."""
        return self.records[0]

    @property
    def result(self) -> Result | Literal["mixed"]:
        """The record's result; ``mixed`` where some recipients were accepted and others not."""
        verdicts = {recipient.verdict == "accepted" for recipient in self.record.recipients}
        return "mixed" if len(verdicts) > 1 else self.record.decision.result

    def write(self, record: DecisionRecord) -> None:
        """Take the record: this is the walk's sink."""
        self.records.append(record)

    async def close(self) -> None:
        """Nothing is held."""


class _Overheard:
    """A resolver that notes what is asked."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self.questions: list[Question] = []

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        answer = await self._resolver.lookup(name, record_type)
        self.questions.append(Question(name, record_type, answer))
        return answer

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        answer = self._resolver.known(name, record_type)
        if answer is not None:
            self.questions.append(Question(name, record_type, answer))
        return answer


class _Admission(Admission):
    """Remembers its last transaction.

    Attributes:
        latest: The open transaction, or the last one.
    """

    __slots__ = ("_last",)

    def __init__(self, session: Session, rules: Rules) -> None:
        super().__init__(session, rules)
        self._last: Transaction | None = None

    @property
    def latest(self) -> Transaction | None:
        return self.transaction or self._last

    def finish(
        self, result: Result, verdict: Verdict | None, reply: Reply | None, backend: BackendRecord | None = None
    ) -> None:
        self._last = self.transaction
        super().finish(result, verdict, reply, backend)


async def explain(
    config: Config,
    listener: Listener,
    attempt: Attempt,
    resolver: Resolver,
    clock: Clock,
    state: State | None = None,
) -> Explanation:
    """Walk an attempt through a listener's chain.

    Args:
        config: The configuration.
        listener: One of its listeners.
        attempt: What to walk through.
        resolver: Whom the DNS questions go to.
        clock: Tells the time.
        state: What is counted, which this changes: hand in a ``Glance`` at the real one. An empty one without it.

    Raises:
        ValueError: The client's address is none.
    """
    return await _Walk(config, listener, attempt, _Overheard(resolver), clock, state).walk()


def _refuses(check: Check) -> bool:
    return not check.observed and check.action.ends_stage


def _held(check: Check) -> str:
    """The line about a refusal that is held until RCPT."""
    what = f"{check.policy}: {check.outcome} -> {check.action}"
    return f"held until RCPT, so that the record has the envelope: {what}"


def _changes(changes: Changes) -> str:
    """What differs in the message that is forwarded, line by line."""
    lines = ["forwarded with these header fields added:"]
    lines += [HeaderField("", field).unfolded for field in changes.on_top]
    if changes.mended:
        lines += ["its header mended:"] + [IN_WORDS[mend] for mend in changes.mended]
    if changes.removed:
        lines += ["and without these:"] + [field.unfolded for field in changes.removed]
    return "\n".join(lines)


EventT = TypeVar("EventT", Hello, Mail, Rcpt)


class _EndError(Exception):
    """The session ends here."""


class _Walk:
    """One attempt on its way."""

    def __init__(
        self,
        config: Config,
        listener: Listener,
        attempt: Attempt,
        resolver: _Overheard,
        clock: Clock,
        state: State | None,
    ) -> None:
        self._sources = build_sources(config)  # no backend is asked: what only it knows is taken
        domain = our_domains(config, self._sources)
        chains = build_chains(config, domain=domain, resolver=resolver, clock=clock, state=state or MemoryState(clock))
        self._chain = chains[config.listeners.index(listener)]
        self._asks_state = state is not None
        self._config = config
        self._listener = listener
        self._attempt = attempt
        self._resolver = resolver
        self._explanation = Explanation()
        now = clock.now()
        self._session = Session(
            id=new_id(now),
            listener=listener.name,
            client_address=ip_address(attempt.client_address),
            client_port=0,
            server_address=listener.name,
            started=now,
            resolver=SessionResolver(resolver, config.dns.session_queries, config.dns.session_time),
            find_client_name=partial(client_name, resolver),
            login=attempt.login,
        )
        self._admission = _Admission(
            self._session,
            Rules(
                chain=self._chain,
                domain=domain,
                backend=lambda _, recipient: self._backend(recipient),
                quarantine=None if config.quarantine is None else config.quarantine.backend,
                recipient_limit=config.limits.recipients,
                recipient_overshoot=config.limits.recipient_overshoot,
                transaction_memory=config.limits.session_memory - weight.SESSION,
                single_recipient=frozenset(n for n, o in config.backends.items() if o.protocol is BackendProtocol.LMTP),
                sink=self._explanation,
                clock=clock,
                identity=identity_of(config),
                delay_reject=config.delay_reject is DelayReject.RCPT,
                session_delay=config.limits.session_delay,
            ),
        )
        self._engine = ServerConnection(
            engine_options(config, listener),
            tls=TlsState.NONE,
            extensions=frozenset({"8BITMIME", "SMTPUTF8", "DSN", "PIPELINING", "CHUNKING"}),
            auth_required=listener.auth is not None and listener.auth.required and attempt.login is None,
        )
        self._checks_told = 0
        self._questions_told = 0
        self._backends: dict[str, None] = {}

    async def walk(self) -> Explanation:
        await self._chain.start()
        try:
            await self._steps()
        except _EndError:
            pass
        finally:
            await self._chain.stop()
            await self._sources.close()
        self._explanation.not_asked += self._not_asked()
        return self._explanation

    def _not_asked(self) -> Iterator[str]:
        transaction = self._admission.latest
        accepted = [] if transaction is None else transaction.accepted
        for name in self._backends:
            yield f"the backend {name!r}, which has its say at RCPT and at the end of the message"
        for recipient in accepted:
            options = None if recipient.domain is None else self._config.domains.get(recipient.domain.name)
            if options is not None and any(section.probe for section in options.recipients or ()):
                yield f"the backend whether {recipient.path} exists (probe)"
        users = [settings.id for settings in self._listener.chain.policies if settings.policy.uses_state]
        if users and not self._asks_state:
            yield f"the state: what {listed(users, last='and')} counted so far is taken to be nothing"

    async def _steps(self) -> None:
        attempt = self._attempt
        verdict = await self._admission.connect()
        if verdict.reply is not None:
            refusal = self._admission.refuse_client(verdict)
            self._tell("connect", refusal)
            await self._end(replace(verdict, reply=refusal))
        greeting = Reply(220, None, f"{self._config.hostname} ESMTP Lychgate")
        self._tell("connect", greeting)
        self._engine.greet(greeting)
        hello = await self._command(f"EHLO {attempt.helo}", Hello)
        await self._answer(
            await self._admission.helo(hello.name, extended=True), self._engine.hello_reply(), f"EHLO {hello.name}"
        )
        await self._mail()
        for recipient in attempt.recipients:
            await self._rcpt(recipient)
        transaction = self._admission.transaction
        if (
            attempt.message is None
            or transaction is None
            or not any(
                recipient.reply is not None and recipient.reply.is_positive for recipient in transaction.recipients
            )
        ):
            await self._envelope_only()
        else:
            await self._message(attempt.message)

    async def _mail(self) -> None:
        path = self._attempt.mail_from
        utf8 = " SMTPUTF8" if not "".join([path, *self._attempt.recipients]).isascii() else ""
        size = "" if self._attempt.message is None else f" SIZE={len(self._attempt.message)}"
        command = f"MAIL FROM:<{path}>{size}{utf8}"
        mail = await self._command(command, Mail)
        verdict = await self._admission.mail(mail.path, mail.parameters)
        await self._answer(verdict, replies.SENDER_OK, command, self._tried_by_spf())

    async def _rcpt(self, address: str) -> None:
        command = f"RCPT TO:<{address}>"
        rcpt = await self._command(command, Rcpt)
        recipient, verdict = await self._admission.rcpt(rcpt.path, rcpt.parameters)
        if verdict.reply is not None:
            await self._answer(verdict, verdict.reply, command)
            return
        self._admission.answered(recipient, replies.RECIPIENT_OK)
        note = self._to_backend(self._admission.backend, "asked, and its answer given")
        self._tell(command, replies.RECIPIENT_OK, note)
        self._engine.reply(replies.RECIPIENT_OK)

    async def _envelope_only(self) -> None:
        transaction = self._admission.transaction
        if transaction is not None and transaction.accepted:
            self._admission.finish("accepted", None, replies.RECIPIENT_OK)
        await self._admission.close()

    async def _message(self, content: bytes) -> None:
        """The message travels as one BDAT chunk, so that it needs no dot-stuffing; every check is the same."""
        verdict = await self._admission.data()
        if verdict.reply is not None:
            await self._finish(verdict, "DATA")
            return
        options = self._config.spool
        reader = header_reader(self._config, self._listener)
        spool = Spool(options.memory, options.directory, reader, self._chain.signatures)
        try:
            event = await self._receive(content, spool)
            what = f"the message, {counted(len(content), 'octet')}"
            if event.problem is not None:
                await self._finish(self._admission.problem(event.problem), what)
                return
            message = spool.message()
            verdict = await self._admission.message(message)
            if verdict.reply is not None:
                await self._finish(verdict, what)
                return
            note = _changes(self._admission.changes(message))
            backend = self._admission.backend
            if backend not in self._backends:
                note = f"{self._to_backend(backend, 'sent the message in their place')}\n{note}"
            self._admission.finish("accepted", None, replies.ACCEPTED)
            self._tell(what, replies.ACCEPTED, note)
            await self._admission.close()
        finally:
            spool.close()

    async def _receive(self, content: bytes, spool: Spool) -> EndOfData:
        self._engine.receive_data(b"BDAT %d LAST\r\n" % len(content) + content)
        while True:
            event = self._engine.next_event()
            if isinstance(event, EndOfData):
                return event
            if isinstance(event, Chunk):
                await spool.write(event.data)

    async def _command(self, line: str, wanted: type[EventT]) -> EventT:
        self._engine.receive_data(line.encode("utf-8", "surrogateescape") + b"\r\n")
        event = self._engine.next_event()
        if isinstance(event, wanted):
            return event
        assert isinstance(event, Refused | Fatal)  # noqa: S101 - what else a whole command can come to
        self._tell(line, event.reply)
        await self._end(Verdict(Action.REJECT, event.reply, PROTOCOL, None, None))
        raise _EndError

    async def _answer(self, verdict: Verdict, reply: Reply, command: str, note: str = "") -> None:
        answer = verdict.reply or reply
        self._tell(command, answer, note)
        self._engine.reply(answer)
        if verdict.action is Action.DISCONNECT:
            await self._end(verdict)
        if not answer.is_positive and not command.startswith("RCPT"):
            await self._end(verdict)

    async def _finish(self, verdict: Verdict, command: str) -> None:
        reply = verdict.reply or replies.ACCEPTED
        self._admission.finish(result_of(verdict.action), verdict, reply)
        self._tell(command, reply)
        await self._admission.close()

    async def _end(self, verdict: Verdict) -> None:
        await self._admission.close(verdict, verdict.reply)
        raise _EndError

    def _to_backend(self, name: str, would_be: str) -> str:
        """The line about a backend that has its say."""
        self._backends[name] = None
        return f"the backend {name!r} would be {would_be}"

    def _tried_by_spf(self) -> str:
        """What SPF tried, where the evidence does not say: a record has no room for what leads to a pass."""
        transaction = self._admission.latest
        spf = None if transaction is None else transaction.authentication.spf
        if transaction is None or spf is None:
            return ""
        shown = [check.evidence.get("steps") for check in transaction.checks]
        checks = [spf.mail_from] if spf.helo is None or spf.helo is spf.mail_from else [spf.mail_from, spf.helo]
        lines: list[str] = []
        for check in checks:
            if check.steps and list(check.steps) not in shown:
                lines += [f"SPF of {check.domain}, {check.result}:", *(f"  {step}" for step in check.steps)]
        return "\n".join(lines)

    def _tell(self, command: str, reply: Reply, note: str = "") -> None:
        transaction = self._admission.latest
        checks = self._session.checks + ([] if transaction is None else transaction.checks)
        new, self._checks_told = checks[self._checks_told :], len(checks)
        asked, self._questions_told = self._resolver.questions[self._questions_told :], len(self._resolver.questions)
        told = tuple(dict.fromkeys(asked))  # what several policies looked at, or one twice, is told once
        if reply.is_positive and not command.startswith("RCPT"):
            note = "\n".join(filter(None, [*map(_held, filter(_refuses, new)), note]))
        delay = self._admission.take_delay()
        if delay:
            note = "\n".join(filter(None, [f"the reply would be held back for {format_duration(delay)}", note]))
        self._explanation.steps.append(Step(command, tuple(new), told, reply, note))

    def _backend(self, recipient: Recipient) -> str:
        auth = self._listener.auth
        if self._session.login is not None and auth is not None and auth.backend is not None:
            return auth.backend
        if recipient.domain is not None:
            return recipient.domain.backend
        return self._config.default_backend or next(iter(self._config.backends), "none")
