"""Message octets on the wire, against a naive reading of the same rules."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.smtp import reply
from gateway.smtp.data import BareNewlines, BdatChecker, DataDecoder, DotStuffer, NulOctets, SizeMeter

REJECT, NORMALIZE = BareNewlines.REJECT, BareNewlines.NORMALIZE

# Octets that matter, in the order of their danger; "a" stands for all others.
wire = st.lists(st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"\r\n.", b"\r\n.\r\n", b"a", b"\0", b"bc"])).map(
    b"".join
)
cuts = st.lists(st.integers(0, 60), max_size=8)


def split(data: bytes, at: list[int]) -> list[bytes]:
    """Cut data at the given places."""
    places = [0, *sorted(place for place in at if place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def naive_problem(message: bytes, bare_newlines: BareNewlines, nul: NulOctets) -> reply.Reply | None:
    """The first thing wrong with a message, octet by octet."""
    for index, octet in enumerate(message):
        if octet == 0 and nul is NulOctets.REJECT:
            return reply.NUL_IN_DATA
        is_bare = (octet == 0x0D and message[index + 1 : index + 2] != b"\n") or (
            octet == 0x0A and message[index - 1 : index] != b"\r"
        )
        if is_bare and bare_newlines is REJECT:
            return reply.BARE_NEWLINE_DATA
    return None


def naive_normalize(message: bytes) -> bytes:
    """Every CRLF, CR and LF as a CRLF, octet by octet."""
    out = b""
    index = 0
    while index < len(message):
        if message[index : index + 2] == b"\r\n":
            out += b"\r\n"
            index += 2
        else:
            octet = message[index : index + 1]
            out += b"\r\n" if octet in {b"\r", b"\n"} else octet
            index += 1
    return out


def naive_decode(data: bytes) -> tuple[bytes, bytes] | None:
    """Message and rest by RFC 5321 4.5.2, line by line, None when there is no end."""
    lines: list[bytes] = []
    while True:
        line, crlf, data = data.partition(b"\r\n")
        if not crlf:
            return None
        if line == b".":
            return b"".join(lines), data
        lines.append(line.removeprefix(b".") + crlf)


@given(wire, cuts, st.sampled_from(BareNewlines), st.sampled_from(NulOctets))
@example(b".\r\n", [], REJECT, NulOctets.REJECT)
@example(b"..\r\n.\r\n.\r\n", [1, 2, 5], REJECT, NulOctets.REJECT)
@example(b"a\r\n.\n.\r\n\r\n.\r\n", [4], NORMALIZE, NulOctets.REJECT)
@example(b"a\0b\rc\r\n.\r\n", [], REJECT, NulOctets.REJECT)
def test_decoding_equals_the_naive_reading_at_any_split(
    data: bytes, at: list[int], bare_newlines: BareNewlines, nul: NulOctets
) -> None:
    """Message, rest and problem are those of a line-by-line reading, however the octets are cut."""
    decoder = DataDecoder(bare_newlines, nul)
    out = b""
    rest = b""
    pieces = iter(split(data, at))
    for piece in pieces:
        out += decoder.feed(piece)
        if decoder.finished:
            rest = b"".join([decoder.rest, *pieces])
    expected = naive_decode(data)
    assert decoder.finished is (expected is not None)
    if expected is None:
        return
    message, expected_rest = expected
    problem = naive_problem(message, bare_newlines, nul)
    assert rest == expected_rest
    assert decoder.problem == problem
    if problem is None:
        assert out == (naive_normalize(message) if bare_newlines is NORMALIZE else message)


@given(wire, cuts, st.sampled_from(BareNewlines), st.sampled_from(NulOctets))
def test_bdat_octets_meet_the_same_policies_at_any_split(
    data: bytes, at: list[int], bare_newlines: BareNewlines, nul: NulOctets
) -> None:
    """BDAT leaves dots alone; bare newlines and NUL are judged as in DATA, and a CRLF may be cut by two chunks."""
    checker = BdatChecker(bare_newlines, nul)
    out = b"".join(checker.feed(piece) for piece in split(data, at)) + checker.finish()
    problem = naive_problem(data, bare_newlines, nul)
    assert checker.problem == problem
    if problem is None:
        assert out == (naive_normalize(data) if bare_newlines is NORMALIZE else data)


@given(wire, cuts)
def test_decoding_undoes_stuffing(message: bytes, at: list[int]) -> None:
    """What a client stuffs, cut anywhere, a server reads back unchanged; a last CRLF is completed."""
    message = naive_normalize(message)
    stuffer = DotStuffer()
    sent = b"".join(stuffer.feed(piece) for piece in split(message, at)) + stuffer.finish()
    decoder = DataDecoder(nul=NulOctets.ACCEPT)
    complete = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    assert decoder.feed(sent) == complete
    assert (decoder.finished, decoder.rest, decoder.problem) == (True, b"", None)


@pytest.mark.parametrize("tail", [b"\r", b"\r\n", b"\r\n.", b"\r\n.\r"])
def test_what_could_begin_the_end_is_held_back(tail: bytes) -> None:
    """A possible beginning of the end of data is not given out as message before it is certain."""
    decoder = DataDecoder()
    assert decoder.feed(b"a" + tail) == b"a"
    assert not decoder.finished


def test_a_refused_message_is_read_to_its_true_end_and_not_kept() -> None:
    """After a problem nothing is given out, nothing is kept, and only CRLF.CRLF ends the message."""
    decoder = DataDecoder()
    assert decoder.feed(b"good\r\nbad\n") == b"good\r\nbad"
    for _ in range(100):
        assert decoder.feed(b"x\n.\nx\r.\rx\r\n.\n" * 100) == b""
        assert len(decoder._held) <= 4
    assert decoder.feed(b"\r\n.\r\nQUIT\r\n") == b""
    assert decoder.finished
    assert decoder.rest == b"QUIT\r\n"
    assert decoder.problem is reply.BARE_NEWLINE_DATA


def naive_size_problem(message: bytes, limit: int, header_limit: int) -> bool:
    """Whether a message breaks a limit."""
    header = (b"\r\n" + message).partition(b"\r\n\r\n")
    header_size = len(header[0]) if header[1] else len(message)
    return (limit != 0 and len(message) > limit) or (header_limit != 0 and header_size > header_limit)


@given(wire, cuts, st.just(0) | st.integers(0, 40), st.integers(0, 20))
@example(b"a", [], 0, 2)
@example(b"a\r\n", [4], 0, 3)
def test_size_limits_hold_at_any_split(message: bytes, at: list[int], limit: int, header_limit: int) -> None:
    """The same messages are too big however they are cut, and the same limit is named."""

    def measure(pieces: list[bytes]) -> reply.Reply | None:
        meter = SizeMeter(limit, header_limit)
        return next((problem for piece in pieces if (problem := meter.add(piece)) is not None), None)

    message = naive_normalize(message) + b"\r\n"
    pieces = split(message, at)
    assert measure(pieces) == measure([message])
    assert (measure(pieces) is not None) is naive_size_problem(message, limit, header_limit)


@given(wire, cuts, st.integers(1, 5))
@example(b"a\r\nb\r\nc\r\n\r\nd\r\ne\r\nf", [3, 7, 11], 3)
def test_lines_of_the_header_are_counted_at_any_split(message: bytes, at: list[int], lines: int) -> None:
    """Those of the body do not count, however the message is cut."""
    message = naive_normalize(message) + b"\r\n"
    header, end, _ = (b"\r\n" + message).partition(b"\r\n\r\n")
    count = header.count(b"\n") - 1 + bool(end)
    expected = reply.HEADER_TOO_BIG if count > lines else None
    for pieces in (split(message, at), [message]):
        meter = SizeMeter(0, 0, lines)
        assert next((problem for piece in pieces if (problem := meter.add(piece)) is not None), None) is expected


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"A: b\r\n\r\nbody\r\n", None),
        (b"\r\n" + b"body\r\n" * 10, None),
        (b"A: bcdef\r\n\r\nbody\r\n", None),
        (b"A: bcdefg\r\n\r\nbody\r\n", reply.HEADER_TOO_BIG),
        (b"no header, no empty line\r\n", reply.HEADER_TOO_BIG),
    ],
)
def test_the_header_section_ends_at_the_first_empty_line(message: bytes, problem: reply.Reply | None) -> None:
    """The header limit counts up to the CRLF before the empty line; a message may begin with the empty line."""
    assert SizeMeter(0, 10).add(message) == problem
