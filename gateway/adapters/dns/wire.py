"""DNS messages: questions written, answers read (RFC 1035 4, RFC 6891 for EDNS), no I/O.

What is read comes from the network, so anything may stand in it. ``read`` says of any octets what they are, raises
nothing else than ``MalformedError`` and ``StrangerError``, and takes time linear in their number: compression pointers
lead backwards only (RFC 1035 4.1.4) and what they lead to is read once, records are counted by what fits into the
message, and a chain of aliases has an end. Only records of the name that was asked for, or of the names its aliases
lead to, count.

Only a whole and credible answer is an answer. A message whose counts promise more than it holds is malformed. The reply
code is read with the upper bits that EDNS adds to it (RFC 6891 6.1.3). Records that are all about other names, a
referral, and NXDOMAIN together with the records that were asked for say nothing. A server that gives an alias, and
neither its target's records nor an SOA, has told half: the target is to be asked for.

It reads the types of ``RecordType`` and passes over all others. Names come out in lower case.
"""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from socket import AF_INET6, inet_ntoa, inet_ntop
from typing import Final, NamedTuple

from gateway.resolver import Answer, RecordType, Status

PAYLOAD: Final = 1232
"""The UDP payload in octets that EDNS announces: it fits IPv6's smallest packet (RFC 8200 5)."""
MAX_ALIASES: Final = 16
"""CNAMEs that are followed in one answer; recursive servers stop at 8 to 17."""

_MAX_NAME: Final = 255  # octets with their lengths and the root's (RFC 1035 2.3.4)
_MAX_LABEL: Final = 63
_MAX_OCTET: Final = 255
_POINTER: Final = 0xC0  # the two bits of a compression pointer (RFC 1035 4.1.4)
_MAX_TTL: Final = 0x7FFF_FFFF  # a TTL above is to be read as 0 (RFC 2181 8)
_MIN_SOA: Final = 22  # octets: two root names and five integers
_HEADER_SIZE: Final = 12
_TO_QUESTION: Final = b"\xc0\x0c"  # a pointer to the name in the question, as nearly every record begins
_IN: Final = 1

_HEADER: Final = struct.Struct("!HHHHHH")
_FIXED: Final = struct.Struct("!HHIH")  # type, class, TTL, length
_ASKING: Final = 0x0100  # RD: recursion desired
_OPT: Final = struct.pack("!BHHIH", 0, 41, PAYLOAD, 0, 0)

_QR: Final = 0x8000
_OPCODE: Final = 0x7800
_TC: Final = 0x0200
_NOERROR, _FORMERR, _SERVFAIL, _NXDOMAIN, _NOTIMP, _REFUSED = range(6)
_RCODES: Final = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
_BADVERS: Final = 16  # an extended reply code (RFC 6891 9)
_OPT_OWNER: Final = b"\0\0\x29"  # the root, and the type OPT
_OPT_RCODE: Final = 5  # octets from its begin to the upper bits of the reply code: owner, type, class

_CODES: Final[Mapping[RecordType, int]] = {
    RecordType.A: 1,
    RecordType.NS: 2,
    RecordType.CNAME: 5,
    RecordType.SOA: 6,
    RecordType.PTR: 12,
    RecordType.MX: 15,
    RecordType.TXT: 16,
    RecordType.AAAA: 28,
}
_TAILS: Final = {each: struct.pack("!HH", code, _IN) for each, code in _CODES.items()}
_CNAME: Final = _CODES[RecordType.CNAME]
_SOA: Final = _CODES[RecordType.SOA]
_NS: Final = _CODES[RecordType.NS]

_ESCAPED: Final = re.compile(rb"\\(?:(\d{3})|(.))|(\.)|([^\\.]+)|(\\)", re.DOTALL)
_PLAIN_LABEL: Final = re.compile(rb"[a-z0-9_/*-]*")
_SPECIAL: Final = frozenset(b'"().;\\@$')  # escaped by a backslash in text (RFC 1035 5.1, and as dnspython does)


class MalformedError(ValueError):
    """The message answers the question, but can't be read."""


class StrangerError(ValueError):
    """The message is no answer to the question."""


class Kind(Enum):
    """What a server's message comes to."""

    ANSWER = auto()
    TRUNCATED = auto()
    """To be asked for over TCP."""
    NO_EDNS = auto()
    """The server may not know EDNS, or not this version: to be asked without it (RFC 6891 7)."""
    ALIAS = auto()
    """The name is an alias, and nothing is said of its target: the target is to be asked for."""
    FAILURE = auto()
    """The server can't tell."""


class Reply(NamedTuple):
    """What a server said.

    Attributes:
        kind: What it comes to.
        answer: With ``ANSWER``: found, no data or NXDOMAIN. Its ``ttl`` is the least of the records and the aliases
            that led there, or of a negative answer what RFC 2308 5 says; 0 also where there is no SOA.
        problem: With ``FAILURE`` why, in a word.
        question: With ``ALIAS`` the question for its target, as ``encode_question`` makes it.
        ttl: With ``ALIAS`` the least of those of the aliases, in seconds.
    """

    kind: Kind
    answer: Answer | None = None
    problem: str = ""
    question: bytes = b""
    ttl: int = 0


class _Record(NamedTuple):
    """A record of class IN, and where its data stands."""

    owner: bytes
    code: int
    ttl: int
    start: int
    length: int


def encode_question(name: str, record_type: RecordType) -> bytes:
    r"""A question as it stands in a message.

    Args:
        name: In lower case, without the final dot, as in zone files: ``\.`` is a dot within a label, ``\DDD`` an octet
            (RFC 1035 5.1). The root is empty.
        record_type: Its type.

    Raises:
        ValueError: The DNS can't hold the name.
    """
    octets = name.encode("ascii")
    labels = _unescaped(octets) if b"\\" in octets else octets.split(b".") if octets else []
    parts = []
    for label in labels:
        if not 0 < len(label) <= _MAX_LABEL:
            raise ValueError(f"a label of {len(label)} octets")
        parts.append(bytes((len(label),)))
        parts.append(label)
    parts.append(b"\0")
    wire = b"".join(parts)
    if len(wire) > _MAX_NAME:
        raise ValueError(f"a name of {len(wire)} octets")
    return wire + _TAILS[record_type]


def _unescaped(octets: bytes) -> list[bytes]:
    labels = [b""]
    for number, escaped, dot, plain, stray in _ESCAPED.findall(octets):
        if dot:
            labels.append(b"")
        elif stray or (number and int(number) > _MAX_OCTET):
            raise ValueError("a backslash that escapes nothing")
        else:
            labels[-1] += bytes((int(number),)).lower() if number else escaped or plain
    return labels


def encode_query(number: int, question: bytes, *, edns: bool = True) -> bytes:
    """A query: one question for a recursive server.

    Args:
        number: Its id, by which the answer is known.
        question: As ``encode_question`` made it.
        edns: Whether EDNS announces the payload.
    """
    header = _HEADER.pack(number, _ASKING, 1, 0, 0, 1 if edns else 0)
    return header + question + _OPT if edns else header + question


def read(message: bytes, number: int, question: bytes, record_type: RecordType) -> Reply:
    """Read what came as the answer to a query.

    Args:
        message: The octets.
        number: The query's id.
        question: The query's question.
        record_type: What was asked for.

    Raises:
        StrangerError: It is no answer to this query.
        MalformedError: It is, but breaks off, or names or data in it are impossible.
    """
    if len(message) < _HEADER_SIZE:
        raise StrangerError("too short")
    found, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    rcode = flags & 0xF
    if found != number or flags & (_QR | _OPCODE) != _QR:
        raise StrangerError("another id, or no answer")
    end = _HEADER_SIZE + len(question)
    # The types and the class that are asked for have no octet that lower() changes.
    if questions != 1 or message[_HEADER_SIZE:end].lower() != question:
        if questions or rcode not in {_FORMERR, _SERVFAIL, _NOTIMP, _REFUSED}:
            raise StrangerError("another question")
        return _failure(rcode)  # a server that could not read the query may not repeat it
    if flags & _TC:
        return Reply(Kind.TRUNCATED)
    if rcode not in {_NOERROR, _NXDOMAIN}:
        return _failure(rcode)
    try:
        return _Reading(message, question[:-4], record_type).reply(rcode, answers, authorities, additional, end)
    except (IndexError, struct.error):
        raise MalformedError("it breaks off") from None


def _failure(rcode: int) -> Reply:
    if rcode in {_FORMERR, _NOTIMP, _BADVERS}:
        return Reply(Kind.NO_EDNS, problem="BADVERS" if rcode == _BADVERS else _RCODES[rcode])
    return Reply(Kind.FAILURE, problem=_RCODES[rcode] if rcode < len(_RCODES) else f"RCODE {rcode}")


class _Reading:
    """One message that is read. An ``IndexError`` or ``struct.error`` means that it breaks off."""

    __slots__ = ("_code", "_known", "_message", "_name", "_record_type")

    def __init__(self, message: bytes, name: bytes, record_type: RecordType) -> None:
        self._message = message
        self._name = name
        self._record_type = record_type
        self._code = _CODES[record_type]
        self._known = {_HEADER_SIZE: name}

    def reply(self, rcode: int, answers: int, authorities: int, additional: int, position: int) -> Reply:
        """What the message says."""
        records, position = self._records(position, answers, self._code, _CNAME)
        owner, found, ttl = self._follow(records)
        authority: list[_Record] = []
        if authorities:
            authority, position = self._records(position, authorities, _SOA, _NS)
        if additional:
            upper = self._upper_rcode(position, additional)
            if upper:
                return _failure(upper << 4 | rcode)
        if found:
            if rcode == _NXDOMAIN:
                return Reply(Kind.FAILURE, problem="NXDOMAIN with the records that were asked for")
            text = _TEXTS[self._record_type]
            texts = [text(self, record.start, record.length) for record in found]
            if len(texts) > 1:
                texts = list(dict.fromkeys(texts))
            return Reply(Kind.ANSWER, Answer(Status.FOUND, tuple(texts), ttl))
        if answers and owner is self._name:
            return Reply(Kind.FAILURE, problem="records that were not asked for")
        return self._negative(rcode, owner, ttl, authority)

    def _negative(self, rcode: int, owner: bytes, ttl: int, authority: Sequence[_Record]) -> Reply:
        """What it says without a record that was asked for: ``owner`` is where the aliases end, ``ttl`` theirs."""
        negative_ttl = self._negative_ttl(authority)
        if rcode == _NXDOMAIN:
            return Reply(Kind.ANSWER, Answer(Status.NXDOMAIN, (), min(ttl, negative_ttl or 0)))
        if negative_ttl is not None:
            return Reply(Kind.ANSWER, Answer(Status.NO_DATA, (), min(ttl, negative_ttl)))
        if owner is not self._name:
            target = owner + _TAILS[self._record_type]
            return Reply(Kind.ALIAS, problem="aliases without an end", question=target, ttl=ttl)
        if authority:
            return Reply(Kind.FAILURE, problem="a referral to other servers")  # RFC 2308 2.2: no NS without an SOA
        return Reply(Kind.ANSWER, Answer(Status.NO_DATA, (), 0))

    def _upper_rcode(self, position: int, additional: int) -> int:
        """The upper eight bits of the reply code, which stand in the OPT record (RFC 6891 6.1.3); 0 without one."""
        message = self._message
        upper = 0
        for _ in range(additional):
            if message.startswith(_OPT_OWNER, position):
                upper = upper or message[position + _OPT_RCODE]
                position += 1
            elif message.startswith(_TO_QUESTION, position):
                position += 2
            else:
                _, position = self._read_name(position)
            position += _FIXED.size + (message[position + 8] << 8 | message[position + 9])
        if position > len(message):
            raise MalformedError("a record breaks off")
        return upper

    def _records(self, position: int, count: int, *codes: int) -> tuple[list[_Record], int]:
        """Those of a section that have one of these types, and where the next section begins."""
        message = self._message
        records = []
        for _ in range(count):
            if message.startswith(_TO_QUESTION, position):
                owner = self._name
                position += 2
            else:
                owner, position = self._read_name(position)
            code, record_class, ttl, length = _FIXED.unpack_from(message, position)
            start = position + _FIXED.size
            position = start + length
            if position > len(message):
                raise MalformedError("a record breaks off")
            if code in codes and record_class == _IN:
                records.append(_Record(owner, code, ttl if ttl <= _MAX_TTL else 0, start, length))
        return records, position

    def _follow(self, records: Sequence[_Record]) -> tuple[bytes, list[_Record], int]:
        """The name at the end of the aliases, its records, and the least TTL on the way."""
        name, ttl = self._name, _MAX_TTL
        for _ in range(MAX_ALIASES + 1):
            here = [record for record in records if record.owner == name]
            found = [record for record in here if record.code == self._code]
            if found:
                return name, found, min(ttl, *(record.ttl for record in found))
            if not here:
                return name, [], ttl
            ttl = min(ttl, here[0].ttl)
            name = self._name_in(here[0].start, here[0].length)
        raise MalformedError("too many aliases in a row")

    def _negative_ttl(self, authority: Sequence[_Record]) -> int | None:
        """Seconds for which a negative answer holds (RFC 2308 5), None where there is no SOA to say so."""
        for record in authority:
            if record.code == _SOA:
                if record.length < _MIN_SOA:
                    raise MalformedError("an SOA record breaks off")
                (minimum,) = struct.unpack_from("!I", self._message, record.start + record.length - 4)
                return min(record.ttl, minimum if minimum <= _MAX_TTL else 0)
        return None

    def _read_name(self, offset: int) -> tuple[bytes, int]:
        """The name that begins here, uncompressed and in lower case, and where what follows begins."""
        message, known = self._message, self._known
        segments: list[tuple[int, bytes]] = []
        position, end, tail = offset, 0, b"\0"
        while True:
            start = position
            length = message[position]
            while 0 < length <= _MAX_LABEL:
                position += length + 1
                length = message[position]
            segments.append((start, message[start:position]))
            if length == 0:
                end = end or position + 1
                break
            if length < _POINTER:
                raise MalformedError("a label of an unknown kind")
            target = ((length & ~_POINTER) << 8) | message[position + 1]
            end = end or position + 2
            if not _HEADER_SIZE <= target < start:
                raise MalformedError("a name that points forward or to no name")
            if target in known:
                tail = known[target]
                break
            position = target
        for start, octets in reversed(segments):
            tail = octets.lower() + tail
            if len(tail) > _MAX_NAME:
                raise MalformedError("a name that is too long")
            known[start] = tail
        return tail, end

    def _name_in(self, start: int, length: int) -> bytes:
        """The name that is all of this data."""
        name, end = self._read_name(start)
        if end != start + length:
            raise MalformedError("a name that is longer or shorter than its place")
        return name

    def ipv4(self, start: int, length: int) -> str:
        """An A record's address."""
        if length != 4:  # noqa: PLR2004 - octets of an IPv4 address
            raise MalformedError("an A record of another length")
        return inet_ntoa(self._message[start : start + length])

    def ipv6(self, start: int, length: int) -> str:
        """An AAAA record's address."""
        if length != 16:  # noqa: PLR2004 - octets of an IPv6 address
            raise MalformedError("an AAAA record of another length")
        return inet_ntop(AF_INET6, self._message[start : start + length])

    def strings(self, start: int, length: int) -> str:
        """A TXT record's strings as one; of none, which RFC 1035 3.3.14 does not allow and people publish, nothing."""
        message, end = self._message, start + length
        parts = []
        while start < end:
            after = start + 1 + message[start]
            parts.append(message[start + 1 : after])
            start = after
        if start != end:
            raise MalformedError("a TXT record whose strings do not fit")
        return b"".join(parts).decode("latin-1")

    def exchange(self, start: int, length: int) -> str:
        """An MX record: preference and name."""
        (preference,) = struct.unpack_from("!H", self._message, start)
        return f"{preference} {name_text(self._name_in(start + 2, length - 2))}"

    def target(self, start: int, length: int) -> str:
        """A record that is a name."""
        return name_text(self._name_in(start, length))

    def authority(self, start: int, length: int) -> str:
        """An SOA record: two names and five numbers, as in a zone file."""
        primary, position = self._read_name(start)
        person, position = self._read_name(position)
        if position + 20 != start + length:
            raise MalformedError("an SOA record of another length")
        numbers = struct.unpack_from("!IIIII", self._message, position)
        names = (name if name == "." else f"{name}." for name in map(name_text, (primary, person)))
        return " ".join((*names, *map(str, numbers)))


_TEXTS: Final[Mapping[RecordType, Callable[[_Reading, int, int], str]]] = {
    RecordType.A: _Reading.ipv4,
    RecordType.AAAA: _Reading.ipv6,
    RecordType.CNAME: _Reading.target,
    RecordType.MX: _Reading.exchange,
    RecordType.NS: _Reading.target,
    RecordType.PTR: _Reading.target,
    RecordType.SOA: _Reading.authority,
    RecordType.TXT: _Reading.strings,
}


def name_text(name: bytes) -> str:
    """A name as in a zone file (RFC 1035 5.1), without the final dot; the root is ``.``."""
    labels = []
    position = 0
    while name[position]:
        start = position + 1
        position = start + name[position]
        label = name[start:position]
        labels.append(label.decode("ascii") if _PLAIN_LABEL.fullmatch(label) else _escaped(label))
    return ".".join(labels) or "."


def _escaped(label: bytes) -> str:
    return "".join(
        f"\\{chr(octet)}" if octet in _SPECIAL else chr(octet) if 0x20 < octet < 0x7F else f"\\{octet:03}"  # noqa: PLR2004 - printable ASCII
        for octet in label
    )
