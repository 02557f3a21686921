"""Every sort of answer of a name server that is none: ``Half``, and what it makes of the right answer.

``DnsServer.halves`` says which questions are answered in which of these ways. None of them says that there is nothing:
whoever asks knows afterwards as little as before.
"""

import struct
from enum import StrEnum
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

ENDLESS = "endless.invalid"
"""A domain in which every name is an alias of another, one in each answer."""


class Half(StrEnum):
    """What comes in place of an answer; what begins with ``tcp`` comes there, after a truncated answer by UDP."""

    SILENT = "silent"
    SERVFAIL = "SERVFAIL"
    REFUSED = "REFUSED"
    FORMERR = "FORMERR"
    NOTIMP = "NOTIMP"
    YXDOMAIN = "YXDOMAIN"
    NOTAUTH = "NOTAUTH"
    BADVERS = "BADVERS"
    BADCOOKIE = "BADCOOKIE"
    GARBAGE = "garbage"
    CUT = "cut, and not marked as truncated"
    TCP_SILENT = "tcp silent"
    TCP_CLOSED = "tcp closed"
    TCP_CUT = "tcp cut"
    TCP_SHORT = "tcp cut, and whole by its length"
    TCP_TRUNCATED = "tcp truncated"
    CIRCLE = "aliases in a circle"
    ENDLESS = "aliases without an end"
    ANOTHER_NAME = "records of another name"
    ANOTHER_TYPE = "records of another type"
    REFERRAL = "a referral"
    CONTRADICTION = "NXDOMAIN with records"
    BAD_RECORD = "a record that can't be read among good ones"
    ANOTHER_ID = "an answer to another id"
    ANOTHER_QUESTION = "an answer to another question"

    @property
    def is_by_tcp(self) -> bool:
        """Whether it comes by TCP."""
        return self.value.startswith("tcp")


_RCODES = {
    half: dns.rcode.from_text(half.value)
    for half in (
        Half.SERVFAIL, Half.REFUSED, Half.FORMERR, Half.NOTIMP, Half.YXDOMAIN, Half.NOTAUTH, Half.BADVERS,
        Half.BADCOOKIE,
    )
}  # fmt: skip


def by_udp(half: Half, query: bytes, answer: bytes) -> bytes | None:
    """What is sent as a datagram in place of the right answer; None for nothing."""
    asked = cast("dns.message.QueryMessage", dns.message.from_wire(query))
    response = dns.message.make_response(asked, recursion_available=True)
    if half is Half.SILENT:
        return None
    if half.is_by_tcp:
        response.flags |= dns.flags.TC
        return response.to_wire()
    if half in _RCODES:
        response.use_edns(0)
        response.set_rcode(_RCODES[half])
        return response.to_wire()
    return _spoiled(half, response, answer)


def by_tcp(half: Half, query: bytes, answer: bytes) -> bytes | None:
    """What is sent over TCP in place of the right answer, its length before it; None for nothing, and no end either."""
    if half is Half.TCP_SILENT:
        return None
    if half is Half.TCP_CLOSED:
        return b""
    if half is Half.TCP_CUT:
        return len(answer).to_bytes(2) + answer[: len(answer) // 2]
    if half is Half.TCP_SHORT:
        answer = answer[:-1]
    elif half is Half.TCP_TRUNCATED:
        answer = answer[:2] + bytes((answer[2] | dns.flags.TC >> 8,)) + answer[3:]
    else:
        answer = by_udp(half, query, answer) or b""
    return len(answer).to_bytes(2) + answer


def _spoiled(half: Half, response: dns.message.Message, answer: bytes) -> bytes:
    question = response.question[0]
    name, text = question.name, question.name.to_text()
    match half:
        case Half.GARBAGE:
            return answer[:12] + b"\xff" * 30
        case Half.CUT:
            return answer[:-1]
        case Half.CIRCLE:
            response.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", "other.invalid."))
            response.answer.append(dns.rrset.from_text("other.invalid.", 300, "IN", "CNAME", text))
        case Half.ENDLESS:
            number = len(name.labels[0]) if text.endswith(f"{ENDLESS}.") else 0
            target = f"{'a' * (number % 60 + 1)}.{ENDLESS}."
            response.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", target))
        case Half.ANOTHER_NAME:
            response.answer.append(dns.rrset.from_text("other.invalid.", 300, "IN", "TXT", '"v=spf1 -all"'))
        case Half.ANOTHER_TYPE:
            response.answer.append(dns.rrset.from_text(name, 300, "IN", "HINFO", '"RFC8482" ""'))
        case Half.REFERRAL:
            response.authority.append(dns.rrset.from_text(".", 300, "IN", "NS", "a.root-servers.net."))
        case Half.CONTRADICTION:
            return answer[:3] + bytes((answer[3] | dns.rcode.NXDOMAIN,)) + answer[4:]
        case Half.BAD_RECORD:
            return _with_bad_record(answer, question.rdtype)
        case Half.ANOTHER_ID:
            return bytes((answer[0] ^ 1,)) + answer[1:]
        case _:  # another question
            response.question[0] = dns.rrset.RRset(
                dns.name.from_text("other.invalid."), question.rdclass, question.rdtype
            )
    return response.to_wire()


def _with_bad_record(answer: bytes, code: dns.rdatatype.RdataType) -> bytes:
    """The answer with one more record, in the first place, of an octet that fits no type."""
    (count,) = struct.unpack_from("!H", answer, 6)
    end = 12
    while answer[end]:
        end += answer[end] + 1
    end += 5
    record = b"\xc0\x0c" + struct.pack("!HHIH", code, 1, 300, 1) + b"\xff"
    return answer[:6] + struct.pack("!H", count + 1) + answer[8:end] + record + answer[end:]
