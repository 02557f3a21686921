"""Drive the server engine without a socket: scripts of C: and S: lines, at any framing."""

from collections.abc import Callable, Iterable
from enum import StrEnum

from gateway.smtp import reply
from gateway.smtp.events import (
    Auth,
    Bdat,
    Chunk,
    Data,
    EndOfChunk,
    EndOfData,
    Event,
    Fatal,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    StartTls,
)
from gateway.smtp.reply import Reply
from gateway.smtp.server import ServerConnection, ServerOptions, TlsState

ALL_EXTENSIONS = frozenset({"8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "PIPELINING"})
GREETING = Reply(220, None, "mx.example.com ESMTP")


class Framing(StrEnum):
    """How the client's octets arrive."""

    WHOLE = "whole"
    OCTETS = "octet by octet"
    TRAILING = "with trailing data"


def engine(
    options: ServerOptions | None = None,
    *,
    tls: TlsState = TlsState.NONE,
    extensions: frozenset[str] = ALL_EXTENSIONS,
    auth_mechanisms: tuple[str, ...] = (),
    auth_required: bool = False,
) -> ServerConnection:
    """An engine that has greeted its client."""
    connection = ServerConnection(
        options or ServerOptions(hostname="mx.example.com"),
        tls=tls,
        extensions=extensions,
        auth_mechanisms=auth_mechanisms,
        auth_required=auth_required,
    )
    connection.greet(GREETING)
    connection.data_to_send()
    return connection


def welcoming(connection: ServerConnection, event: Event) -> Reply:
    """Answers of a door that takes everything the engine has no objection to."""
    match event:
        case Hello():
            return connection.hello_reply()
        case Mail():
            return reply.SENDER_OK
        case Rcpt():
            return reply.RECIPIENT_OK
        case Data():
            return reply.START_MAIL_INPUT
        case EndOfChunk():
            return event.problem or reply.CHUNK_OK
        case EndOfData():
            return event.problem or reply.ACCEPTED
        case Quit():
            return reply.BYE
        case StartTls():
            return reply.READY_FOR_TLS
        case Auth():
            return Reply(334, None, "VXNlcm5hbWU6")
        case _:
            return reply.OK


Answer = Callable[[ServerConnection, Event], Reply]


def feed(connection: ServerConnection, octets: bytes, answer: Answer = welcoming) -> list[Event]:
    """Hand octets to the engine at once, answer what awaits a reply, and return the events.

    A message's octets that come with its end are given as a chunk of their own, as if they had come before it.
    """
    connection.receive_data(octets)
    events: list[Event] = []
    while (event := connection.next_event()) is not None:
        if isinstance(event, EndOfData) and event.data:
            events += [Chunk(event.data), EndOfData(event.problem)]
        else:
            events.append(event)
        if not isinstance(event, Bdat | Chunk | Refused | Fatal):
            connection.reply(answer(connection, event))
    return events


def feed_pieces(connection: ServerConnection, pieces: Iterable[bytes], answer: Answer = welcoming) -> list[Event]:
    """The same piece by piece; the chunks of a message are joined, and those of a refused message dropped."""
    events = [event for piece in pieces for event in feed(connection, piece, answer)]
    return joined(events)


def joined(events: list[Event]) -> list[Event]:
    """Events as they are whatever the framing: a message's chunks become one, those of a refused message none."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Chunk) and out and isinstance(out[-1], Chunk):
            out[-1] = Chunk(out[-1].data + event.data)
        elif isinstance(event, EndOfData | EndOfChunk) and event.problem and out and isinstance(out[-1], Chunk):
            out[-1] = event
        else:
            out.append(event)
    return out


def octets(data: bytes) -> list[bytes]:
    """One piece an octet."""
    return [data[index : index + 1] for index in range(len(data))]


def play(script: str, framing: Framing, connection: ServerConnection, answer: Answer = welcoming) -> list[Event]:
    r"""Run a script and compare every reply, in order; return the events.

    ``C: `` lines are the client's, in Python's escapes, with CRLF; ``C* `` ones without CRLF; ``S: `` lines are the
    server's. The client sends everything at once: order between its lines and the server's is for the reader.
    """
    sent = b""
    expected = b""
    for line in script.strip().splitlines():
        kind, text = line.strip()[:2], line.strip()[3:]
        if kind == "S:":
            expected += text.encode() + b"\r\n"
        else:
            sent += text.encode().decode("unicode_escape").encode("latin-1") + (b"\r\n" if kind == "C:" else b"")
    if framing is Framing.TRAILING:
        sent += b"NOOP\r\nNOO"
        expected += b"250 2.0.0 Ok\r\n"
    events = feed_pieces(connection, octets(sent) if framing is Framing.OCTETS else [sent], answer)
    assert connection.data_to_send().decode() == expected.decode()
    return events
