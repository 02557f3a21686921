"""A configuration file to a ``Config``, or to everything that is wrong with it.

The text is read with positions (``reading``), the sections are validated (``options``), chains are completed
(``chains``), and then the names that parts of the file use of each other are checked. Each step goes on as far as it
can, so that one run reports all problems; only text that is not YAML ends it at once.
"""

import gc
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.chains import ChainBuilder, DomainPolicies, validated
from gateway.config.files import FileUse, NamedFile, named
from gateway.config.model import ChainSettings, Config, DomainOptions, Listener
from gateway.config.names import domain_pattern
from gateway.config.options import FileOptions, ListenerSection, Mode
from gateway.config.problems import ConfigError, Position, Problem, listed, suggestion
from gateway.config.reading import Document, YamlList, YamlMapping, read, read_text
from gateway.config.registry import Registry
from gateway.config.translate import Place

_TAKEN_OVER: Final = (
    "quarantine", "exceptions", "mode", "delay_reject", "state", "dns", "authentication_results", "records",
    "recipient_lists", "limits", "timeouts", "spool", "log", "workers", "user", "group", "pid_file", "runtime_folder",
    "metrics",
)  # fmt: skip
"""What stands in the ``Config`` just as it stands in the file."""


def load(path: Path | str, *, registry: Registry | None = None) -> Config:
    """Load a configuration file.

    Args:
        path: The file.
        registry: The policies it may name; those of all installed packages unless given.

    Raises:
        ConfigError: It can't be used; says everything that is wrong.
    """
    with _undisturbed():
        return _load(read(Path(path).absolute()), registry or Registry.installed())


def loads(text: str, path: Path | str, *, registry: Registry | None = None) -> Config:
    """Load a configuration from text; ``path`` is where relative file names start, and stands in messages.

    Raises:
        ConfigError: It can't be used; says everything that is wrong.
    """
    with _undisturbed():
        return _load(read_text(text, Path(path).absolute()), registry or Registry.installed())


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the cyclic garbage collector: nothing here makes cycles, and it would take half of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _load(document: Document, registry: Registry) -> Config:
    try:
        loaded = _Loader(document, registry).config()
    except ConfigError as error:
        raise ConfigError(_masked(error.problems, document.secrets)) from None
    if loaded is None or document.problems:
        raise ConfigError(_masked(document.problems, document.secrets))
    return loaded


def _masked(problems: Iterable[Problem], secrets: Mapping[str, str]) -> list[Problem]:
    """The same without values that came from the environment or a file."""
    found: list[Problem] = []
    for problem in problems:
        message = problem.message
        for secret, reference in secrets.items():
            message = message.replace(repr(secret), repr(reference))
            if len(secret) > 3:  # shorter ones occur in any text  # noqa: PLR2004
                message = message.replace(secret, reference)
        found.append(Problem(problem.file, problem.position, problem.where, message))
    return found


@dataclass(frozen=True, slots=True)
class _Written:
    """A domain as written: its name for comparison and where its settings stand."""

    name: str
    place: Place

    def text(self, key: str) -> str | None:
        """A setting that is text."""
        value = self.place.value.get(key) if isinstance(self.place.value, YamlMapping) else None
        return value if isinstance(value, str) else None


def _given(place: Place, key: str) -> Place | None:
    """The value of a key; None when there is none, or nothing stands behind it."""
    found = place.at(key)
    return None if found is None or found.value is None else found


class _Loader:
    """Makes the configuration of one document.

    What parts of the file say about each other is checked on what was written, so that one wrong value hides no other.
    """

    def __init__(self, document: Document, registry: Registry) -> None:
        self._document = document
        self._registry = registry
        self._root = Place(document.root, Position(1, 1), "")
        self._backends: list[str] = list(self._mapping("backends").value)
        self._default = self._default_backend()
        held_at = _given(self._mapping("quarantine"), "backend")
        if held_at is not None:
            self._check_backend(held_at)

    def config(self) -> Config | None:
        """The configuration; None when it can't be made, and then the document's problems say why."""
        options = validated(FileOptions, self._document.root, self._document, self._root)
        domains = self._domains()
        common, own = self._builders()
        builders = [*([] if common is None else [common]), *own.values()]
        self._check_ids(builders, domains)
        differing = self._differing(domains)
        chain = None if common is None else common.build(differing)
        chains = {index: builder.build(differing) for index, builder in own.items()}
        self._check_listeners(options)
        self._check_state(options, builders)
        if options is None or self._document.problems:
            return None
        return Config(
            path=self._document.path,
            folder=self._document.path.parent,
            hostname=options.hostname or socket.getfqdn(),
            listeners=tuple(
                self._listener(section, options.limits.message_size, chain, chains.get(index))
                for index, section in enumerate(options.listeners)
            ),
            backends=options.backends,
            default_backend=self._default,
            domains=self._resolved(domains, options),
            chain=chain,
            files=self._files(options, builders),
            readings=self._document.readings,
            positions=self._positions(domains),
            **{name: getattr(options, name) for name in _TAKEN_OVER},
        )

    def _files(self, options: FileOptions, builders: Iterable[ChainBuilder]) -> tuple[NamedFile, ...]:
        """What the file names on disk; a path that is named twice for the same use stands for both."""
        found = [
            NamedFile(path=path, use=FileUse.VALUE, where=where, position=position)
            for path, where, position in self._document.files
        ]
        for parts, use, path in named(options, self._document.path.parent):
            place = self._root.down(parts)
            where = place.where or ".".join(map(str, parts))  # of a default that is not written
            found.append(NamedFile(path=path, use=use, where=where, position=place.position))
        found += [file for builder in builders for file in builder.files]
        if not any(file.use is FileUse.RECIPIENTS for file in found):
            found = [file for file in found if file.use is not FileUse.LISTS]
        return tuple({(file.path, file.use): file for file in reversed(found)}.values())[::-1]

    def _positions(self, domains: Mapping[str, _Written]) -> dict[str, Position]:
        """Where things stand that can still turn out wrong later."""
        places = [self._root.down([key]) for key in self._document.root]
        for key in ("listeners", "exceptions"):
            for place in self._items(key):
                places += [place, *(place.down([part]) for part in ("tls", "auth"))]
                places += [place.down(["tls", part]) for part in ("certificate", "key")]
        places += [self._root.down(path) for path in (("records", "file"), ("spool", "directory"))]
        for chain in self._chains_written():
            places += [chain.down([index]) for index in range(len(chain.value))]
        places += [place.down(["proxy_protocol"]) for place in self._items("listeners")]
        backends = self._mapping("backends")
        places += [backends.down([name]) for name in backends.value]
        found = {place.where: place.position for place in places}
        for name, written in domains.items():
            found[f"domains.{name}"] = written.place.position
            if (recipients := written.place.at("recipients")) is not None:
                found[f"domains.{name}.recipients"] = recipients.position
        return found

    def _chains_written(self) -> Iterator[Place]:
        """The lists of policies: the common one, and those of listeners."""
        for place in (self._root, *self._items("listeners")):
            written = place.at("policies")
            if written is not None and isinstance(written.value, YamlList):
                yield written

    def _note(self, place: Place, message: str) -> None:
        self._document.problem(place.position, place.where, message)

    def _mapping(self, key: str, place: Place | None = None) -> Place:
        """A mapping below a place; an empty one where there is none (that it is no mapping is told by the models)."""
        place = place or self._root
        found = place.at(key)
        if found is not None and isinstance(found.value, YamlMapping):
            return found
        return Place(YamlMapping(place.position), place.position, key)

    def _items(self, key: str) -> Iterator[Place]:
        """The items of a list that are mappings."""
        found = self._root.at(key)
        if found is not None and isinstance(found.value, YamlList):
            for index, value in enumerate(found.value):
                if isinstance(value, YamlMapping):
                    yield found.down([index])

    def _default_backend(self) -> str | None:
        written = _given(self._root, "default_backend")
        if written is None:
            return self._backends[0] if len(self._backends) == 1 else None
        self._check_backend(written)
        return written.value if isinstance(written.value, str) else None

    def _check_backend(self, place: Place) -> None:
        """Whether a name of a backend is one."""
        name = place.value
        if isinstance(name, str) and name not in self._backends:
            known = f"there are {listed(self._backends, last='and')}" if self._backends else "there is none"
            self._note(place, f"there is no backend {name!r}{suggestion(name, self._backends)}; {known}")

    def _check_has_backend(self, place: Place, written: Place | None) -> None:
        """Whether a domain or a listener has a backend, its own or the default one."""
        if written is not None:
            self._check_backend(written)
        elif self._default is None and _given(self._root, "default_backend") is None:
            count = "none" if not self._backends else "more than one"
            self._note(
                place, f"names no backend, and there is {count}; give 'backend' here or 'default_backend' for all"
            )

    def _domains(self) -> dict[str, _Written]:
        """The domains by name; with every name that they use checked."""
        section = self._mapping("domains")
        domains: dict[str, _Written] = {}
        for key in section.value:
            try:
                name = domain_pattern(key)
            except ValueError as error:
                self._note(section.key(key), str(error))
                continue
            written = _Written(name, section.down([key]))
            known = domains.setdefault(name, written)
            if known is not written:
                self._note(section.key(key), f"is the same domain as in line {known.place.position.line}")
        for written in domains.values():
            if isinstance(written.place.value, YamlMapping | None):
                self._check_domain(written, domains)
        return domains

    def _check_domain(self, written: _Written, domains: Mapping[str, _Written]) -> None:
        place = written.place
        if _given(place, "alias_of") is None:
            self._check_has_backend(place, _given(place, "backend"))
            return
        target = self._target(written, domains)
        alias = place.down(["alias_of"])
        if target is None and isinstance(alias.value, str):
            self._note(alias, f"there is no domain {alias.value!r}{suggestion(alias.value, domains)}")
        elif target is not None and target.text("alias_of") is not None:
            self._note(alias, f"{alias.value!r} is an alias itself; name the domain that has the settings")

    def _target(self, written: _Written, domains: Mapping[str, _Written]) -> _Written | None:
        """The domain whose settings hold; None when it does not exist."""
        alias = written.text("alias_of")
        if alias is None:
            return written
        try:
            return domains.get(domain_pattern(alias))
        except ValueError:
            return None  # told by the models

    def _builders(self) -> tuple[ChainBuilder | None, dict[int, ChainBuilder]]:
        """The builders of the common chain and of the listeners' own."""
        mode = Mode.OBSERVE if self._document.root.get("mode") == "observe" else Mode.ENFORCE
        quarantine = _given(self._root, "quarantine") is not None
        common: ChainBuilder | None = None
        written = self._root.at("policies")
        if written is not None and isinstance(written.value, YamlList):
            common = ChainBuilder(self._document, self._registry, mode, written, quarantine=quarantine)
        own: dict[int, ChainBuilder] = {}
        listeners = self._root.at("listeners")
        if listeners is not None and isinstance(listeners.value, YamlList):
            for index in range(len(listeners.value)):
                written = listeners.down([index]).at("policies")
                if written is not None and isinstance(written.value, YamlList):
                    own[index] = ChainBuilder(self._document, self._registry, mode, written, quarantine=quarantine)
            if _given(self._root, "policies") is None and len(own) < len(listeners.value):
                self._note(self._root.key("policies"), "is missing, and not every listener has a chain of its own")
        return common, own

    def _check_ids(self, builders: list[ChainBuilder], domains: Mapping[str, _Written]) -> None:
        """Whether exceptions and domains name policies of a chain."""
        if not all(builder.complete for builder in builders):
            return  # which ids there are is told once the chain is right
        ids = dict.fromkeys(policy for builder in builders for policy in builder.ids)
        known = f"the policies of the chain are {listed(ids, last='and')}" if ids else "there is no chain"
        named = [place.at("policy") for place in self._items("exceptions")]
        for place in named:
            if place is not None and isinstance(place.value, str) and place.value not in ids:
                self._note(place, f"no chain has a policy {place.value!r}{suggestion(place.value, ids)}; {known}")
        for written in domains.values():
            if not isinstance(written.place.value, YamlMapping) or "policies" not in written.place.value:
                continue
            policies = self._mapping("policies", written.place)
            for policy, settings in policies.value.items():
                if policy not in ids:
                    self._note(
                        policies.key(policy), f"no chain has a policy {policy!r}{suggestion(policy, ids)}; {known}"
                    )
                elif not isinstance(settings, YamlMapping):
                    self._note(policies.key(policy), "must be a mapping of settings (key: value)")

    def _differing(self, domains: Mapping[str, _Written]) -> dict[str, DomainPolicies]:
        """What domains say about the chain, for those that do."""
        differing: dict[str, DomainPolicies] = {}
        for name, written in domains.items():
            target = self._target(written, domains)
            if target is None or not isinstance(target.place.value, YamlMapping):
                continue
            mode = Mode.OBSERVE if target.text("mode") == "observe" else Mode.ENFORCE
            if "policies" in target.place.value or mode is Mode.OBSERVE:
                differing[name] = DomainPolicies(self._mapping("policies", target.place), mode)
        return differing

    def _check_listeners(self, options: FileOptions | None) -> None:
        seen: dict[str, Place] = {}
        for index, place in enumerate(self._items("listeners")):
            auth = place.at("auth")
            if auth is not None and isinstance(auth.value, YamlMapping | None):
                self._check_has_backend(auth, _given(auth, "backend"))
            if options is None or index >= len(options.listeners) or not options.listeners[index].smtp.port:
                continue
            address = str(options.listeners[index].smtp)
            first = seen.setdefault(address, place)
            if first is not place:
                self._note(place, f"listens on {address} like the one in line {first.position.line}")
        if options is not None and options.metrics is not None and str(options.metrics) in seen:
            line = seen[str(options.metrics)].position.line
            self._note(self._root.down(["metrics"]), f"{options.metrics} is where the listener in line {line} listens")

    def _check_state(self, options: FileOptions | None, builders: list[ChainBuilder]) -> None:
        """Whether several workers have a state that they can share, if they need one."""
        if options is None or options.workers == 1 or options.state.is_shared:
            return
        written = _given(self._root, "state")
        users = dict.fromkeys(name for builder in builders for name in builder.state_users)
        if written is not None:
            self._note(
                written,
                f"'memory:' is one worker's own, and there are {options.workers}; give a Redis, or 'workers: 1'",
            )
        elif users:
            self._note(
                self._root.down(["workers"]),
                f"{listed(users, last='and')} must count over all workers; give 'state: redis://...', or 'workers: 1'",
            )

    def _listener(
        self, section: ListenerSection, message_size: int, common: ChainSettings | None, own: ChainSettings | None
    ) -> Listener:
        chain = own or common
        assert chain is not None  # noqa: S101 - _builders told that it is missing
        auth = section.auth
        if auth is not None and auth.backend is None:
            auth = auth.model_copy(update={"backend": self._default})
        return Listener(
            smtp=section.smtp,
            tls=section.tls,
            chain=chain,
            own_chain=own is not None,
            auth=auth,
            proxy_protocol=section.proxy_protocol,
            bare_newlines=section.bare_newlines,
            nul=section.nul,
            malformed_header=section.malformed_header,
            address_syntax=section.address_syntax,
            message_size=message_size if section.message_size is None else section.message_size,
        )

    def _resolved(self, domains: Mapping[str, _Written], options: FileOptions) -> dict[str, DomainOptions]:
        sections = {domain_pattern(key): section for key, section in options.domains.items()}
        resolved: dict[str, DomainOptions] = {}
        for name, section in sections.items():
            target = self._target(domains[name], domains)
            assert target is not None  # noqa: S101 - _check_domain told that there is none
            own = sections[target.name]
            backend = own.backend or self._default
            assert backend is not None  # noqa: S101 - _check_domain told that it is missing
            resolved[name] = DomainOptions(
                name=name,
                backend=backend,
                recipients=own.recipients,
                subaddress=own.subaddress,
                message_size=own.message_size,
                alias_of=None if section.alias_of is None else target.name,
            )
        return resolved
