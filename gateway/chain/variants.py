"""Variants: a chain's policies with the settings that hold for some domains, made ready to run once, at start."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.chain.find import Step
from gateway.chain.rule import ERROR, Exemption, Terms
from gateway.config.model import ExceptionEntry, Mode, PolicySettings
from gateway.policy import Context, OnError, Policy
from gateway.verdict import Action, Response, Stage

EARLY: Final = (Stage.CONNECT, Stage.HELO, Stage.MAIL)
"""The stages at which no recipient is known yet, so that the common settings hold."""

_DATA_STAGES: Final = frozenset({Stage.DATA, Stage.MESSAGE})


@dataclass(slots=True)
class Variant:
    """The chain's policies with the settings that hold for some domains.

    Attributes:
        steps: Each stage's policies in order.
        by_id: Every policy of the chain.
        after_data: What distinguishes it from other variants once the data has come: recipients whose values differ
            can not share a transaction, because the end of data has one answer for all.
        own_early: The early stages and ids of the policies whose options are not the common ones: what the common
            options found there says nothing about these domains.
        ahead: The policies that look ahead when a message has come.
    """

    steps: Mapping[Stage, Sequence[Step]]
    by_id: Mapping[str, Step]
    after_data: object
    own_early: frozenset[tuple[Stage, str]]
    ahead: Sequence[Step]


class Variants:
    """Makes variants; policies with the same settings are the very same step in all of them.

    Args:
        exceptions: The operator's exceptions.
        context: What every policy is handed.
        mode: ``observe`` applies nothing of any policy.
    """

    def __init__(self, exceptions: Sequence[ExceptionEntry], context: Context, mode: Mode) -> None:
        self._exceptions = exceptions
        self._context = context
        self._mode = mode
        self._made: list[tuple[PolicySettings, Step]] = []

    @property
    def steps(self) -> list[Step]:
        """Every step that was made."""
        return [step for _, step in self._made]

    def variant(self, own: Sequence[PolicySettings], common: Sequence[PolicySettings]) -> Variant:
        """The variant of these settings, beside those that hold for all other domains."""
        steps = [self._step(settings) for settings in own]
        by_stage = {
            stage: tuple(step for step in steps if stage in step.hooks)
            for stage in Stage
            if any(stage in step.hooks for step in steps)
        }
        differing = tuple(
            (mine.id, _after_data(mine))
            for mine, theirs in zip(own, common, strict=True)
            if _after_data(mine) != _after_data(theirs)
        )
        own_early = frozenset(
            (stage, step.terms.id)
            for step, mine, theirs in zip(steps, own, common, strict=True)
            if mine.options != theirs.options
            for stage in EARLY
            if stage in step.hooks
        )
        ahead = tuple(step for step in steps if type(step.policy).look_ahead is not Policy.look_ahead)
        return Variant(by_stage, {step.terms.id: step for step in steps}, differing, own_early, ahead)

    def _step(self, settings: PolicySettings) -> Step:
        for known, step in self._made:
            if known == settings:
                return step
        policy = settings.policy(settings.options, self._context)
        policy.id = settings.id
        hooks = {stage: policy.hook(stage, name) for stage, name in policy.stages(settings.options).items()}
        terms = Terms(
            id=settings.id,
            responses=_responses(settings),
            observe=settings.mode is Mode.OBSERVE or self._mode is Mode.OBSERVE,
            exemptions=tuple(Exemption(entry) for entry in self._exceptions if entry.policy == settings.id),
        )
        step = Step(
            terms=terms,
            policy=policy,
            timeout=settings.timeout,
            hooks=hooks,
            waits=frozenset(stage for stage, hook in hooks.items() if inspect.iscoroutinefunction(hook)),
            asks=policy.asks,
        )
        self._made.append((settings, step))
        return step


def _responses(settings: PolicySettings) -> dict[str, Response]:
    """The response to each declared outcome and to an error."""
    on_error = Action.PASS if settings.on_error is OnError.PASS else Action.DEFER
    defaults = {name: Response(outcome.action) for name, outcome in settings.policy.outcomes.items()}
    return {**defaults, **settings.on, ERROR.name: Response(on_error)}


def looks_at_data(policy: Policy[Any]) -> bool:
    """Whether a policy runs when the message is asked for or has come."""
    return not _DATA_STAGES.isdisjoint(policy.stages(policy.options))


def _after_data(settings: PolicySettings) -> object:
    """What of a policy's settings matters once the data has come, to be compared; None where nothing does."""
    stages = settings.policy.stages(settings.options)
    if not _DATA_STAGES.isdisjoint(stages):
        return (settings.on, settings.mode, settings.on_error, settings.timeout, settings.options)
    if not set(EARLY).isdisjoint(stages):  # later policies may read what it leaves on the transaction
        return settings.options
    return None
