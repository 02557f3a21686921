"""What one stage's run comes to, whatever a policy does."""

import asyncio
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from gateway.adapters.state.memory import MemoryState
from gateway.chain.chain import Chain, envelope_of
from gateway.chain.rule import Envelope, Ruling
from gateway.config.model import ExceptionEntry, Mode, PolicySettings
from gateway.policy import NoOptions, OnError, Options, Policy
from gateway.session import Message, Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.state import Answer as Answered
from gateway.state import Asking, Operation, Take
from gateway.testing import Site, domain
from gateway.testing import message as message_of
from gateway.verdict import Action, Check, Finding, Outcome, Response, Stage

REPLY = Reply(550, "5.7.1", "No")
SITE = Site(domains=["example.com", domain("own.example")])


class Stub(Policy[NoOptions]):
    """Does at connect what the test says."""

    name = "stub"
    found = Outcome("found", Action.REJECT, REPLY, "Found.")

    async def on_connect(self, session: Session) -> Finding | None:
        assert session.id
        return self.found(seen=1)


def settings(policy: type[Policy[Any]] = Stub, **more: Any) -> PolicySettings:
    """Settings as the configuration gives them."""
    given: dict[str, Any] = {
        "id": policy.name,
        "policy": policy,
        "options": NoOptions(),
        "on": {},
        "mode": Mode.ENFORCE,
        "on_error": OnError.DEFER,
        "timeout": 10.0,
    }
    return PolicySettings(**given | more)


async def run(
    *chain: PolicySettings, to_the_end: bool = False, overrides: Mapping[str, list[PolicySettings]] | None = None
) -> tuple[list[Ruling], list[Check]]:
    """Run connect."""
    made = Chain(chain, overrides or {}, [], SITE.context)
    checks: list[Check] = []
    session = SITE.session()
    return (
        await made.run(
            Stage.CONNECT, made.common, Envelope(session.client_address), (session,), checks, to_the_end=to_the_end
        ),
        checks,
    )


async def test_a_finding_becomes_a_ruling_by_the_settings() -> None:
    """The outcome's own action, or what the operator set for it; the check tells both."""
    (ruling,), (check,) = await run(settings())
    assert (ruling.response.action, check.action, check.outcome) == (Action.REJECT, Action.REJECT, "found")
    assert check.evidence == {"seen": 1}
    (ruling,), _ = await run(settings(on={"found": Response(Action.TAG)}))
    assert ruling.response.action is Action.TAG


async def test_hooks_of_every_kind_run() -> None:
    """Plain ones in place, and waiting ones until they are through."""

    class Plain(Stub):
        def on_connect(self, session: Session) -> Finding | None:  # type: ignore[override]  # a hook need not be async
            assert session.id
            return self.found()

    class Waiting(Stub):
        async def on_connect(self, session: Session) -> Finding | None:
            await asyncio.sleep(0)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, None)
            await future
            return self.found() if session.id else None

    for policy in (Plain, Waiting):
        rulings, _ = await run(settings(policy))
        assert [ruling.finding.outcome.name for ruling in rulings] == ["found"]


class Raises(Stub):
    """At once."""

    async def on_connect(self, session: Session) -> Finding | None:
        raise RuntimeError(f"at once\r\n{session.client_address}")


class RaisesLater(Stub):
    """After a wait."""

    async def on_connect(self, session: Session) -> Finding | None:
        await asyncio.sleep(0)
        raise TimeoutError("its own" if session.id else "")


class Foreign(Stub):
    """Finds what it does not declare."""

    async def on_connect(self, session: Session) -> Finding | None:
        return Outcome("foreign", Action.PASS, REPLY, "")(seen=session.id)


class Nonsense(Stub):
    """Returns what is no finding."""

    async def on_connect(self, session: Session) -> Finding | None:
        return session  # type: ignore[return-value]  # that is the point


class AsksForeign(Stub):
    """Asks, and refuses by an outcome that it does not declare."""

    asks = True

    async def on_connect(self, session: Session) -> Asking | None:  # type: ignore[override]  # it asks
        return Asking((), Outcome("foreign", Action.REJECT, REPLY, session.id), lambda _: None)


class AsksNonsense(AsksForeign):
    """Makes of the answers what is no finding."""

    async def on_connect(self, session: Session) -> Asking | None:  # type: ignore[override]  # it asks
        return Asking((), self.found, lambda _: session)  # type: ignore[arg-type,return-value]  # that is the point


class AsksUnannounced(AsksNonsense):
    """Does not say that it asks."""

    asks = False


@pytest.mark.parametrize("policy", [Raises, RaisesLater, Foreign, Nonsense, AsksForeign, AsksNonsense, AsksUnannounced])
@pytest.mark.parametrize("on_error", OnError)
async def test_whatever_goes_wrong_in_a_policy_is_what_on_error_says(policy: type[Stub], on_error: OnError) -> None:
    """Never a refusal for good, never silent: 4xx or pass, a check that says 'error', and a line in the log."""
    with capture_logs() as logs:
        rulings, (check,) = await run(settings(policy, on_error=on_error))
    assert check.outcome == "error"
    assert check.evidence["error"]
    assert check.action.value == on_error.value
    assert [line["event"] for line in logs] == ["policy failed"]
    assert [ruling.finding.reply.code for ruling in rulings] == ([451] if on_error is OnError.DEFER else [])


@pytest.mark.parametrize("policy", [Stub, AsksForeign])
async def test_a_policy_without_an_end_is_cut_off(policy: type[Stub]) -> None:
    """Its time is over after ``timeout``, and the hook is cancelled."""
    cancelled = asyncio.Event()

    class Stalls(policy):  # type: ignore[misc,valid-type]  # of either kind
        async def on_connect(self, session: Session) -> Finding | None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError(session.id)

    with capture_logs() as logs:
        (ruling,), (check,) = await run(settings(Stalls, timeout=0.01))
    assert cancelled.is_set()
    assert ruling.finding.reply.is_transient
    assert check.evidence == {"error": "no result within 10ms"}
    assert [line["event"] for line in logs] == ["policy timed out"]


async def test_a_cancelled_session_cancels_its_policy() -> None:
    """A shutdown by force is no time-out of the policy."""
    reached = asyncio.Event()

    class Stalls(Stub):
        async def on_connect(self, session: Session) -> Finding | None:
            reached.set()
            await asyncio.Event().wait()
            return self.found(seen=session.id)

    running = asyncio.create_task(run(settings(Stalls)))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_behind_a_refusal_policies_run_only_where_it_may_be_lifted() -> None:
    """To the end means: until a refusal that no domain's settings and no exception can lift."""
    second = settings(id="second")
    lifted = [settings(id="first", on={"found": Response(Action.PASS)}), second]
    ids = functools.partial(map, lambda ruling: ruling.policy)
    rulings, _ = await run(settings(id="first"), second)
    assert list(ids(rulings)) == ["first"]
    rulings, _ = await run(settings(id="first"), second, to_the_end=True)
    assert list(ids(rulings)) == ["first"]
    rulings, _ = await run(settings(id="first"), second, to_the_end=True, overrides={"own.example": lifted})
    assert list(ids(rulings)) == ["first", "second"]


class AtRcpt(Stub):
    """Runs at RCPT only."""

    name = "at_rcpt"
    on_connect = None  # type: ignore[assignment]  # it runs at RCPT only

    def on_rcpt(self, *_: object) -> Finding | None:
        return None


class Where(Options):
    """The stage at which ``Placed`` runs."""

    stage: Stage


class Placed(Policy[Where]):
    """Runs where its options say."""

    name = "placed"
    found = Outcome("found", Action.REJECT, REPLY, "Found.")

    def on_connect(self, session: Session) -> Finding | None:
        return self.found(seen=session.id)

    def on_rcpt(self, *_: object) -> Finding | None:
        return None

    def on_message(self, *_: object) -> Finding | None:
        return None

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:
        assert isinstance(options, Where)
        return {options.stage: cls.hooks()[options.stage]}


def test_domains_with_the_same_settings_share_a_transaction() -> None:
    """What must agree behind the data is a matter of settings, not of names; what matters before does not count."""

    class AtMessage(AtRcpt):
        name = "at_message"

        def on_message(self, *_: object) -> Finding | None:
            return None

    tagging = {"found": Response(Action.TAG)}
    common = [settings(), settings(AtRcpt), settings(AtMessage)]
    made = Chain(
        common,
        {
            "a.example": [common[0], common[1], settings(AtMessage, on=tagging)],
            "b.example": [common[0], common[1], settings(AtMessage, on=tagging)],
            "c.example": [settings(on=tagging), settings(AtRcpt, mode=Mode.OBSERVE), common[2]],
        },
        [ExceptionEntry(policy="stub", domain="example.com", reason="x")],
        SITE.context,
    )
    keys = [made.variant(domain(name)).after_data for name in ("a.example", "b.example", "c.example", "d.example")]
    assert keys[0] == keys[1] != keys[2] == keys[3] == made.common.after_data
    transaction = SITE.transaction()
    seen = envelope_of(transaction, SITE.recipient(transaction, "alice@example.com"))
    assert made.after_data(made.common, seen) == (made.common.after_data, ())  # it looks at no data


@pytest.mark.parametrize("stages", [(Stage.RCPT, Stage.MESSAGE), (Stage.MESSAGE, Stage.RCPT)])
def test_recipients_are_split_where_a_policy_runs_behind_the_data_for_some_only(stages: tuple[Stage, Stage]) -> None:
    """Whichever of them has the options by which it runs there."""
    common, own = (settings(Placed, options=Where(stage=stage)) for stage in stages)
    made = Chain([common], {"own.example": [own], "same.example": [common]}, [], SITE.context)
    keys = [made.variant(domain(name)).after_data for name in ("own.example", "same.example")]
    assert keys[0] != keys[1] == made.common.after_data


class Keys(Options):
    """What is not shown, and what has no order."""

    key: SecretStr
    names: frozenset[str] = frozenset()


def test_settings_are_compared_by_what_they_are_and_not_by_what_they_look_like() -> None:
    """Secrets that look the same are not; sets that were written in another order are."""

    class Keyed(Policy[Keys]):
        name = "keyed"

        def on_message(self, *_: object) -> Finding | None:
            return None

    def keyed(key: str, names: Iterable[str]) -> PolicySettings:
        return settings(Keyed, options=Keys(key=SecretStr(key), names=frozenset(names)))

    overrides = {"a.example": [keyed("a", "xai")], "b.example": [keyed("b", "xai")], "c.example": [keyed("b", "iax")]}
    made = Chain([keyed("common", "")], overrides, [], SITE.context)
    keys = [made.variant(domain(name)).after_data for name in overrides]
    assert keys[0] != keys[1] == keys[2]


async def test_what_a_policy_found_where_it_does_not_run_for_a_domain_is_not_held_against_it() -> None:
    """The common options look at connect, the domain's own at RCPT."""
    common, own = (settings(Placed, options=Where(stage=stage)) for stage in (Stage.CONNECT, Stage.RCPT))
    made = Chain([common], {"own.example": [own]}, [], SITE.context)
    transaction = SITE.transaction()
    session = transaction.session
    held = await made.run(Stage.CONNECT, made.common, Envelope(session.client_address), (session,), [], to_the_end=True)
    for address, ids in (("alice@own.example", []), ("alice@example.com", ["placed"])):
        recipient = SITE.recipient(transaction, address)
        variant = made.variant(recipient.domain)
        rulings = await made.early(variant, held, envelope_of(transaction, recipient), transaction, {})
        assert [ruling.policy for ruling in rulings] == ids


async def test_policies_look_ahead_before_any_looks_at_the_message() -> None:
    """Also the last of the chain; not one that an exception exempts; and what it raises harms nothing."""
    seen: list[str] = []

    class First(Policy[NoOptions]):
        name = "first"

        def on_message(self, transaction: Transaction, message: Message) -> Finding | None:  # noqa: ARG002 - the hook's
            seen.append("first looks")
            return None

    class Ahead(Policy[NoOptions]):
        name = "ahead"

        def look_ahead(self, transaction: Transaction, message: Message) -> None:
            seen.append(f"{self.id} asks")
            if self.id == "broken":
                raise RuntimeError(f"{transaction.id} {message.size}")

        def on_message(self, transaction: Transaction, message: Message) -> Finding | None:  # noqa: ARG002 - the hook's
            seen.append(f"{self.id} looks")
            return None

    chain = [settings(First), settings(Ahead, id="broken"), settings(Ahead), settings(Ahead, id="exempt")]
    exempt = ExceptionEntry.model_validate({"policy": "exempt", "client": "0.0.0.0/0", "reason": "a test"})
    made = Chain(chain, {}, [exempt], SITE.context)
    transaction = SITE.transaction()
    transaction.message = message_of(b"Subject: x\r\n\r\n")
    of_whom = Envelope(transaction.session.client_address, transaction.reverse_path)
    with capture_logs() as logs:
        made.look_ahead(made.common, of_whom, transaction, transaction.message)
        await made.run(Stage.MESSAGE, made.common, of_whom, (transaction, transaction.message), transaction.checks)
    assert seen == ["broken asks", "ahead asks", "first looks", "broken looks", "ahead looks"]
    assert [line["policy"] for line in logs] == ["broken"]


class Watching(Policy[NoOptions]):
    """Notes what it is told of refusals."""

    name = "watching"
    watches_refusals = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told: list[tuple[str, str | None]] = []

    def on_refusal(
        self, session: Session, transaction: Transaction, recipient: Recipient | None, by: str | None
    ) -> None:
        assert session is transaction.session
        self.told.append((recipient.path.text if recipient is not None else transaction.reverse_path.text, by))


ALL_TOLD = ["alice@own.example", "bob@own.example", "carol@example.net"]


@pytest.mark.parametrize(
    ("criteria", "told"),
    [
        ({}, ALL_TOLD),
        ({"recipient": "alice@own.example"}, ["bob@own.example", "carol@example.net"]),
        ({"domain": "own.example"}, ["carol@example.net"]),
        ({"sender": "@example.net"}, []),
        ({"client": "192.0.2.0/24"}, []),
        ({"client": "198.51.100.1"}, ALL_TOLD),
        ({"sender": "@example.net", "until": "1970-01-01"}, ALL_TOLD),
    ],
)
def test_a_policy_is_not_told_of_refusals_that_an_exception_keeps_from_it(
    criteria: dict[str, Any], told: list[str]
) -> None:
    """Clients, senders or recipients that it exempts from a policy that counts refusals gather none there."""
    exceptions = [ExceptionEntry(policy="watching", reason="x", **criteria)] if criteria else []
    site = Site(domains=["own.example"])
    site.clock.set(1_780_000_000)
    made = Chain([settings(Watching)], {}, exceptions, site.context)
    transaction = site.transaction("carol@example.net")
    for address in ("alice@own.example", "bob@own.example"):
        made.refused(transaction, site.recipient(transaction, address), "stub")
    made.refused(transaction, None, None)
    policy = made.common.by_id["watching"].policy
    assert isinstance(policy, Watching)
    assert policy.told == [(address, None if address.startswith("carol") else "stub") for address in told]


class Rounds(MemoryState):
    """Notes what is asked together."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.clock)
        self.rounds: list[list[str]] = []

    async def ask(self, operations: Sequence[Operation]) -> Sequence[Answered]:
        self.rounds.append([operation.subject for operation in operations])
        return await super().ask(operations)


class Counts(Policy[NoOptions]):
    """Counts by its id."""

    name = "counts"
    asks = True
    full = Outcome("full", Action.DEFER, REPLY, "Full.")

    async def on_connect(self, session: Session) -> Asking:
        assert session.id
        return Asking((Take(name="counts", subject=self.id, rate=1.0, burst=10.0),), self.full, lambda _: None)


@pytest.mark.parametrize("exempt", ["first", "second", "third"])
async def test_what_an_exception_exempts_is_not_counted_with_its_neighbours(exempt: str) -> None:
    """The others still share one round trip; where the exception does not hold, all do."""
    site = Site()
    state = Rounds(site)
    context = Site(state=state).context
    ids = ["first", "second", "third"]
    entry = ExceptionEntry(policy=exempt, sender="@example.net", reason="x")
    made = Chain([settings(Counts, id=each) for each in ids], {}, [entry], context)
    for sender, counted in (("a@example.net", [each for each in ids if each != exempt]), ("a@example.org", ids)):
        state.rounds.clear()
        transaction = site.transaction(sender)
        checks: list[Check] = []
        seen = Envelope(transaction.session.client_address, transaction.reverse_path)
        await made.run(Stage.CONNECT, made.common, seen, (transaction.session,), checks)
        assert state.rounds == [counted]
        assert [check.policy for check in checks if check.exempted is None] == counted
