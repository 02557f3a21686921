"""A model of the policy rules, as simple as the documentation's words, to hold the chain and the admission against.

A ``Case`` is a configuration, a client and what it says; ``Model(case).run()`` tells what is answered to each command,
what is forwarded and what the records say. It looks at each recipient by itself and shares no code with
``gateway.chain.chain`` and ``gateway.admission.admission``: only the words of the configuration and of the record.

The policies of a case are ``Scripted``: their options say what they do at which stage.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partialmethod
from ipaddress import ip_address
from typing import Any, Final

from gateway.config.model import ExceptionEntry, Mode, PolicySettings
from gateway.policy import Options, Policy
from gateway.session import Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Asking
from gateway.verdict import Action, Finding, Outcome, Stage

TODAY: Final = date(2026, 1, 1)
EARLY: Final = (Stage.CONNECT, Stage.HELO, Stage.MAIL)
LATE: Final = {Stage.DATA, Stage.MESSAGE}
ENDS: Final = {Action.DEFER, Action.REJECT, Action.DISCARD, Action.DISCONNECT}
HELD: Final = "held"
WRITES: Final = ("X-Score", "X-Seen")
RESULTS: Final = {
    Action.QUARANTINE: "quarantined",
    Action.DEFER: "deferred",
    Action.REJECT: "rejected",
    Action.DISCARD: "discarded",
    Action.DISCONNECT: "disconnected",
}


# The policies.


@dataclass(frozen=True)
class Act:
    """What a policy does at a stage: an outcome's name, or ``raises``, ``stalls``, ``undeclared``.

    Attributes:
        does: What it does.
        when: Only where this stands in what the stage is about: the client's address, the HELO name, the sender (from
            MAIL on) or at RCPT the recipient.
        waits: Whether its hook is asynchronous.
        fields: The header fields that its finding brings along.
    """

    does: str
    when: str = ""
    waits: bool = False
    fields: tuple[str, ...] = ()


class Script(Options):
    """What a policy does at which stage; where nothing stands it does not run."""

    acts: Mapping[Stage, Act]

    def __hash__(self) -> int:
        return id(self)


class Scripted(Policy[Script]):
    """Does what its options say."""

    name = "scripted"
    writes = WRITES
    mild = Outcome("mild", Action.TAG, Reply(550, "5.7.1", "Mild"), "Something.")
    severe = Outcome("severe", Action.REJECT, Reply(550, "5.7.1", "Severe"), "Something bad.")
    undeclared = property(lambda _: Outcome("undeclared", Action.REJECT, Reply(550, "5.7.1", "Undeclared"), ""))

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:
        assert isinstance(options, Script)
        return {stage: f"{'waits' if act.waits else 'looks'}_at_{stage}" for stage, act in options.acts.items()}

    def look(self, stage: Stage, *about: Any) -> Finding | Asking | None:
        """A hook that does not wait."""
        act = self.options.acts[stage]
        if act.when not in _text(stage, *about):
            return None
        if act.does == "raises":
            raise RuntimeError("as the script says")
        outcome: Outcome = getattr(self, act.does)
        if self.asks:
            return Asking((), outcome, lambda _: outcome(fields=act.fields))
        return outcome(fields=act.fields)

    async def look_on(self, stage: Stage, *about: Any) -> Finding | Asking | None:
        """A hook that waits."""
        act = self.options.acts[stage]
        if act.does == "stalls" and act.when in _text(stage, *about):
            await asyncio.Event().wait()
        return self.look(stage, *about)


class ScriptedToAsk(Scripted):
    """The same, by way of what is asked of the state."""

    asks = True


for _stage in Stage:
    setattr(Scripted, f"looks_at_{_stage}", partialmethod(Scripted.look, _stage))
    setattr(Scripted, f"waits_at_{_stage}", partialmethod(Scripted.look_on, _stage))


def _text(stage: Stage, about: Session | Transaction, what: object = None) -> str:
    session = about if isinstance(about, Session) else about.session
    if stage is Stage.CONNECT:
        return str(session.client_address)
    if stage is Stage.HELO:
        return session.helo_name or ""
    assert isinstance(about, Transaction)
    return what.path.text if isinstance(what, Recipient) else str(about.reverse_path)


# What is told.


@dataclass(frozen=True)
class Case:
    """A configuration, a client and what it says.

    Attributes:
        policies: The chain.
        overrides: The chain as it holds for recipients of some domains.
        exceptions: The exceptions.
        observe: Whether the whole file only observes.
        delay_reject: Whether early refusals wait for RCPT.
        groups: The server group of each domain.
        single: The groups that take one recipient a transaction.
        limit: The most recipients.
        session_delay: Seconds by which the replies of the session may be held back in all.
        client: The client's address.
        commands: What it says, each with its argument.
        answers: What the backend says to a recipient, by local part; 250 to others.
    """

    policies: Sequence[PolicySettings]
    overrides: Mapping[str, Sequence[PolicySettings]]
    exceptions: Sequence[ExceptionEntry]
    observe: bool
    delay_reject: bool
    groups: Mapping[str, str]
    single: frozenset[str]
    limit: int
    session_delay: float
    client: str
    commands: Sequence[tuple[str, str]]
    answers: Mapping[str, int]


@dataclass(frozen=True)
class CheckLine:
    """A check, as far as it can be foretold."""

    policy: str
    stage: Stage
    recipient: str | None
    outcome: str | None = None
    action: Action = Action.PASS
    observed: bool = False
    exempted: str | None = None
    delay: float = 0.0
    fields: tuple[str, ...] = field(default=(), compare=False)  # which the record does not show

    @property
    def held_back(self) -> float:
        """By how much it holds the reply back."""
        return 0.0 if self.observed else self.delay

    @property
    def added(self) -> Iterator[str]:
        """What it adds to the message."""
        if self.observed or self.exempted is not None:
            return
        name = {Action.TAG: "Tag", Action.QUARANTINE: "Quarantine"}.get(self.action)
        if name is not None:
            yield f"X-Lychgate-{name}: policy={self.policy}; outcome={self.outcome}"
        yield from self.fields


@dataclass(frozen=True)
class RecordLine:
    """A record, as far as it can be foretold."""

    kind: str
    decision: tuple[str, str | None, Stage | None, str | None]
    recipients: tuple[tuple[str, str, str | None], ...] = ()
    checks: tuple[CheckLine, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a command came to: the class of the reply, what was forwarded with which fields and where, and the delay."""

    command: str
    code: int
    forwarded: tuple[str, ...] = ()
    fields: frozenset[str] = frozenset()
    backend: str | None = None
    delay: float = 0.0


# The model.


@dataclass(frozen=True)
class Decision:
    """What a policy decided."""

    policy: str
    stage: Stage
    outcome: str
    action: Action

    def decided(self) -> tuple[str, str, Stage, str]:
        """In the record's words."""
        return RESULTS[self.action], self.policy, self.stage, self.outcome


@dataclass
class Rcpt:
    """A recipient and what became of it."""

    address: str
    verdict: str = "undecided"
    by: str | None = None
    decision: Decision | None = None
    fields: frozenset[str] = frozenset()
    held: Decision | None = None

    @property
    def domain(self) -> str:
        """Its domain."""
        return self.address.partition("@")[2]


@dataclass
class Model:
    """What should happen; see ``run``."""

    case: Case
    helo: str = ""
    sender: str | None = None
    recipients: list[Rcpt] = field(default_factory=list)
    early_checks: dict[Stage, list[CheckLine]] = field(default_factory=dict)
    checks: list[CheckLine] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    records: list[RecordLine] = field(default_factory=list)
    refused: Decision | None = None  # HELO, with delay_reject: none
    recorded: Decision | None = None
    delays: list[float] = field(default_factory=list)  # of the present command
    delayed: float = 0.0
    greeted: bool = False

    # What holds where.

    def settings(self, domain: str | None) -> Sequence[PolicySettings]:
        """The chain for recipients of a domain."""
        return self.case.policies if domain is None else self.case.overrides.get(domain, self.case.policies)

    def exempted(self, policy: str, recipient: str | None) -> str | None:
        """The reason of the first exception all of whose criteria are known and hold."""
        for entry in self.case.exceptions:
            if (
                entry.policy == policy
                and (entry.until is None or entry.until >= TODAY)
                and (entry.client is None or ip_address(self.case.client) in entry.client)
                and (entry.sender is None or (self.sender is not None and _names(entry.sender, self.sender or "<>")))
                and (entry.recipient is None or (recipient is not None and _names(entry.recipient, recipient)))
                and (entry.domain is None or (recipient is not None and recipient.endswith("@" + entry.domain)))
            ):
                return entry.reason
        return None

    def finds(self, settings: PolicySettings, stage: Stage, recipient: str | None) -> str | None:
        """The outcome; what goes wrong is an error."""
        act = _acts(settings)[stage]
        about = {Stage.CONNECT: self.case.client, Stage.HELO: self.helo, Stage.RCPT: recipient}.get(stage, self.sender)
        if about is None or act.when not in about:
            return None
        if act.does not in {"mild", "severe"} or not _writes(act):
            return "error"
        return act.does

    def answer(
        self,
        command: str,
        code: int,
        forwarded: tuple[str, ...] = (),
        fields: frozenset[str] = frozenset(),
        backend: str | None = None,
    ) -> None:
        """Note what a command came to; of several delays the longest counts, and the session has a bound."""
        delay = min(max(self.delays, default=0.0), self.case.session_delay - self.delayed)
        self.delays = []
        self.delayed += delay
        self.answers.append(Answer(command, code, forwarded, fields, backend, delay))

    def check(self, settings: PolicySettings, stage: Stage, recipient: str | None, outcome: str | None) -> CheckLine:
        """What the record says of what was found; with the action that the settings say."""
        about = recipient if stage is Stage.RCPT or stage in EARLY else None
        line = CheckLine(settings.id, stage, about, outcome)
        if outcome is None:
            return line
        observed = self.case.observe or settings.mode is Mode.OBSERVE
        if outcome == "error":
            return replace(line, action=Action(settings.on_error.value), observed=observed)
        response, fields = settings.on[outcome], _acts(settings)[stage].fields
        return replace(line, action=response.action, observed=observed, delay=response.delay, fields=fields)

    def looks(self, settings: PolicySettings, stage: Stage, recipient: str | None) -> CheckLine:
        """One policy at one stage."""
        reason = self.exempted(settings.id, recipient)
        if reason is not None:
            return replace(self.check(settings, stage, recipient, None), exempted=reason)
        return self.check(settings, stage, recipient, self.finds(settings, stage, recipient))

    def liftable(self, policy: str) -> bool:
        """Whether some recipient has settings of its own for a policy, or may be exempt."""
        own = [settings for chain in self.case.overrides.values() for settings in chain]
        differs = any(each.id == policy and each not in self.case.policies for each in own)
        return differs or any(entry.policy == policy for entry in self.case.exceptions)

    # The stages before RCPT.

    def early(self, stage: Stage) -> Decision | None:
        """Run the common policies; what is told at once."""
        lines = self.early_checks[stage] = []
        before = [line for known in EARLY for line in self.early_checks.get(known, ())]
        if any(_ends(line) and not self.liftable(line.policy) for line in before):
            return None
        waits = self.case.delay_reject or any(line.action is Action.DISCARD and _ends(line) for line in before)
        told = None
        for settings in self.case.policies:
            if stage not in _acts(settings):
                continue
            line = self.looks(settings, stage, None)
            lines.append(line)
            self.delays.append(line.held_back)
            if not _ends(line):
                continue
            waits = waits or line.action is Action.DISCARD
            if told is None and (not waits or line.action is Action.DISCONNECT):
                told = _decision(line)
            if not waits or not self.liftable(line.policy):
                break
        return told

    def early_for(self, recipient: Rcpt) -> Iterator[CheckLine]:
        """The stages before RCPT for a recipient, by itself. The record tells what the common settings did not find."""
        for stage in EARLY:
            found = {line.policy: line for line in self.early_checks.get(stage, ()) if line.outcome is not None}
            for own, common in zip(self.settings(recipient.domain), self.case.policies, strict=True):
                if stage not in _acts(own):
                    continue
                line = self.looks(own, stage, recipient.address)
                differs = own != common or line.exempted is not None
                if own.options != common.options or (own.id in found and differs):
                    self.checks.append(line)
                if own.id not in found or line.held_back != found[own.id].held_back:
                    self.delays.append(line.held_back)
                yield line

    def run_stage(self, stage: Stage, recipient: Rcpt, checks: list[CheckLine]) -> Iterator[CheckLine]:
        """RCPT and what follows, by a recipient's settings."""
        for settings in self.settings(recipient.domain):
            if stage in _acts(settings):
                line = self.looks(settings, stage, recipient.address)
                checks.append(line)
                self.delays.append(line.held_back)
                yield line

    # Commands.

    def rcpt(self, address: str) -> int:
        """One recipient, all by itself; then whether it can share the transaction."""
        if len(self.recipients) >= self.case.limit:
            return 4
        recipient = Rcpt(address)
        self.recipients.append(recipient)
        stages = [self.early_for(recipient), self.run_stage(Stage.RCPT, recipient, self.checks)]
        recipient.fields, recipient.held, ending = _first(stages)
        if ending is not None:
            recipient.decision, recipient.by = ending, ending.policy
            recipient.verdict = {Action.REJECT: "rejected", Action.DISCARD: "discarded"}.get(ending.action, "deferred")
            return _CODES[ending.action]
        others = [other for other in self.recipients if other.verdict == "accepted"]
        if others and (self.shares(others[0]) != self.shares(recipient) or self.group(recipient) in self.case.single):
            recipient.verdict, recipient.by = "deferred", "smtp"
            recipient.decision = Decision("smtp", Stage.RCPT, "split", Action.DEFER)
            return 4
        code = self.case.answers.get(address.partition("@")[0], 2)
        if recipient.held is not None and code == 5:
            code = 4  # that the quarantine refuses is a fault
        recipient.verdict = {2: "accepted", 4: "deferred", 5: "rejected"}[code]
        recipient.by = None if code == 2 else "backend"
        return code

    def group(self, recipient: Rcpt) -> str:
        """The server group that its mail goes to."""
        if recipient.held is not None:
            return HELD
        return self.case.groups.get(recipient.domain, "default")

    def shares(self, recipient: Rcpt) -> object:
        """What recipients of one transaction have in common: group, fields, and all that matters behind the data."""
        behind: list[object] = []
        for settings in self.settings(recipient.domain):
            stages = _acts(settings).keys()
            if stages & LATE:
                exempt = self.exempted(settings.id, recipient.address) is not None
                behind.append(
                    (settings.on, settings.mode, settings.on_error, settings.timeout, settings.options, exempt)
                )
            else:
                behind.append(settings.options if stages & set(EARLY) else None)
        return self.group(recipient), recipient.fields, behind

    def data(self) -> None:
        """The message: for every recipient by itself, and all of them must agree."""
        accepted = [each for each in self.recipients if each.verdict == "accepted"]
        if not accepted:
            discard = next(each.decision for each in self.recipients if each.verdict == "discarded")
            self.end(discard)
            return
        comes_to = []
        for recipient in accepted:
            lines: list[CheckLine] = []
            fields, held, ending = recipient.fields, recipient.held, None
            for stage in (Stage.DATA, Stage.MESSAGE):
                more, puts_away, ending = _first([self.run_stage(stage, recipient, lines)])
                fields, held = fields | more, held or puts_away
                if ending is not None:
                    break
            comes_to.append(([replace(line, recipient=None) for line in lines], fields, held, ending))
        for checks, *rest in comes_to:
            same = [(line.policy, line.outcome, line.action) for line in checks]
            assert same == [(line.policy, line.outcome, line.action) for line in comes_to[0][0]]
            assert tuple(rest) == comes_to[0][1:]
        checks, fields, held, ending = comes_to[0]
        self.checks += checks
        if ending is not None:
            self.end(ending)
            return
        backend = self.group(replace(accepted[0], held=held))
        self.finish(("accepted", "backend", None, None) if held is None else held.decided())
        self.answer("data", 2, tuple(each.address for each in accepted), fields, backend)

    def end(self, decision: Decision | None) -> None:
        """The transaction ends by a policy's decision."""
        assert decision is not None
        self.recorded = decision
        self.finish(decision.decided())
        self.answer("data", _CODES[decision.action])

    def gives_up(self) -> None:
        """RSET, HELO, QUIT, the end: as the last recipient was refused, if all were."""
        if self.sender is None:
            return
        verdicts = [each.verdict for each in self.recipients]
        if not verdicts or set(verdicts) - {"deferred", "rejected"}:
            self.finish(("aborted", None, None, None))
            return
        last = self.recipients[-1]
        self.recorded = last.decision
        self.finish((last.verdict, "backend", None, None) if last.decision is None else last.decision.decided())

    def finish(self, decision: tuple[str, str | None, Stage | None, str | None]) -> None:
        """Write the transaction's record."""
        recipients = tuple((each.address, each.verdict, each.by) for each in self.recipients)
        checks = [line for stage in EARLY for line in self.early_checks.get(stage, ())] + self.checks
        self.records.append(RecordLine("transaction", decision, recipients, tuple(checks)))
        self.sender, self.recipients, self.checks = None, [], []
        self.early_checks.pop(Stage.MAIL, None)

    def close(self, decision: Decision | None) -> None:
        """The connection's end: a record of its own if it has none, or a policy ended it outside of a transaction."""
        if self.sender is not None and decision is not None:
            self.recorded = decision
            self.finish(decision.decided())
        self.gives_up()
        if not self.records or (decision is not None and decision is not self.recorded):
            checks = [line for stage in EARLY for line in self.early_checks.get(stage, ())]
            decided = ("none", None, None, None) if decision is None else decision.decided()
            self.records.append(RecordLine("connection", decided, (), tuple(checks)))

    def run(self) -> None:
        """The whole session."""
        told = self.early(Stage.CONNECT)
        self.answer("connect", 2 if told is None else 5 if told.action is Action.REJECT else 4)
        if told is not None:
            self.close(told)
            return
        for command, argument in self.case.commands:
            ending = self.command(command, argument)
            if ending is not None:
                self.close(ending)
                return
            if command == "quit":
                break
        self.close(self.refused)

    def command(self, command: str, argument: str) -> Decision | None:
        """One command; the decision that ends the connection."""
        told: Decision | None = None
        if command in {"rset", "quit", "helo"}:
            self.gives_up()
        if command == "helo":
            self.helo = argument
            self.early_checks.pop(Stage.HELO, None)
            told = self.refused = self.early(Stage.HELO)
            self.greeted = self.greeted or told is None
        elif command == "mail":
            if not self.greeted or self.sender is not None:
                return None
            self.sender = argument
            told = self.refused or self.early(Stage.MAIL)
            if told is not None:
                self.recorded = told
                self.finish(told.decided())
        elif command == "rcpt":
            if self.sender is None:
                return None
            self.answer("rcpt", self.rcpt(argument))
            last = self.recipients[-1].decision if self.recipients else None
            return last if last is not None and last.action is Action.DISCONNECT else None
        elif command == "data":
            if not any(each.verdict in {"accepted", "discarded"} for each in self.recipients):
                return None
            self.data()
            last = self.recorded
            return last if last is not None and last.action is Action.DISCONNECT else None
        self.answer(command, 2 if told is None else _CODES[told.action])
        return told if told is not None and told.action is Action.DISCONNECT else None


_CODES: Final = {Action.DEFER: 4, Action.REJECT: 5, Action.DISCARD: 2, Action.DISCONNECT: 4}


def _acts(settings: PolicySettings) -> Mapping[Stage, Act]:
    assert isinstance(settings.options, Script)
    return settings.options.acts


def _names(pattern: str, address: str) -> bool:
    return address == pattern or (pattern.startswith("@") and address.endswith(pattern))


def _ends(line: CheckLine) -> bool:
    return line.action in ENDS and not line.observed


def _decision(line: CheckLine) -> Decision:
    assert line.outcome is not None
    return Decision(line.policy, line.stage, line.outcome, line.action)


def _writes(act: Act) -> bool:
    """Whether it may write the fields that it brings along."""
    return all(field.partition(":")[0] in WRITES for field in act.fields)


def _first(stages: Sequence[Iterator[CheckLine]]) -> tuple[frozenset[str], Decision | None, Decision | None]:
    """The header fields, the first that puts the mail into quarantine, and the first action that ends it."""
    fields: set[str] = set()
    held: Decision | None = None
    for lines in stages:
        for line in lines:
            if _ends(line):
                return frozenset(fields), held, _decision(line)
            fields |= set(line.added)
            if line.action is Action.QUARANTINE and not line.observed:
                held = held or _decision(line)
    return frozenset(fields), held, None
