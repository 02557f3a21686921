"""The decision record: one for each transaction, and one for each connection that never came to one.

The record says what was asked, every check that ran, what it found, how long it took, which one decided, and what the
client was told. It is a published format: ``docs/decision-record.md`` describes it and ``lychgate schema record``
prints its JSON Schema, which is made from the classes here. A change that breaks a reader raises ``VERSION``.
"""

import json
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from gateway.form import Mend
from gateway.mailauth.results import AlignmentMode, ArcResult, Disposition, DkimResult, DmarcResult, SpfResult
from gateway.printable import printable_json
from gateway.resolver import NameStatus
from gateway.verdict import Check, Stage

VERSION: Final = 1

Result: TypeAlias = Literal[
    "accepted", "quarantined", "deferred", "rejected", "discarded", "disconnected", "aborted", "none"
]
"""How an attempt ended: accepted (the backend took it), quarantined (the quarantine backend did), deferred, rejected,
discarded, disconnected (by the gateway), aborted (the client went away or gave up), none (nothing was asked)."""


RecipientVerdict: TypeAlias = Literal["accepted", "deferred", "rejected", "discarded", "undecided"]


class ReplyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A reply: code, enhanced status code, text."""

    code: int
    enhanced: str | None
    text: str


class TlsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The client's TLS connection."""

    version: str
    cipher: str
    bits: int


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The client. ``name`` is confirmed by its own address records, else null, and ``name_status`` says why.

    ``name_status`` is null as long as the DNS has not answered, and where names are not looked up.
    """

    address: str
    port: int
    name: str | None
    name_status: NameStatus | None = None
    tls: TlsRecord | None
    login: str | None


class HeloRecord(msgspec.Struct, frozen=True, kw_only=True):
    """HELO or EHLO with its argument."""

    name: str
    extended: bool


class RecipientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One RCPT: what became of it, what the client was told, and who decided (a policy's id, ``backend`` or null)."""

    address: str
    verdict: RecipientVerdict
    decided_by: str | None
    reply: ReplyRecord | None


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The message: octets received and declared with SIZE, its Message-ID, names of fields that were not forwarded.

    ``mended`` says what was mended in its header, ``malformed`` why its header was refused (null if it was not).
    """

    size: int
    declared_size: int | None
    message_id: str | None
    removed: list[str]
    mended: list[Mend]
    malformed: str | None


class SpfRecord(msgspec.Struct, frozen=True, kw_only=True):
    """SPF: the results for the reverse-path and for the HELO name (null if not checked), and the domain of the first.

    With the null reverse-path the domain is the HELO name.
    """

    mail_from: SpfResult
    helo: SpfResult | None
    domain: str
    reason: str


class DkimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One DKIM signature: who signed with which key and algorithm, what it came to, and why."""

    domain: str
    selector: str
    algorithm: str
    result: DkimResult
    reason: str


class ArcRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The chain of ARC sets: its status, the oldest set whose signature still holds (0 for all), who sealed last."""

    result: ArcResult
    oldest_pass: int | None
    sealer: str | None
    reason: str


class AlignmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The domains by which SPF and DKIM pass in alignment, null where they do not, and the modes asked for."""

    spf: str | None
    dkim: str | None
    spf_mode: AlignmentMode
    dkim_mode: AlignmentMode


class DmarcRecord(msgspec.Struct, frozen=True, kw_only=True):
    """DMARC: its result, what the domain owner asks for and what that comes to here.

    ``domain`` is that of the From field, ``record`` the text of the DMARC record that stands at ``record_domain``.
    ``trusted_sealer`` names the ARC sealer whose word made a failure a pass.
    """

    result: DmarcResult
    policy: Disposition | None
    disposition: Disposition
    domain: str
    record_domain: str | None
    alignment: AlignmentRecord
    trusted_sealer: str | None
    record: str | None
    reason: str


class AuthenticationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of who sent the message; null where no policy looked."""

    spf: SpfRecord | None
    dkim: list[DkimRecord] | None
    arc: ArcRecord | None
    dmarc: DmarcRecord | None


class DecisionPart(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended, and who decided: ``policy`` is a policy's id, ``backend`` or ``smtp`` (the protocol)."""

    result: Result
    policy: str | None
    stage: Stage | None
    outcome: str | None


class BackendRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The server that took or refused the message, its last reply and, where it names one, its queue id."""

    group: str
    server: str | None
    reply: ReplyRecord | None
    queue_id: str | None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
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
    authentication: AuthenticationRecord | None
    checks: list[Check]
    decision: DecisionPart
    reply: ReplyRecord | None
    backend: BackendRecord | None


_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)  # evidence may hold what JSON lacks, such as an address


def encode(record: DecisionRecord) -> bytes:
    r"""The record as one line of JSON in UTF-8, without the line end, and with nothing in it that can't be seen.

    Octets of a client that are no UTF-8 become ``\xff``.
    """
    try:
        line = _ENCODER.encode(record)
    except (UnicodeEncodeError, TypeError):  # octets that came as surrogates (PEP 383), or keys that JSON lacks
        plain = msgspec.to_builtins(record, enc_hook=str, str_keys=True)
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=str)
    else:
        if line.isascii() and b"\x7f" not in line:  # as nearly all are: JSON escapes the other control characters
            return line
        text = line.decode()
    return printable_json(text).encode()


def schema() -> dict[str, Any]:
    """The JSON Schema of a record. What has a default while it is made is there all the same, but for what is unset."""
    definitions = msgspec.json.schema(DecisionRecord)["$defs"]
    left_out = {field.name for field in msgspec.structs.fields(Check) if field.default is msgspec.UNSET}
    for name, definition in definitions.items():
        if "properties" in definition:
            optional = left_out if name == Check.__name__ else set[str]()
            definition["required"] = [field for field in definition["properties"] if field not in optional]
            for field in definition["properties"].values():
                field.pop("default", None)
    root = definitions.pop(DecisionRecord.__name__)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


class RecordSink(Protocol):
    """Takes records. Writing never raises and never blocks: a fault is logged and counted, mail goes on."""

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        ...

    def write(self, record: DecisionRecord) -> None:
        """Take one record."""
        ...

    async def close(self) -> None:
        """Write what is left and release what is held."""
        ...
