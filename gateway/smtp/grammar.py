r"""The grammar of SMTP commands: HELO, MAIL, RCPT, BDAT, AUTH and their parameters (RFC 5321 4.1, RFC 6531).

Pure functions over text that was decoded as UTF-8 and has neither its verb nor its CRLF; the ABNF stands above each
pattern. They raise ``GrammarError``, which carries the reply for the client.

Deliberately tolerant, because senders do it and it is unambiguous:

- spaces between the colon of ``MAIL FROM:`` or ``RCPT TO:`` and the path (RFC 5321 3.3 forbids, Postfix takes them);
- more than one space before a parameter, and white space at the end of a line (RFC 5321 4.1.1 asks for the latter);
- any printable US-ASCII as HELO argument: a name that is no domain is for a policy to judge (RFC 5321 4.1.4).

``AddressSyntax.LENIENT`` takes some more that honest senders send: a local part of any length that fits into a path,
dots where RFC 5321 has none (``a..b@``, ``.a@``, ``a.@``), underscores in a domain, a path without its brackets. What
is read of them is written in the form of RFC 5321, so that whoever reads it next reads the same (``Mailbox.text``).

Deliberately strict: white space or comments in an address, one bracket without the other, and obsolete forms that only
RFC 5322 knows are refused; ``docs/decisions/addresses.md`` lists them.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from ipaddress import AddressValueError, IPv6Address
from typing import Final, TypeAlias

import idna

from gateway.address import address_text
from gateway.smtp import reply
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, Parameter, ReversePath
from gateway.smtp.reply import Reply

MAX_LOCAL_PART: Final = 64
"""Octets of a local part (RFC 5321 4.5.3.1.1)."""
MAX_DOMAIN: Final = 255
"""Octets of a domain name (RFC 5321 4.5.3.1.2)."""
MAX_PATH: Final = 256
"""Octets of a path with its punctuation (RFC 5321 4.5.3.1.3)."""
MAX_LABEL: Final = 63
"""Octets of a label of a domain name (RFC 1035 2.3.4)."""
MAX_ENVID: Final = 100
"""Characters of an ENVID (RFC 3461 4.4)."""
MAX_ORCPT: Final = 500
"""Characters of an ORCPT (RFC 3461 4.2)."""
_IPV6_GROUPS: Final = 8


class AddressSyntax(StrEnum):
    """Which addresses MAIL and RCPT take."""

    LENIENT = "lenient"
    STRICT = "strict"


KnownParameters: TypeAlias = Mapping[str, tuple[str, Callable[[str | None], bool]]]
"""Keyword of a parameter: the EHLO keyword that must be offered, and the check of its value."""


class GrammarError(Exception):
    """A command is malformed.

    Attributes:
        reply: What the client is told.
    """

    def __init__(self, refusal: Reply) -> None:
        super().__init__(str(refusal))
        self.reply: Final = refusal


# RFC 5321 4.1.2, with the additions of RFC 6531 3.3 (UTF8-non-ascii in atext and qtextSMTP, U-label in sub-domain):
#   Dot-string     = Atom *("."  Atom)
#   atext          = ALPHA / DIGIT / "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "/" / "=" / "?" / "^" / "_"
#                    / "`" / "{" / "|" / "}" / "~"  (RFC 5322 3.2.3) / UTF8-non-ascii
_ATOM = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\u0080-\ud7ff\ue000-\U0010ffff]+"
_DOT_STRING = rf"{_ATOM}(?:\.{_ATOM})*"
#   Quoted-string  = DQUOTE *QcontentSMTP DQUOTE
#   QcontentSMTP   = qtextSMTP / quoted-pairSMTP
#   quoted-pairSMTP  = %d92 %d32-126
#   qtextSMTP      = %d32-33 / %d35-91 / %d93-126 / UTF8-non-ascii
_QUOTED_STRING = r'"(?:[ !#-\[\]-~\u0080-\ud7ff\ue000-\U0010ffff]|\\[ -~])*"'
#   Domain         = sub-domain *("." sub-domain)
#   sub-domain     = Let-dig [Ldh-str] / U-label
#   Ldh-str        = *( ALPHA / DIGIT / "-" ) Let-dig
_LABEL = r"[A-Za-z0-9\u0080-\ud7ff\ue000-\U0010ffff]+(?:-+[A-Za-z0-9\u0080-\ud7ff\ue000-\U0010ffff]+)*"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_ASCII_LABEL = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
#   address-literal  = "[" ( IPv4-address-literal / IPv6-address-literal / General-address-literal ) "]"
#   dcontent       = %d33-90 / %d94-126
_LITERAL = r"\[[!-Z^-~]+\]"
#   A-d-l          = At-domain *( "," At-domain )
#   At-domain      = "@" Domain
_ROUTE = rf"@{_DOMAIN}(?:,@{_DOMAIN})*"
#   Path           = "<" [ A-d-l ":" ] Mailbox ">"
#   Mailbox        = Local-part "@" ( Domain / address-literal )
_STRICT_PATH = re.compile(
    rf"<(?:({_ROUTE}):)?({_DOT_STRING}|{_QUOTED_STRING})@({_DOMAIN}|{_LITERAL})>(?: +(.*))?", re.DOTALL
)
# The same, with dots anywhere in a local part that is not of dots alone, underscores in a domain, and without brackets.
_DOTTED = rf"\.*{_ATOM}(?:\.+{_ATOM})*\.*"
_WITH_UNDERSCORES = _DOMAIN.replace("A-Za-z0-9", "A-Za-z0-9_")
_LENIENT_MAILBOX = rf"({_DOTTED}|{_QUOTED_STRING})@({_WITH_UNDERSCORES}|{_LITERAL})"
_LENIENT_PATH = re.compile(rf"<(?:({_ROUTE}):)?{_LENIENT_MAILBOX}>(?: +(.*))?", re.DOTALL)
_BARE_PATH = re.compile(rf"(){_LENIENT_MAILBOX}(?: +(.*))?", re.DOTALL)

# The form of nearly all paths, with what stands before it: no quotes, no route, no literal, US-ASCII.
_COMMON_MAILBOX = (
    r"<(([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+(?:\.[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+)*)"
    rf"@({_ASCII_LABEL}(?:\.{_ASCII_LABEL})*))>(?: +(.*))?"
)
#   mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF
#   rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF
_MAIL_COMMON = re.compile(rf"[Ff][Rr][Oo][Mm]: *{_COMMON_MAILBOX}")
_RCPT_COMMON = re.compile(rf"[Tt][Oo]: *{_COMMON_MAILBOX}")
_MAIL = re.compile(r"FROM: *(.*)", re.IGNORECASE | re.DOTALL | re.ASCII)
_RCPT = re.compile(r"TO: *(.*)", re.IGNORECASE | re.DOTALL | re.ASCII)
_NULL_PATH = re.compile(r"<>(?: +(.*))?", re.DOTALL)
_POSTMASTER = re.compile(r"<(postmaster)>(?: +(.*))?", re.IGNORECASE | re.DOTALL | re.ASCII)
_BARE_POSTMASTER = re.compile(r"(postmaster)(?: +(.*))?", re.IGNORECASE | re.DOTALL | re.ASCII)

#   Snum           = 1*3DIGIT ; representing a decimal integer value in the range 0 through 255
_IPV4 = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})")
#   General-address-literal  = Standardized-tag ":" 1*dcontent
#   Standardized-tag  = Ldh-str
_GENERAL = re.compile(r"(?:[A-Za-z0-9-]*[A-Za-z0-9]):[!-Z^-~]+")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def parse_hello(argument: str) -> str:
    """The argument of HELO and EHLO.

    Raises:
        GrammarError: There is none, or it is not printable US-ASCII of at most 255 octets without a space.
    """
    # ehlo = "EHLO" SP ( Domain / address-literal ) CRLF    (read tolerantly; see the module's docstring)
    if not _HELLO.fullmatch(argument):
        raise GrammarError(reply.SYNTAX_ERROR)
    return argument


_HELLO = re.compile(rf"[!-~]{{1,{MAX_DOMAIN}}}")


def parse_mail(
    argument: str, limit: int = 20, syntax: AddressSyntax = AddressSyntax.LENIENT
) -> tuple[ReversePath, tuple[Parameter, ...]]:
    """The argument of MAIL: ``FROM:<path> parameters``; ``limit`` is the largest number of parameters.

    Raises:
        GrammarError: It is malformed (501).
    """
    match = _MAIL_COMMON.fullmatch(argument)
    if match is not None:
        text, local_part, domain, rest = match.groups()
        if len(local_part) > _LONGEST[syntax] or len(text) > MAX_PATH - 2 or _has_long_label(domain):
            raise GrammarError(reply.BAD_SENDER_ADDRESS)
        return Mailbox(text, local_part, domain.lower()), parse_parameters(rest, limit) if rest else ()
    match = _MAIL.fullmatch(argument)
    if match is None:
        raise GrammarError(reply.SYNTAX_ERROR)
    path = match[1]
    match = _NULL_PATH.fullmatch(path)
    if match is not None:
        return NULL_REVERSE_PATH, parse_parameters(match[1], limit) if match[1] else ()
    mailbox, rest = _parse_path(path, reply.BAD_SENDER_ADDRESS, syntax)
    return mailbox, parse_parameters(rest, limit) if rest else ()


def parse_rcpt(
    argument: str, limit: int = 20, syntax: AddressSyntax = AddressSyntax.LENIENT
) -> tuple[Mailbox, tuple[Parameter, ...]]:
    """The argument of RCPT: ``TO:<path> parameters``; ``limit`` is the largest number of parameters.

    Raises:
        GrammarError: It is malformed (501).
    """
    match = _RCPT_COMMON.fullmatch(argument)
    if match is not None:
        text, local_part, domain, rest = match.groups()
        if len(local_part) > _LONGEST[syntax] or len(text) > MAX_PATH - 2 or _has_long_label(domain):
            raise GrammarError(reply.BAD_RECIPIENT_ADDRESS)
        return Mailbox(text, local_part, domain.lower()), parse_parameters(rest, limit) if rest else ()
    match = _RCPT.fullmatch(argument)
    if match is None:
        raise GrammarError(reply.SYNTAX_ERROR)
    path = match[1]
    match = _POSTMASTER.fullmatch(path)
    if match is None and syntax is AddressSyntax.LENIENT:
        match = _BARE_POSTMASTER.fullmatch(path)
    if match is not None:
        return Mailbox(match[1], match[1], ""), parse_parameters(match[2], limit) if match[2] else ()
    mailbox, rest = _parse_path(path, reply.BAD_RECIPIENT_ADDRESS, syntax)
    return mailbox, parse_parameters(rest, limit) if rest else ()


def parse_mailbox(text: str, syntax: AddressSyntax = AddressSyntax.LENIENT) -> Mailbox:
    """An address without angle brackets, as configurations and command lines write it.

    Raises:
        GrammarError: It is not an address.
    """
    mailbox, rest = _parse_path(f"<{text}>", reply.BAD_RECIPIENT_ADDRESS, syntax)
    if rest or mailbox.source_route:
        raise GrammarError(reply.BAD_RECIPIENT_ADDRESS)
    return mailbox


def parse_domain(text: str) -> str:
    """The form of a domain name for comparison: lower-case A-labels.

    Raises:
        GrammarError: It is not a domain name.
    """
    if not _DOMAIN_ONLY.fullmatch(text):
        raise GrammarError(reply.SYNTAX_ERROR)
    return _normalize_domain(text, reply.SYNTAX_ERROR)


_DOMAIN_ONLY = re.compile(_WITH_UNDERSCORES)


_LONGEST: Final[Mapping[AddressSyntax, int]] = {AddressSyntax.STRICT: MAX_LOCAL_PART, AddressSyntax.LENIENT: MAX_PATH}
"""Octets of a local part: RFC 5321 4.5.3.1 calls its limits what a server must take at least."""


def _parse_path(path: str, refusal: Reply, syntax: AddressSyntax) -> tuple[Mailbox, str | None]:
    lenient_path = _LENIENT_PATH if path.startswith("<") else _BARE_PATH
    match = (_STRICT_PATH if syntax is AddressSyntax.STRICT else lenient_path).fullmatch(path)
    if match is None:
        raise GrammarError(refusal)
    route, local_part, domain, rest = match.groups()
    written = local_part if local_part[0] == '"' or not _has_odd_dots(local_part) else f'"{local_part}"'
    text = f"{written}@{domain}"
    whole = f"<{route}:{text}>" if route else f"<{text}>"
    if len(written.encode()) > _LONGEST[syntax] or len(whole.encode()) > MAX_PATH:
        raise GrammarError(refusal)
    if local_part[0] == '"':
        local_part = _ESCAPED.sub(r"\1", local_part[1:-1])
    domain = _normalize_literal(domain, refusal) if domain[0] == "[" else _normalize_domain(domain, refusal)
    hosts = tuple(host[1:] for host in route.split(",")) if route else ()
    return Mailbox(text, local_part, domain, hosts), rest


def _has_odd_dots(local_part: str) -> bool:
    """Whether it is no Dot-string, and so has to be written as a Quoted-string."""
    return ".." in local_part or local_part[0] == "." or local_part[-1] == "."


def _has_long_label(domain: str) -> bool:
    return len(domain) > MAX_LABEL and (
        len(domain) > MAX_DOMAIN or any(len(label) > MAX_LABEL for label in domain.split("."))
    )


def _normalize_domain(domain: str, refusal: Reply) -> str:
    if domain.isascii():
        if _has_long_label(domain):
            raise GrammarError(refusal)
        return domain.lower()
    try:
        # UTS 46 first, as mail programs and Postfix do: people write U-labels in capitals, too.
        return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except idna.IDNAError as error:
        raise GrammarError(refusal) from error


def _normalize_literal(literal: str, refusal: Reply) -> str:
    content = literal[1:-1]
    match = _IPV4.fullmatch(content)
    if match is not None:
        numbers = [int(number) for number in match.groups()]
        if max(numbers) > 255:  # noqa: PLR2004 - an octet
            raise GrammarError(refusal)
        return "[" + ".".join(map(str, numbers)) + "]"
    if content[:5].lower() == "ipv6:":
        return f"[ipv6:{address_text(_parse_ipv6(content[5:], refusal))}]"
    if _GENERAL.fullmatch(content) is None:
        raise GrammarError(refusal)
    return literal.lower()


def _parse_ipv6(text: str, refusal: Reply) -> IPv6Address:
    """An IPv6 address as RFC 5321 4.1.3 writes it: stricter than RFC 4291, ``::`` stands for at least two groups."""
    # IPv6-comp      = [IPv6-hex *5(":" IPv6-hex)] "::" [IPv6-hex *5(":" IPv6-hex)]
    #                ; The "::" represents at least 2 16-bit groups of zeros. No more than 6 groups in addition to the
    #                ; "::" may be present.
    # IPv6v4-comp    = ... ; No more than 4 groups in addition to the "::" and IPv4-address-literal may be present.
    try:
        address = IPv6Address(text)
    except AddressValueError as error:
        raise GrammarError(refusal) from error
    if "%" in text:  # a zone index (RFC 4007)
        raise GrammarError(refusal)
    if "::" in text:
        groups = [group for group in text.split(":") if group]
        if len(groups) + ("." in text) > _IPV6_GROUPS - 2:
            raise GrammarError(refusal)
    return address


# esmtp-param    = esmtp-keyword ["=" esmtp-value]
# esmtp-keyword  = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
# esmtp-value    = 1*(%d33-60 / %d62-126) / UTF8-non-ascii (RFC 6531 3.3)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u0080-\ud7ff\ue000-\U0010ffff]+))?")


def parse_parameters(text: str, limit: int) -> tuple[Parameter, ...]:
    """The parameters behind a path, by the general syntax only.

    Raises:
        GrammarError: One is malformed or comes twice, or there are more than ``limit`` (501).
    """
    words = text.split(" ")
    if len(words) > limit:
        words = [word for word in words if word]
        if len(words) > limit:
            raise GrammarError(reply.SYNTAX_ERROR)
    parameters: dict[str, Parameter] = {}
    for word in words:
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise GrammarError(reply.SYNTAX_ERROR)
        keyword = match[1].upper()
        if keyword in parameters:
            raise GrammarError(reply.SYNTAX_ERROR)
        parameters[keyword] = Parameter(keyword, match[2])
    return tuple(parameters.values())


def check_parameters(parameters: tuple[Parameter, ...], known: KnownParameters, offered: frozenset[str]) -> None:
    """Check each parameter's own syntax, and that the extension that defines it is offered.

    Raises:
        GrammarError: 555 for one that is unknown or not offered, 501 for one with a wrong value.
    """
    for parameter in parameters:
        entry = known.get(parameter.keyword)
        if entry is None or entry[0] not in offered:
            raise GrammarError(reply.UNSUPPORTED_PARAMETER)
        if not entry[1](parameter.value):
            unsupported = parameter.keyword == "BODY" and (parameter.value or "").upper() == "BINARYMIME"
            raise GrammarError(reply.UNSUPPORTED_PARAMETER if unsupported else reply.SYNTAX_ERROR)


# xtext    = *( xchar / hexchar )            (RFC 3461 4)
# xchar    = any ASCII CHAR between "!" (33) and "~" (126) inclusive, except for "+" and "="
# hexchar  = ASCII "+" immediately followed by two upper case hexadecimal digits
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
# size-value  = 1*20DIGIT                    (RFC 1870 3)
_SIZE = re.compile(r"[0-9]{1,20}")
# envid-parameter = "ENVID=" xtext           (RFC 3461 4.4)
_ENVID = re.compile(rf"{_XTEXT}+")
# auth-param  = "AUTH=" ( xtext / "<>" )     (RFC 4954 5: xtext of an addr-spec)
_AUTH_PARAMETER = re.compile(rf"<>|{_XTEXT}+")
# notify-esmtp-value = "NEVER" / notify-list-element *( "," notify-list-element )    (RFC 3461 4.1)
_NOTIFY = re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*", re.IGNORECASE | re.ASCII)
# orcpt-parameter = "ORCPT=" addr-type ";" xtext             (RFC 3461 4.2)
# for addr-type utf-8: utf-8-addr-xtext / utf-8-addr-unitext (RFC 6533 3)
_ORCPT = re.compile(
    rf"(?!(?i:utf-8);)[A-Za-z0-9-]+;{_XTEXT}*"
    r"|(?i:utf-8);(?:[!-*,-<>-\[\]-~\u0080-\ud7ff\ue000-\U0010ffff]|\\x\{[0-9A-F]{2,6}\})+"
)

MAIL_PARAMETERS: Final[KnownParameters] = {
    "SIZE": ("SIZE", lambda value: value is not None and _SIZE.fullmatch(value) is not None),
    "BODY": ("8BITMIME", lambda value: value is not None and value.upper() in {"7BIT", "8BITMIME"}),
    "SMTPUTF8": ("SMTPUTF8", lambda value: value is None),
    "RET": ("DSN", lambda value: value is not None and value.upper() in {"FULL", "HDRS"}),
    "ENVID": (
        "DSN",
        lambda value: value is not None and len(value) <= MAX_ENVID and _ENVID.fullmatch(value) is not None,
    ),
    "AUTH": ("AUTH", lambda value: value is not None and _AUTH_PARAMETER.fullmatch(value) is not None),
}
"""The parameters of MAIL."""

RCPT_PARAMETERS: Final[KnownParameters] = {
    "NOTIFY": ("DSN", lambda value: value is not None and _NOTIFY.fullmatch(value) is not None),
    "ORCPT": (
        "DSN",
        lambda value: value is not None and len(value) <= MAX_ORCPT and _ORCPT.fullmatch(value) is not None,
    ),
}
"""The parameters of RCPT."""

# bdat-cmd   = "BDAT" SP chunk-size [ SP end-marker ] CR LF       (RFC 3030 2)
# chunk-size = 1*DIGIT ; end-marker = "LAST"
_BDAT = re.compile(r"([0-9]{1,20})(?: +(LAST))?", re.IGNORECASE | re.ASCII)


def parse_bdat(argument: str) -> tuple[int, bool]:
    """The argument of BDAT: size in octets, and whether it is the last chunk.

    Raises:
        GrammarError: It is malformed, so that nobody knows how many octets follow (501).
    """
    match = _BDAT.fullmatch(argument)
    if match is None:
        raise GrammarError(reply.SYNTAX_ERROR)
    return int(match[1]), match[2] is not None


# auth-command     = "AUTH" SP sasl-mech [SP initial-response] *(CRLF [base64]) [CRLF cancel-response] CRLF (RFC 4954 8)
# sasl-mech        = 1*20mech-char ; mech-char = %x41-5A / DIGIT / "-" / "_"         (RFC 4422 3.1)
# initial-response = base64 / "="
_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_AUTH = re.compile(rf"([A-Za-z0-9_-]{{1,20}})(?: +((?=.){_BASE64}|=))?")
_AUTH_RESPONSE = re.compile(_BASE64.encode())


def parse_auth(argument: str) -> tuple[str, bytes | None]:
    """The argument of AUTH: the mechanism in upper case, and the initial response as sent.

    Raises:
        GrammarError: It is malformed (501).
    """
    match = _AUTH.fullmatch(argument)
    if match is None:
        raise GrammarError(reply.SYNTAX_ERROR)
    return match[1].upper(), None if match[2] is None else match[2].encode("ascii")


def is_base64(line: bytes) -> bool:
    """Whether a line is base64, as a client's answer to a 334 must be; an empty one is."""
    return _AUTH_RESPONSE.fullmatch(line) is not None
