"""What each SMTP command means under the terms of a connection: its event, the engine's own answer, or a refusal.

The state table has its say before, so nothing here looks at the state. A handler gets the argument's octets and
returns the event to yield, or a ``Reply`` where no decision is needed (NOOP, HELP, VRFY), or raises ``GrammarError``
(or ``UnicodeDecodeError``, where a malformed argument is no UTF-8). Paths come again and again, of one's own domains
above all, so what HELO, MAIL and RCPT said last is remembered as it was read.
BDAT is not here: what follows it must be read or dropped whatever it says, so ``server`` carries it out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias

from gateway.smtp import grammar, reply
from gateway.smtp.data import BareNewlines, NulOctets
from gateway.smtp.events import Auth, Data, Event, Hello, Mail, Quit, Rcpt, Reset, StartTls
from gateway.smtp.grammar import AddressSyntax, GrammarError
from gateway.smtp.path import Parameter
from gateway.smtp.reply import Reply
from gateway.smtp.states import Command

_EXTENSIONS: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING")
_PLAINTEXT_MECHANISMS: Final = frozenset({"PLAIN", "LOGIN"})
_SIZE: Final = frozenset({"SIZE"})
_SIZE_AND_AUTH: Final = frozenset({"SIZE", "AUTH"})


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
        header_lines: The most lines of a header section; 0 is no limit.
        command_line: Octets of a command line with CRLF (RFC 5321 4.5.3.1.4: 512, and what extensions add).
        auth_line: Octets of a line of an AUTH exchange with CRLF (RFC 4954 4).
        parameters: The most parameters of one MAIL or RCPT.
        errors: How many commands may be refused by the engine; the next one ends the session.
        unknown_commands: The same for unknown commands alone.
        idle_commands: How many HELO, EHLO, RSET, NOOP, VRFY and HELP, and lines of AUTH exchanges, may come without an
            accepted message, a STARTTLS or a login between them (as Postfix's smtpd_junk_command_limit).
        refusals: How many commands and messages the door may refuse in a session, 452 4.5.3 aside; one more ends it.
        transactions: How many MAIL a session may have; the next one ends it.
        chunks: How many BDAT one message may have, beside one for each 32 octets of it.
        empty_chunks: How many of them may be empty.
        dropped_octets: Octets of one refused chunk, or of one overlong line, that are read and dropped; more end the
            session.
        bare_newlines: What becomes of a bare CR or LF.
        nul: What becomes of a NUL in a message.
        address_syntax: Which addresses MAIL and RCPT take.
    """

    hostname: str
    message_size: int = 50_000_000
    header_size: int = 1_048_576
    header_lines: int = 20_000
    command_line: int = 2048
    auth_line: int = 12288
    parameters: int = 20
    errors: int = 20
    unknown_commands: int = 10
    idle_commands: int = 100
    refusals: int = 2000
    transactions: int = 10_000
    chunks: int = 1000
    empty_chunks: int = 100
    dropped_octets: int = 50_000_000
    bare_newlines: BareNewlines = BareNewlines.REJECT
    nul: NulOctets = NulOctets.REJECT
    address_syntax: AddressSyntax = AddressSyntax.LENIENT


class Terms:
    """What a connection offers, and what was agreed on so far.

    Attributes:
        options: The settings.
        tls: What it does about TLS.
        extensions: Of PIPELINING, 8BITMIME, SMTPUTF8, DSN and CHUNKING those to offer; may be set at any time.
        auth_mechanisms: The SASL mechanisms to offer; may be set at any time.
        auth_required: Whether MAIL needs authentication.
        authenticated: Whether AUTH has succeeded.
        extended: Whether the client said EHLO.
        smtputf8: Whether the transaction's MAIL had the parameter SMTPUTF8.
    """

    __slots__ = (
        "auth_mechanisms",
        "auth_required",
        "authenticated",
        "extended",
        "extensions",
        "options",
        "smtputf8",
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
        self.options = options
        self.tls = tls
        self.extensions = extensions
        self.auth_mechanisms = auth_mechanisms
        self.auth_required = auth_required
        self.authenticated = False
        self.extended = False
        self.smtputf8 = False

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms to offer now: those that show the password only under TLS (RFC 4954 4)."""
        if not self.auth_mechanisms or self.tls is TlsState.ACTIVE:
            return self.auth_mechanisms
        return tuple(name for name in self.auth_mechanisms if name not in _PLAINTEXT_MECHANISMS)

    def check_parameters(self, parameters: tuple[Parameter, ...], known: grammar.KnownParameters) -> None:
        """Check parameters of MAIL or RCPT against what is offered.

        Raises:
            GrammarError: One is unknown, not offered or malformed.
        """
        if not self.extended:  # after HELO no extension was offered
            raise GrammarError(reply.UNSUPPORTED_PARAMETER)
        grammar.check_parameters(parameters, known, self.extensions | (_SIZE_AND_AUTH if self.mechanisms else _SIZE))


def keywords(message_size: int, tls: TlsState, extensions: frozenset[str], mechanisms: tuple[str, ...]) -> list[str]:
    """The lines of the EHLO reply behind the first (RFC 5321 4.1.1.1)."""
    lines: list[str] = [name for name in _EXTENSIONS if name in extensions]
    lines += ["ENHANCEDSTATUSCODES", f"SIZE {message_size}"]
    if tls in {TlsState.OPTIONAL, TlsState.REQUIRED}:
        lines.append("STARTTLS")
    if mechanisms:
        lines.append("AUTH " + " ".join(mechanisms))
    return lines


Handler: TypeAlias = Callable[[Terms, bytes], Event | Reply]

_REMEMBERED: Final = 512
_DATA: Final = Data()
_RESET: Final = Reset()
_QUIT: Final = Quit()


def _text(argument: bytes) -> str:
    return argument.decode().rstrip(" \t")


def _helo(_terms: Terms, argument: bytes) -> Event:
    return Hello(_parsed_hello(argument), extended=False)


def _ehlo(_terms: Terms, argument: bytes) -> Event:
    return Hello(_parsed_hello(argument), extended=True)


@lru_cache(_REMEMBERED)
def _parsed_hello(argument: bytes) -> str:
    return grammar.parse_hello(_text(argument))


@lru_cache(_REMEMBERED)
def _parsed_mail(argument: bytes, limit: int, syntax: AddressSyntax) -> Mail:
    return Mail(*grammar.parse_mail(_text(argument), limit, syntax))


@lru_cache(_REMEMBERED)
def _parsed_rcpt(argument: bytes, limit: int, syntax: AddressSyntax) -> Rcpt:
    return Rcpt(*grammar.parse_rcpt(_text(argument), limit, syntax))


def _mail(terms: Terms, argument: bytes) -> Event:
    event = _parsed_mail(argument, terms.options.parameters, terms.options.address_syntax)
    terms.smtputf8 = False
    if event.parameters:
        terms.check_parameters(event.parameters, grammar.MAIL_PARAMETERS)
        terms.smtputf8 = any(parameter.keyword == "SMTPUTF8" for parameter in event.parameters)
    if not terms.smtputf8 and not argument.isascii():
        raise GrammarError(reply.UTF8_WITHOUT_SMTPUTF8)
    return event


def _rcpt(terms: Terms, argument: bytes) -> Event:
    event = _parsed_rcpt(argument, terms.options.parameters, terms.options.address_syntax)
    if event.parameters:
        terms.check_parameters(event.parameters, grammar.RCPT_PARAMETERS)
    if not terms.smtputf8 and not argument.isascii():
        raise GrammarError(reply.UTF8_WITHOUT_SMTPUTF8)
    return event


def _data(_terms: Terms, argument: bytes) -> Event:
    _no_argument(argument)
    return _DATA


def _rset(_terms: Terms, argument: bytes) -> Event:
    _no_argument(argument)
    return _RESET


def _quit(_terms: Terms, argument: bytes) -> Event:
    _no_argument(argument)
    return _QUIT


def _noop(_terms: Terms, argument: bytes) -> Reply:
    _text(argument)
    return reply.OK


def _help(_terms: Terms, argument: bytes) -> Reply:
    _text(argument)
    return reply.HELP


def _vrfy(_terms: Terms, argument: bytes) -> Reply:
    if not _text(argument):
        raise GrammarError(reply.SYNTAX_ERROR)
    return reply.CANNOT_VERIFY


def _starttls(terms: Terms, argument: bytes) -> Event:
    if terms.tls is TlsState.ACTIVE:
        raise GrammarError(reply.TLS_ACTIVE)
    if terms.tls is TlsState.NONE:
        raise GrammarError(reply.NOT_IMPLEMENTED)
    if terms.authenticated:  # what was agreed with the client would have to be forgotten (RFC 3207 4.2)
        raise GrammarError(reply.BAD_SEQUENCE)
    _no_argument(argument)
    return StartTls()


def _auth(terms: Terms, argument: bytes) -> Event:
    if not terms.auth_mechanisms:
        raise GrammarError(reply.NOT_IMPLEMENTED)
    if terms.authenticated:
        raise GrammarError(reply.AUTH_TWICE)
    mechanism, initial_response = grammar.parse_auth(_text(argument))
    if mechanism not in terms.mechanisms:
        offered_later = mechanism in terms.auth_mechanisms
        raise GrammarError(reply.AUTH_NEEDS_TLS if offered_later else reply.AUTH_UNKNOWN_MECHANISM)
    return Auth(mechanism, initial_response)


def _no_argument(argument: bytes) -> None:
    if argument and _text(argument):
        raise GrammarError(reply.NO_ARGUMENTS)


HANDLERS: Final[Mapping[Command, Handler]] = {
    Command.HELO: _helo,
    Command.EHLO: _ehlo,
    Command.MAIL: _mail,
    Command.RCPT: _rcpt,
    Command.DATA: _data,
    Command.RSET: _rset,
    Command.NOOP: _noop,
    Command.QUIT: _quit,
    Command.VRFY: _vrfy,
    Command.HELP: _help,
    Command.STARTTLS: _starttls,
    Command.AUTH: _auth,
}
"""What reads the argument of each command that the table can let through, BDAT aside."""
