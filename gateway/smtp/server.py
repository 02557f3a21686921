r"""The server side of an SMTP conversation without I/O (RFC 5321 and the extensions the gateway offers).

``receive_data`` takes octets as they arrive, ``next_event`` yields what the client did, ``reply`` answers the event
that awaits it, ``data_to_send`` gives the octets to write. The engine keeps what the protocol needs and nothing else:
the state (``states.TABLE``), the terms of the connection (``commands.Terms``), the octets not yet read, the decoder of
the message that comes in, counters of errors. Whether a sender is welcome is not its business.

It implements RFC 5321 4 with PIPELINING (2920), 8BITMIME (6152), SMTPUTF8 (6531), SIZE (1870), DSN (3461), CHUNKING
(3030), ENHANCEDSTATUSCODES (2034), STARTTLS (3207) and AUTH (4954). It answers itself what needs no decision: NOOP,
HELP, VRFY (252) and every command that is unknown, malformed or out of order (``Refused``).

What it guards:

- Only CRLF ends a command. A command with a bare CR or LF is refused; with ``BareNewlines.NORMALIZE`` the octet counts
  as white space, and still ends nothing, so that no setting lets one line be read as two commands.
- Only CRLF.CRLF ends the data (``data.DataDecoder``). A message with a problem is read to its true end and not kept.
- The octets of a refused BDAT are read and dropped; a BDAT whose size can't be read ends the session, because what
  follows is a message that must not be read as commands.
- Octets that arrive between STARTTLS and the handshake end the session (RFC 3207 4.2; CVE-2011-0411).
- Commands of HTTP end the session at once: a browser was made to speak to a mail server.
- A command line over its limit is dropped up to its CRLF and answered once. Nothing grows with what a client sends, but
  the octets that a door hands over while an event awaits its reply (stop reading then; see ``unread``), and the replies
  that it has not taken (see ``unsent``).
- Whatever a client can repeat counts against a limit of ``ServerOptions``, and one too many ends the session with 421:
  errors, unknown and idle commands, refusals, transactions, chunks, octets that are dropped. What a message may have of
  octets, and a transaction of recipients, ends no session; those above it are refused, and refusals count.

``Mail`` does not compare SIZE with ``message_size``: a policy does, so that the refusal is recorded with its envelope.
Programming errors of the door raise ``RuntimeError``; nothing that a client sends raises anything.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from gateway.smtp import grammar, reply
from gateway.smtp.buffer import OVERLONG, InputBuffer
from gateway.smtp.commands import HANDLERS, ServerOptions, Terms, TlsState, keywords
from gateway.smtp.data import CR, LF, BareNewlines, BdatChecker, DataDecoder, NulOctets, SizeMeter
from gateway.smtp.events import (
    Auth,
    AuthResponse,
    Bdat,
    Chunk,
    EndOfChunk,
    EndOfData,
    Event,
    Fatal,
    FatalReason,
    Hello,
    Refused,
    StartTls,
)
from gateway.smtp.grammar import GrammarError
from gateway.smtp.reply import Reply
from gateway.smtp.states import COMMAND_STATES, TABLE, Command, Row, State, Transition

__all__ = ["BareNewlines", "NulOctets", "ServerConnection", "ServerOptions", "State", "TlsState"]

_VERBS: Final[Mapping[bytes, Command]] = {
    command.value.encode(): command for command in Command if command.value.isupper()
}
_FORBIDDEN_VERBS: Final = frozenset(
    {b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE"}  # RFC 9110 9, RFC 5789
)
_BEFORE_TLS: Final = frozenset(  # RFC 3207 4; and HELO, whose client learns at its next command what is wanted of it
    {Command.NOOP, Command.EHLO, Command.HELO, Command.STARTTLS, Command.QUIT, Command.UNKNOWN}
)
_CHANGES: Final = frozenset({EndOfData, StartTls, Hello, Auth, AuthResponse})
"""Events whose positive reply changes more than the state."""
_PROGRESS: Final = (EndOfData, StartTls)
"""Events after which a client may say some more that leads nowhere."""
_OCTETS_A_CHUNK: Final = 32  # less than a line: there are clients that send each line as a chunk
_MAIL: Final = Command.MAIL
_COUNTED: Final = frozenset(
    {Command.MAIL, Command.HELO, Command.EHLO, Command.RSET, Command.NOOP, Command.VRFY, Command.HELP}
)
_TRANSACTION: Final = frozenset({State.MAIL, State.NO_RECIPIENT, State.RCPT, State.DATA, State.CHUNK, State.BDAT})
# What is asked for at every command, by names of this module: members of an enum are slow to find before Python 3.12.
_START: Final = State.START
_CONNECTED: Final = State.CONNECTED
_DATA: Final = State.DATA
_CLOSED: Final = State.CLOSED
_TLS: Final = State.TLS
_BDAT: Final = Command.BDAT
_STARTTLS: Final = Command.STARTTLS
_END_OF_DATA: Final = Command.END_OF_DATA
_TLS_REQUIRED: Final = TlsState.REQUIRED
_SHOWN_VERB: Final = 20
_CLOSE: Final = 421  # RFC 5321 3.8
_IN_ANOTHER_TRANSACTION: Final = "4.5.3"  # too many recipients (RFC 3463 3.6): the door bounds how many


class ServerConnection(Terms):
    """One connection's engine; its options and attributes are those of ``Terms`` and these.

    Attributes:
        state: Where the conversation stands.
        unread: Octets received and not read yet.
        error_count: How many commands the engine has refused.
        unsent: Octets of replies that ``data_to_send`` has not handed out, at least.
    """

    __slots__ = (
        "_awaiting",
        "_checker",
        "_chunk_last",
        "_chunk_left",
        "_chunk_refusal",
        "_chunks",
        "_decoder",
        "_empty_chunks",
        "_idle",
        "_meter",
        "_out",
        "_read",
        "_refusals",
        "_row",
        "_transactions",
        "_transition",
        "_unknown",
        "error_count",
        "state",
        "unread",
        "unsent",
    )

    def __init__(
        self,
        options: ServerOptions,
        *,
        tls: TlsState,
        extensions: frozenset[str],
        auth_mechanisms: tuple[str, ...] = (),
        auth_required: bool = False,
    ) -> None:
        super().__init__(
            options, tls=tls, extensions=extensions, auth_mechanisms=auth_mechanisms, auth_required=auth_required
        )
        self.error_count = 0
        self.unread = InputBuffer()
        self.unsent = 0
        self._out: list[bytes] = []
        self._awaiting: Event | None = None
        self._read: Callable[[ServerConnection], Event | None]
        self._transition: Transition  # where the reply that is awaited leads
        self._unknown = 0
        self._idle = 0
        self._refusals = 0
        self._transactions = 0
        self._decoder: DataDecoder  # of the message that is coming in
        self._checker: BdatChecker
        self._meter: SizeMeter
        self._chunk_left = 0
        self._chunk_last = False
        self._chunks = 0  # of the message
        self._empty_chunks = 0
        self._chunk_refusal: Reply  # of the chunk that is read and dropped
        self._enter(_START)

    # -- the door's side ------------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open: from the reply to MAIL to that to its message, or to what gives it up."""
        return self.state in _TRANSACTION

    def greet(self, greeting: Reply) -> None:
        """Open the conversation: 220, or 554 after which only QUIT is taken (RFC 5321 3.1), or 421."""
        if self.state is not _START:
            raise RuntimeError("the client has been greeted")
        self._out.append(greeting.wire)
        if greeting.code == _CLOSE:
            self._enter(State.CLOSED)
        else:
            self._enter(_CONNECTED if greeting.is_positive else State.REFUSED)

    def receive_data(self, data: bytes) -> None:
        """Take octets from the client."""
        if self.state is not _CLOSED:
            self.unread.feed(data)

    def data_to_send(self) -> bytes:
        """The octets for the client that are not written yet; they are handed out once."""
        self.unsent = 0
        out = self._out
        if not out:
            return b""
        if len(out) == 1:
            return out.pop()
        data = b"".join(out)
        out.clear()
        return data

    def next_event(self) -> Event | None:
        """What the client did next; None when more octets are needed, or nothing is read any more.

        Raises:
            RuntimeError: The last event still awaits its reply.
        """
        if self._awaiting is not None:
            raise RuntimeError(f"{type(self._awaiting).__name__} awaits its reply")
        if self.unread.is_empty and self._read is _READ_COMMAND:
            return None
        return self._read(self)

    def reply(self, answer: Reply) -> None:
        """Answer the event that awaits a reply.

        Raises:
            RuntimeError: No event awaits one.
        """
        event = self._awaiting
        if event is None:
            raise RuntimeError("no event awaits a reply")
        self._awaiting = None
        code = answer.code
        if code < 300:  # noqa: PLR2004 - 2yz
            target = self._transition.completed
            if target is _TLS and not self.unread.is_empty:
                self._enter(target)  # never says 220: next_event ends the session
                return
            if type(event) in _CHANGES:
                self._complete(event)
        elif code < 400:  # noqa: PLR2004 - 3yz
            target = self._transition.intermediate
        else:
            target = _CLOSED if code == _CLOSE else self._transition.refused
            self._refusals += answer.enhanced != _IN_ANOTHER_TRANSACTION
        self._out.append(answer.wire)
        self.unsent += len(answer.wire)
        if target is not self.state:
            self._enter(target)
        if self._refusals > self.options.refusals and target is not _CLOSED:
            self._read = ServerConnection._read_no_more

    def _complete(self, event: Event) -> None:
        """What a 2yz reply changes beside the state."""
        if isinstance(event, Hello):
            self.extended = event.extended
            return
        self._idle = 0
        if not isinstance(event, _PROGRESS):
            self.authenticated = True

    def hello_reply(self, text: str | None = None) -> Reply:
        """The positive reply to the ``Hello`` that was just yielded: the name, and after EHLO what is offered.

        Args:
            text: The first line, the hostname by default.
        """
        text = text or self.options.hostname
        if isinstance(self._awaiting, Hello) and self._awaiting.extended:
            return _ehlo_reply(text, self.options.message_size, self.tls, self.extensions, self.mechanisms)
        return _helo_reply(text)

    def tls_started(self) -> None:
        """The handshake is done: what was said before it is forgotten (RFC 3207 4.2).

        Octets that came before it and not through it still end the session, at the next ``next_event``.
        """
        if self.state is not State.TLS:
            raise RuntimeError("no TLS handshake was due")
        if not self.unread.is_empty:
            return
        self.tls = TlsState.ACTIVE
        self.extended = False
        self._enter(State.CONNECTED)

    # -- reading --------------------------------------------------------------------------------------------------

    def _new_meter(self) -> SizeMeter:
        options = self.options
        return SizeMeter(options.message_size, options.header_size, options.header_lines)

    def _enter(self, state: State) -> None:
        self.state = state
        self._row: Row
        self._row, self._read = _ENTRANCES[state]
        if state is _DATA:
            self._decoder = DataDecoder(self.options.bare_newlines, self.options.nul)
            self._meter = self._new_meter()
        elif state is _CLOSED:
            self.unread.clear()

    def _read_nothing(self) -> None:
        return None

    def _read_no_more(self) -> Event | None:
        return self._fatal(reply.TOO_MANY_REFUSALS, FatalReason.REFUSALS)

    def _read_command(self) -> Event | None:
        options = self.options
        auth_line = options.auth_line if self.auth_mechanisms else 0
        while (line := self.unread.take_line(options.command_line, auth_line)) is not None:
            event = self._bare(line) if LF in line or CR in line else self._command(line)
            if event is not None:
                return event
        return self._incomplete()

    def _incomplete(self) -> Event | None:
        """There is no whole line yet; it may be one of which too much was dropped."""
        if self.unread.dropped > self.options.dropped_octets:
            return self._fatal(reply.TOO_MUCH_DROPPED, FatalReason.DROPPED_OCTETS)
        return None

    def _bare(self, line: bytes) -> Event | None:
        """A line that was too long, or that has a bare CR or LF."""
        if line == OVERLONG:
            return self._refuse(reply.LINE_TOO_LONG, "")
        if self.options.bare_newlines is BareNewlines.REJECT:
            return self._refuse(reply.BARE_NEWLINE_COMMAND, _show(line.split(b" ", 1)[0]))
        return self._command(line.replace(b"\r", b" ").replace(b"\n", b" "))

    def _command(self, line: bytes) -> Event | None:
        """Carry out one command line; None when it has been answered here and is of no interest to anyone."""
        verb, _, argument = line.partition(b" ")
        command = _VERBS.get(verb) or _VERBS.get(verb.upper(), Command.UNKNOWN)
        if command is _BDAT:
            return self._bdat(argument)
        entry = self._row[command]
        if self.tls is _TLS_REQUIRED or self.auth_required:
            entry = self._demanded(command, entry)
        if isinstance(entry, Reply):
            return self._refuse_unknown(entry, verb) if command is Command.UNKNOWN else self._refuse(entry, command)
        if command in _COUNTED and (end := self._count(command)) is not None:
            return end
        try:
            event = HANDLERS[command](self, argument)
        except GrammarError as error:
            return self._refuse(error.reply, command)
        except UnicodeDecodeError:
            return self._refuse(reply.SYNTAX_ERROR, command)
        if isinstance(event, Reply):
            self._out.append(event.wire)
            return None
        if command is _STARTTLS and not self.unread.is_empty:
            return self._fatal(reply.EARLY_TLS_OCTETS, FatalReason.EARLY_TLS_OCTETS)
        self._awaiting = event
        self._transition = entry
        return event

    def _count(self, command: Command) -> Event | None:
        """Count a command that leads nowhere by itself, or begins a transaction; one too many ends the session."""
        if command is _MAIL:
            self._transactions += 1
            if self._transactions > self.options.transactions:
                return self._fatal(reply.TOO_MANY_TRANSACTIONS, FatalReason.TRANSACTIONS)
            return None
        self._idle += 1
        if self._idle > self.options.idle_commands:
            return self._fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)
        return None

    def _demanded(self, command: Command, entry: Transition | Reply) -> Transition | Reply:
        """What TLS and authentication say to a command, where they are required, and else the state's entry."""
        if self.tls is TlsState.REQUIRED and command not in _BEFORE_TLS and self.state is not State.REFUSED:
            return reply.TLS_REQUIRED
        if self.auth_required and not self.authenticated and command is Command.MAIL and not isinstance(entry, Reply):
            return reply.AUTH_REQUIRED
        return entry

    def _read_auth(self) -> Event | None:
        line = self.unread.take_line(self.options.auth_line)
        if line is None:
            return self._incomplete()
        if (end := self._count(Command.AUTH_RESPONSE)) is not None:
            return end
        # What is no base64, too long a line included, can't go to the backend: to cancel fails the exchange in order.
        return self._await(AuthResponse(line if grammar.is_base64(line) else b"*"), Command.AUTH_RESPONSE)

    def _read_early_tls(self) -> Event | None:
        if self.unread.is_empty:
            return None
        return self._fatal(reply.EARLY_TLS_OCTETS, FatalReason.EARLY_TLS_OCTETS)

    # -- the message ----------------------------------------------------------------------------------------------

    def _read_data(self) -> Event | None:
        octets = self.unread.take_all()
        if not octets:
            return None
        decoder = self._decoder
        data = decoder.feed(octets)
        good = self._is_good(decoder, data)
        if not decoder.finished:
            return Chunk(data) if good else None
        self.unread.feed(decoder.rest)
        decoder.rest = b""
        return self._await(EndOfData(decoder.problem, data if good else b""), _END_OF_DATA)

    def _bdat(self, argument: bytes) -> Event | None:
        try:
            size, last = grammar.parse_bdat(argument.decode("ascii").rstrip(" \t"))
        except (GrammarError, UnicodeDecodeError):
            return self._fatal(reply.MALFORMED_BDAT, FatalReason.MALFORMED_BDAT)
        entry = self._demanded(Command.BDAT, self._row[Command.BDAT])
        if not isinstance(entry, Reply) and "CHUNKING" not in self.extensions:
            entry = reply.NOT_IMPLEMENTED
        self._chunk_left = size
        if isinstance(entry, Reply):
            if size > self.options.dropped_octets:
                return self._fatal(reply.TOO_MUCH_DROPPED, FatalReason.DROPPED_OCTETS)
            self._chunk_refusal = entry
            self._read = ServerConnection._read_refused_chunk
            return self._read_refused_chunk()
        self._chunk_last = last
        if self.state is State.RCPT:  # the first chunk
            self._checker = BdatChecker(self.options.bare_newlines, self.options.nul)
            self._meter = self._new_meter()
            self._chunks = self._empty_chunks = 0
        if self._is_one_chunk_too_many(size):
            return self._fatal(reply.TOO_MANY_CHUNKS, FatalReason.CHUNKS)
        self._enter(entry.completed)
        return Bdat(size, last)

    def _is_one_chunk_too_many(self, size: int) -> bool:
        options = self.options
        self._chunks += 1
        self._empty_chunks += size == 0
        most = options.chunks + self._meter.size // _OCTETS_A_CHUNK
        return self._empty_chunks > options.empty_chunks or self._chunks > most

    def _read_chunk(self) -> Event | None:
        checker = self._checker
        if self._chunk_left:
            octets = self.unread.take(self._chunk_left)
            if not octets:
                return None
            self._chunk_left -= len(octets)
            data = checker.feed(octets)
            if self._is_good(checker, data):
                return Chunk(data)
            if self._chunk_left:
                return None
        if not self._chunk_last:
            return self._await(EndOfChunk(checker.problem), Command.END_OF_CHUNK)
        data = checker.finish()
        if self._is_good(checker, data):
            return Chunk(data)
        return self._await(EndOfData(checker.problem), _END_OF_DATA)

    def _is_good(self, decoder: DataDecoder | BdatChecker, data: bytes) -> bool:
        """Count octets of the message; whether there are any and nothing is wrong with it."""
        if data and (problem := self._meter.add(data)) is not None:
            decoder.problem = problem  # these octets precede what the decoder may have found in the same go
        return bool(data) and decoder.problem is None

    def _read_refused_chunk(self) -> Event | None:
        self._chunk_left -= len(self.unread.take(self._chunk_left))
        if self._chunk_left:
            return None
        self._read = ServerConnection._read_command
        return self._refuse(self._chunk_refusal, Command.BDAT)

    # -- outcomes -------------------------------------------------------------------------------------------------

    def _await(self, event: Event, command: Command) -> Event:
        """Yield what ends a state that reads no commands, and await its reply."""
        entry = self._row[command]
        if isinstance(entry, Reply):
            raise RuntimeError(f"the state table refuses {command}")  # noqa: TRY004 - no argument of the caller's
        self._awaiting = event
        self._transition = entry
        return event

    def _refuse(self, refusal: Reply, verb: str) -> Event:
        self.error_count += 1
        if self.error_count > self.options.errors:
            return self._fatal(reply.TOO_MANY_ERRORS, FatalReason.TOO_MANY_ERRORS)
        self._out.append(refusal.wire)
        return Refused(refusal, str(verb))

    def _refuse_unknown(self, refusal: Reply, verb: bytes) -> Event:
        if verb.upper() in _FORBIDDEN_VERBS:
            return self._fatal(reply.FORBIDDEN_COMMAND, FatalReason.FORBIDDEN_COMMAND)
        self._unknown += 1
        if self._unknown > self.options.unknown_commands:
            return self._fatal(reply.TOO_MANY_ERRORS, FatalReason.UNKNOWN_COMMANDS)
        return self._refuse(refusal, _show(verb))

    def _fatal(self, refusal: Reply, reason: FatalReason) -> Event:
        self._out.append(refusal.wire)
        self._enter(State.CLOSED)
        return Fatal(refusal, reason)


# What reads in each state; functions and no bound methods, which would keep an engine alive in a cycle.
_READERS: Final[Mapping[State, Callable[[ServerConnection], Event | None]]] = {
    **dict.fromkeys(State, ServerConnection._read_nothing),  # noqa: SLF001 - its own
    **dict.fromkeys(COMMAND_STATES, ServerConnection._read_command),  # noqa: SLF001 - its own
    State.DATA: ServerConnection._read_data,  # noqa: SLF001 - its own
    State.CHUNK: ServerConnection._read_chunk,  # noqa: SLF001 - its own
    State.AUTH: ServerConnection._read_auth,  # noqa: SLF001 - its own
    State.TLS: ServerConnection._read_early_tls,  # noqa: SLF001 - its own
}


_READ_COMMAND: Final = _READERS[State.READY]
_ENTRANCES: Final = {state: (TABLE[state], _READERS[state]) for state in State}
"""What is in force in each state: its row of the table, and what reads."""


@lru_cache(maxsize=64)
def _helo_reply(text: str) -> Reply:
    return Reply(250, None, text)


@lru_cache(maxsize=64)
def _ehlo_reply(
    text: str, message_size: int, tls: TlsState, extensions: frozenset[str], mechanisms: tuple[str, ...]
) -> Reply:
    """One for each set of extensions, not one for each client."""
    return Reply(250, None, "\n".join([text, *keywords(message_size, tls, extensions, mechanisms)]))


def _show(verb: bytes) -> str:
    """The first octets of an unknown verb, escaped, for logs and records."""
    return verb[:_SHOWN_VERB].decode("latin-1").encode("unicode_escape").decode("ascii")
