"""The options of one server group: where mail goes on, and how (``backends: {NAME: {...}}``).

A server is written ``host:port``, ``[2001:db8::1]:port``, ``unix:/path`` or ``mx:domain``; without a port it is 25,
for LMTP 24, with implicit TLS 465. Everything that waits has a time-out whose default is that of RFC 5321 4.5.3.2 or
shorter, because the gateway's client is waiting too. Relative paths start from the configuration's folder.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from gateway.address import address_text
from gateway.config.fields import File, Section, existing
from gateway.units import Duration

_HOST_NAME: Final = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)

_MAX_NAME: Final = 254  # octets of a domain name in text, with its final dot (RFC 1035 2.3.4)
_MAX_PORT: Final = 65535


class NextHopKind(StrEnum):
    """How a next hop is found."""

    HOST = "host"
    UNIX = "unix"
    MX = "mx"


@dataclass(frozen=True, slots=True)
class NextHop:
    """One entry of ``servers``.

    Attributes:
        kind: A host (name or address), a UNIX socket, or the MX hosts of a domain.
        target: The host, path or domain.
        port: The TCP port, None for the protocol's own.
    """

    kind: NextHopKind
    target: str
    port: int | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a next hop.

        Raises:
            ValueError: It is none.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a server such as 127.0.0.1:25, [::1]:25, mx:example.com or unix:/path")  # noqa: TRY004 - pydantic reports ValueError
        if value.startswith("unix:"):
            if not value[5:].startswith("/"):
                raise ValueError(f"{value!r}: the path of a socket is absolute, unix:/path")
            return cls(NextHopKind.UNIX, value[5:])
        kind, rest = (NextHopKind.MX, value[3:]) if value.startswith("mx:") else (NextHopKind.HOST, value)
        match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d{1,5}))?", rest, re.ASCII)
        if match is None:
            raise ValueError(f"{value!r} is not host:port, [IPv6 address]:port, mx:domain or unix:/path")
        if match[1] is not None:
            if kind is NextHopKind.MX:
                raise ValueError(f"{value!r}: an address has no MX")
            target = address_text(IPv6Address(match[1]))
        else:
            target = match[2]
            if len(target) > _MAX_NAME or _HOST_NAME.fullmatch(target) is None:
                raise ValueError(f"{value!r}: {target!r} is not a host name or an IP address")
        port = None if match[3] is None else int(match[3])
        if port is not None and not 0 < port <= _MAX_PORT:
            raise ValueError(f"{value!r}: {port} is not a port")
        return cls(kind, target.removesuffix("."), port)

    def __str__(self) -> str:
        if self.kind is NextHopKind.UNIX:
            return f"unix:{self.target}"
        host = f"[{self.target}]" if ":" in self.target else self.target
        prefix = "mx:" if self.kind is NextHopKind.MX else ""
        return prefix + host + ("" if self.port is None else f":{self.port}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "examples": ["127.0.0.1:10025", "[::1]:10025", "mx:example.com", "unix:/run/lmtp"]}


class BackendProtocol(StrEnum):
    """What the servers speak."""

    SMTP = "smtp"
    LMTP = "lmtp"


class ClientInfo(StrEnum):
    """By which Postfix extension a server is told who the client is."""

    NONE = "none"
    XCLIENT = "xclient"
    XFORWARD = "xforward"


class BackendTlsMode(StrEnum):
    """How far TLS to a server must come."""

    OFF = "off"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    VERIFIED = "verified"


class Order(StrEnum):
    """Which server a message tries first."""

    FAILOVER = "failover"
    ROUND_ROBIN = "round_robin"


class BackendTls(Section):
    """TLS to the servers, by STARTTLS (RFC 3207) or from the first octet."""

    mode: BackendTlsMode = BackendTlsMode.OFF
    """off; opportunistic (where offered, not verified); required (not verified); verified (certificate and name)."""
    implicit: bool = False
    """TLS from the first octet (RFC 8314) in place of STARTTLS, for required and verified; the port is 465 then."""
    ca: Annotated[File, AfterValidator(existing)] | None = None
    """PEM file of the authorities to trust for ``verified``; the system's without it."""
    name: str | None = None
    """The name that the certificate must show, where it is not the server's."""

    @model_validator(mode="after")
    def _no_way_back(self) -> Self:
        if self.implicit and self.mode not in {BackendTlsMode.REQUIRED, BackendTlsMode.VERIFIED}:
            raise ValueError(f"implicit goes with mode required or verified, and not with {self.mode}")
        return self


class BackendTimeouts(Section):
    """How long a server may take."""

    connect: Duration = 5.0
    """For the TCP connection and the TLS handshake."""
    greeting: Duration = 30.0
    """For its greeting."""
    command: Duration = 60.0
    """For the reply to a command."""
    data_block: Duration = 180.0
    """For taking the next part of a message (RFC 5321 4.5.3.2.5: 3 minutes)."""
    end_of_data: Duration = 600.0
    """For the reply to the end of data (RFC 5321 4.5.3.2.6: 10 minutes)."""


class BackendHealth(Section):
    """When a server counts as down, and when it is asked again."""

    interval: Duration = 10.0
    """How often a server is asked that nothing was heard of; a server that is down is asked sooner at first."""
    failures: int = Field(default=2, ge=1)
    """How many faults in a row make it down."""


class BackendOptions(Section):
    """One group of servers that take the same mail."""

    servers: tuple[NextHop, ...] = Field(min_length=1)
    """``host:port``, ``[::1]:port``, ``mx:domain`` or ``unix:/path``; the first that is up takes the mail."""
    order: Order = Order.FAILOVER
    """failover: in the order written; round_robin: each message begins at the next one."""
    protocol: BackendProtocol = BackendProtocol.SMTP
    """smtp or lmtp."""
    client_info: ClientInfo = ClientInfo.NONE
    """Tell the server who the client is: xclient (it acts as if the client had connected) or xforward (for its log)."""
    connections: int = Field(default=50, ge=1)
    """The most connections to one server, in each worker."""
    idle: Duration = 60.0
    """How long an unused connection is kept."""
    messages: int = Field(default=100, ge=1)
    """The most messages over one connection."""
    queue: Duration = 5.0
    """How long a message waits for a free connection."""
    tls: BackendTls = BackendTls()
    """TLS to the servers."""
    timeouts: BackendTimeouts = BackendTimeouts()
    """Time limits."""
    health: BackendHealth = BackendHealth()
    """Watching the servers."""

    @property
    def port(self) -> int:
        """The port of servers that name none."""
        if self.tls.implicit:
            return 465  # RFC 8314 7.3
        return 24 if self.protocol is BackendProtocol.LMTP else 25  # RFC 2033 5: never 25

    @model_validator(mode="after")
    def _name_for_sockets(self) -> Self:
        if self.tls.mode is BackendTlsMode.VERIFIED and self.tls.name is None:
            for server in self.servers:
                if server.kind is NextHopKind.UNIX:
                    raise ValueError(f"tls mode verified with {server} needs tls.name")
        return self
