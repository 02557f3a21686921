"""Smuggling: a message whose text holds something that somebody might take for the end of data.

Every sequence of the public scanner, cut into packets at every place, by DATA and by BDAT, through the gateway into a
real Postfix with its defaults: one message in is at most one message out, and no command of the text is ever executed.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.support.gateway import Gateway
from tests.support.postfix import Postfix
from tests.support.wire import Answer, Wire

pytestmark = pytest.mark.peer("postfix")

SETTINGS: Final = [(newlines, nul) for newlines in ("reject", "normalize") for nul in ("reject", "accept")]

WITH_CHUNKS, WITHOUT_CHUNKS = "alice@example.com", "alice@other.example"
"""Recipients whose mail goes to Postfix with and without CHUNKING."""

SMUGGLED: Final = (
    b"MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n"
)

BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@pytest.fixture(scope="module")
def gateway(postfix: Postfix) -> Iterator[Gateway]:
    """A listener for each setting, in front of Postfix with and without CHUNKING."""
    listeners = {f"{newlines} {nul}": {"bare_newlines": newlines, "nul": nul} for newlines, nul in SETTINGS}
    settings = {
        "backends": {
            "chunks": {"servers": [f"127.0.0.1:{postfix.ports['plain']}"]},
            "lines": {"servers": [f"127.0.0.1:{postfix.ports['chunkless']}"]},
        },
        "domains": {"example.com": {"backend": "chunks"}, "other.example": {"backend": "lines"}},
        "policies": ["relay"],
        "limits": {"idle_commands": 1_000_000, "errors": 1_000_000},
    }
    with Gateway(settings, listeners=listeners) as running:
        yield running


@pytest.fixture(scope="module")
def sequences(conformance_data: Path) -> list[bytes]:
    """The scanner's sequences, those for both directions."""
    data = json.loads((conformance_data / "smuggling/eod_sequences.json").read_text())
    return [sequence.encode("latin-1") for sequence in dict.fromkeys([*data["inbound"], *data["outbound"]])]


class Sender:
    """Sends in pieces that the gateway reads one by one.

    A second connection to the same worker tells when it has read a piece: it looks at all its sockets at once, so what
    was sent before a NOOP is read before the NOOP is answered.
    """

    def __init__(self, port: int) -> None:
        self.wire = Wire(port)
        self.wire.hello()
        self._other = Wire(port)

    def send(self, pieces: Sequence[bytes]) -> None:
        """Send pieces."""
        for piece in pieces:
            self.wire.send(piece)
            assert self._other.command("NOOP").code == 250

    def begin(self, recipient: str, *more: str) -> None:
        """Open a transaction."""
        lines = ["MAIL FROM:<sender@example.org>", f"RCPT TO:<{recipient}>", *more]
        self.wire.send("".join(line + "\r\n" for line in lines).encode())
        answers = self.wire.replies(len(lines))
        assert [answer.code // 100 for answer in answers] == [2, 2, 3][: len(lines)], answers

    def last(self) -> Answer:
        """The one reply that is due; there must be no other."""
        answer = self.wire.reply()
        assert self.wire.command("NOOP").lines == ("2.0.0 Ok",)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()
        self._other.close()


def by_data(sender: Sender, pieces: Sequence[bytes]) -> Answer:
    """Send a message with DATA, each piece in a packet."""
    sender.begin(WITHOUT_CHUNKS, "DATA")
    sender.send([*pieces[:-1], pieces[-1] + b".\r\n"])
    return sender.last()


def by_one_chunk(sender: Sender, pieces: Sequence[bytes]) -> Answer:
    """Send a message with one BDAT, each piece in a packet."""
    sender.begin(WITH_CHUNKS)
    sender.send([b"BDAT %d LAST\r\n" % sum(map(len, pieces)) + pieces[0], *pieces[1:]])
    return sender.last()


def by_chunks(sender: Sender, pieces: Sequence[bytes]) -> Answer:
    """Send a message with a BDAT for each piece; behind a refused one the others are dropped."""
    sender.begin(WITHOUT_CHUNKS)
    answers: list[Answer] = []
    for number, piece in enumerate(pieces, 1):
        sender.wire.send(b"BDAT %d%s\r\n" % (len(piece), b" LAST" if number == len(pieces) else b"") + piece)
        answers.append(sender.wire.reply())
    refused = [answer for answer in answers if answer.code >= 400]
    assert sender.wire.command("RSET").code == 250
    return refused[0] if refused else answers[-1]


def by_chunk_without_end(sender: Sender, pieces: Sequence[bytes]) -> Answer:
    """Send a message with BDAT that has nothing behind the sequence."""
    return by_one_chunk(sender, [*pieces[:-1], pieces[-1].removesuffix(SMUGGLED)])


def by_chunks_without_end(sender: Sender, pieces: Sequence[bytes]) -> Answer:
    """The same, for a server that has no CHUNKING: DATA has to add what is missing."""
    return by_chunks(sender, [*pieces[:-1], pieces[-1].removesuffix(SMUGGLED) or b"."])


WAYS: Final[Sequence[Callable[[Sender, Sequence[bytes]], Answer]]] = (
    by_data, by_one_chunk, by_chunks, by_chunk_without_end, by_chunks_without_end,
)  # fmt: skip


def cuts(head: bytes, sequence: bytes) -> Iterator[list[bytes]]:
    """A message with the sequence in it, cut at every place of the sequence, and at all of them."""
    for place in range(len(sequence) + 1):
        yield [head + sequence[:place], sequence[place:] + SMUGGLED]
    yield [head, *(sequence[at : at + 1] for at in range(len(sequence))), SMUGGLED]


@pytest.mark.parametrize(("newlines", "nul"), SETTINGS)
def test_one_message_in_is_at_most_one_message_out(
    gateway: Gateway, postfix: Postfix, sequences: list[bytes], newlines: str, nul: str
) -> None:
    """Whatever the sequence, the cut, the command and the setting, Postfix gets the one message or none."""
    before = postfix.queue_ids()
    accepted: set[str] = set()
    cases = [
        (way, pieces)
        for sequence in sequences
        for way in WAYS
        for pieces in cuts(b"Subject: carrier\r\n\r\ntext", sequence)
    ]
    with Sender(gateway.ports[f"{newlines} {nul}"]) as sender:
        for way, pieces in cases:
            answer = way(sender, pieces)
            text = b"".join(pieces)
            if way in {by_chunk_without_end, by_chunks_without_end}:
                text = text.removesuffix(SMUGGLED)
            refused = (newlines == "reject" and BARE.search(text)) or (nul == "reject" and b"\0" in text)
            assert answer.code == (554 if refused else 250), (way, pieces, answer)
            if answer.code == 250:
                accepted.add(answer.text.rpartition(" ")[2])
    arrived = postfix.queue_ids() - before
    assert len(cases) > 200
    assert arrived == accepted
    for queue_id in arrived:
        queued = (postfix.folder / "queue/hold" / queue_id).read_bytes()
        assert b"sender@example.org" in queued
        assert b"S\x15smuggled@evil.example" not in queued  # the record of a sender: its type, its length, the address
        assert queued.count(b"Subject: carrier") == 1


def test_the_sender_record_looks_as_the_test_expects(gateway: Gateway, postfix: Postfix) -> None:
    """A message of the smuggler's own would be seen as such in Postfix's queue."""
    with Wire(gateway.port) as client:
        client.hello()
        queue_id = client.transaction("smuggled@evil.example").text.rpartition(" ")[2]
    assert b"S\x15smuggled@evil.example" in (postfix.folder / "queue/hold" / queue_id).read_bytes()
