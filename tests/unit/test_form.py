"""The form of a header: what is mended, what is refused, what is removed; each octet has its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import form
from gateway.form import HeaderReader, HeaderSection, Mend
from gateway.testing import message

READER = HeaderReader({"mx.example.com", "store.example.com"}, {"X-Spam"})
END = [Mend.HEADER_END]


def read(received: bytes) -> HeaderSection:
    """A header section, by the reader of these tests."""
    return READER.read(received)


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"A: 1\r\n",
        b"A: 1\r\n b\r\n\t\r\nB:\r\n",
        b"!#$%&'*+-./;<=>?@[]^_`{|}~: \x00\xff\x0b\r\n",
        b">From: a\r\nFrom-: b\r\n",
        b"A: From x Mon Jun  1 10:00:00 2026\r\n",
    ],
)
def test_a_header_that_all_read_alike_stays_as_it_is(received: bytes) -> None:
    """Nothing is mended, removed or refused, and what is forwarded are the very octets."""
    section = read(received)
    assert section.forwarded is received
    assert not section.is_changed
    assert section.malformed == ""
    assert section.rest == b""


MBOX = b"From x Mon Jun  1 10:00:00 2026\r\n"


@pytest.mark.parametrize(
    ("received", "forwarded", "mended"),
    [
        (MBOX + b"A: 1\r\n", b"X-Mailbox-Line: " + MBOX + b"A: 1\r\n", [Mend.MBOX_LINE]),
        (
            MBOX + b">" + MBOX + b">>From : x\r\nA: 1\r\n",
            b"X-Mailbox-Line: " + MBOX + b"X-Mailbox-Line: >" + MBOX + b"X-Mailbox-Line: >>From : x\r\nA: 1\r\n",
            [Mend.MBOX_LINE],
        ),
        (MBOX + b" x\r\n", b"X-Mailbox-Line: " + MBOX + b"\r\n x\r\n", [Mend.MBOX_LINE, *END]),
        (MBOX[:-2], b"X-Mailbox-Line: " + MBOX, [Mend.MBOX_LINE, Mend.LAST_LINE]),
        (b"from x: 1\r\n", b"\r\nfrom x: 1\r\n", END),
        (b">From\tx\r\n", b"\r\n>From\tx\r\n", END),
        (b"A: 1\r\n" + MBOX + b"B: 2\r\n", b"A: 1\r\n\r\n" + MBOX + b"B: 2\r\n", END),
        (b"A : 1\r\nB\t : 2\r\n  3\r\nC: 4\r\n", b"A: 1\r\nB: 2\r\n  3\r\nC: 4\r\n", [Mend.SPACE_BEFORE_COLON]),
        (b"A: 1\r\nB : 2", b"A: 1\r\nB: 2\r\n", [Mend.SPACE_BEFORE_COLON, Mend.LAST_LINE]),
        (b"A: 1", b"A: 1\r\n", [Mend.LAST_LINE]),
        (b"A: 1\r\n b", b"A: 1\r\n b\r\n", [Mend.LAST_LINE]),
        (b"A: 1\r\nb", b"A: 1\r\n\r\nb", END),
        (b" A: 1\r\nB: 2\r\n", b"\r\n A: 1\r\nB: 2\r\n", END),
        (b"\tA: 1\r\n", b"\r\n\tA: 1\r\n", END),
        (b"A: 1\r\nB 2\r\nC: 3\r\n", b"A: 1\r\n\r\nB 2\r\nC: 3\r\n", END),
        (b"A: 1\r\n: 2\r\n", b"A: 1\r\n\r\n: 2\r\n", END),
        (b"A: 1\r\n\x0bB: 2\r\n", b"A: 1\r\n\r\n\x0bB: 2\r\n", END),
        (b"A\x00: 1\r\n", b"\r\nA\x00: 1\r\n", END),
        (b"\xc3\xa4: 1\r\n", b"\r\n\xc3\xa4: 1\r\n", END),
        (b"a" * 999 + b": 1\r\n", b"\r\n" + b"a" * 999 + b": 1\r\n", END),
    ],
)
def test_what_could_be_read_in_two_ways_is_made_plain(received: bytes, forwarded: bytes, mended: list[Mend]) -> None:
    """What is forwarded, and what was mended; strict readers refuse all of these, and say why."""
    section = read(received)
    assert section.forwarded == forwarded
    assert list(section.mended) == mended
    assert section.malformed == ""
    assert HeaderReader(strict=True).read(received).malformed == form.IN_WORDS[mended[0]]


@pytest.mark.parametrize("name", ["From", "sender", "REPLY-TO", "Authentication-Results"])
@pytest.mark.parametrize(
    "shape",
    [
        "no field\r\n{}: x\r\n",
        "no field\r\nA: 1\r\n{}: x",
        "no field\r\n {} : x\r\n",
        " {}: x\r\n",
        "\t{}: x\r\n",
        ": y\r\n{}\t:x\r\n",
        "\ufeff{}: x\r\n",
        "{}\x01: x\r\n",
        "{}\x00 : x\r\n",
        "\x0b{}: x\r\n",
        "no field\x0b{}: x\r\n",
        "no field\u2028{}: x\r\n",
        "{}\u200b: x\r\n",
        "no field\r{}: x\r\n",
        "no field\n{}: x\r\n",
        "From x Mon Jun  1 10:00:00 2026\r\n x\r\n{}: x\r\n",
    ],
)
def test_an_author_or_a_result_after_the_end_is_refused(name: str, shape: str) -> None:
    """A reader who goes on after the header's end would see it; what else stands there is no reason to refuse."""
    received = b"A: 1\r\n" * shape.startswith("no") + shape.replace("{}", name).encode()
    assert name.lower() in read(received).malformed
    other = b"A: 1\r\n" * shape.startswith("no") + shape.replace("{}", f"{name}-x").encode()
    assert read(other).malformed == ""


@pytest.mark.parametrize(
    ("field", "removed"),
    [
        (b"Authentication-Results: mx.example.com; spf=pass smtp.mailfrom=bank.example\r\n", True),
        (b"AUTHENTICATION-results : MX.example.com; none\r\n", True),
        (b"Authentication-Results:\r\n\tmx.example.com 1; dkim=pass header.d=bank.example\r\n", True),
        (b"Authentication-Results: store.example.com; none\r\n", True),
        (b"Authentication-Results: mx.example.org; spf=pass smtp.mailfrom=mx.example.com\r\n", False),
        (b"X-Authentication-Results: mx.example.com; none\r\n", False),
        (b"ARC-Authentication-Results: i=1; mx.example.com; none\r\n", False),
        (b"X-Lychgate-Tag: policy=spf; outcome=pass\r\n", True),
        (b"x-LYCHGATE-anything\t: x\r\n y\r\n", True),
        (b"X-Spam : no\r\n", True),
        (b"x-spam:\r\n", True),
        (b"X-Spam-Status: no\r\n", False),
        (b"Y-X-Spam: no\r\n", False),
        (b"X-Lychgate: no\r\n", False),
    ],
)
@pytest.mark.parametrize("place", ["first", "middle", "last", "last without CRLF"])
def test_only_fields_that_are_the_gateways_to_write_are_removed(field: bytes, removed: bool, place: str) -> None:  # noqa: FBT001 - a case of the table
    """Results that claim one of our names, our own fields, and what configured tags write; wherever they stand."""
    one, two = b"Subject: a\r\n", b"To: b@example.com\r\n"
    received = {"first": field + one + two, "middle": one + field + two}.get(place, one + two + field)
    section = read(received.removesuffix(b"\r\n") if place.endswith("CRLF") else received)
    mended = field.replace(b" :", b":").replace(b"\t:", b":")
    assert [each.raw for each in section.removed] == ([mended] if removed else [])
    assert section.octets == received.replace(field, b"" if removed else mended)
    assert b"".join(each.raw for each in section.fields) == section.octets


async def test_the_message_is_forwarded_with_its_header_mended_at_any_size_of_chunks() -> None:
    """The header in its new form, then every other octet; sizes and line ends are those of what is forwarded."""
    octets = b"A : 1\r\nX-Lychgate-Tag: x\r\nB: 2\r\nno field\r\nC: 3\r\n\r\nA : body\r\n"
    for size in (1, 7, 10_000):
        made = message(octets, chunk=size)
        forwarded = b"".join([chunk async for chunk in made.forwarded.chunks()])
        assert forwarded == b"A: 1\r\nB: 2\r\n\r\nno field\r\nC: 3\r\n\r\nA : body\r\n"
        assert made.forwarded.size == len(forwarded)
        assert made.forwarded.ends_with_newline
        assert b"".join([chunk async for chunk in made.content.chunks()]) == octets
        assert made.size == len(octets)
        assert made.header == b"A: 1\r\nB: 2\r\n"


@pytest.mark.parametrize(
    ("octets", "newline"),
    [(b"A: 1", True), (b"A: 1\r\n\r\nbody", False), (b"A : 1\r\n\r\nbody", False), (b"no field", False), (b"", True)],
)
async def test_the_end_of_what_is_forwarded_is_known(octets: bytes, newline: bool) -> None:  # noqa: FBT001 - the same
    """Whether the last line has its CRLF decides how a message is sent; a mended last line has it."""
    made = message(octets)
    forwarded = b"".join([chunk async for chunk in made.forwarded.chunks()])
    assert made.forwarded.ends_with_newline is newline
    assert made.forwarded.size == len(forwarded)
    assert (not octets or forwarded.endswith(b"\r\n")) is newline


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"A: 1",
                b" b",
                b"\t",
                b"",
                b"From x",
                b">From : y",
                b"From: z",
                b"X-Spam: 1",
                b"B : 2",
                b":",
                b"no",
                b"\xff: x",
            ]
        ),
        st.binary(max_size=12).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"")),
    ),
    max_size=8,
)


@given(LINES, st.sampled_from([b"\r\n", b""]))
def test_a_second_reading_changes_nothing(lines: list[bytes], end: bytes) -> None:
    """What was mended needs no mending, reads the same, and no octet is lost but those that the rules name."""
    received = b"\r\n".join(line for line in lines if line) + (end if any(lines) else b"")
    section = read(received)
    if not section.is_changed:
        assert form._mended(received) == (received, b"", ())  # the quick look finds nothing where there is nothing
    again = read(section.octets)
    assert not again.is_changed
    assert again.fields == section.fields
    assert b"".join(field.raw for field in section.fields) == section.octets
    kept = section.octets + b"".join(field.raw for field in section.removed) + section.rest
    plain = received.replace(b" :", b":").replace(b"\t:", b":")
    assert len(kept.replace(b"X-Mailbox-Line: ", b"").replace(b"\r\n", b"")) >= len(plain.replace(b"\r\n", b"")) - 64
    assert section.rest == b"" or received.endswith(section.rest)


FOLDED = b'From: "Jane\r\n jane@bank.example" <x@sender.example>\r\n'


@pytest.mark.parametrize(
    ("received", "forwarded"),
    [
        (FOLDED, FOLDED.replace(b"\r\n ", b" ")),
        (b"X-" + FOLDED + FOLDED + b"A: 1\r\n", b"X-" + FOLDED + FOLDED.replace(b"\r\n ", b" ") + b"A: 1\r\n"),
        (b"From: (jane\r\n\tx@bank.example) <x@a.example>\r\n", b"From: (jane\tx@bank.example) <x@a.example>\r\n"),
        (
            b'From: "=?utf-8?q?Jane_=28jane=40corp.example=29?=\r\n =?utf-8?q?_via_X?=" <s@a.example>\r\n',
            b'From: "=?utf-8?q?Jane_=28jane=40corp.example=29?= =?utf-8?q?_via_X?=" <s@a.example>\r\n',
        ),
        (b'From: "Doe (jane@a.example)\r\n via X" <help@a.example>\r\n', None),
        (b'From: "Jane\r\n Doe" <x@sender.example>\r\n', None),
        (b"From: a@a.example,\r\n b@b.example\r\n", None),
        (b"To: a@a.example\r\n" + FOLDED.replace(b"From", b"Reply-To"), None),
        (FOLDED.replace(b"Jane", b"Jane" * 300), None),
    ],
)
def test_a_from_field_whose_names_are_folded_is_unfolded(received: bytes, forwarded: bytes | None) -> None:
    """Some readers end a string at the fold; where the line would be too long, the author is read with that in mind."""
    section = read(received)
    assert section.forwarded == (received if forwarded is None else forwarded)
    assert list(section.mended) == ([] if forwarded is None else [Mend.FOLDED_FROM])


@pytest.mark.parametrize(("octets", "is_unfolded"), [(form.MAX_LINE, True), (form.MAX_LINE + 1, False)])
def test_what_is_unfolded_is_a_line_that_servers_take(octets: int, *, is_unfolded: bool) -> None:
    """1000 octets with its CRLF: a longer one would be folded again, who knows where."""
    received = FOLDED.replace(b"Jane\r", b"Jane" + b"x" * (octets - len(FOLDED)) + b"\r")
    section = read(received)
    assert len(received) == octets
    assert section.octets == (received.replace(b"\r\n ", b" ") if is_unfolded else received)
