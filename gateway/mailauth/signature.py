"""Signature fields: DKIM-Signature (RFC 6376 3.5) and ARC-Message-Signature, which has its form (RFC 8617 4.1.2).

``parse_signature`` reads one and says what is wrong with it, without the DNS and without the rest of the message.
Domains may be in U-labels (RFC 8616 4); they are given in A-labels and lower case.

A field that breaks the rules of its own standard is a permerror (RFC 6376 6.1.1: PERMFAIL); one that is in form, but
of a version, algorithm or canonicalization that is not known here, is neutral (RFC 8601 2.7.1: "not otherwise able to
be processed"). ``rsa-sha1`` is a permerror by RFC 8301 3.1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

import idna

from gateway.header import HeaderField
from gateway.mailauth.canonicalization import Canonicalization
from gateway.mailauth.keys import Algorithm, key_name
from gateway.mailauth.results import DkimResult
from gateway.mailauth.tags import (
    TagError,
    decode_base64,
    field_text,
    parse_tags,
    quoted,
    split_list,
    without_white_space,
)

SIGNATURE_SHOWN: Final = 16
"""Characters of ``b=`` that tell signatures apart in reports; RFC 6008 4 wants at least 8."""

# RFC 5321 4.1.2: sub-domain = Let-dig [Ldh-str]; "_" because it occurs. 63 octets a label: RFC 1035 2.3.4.
_LABEL: Final = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
MAX_NAMES: Final = 1000
"""Names in ``h=``; signers list some 20. More would only cost time."""
_MAX_DOMAIN: Final = 253  # RFC 1035 2.3.4, as text without the final dot
# RFC 5322 3.6.8: ftext; RFC 6376 2.10 takes out the semicolon. In the second, names with colons between them.
_FIELD_NAME: Final = re.compile(r"[!-9<-~]+")
_FIELD_NAMES: Final = re.compile(r"[!-:<-~]*")
# RFC 6376 3.5: l= has at most 76 digits, t= and x= at most 12.
_NUMBER: Final = re.compile(r"[0-9]{1,76}")
_TIME: Final = re.compile(r"[0-9]{1,12}")
# RFC 6376 2.11: dkim-quoted-printable; hex digits in upper case by the letter, in either by what is sent.
_QUOTED_PRINTABLE: Final = re.compile(r"(?:[^=]|=[0-9A-Fa-f]{2})*")
# Controls, separators, what directs or joins other characters, surrogates, and what never is a character. Python's own
# notion of what can be printed grows with each edition of Unicode.
_UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\udfff\ufeff"
    "\ufff0-\uffff\U000e0000-\U000e0fff]"
)
_ALGORITHM: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*-[A-Za-z][A-Za-z0-9-]*")


class Form(StrEnum):
    """Whose rules a signature field follows."""

    DKIM = "dkim-signature"
    ARC = "arc-message-signature"


_DKIM: Final = Form.DKIM  # members of an enum are slow to find before Python 3.12
_ARC: Final = Form.ARC


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature field that can be verified.

    Attributes:
        raw: The field as received.
        algorithm: ``a=``.
        domain: ``d=``: A-labels, lower case.
        selector: ``s=``: A-labels.
        auid: ``i=`` decoded, its domain in A-labels, or ``@`` and ``d=``; in ARC, ``@`` and ``d=``.
        instance: ``i=`` of ARC, as written; empty in DKIM.
        names: ``h=`` in lower case, in order.
        header_canonicalization: The first word of ``c=``.
        body_canonicalization: The second word of ``c=``.
        octets: ``b=``.
        shown: The first characters of ``b=``, for reports (RFC 6008).
        body_hash: ``bh=``.
        body_length: ``l=``, None without it.
        signed_at: ``t=``, UNIX time in seconds, None without it.
        expires_at: ``x=``, UNIX time in seconds, None without it.
        otherwise: The same field read in the other way that there is, None where there is only one.
    """

    raw: bytes
    algorithm: Algorithm
    domain: str
    selector: str
    auid: str
    instance: str
    names: tuple[str, ...]
    header_canonicalization: Canonicalization
    body_canonicalization: Canonicalization
    octets: bytes
    shown: str
    body_hash: bytes
    body_length: int | None
    signed_at: int | None
    expires_at: int | None
    otherwise: "Signature | None" = None

    @property
    def readings(self) -> "tuple[Signature, ...]":
        """The ways in which the field can be read; it verifies if one of them does."""
        return (self,) if self.otherwise is None else (self, self.otherwise)

    @property
    def key_name(self) -> str:
        """Where its key stands in the DNS."""
        return key_name(self.selector, self.domain)

    @property
    def auid_domain(self) -> str:
        """The domain of ``i=``."""
        return self.auid.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A signature field that can't be verified, with what of it can be read.

    Attributes:
        raw: The field as received.
        result: What it comes to in DKIM.
        reason: Why, in a sentence.
        domain: ``d=``, empty if it can't be read.
        selector: ``s=``, empty if it can't be read.
        algorithm: ``a=``, empty if it can't be read.
        shown: The first characters of ``b=``.
    """

    raw: bytes
    result: DkimResult
    reason: str
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    shown: str = ""


class UnknownError(TagError):
    """A value is in form, but not of a kind that is known here."""


def domain_name(tag: str, text: str) -> str:
    """A domain or selector in A-labels and lower case (RFC 8616 4).

    Args:
        tag: Whose value it is, for the error.
        text: The value.

    Raises:
        TagError: It is no domain name.
    """
    if len(text) <= _MAX_DOMAIN and _DOMAIN.fullmatch(text) is not None:
        return text.lower()
    name = without_white_space(text)
    if not name.isascii() and len(name) <= _MAX_DOMAIN:
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise TagError(f"{tag}={quoted(text)} is no domain name") from None
    if len(name) > _MAX_DOMAIN or _DOMAIN.fullmatch(name) is None:
        raise TagError(f"{tag}={quoted(text)} is no domain name")
    return name.lower()


def required(tags: Mapping[str, str], tag: str) -> str:
    """The value of a tag that must be there.

    Raises:
        TagError: It is missing or empty.
    """
    value = tags.get(tag)
    if not value:
        raise TagError(f"the tag {tag}= is missing" if value is None else f"the tag {tag}= is empty")
    return value


def read_algorithm(tags: Mapping[str, str]) -> Algorithm:
    """``a=`` (RFC 6376 3.3, RFC 8301 3.1).

    Raises:
        UnknownError: It is none that is known.
        TagError: It is missing, malformed, or must not be used any more.
    """
    value = required(tags, "a").lower()
    try:
        return Algorithm(value)
    except ValueError:
        pass
    if value == "rsa-sha1":
        raise TagError(f"the algorithm {value} must not be used any more (RFC 8301)")
    if _ALGORITHM.fullmatch(value) is None:
        raise TagError(f"a={quoted(value)} is no algorithm")
    raise UnknownError(f"the algorithm {quoted(value)} is not known")


def parse_signature(field: HeaderField, form: Form = Form.DKIM) -> Signature | Malformed:
    """Read a signature field.

    Args:
        field: The field.
        form: Whose rules it follows.
    """
    tags: Mapping[str, str] = {}
    try:
        tags = parse_tags(field_text(field.raw), strict=form is _ARC)
        return _signature(field.raw, tags, form)
    except TagError as error:
        return Malformed(
            raw=field.raw,
            result=DkimResult.NEUTRAL if isinstance(error, UnknownError) else DkimResult.PERMERROR,
            reason=str(error),
            domain=_readable_domain("d", tags),
            selector=_readable_domain("s", tags),
            algorithm=tags["a"].lower() if _ALGORITHM.fullmatch(tags.get("a", "")) else "",
            shown=_shown(tags.get("b", "")),
        )


def _signature(raw: bytes, tags: Mapping[str, str], form: Form) -> Signature:
    if form is _DKIM and (version := required(tags, "v")) != "1":
        raise UnknownError(f"the version {quoted(version)} is not known")
    algorithm = read_algorithm(tags)
    domain = domain_name("d", required(tags, "d"))
    selector = domain_name("s", required(tags, "s"))
    if len(selector) + len("._domainkey.") + len(domain) > _MAX_DOMAIN:
        raise TagError("s= and d= are too long for a domain name")
    # Without c= RFC 8617 4.1.2 can be taken to mean simple, as in DKIM; sealers and public test data also take relaxed.
    header, body = _canonicalizations(tags.get("c", "simple/simple" if form is _DKIM else "relaxed/relaxed"))
    _check_query(tags.get("q", "dns/txt"))
    body_hash = decode_base64("bh", required(tags, "bh"))
    if len(body_hash) != 32:  # noqa: PLR2004 - octets of SHA-256, which all algorithms use
        raise TagError(f"bh= has {len(body_hash)} octets, a SHA-256 has 32")
    signed_at, expires_at = _number("t", tags, _TIME), _number("x", tags, _TIME)
    if signed_at is not None and expires_at is not None and expires_at <= signed_at:
        raise TagError("it expires (x=) before it was made (t=)")
    signature = Signature(
        raw=raw,
        algorithm=algorithm,
        domain=domain,
        selector=selector,
        auid=_auid(tags["i"], domain) if form is _DKIM and "i" in tags else f"@{domain}",
        instance=required(tags, "i") if form is _ARC else "",
        names=_names(tags, form),
        header_canonicalization=header,
        body_canonicalization=body,
        octets=decode_base64("b", required(tags, "b")),
        shown=_shown(tags["b"]),
        body_hash=body_hash,
        body_length=_number("l", tags, _NUMBER),
        signed_at=signed_at,
        expires_at=expires_at,
    )
    if form is _DKIM or "c" in tags:
        return signature
    simple = Canonicalization.SIMPLE
    return replace(
        signature, otherwise=replace(signature, header_canonicalization=simple, body_canonicalization=simple)
    )


_CANONICALIZATIONS: Final = {
    f"{header}/{body}": (header, body) for header in Canonicalization for body in Canonicalization
}


def _canonicalizations(value: str) -> tuple[Canonicalization, Canonicalization]:
    """``c=``; the body's is simple unless it is named (RFC 6376 3.5)."""
    known = _CANONICALIZATIONS.get(value)
    if known is not None:
        return known
    header, _, body = without_white_space(value).lower().partition("/")
    try:
        return Canonicalization(header), Canonicalization(body or "simple")
    except ValueError:
        raise UnknownError(f"the canonicalization {quoted(value)} is not known") from None


def _check_query(value: str) -> None:
    """``q=``: the DNS must be one of the ways to the key (RFC 6376 3.5)."""
    methods = [method.lower() for method in split_list(value)]
    if "dns/txt" not in methods and "dns" not in methods:
        raise UnknownError(f"the way to the key, q={quoted(value)}, is not known")


def _names(tags: Mapping[str, str], form: Form) -> tuple[str, ...]:
    """``h=``: it must name From in DKIM (RFC 6376 3.5, 6.1.1).

    In ARC it may be empty, as sealers and the public test data have it. In both, what is empty between colons or at an
    end stands for nothing, as for other verifiers.
    """
    value = tags["h"] if form is _ARC and "h" in tags else required(tags, "h")
    if value.count(":") >= MAX_NAMES:
        raise TagError(f"h= lists more than {MAX_NAMES} fields")
    names = tuple(split_list(value.lower()))
    if _FIELD_NAMES.fullmatch(value) is None and _FIELD_NAMES.fullmatch(":".join(names)) is None:
        for name in names:
            if _FIELD_NAME.fullmatch(name) is None:
                raise TagError(f"h= lists {quoted(name)}, which is no field name")
    if form is _DKIM and "from" not in names:
        raise TagError("the From field is not signed")
    return names


def _auid(value: str, domain: str) -> str:
    """``i=``: its domain must be that of ``d=`` or one under it (RFC 6376 3.5, 6.1.1)."""
    value = without_white_space(value)
    if value == f"@{domain}":
        return value
    decoded = _decoded(value) if "=" in value else value
    local_part, at, name = decoded.rpartition("@")
    if not at or _UNSHOWN.search(local_part) is not None:
        raise TagError(f"i={quoted(decoded)} is no identity")
    name = domain_name("i", name)
    if name != domain and not name.endswith("." + domain):
        raise TagError(f"the domain of i={quoted(decoded)} is not under d={quoted(domain)}")
    return f"{local_part}@{name}"


def _decoded(value: str) -> str:
    """What quoted-printable text stands for (RFC 6376 2.11)."""
    if _QUOTED_PRINTABLE.fullmatch(value) is None:
        raise TagError(f"i={quoted(value)} is not quoted-printable")
    try:
        return unquote_to_bytes(value.replace("%", "%25").replace("=", "%")).decode()
    except UnicodeDecodeError:
        raise TagError(f"i={quoted(value)} holds octets that are not UTF-8") from None


def _number(tag: str, tags: Mapping[str, str], form: re.Pattern[str]) -> int | None:
    value = tags.get(tag)
    if value is None:
        return None
    if form.fullmatch(value) is None:
        raise TagError(f"{tag}={quoted(value)} is no number")
    return int(value)


def _shown(value: str) -> str:
    shown = without_white_space(value[: 4 * SIGNATURE_SHOWN])[:SIGNATURE_SHOWN]
    return shown if shown.isascii() else ""


def _readable_domain(tag: str, tags: Mapping[str, str]) -> str:
    try:
        return domain_name(tag, tags.get(tag, ""))
    except TagError:
        return ""
