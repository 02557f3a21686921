"""The decision record: one for each transaction, and one for each connection that never came to one.

The record says what was asked, every check that ran, what it found, how long it took, which one decided, and what the
client was told. It is a published format: ``docs/decision-record.md`` describes it and ``lychgate schema record``
prints its JSON Schema, which is made from the classes here. A change that breaks a reader raises ``VERSION``.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from gateway.verdict import Action, Stage

VERSION: Final = 1

Result: TypeAlias = Literal["accepted", "deferred", "rejected", "discarded", "disconnected", "aborted", "none"]
"""How an attempt ended: accepted (the backend took it), deferred, rejected, discarded, disconnected (by the gateway),
aborted (the client went away or gave up), none (nothing was asked)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRecord:
    """A reply: code, enhanced status code, text."""

    code: int
    enhanced: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRecord:
    """The client's TLS connection."""

    version: str
    cipher: str
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRecord:
    """The client. ``name`` is confirmed by its own address records, null if unknown or not looked up."""

    address: str
    port: int
    name: str | None
    tls: TlsRecord | None
    login: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeloRecord:
    """HELO or EHLO with its argument."""

    name: str
    extended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientRecord:
    """One RCPT: what became of it, what the client was told, and who decided (a policy's id, ``backend`` or null)."""

    address: str
    verdict: Literal["accepted", "deferred", "rejected", "discarded", "undecided"]
    decided_by: str | None
    reply: ReplyRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRecord:
    """One policy's run. ``duration_us`` is in microseconds; with ``observed`` the action was not applied."""

    policy: str
    stage: Stage
    recipient: str | None
    outcome: str | None
    action: Action
    observed: bool
    exempted: str | None
    evidence: dict[str, Any]
    duration_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """The message: octets received, octets declared with SIZE, and its Message-ID field."""

    size: int
    declared_size: int | None
    message_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPart:
    """How it ended, and who decided: ``policy`` is a policy's id, ``backend`` or ``smtp`` (the protocol)."""

    result: Result
    policy: str | None
    stage: Stage | None
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRecord:
    """The server that took or refused the message, its last reply and, where it names one, its queue id."""

    group: str
    server: str | None
    reply: ReplyRecord | None
    queue_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision. The time is ISO 8601 in UTC; ``reverse_path`` is "" for the null reverse-path, null before MAIL."""

    version: int
    id: str
    kind: Literal["transaction", "connection"]
    session_id: str
    gateway: str
    listener: str
    time: str
    duration_ms: float
    client: ClientRecord
    helo: HeloRecord | None
    reverse_path: str | None
    recipients: list[RecipientRecord]
    message: MessageRecord | None
    checks: list[CheckRecord]
    decision: DecisionPart
    reply: ReplyRecord | None
    backend: BackendRecord | None


_ADAPTER: Final = TypeAdapter(DecisionRecord)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def encode(record: DecisionRecord) -> bytes:
    r"""The record as one line of JSON in UTF-8, without the line end; other octets of a client become ``\xff``."""
    try:
        return _ADAPTER.dump_json(record)
    except PydanticSerializationError:  # it holds octets that came as surrogates (PEP 383), or evidence that JSON lacks
        text = json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":"), default=str)
        return _SURROGATE.sub(lambda match: f"\\\\x{ord(match[0]) & 0xFF:02x}", text).encode()


def schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    return _ADAPTER.json_schema(mode="serialization") | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


class RecordSink(Protocol):
    """Takes records. Writing never raises and never blocks: a fault is logged and counted, mail goes on."""

    def write(self, record: DecisionRecord) -> None:
        """Take one record."""
        ...

    async def close(self) -> None:
        """Write what is left and release what is held."""
        ...
