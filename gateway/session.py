"""The central types: a connection's ``Session``, its ``Transaction``s, their ``Recipient``s and the ``Message``.

A ``Session`` lives as long as the connection, a ``Transaction`` from MAIL to RSET or the end of data (RFC 5321 3.3).
They hold what is known and what was decided; doors fill them in, policies read them, and the decision record is made
of them. What one policy finds and another uses is a typed field here, never an entry in a bag. Those that are made for
each message are msgspec structs, which C code makes.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from gateway.address import address_text
from gateway.form import HeaderSection, Mend
from gateway.header import HeaderField, field_at
from gateway.mailauth.author import Author
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.results import Arc, DkimSignature, Dmarc, Spf
from gateway.resolver import ClientName, NameStatus, Resolver
from gateway.smtp.path import Mailbox, Parameter, ReversePath
from gateway.smtp.reply import Reply
from gateway.state import Reservation
from gateway.verdict import BACKEND, Check, Decider, Verdict

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsInfo:
    """The TLS connection of a client (RFC 8314).

    Attributes:
        version: Such as ``TLSv1.3``.
        cipher: The cipher suite's OpenSSL name.
        bits: The secret bits of the cipher.
    """

    version: str
    cipher: str
    bits: int


class RecipientSource(Protocol):
    """Knows the recipients of a domain."""

    async def find(self, local_part: str, domain: str) -> bool:
        """Whether the address exists.

        Raises:
            Exception: It can't be told now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain that is ours: one entry of ``domains:``.

    Attributes:
        name: In lower case, A-labels.
        backend: The name of the server group that takes its mail.
        recipients: What knows its addresses; None when all are taken (the backend still has its say).
        subaddress_separators: Characters that part a user from a detail in the local part, such as ``+``.
        message_size: The largest message in octets, or None for the gateway's.
    """

    name: str
    backend: str
    recipients: RecipientSource | None = None
    subaddress_separators: str = ""
    message_size: int | None = None


def without_detail(local_part: str, separators: str) -> str | None:
    """The user of a subaddress (RFC 5233): ``user`` of ``user+detail``; None where there is no detail.

    As with Postfix's ``recipient_delimiter`` the first separator counts, unless nothing stands before it.
    """
    ends = [end for end in map(local_part.find, separators) if end > 0]
    return local_part[: min(ends)] if ends else None


class Session(msgspec.Struct, kw_only=True, eq=False):
    """One connection.

    Attributes:
        id: Unique over all gateways, sorts by time; transactions append ``.1``, ``.2`` and so on.
        listener: The listener's address as configured, for the record.
        client_address: The client's own address (behind a proxy: as the PROXY header says).
        client_port: Its port, 0 if unknown.
        server_address: The address and port that the client connected to.
        started: UNIX time in seconds.
        resolver: Asks the DNS for this session; bounds its questions and their time.
        find_client_name: Looks up the name of an address.
        client_name: What is known of the name so far, without asking.
        helo_name: The argument of HELO or EHLO, None before it.
        extended: Whether the client said EHLO.
        tls: The TLS connection, None without one.
        login: The name the client authenticated with, None before that.
        transactions: How many were begun.
        messages: How many the backend accepted.
        errors: Protocol errors of the client: unknown, malformed and out-of-order commands.
        refusals: Recipients, senders and messages that were refused.
        checks: What the policies at connect and helo found.
    """

    id: str
    listener: str
    client_address: Address
    client_port: int
    server_address: str
    started: float
    resolver: Resolver
    find_client_name: Callable[[str], Awaitable[ClientName]]
    client_name: ClientName | None = None
    helo_name: str | None = None
    extended: bool = False
    tls: TlsInfo | None = None
    login: str | None = None
    transactions: int = 0
    messages: int = 0
    errors: int = 0
    refusals: int = 0
    checks: list[Check] = []

    async def resolve_client_name(self) -> ClientName:
        """The client's name; looked up once, on the first use, and then remembered."""
        if self.client_name is None:
            self.client_name = await self.find_client_name(address_text(self.client_address))
        return self.client_name

    @property
    def has_told_name(self) -> bool:
        """Whether the DNS has said what the client's name is, or that it has none; not if it may have one yet."""
        return self.client_name is not None and self.client_name.status is not NameStatus.TEMPORARY

    @property
    def protocol(self) -> str:
        """The ``with`` word of a Received field and XCLIENT's basis: SMTP, ESMTP, ESMTPS, ESMTPSA (RFC 3848)."""
        if not self.extended:
            return "SMTP"
        return "ESMTP" + ("S" if self.tls is not None else "") + ("A" if self.login is not None else "")


_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no letter that is taken for another
_PAIRS: Final = [first + second for first in _DIGITS for second in _DIGITS]


def new_id(now: float) -> str:
    """An id of 14 characters: sorts by time (9 for milliseconds), unique by 25 random bits in the millisecond."""
    time = int(now * 1000)
    chance = random.getrandbits(25)  # unique, no secret
    unique = _PAIRS[chance >> 15] + _PAIRS[(chance >> 5) & 1023] + _DIGITS[chance & 31]
    return _first(time >> 10) + _PAIRS[time & 1023] + unique


@lru_cache(maxsize=4)
def _first(time: int) -> str:
    """The first 7 characters of an id, the same for a second: 35 bits of time."""
    return _DIGITS[time >> 30 & 31] + "".join([_PAIRS[time >> shift & 1023] for shift in (20, 10, 0)])


class RecipientState(StrEnum):
    """What became of a recipient."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    DISCARDED = "discarded"


_ACCEPTED: Final = RecipientState.ACCEPTED  # members of an enum are slow to find before Python 3.12


class Recipient(msgspec.Struct, kw_only=True, eq=False):
    """One RCPT command.

    Attributes:
        path: The forward-path.
        parameters: NOTIFY, ORCPT and the like, forwarded unchanged.
        domain: The domain's settings if it is one of ours, None otherwise.
        state: What became of it, None while undecided.
        reply: What the client was told.
        verdict: The chain's verdict that refused it, None when accepted or refused by the backend.
    """

    path: Mailbox
    parameters: tuple[Parameter, ...] = ()
    domain: Domain | None = None
    state: RecipientState | None = None
    reply: Reply | None = None
    verdict: Verdict | None = None

    @property
    def decided_by(self) -> Decider | None:
        """Who refused it; None when it was not refused."""
        if self.state is None or self.state is _ACCEPTED:
            return None
        return BACKEND if self.verdict is None else self.verdict.by


class Content(Protocol):
    """The octets of a message as received, dot-stuffing removed, every line but perhaps the last ended by CRLF."""

    size: int

    @property
    def ends_with_newline(self) -> bool:
        """Whether the last line has its CRLF too, as always with DATA; a BDAT transfer may end anywhere (RFC 3030)."""
        ...

    @property
    def parts(self) -> Sequence[bytes] | None:
        """The octets, where all of them are in memory: then nobody has to wait for them."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The octets from the start, in chunks."""
        ...


class _Reformed:
    """The content of a message, its header section as it is forwarded."""

    def __init__(self, content: Content, section: HeaderSection) -> None:
        self._content = content
        self._skipped = len(section.received)
        self._forwarded = section.forwarded
        self.size = content.size - self._skipped + len(self._forwarded)
        # Without anything after the header section, its own end counts, which may have been mended.
        self.ends_with_newline = content.ends_with_newline or (
            content.size == self._skipped and self._forwarded.endswith(b"\r\n")
        )

    @property
    def parts(self) -> Sequence[bytes] | None:
        parts = self._content.parts
        return None if parts is None else [self._forwarded, b"".join(parts)[self._skipped :]]

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._forwarded
        skip = self._skipped
        async for chunk in self._content.chunks():
            if skip < len(chunk):
                yield chunk[skip:]
            skip = max(0, skip - len(chunk))


class Message:
    """A received message.

    Policies read it as it is forwarded: its header is the one that the backend and the reader of the mail see.

    Attributes:
        content: Its octets, exactly as received.
        section: Its header section, with what was mended in it and which fields were removed.
        body_hashes: The body's hashes, made while it came; None where no policy wants them.
        forwarded: What is forwarded below the added fields: the content, but for what was mended and removed.
    """

    __slots__ = ("body_hashes", "content", "forwarded", "section")

    def __init__(self, content: Content, section: HeaderSection, body_hashes: BodyHashes | None = None) -> None:
        self.content = content
        self.section = section
        self.body_hashes = body_hashes
        self.forwarded: Content = _Reformed(content, section) if section.is_changed else content

    @property
    def size(self) -> int:
        """Octets as received."""
        return self.content.size

    @property
    def header(self) -> bytes:
        """The octets of the header section, the empty line not included."""
        return self.section.octets

    @property
    def fields(self) -> Sequence[HeaderField]:
        """The header fields in order."""
        return self.section.fields

    @property
    def message_id(self) -> str | None:
        """The first Message-ID field's value, None without one; found without reading all fields, for every record."""
        start = (b"\n" + self.header.lower()).find(b"\nmessage-id:")
        field = field_at(self.header, start) if start >= 0 else None
        return None if field is None else field.value.decode("utf-8", "replace")

    def all(self, name: str) -> list[HeaderField]:
        """The fields of a name, in any case."""
        wanted = name.lower()
        return [header_field for header_field in self.fields if header_field.name == wanted]


class Changes(msgspec.Struct, frozen=True):
    """What the gateway changes in a message. Each door applies it in its own way.

    Attributes:
        on_top: Header fields to put on top, in order, each with its CRLF.
        removed: Fields of the received header that are not forwarded.
        mended: What was mended in it; see ``Message.forwarded``.
    """

    on_top: list[bytes]
    removed: Sequence[HeaderField] = ()
    mended: Sequence[Mend] = ()


class Authentication(msgspec.Struct, kw_only=True, eq=False):
    """What policies found about who sent the message, for policies after them, Authentication-Results and the record.

    Policies write their own field. One that has begun and could not finish leaves a temperror, never nothing.

    Attributes:
        spf: What SPF found; like the following, None where no policy looked.
        dkim: What was found of each signature; empty where there is none.
        arc: What was found of the chain of ARC sets.
        author: Who the From field says that it is.
        dmarc: What DMARC found.
    """

    spf: Spf | None = None
    dkim: tuple[DkimSignature, ...] | None = None
    arc: Arc | None = None
    author: Author | None = None
    dmarc: Dmarc | None = None

    def copy(self) -> "Authentication":
        """The same, to be changed apart."""
        return copy(self)

    def differs_from(self, other: "Authentication") -> dict[str, Any]:
        """The fields that are not those of another, with their values here."""
        return {
            name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not getattr(other, name)
        }

    def take(self, fields: Mapping[str, Any]) -> None:
        """Change these fields."""
        for name, value in fields.items():
            setattr(self, name, value)


class Transaction(msgspec.Struct, kw_only=True, eq=False):
    """One mail transaction, from MAIL to RSET or the end of data.

    Attributes:
        id: The session's id, a dot and the number of the transaction in it: the reference that clients are shown.
        session: The session it belongs to.
        reverse_path: The sender.
        parameters: SIZE, BODY, RET and the like, forwarded unchanged.
        started: UNIX time in seconds.
        recipients: Every RCPT with its state, refused ones too.
        message: The message once its data has ended, None before.
        checks: What the policies found from MAIL on.
        authentication: What policies found about who sent it. Policies of the early stages may have other options for a
            recipient's domain: from RCPT on this is what holds for the recipient that is looked at, and after RCPT for
            those that were accepted, who share the transaction for that.
        reservations: What was counted in advance, to be given back if the mail does not come through.
    """

    id: str
    session: Session
    reverse_path: ReversePath
    parameters: tuple[Parameter, ...]
    started: float
    recipients: list[Recipient] = []
    message: Message | None = None
    checks: list[Check] = []
    authentication: Authentication = msgspec.field(default_factory=Authentication)
    reservations: list[Reservation] = []

    @property
    def accepted(self) -> list[Recipient]:
        """The recipients to forward the message to."""
        return [recipient for recipient in self.recipients if recipient.state is _ACCEPTED]

    @property
    def declared_size(self) -> int | None:
        """The octets that SIZE declared (RFC 1870), None without it."""
        for parameter in self.parameters:
            if parameter.keyword == "SIZE" and parameter.value is not None:
                return int(parameter.value)
        return None


Domains: TypeAlias = Mapping[str, Domain]
