r"""The server side of an SMTP conversation without I/O (RFC 5321 and the extensions the gateway offers).

``receive_data`` takes octets as they arrive, ``next_event`` yields what the client did, ``reply`` answers the event that
awaits it, ``data_to_send`` gives the octets to write. The engine keeps what the protocol needs and nothing else: the state
(``states.TABLE``), the octets not yet read, the message's decoder while one comes in, counters of errors. Whether a sender is
welcome is not its business.

It implements RFC 5321 4 with PIPELINING (2920), 8BITMIME (6152), SMTPUTF8 (6531), SIZE (1870), DSN (3461), CHUNKING (3030),
ENHANCEDSTATUSCODES (2034), STARTTLS (3207) and AUTH (4954). It answers itself what needs no decision: NOOP, HELP, VRFY (252)
and every command that is unknown, malformed or out of order (``Refused``).

What it guards:

- Only CRLF ends a command. A command with a bare CR or LF is refused; with ``BareNewlines.NORMALIZE`` the octet counts as
  white space, and still ends nothing, so that no setting lets one line be read as two commands.
- Only CRLF.CRLF ends the data (``data.DataDecoder``). A message with a problem is read to its true end, without keeping it.
- The octets of a refused BDAT are read and dropped; a BDAT whose size can't be read ends the session, because what
  follows is a message that must not be read as commands.
- Octets that arrive between STARTTLS and the handshake end the session (RFC 3207 4.2; CVE-2011-0411).
- Commands of HTTP end the session at once: a browser was made to speak to a mail server.
- A command line over its limit is dropped up to its CRLF and answered once; nothing here grows with what a client sends, but
  the octets that a door hands over while an event awaits its reply (stop reading then; see ``buffered``).

``Mail`` does not compare SIZE with ``message_size``: a policy does, so that the refusal is recorded with its envelope.
Programming errors of the door raise ``RuntimeError``; nothing that a client sends raises anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.smtp import grammar, reply
from gateway.smtp.data import BareNewlines, BdatChecker, DataDecoder, NulOctets, SizeMeter
from gateway.smtp.events import (
    Auth,
    AuthResponse,
    Bdat,
    Chunk,
    Data,
    EndOfChunk,
    EndOfData,
    Event,
    Fatal,
    FatalReason,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Reset,
    StartTls,
)
from gateway.smtp.grammar import GrammarError
from gateway.smtp.path import Parameter
from gateway.smtp.reply import Reply
from gateway.smtp.states import TABLE, Command, Row, State, Transition

_VERBS: Final[Mapping[bytes, Command]] = {
    command.value.encode(): command for command in Command if command.value.isupper()
}
_FORBIDDEN_VERBS: Final = frozenset(
    {b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE"}
)
"""As Postfix's smtpd_forbidden_commands, and the rest of RFC 9110 9."""
_BEFORE_TLS: Final = frozenset(
    {Command.NOOP, Command.EHLO, Command.HELO, Command.STARTTLS, Command.QUIT, Command.UNKNOWN}
)
"""RFC 3207 4 with HELO, whose clients learn so what is wanted of them."""
_IDLE: Final = frozenset({Command.HELO, Command.EHLO, Command.RSET, Command.NOOP, Command.VRFY, Command.HELP})
_PLAINTEXT_MECHANISMS: Final = frozenset({"PLAIN", "LOGIN"})
_SHOWN_VERB: Final = 20


class TlsState(StrEnum):
    """What a listener or connection does about TLS."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The engine's settings.

    Attributes:
        hostname: The name in the EHLO reply.
        message_size: The largest message in octets, announced as SIZE and enforced while receiving; 0 is no limit.
        header_size: The largest header section in octets; 0 is no limit.
        command_line: Octets of a command line with CRLF (RFC 5321 4.5.3.1.4: 512, and what extensions add).
        auth_line: Octets of a line of an AUTH exchange with CRLF (RFC 4954 4).
        parameters: The most parameters of one MAIL or RCPT.
        errors: How many commands may be refused by the engine; the next one ends the session.
        unknown_commands: The same for unknown commands alone.
        idle_commands: How many HELO, EHLO, RSET, NOOP, VRFY and HELP may come without an accepted recipient or STARTTLS between them.
        bare_newlines: What becomes of a bare CR or LF.
        nul: What becomes of a NUL in a message.
    """

    hostname: str
    message_size: int = 50_000_000
    header_size: int = 1_048_576
    command_line: int = 2048
    auth_line: int = 12288
    parameters: int = 20
    errors: int = 20
    unknown_commands: int = 10
    idle_commands: int = 100
    bare_newlines: BareNewlines = BareNewlines.REJECT
    nul: NulOctets = NulOctets.REJECT


class ServerConnection:
    """One connection's engine.

    Attributes:
        state: Where the conversation stands.
        tls: What it does about TLS.
        extensions: Of 8BITMIME, SMTPUTF8, DSN, CHUNKING and PIPELINING those to offer; may be set at any time.
        auth_mechanisms: The SASL mechanisms to offer; may be set at any time.
        auth_required: Whether MAIL needs authentication.
        authenticated: Whether AUTH has succeeded.
        extended: Whether the client said EHLO.
        error_count: How many commands the engine has refused.
    """

    __slots__ = (
        "_awaiting",
        "_buffer",
        "_checker",
        "_chunk_last",
        "_chunk_left",
        "_chunk_refusal",
        "_decoder",
        "_idle",
        "_meter",
        "_options",
        "_out",
        "_overlong",
        "_position",
        "_read",
        "_row",
        "_smtputf8",
        "_transition",
        "_unknown",
        "auth_mechanisms",
        "auth_required",
        "authenticated",
        "error_count",
        "extended",
        "extensions",
        "state",
        "tls",
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
        self.tls = tls
        self.extensions = extensions
        self.auth_mechanisms = auth_mechanisms
        self.auth_required = auth_required
        self.authenticated = False
        self.extended = False
        self.error_count = 0
        self._options = options
        self._buffer = b""
        self._position = 0  # what stands before it in the buffer has been read
        self._overlong = False  # in a line that is dropped up to its CRLF
        self._out: list[bytes] = []
        self._awaiting: Event | None = None
        self._transition: Transition  # where the reply that is awaited leads
        self._unknown = 0
        self._idle = 0
        self._smtputf8 = False  # MAIL had the parameter
        self._decoder: DataDecoder  # of the message that is coming in
        self._checker: BdatChecker
        self._meter: SizeMeter
        self._chunk_left = 0
        self._chunk_last = False
        self._chunk_refusal: Reply  # of the chunk that is read and dropped
        self._enter(State.START)

    # -- the door's side ------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Octets received and not read yet."""
        return len(self._buffer) - self._position

    def greet(self, greeting: Reply) -> None:
        """Open the conversation: 220, or 554 after which only QUIT is taken (RFC 5321 3.1), or 421."""
        if self.state is not State.START:
            raise RuntimeError("the client has been greeted")
        self._out.append(greeting.encode())
        if greeting.code == reply.SHUTTING_DOWN.code:
            self._enter(State.CLOSED)
        else:
            self._enter(State.CONNECTED if greeting.is_positive else State.REFUSED)

    def receive_data(self, data: bytes) -> None:
        """Take octets from the client."""
        if self.state is State.CLOSED:
            return
        if self._position == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._position :] + data
        self._position = 0

    def data_to_send(self) -> bytes:
        """The octets for the client that are not written yet; they are handed out once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def next_event(self) -> Event | None:
        """What the client did next; None when more octets are needed, or nothing is read any more.

        Raises:
            RuntimeError: The last event still awaits its reply.
        """
        if self._awaiting is not None:
            raise RuntimeError(f"{type(self._awaiting).__name__} awaits its reply")
        return self._read()

    def reply(self, answer: Reply) -> None:
        """Answer the event that awaits a reply.

        Raises:
            RuntimeError: No event awaits one.
        """
        if self._awaiting is None:
            raise RuntimeError("no event awaits a reply")
        event, transition = self._awaiting, self._transition
        self._awaiting = None
        kind = answer.code // 100
        if answer.code == reply.SHUTTING_DOWN.code:
            target = State.CLOSED
        elif kind == 2:  # noqa: PLR2004 - 2yz
            target = transition.completed
            if target is State.TLS and self.buffered:
                self._enter(target)  # never says 220: next_event ends the session
                return
            self._complete(event)
        else:
            target = transition.intermediate if kind == 3 else transition.refused  # noqa: PLR2004 - 3yz
        self._out.append(answer.encode())
        if target is not self.state:
            self._enter(target)

    def _complete(self, event: Event) -> None:
        """What a 2yz reply changes beside the state."""
        kind = type(event)
        if kind is Rcpt or kind is StartTls:
            self._idle = 0
        elif isinstance(event, Hello):
            self.extended = event.extended
        elif kind is Auth or kind is AuthResponse:
            self.authenticated = True

    def hello_reply(self, text: str | None = None) -> Reply:
        """The positive reply to the ``Hello`` that was just yielded: the name, and after EHLO what is offered.

        Args:
            text: The first line, the hostname by default.
        """
        lines = [text or self._options.hostname]
        if isinstance(self._awaiting, Hello) and self._awaiting.extended:
            lines += self._keywords()
        return Reply(250, None, "\n".join(lines))

    def tls_started(self) -> None:
        """The handshake is done: what was said before it is forgotten (RFC 3207 4.2)."""
        if self.state is not State.TLS:
            raise RuntimeError("no TLS handshake was due")
        if self._position < len(self._buffer):
            return  # next_event ends the session
        self.tls = TlsState.ACTIVE
        self.extended = False
        self._idle = 0
        self._enter(State.CONNECTED)

    # -- reading ----------------------------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self.state = state
        self._row: Row = TABLE[state]
        self._read: Callable[[], Event | None]
        if self._row and Command.QUIT in self._row:
            self._read = self._read_command
        elif state is State.DATA:
            self._decoder = DataDecoder(self._options.bare_newlines, self._options.nul)
            self._meter = SizeMeter(self._options.message_size, self._options.header_size)
            self._read = self._read_data
        elif state is State.CHUNK:
            self._read = self._read_chunk
        elif state is State.AUTH:
            self._read = self._read_auth
        elif state is State.TLS:
            self._read = self._read_early_tls
        else:
            self._read = self._read_nothing
            if state is State.CLOSED:
                self._buffer = b""
                self._position = 0

    @staticmethod
    def _read_nothing() -> None:
        return None

    def _read_command(self) -> Event | None:
        while True:
            line = self._take_line(self._options.command_line)
            if line is None:
                return None
            event = self._command(line)
            if event is not None:
                return event

    def _take_line(self, limit: int) -> bytes | None:
        """The next line without its CRLF, ``_OVERLONG`` in place of one that is too long; None when none is complete."""
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\r\n", start)
        if end >= 0:
            self._position = end + 2
            if self._overlong or (end + 2 - start > limit and end + 2 - start > self._limit(start, limit)):
                self._overlong = False
                return _OVERLONG
            return buffer[start:end]
        if self._overlong or (len(buffer) - start >= limit and len(buffer) - start >= self._limit(start, limit)):
            self._overlong = True
            self._buffer = b"\r" if buffer.endswith(b"\r") else b""
            self._position = 0
        return None

    def _limit(self, start: int, limit: int) -> int:
        """The limit of the line at ``start``: an AUTH command may carry a long initial response."""
        is_auth = self.auth_mechanisms and self._buffer[start : start + 5].upper() == b"AUTH "
        return max(limit, self._options.auth_line) if is_auth else limit

    def _command(self, line: bytes) -> Event | None:
        """Carry out one command line; None when it has been answered here and is of no interest."""
        verb, _, argument_octets = line.partition(b" ")
        command = _VERBS.get(verb) or _VERBS.get(verb.upper(), Command.UNKNOWN)
        if b"\n" in line or b"\r" in line:
            if line == _OVERLONG:
                return self._refuse(reply.LINE_TOO_LONG, "")
            if self._options.bare_newlines is BareNewlines.REJECT:
                return self._refuse(reply.BARE_NEWLINE_COMMAND, _show(verb))
            return self._command(line.replace(b"\r", b" ").replace(b"\n", b" "))
        if command is Command.BDAT:
            return self._bdat(argument_octets)
        entry = self._entry(command)
        if isinstance(entry, Reply):
            return self._refuse_unknown(entry, verb) if command is Command.UNKNOWN else self._refuse(entry, command)
        if command in _IDLE:
            self._idle += 1
            if self._idle > self._options.idle_commands:
                return self._fatal(reply.TOO_MANY_COMMANDS, FatalReason.IDLE_COMMANDS)
        try:
            event = _HANDLERS[command](self, argument_octets.decode().rstrip(" \t"))
        except GrammarError as error:
            return self._refuse(error.reply, command)
        except UnicodeDecodeError:
            return self._refuse(reply.SYNTAX_ERROR, command)
        if event is None:
            return None
        if command is Command.STARTTLS and self._position < len(self._buffer):
            return self._fatal(reply.EARLY_TLS_OCTETS, FatalReason.EARLY_TLS_OCTETS)
        self._awaiting = event
        self._transition = entry
        return event

    def _entry(self, command: Command) -> Transition | Reply:
        """What the state, TLS and authentication say to a command."""
        if self.tls is TlsState.REQUIRED and command not in _BEFORE_TLS and self.state is not State.REFUSED:
            return reply.TLS_REQUIRED
        entry = self._row[command]
        if self.auth_required and not self.authenticated and command is Command.MAIL and not isinstance(entry, Reply):
            return reply.AUTH_REQUIRED
        return entry

    # -- commands -----------------------------------------------------------------------------------------------------

    def _helo(self, argument: str) -> Event:
        return Hello(grammar.parse_hello(argument), extended=False)

    def _ehlo(self, argument: str) -> Event:
        return Hello(grammar.parse_hello(argument), extended=True)

    def _mail(self, argument: str) -> Event:
        path, parameters = grammar.parse_mail(argument, self._options.parameters)
        self._smtputf8 = False
        if parameters:
            self._check_parameters(parameters, grammar.MAIL_PARAMETERS)
            self._smtputf8 = any(parameter.keyword == "SMTPUTF8" for parameter in parameters)
        if not self._smtputf8 and not argument.isascii():
            raise GrammarError(reply.UTF8_WITHOUT_SMTPUTF8)
        return Mail(path, parameters)

    def _rcpt(self, argument: str) -> Event:
        path, parameters = grammar.parse_rcpt(argument, self._options.parameters)
        if parameters:
            self._check_parameters(parameters, grammar.RCPT_PARAMETERS)
        if not self._smtputf8 and not argument.isascii():
            raise GrammarError(reply.UTF8_WITHOUT_SMTPUTF8)
        return Rcpt(path, parameters)

    def _check_parameters(self, parameters: tuple[Parameter, ...], known: grammar.KnownParameters) -> None:
        if not self.extended:  # HELO: no extension was offered
            raise GrammarError(reply.UNSUPPORTED_PARAMETER)
        grammar.check_parameters(parameters, known, self.extensions | (_SIZE_AND_AUTH if self._mechanisms() else _SIZE))

    def _data(self, argument: str) -> Event:
        _no_argument(argument)
        return Data()

    def _rset(self, argument: str) -> Event:
        _no_argument(argument)
        return Reset()

    def _quit(self, argument: str) -> Event:
        _no_argument(argument)
        return Quit()

    def _noop(self, _argument: str) -> None:
        self._out.append(_OK)

    def _help(self, _argument: str) -> None:
        self._out.append(_HELP)

    def _vrfy(self, argument: str) -> None:
        if not argument:
            raise GrammarError(reply.SYNTAX_ERROR)
        self._out.append(_CANNOT_VERIFY)

    def _starttls(self, argument: str) -> Event:
        if self.tls is TlsState.ACTIVE:
            raise GrammarError(reply.TLS_ACTIVE)
        if self.tls is TlsState.NONE:
            raise GrammarError(reply.NOT_IMPLEMENTED)
        if self.authenticated:  # what was agreed with the client would have to be forgotten (RFC 3207 4.2)
            raise GrammarError(reply.BAD_SEQUENCE)
        _no_argument(argument)
        return StartTls()

    def _auth(self, argument: str) -> Event:
        if not self.auth_mechanisms:
            raise GrammarError(reply.NOT_IMPLEMENTED)
        if self.authenticated:
            raise GrammarError(reply.AUTH_TWICE)
        mechanism, initial_response = grammar.parse_auth(argument)
        if mechanism not in self._mechanisms():
            raise GrammarError(
                reply.AUTH_NEEDS_TLS if mechanism in self.auth_mechanisms else reply.AUTH_UNKNOWN_MECHANISM
            )
        return Auth(mechanism, initial_response)

    def _bdat(self, argument: bytes) -> Event | None:
        try:
            size, last = grammar.parse_bdat(argument.decode("ascii").rstrip(" \t"))
        except (GrammarError, UnicodeDecodeError):
            return self._fatal(reply.MALFORMED_BDAT, FatalReason.MALFORMED_BDAT)
        entry = self._entry(Command.BDAT)
        if not isinstance(entry, Reply) and "CHUNKING" not in self.extensions:
            entry = reply.NOT_IMPLEMENTED
        self._chunk_left = size
        if isinstance(entry, Reply):
            self._chunk_refusal = entry
            self._read = self._read_refused_chunk
            return self._read_refused_chunk()
        self._chunk_last = last
        if self.state is State.RCPT:  # the first chunk
            self._checker = BdatChecker(self._options.bare_newlines, self._options.nul)
            self._meter = SizeMeter(self._options.message_size, self._options.header_size)
        self._enter(entry.completed)
        return Bdat(size, last)

    # -- the message --------------------------------------------------------------------------------------------------

    def _read_data(self) -> Event | None:
        decoder = self._decoder
        if not decoder.finished:
            if not self.buffered:
                return None
            data = decoder.feed(self._take(self.buffered))
            if decoder.finished:
                self._buffer = decoder.rest
                self._position = 0
                decoder.rest = b""
            if self._is_good(decoder, data):
                return Chunk(data)
            if not decoder.finished:
                return None
        return self._await(EndOfData(decoder.problem), Command.END_OF_DATA)

    def _read_chunk(self) -> Event | None:
        checker = self._checker
        if self._chunk_left:
            octets = self._take(min(self._chunk_left, self.buffered))
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
        return self._await(EndOfData(checker.problem), Command.END_OF_DATA)

    def _is_good(self, decoder: DataDecoder | BdatChecker, data: bytes) -> bool:
        """Count octets of the message; whether there are any and nothing is wrong with it."""
        if data and (problem := self._meter.add(data)) is not None:
            decoder.problem = problem  # these octets precede what the decoder may have found in the same go
        return bool(data) and decoder.problem is None

    def _read_refused_chunk(self) -> Event | None:
        self._chunk_left -= len(self._take(min(self._chunk_left, self.buffered)))
        if self._chunk_left:
            return None
        self._read = self._read_command
        return self._refuse(self._chunk_refusal, Command.BDAT)

    def _take(self, size: int) -> bytes:
        """Read ``size`` octets of the buffer, which has them."""
        buffer, start = self._buffer, self._position
        if start == 0 and size == len(buffer):
            self._buffer = b""
            return buffer
        self._position = start + size
        return buffer[start : start + size]

    # -- AUTH and TLS -------------------------------------------------------------------------------------------------

    def _mechanisms(self) -> tuple[str, ...]:
        """The mechanisms to offer now: those that show the password only under TLS (RFC 4954 4)."""
        if self.tls is TlsState.ACTIVE:
            return self.auth_mechanisms
        return tuple(name for name in self.auth_mechanisms if name not in _PLAINTEXT_MECHANISMS)

    def _keywords(self) -> list[str]:
        """The lines of the EHLO reply behind the first."""
        lines = [name for name in ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING") if name in self.extensions]
        lines += ["ENHANCEDSTATUSCODES", f"SIZE {self._options.message_size}"]
        if self.tls in {TlsState.OPTIONAL, TlsState.REQUIRED}:
            lines.append("STARTTLS")
        if mechanisms := self._mechanisms():
            lines.append("AUTH " + " ".join(mechanisms))
        return lines

    def _read_auth(self) -> Event | None:
        line = self._take_line(self._options.auth_line)
        if line is None:
            return None
        # What is no base64, too long a line included, can't go to the backend: to cancel fails the exchange in order.
        return self._await(AuthResponse(line if grammar.is_base64(line) else b"*"), Command.AUTH_RESPONSE)

    def _read_early_tls(self) -> Event | None:
        if not self.buffered:
            return None
        return self._fatal(reply.EARLY_TLS_OCTETS, FatalReason.EARLY_TLS_OCTETS)

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _await(self, event: Event, command: Command) -> Event:
        """Yield what ends a state that reads no commands, and await its reply."""
        transition = self._row[command]
        if isinstance(transition, Reply):
            raise AssertionError(f"the table refuses {command}")  # noqa: TRY004 - the table is wrong, not an argument
        self._awaiting = event
        self._transition = transition
        return event

    def _refuse(self, refusal: Reply, verb: str) -> Event:
        self.error_count += 1
        if self.error_count > self._options.errors:
            return self._fatal(reply.TOO_MANY_ERRORS, FatalReason.TOO_MANY_ERRORS)
        self._out.append(refusal.encode())
        return Refused(refusal, verb)

    def _refuse_unknown(self, refusal: Reply, verb: bytes) -> Event:
        if verb.upper() in _FORBIDDEN_VERBS:
            return self._fatal(reply.FORBIDDEN_COMMAND, FatalReason.FORBIDDEN_COMMAND)
        self._unknown += 1
        if self._unknown > self._options.unknown_commands:
            return self._fatal(reply.TOO_MANY_ERRORS, FatalReason.UNKNOWN_COMMANDS)
        return self._refuse(refusal, _show(verb))

    def _fatal(self, refusal: Reply, reason: FatalReason) -> Event:
        self._out.append(refusal.encode())
        self._enter(State.CLOSED)
        return Fatal(refusal, reason)


_OVERLONG: Final = b"\r\n"
"""Stands for a line that was too long; no line holds a CRLF."""
_SIZE: Final = frozenset({"SIZE"})
_SIZE_AND_AUTH: Final = frozenset({"SIZE", "AUTH"})
_OK: Final = reply.OK.encode()
_HELP: Final = reply.HELP.encode()
_CANNOT_VERIFY: Final = reply.CANNOT_VERIFY.encode()


def _no_argument(argument: str) -> None:
    if argument:
        raise GrammarError(reply.NO_ARGUMENTS)


def _show(verb: bytes) -> str:
    """The first octets of an unknown verb for logs and records."""
    return verb[:_SHOWN_VERB].decode("ascii", "backslashreplace").encode("unicode_escape").decode("ascii").upper()


_HANDLERS: Final[Mapping[Command, Callable[[ServerConnection, str], Event | None]]] = {
    Command.HELO: ServerConnection._helo,
    Command.EHLO: ServerConnection._ehlo,
    Command.MAIL: ServerConnection._mail,
    Command.RCPT: ServerConnection._rcpt,
    Command.DATA: ServerConnection._data,
    Command.RSET: ServerConnection._rset,
    Command.NOOP: ServerConnection._noop,
    Command.QUIT: ServerConnection._quit,
    Command.VRFY: ServerConnection._vrfy,
    Command.HELP: ServerConnection._help,
    Command.STARTTLS: ServerConnection._starttls,
    Command.AUTH: ServerConnection._auth,
}
