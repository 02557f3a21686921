"""The smuggling sequences of The-Login/SMTP-Smuggling-Tools, each at every split point, with both settings.

A sender that passes a sequence on hides a second envelope and message behind it. Whatever another server would make of
it, here there is one message, and what stands in it is never read as a command.
"""

import json
from functools import cache

import pytest

from gateway.smtp import reply
from gateway.smtp.events import Chunk, Data, EndOfData, Event, Mail, Quit, Rcpt
from gateway.smtp.server import BareNewlines, NulOctets, ServerOptions, State
from tests.support.conformance import conformance_file
from tests.support.smtp_engine import engine, feed, feed_pieces, octets

BEFORE = b"EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
SMUGGLED = b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"


@cache
def sequences() -> list[bytes]:
    """Every end-of-data sequence of the data, inbound and outbound."""
    data = json.loads(conformance_file("smuggling/eod_sequences.json").read_text("utf-8"))
    found = sorted({sequence.encode("latin-1") for sequence in data["inbound"] + data["outbound"]})
    assert len(found) == 9
    return found


def messages(events: list[Event]) -> int:
    """How many messages came to their end."""
    return sum(isinstance(event, EndOfData) for event in events)


@pytest.mark.parametrize("bare_newlines", BareNewlines)
@pytest.mark.parametrize("nul", NulOctets)
def test_a_sequence_ends_no_message_at_any_split(bare_newlines: BareNewlines, nul: NulOctets) -> None:
    """However the packets are cut, one message comes out, refused or holding the smuggled text, and QUIT follows."""
    for sequence in sequences():
        body = b"Subject: outer\r\n\r\nouter" + sequence + SMUGGLED
        sent = body + b"\r\n.\r\nQUIT\r\n"
        expected: list[Event] | None = None
        for cut in range(len(sent) + 1):
            connection = engine(ServerOptions(hostname="x", bare_newlines=bare_newlines, nul=nul))
            assert isinstance(feed(connection, BEFORE)[-1], Data)
            events = feed_pieces(connection, [sent[:cut], sent[cut:]])
            expected = events if expected is None else expected
            assert events == expected, (sequence, cut)
        assert expected is not None
        assert messages(expected) == 1
        assert not [event for event in expected if isinstance(event, Mail | Rcpt | Data)]
        *message, end, last = expected
        assert last == Quit()
        assert isinstance(end, EndOfData)
        if end.problem is None:
            assert len(message) == 1
            assert isinstance(message[0], Chunk)
            assert b"MAIL FROM:<smuggled@example.org>\r\n" in message[0].data
            assert is_one_reading(message[0].data, nul)
        else:
            assert end.problem in {reply.BARE_NEWLINE_DATA, reply.NUL_IN_DATA}
            assert message == []


def is_one_reading(message: bytes, nul: NulOctets) -> bool:
    """Whether every server reads the message alike: no bare CR or LF, and no NUL unless the operator takes NULs."""
    rest = message.replace(b"\r\n", b"")
    return not (b"\r" in rest or b"\n" in rest or (nul is NulOctets.REJECT and b"\0" in rest))


@pytest.mark.parametrize("bare_newlines", BareNewlines)
def test_a_sequence_octet_by_octet(bare_newlines: BareNewlines) -> None:
    """The same holds when every octet comes in a packet of its own."""
    for sequence in sequences():
        connection = engine(ServerOptions(hostname="x", bare_newlines=bare_newlines))
        feed(connection, BEFORE)
        events = feed_pieces(connection, octets(b"outer" + sequence + SMUGGLED + b"\r\n.\r\n"))
        assert messages(events) == 1
        assert connection.state is State.READY
        assert not [event for event in events if isinstance(event, Mail)]


@pytest.mark.parametrize("bare_newlines", BareNewlines)
def test_a_sequence_in_a_chunk_or_a_command_smuggles_nothing(bare_newlines: BareNewlines) -> None:
    """BDAT counts octets, so no sequence ends it; and in a command line no sequence makes two commands of one."""
    for sequence in sequences():
        body = b"outer" + sequence + SMUGGLED
        connection = engine(ServerOptions(hostname="x", bare_newlines=bare_newlines))
        feed(connection, BEFORE.removesuffix(b"DATA\r\n"))
        events = feed(connection, b"BDAT %d LAST\r\n%sQUIT\r\n" % (len(body), body))
        assert messages(events) == 1
        assert events[-1] == Quit()
        assert not [event for event in events if isinstance(event, Mail)]
        line = sequence
        while b"\r\n" in line:  # which would rightly end the command
            line = line.replace(b"\r\n", b"\n")
        connection = engine(ServerOptions(hostname="x", bare_newlines=bare_newlines))
        events = feed(connection, b"HELO c\r\nNOOP " + line + b"MAIL FROM:<smuggled@example.org>\r\n")
        assert not [event for event in events if isinstance(event, Mail)]
