"""DNS messages, with dnspython as the second opinion; and whatever octets a hostile server may send."""

import struct
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.dns.wire import (
    MAX_ALIASES,
    Kind,
    MalformedError,
    Reply,
    StrangerError,
    encode_query,
    encode_question,
    name_text,
    read,
)
from gateway.resolver import Answer, RecordType, Status

NUMBER: Final = 0x1234
NAME: Final = "a.example"
SOA: Final = "ns.example. hostmaster.example. 7 3600 600 86400 60"

octet_labels = st.binary(min_size=1, max_size=20)
names = st.lists(octet_labels, min_size=1, max_size=6).map(lambda labels: dns.name.Name([*labels, b""]))
rdatas = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: (RecordType.A, str(ip))),
    st.ip_addresses(v=6).map(lambda ip: (RecordType.AAAA, str(ip))),
    st.tuples(st.integers(0, 65535), names).map(lambda mx: (RecordType.MX, f"{mx[0]} {mx[1]}")),
    st.sampled_from([RecordType.PTR, RecordType.NS]).flatmap(lambda code: names.map(lambda name: (code, str(name)))),
    st.lists(st.binary(max_size=255), min_size=1, max_size=5).map(
        lambda strings: (RecordType.TXT, " ".join(f'"{_quoted(string)}"' for string in strings))
    ),
    st.tuples(names, names, st.integers(0, 2**32 - 1)).map(
        lambda soa: (RecordType.SOA, f"{soa[0]} {soa[1]} {soa[2]} 3600 600 86400 60")
    ),
)


def _quoted(string: bytes) -> str:
    return "".join(f"\\{octet:03}" for octet in string)


def message(
    *records: str, authority: tuple[str, ...] = (), name: str = NAME, record_type: str = "A", **more: Any
) -> bytes:
    """A server's answer to a question: records as ``owner TTL type data``; ``extended`` is its OPT's reply code."""
    made = dns.message.make_response(dns.message.make_query(name, record_type), recursion_available=True)
    made.id = NUMBER
    for section, lines in ((made.answer, records), (made.authority, authority)):
        for line in lines:
            owner, ttl, code, data = line.split(maxsplit=3)
            rdata_class, _, code = code.rpartition("/")
            section.append(dns.rrset.from_text(f"{owner}.", int(ttl), rdata_class or "IN", code, data))
    made.set_rcode(more.pop("rcode", dns.rcode.NOERROR))
    made.flags |= more.pop("flags", 0)
    made.flags &= ~more.pop("without", 0)
    additional, extended, options = more.pop("additional", ()), more.pop("extended", None), more.pop("options", ())
    assert not more
    octets: bytes = made.to_wire(max_size=65_535)
    beside = [_record(line) for line in additional]
    if extended is not None:
        octets = octets[:3] + bytes((octets[3] | extended & 0xF,)) + octets[4:]
        opt = b"".join(options)
        beside.insert(len(beside) // 2, struct.pack("!BHHBBHH", 0, 41, 1232, extended >> 4, 0, 0, len(opt)) + opt)
    return octets[:10] + struct.pack("!H", len(beside)) + octets[12:] + b"".join(beside)


def _record(line: str) -> bytes:
    owner, ttl, code, data = line.split(maxsplit=3)
    written = dns.rrset.from_text(f"{owner}.", int(ttl), "IN", code, data)
    name: bytes | None = dns.name.from_text(owner).to_wire()
    content: bytes | None = written[0].to_wire()
    assert name is not None
    assert content is not None
    return name + struct.pack("!HHIH", written.rdtype, written.rdclass, int(ttl), len(content)) + content


def answer(octets: bytes, name: str = NAME, record_type: RecordType = RecordType.A) -> Answer:
    """The answer in a message."""
    reply = read(octets, NUMBER, encode_question(name, record_type), record_type)
    assert reply.kind is Kind.ANSWER
    assert reply.answer is not None
    return reply.answer


def hostile(octets: bytes, record_type: RecordType = RecordType.A, name: str = NAME) -> Reply | None:
    """What a message comes to; None for one of the two errors."""
    try:
        return read(octets, NUMBER, encode_question(name, record_type), record_type)
    except (MalformedError, StrangerError):
        return None


@given(name=names, record=rdatas, ttl=st.integers(0, 2**31 - 1))
@settings(max_examples=300)
def test_records_read_as_dnspython_reads_them(name: dns.name.Name, record: tuple[RecordType, str], ttl: int) -> None:
    """Any owner and any data of the types that we ask for come out as dnspython says, names in lower case."""
    record_type, data = record
    text = name.to_text(omit_final_dot=True).lower()
    question = encode_question(text, record_type)
    wire = (name.to_wire() or b"").lower()
    assert question[:-4] == wire
    assert name_text(wire) == text
    made = dns.message.make_response(dns.message.make_query(name, record_type.value))
    made.id = NUMBER
    rdata = dns.rdata.from_text("IN", record_type.value, data)
    made.answer.append(dns.rrset.from_rdata(name, ttl, rdata))
    expected: Any = rdata
    match record_type:
        case RecordType.TXT:
            expected = b"".join(expected.strings).decode("latin-1")
        case RecordType.MX:
            expected = f"{expected.preference} {expected.exchange.to_text(omit_final_dot=True).lower()}"
        case RecordType.PTR | RecordType.NS:
            expected = expected.target.to_text(omit_final_dot=True).lower()
        case RecordType.SOA:
            expected = expected.to_text().lower()
        case _:
            expected = str(expected)
    assert answer(made.to_wire(), text, record_type) == Answer(Status.FOUND, (expected,), ttl)


@given(number=st.integers(0, 65535), name=names, edns=st.booleans())
def test_queries_read_as_they_were_meant(number: int, name: dns.name.Name, *, edns: bool) -> None:
    """The question that was put into a query is what dnspython reads from it."""
    question = encode_question(name.to_text(omit_final_dot=True).lower(), RecordType.TXT)
    made = dns.message.from_wire(encode_query(number, question, edns=edns))
    assert (made.id, made.edns, made.payload) == ((number, 0, 1232) if edns else (number, -1, 0))
    assert made.question == [dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.TXT)]


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("", b"\0"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\0"),
        (r"a\.b.c", b"\3a.b\1c\0"),
        (r"a\\.c", b"\2a\\\1c\0"),
        (r"\065\032\255", b"\3a \xff\0"),
        (".".join(["a"] * 127), b"\1a" * 127 + b"\0"),
    ],
)
def test_names_as_in_zone_files(name: str, wire: bytes) -> None:
    """Dots, backslashes and octets of labels are written as RFC 1035 5.1 says; the longest label and name fit."""
    assert encode_question(name, RecordType.A) == wire + b"\0\1\0\1"


@pytest.mark.parametrize(
    "name", ["a..b", ".", ".a", "a" * 64, ".".join(["a"] * 128), "caf\xe9", "a\\", r"\256", r"\1234" * 63 + "ab"]
)
def test_names_that_can_not_be(name: str) -> None:
    """What the DNS can't hold is no question."""
    with pytest.raises(ValueError, match=r".+"):
        encode_question(name, RecordType.A)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (message("a.example 300 A 192.0.2.1"), Answer(Status.FOUND, ("192.0.2.1",), 300)),
        (message("A.EXAMPLE 300 A 192.0.2.1"), Answer(Status.FOUND, ("192.0.2.1",), 300)),
        (
            message("a.example 50 CNAME b.example.", "b.example 300 A 192.0.2.1"),
            Answer(Status.FOUND, ("192.0.2.1",), 50),
        ),
        (  # in any order
            message("c.example 300 A 192.0.2.1", "b.example 40 CNAME c.example.", "a.example 50 CNAME B.example."),
            Answer(Status.FOUND, ("192.0.2.1",), 40),
        ),
        (  # other names, other types, other classes
            message(
                "a.example 300 A 192.0.2.1",
                "b.example 1 A 192.0.2.2",
                "a.example 1 TXT x",
                "a.example 1 CH/TXT x",
            ),
            Answer(Status.FOUND, ("192.0.2.1",), 300),
        ),
        (message(), Answer(Status.NO_DATA, (), 0)),
        (message(authority=(f"example 300 SOA {SOA}",)), Answer(Status.NO_DATA, (), 60)),
        (message(authority=(f"example 30 SOA {SOA}",)), Answer(Status.NO_DATA, (), 30)),
        (
            message("a.example 20 CNAME b.example.", authority=(f"example 300 SOA {SOA}",), rcode=dns.rcode.NXDOMAIN),
            Answer(Status.NXDOMAIN, (), 20),
        ),
        (
            message(authority=(f"example 300 SOA {SOA}",), rcode=dns.rcode.NXDOMAIN),
            Answer(Status.NXDOMAIN, (), 60),
        ),
        (message(rcode=dns.rcode.NXDOMAIN), Answer(Status.NXDOMAIN, (), 0)),
        (
            message(authority=(f"example 300 SOA {SOA.rpartition(' ')[0]} {2**31}",)),
            Answer(Status.NO_DATA, (), 0),
        ),
        (
            message(authority=(f"example 300 SOA {SOA.rpartition(' ')[0]} {2**31 - 1}",)),
            Answer(Status.NO_DATA, (), 300),
        ),
    ],
)
def test_answers(octets: bytes, expected: Answer) -> None:
    """Records of the name and of its aliases count; the least TTL holds; negative answers hold as RFC 2308 5 says."""
    assert answer(octets) == expected


def test_a_ttl_that_is_too_large_is_none() -> None:
    """A TTL with the highest bit set is read as 0 (RFC 2181 8)."""
    octets = message("a.example 305419896 A 192.0.2.1").replace(b"\x12\x34\x56\x78", b"\x80\x00\x00\x01")
    assert answer(octets).ttl == 0


@pytest.mark.parametrize(
    "octets",
    [
        message(authority=("example 300 NS ns.example.",)),
        message(authority=("example 300 NS ns.example.",), without=dns.flags.RA),
        message("b.example 300 A 192.0.2.2"),
        message("b.example 300 A 192.0.2.2", authority=(f"example 300 SOA {SOA}",)),
        message("a.example 300 TXT x", rcode=dns.rcode.NXDOMAIN),
        message("b.example 300 CNAME c.example."),
        message("a.example 300 A 192.0.2.1", rcode=dns.rcode.NXDOMAIN),
        message(rcode=dns.rcode.YXDOMAIN),
        message("a.example 300 A 192.0.2.1", extended=dns.rcode.BADCOOKIE),
        message(extended=0x20),
        message(extended=4095),
        message(authority=(f"example 300 SOA {SOA}",), rcode=dns.rcode.NXDOMAIN, extended=0x13),
    ],
)
def test_what_says_nothing_about_the_name(octets: bytes) -> None:
    """Referrals, answers to other questions, contradictions and other reply codes are failures, and no "no data"."""
    reply = hostile(octets)
    assert reply is not None
    assert (reply.kind, reply.answer) == (Kind.FAILURE, None)
    assert reply.problem


@pytest.mark.parametrize("records", [(), ("a.example 300 A 192.0.2.1",)])
@pytest.mark.parametrize("options", [(), (b"\0\x0a\0\x08cookieab",)])
@pytest.mark.parametrize("beside", [(), ("x.example 300 A 192.0.2.9", "a.example 300 A 192.0.2.8")])
def test_an_unknown_version_of_edns_is_asked_without(
    records: tuple[str, ...], options: tuple[bytes, ...], beside: tuple[str, ...]
) -> None:
    """BADVERS, wherever its OPT record stands, leads to the question without EDNS, and never to "no data"."""
    reply = hostile(message(*records, extended=dns.rcode.BADVERS, options=options, additional=beside))
    assert reply is not None
    assert (reply.kind, reply.answer, reply.problem) == (Kind.NO_EDNS, None, "BADVERS")


def test_an_alias_alone_is_half_an_answer() -> None:
    """Aliases of whose end nothing is said lead to a question for that end; an SOA tells that there is none."""
    reply = hostile(message("a.example 300 CNAME b.example.", "b.example 20 CNAME c.example."))
    assert reply is not None
    assert reply.kind is Kind.ALIAS
    assert (reply.question, reply.ttl) == (encode_question("c.example", RecordType.A), 20)
    told = message("a.example 20 CNAME b.example.", authority=(f"example 300 SOA {SOA}",))
    assert answer(told) == Answer(Status.NO_DATA, (), 20)
    referred = hostile(message("a.example 20 CNAME b.other.", authority=("other 300 NS ns.other.",)))
    assert referred is not None
    assert referred.kind is Kind.ALIAS


def test_a_text_record_without_strings_hides_no_other() -> None:
    """A TXT record of no octets is an empty text, and the records beside it count."""
    question = encode_question(NAME, RecordType.TXT)
    header = struct.pack("!HHHHHH", NUMBER, 0x8180, 1, 3, 0, 0)
    texts = (b"", b"\0", b"\6v=spf1")
    records = [b"\xc0\x0c" + question[-4:] + struct.pack("!IH", 300, len(data)) + data for data in texts]
    found = answer(header + question + b"".join(records), record_type=RecordType.TXT)
    assert found == Answer(Status.FOUND, ("", "v=spf1"), 300)


def test_no_part_of_an_answer_is_taken_for_the_whole() -> None:
    """An answer that was cut anywhere is none, whatever it holds, also where only what stands beside it is cut."""
    whole = [
        message("a.example 300 A 192.0.2.1", "a.example 300 A 192.0.2.2", additional=("n.example 300 A 192.0.2.3",)),
        message("a.example 300 A 192.0.2.1", authority=("example 300 NS n.example.",), extended=0),
        message("a.example 300 CNAME b.example.", "b.example 300 A 192.0.2.1", extended=0),
        message(authority=(f"example 300 SOA {SOA}",), rcode=dns.rcode.NXDOMAIN, extended=0),
        message(extended=0, options=(b"\0\x0a\0\x08cookieab",)),
    ]
    for octets in whole:
        assert hostile(octets) is not None
        assert [size for size in range(len(octets)) if hostile(octets[:size]) is not None] == []


def test_equal_records_count_once() -> None:
    """A record that is there twice is one (RFC 2181 5)."""
    octets = message("a.example 300 A 192.0.2.1")
    doubled = octets[:6] + b"\0\2" + octets[8:] + octets[-16:]
    assert answer(doubled).records == ("192.0.2.1",)


@pytest.mark.parametrize(
    ("record_type", "data"),
    [
        (RecordType.A, b"\1\2\3"),
        (RecordType.A, b"\1\2\3\4\5"),
        (RecordType.AAAA, b"\1\2\3\4"),
        (RecordType.TXT, b"\5abc"),
        (RecordType.MX, b"\0"),
        (RecordType.MX, b"\0\x0a"),
        (RecordType.MX, b"\0\x0a\3abc"),
        (RecordType.PTR, b"\3abc\0\0"),
        (RecordType.PTR, b"\x80abc\0"),
        (RecordType.PTR, b"\xc0\x00"),
        (RecordType.PTR, b"\xff\xff"),
        (RecordType.PTR, b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 3 + b"\0"),
        (RecordType.SOA, b"\0\0\0\0"),
    ],
)
def test_data_that_can_not_be(record_type: RecordType, data: bytes) -> None:
    """Data that does not fit its type makes the message unreadable: a server's failure, never an empty answer."""
    question = encode_question(NAME, record_type)
    header = struct.pack("!HHHHHH", NUMBER, 0x8180, 1, 1, 0, 0)
    record = b"\xc0\x0c" + question[-4:] + struct.pack("!IH", 300, len(data)) + data
    with pytest.raises(MalformedError):
        read(header + question + record, NUMBER, question, record_type)


def test_a_name_that_points_at_itself_ends() -> None:
    """Pointers that lead forward or round in circles are refused."""
    question = encode_question(NAME, RecordType.A)
    header = struct.pack("!HHHHHH", NUMBER, 0x8180, 1, 1, 0, 0)
    here = len(header) + len(question)
    for target in (here, here + 1, here + 4, 0x3FFF):
        octets = header + question + struct.pack("!H", 0xC000 | target) + b"\0\1\0\1\0\0\0\0\0\0" + b"\1a" * 9
        assert hostile(octets) is None
    loop = header + question + b"\1a" + struct.pack("!H", 0xC000 | here) + b"\0\1\0\1\0\0\0\0\0\0"
    assert hostile(loop) is None


def test_aliases_that_go_round_end() -> None:
    """A circle of aliases is unreadable; the longest chain is followed."""
    assert hostile(message("a.example 300 CNAME b.example.", "b.example 300 CNAME a.example.")) is None
    chain = [f"n{number}.example 300 CNAME n{number + 1}.example." for number in range(MAX_ALIASES + 1)]
    last = f"n{MAX_ALIASES}.example 300 A 192.0.2.1"
    octets = message(*chain[:-1], last, name="n0.example")
    assert answer(octets, "n0.example").records == ("192.0.2.1",)
    assert hostile(message(*chain, name="n0.example"), name="n0.example") is None


@given(octets=st.binary(max_size=300), record_type=st.sampled_from(RecordType))
@settings(max_examples=300)
def test_any_octets_behind_a_header_are_read_or_refused(octets: bytes, record_type: RecordType) -> None:
    """Whatever follows an answer's header and question ends in a reply or in one of the two errors."""
    question = encode_question(NAME, record_type)
    for counts in ((1, 0), (0, 1), (9, 9), (65535, 65535)):
        header = struct.pack("!HHHHHH", NUMBER, 0x8180, 1, *counts, 0)
        reply = hostile(header + question + octets, record_type)
        assert reply is None or reply.kind is Kind.ANSWER


@given(octets=st.binary(max_size=100))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    """Anything at all, with and without the right id."""
    hostile(octets)
    hostile(NUMBER.to_bytes(2) + b"\x81\x80\0\1" + octets)


@given(data=st.data())
@settings(max_examples=200)
def test_changed_answers_are_read_or_refused(data: st.DataObject) -> None:
    """A right answer of which octets were changed or cut off ends in a reply or in one of the two errors."""
    octets = bytearray(
        message(
            "a.example 50 CNAME b.example.",
            "b.example 300 MX 10 mx.b.example.",
            "b.example 300 MX 20 mx.a.example.",
            authority=(f"example 300 SOA {SOA}",),
            record_type="MX",
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    hostile(bytes(octets[: data.draw(st.integers(0, len(octets)))]), RecordType.MX)


def _steps(work: Callable[[], object]) -> int:
    """How many lines of the reader's code are run."""
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace if frame.f_code.co_filename.endswith("dns/wire.py") else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


def _chains(count: int) -> bytes:
    """Records whose owners each point at the one before, as deep as it goes."""
    question = encode_question(NAME, RecordType.A)
    octets = bytearray(struct.pack("!HHHHHH", NUMBER, 0x8180, 1, count, 0, 0) + question)
    before = 12
    for _ in range(count):
        here = len(octets)
        octets += struct.pack("!H", 0xC000 | before) + b"\0\1\0\1\0\0\0\0\0\4abcd"
        before = here
    return bytes(octets)


def _many(count: int) -> bytes:
    return message(*(f"a.example 300 A 10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(count)))


@pytest.mark.parametrize("make", [_chains, _many])
def test_time_grows_with_the_message_alone(make: Callable[[int], bytes]) -> None:
    """Twice the records take twice the steps, however they refer to each other."""
    half, whole = (_steps(partial(hostile, make(count))) for count in (500, 1000))
    assert half > 1000
    assert whole < 2.2 * half


def test_the_largest_message_is_read() -> None:
    """4,000 records in 64 KB are all there."""
    assert len(answer(_many(4000)).records) == 4000
