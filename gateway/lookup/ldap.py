"""The client's side of LDAP, without I/O: bind, StartTLS, search, unbind (RFC 4511).

Requests are octets made by functions; ``Decoder`` takes octets and gives the ``Message``s that they complete. Of what a
server sends only what a search for existence needs is read: kinds, result codes, diagnostic texts. Referrals are not
followed. Limits: a message may have ``MAX_MESSAGE`` octets.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gateway.lookup import ber

MAX_MESSAGE: Final = 1_048_576
"""Octets of one message: entries come without attributes, so that a few hundred are usual."""

START_TLS: Final = b"1.3.6.1.4.1.1466.20037"
"""The object identifier of StartTLS (RFC 4511 4.14.1)."""

_SPECIAL: Final = str.maketrans({
    character: f"\\{character}" for character in '"+,;<>\\'
} | {"\0": "\\00", "=": "\\3d", "#": "\\23", "\n": "\\0a", "\r": "\\0d"})  # fmt: skip


class Kind(IntEnum):
    """What a message is: the tag of its protocolOp."""

    BIND_RESPONSE = 0x61
    SEARCH_ENTRY = 0x64
    SEARCH_DONE = 0x65
    SEARCH_REFERENCE = 0x73
    EXTENDED_RESPONSE = 0x78
    INTERMEDIATE = 0x79


class ResultCode(IntEnum):
    """The result codes that mean something here (RFC 4511 appendix A)."""

    SUCCESS = 0
    TIME_LIMIT_EXCEEDED = 3
    SIZE_LIMIT_EXCEEDED = 4
    INVALID_ATTRIBUTE_SYNTAX = 21
    NO_SUCH_OBJECT = 32
    INVALID_DN_SYNTAX = 34


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the server.

    Attributes:
        id: The request it answers; 0 for none: the server is about to close the connection.
        kind: What it is.
        code: The result code, None for an entry, a reference or an intermediate response.
        text: The diagnostic message.
    """

    id: int
    kind: Kind
    code: int | None = None
    text: str = ""


def escaped_dn(value: str) -> str:
    """A value as it may stand in a distinguished name (RFC 4514 2.4)."""
    text = value.translate(_SPECIAL)
    if text.startswith(" "):
        text = "\\20" + text[1:]
    return text[:-1] + "\\20" if text.endswith(" ") else text


def bind_request(message_id: int, version: int, name: str, password: str) -> bytes:
    """A simple bind (RFC 4511 4.2)."""
    return _message(
        message_id,
        ber.element(0x60, ber.integer(version), ber.octets(name.encode()), ber.octets(password.encode(), 0x80)),
    )


def start_tls_request(message_id: int) -> bytes:
    """StartTLS (RFC 4511 4.14)."""
    return _message(message_id, ber.element(0x77, ber.octets(START_TLS, 0x80)))


def search_request(
    message_id: int, *, base: str, scope: int, dereference: int, seconds: int, encoded_filter: bytes
) -> bytes:
    """A search for one entry, of which only the name is sent (RFC 4511 4.5.1).

    Args:
        message_id: Its number.
        base: The entry where it begins.
        scope: 0 that entry, 1 those right below it, 2 the whole tree.
        dereference: Aliases: 0 never, 1 while searching, 2 finding the base, 3 always.
        seconds: How long the server may search.
        encoded_filter: See ``ldap_filter``.
    """
    return _message(
        message_id,
        ber.element(
            0x63,
            ber.octets(base.encode("utf-8", "surrogateescape")),
            ber.integer(scope, ber.ENUMERATED),
            ber.integer(dereference, ber.ENUMERATED),
            ber.integer(1),
            ber.integer(seconds),
            ber.boolean(True),
            encoded_filter,
            ber.element(ber.SEQUENCE, ber.octets(b"1.1")),  # no attributes (RFC 4511 4.5.1.8)
        ),
    )


def unbind_request(message_id: int) -> bytes:
    """The end (RFC 4511 4.3)."""
    return _message(message_id, b"\x42\x00")


def _message(message_id: int, operation: bytes) -> bytes:
    return ber.element(ber.SEQUENCE, ber.integer(message_id), operation)


class Decoder:
    """Takes the octets of a server."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands behind the last whole message."""
        return not self._buffer

    def feed(self, data: bytes) -> list[Message]:
        """Take octets; returns the messages that they complete.

        Raises:
            BerError: They are no messages of LDAP.
        """
        self._buffer += data
        found: list[Message] = []
        position = 0
        while position < len(self._buffer):
            if self._buffer[position] != ber.SEQUENCE:
                raise ber.BerError("what the server sends is not LDAP")
            size = ber.size_of(self._buffer, position)
            if size is None:
                break
            begin, end = size
            if end - position > MAX_MESSAGE:
                raise ber.BerError(f"a message of more than {MAX_MESSAGE} octets")
            if end > len(self._buffer):
                break
            found.append(_read(self._buffer[begin:end]))
            position = end
        self._buffer = self._buffer[position:]
        return found


def _read(content: bytes) -> Message:
    parts = list(ber.elements(content))
    if len(parts) < 2 or parts[0][0] != ber.INTEGER:  # noqa: PLR2004 - messageID and protocolOp (RFC 4511 4.1.1)
        raise ber.BerError("a message without an id or an operation")
    message_id = ber.number(parts[0][1])
    tag, operation = parts[1]
    try:
        kind = Kind(tag)
    except ValueError:
        raise ber.BerError(f"a response of the unknown kind {tag:#x}") from None
    if kind in {Kind.SEARCH_ENTRY, Kind.SEARCH_REFERENCE, Kind.INTERMEDIATE}:
        return Message(message_id, kind)
    result = list(ber.elements(operation))  # resultCode, matchedDN, diagnosticMessage (RFC 4511 4.1.9)
    if len(result) < 3 or result[0][0] != ber.ENUMERATED:  # noqa: PLR2004 - the three of LDAPResult
        raise ber.BerError("a result without a code")
    return Message(message_id, kind, ber.number(result[0][1]), result[2][1].decode("utf-8", "replace"))
