"""Policies that ask the state: those next to one another together, all or none, and nothing when it is away."""

from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.state.memory import MemoryState
from gateway.chain.chain import Chain
from gateway.chain.rule import Envelope
from gateway.config.model import Mode, PolicySettings
from gateway.policy import OnError, Policy
from gateway.session import Transaction
from gateway.state import Answer, Asking, Operation, StateUnavailableError, Take
from gateway.testing import SettableClock, Site
from gateway.verdict import Action, Check, Finding, Response, Stage
from policies.limits import Limits
from policies.rate_limit import RateLimit


class Watched(MemoryState):
    """A state that notes how often it is asked, and can be away."""

    def __init__(self) -> None:
        super().__init__(SettableClock())
        self.asked: list[int] = []
        self.away = False

    async def ask(self, operations: Sequence[Operation]) -> Sequence[Answer | StateUnavailableError]:  # type: ignore[override]  # as the interface has it
        """Note, and answer."""
        self.asked.append(len(operations))
        if self.away:
            return [StateUnavailableError("away") for _ in operations]
        return await super().ask(operations)


def settings(policy: type[Policy[Any]], name: str, options: dict[str, Any], **changes: Any) -> PolicySettings:
    """Settings as the configuration makes them."""
    on = {word: Response(outcome.action) for word, outcome in policy.outcomes.items()}
    return PolicySettings(
        id=name,
        policy=policy,
        options=policy.options_type.model_validate(options),
        on={**on, **changes.get("on", {})},
        mode=changes.get("mode", Mode.ENFORCE),
        on_error=changes.get("on_error", OnError.PASS),
        timeout=10.0,
    )


class Rig:
    """A chain on a watched state."""

    def __init__(self, *policies: PolicySettings) -> None:
        self.state = Watched()
        self.site = Site(domains=["example.com"], state=self.state)
        self.chain = Chain(policies, {}, (), self.site.context)
        self.transaction = self.site.transaction()

    async def mail(self) -> list[tuple[str, str | None, Action]]:
        """What the checks of MAIL say."""
        self.transaction = transaction = self.site.transaction()
        checks: list[Check] = []
        seen = Envelope(transaction.session.client_address, transaction.reverse_path)
        await self.chain.run(Stage.MAIL, self.chain.common, seen, (transaction,), checks)
        return [(check.policy, check.outcome, Action(check.action)) for check in checks]

    def level(self, name: str) -> float:
        """What a limit has counted."""
        return sum(entry.level for entry in self.state.known() if entry.name.startswith(name))


async def test_limits_next_to_one_another_are_one_round_trip() -> None:
    """Three in a row ask once; one behind another policy asks again."""
    wide = {"limit": "9/h"}
    row = [settings(RateLimit, name, wide) for name in ("a", "b", "c")]
    rig = Rig(*row, settings(Limits, "limits", {}), settings(RateLimit, "d", wide))
    found = await rig.mail()
    assert [check[:2] for check in found if check[0] != "limits"] == [(name, "within") for name in "abcd"]
    assert rig.state.asked == [3, 1]


@pytest.mark.parametrize("order", [("narrow", "wide"), ("wide", "narrow")])
async def test_what_one_limit_refuses_costs_nothing_in_the_other(order: tuple[str, str]) -> None:
    """Whichever stands first: the wide limit counts only what passes."""
    limits = {"narrow": {"limit": "1/h"}, "wide": {"limit": "9/h"}}
    rig = Rig(*(settings(RateLimit, name, limits[name]) for name in order))
    for _ in range(4):
        await rig.mail()
    assert (rig.level("narrow"), rig.level("wide")) == (1.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [{"mode": Mode.OBSERVE}, {"on": {"exceeded": Response(Action.TAG)}}, {"on": {"exceeded": Response(Action.PASS)}}],
)
async def test_a_limit_that_refuses_nothing_stops_no_other(changes: dict[str, Any]) -> None:
    """Observed, or with an action that lets pass: the other limit counts on."""
    rig = Rig(settings(RateLimit, "soft", {"limit": "1/h"}, **changes), settings(RateLimit, "hard", {"limit": "9/h"}))
    for _ in range(3):
        found = await rig.mail()
    assert [check[:2] for check in found] == [("soft", "exceeded"), ("hard", "within")]
    assert (rig.level("soft"), rig.level("hard")) == (1.0, 3.0)


async def test_a_state_that_is_away_is_an_error_of_each_policy_without_a_line_for_each() -> None:
    """Each does what its on_error says; the log is the adapter's business."""
    rig = Rig(
        settings(RateLimit, "a", {"limit": "9/h"}), settings(RateLimit, "b", {"limit": "9/h"}, on_error=OnError.DEFER)
    )
    rig.state.away = True
    with capture_logs() as lines:
        assert await rig.mail() == [("a", "error", Action.PASS), ("b", "error", Action.DEFER)]
    assert lines == []


class Broken(RateLimit):
    """Fails when it has its answers."""

    name = "broken"

    def on_mail(self, transaction: Transaction) -> Asking | None:  # noqa: ARG002 - the hook's
        """Ask in vain."""

        def conclude(answers: Sequence[Answer]) -> Finding | None:
            raise RuntimeError(f"{len(answers)} answers are too many")

        return Asking([Take(name="x", subject="x", rate=1.0, burst=1.0)], self.exceeded, conclude)


async def test_one_that_fails_takes_no_other_with_it() -> None:
    """An exception behind the answers is its policy's own; it is logged, and the other policy has its finding."""
    rig = Rig(settings(Broken, "broken", {"limit": "9/h"}), settings(RateLimit, "b", {"limit": "9/h"}))
    with capture_logs() as lines:
        assert await rig.mail() == [("broken", "error", Action.PASS), ("b", "within", Action.PASS)]
    assert [line["event"] for line in lines] == ["policy failed"]


@pytest.mark.parametrize(
    ("first", "second", "reserved"),
    [
        ({}, {}, [["a", "b"], ["a", "b"], ["a", "b"]]),
        ({}, {"limit": "1/h"}, [["a", "b"], [], []]),
        ({"limit": "1/h"}, {}, [["a", "b"], [], []]),
        ({"limit": "1/h", "count": "attempts"}, {}, [["b"], [], []]),
        ({"count": "attempts"}, {"count": "bytes"}, [[], [], []]),
        ({"limit": "1/h", "mode": Mode.OBSERVE}, {}, [["a", "b"], ["b"], ["b"]]),
    ],
)
async def test_what_was_counted_in_advance_is_noted(
    first: dict[str, Any], second: dict[str, Any], reserved: list[list[str]]
) -> None:
    """Only what was counted: nothing where a limit that binds refuses, and nothing that stays counted in any case."""
    rows = []
    for name, given in (("a", first), ("b", second)):
        options = {"limit": "9/h", **given}
        rows.append(settings(RateLimit, name, options, mode=options.pop("mode", Mode.ENFORCE)))
    rig = Rig(*rows)
    for names in reserved:
        await rig.mail()
        assert [each.operation.name.partition(":")[0] for each in rig.transaction.reservations] == names


async def test_nothing_is_given_back_twice() -> None:
    """What is given back is noted no more; what is kept of others stays."""
    rig = Rig(settings(RateLimit, "a", {"limit": "9/h"}))
    for _ in range(3):
        await rig.mail()
    for _ in range(2):
        rig.chain.give_back(rig.transaction)
        assert (rig.level("a"), rig.transaction.reservations) == (2.0, [])


async def test_a_recipients_share_is_given_back_alone() -> None:
    """What is counted for others, and for the message as a whole, stays until the end."""
    rig = Rig(
        settings(RateLimit, "a", {"limit": "9/h"}), settings(RateLimit, "r", {"count": "recipients", "limit": "9/h"})
    )
    await rig.mail()
    recipients = [rig.site.recipient(rig.transaction, f"{name}@example.com") for name in ("bob", "alice")]
    for recipient in recipients:
        seen = Envelope(rig.transaction.session.client_address, rig.transaction.reverse_path, recipient.path)
        await rig.chain.run(Stage.RCPT, rig.chain.common, seen, (rig.transaction, recipient), [])
    rig.chain.give_back(rig.transaction, recipients[0])
    assert (rig.level("a"), rig.level("r")) == (1.0, 1.0)
    assert [each.recipient for each in rig.transaction.reservations] == [None, recipients[1]]


async def test_a_state_that_fails_to_give_back_ends_nothing() -> None:
    """It is logged, and the others are given back."""

    class Failing(Watched):
        def give_back(self, operation: Take, answer: Answer) -> None:
            if operation.name.startswith("a:"):
                raise RuntimeError("no")
            super().give_back(operation, answer)

    rig = Rig(settings(RateLimit, "a", {"limit": "9/h"}), settings(RateLimit, "b", {"limit": "9/h"}))
    rig.state.__class__ = Failing
    await rig.mail()
    with capture_logs() as lines:
        rig.chain.give_back(rig.transaction)
    assert [line["event"] for line in lines] == ["not given back"]
    assert (rig.level("a"), rig.level("b")) == (1.0, 0.0)
