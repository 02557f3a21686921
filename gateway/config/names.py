"""Names in the configuration: domains, addresses to match, endpoints to listen on.

Each function reads what an administrator wrote and gives the form that the rest of the gateway compares with: domains
in lower case as A-labels (RFC 5890), local parts in lower case. Raises ``ValueError`` with words for an
administrator.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final, Self

import idna
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.address import address_text
from gateway.tables.addresses import read_local_part

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)  # RFC 1035 2.3.1, and "_" because it occurs
_MAX_PORT: Final = 65535
NAME_SERVER_PORT: Final = 53
"""RFC 1035 4.2."""
_MAX_NAME: Final = 253  # RFC 1035 2.3.4: 255 octets on the wire


def domain_name(text: str) -> str:
    """A domain name in lower case, as A-labels, without the final dot.

    Raises:
        ValueError: It is none.
    """
    name = text.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True, std3_rules=True).decode("ascii")  # as ``smtp.grammar`` does
        except idna.IDNAError as error:
            raise ValueError(f"{text!r} is not a domain name") from error
    name = name.lower()
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r} is not a domain name")
    return name


def domain_pattern(text: str) -> str:
    """A domain name, or ``.example.com`` for every domain below one (also written ``*.example.com``).

    Raises:
        ValueError: It is neither.
    """
    for prefix in ("*.", "."):
        if text.startswith(prefix):
            return "." + domain_name(text.removeprefix(prefix))
    return domain_name(text)


def host_name(text: str) -> str:
    """The gateway's own name: a domain name as the administrator wrote it but in lower case.

    Raises:
        ValueError: It is none.
    """
    return domain_name(text)


def address_pattern(text: str) -> str:
    """An address: ``user@example.com``, ``@example.com`` for the whole domain, ``<>`` for the null reverse-path.

    Raises:
        ValueError: It is none of them.
    """
    if text == "<>":
        return text
    local_part, at, domain = text.rpartition("@")
    if not at:
        raise ValueError(f"{text!r} is not an address such as user@example.com, @example.com or <>")
    return f"{read_local_part(local_part, text) if local_part else ''}@{domain_name(domain)}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: ``0.0.0.0:25``, ``[::]:25``, ``localhost:2525``.

    Attributes:
        host: An IP address without brackets, or a name.
        port: The TCP port; 0 lets the system choose.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read an endpoint.

        Raises:
            ValueError: It is none.
        """
        if isinstance(value, cls):
            return value
        match = (
            re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s]+)):(\d{1,5})", value)
            if isinstance(value, str)
            else None
        )
        if match is None or int(match[3]) > _MAX_PORT:
            raise ValueError(f"{value!r} is not an address and port such as 0.0.0.0:25 or [::]:25")
        try:
            host = address_text(ipaddress.IPv6Address(match[1])) if match[1] else _host(match[2])
        except ValueError as error:
            raise ValueError(f"{value!r} is not an address and port such as 0.0.0.0:25 or [::]:25") from error
        return cls(host, int(match[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "string",
            "pattern": r"^(\[[^\]]+\]|[^:\[\]\s]+):\d{1,5}$",
            "examples": ["0.0.0.0:25", "[::]:25"],
        }


def parse_server(text: str) -> tuple[str, int]:
    """Read a name server's address and port: ``192.0.2.1``, ``192.0.2.1:53``, ``2001:db8::1``, ``[2001:db8::1]:53``.

    Raises:
        ValueError: It is none.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and rest == port):
            raise ValueError(f"{text!r} is not the address of a name server")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = address_text(ipaddress.ip_address(host))
        number = int(port) if port else NAME_SERVER_PORT
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not the address of a name server, such as 192.0.2.1 or [2001:db8::1]:53"
        ) from error
    if not 0 < number <= _MAX_PORT:
        raise ValueError(f"{text!r}: there is no port {number}")
    return address, number


def name_server(text: str) -> str:
    """The same, as text.

    Raises:
        ValueError: It is none.
    """
    parse_server(text)
    return text


def _host(text: str) -> str:
    """An IPv4 address or a name; what looks like an address must be one."""
    if re.fullmatch(r"[\d.]+", text):
        return str(ipaddress.IPv4Address(text))
    return domain_name(text)
