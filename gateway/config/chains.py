"""From the chain as written to complete settings of every policy, for all domains and for those that differ.

An entry is a policy's name, or the name with settings. The settings common to every policy (``CommonSettings``) stand
beside the policy's own options, which the policy's class describes. A domain's ``policies:`` names entries by id;
what it gives replaces the chain's, setting by setting, outcome by outcome.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from gateway.config.fields import Section
from gateway.config.files import NamedFile, named
from gateway.config.model import ChainSettings, Mode, PolicySettings
from gateway.config.problems import listed, suggestion
from gateway.config.reading import Document, YamlMapping
from gateway.config.registry import Registry, UnknownPolicyError
from gateway.config.translate import Place, problems_of
from gateway.header import is_messages_own, is_one_line
from gateway.policy import OnError, Options, Policy
from gateway.smtp.reply import Reply
from gateway.units import Duration, format_duration
from gateway.verdict import RESERVED_IDS, Action, Party, Response

_CLOSING: Final = 421
_MAX_DELAY: Final = 60.0  # of the 5 minutes that a client waits for the reply to MAIL or RCPT (RFC 5321 4.5.3.2)

ModelT = TypeVar("ModelT", bound=BaseModel)


def _delay(seconds: float) -> float:
    if seconds > _MAX_DELAY:
        raise ValueError(f"must be at most {format_duration(_MAX_DELAY)}: no reply is held back for longer")
    return seconds


Delay: TypeAlias = Annotated[Duration, AfterValidator(_delay)]


class CommonSettings(Section):
    """Settings that every policy has."""

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Its name in records, exceptions and `domains:`; the policy's name without it. A policy that stands in the chain
    twice needs it. `smtp` and `backend` are taken: records name the protocol and the mail server so."""
    on: dict[str, Any] = Field(default={})
    """What is done about an outcome: `OUTCOME: ACTION`, or
    `OUTCOME: {action: ACTION, reply: "550 5.7.1 Text", header: "X-Name: text", delay: 5s}`."""
    mode: Mode | None = None
    """`enforce`, or `observe`: record what would have been done and do nothing."""
    on_error: OnError | None = None
    """What happens when it fails or runs out of time: `pass` or `defer`. The policy's page tells its default."""
    timeout: Duration | None = None
    """How long it may wait at one stage. The policy's page tells its default."""


class ResponseSection(Section):
    """What is done about an outcome, in full."""

    action: Action | None = None
    """`pass`, `tag`, `defer`, `reject`, `discard`, `quarantine` or `disconnect`; the outcome's default without it."""
    reply: str | None = None
    """What the client is told: `550 5.7.1 Text`."""
    header: str | None = None
    """The header field that `tag` adds: `X-Name: text`."""
    delay: Delay = 0.0
    """By how much the reply of the step is held back, with any action: at most 60s, in all `limits.session_delay`."""


COMMON_KEYS: Final = tuple(CommonSettings.model_fields)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a chain, not yet validated.

    Attributes:
        policy: What it names.
        id: Its name in the chain.
        settings: As written.
        before: The names of the policies that stand before it.
    """

    policy: type[Policy[Any]]
    id: str
    settings: Place
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DomainPolicies:
    """What a domain says about the chain: ``policies:`` as written, and its mode."""

    policies: Place | None
    mode: Mode


class ChainBuilder:
    """Makes one chain. What is wrong is noted in the document; then the chain is not to be used.

    Args:
        document: The file.
        registry: The policies there are.
        mode: The mode of the whole file.
        written: The list as written.
        quarantine: Whether the file says where mail is held.

    Attributes:
        entries: Its policies, those that are usable so far.
        complete: Whether all are.
        files: What the options of its policies name, once it is built.
    """

    def __init__(self, document: Document, registry: Registry, mode: Mode, written: Place, *, quarantine: bool) -> None:
        self._document = document
        self._registry = registry
        self._mode = mode
        self._quarantine = quarantine
        self._made: dict[tuple[str, str, Mode], PolicySettings] = {}
        self._failed: set[tuple[str, int]] = set()
        self.files: list[NamedFile] = []
        self.entries = self._entries(written)
        self.complete = len(self.entries) == len(written.value)

    @property
    def ids(self) -> list[str]:
        """The ids of its policies."""
        return [entry.id for entry in self.entries]

    @property
    def state_users(self) -> list[str]:
        """The ids of its policies that count together with other workers."""
        return [entry.id for entry in self.entries if entry.policy.uses_state]

    def build(self, domains: Mapping[str, DomainPolicies]) -> ChainSettings:
        """The chain, with what differs for domains."""
        made = [self._settings(entry, entry.settings, Mode.ENFORCE) for entry in self.entries]
        common = tuple(settings for settings in made if settings is not None)
        overrides: dict[str, tuple[PolicySettings, ...]] = {}
        # An entry that is wrong is left out: every domain would repeat what is wrong with it.
        usable = [entry for entry, settings in zip(self.entries, made, strict=True) if settings is not None]
        for name, domain in domains.items():
            own = tuple(
                self._for_domain(entry, settings, domain) for entry, settings in zip(usable, common, strict=True)
            )
            if any(mine is not theirs for mine, theirs in zip(own, common, strict=True)):
                overrides[name] = own
        return ChainSettings(policies=common, overrides=overrides)

    def _note(self, place: Place, message: str) -> None:
        self._document.problem(place.position, place.where, message)

    def _entries(self, written: Place) -> list[Entry]:
        entries: list[Entry] = []
        ids: dict[str, Place] = {}
        for index in range(len(written.value)):
            place = written.down([index])
            entry = self._entry(place)
            if entry is None:
                continue
            if entry.id in RESERVED_IDS:
                told = f"the id {entry.id!r} is reserved: records call the {Party(entry.id).name.lower()} so"
                self._note(entry.settings.at("id") or place, f"{told}; give the policy another 'id'")
                continue
            entry = replace(entry, before=tuple(before.policy.name for before in entries))
            known = ids.setdefault(entry.id, place)
            if known is place:
                entries.append(entry)
            else:
                told = f"the chain has a policy {entry.id!r} already, in line {known.position.line}"
                self._note(place, f"{told}; give one of them an id of its own")
            self._check_required(entry, place, entry.policy.requires)
        return entries

    def _check_required(self, entry: Entry, place: Place, names: Iterable[str]) -> None:
        """Whether the policies that it builds on stand before it."""
        missing = [name for name in names if name not in entry.before]
        if missing:
            needed = listed(missing, last="and")
            self._note(place, f"{entry.policy.name} reads what {needed} found; put {needed} before it in the chain")

    def _entry(self, place: Place) -> Entry | None:
        value = place.value
        if isinstance(value, str):
            name = value
            settings = Place(YamlMapping(place.position), place.position, place.where)
        elif isinstance(value, YamlMapping) and len(value) == 1:
            name = next(iter(value))
            settings = place.down([name])
            place = place.key(name)
            if settings.value is None:
                settings = Place(YamlMapping(place.position), place.position, place.where)
        elif isinstance(value, YamlMapping) and value:
            keys = listed(value, last="and")
            self._note(
                place, f"an entry names one policy, and this has {keys}; indent a policy's settings below its name"
            )
            return None
        else:
            self._note(place, "must be a policy's name, or a name with settings (name: {...})")
            return None
        try:
            policy = self._registry.get(name)
        except UnknownPolicyError as error:
            self._note(place, str(error))
            return None
        if not isinstance(settings.value, YamlMapping):
            self._note(settings, "must be a mapping of settings (key: value)")
            return None
        own_id = settings.value.get("id")
        return Entry(policy, own_id if isinstance(own_id, str) else name, settings)

    def _for_domain(self, entry: Entry, settings: PolicySettings, domain: DomainPolicies) -> PolicySettings:
        """The settings of one policy for a domain: the chain's own object where nothing differs."""
        written = domain.policies.at(entry.id) if domain.policies is not None else None
        if written is None or not isinstance(written.value, YamlMapping):
            if domain.mode is settings.mode or domain.mode is Mode.ENFORCE:
                return settings
            return self._made.setdefault((entry.id, "", domain.mode), replace(settings, mode=domain.mode))
        if (entry.id, id(written.value)) in self._failed:  # the same settings, shared by an alias
            return settings
        key = (entry.id, json.dumps(written.value, sort_keys=True), domain.mode)
        made: PolicySettings | None = self._made.get(key)
        if made is None:
            made = self._override(entry, written, domain.mode)
            if made is None:
                self._failed.add((entry.id, id(written.value)))
                return settings
            if made == settings:
                made = settings
            self._made[key] = made
        return made

    def _override(self, entry: Entry, written: Place, mode: Mode) -> PolicySettings | None:
        if "id" in written.value:
            self._note(written.key("id"), "is set in the chain; a domain names the policy by it")
            return None
        merged = _merged(entry.settings.value, written.value)
        return self._settings(entry, Place(merged, written.position, written.where), mode)

    def _settings(self, entry: Entry, written: Place, mode: Mode) -> PolicySettings | None:
        before = len(self._document.problems)
        values: YamlMapping = written.value
        own = {key: value for key, value in values.items() if key not in COMMON_KEYS}
        common = {key: value for key, value in values.items() if key in COMMON_KEYS}
        settings = validated(CommonSettings, common, self._document, written)
        options = self._options(entry, own, written)
        if options is not None:
            self._check_required(entry, written, entry.policy.also_requires(options))
        responses = self._responses(entry.policy, written.at("on")) if settings is not None and settings.on else {}
        if settings is None or options is None or len(self._document.problems) > before:
            return None
        defaults = {name: Response(outcome.action) for name, outcome in entry.policy.outcomes.items()}
        self._check_quarantine(defaults | responses, responses, written)
        if len(self._document.problems) > before:
            return None
        for parts, use, path in named(options, self._document.path.parent):
            place = written.down(parts)
            self.files.append(NamedFile(path=path, use=use, where=place.where, position=place.position))
        observed = Mode.OBSERVE in {self._mode, mode, settings.mode}
        return PolicySettings(
            id=entry.id,
            policy=entry.policy,
            options=options,
            on=defaults | responses,
            mode=Mode.OBSERVE if observed else Mode.ENFORCE,
            on_error=settings.on_error or entry.policy.on_error,
            timeout=entry.policy.timeout if settings.timeout is None else settings.timeout,
        )

    def _check_quarantine(self, on: Mapping[str, Response], said: Iterable[str], written: Place) -> None:
        """Whether what is to be held has a place to be held at."""
        if self._quarantine:
            return
        needed = "needs the section 'quarantine: {backend: NAME}', which says where it is held"
        for name, response in on.items():
            if response.action is not Action.QUARANTINE:
                continue
            if name in said:
                self._note(written.down(["on", name, "action"]), f"the action quarantine {needed}")
            else:
                message = f"the outcome {name} is quarantined unless 'on' says otherwise: that {needed}"
                self._note(written, message)

    def _options(self, entry: Entry, own: Mapping[str, Any], written: Place) -> Options | None:
        try:
            return validated(entry.policy.options_type, own, self._document, written, COMMON_KEYS)
        except Exception as error:  # noqa: BLE001 - validators are the policy's own code, perhaps another package's
            self._note(written, f"the policy fails to read its options: {type(error).__name__}: {error}")
            return None

    def _responses(self, policy: type[Policy[Any]], on: Place | None) -> dict[str, Response]:
        """What the operator set for outcomes."""
        responses: dict[str, Response] = {}
        assert on is not None  # noqa: S101 - the settings have it
        for name in on.value:
            outcome = policy.outcomes.get(name)
            place = on.down([name])
            if outcome is None:
                known = listed(policy.outcomes, last="and") if policy.outcomes else "no outcomes"
                message = f"is not an outcome of {policy.name}{suggestion(name, policy.outcomes)}; it has {known}"
                self._note(on.key(name), message)
                continue
            response = self._response(place, outcome.action)
            if response is not None:
                responses[name] = response
        return responses

    def _response(self, place: Place, default: Action) -> Response | None:
        value = place.value
        if not isinstance(value, YamlMapping):
            try:
                return Response(Action(value))
            except ValueError:
                words = [action.value for action in Action]
                told = "has no value" if value is None else f"{value!r} is not an action{suggestion(str(value), words)}"
                self._note(place, f"{told}; it must be {listed(words)}")
                return None
        section = validated(ResponseSection, value, self._document, place)
        if section is None:
            return None
        action = section.action or default
        reply: Reply | None = None
        try:
            if section.reply is not None:
                reply = _reply(section.reply, action)
        except ValueError as error:
            self._note(place.down(["reply"]), str(error))
            return None
        if section.header is not None:
            message = _wrong_header(section.header, action)
            if message is not None:
                self._note(place.down(["header"]), message)
                return None
        return Response(action, reply, section.header, section.delay)


def validated(
    model: type[ModelT], value: Mapping[str, Any], document: Document, place: Place, also_known: Iterable[str] = ()
) -> ModelT | None:
    """The model of a value; what is wrong is noted in the document, and then it is None.

    Args:
        model: What to make.
        value: The value, or the part of it that this model describes.
        document: The file.
        place: Where the whole value stands.
        also_known: Keys that may stand beside the model's own, for suggestions.
    """
    try:
        return model.model_validate(value, context={"folder": document.path.parent, "readings": document.readings})
    except ValidationError as error:
        document.problems.extend(problems_of(error, model, document, place, also_known))
        return None


def _merged(common: YamlMapping, own: YamlMapping) -> YamlMapping:
    """The chain's settings with a domain's in their place; ``on`` is merged outcome by outcome."""
    merged = YamlMapping(own.position)
    for layer in (common, own):
        for key, value in layer.items():
            inner = merged.get(key)
            if key == "on" and isinstance(inner, YamlMapping) and isinstance(value, YamlMapping):
                value = _merged(inner, value)  # noqa: PLW2901 - what comes in its place
            merged[key] = value
            merged.keys_at[key] = layer.keys_at[key]
            merged.values_at[key] = layer.values_at[key]
    return merged


def _reply(text: str, action: Action) -> Reply:
    """The reply of an action.

    Raises:
        ValueError: It is none, or not of this action's class.
    """
    wanted = action.reply_class
    if wanted is None:
        raise ValueError(f"the action {action} sends no reply; give one with defer, reject or disconnect")
    reply = Reply.parse(text)
    if action is Action.DISCONNECT and reply.code != _CLOSING:
        raise ValueError(f"the reply of disconnect begins with 421, and this with {reply.code} (RFC 5321 3.8)")
    if reply.code // 100 != wanted:
        raise ValueError(f"the reply of {action} begins with {wanted}, and this with {reply.code}")
    return reply


def _wrong_header(text: str, action: Action) -> str | None:
    if action is not Action.TAG:
        return f"the action {action} adds no header field; give one with tag"
    if not is_one_line(text):
        return f"{text!r} is not a header field such as 'X-Name: text'"
    name = text.partition(":")[0]
    if is_messages_own(name):
        return f"{name} is a field of the message itself, which a tag can't write; take a name such as X-{name}"
    return None
