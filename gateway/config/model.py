"""A validated configuration: what ``load`` returns and the rest of the gateway reads.

Sections that stand for themselves are the models of ``options``; what needed other parts of the file to be understood
(chains, domains, listeners) is resolved here: every name of a backend exists, every chain is complete, and for each
domain that differs there is a chain of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config.backend import BackendOptions
from gateway.config.files import NamedFile
from gateway.config.names import Endpoint
from gateway.config.options import (
    AuthenticationResultsOptions,
    AuthOptions,
    DelayReject,
    DnsOptions,
    ExceptionEntry,
    Limits,
    LogFormat,
    LogLevel,
    LogOptions,
    Mode,
    Network,
    ProxyOptions,
    QuarantineOptions,
    RecipientListOptions,
    RecordOptions,
    SpoolOptions,
    Timeouts,
    TlsMode,
    TlsOptions,
)
from gateway.config.problems import Position, Problem
from gateway.config.recipients import Readings, RecipientOptions
from gateway.config.state import StateOptions
from gateway.header import is_messages_own
from gateway.policy import OnError, Options, Policy
from gateway.verdict import Action, Response

__all__ = [
    "AuthOptions",
    "AuthenticationResultsOptions",
    "BackendOptions",
    "ChainSettings",
    "Config",
    "DelayReject",
    "DnsOptions",
    "DomainOptions",
    "Endpoint",
    "ExceptionEntry",
    "Limits",
    "Listener",
    "LogFormat",
    "LogLevel",
    "LogOptions",
    "Mode",
    "Network",
    "PolicySettings",
    "ProxyOptions",
    "QuarantineOptions",
    "RecipientListOptions",
    "RecipientOptions",
    "RecordOptions",
    "SpoolOptions",
    "Timeouts",
    "TlsMode",
    "TlsOptions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """One policy of a chain with all its settings.

    Attributes:
        id: Its name in records and exceptions; unique in its chain.
        policy: The class.
        options: The validated options.
        on: For every outcome that the class declares, what is done about it.
        mode: ``observe`` records only. The mode of the domain and of the whole file are already taken into account.
        on_error: What happens when it raises or times out.
        timeout: Seconds a hook may wait.
    """

    id: str
    policy: type[Policy[Any]]
    options: Options
    on: Mapping[str, Response]
    mode: Mode
    on_error: OnError
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """A chain: its policies in order, and for each domain with settings of its own the whole chain as it holds there.

    A policy whose settings don't differ is the very same object in both; domains with the same settings share theirs.
    """

    policies: tuple[PolicySettings, ...]
    overrides: Mapping[str, tuple[PolicySettings, ...]] = field(default_factory=dict)

    @property
    def every(self) -> Iterator[PolicySettings]:
        """The policies as they hold for all domains, and as they hold for each that differs."""
        for policies in (self.policies, *self.overrides.values()):
            yield from policies

    @property
    def quarantines(self) -> bool:
        """Whether any policy may hold mail."""
        return any(response.action is Action.QUARANTINE for settings in self.every for response in settings.on.values())

    def for_domain(self, name: str) -> tuple[PolicySettings, ...]:
        """What holds for recipients of a domain, by its name in the configuration."""
        return self.overrides.get(name, self.policies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address to listen on.

    Attributes:
        smtp: The address and port.
        tls: Its TLS.
        chain: Its chain: its own, or the common one (then the same object for all).
        own_chain: Whether the chain is its own.
        auth: How AUTH is passed through, ``backend`` filled in; None where it is not offered.
        proxy_protocol: From whom the PROXY protocol is expected, None for nobody.
        bare_newlines: ``reject`` or ``normalize``.
        nul: ``reject`` or ``accept``.
        malformed_header: ``mend`` or ``strict``.
        address_syntax: ``lenient`` or ``strict``.
        message_size: The largest message in octets, 0 for no limit; the common limit where the listener has none.
    """

    smtp: Endpoint
    tls: TlsOptions
    chain: ChainSettings
    own_chain: bool
    auth: AuthOptions | None
    proxy_protocol: ProxyOptions | None
    bare_newlines: str
    nul: str
    malformed_header: str
    address_syntax: str
    message_size: int

    @property
    def name(self) -> str:
        """The address as configured."""
        return str(self.smtp)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainOptions:
    """A domain that is ours.

    Attributes:
        name: In lower case, A-labels; with a leading dot for all domains below.
        backend: The name of its backend.
        recipients: Where its addresses are known, in order; None when all are taken and the backend has its say.
        subaddress: Characters that part a user from a detail.
        message_size: The largest message in octets, None for the listener's.
        alias_of: The name of the domain whose settings these are, None when they are its own.
    """

    name: str
    backend: str
    recipients: tuple[RecipientOptions, ...] | None = None
    subaddress: str = ""
    message_size: int | None = None
    alias_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration.

    Attributes:
        path: The file.
        folder: Its folder, where relative file names start.
        hostname: The gateway's name.
        listeners: Where to listen.
        backends: The server groups by name.
        default_backend: Takes mail that trusted and authenticated clients relay; None if none is named among several.
        domains: Our domains by name; see ``domain`` for looking one up.
        chain: The common chain, None when every listener has its own.
        quarantine: Where mail is held, None where no policy holds any.
        exceptions: In the order of the file.
        warnings: What is allowed but probably not meant, found while loading.
        files: The files, folders and sockets that it names.
        readings: What files of recipients had when it was loaded.
        positions: Where listeners, their TLS, backends, exceptions and the settings of the whole stand, by path.
    """

    path: Path
    folder: Path
    hostname: str
    listeners: tuple[Listener, ...]
    backends: Mapping[str, BackendOptions]
    default_backend: str | None
    domains: Mapping[str, DomainOptions]
    chain: ChainSettings | None
    quarantine: QuarantineOptions | None
    exceptions: tuple[ExceptionEntry, ...]
    mode: Mode
    delay_reject: DelayReject
    state: StateOptions
    dns: DnsOptions
    authentication_results: AuthenticationResultsOptions
    records: RecordOptions
    recipient_lists: RecipientListOptions
    limits: Limits
    timeouts: Timeouts
    spool: SpoolOptions
    log: LogOptions
    workers: int
    user: str | None
    group: str | None
    pid_file: Path | None
    runtime_folder: Path | None
    metrics: Endpoint | None
    warnings: tuple[Problem, ...] = ()
    files: tuple[NamedFile, ...] = ()
    readings: Readings = field(default_factory=Readings, repr=False, compare=False)
    positions: Mapping[str, Position] = field(default_factory=dict)

    @property
    def written_fields(self) -> frozenset[str]:
        """The names of the header fields that tags and policies of any listener write, in lower case."""
        names = {
            name.lower()
            for settings in self._policies
            for name in (
                *settings.policy.writes,
                *(each.header.partition(":")[0] for each in settings.on.values() if each.header is not None),
            )
        }
        return frozenset(name for name in names if not is_messages_own(name))  # which no policy gets to write

    @property
    def _policies(self) -> Iterator[PolicySettings]:
        """The policies of every listener, for all domains and as they differ."""
        for listener in self.listeners:
            yield from listener.chain.every

    def domain(self, name: str) -> DomainOptions | None:
        """The settings of a domain by its name in lower case, A-labels: its own, or those of a ``.parent``."""
        found = self.domains.get(name)
        if found is not None or name.startswith("."):
            return found
        rest = name
        while "." in rest:
            rest = rest.partition(".")[2]
            found = self.domains.get("." + rest)
            if found is not None:
                return found
        return None
