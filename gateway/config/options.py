"""The sections of the configuration file, as frozen models: what may stand in them, and what holds when nothing does.

The docstring below each field is its documentation, in ``docs/configuration.md`` and in the JSON Schema. Sections
that need nothing else to be understood are used as they are; ``FileOptions``, ``ListenerSection`` and
``DomainSection`` are what ``load`` makes the ``Config`` of.
"""

from collections.abc import Callable
from datetime import date
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from gateway.config.backend import BackendOptions
from gateway.config.fields import Count, File, Positive, Section
from gateway.config.names import Endpoint, address_pattern, domain_name, domain_pattern, host_name, name_server
from gateway.config.recipients import Recipients
from gateway.config.state import StateField, StateOptions
from gateway.units import Duration, Size

Network: TypeAlias = IPv4Network | IPv6Network


class Mode(StrEnum):
    """Whether outcomes are applied or only recorded."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class TlsMode(StrEnum):
    """How a listener uses TLS."""

    NONE = "none"
    STARTTLS = "starttls"
    STARTTLS_REQUIRED = "starttls_required"
    IMPLICIT = "implicit"


class DelayReject(StrEnum):
    """How long refusals of the client, its name or the sender are held back."""

    RCPT = "rcpt"
    NONE = "none"


class LogFormat(StrEnum):
    """The form of log lines."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least important lines that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _short(path: Path) -> Path:
    """The name of a socket in the folder must fit into 108 octets (unix(7))."""
    if len(str(path).encode()) > 80:  # noqa: PLR2004 - with /worker-4194304.sock behind it
        raise ValueError("is too long: the name of a socket has at most 107 octets")
    return path


def _checked(check: Callable[[str], str]) -> Callable[[object], object]:
    return lambda value: check(value) if isinstance(value, str) else value


def _day(value: object) -> object:
    """Text only: a number is no date, though it could count seconds."""
    if isinstance(value, str | date):
        return value
    raise ValueError("must be a date such as 2027-01-31")


def _network(value: object) -> object:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a network such as 192.0.2.0/24, or an address")  # noqa: TRY004 - pydantic reports it
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        wider = ip_network(value, strict=False)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a network such as 192.0.2.0/24, or an address") from error
    raise ValueError(f"{value!r} has bits behind its prefix; the network is {wider}")


NetworkField: TypeAlias = Annotated[
    Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["192.0.2.0/24", "2001:db8::/32"]}),
]
DomainName: TypeAlias = Annotated[str, BeforeValidator(_checked(domain_name))]
DomainPattern: TypeAlias = Annotated[str, BeforeValidator(_checked(domain_pattern))]
AddressPattern: TypeAlias = Annotated[str, BeforeValidator(_checked(address_pattern))]
HostName: TypeAlias = Annotated[str, BeforeValidator(_checked(host_name))]
ServerAddress: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(name_server)]


class TlsOptions(Section):
    """TLS of a listener."""

    mode: TlsMode = TlsMode.STARTTLS
    """none; starttls (offered); starttls_required (no mail without it); implicit (TLS at once, port 465)."""
    certificate: File | None = None
    """PEM file with the certificate and the intermediate ones."""
    key: File | None = None
    """PEM file with the private key; without it, the key stands in the certificate's file."""

    @model_validator(mode="after")
    def _has_certificate(self) -> Self:
        if self.mode is not TlsMode.NONE and self.certificate is None:
            raise ValueError(f"mode {self.mode} needs a certificate")
        return self


class AuthOptions(Section):
    """AUTH, passed through to a backend. An authenticated client may relay."""

    backend: str | None = None
    """The backend that checks the login and takes the client's mail; the default backend without it."""
    required: bool = True
    """Whether a client must authenticate before MAIL."""


class ProxyOptions(Section):
    """The PROXY protocol (v1 and v2), by which a load balancer tells the client's address."""

    trusted: tuple[NetworkField, ...] = Field(min_length=1)
    """The load balancers' networks. They must send the header; anyone else is served without one."""

    def trusts(self, address: str) -> bool:
        """Whether a peer must send the header."""
        peer = ip_address(address.partition("%")[0])
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in self.trusted)


class ListenerSection(Section):
    """One address to listen on."""

    smtp: Endpoint
    """Address and port: `0.0.0.0:25`, `[::]:25`."""
    tls: TlsOptions = TlsOptions(mode=TlsMode.NONE)
    """TLS; none without this section."""
    policies: list[Any] | None = None
    """A chain of its own, instead of the common one."""
    auth: AuthOptions | None = None
    """Passes AUTH through to a backend (submission)."""
    proxy_protocol: ProxyOptions | None = None
    """Expects the PROXY protocol of trusted peers."""
    bare_newlines: Literal["reject", "normalize"] = "reject"
    """What happens to a bare CR or LF: refuse the message, or write CRLF in its place."""
    nul: Literal["reject", "accept"] = "reject"
    """What happens to a message with a NUL octet."""
    malformed_header: Literal["mend", "strict"] = "mend"
    """What happens to a header that readers could take in two ways: `mend` makes it plain, and refuses what can't be
    mended; `strict` refuses it. See [message-form.md](message-form.md)."""
    address_syntax: Literal["lenient", "strict"] = "lenient"
    """Which addresses MAIL and RCPT take: `lenient` also what honest senders send against RFC 5321 (`a..b@`, a local
    part of more than 64 octets, an underscore in a domain, no angle brackets), forwarded in a form that can be read in
    one way only; `strict` refuses these with 501. See [decisions/addresses.md](decisions/addresses.md)."""
    message_size: Size | None = None
    """The largest message here; `limits.message_size` without it."""


class DomainSection(Section):
    """A domain that is ours."""

    backend: str | None = None
    """The backend that takes its mail; the default backend without it."""
    recipients: Recipients = None
    """Where its addresses are known, see below; without this, all are taken and the backend has its say."""
    subaddress: str = Field(default="", pattern=r"^[^\s@A-Za-z0-9]*$")
    """Characters that part a user from a detail, such as `+` in `user+detail@example.com`."""
    message_size: Size | None = None
    """The largest message for this domain; the listener's without it."""
    mode: Mode = Mode.ENFORCE
    """`observe`: every policy is only recorded for recipients of this domain."""
    policies: dict[str, Any] = Field(default_factory=dict)
    """Settings of the chain's policies that differ here: the policy's id to settings."""
    alias_of: DomainPattern | None = None
    """Another domain of ours, whose settings and recipients hold here too. Nothing else may stand beside it."""

    @model_validator(mode="after")
    def _alias_alone(self) -> Self:
        others = sorted(self.model_fields_set - {"alias_of"})
        if self.alias_of is not None and others:
            raise ValueError(f"alias_of takes everything from the other domain; leave out {', '.join(others)}")
        return self


def _failure_ttl(seconds: float) -> float:
    if not 1 <= seconds <= 300:  # noqa: PLR2004 - RFC 9520 3.2
        raise ValueError("must be from 1s to 5m (RFC 9520 3.2)")
    return seconds


FailureTtl: TypeAlias = Annotated[Duration, AfterValidator(_failure_ttl)]


class DnsOptions(Section):
    """Asking the DNS."""

    servers: tuple[ServerAddress, ...] = ()
    """Resolvers, `127.0.0.1` or `127.0.0.1:5353`; the system's without them."""
    timeout: Duration = 5.0
    """For one question, all tries together."""
    client_names: bool = True
    """Whether the client's name is looked up."""
    cache: Count = 10_000
    """How many answers are remembered; 0 for none. A long one counts as several."""
    min_ttl: Duration = 5.0
    """How long an answer is remembered at least, also if it says less."""
    max_ttl: Duration = 86_400.0
    """How long an answer is remembered at most."""
    max_negative_ttl: Duration = 10_800.0
    """How long it is remembered at most that there is no such name or record."""
    failure_ttl: FailureTtl = 5.0
    """How long a failure or a time-out is remembered."""
    concurrency: Positive = 1000
    """How many questions a worker has in flight at once; those above it wait. One that has no answer for half a second
    leaves its place to one that waits; four times as many may go on so."""
    session_queries: Positive = 1000
    """How many questions a session may ask in all; answers that are remembered are free."""
    session_time: Duration = 60.0
    """How long a session may wait for answers in all."""


class AuthenticationResultsOptions(Section):
    """The Authentication-Results field (RFC 8601): what the gateway found about the sender, for those behind it."""

    authserv_id: HostName | None = None
    """The name under which the gateway speaks; `hostname` without it. Fields that come in under it are forged and are
    removed."""
    add: bool = True
    """Whether the field is added, once a policy such as `spf`, `dkim`, `arc` or `dmarc` has looked."""
    remove: tuple[HostName, ...] = ()
    """Further names whose fields nobody outside may use, such as those of the mail servers behind the gateway."""


class RecordOptions(Section):
    """Where decision records go."""

    file: File | None = None
    """A file to which each record is added as a line of JSON."""
    stdout: bool = False
    """Write them to standard output."""
    waiting: Size = 16_000_000
    """How much may wait for a slow reader of standard output, or of a `file` that is a pipe, in each worker; what comes
    above it is lost and counted."""
    silent_clients: bool = False
    """Whether a client that connects and leaves without a word, as monitoring does, leaves a record too."""


def _records(value: object) -> object:
    """The word ``stdout`` is short for ``{stdout: true}``."""
    if isinstance(value, str) and value != "stdout":
        raise ValueError(f"must be stdout, or a mapping (key: value); write records: {{file: {value}}}")
    return {"stdout": True} if value == "stdout" else value


class RecipientListOptions(Section):
    """What keeps files of recipients from coming out empty by a slip: what was accepted last goes on to hold."""

    folder: File = Path("/var/lib/lychgate/lists")
    """The folder of the service's own where accepted content survives restarts, as plain copies."""
    max_loss: Annotated[int, Field(ge=0, le=100)] = 50
    """The largest share of its entries that a file may lose at once, in percent. More is held back until
    `lychgate recipients accept` says that it is right, and so is a file that has no entries any more."""
    few: Count = 10
    """Of so many entries any share may go, as long as some stay."""


class Limits(Section):
    """Limits of every listener. They hold in each worker, but for `connections`, which is of all workers together."""

    connections: Positive = 10_000
    """Connections at one time, in all."""
    connections_per_client: Count = 100
    """Connections of one client (an IPv4 address, an IPv6 /64) at one time; 0 for no limit."""
    message_size: Size = 50_000_000
    """The largest message in octets, announced as SIZE; 0 for no limit."""
    header_size: Size = 1_048_576
    """The largest header section of a message."""
    header_lines: Count = 20_000
    """Lines of the header section of a message; 0 for no limit."""
    command_line: Annotated[int, Field(ge=512)] = 2048
    """Octets of one command with its CRLF (RFC 5321 4.5.3.1.4: at least 512)."""
    auth_line: Annotated[int, Field(ge=512)] = 12_288
    """Octets of one line of an AUTH exchange (RFC 4954 4: 12288)."""
    parameters: Positive = 20
    """Parameters of one MAIL or RCPT."""
    recipients: Annotated[int, Field(ge=100)] = 1000
    """Recipients of one message (RFC 5321 4.5.3.1.8: at least 100)."""
    recipient_overshoot: Count = 1000
    """RCPT commands of one message above that limit, after which the session ends."""
    session_memory: Annotated[Size, Field(ge=131_072)] = 262_144
    """What a session may hold in memory beside its message: 64 KiB for itself and for what waits to be read or sent,
    the rest for the recipients of a message and what policies found. That is 100 to 300 recipients by default; those
    above it get `452 4.5.3`, and the sender brings them in a further transaction. Raise it by 1 KB for each recipient
    that shall fit; at least 128 KiB."""
    errors: Positive = 20
    """Protocol errors and failed logins in a session, after which it ends."""
    unknown_commands: Positive = 10
    """Unknown commands in a session, after which it ends."""
    idle_commands: Positive = 100
    """NOOP, RSET, VRFY and the like without an accepted message between them, after which the session ends."""
    refusals: Positive = 2000
    """Senders, recipients and messages of a session that are refused by any policy or backend, after which it ends.
    Recipients that are to come in a further transaction (`452 4.5.3`) do not count."""
    session_delay: Duration = 60.0
    """By how much the replies of a session may be held back in all (`delay` of an outcome); 0 for not at all."""
    transactions: Positive = 10_000
    """Messages of a session, after which it ends, also of those that were given up."""
    chunks: Positive = 1000
    """BDAT commands of one message, and one more for each 32 octets of it, after which the session ends."""
    empty_chunks: Positive = 100
    """How many of them may be empty."""
    dropped_octets: Size = 50_000_000
    """Octets of one line that is too long, or of one chunk that was refused, after which the session ends."""


class Timeouts(Section):
    """Time limits of every listener."""

    command: Duration = 300.0
    """Waiting for the next command (RFC 5321 4.5.3.2.7: at least 5 minutes)."""
    data: Duration = 300.0
    """Waiting for the next part of a message (RFC 5321 4.5.3.2.5: 3 minutes)."""
    message: Duration = 3600.0
    """A whole message, from DATA to its end; 0 for no limit."""
    session: Duration = 0.0
    """A whole session; 0 for no limit."""
    tls_handshake: Duration = 30.0
    """The TLS handshake."""
    proxy: Duration = 5.0
    """Waiting for the PROXY header."""
    retirement: Duration = 3600.0
    """How long transactions may go on with the old configuration after a reload, before they are drained."""
    drain: Duration = 30.0
    """How long transactions may go on after the service was told to stop."""


class SpoolOptions(Section):
    """Where messages are kept while they are received."""

    directory: File | None = None
    """The folder for messages that are too large for memory; the system's folder for temporary files without it."""
    memory: Size = 1_048_576
    """Up to which size a message stays in memory."""
    memory_total: Size = 268_435_456
    """What messages may take in memory together, in each worker; above it all but small ones go to files."""


class LogOptions(Section):
    """The log, on standard error."""

    level: LogLevel = LogLevel.INFO
    """The least important lines: debug, info, warning or error."""
    format: LogFormat = LogFormat.AUTO
    """json, text, or auto: text on a terminal and json elsewhere."""
    waiting: Size = 4_000_000
    """How much may wait for a slow reader of standard error, in each process; what comes above it is lost and counted.
    Lines below `warning` use half of it."""
    client_lines: Count = 60
    """Lines a minute that one client (an IPv4 address, an IPv6 /64) may cause below `warning`, in each worker; those
    above are counted, and the next line says how many. 0 for no limit."""


class ExceptionEntry(Section):
    """Keeps one policy from running for some mail. All criteria that are given must hold, and one must be given."""

    policy: str
    """The policy's id."""
    client: NetworkField | None = None
    """The client's network or address."""
    sender: AddressPattern | None = None
    """The reverse-path: `user@example.com`, `@example.com`, or `<>`."""
    recipient: AddressPattern | None = None
    """The recipient: `user@example.com` or `@example.com`."""
    domain: DomainName | None = None
    """The recipient's domain."""
    until: Annotated[date, BeforeValidator(_day)] | None = None
    """The last day on which it holds, in UTC; without it, it holds until it is removed."""
    reason: str = Field(min_length=1)
    """Why; it stands in the decision record."""

    @model_validator(mode="after")
    def _has_criterion(self) -> Self:
        if self.client is None and self.sender is None and self.recipient is None and self.domain is None:
            raise ValueError("names no mail: give client, sender, recipient or domain")
        return self


class QuarantineOptions(Section):
    """Where mail is held that a policy's action `quarantine` keeps from its recipients."""

    backend: str
    """The backend that takes it, in place of the recipients' own."""


class FileOptions(Section):
    """The whole file."""

    hostname: HostName | None = None
    """The gateway's name in its greeting, its replies and Received fields; the machine's full name without it."""
    listeners: tuple[ListenerSection, ...] = Field(min_length=1)
    """Where to listen."""
    backends: dict[str, BackendOptions] = Field(default_factory=dict)
    """The mail servers behind the gateway, in groups by name."""
    default_backend: str | None = None
    """The backend of domains that name none, and of mail that trusted clients relay; the only one without it."""
    quarantine: QuarantineOptions | None = None
    """Where mail is held that is quarantined; without it no policy may have that action."""
    domains: dict[str, DomainSection] = Field(default_factory=dict)
    """The domains that are ours: `example.com`, or `*.example.com` for all below it."""
    policies: list[Any] | None = None
    """The chain: policies in the order in which they run, each a name, or a name and its settings."""
    exceptions: tuple[ExceptionEntry, ...] = ()
    """What is exempted from a policy."""
    mode: Mode = Mode.ENFORCE
    """`observe`: nothing is refused by any policy; records tell what would have been."""
    delay_reject: DelayReject = DelayReject.RCPT
    """`rcpt`: refusals at connect, HELO and MAIL wait for RCPT, so that records have the envelope; `none`: at once."""
    state: StateField = StateOptions()
    """What workers and machines count together: `memory:` (one worker) or a Redis, as a URL or a section."""
    dns: DnsOptions = DnsOptions()
    """Asking the DNS."""
    authentication_results: AuthenticationResultsOptions = AuthenticationResultsOptions()
    """The Authentication-Results field."""
    records: Annotated[RecordOptions, BeforeValidator(_records)] = RecordOptions(stdout=True)
    """Where decision records go: `{file: PATH}`, `{stdout: true}` or just `stdout`."""
    recipient_lists: RecipientListOptions = RecipientListOptions()
    """What keeps files of recipients from coming out empty by a slip."""
    limits: Limits = Limits()
    """Limits."""
    timeouts: Timeouts = Timeouts()
    """Time limits."""
    spool: SpoolOptions = SpoolOptions()
    """Where messages are kept while they are received."""
    log: LogOptions = LogOptions()
    """The log."""
    workers: Positive = 1
    """Processes that serve connections."""
    user: str | None = None
    """The user to become after the ports are bound."""
    group: str | None = None
    """The group to become; the user's own without it."""
    pid_file: File | None = None
    """A file for the supervisor's process id, locked while it runs."""
    runtime_folder: Annotated[File, AfterValidator(_short)] | None = None
    """A folder of the service's own, such as `/run/lychgate`, for the sockets by which commands ask the service."""
    metrics: Endpoint | None = None
    """Where Prometheus fetches numbers, such as `127.0.0.1:9893`; nowhere without it."""
