"""Any chain does what the model of the policy rules says: the replies, what is forwarded, and the records."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UnsetType
from structlog.testing import capture_logs

from gateway.admission.admission import Admission
from gateway.admission.recording import result_of
from gateway.admission.rules import Rules
from gateway.admission.trace import Identity
from gateway.chain.chain import Chain
from gateway.config.model import ExceptionEntry, Mode, PolicySettings
from gateway.policy import OnError
from gateway.records import BackendRecord, DecisionRecord
from gateway.session import RecipientState
from gateway.smtp import reply as replies
from gateway.smtp.grammar import parse_mail, parse_rcpt
from gateway.testing import Site, domain, message
from gateway.verdict import Action, Response, Stage, Verdict
from tests.support.policy_model import (
    HELD,
    Act,
    Answer,
    Case,
    CheckLine,
    Model,
    RecordLine,
    Script,
    Scripted,
    ScriptedToAsk,
)

OURS = ["one.example", "two.example", "three.example"]
REPLIES = {2: replies.RECIPIENT_OK, 4: replies.BACKEND_UNAVAILABLE, 5: replies.BAD_RECIPIENT_ADDRESS}
BACKEND = BackendRecord(group="default", server=None, reply=None, queue_id=None)


class Desk:
    """Walks a case's session through a admission, as the door does."""

    lost = 0

    def __init__(self, case: Case) -> None:
        self.case = case
        self.records: list[DecisionRecord] = []
        self.answers: list[Answer] = []
        site = Site(domains=[domain(name) for name in OURS])
        mode = Mode.OBSERVE if case.observe else Mode.ENFORCE
        self.admission = Admission(
            site.session(case.client, helo_name=None),
            Rules(
                chain=Chain(case.policies, case.overrides, case.exceptions, site.context, mode),
                domain=site.context.domain,
                backend=lambda _, recipient: case.groups.get(recipient.path.domain, "default"),
                quarantine=HELD,
                recipient_limit=case.limit,
                recipient_overshoot=10**6,
                transaction_memory=10**6,
                single_recipient=case.single,
                sink=self,
                clock=site.clock,
                identity=Identity(hostname="mx.example.com"),
                delay_reject=case.delay_reject,
                session_delay=case.session_delay,
            ),
        )
        self.greeted = False
        self.backend: BackendRecord | None = None

    def write(self, record: DecisionRecord) -> None:
        """Take a record."""
        self.records.append(record)

    async def close(self) -> None:
        """Nothing is held."""

    def tell(self, command: str, verdict: Verdict) -> None:
        """Note what a command came to."""
        code = 2 if verdict.reply is None else verdict.reply.code // 100
        delay = self.admission.take_delay()
        assert self.admission.take_delay() == 0
        self.answers.append(Answer(command, code, delay=delay))

    async def run(self) -> None:
        """The whole session."""
        admission = self.admission
        verdict = await admission.connect()
        if verdict.reply is not None:
            reply = admission.refuse_client(verdict)
            self.tell("connect", replace(verdict, reply=reply))
            if verdict.action is Action.REJECT:
                await admission.close()
            else:
                await admission.close(replace(verdict, reply=reply), reply)
            return
        self.tell("connect", verdict)
        for command, argument in self.case.commands:
            verdict = await self.command(command, argument)
            if verdict.action is Action.DISCONNECT:
                await admission.close(verdict, verdict.reply, self.given_up())
                return
            if command == "quit":
                break
        await admission.close(backend=self.given_up())

    def given_up(self) -> BackendRecord | None:
        """What the backend had of the transaction."""
        backend, self.backend = self.backend, None
        return backend

    async def command(self, command: str, argument: str) -> Verdict:
        """One command, if it is in order."""
        admission = self.admission
        transaction = admission.transaction
        verdict = Verdict(Action.PASS)
        if command in {"rset", "quit", "helo"}:
            admission.abort(self.given_up())
        if command == "helo":
            verdict = await admission.helo(argument, extended=True)
            self.greeted = self.greeted or verdict.reply is None
        elif command == "mail":
            if not self.greeted or transaction is not None:
                return verdict
            verdict = await admission.mail(*parse_mail(f"FROM:<{argument}>"))
        elif command == "rcpt":
            if transaction is None:
                return verdict
            recipient, verdict = await admission.rcpt(*parse_rcpt(f"TO:<{argument}>"))
            if verdict.reply is None:
                self.backend = BACKEND
                assert self.case.groups.get(recipient.path.domain, "default") == admission.backend or (
                    admission.backend == HELD
                )
                reply = REPLIES[self.case.answers.get(argument.partition("@")[0], 2)]
                verdict = replace(verdict, reply=admission.answered(recipient, reply))
        elif command == "data":
            taken = {RecipientState.ACCEPTED, RecipientState.DISCARDED}
            if transaction is None or not any(each.state in taken for each in transaction.recipients):
                return verdict
            return await self.data()
        self.tell(command, verdict)
        return verdict

    async def data(self) -> Verdict:
        """DATA and the message."""
        admission = self.admission
        made = message(b"Subject: x\r\n\r\n")
        verdict = await admission.data()
        if verdict.reply is None:
            verdict = await admission.message(made)
        if verdict.reply is not None:
            admission.finish(result_of(verdict.action), verdict, verdict.reply, self.given_up())
            self.tell("data", verdict)
            return verdict
        transaction = admission.transaction
        assert transaction is not None
        fields = [added.decode().strip() for added in admission.changes(made).on_top if added.startswith(b"X-")]
        assert len(set(fields)) == len(fields)
        self.answers.append(
            Answer(
                "data",
                2,
                tuple(each.path.text for each in transaction.accepted),
                frozenset(fields),
                admission.backend,
                admission.take_delay(),
            )
        )
        admission.finish("accepted", None, replies.ACCEPTED, self.given_up())
        return verdict


def line(record: DecisionRecord) -> RecordLine:
    """A record as the model writes it."""
    decision = record.decision
    return RecordLine(
        record.kind,
        (decision.result, decision.policy, decision.stage, decision.outcome),
        tuple((each.address, each.verdict, each.decided_by) for each in record.recipients),
        tuple(
            CheckLine(
                c.policy,
                c.stage,
                c.recipient,
                c.outcome,
                c.action,
                c.observed,
                c.exempted,
                0.0 if isinstance(c.delay_ms, UnsetType) else c.delay_ms / 1000,
            )
            for c in record.checks
        ),
    )


# Cases.

senders = st.sampled_from(["", "alice@sender.example", "bad@sender.example"])
users = st.sampled_from(["alice", "alice", "bob", "busy", "gone"])
addresses = st.builds("{}@{}".format, users, st.sampled_from([*OURS, "other.example"]))
hello = st.sampled_from([("helo", "bad"), ("helo", "good")])
commands = st.one_of(
    hello,
    st.tuples(st.just("mail"), senders),
    st.tuples(st.just("rcpt"), addresses),
    st.sampled_from([("data", ""), ("rset", ""), ("quit", "")]),
)
mails = st.builds(
    lambda before, sender, recipients: [
        *before,
        ("mail", sender),
        *(("rcpt", each) for each in recipients),
        ("data", ""),
    ],
    st.lists(hello, max_size=1),
    senders,
    st.lists(addresses, min_size=1, max_size=4),
)
sessions = st.builds(
    lambda first, parts: [first, *(command for part in parts for command in part)],
    hello,
    st.lists(st.one_of(mails, mails, mails, st.lists(commands, min_size=1, max_size=2)), min_size=2, max_size=4),
)
acts = st.one_of(
    st.builds(
        Act,
        st.sampled_from(["mild", "mild", "mild", "severe", "severe", "severe", "raises", "undeclared"]),
        st.sampled_from(["", "", "bad", "bad", "alice", "bob", "one.example"]),
        st.booleans(),
        st.sampled_from([(), (), (), ("X-Score: 5",), ("X-Score: 5", "X-Seen: bob"), ("X-Undeclared: 1",)]),
    ),
    st.builds(Act, st.just("stalls"), st.sampled_from(["bad", "bob"]), st.just(value=True)),
)
scripts = st.dictionaries(
    st.sampled_from([stage for stage in Stage if stage is not Stage.CLOSE]), acts, min_size=1, max_size=2
).map(lambda script: Script(acts=script))
delays = st.sampled_from([0.0, 0.0, 0.0, 5.0, 20.0])
ons = st.fixed_dictionaries(
    {
        "mild": st.builds(
            Response,
            st.sampled_from([Action.TAG, Action.PASS, Action.TAG, Action.PASS, Action.QUARANTINE]),
            delay=delays,
        ),
        "severe": st.builds(Response, st.sampled_from([*Action, Action.REJECT, Action.DISCARD]), delay=delays),
    }
)
modes = st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.ENFORCE, Mode.OBSERVE])
own = st.fixed_dictionaries(
    {}, optional={"options": scripts, "on": ons, "mode": modes, "on_error": st.sampled_from(OnError)}
)


@st.composite
def exceptions(draw: st.DrawFn, ids: Sequence[str]) -> ExceptionEntry:
    """One exception, perhaps expired."""
    criteria: dict[str, Any] = {
        "client": st.sampled_from(["192.0.2.0/24", "198.51.100.0/24"]),
        "sender": st.sampled_from(["<>", "@sender.example", "alice@sender.example"]),
        "recipient": st.sampled_from(["alice@one.example", "@two.example"]),
        "domain": st.sampled_from(["one.example", "other.example"]),
    }
    names = draw(st.sets(st.sampled_from(sorted(criteria)), min_size=1, max_size=2))
    until = draw(st.sampled_from([{}, {}, {"until": "2025-12-31"}, {"until": "2026-01-01"}]))
    given = {name: draw(criteria[name]) for name in sorted(names)}
    reason = f"{given}{until}"
    return ExceptionEntry.model_validate({"policy": draw(st.sampled_from(ids)), "reason": reason, **given, **until})


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A configuration and a session."""
    chain = [
        PolicySettings(
            id=name,
            policy=draw(st.sampled_from([Scripted, Scripted, ScriptedToAsk])),
            options=draw(scripts),
            on=draw(ons),
            mode=draw(modes),
            on_error=draw(st.sampled_from(OnError)),
            timeout=0.0,
        )
        for name in ["first", "second", "third", "fourth"][: draw(st.sampled_from([3, 2, 4, 1]))]
    ]
    overrides = {
        name: [replace(settings, **draw(own)) if draw(st.booleans()) else settings for settings in chain]
        for name in draw(st.sets(st.sampled_from(OURS[:2]), max_size=2))
    }
    return Case(
        policies=chain,
        overrides=overrides,
        exceptions=draw(st.lists(exceptions([settings.id for settings in chain]), max_size=3)),
        observe=draw(st.sampled_from([False] * 9 + [True])),
        delay_reject=draw(st.booleans()),
        groups=draw(st.sampled_from([{}, {}, {"three.example": "second"}, {"three.example": HELD}])),
        single=draw(st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"default"}), frozenset({HELD})])),
        limit=draw(st.sampled_from([100, 100, 3])),
        session_delay=draw(st.sampled_from([1000.0, 1000.0, 30.0, 0.0])),
        client="192.0.2.1",
        commands=draw(sessions),
        answers={"busy": 4, "gone": 5},
    )


@given(cases())
@settings(max_examples=200, deadline=None)
def test_any_chain_does_what_the_model_says(case: Case) -> None:
    """What is answered and after which delay, what is forwarded where with which fields, and the records."""
    model, desk = Model(case), Desk(case)
    model.run()
    with capture_logs():
        asyncio.run(desk.run())
    assert desk.answers == model.answers
    assert [line(record) for record in desk.records] == model.records
