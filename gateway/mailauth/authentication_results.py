"""Authentication-Results: the field that tells mail servers and readers behind the gateway who sent a message.

RFC 8601 has the field, RFC 6008 ``header.b``, RFC 8617 section 10 the properties of ``arc``, RFC 9989 ``policy.dmarc``,
RFC 8616 what is written in UTF-8. ``authentication_results`` writes it, one field for all methods. ``authserv_claims``
beside this file tells which fields a sender forged.

Readers differ, so what is written is what all of them take: only registered results and properties (SpamAssassin drops
a whole field for one that it does not know), one comment at a place, no special characters in comments, values quoted
where RFC 2045 asks for it and then last in their result, no quotes or backslashes in quotes (the Perl module
Mail::AuthenticationResults ends a quoted string at the first quote), signatures that pass first. Many look for
``dmarc=pass`` anywhere in the field, and many take any ``spf=pass`` for the reverse-path's. Therefore:

* What a sender wrote can end neither its value nor the field, nor read like a result or its end: where a local part
  does, only the domain is written; in a reason or a login other characters stand for the equals sign, semicolons,
  quotes and backslashes.
* A chain of ARC sets that can't be told now is left out: RFC 8617 10.1 has no word for it.
* SPF's pass of the HELO name is a result of its own only if the reverse-path passes too, and a comment otherwise.

Nothing is raised. Limits: the signatures written (``SIGNATURES``), the octets of a reason (``REASON``) and of a value
(``VALUE``), so that a field has at most some 20 KB, and no line more than 998 octets (RFC 5322 2.1.1).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import idna

from gateway.mailauth.results import (
    Arc,
    ArcResult,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    Spf,
    SpfCheck,
    SpfResult,
)
from gateway.resolver import ClientName, NameStatus

SIGNATURES: Final = 20
"""The most DKIM signatures that are written; who signs honestly has two or three."""

REASON: Final = 200
"""The most octets of a reason."""

VALUE: Final = 320
"""The most octets of a value: a local part of 64, an ``@`` and a domain of 255 (RFC 5321 4.5.3.1)."""

WIDTH: Final = 78
"""Where lines are folded (RFC 5322 2.1.1)."""

_TAB: Final = 8  # columns that a reader's screen gives the tab at the start of a line

# RFC 2045 5.1: token := 1*<any (US-ASCII) CHAR except SPACE, CTLs, or tspecials>
_WORD: Final = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"
# RFC 8601 2.2: pvalue = [CFWS] ( ( value / [ [ local-part ] "@" ] domain-name ) ) [CFWS]; quoted if a reader could take
# its first character for a sign between words
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PVALUE: Final = re.compile(rf"{_WORD}|(?![/=])(?:{_ATOM}(?:\.{_ATOM})*)?@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_UNQUOTABLE: Final = re.compile(r'["\\;]')  # what ends a quoted string, or a result, for some reader
_INSTEAD: Final = {'"': "'", "\\": "/", ";": ","}
_MISLEADING: Final = re.compile(r"(arc|auth|dkim|dmarc|iprev|spf)([^A-Za-z0-9=]*)=", re.IGNORECASE)
"""What a hasty reader could take for a result."""

# What nearly all names and addresses are: nothing is to be done about these.
_PLAIN_DOMAIN: Final = re.compile(r"[a-z0-9.-]{1,255}")
_PLAIN_ADDRESS: Final = re.compile(r"[A-Za-z0-9._+-]{0,64}@[a-z0-9.-]{1,255}")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
# What stands for these, an underscore, needs no quotes.
_NO_DOMAIN: Final = re.compile(r"[^\w.:\[\]-]")
_NO_NAME: Final = re.compile(r"[^\w.-]")
_NO_BASE64: Final = re.compile(r"[^A-Za-z0-9+/]")
_SHORTEST_SIGNATURE: Final = 8  # RFC 6008 4: at least the first eight characters of b=
_LONGEST_SIGNATURE: Final = 64


def authentication_results(
    authserv_id: str,
    *,
    spf: Spf | None,
    dkim: Sequence[DkimSignature] | None,
    arc: Arc | None,
    dmarc: Dmarc | None,
    mail_from: str,
    helo_name: str | None,
    client_address: str,
    client_name: ClientName | None = None,
    login: str | None = None,
    smtputf8: bool = False,
) -> bytes:
    """The field, folded, with its CRLF.

    Args:
        authserv_id: Who says so, from the configuration: a host name.
        spf: Like the following what a method came to, None where it did not run; it is left out then.
        dkim: The message's signatures; an empty sequence is written as ``dkim=none``.
        arc: The chain of ARC sets; left out with a temperror, too.
        dmarc: DMARC.
        mail_from: The reverse-path as the client wrote it, empty for the null one.
        helo_name: The argument of HELO or EHLO.
        client_address: The client's IP address as text.
        client_name: The client's confirmed name (``iprev``), None where it was not looked up.
        login: The name with which the client authenticated (``auth``), None where it did not.
        smtputf8: Whether the message is internationalized, so that UTF-8 may be written (RFC 8616).

    Returns:
        The field; with ``none`` in the place of results where no method ran (RFC 8601 2.2).
    """
    write = _Writer(utf8=smtputf8)
    results: list[list[str]] = []
    if login is not None:
        results.append(["auth=pass", *write.property("smtp.auth", _harmless(write.text(login)))])
    if client_name is not None:
        results.append(write.iprev(client_name, client_address))
    if spf is not None:
        results += write.spf(spf, mail_from, helo_name or "", client_address)
    if dkim is not None:
        results += write.dkim(dkim)
    if arc is not None and arc.result is not ArcResult.TEMPERROR:
        results.append(write.arc(arc, client_address))
    if dmarc is not None:
        results.append(write.dmarc(dmarc))
    return _folded(authserv_id, results or [["none"]])


class _Writer:
    """Makes the words of each result; a word is what is not torn apart by folding.

    Args:
        utf8: Whether UTF-8 may be written.
    """

    __slots__ = ("_utf8",)

    def __init__(self, *, utf8: bool) -> None:
        self._utf8 = utf8

    # The methods.

    def iprev(self, name: ClientName, address: str) -> list[str]:
        """The client's name confirmed by its own address records (RFC 8601 3)."""
        results = {NameStatus.CONFIRMED: "pass", NameStatus.UNKNOWN: "fail", NameStatus.TEMPORARY: "temperror"}
        comment = [] if name.name is None else [f"({_NO_NAME.sub('_', self.text(name.name))})"]
        return [f"iprev={results[name.status]}", *comment, f"policy.iprev={_value(address)}"]

    def spf(self, spf: Spf, mail_from: str, helo_name: str, address: str) -> Iterator[list[str]]:
        """SPF of the reverse-path, and of the HELO name (RFC 8601 2.7.2)."""
        checked, helo = spf.mail_from, spf.helo
        client = f"(client {address})"
        if not mail_from:  # RFC 7208 2.4: what was checked is the HELO name
            yield [*self._spf(checked, client), *self.property("smtp.helo", self.domain(helo_name))]
            return
        apart = helo is None or helo.result is not SpfResult.PASS or checked.result is SpfResult.PASS
        if not apart:
            client = f"(client {address}, helo {self.domain(helo_name)} passes)"
        yield [*self._spf(checked, client), *self.property("smtp.mailfrom", self.address(mail_from))]
        if helo is not None and apart:
            yield [*self._spf(helo, None), *self.property("smtp.helo", self.domain(helo_name))]

    def _spf(self, check: SpfCheck, comment: str | None) -> list[str]:
        said = check.result in {SpfResult.NONE, SpfResult.PASS}
        reason = [] if said else self.reason(check.reason)
        return [f"spf={check.result}", *([] if comment is None else [comment]), *reason]

    def dkim(self, signatures: Sequence[DkimSignature]) -> Iterator[list[str]]:
        """Each signature (RFC 8601 2.7.1), those that pass first; ``dkim=none`` without one."""
        if not signatures:
            yield ["dkim=none"]
            return
        passing = [each for each in signatures if each.result is DkimResult.PASS]
        failing = [each for each in signatures if each.result is not DkimResult.PASS]
        written = (passing + failing)[:SIGNATURES]
        length = _telling_length([each.signature for each in written])
        for number, signature in enumerate(written):
            words = self._signature(signature, length)
            if number == SIGNATURES - 1 and len(signatures) > SIGNATURES:
                words.append(f"({len(signatures) - SIGNATURES} more signatures)")
            yield words

    def _signature(self, signature: DkimSignature, length: int) -> list[str]:
        facts = [] if signature.key_bits is None else [f"{signature.key_bits}-bit key"]
        if signature.testing:
            facts.append("test mode")
        return [
            f"dkim={signature.result}",
            *([f"({', '.join(facts)})"] if facts else []),
            *self.reason(signature.reason),
            *self.property("header.d", _NO_NAME.sub("_", self.domain(signature.domain))),
            *self.property("header.s", _NO_NAME.sub("_", self.text(signature.selector))),
            *self.property("header.a", _NO_NAME.sub("_", self.text(signature.algorithm))),
            *self.property("header.i", self.auid(signature.auid)),
            *self.property("header.b", _NO_BASE64.sub("", signature.signature)[:length]),
        ]

    def arc(self, arc: Arc, address: str) -> list[str]:
        """The chain of ARC sets (RFC 8617 10)."""
        words = [f"arc={arc.result}"]
        if arc.result is ArcResult.NONE:
            return words
        if arc.sealer is not None:
            count = f"i={len(arc.sets)} " if arc.sets else ""
            words.append(f"({count}d={self.domain(arc.sealer)})")
        words += self.reason(arc.reason)
        if arc.oldest_pass is not None:
            words.append(f"header.oldest-pass={arc.oldest_pass}")
        return [*words, f"smtp.remote-ip={_value(address)}"]

    def dmarc(self, dmarc: Dmarc) -> list[str]:
        """DMARC (RFC 9989), with the policy as OpenDMARC and Gmail write it."""
        words = [f"dmarc={dmarc.result}"]
        if dmarc.policy is not None:
            testing = " t=y" if dmarc.testing else ""
            sealer = "" if dmarc.arc_sealer is None else f" sealer={self.domain(dmarc.arc_sealer)}"
            words.append(f"(p={dmarc.policy}{testing} dis={dmarc.disposition}{sealer})")
        if dmarc.result not in {DmarcResult.NONE, DmarcResult.PASS}:
            words += self.reason(dmarc.reason)
        policy = [] if dmarc.policy is None else [f"policy.dmarc={dmarc.disposition}"]
        return [*words, *policy, *self.property("header.from", self.domain(dmarc.domain))]

    # Their parts.

    @staticmethod
    def property(name: str, value: str) -> list[str]:
        """A property; nothing where it has no value."""
        return [f"{name}={_value(value)}"] if value else []

    def reason(self, reason: str) -> list[str]:
        """``reason="..."``, parted at spaces so that it can be folded; nothing without a reason."""
        if not reason:
            return []
        text = self.text(reason, REASON)
        if len(text) < len(reason) and " " in text:  # it was cut: at a word
            text = text.rpartition(" ")[0] + " ..."
        text = _harmless(" ".join(text.split()))
        return [f'reason="{text}"'] if text else []

    def text(self, text: str, limit: int = VALUE) -> str:
        """Without control characters, and in ASCII unless UTF-8 may be written; at most so many octets."""
        text = text if len(text) <= limit else text[: limit - 3] + "..."
        if text.isascii():
            return text if text.isprintable() else _UNPRINTABLE.sub("?", text)
        if not self._utf8:
            return _UNPRINTABLE.sub("?", text)
        text = "".join(character if character.isprintable() else "?" for character in text)
        return text if _size(text) <= limit else _encoded(text)[: limit - 3].decode("utf-8", "ignore") + "..."

    def domain(self, name: str) -> str:
        """A domain or an address literal: as U-labels where UTF-8 may be written, else as it is (RFC 8616 4)."""
        if _PLAIN_DOMAIN.fullmatch(name) and not (self._utf8 and "xn--" in name):
            return name
        if self._utf8 and "xn--" in name.lower():
            with suppress(idna.IDNAError):  # what can't be decoded, or is too long then, is shown as it is
                u_labels = idna.decode(name)
                name = u_labels if _size(u_labels) <= VALUE else name
        elif not self._utf8 and not name.isascii():
            with suppress(idna.IDNAError):
                name = idna.encode(name, uts46=True).decode("ascii")
        return _NO_DOMAIN.sub("_", self.text(name))

    def address(self, address: str) -> str:
        """An address or ``@domain``; of one whose local part could mislead a reader the domain alone."""
        if _PLAIN_ADDRESS.fullmatch(address) and not (self._utf8 and "xn--" in address):
            return address
        local_part, at, domain = address.rpartition("@")
        domain = self.domain(domain)
        local_part = local_part if len(local_part) > VALUE else self.text(local_part)
        if (
            not at
            or _size(local_part) + 1 + _size(domain) > VALUE
            or _UNQUOTABLE.search(local_part)
            or _MISLEADING.search(local_part)
        ):
            return domain
        return f"{local_part}@{domain}"

    def auid(self, auid: str) -> str:
        """The identity of a signature; without its local part where that needs quotes, since more stands behind it."""
        address = self.address(auid)
        if self._utf8 or _PVALUE.fullmatch(address):
            return address
        domain = _NO_NAME.sub("_", address.rpartition("@")[2])
        return next((value for value in (f"@{domain}", domain) if _PVALUE.fullmatch(value)), "")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _size(text: str) -> int:
    """Octets in UTF-8."""
    return len(text) if text.isascii() else len(_encoded(text))


def _harmless(text: str) -> str:
    """Without what a hasty reader could take for a result, for its end, or for the end of a quoted string."""
    return _MISLEADING.sub(r"\1\2:", _UNQUOTABLE.sub(lambda found: _INSTEAD[found[0]], text))


def _value(text: str) -> str:
    """A value, quoted unless it may stand without; it has no quotes or backslashes."""
    return text if _PVALUE.fullmatch(text) else f'"{text}"'


def _telling_length(signatures: Iterable[str]) -> int:
    """How many characters of each signature tell all of them apart (RFC 6008 4)."""
    signatures = list(signatures)
    if len(signatures) == 1:
        return _SHORTEST_SIGNATURE
    distinct = {_NO_BASE64.sub("", signature)[:_LONGEST_SIGNATURE] for signature in signatures}
    length = _SHORTEST_SIGNATURE
    while length < _LONGEST_SIGNATURE and len({each[:length] for each in distinct}) < len(distinct):
        length += 1
    return length


def _folded(authserv_id: str, results: list[list[str]]) -> bytes:
    """The field: each result on a line of its own, longer ones folded at white space."""
    lines = [f"Authentication-Results: {authserv_id};"]
    if results == [["none"]]:
        lines[0] += " none"
        results = []
    for number, words in enumerate(results):
        words[-1] += ";" if number < len(results) - 1 else ""
        line, column = "\t" + words[0], _TAB + len(words[0])
        for word in words[1:]:
            if column + 1 + len(word) <= WIDTH:
                line, column = f"{line} {word}", column + 1 + len(word)
                continue
            for piece, fold in _pieces(word):
                if column + 1 + len(piece) <= WIDTH:
                    line, column = f"{line} {piece}", column + 1 + len(piece)
                else:
                    lines.append(line)
                    line, column = fold + piece, (1 if fold == " " else _TAB + 1) + len(piece)
        lines.append(line)
    return _encoded("\r\n".join(lines) + "\r\n")


def _pieces(word: str) -> Iterator[tuple[str, str]]:
    """A word, or of a comment or a reason the parts between its single spaces; and what to begin a new line with.

    Unfolding leaves the white space as it is (RFC 5322 2.2.3), so within a reason it must be the space itself.
    """
    first, *rest = word.split(" ") if word.startswith(("(", "reason=")) else [word]
    yield first, "\t "
    for piece in rest:
        yield piece, " "
