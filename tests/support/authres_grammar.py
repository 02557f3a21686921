"""Authentication-Results by the letter: a strict reader (RFC 8601 2.2), the registered words, and what others read.

``read_strictly`` takes what the ABNF has and nothing else. ``REGISTERED`` is what the registry of Email Authentication
Methods and that of their result names have for the methods that the gateway writes.
"""

import json
import random
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from gateway.mailauth.authentication_results import authentication_results
from gateway.mailauth.results import (
    Arc,
    ArcResult,
    ArcSet,
    Disposition,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    PolicyRecord,
    Spf,
    SpfCheck,
    SpfResult,
)
from gateway.resolver import ClientName, NameStatus

ID: Final = "mx.example.com"
_PROGRAMS: Final = Path(__file__).parent / "authres_readers"

_FULL: Final = frozenset({"none", "pass", "fail", "policy", "neutral", "temperror", "permerror"})
REGISTERED: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    # RFC 8601 2.7.4
    "auth": (frozenset({"none", "pass", "fail", "temperror", "permerror"}), frozenset({"smtp.auth", "smtp.mailfrom"})),
    # RFC 8601 2.7.3
    "iprev": (frozenset({"pass", "fail", "temperror", "permerror"}), frozenset({"policy.iprev"})),
    # RFC 8601 2.7.2, RFC 7208
    "spf": (_FULL | {"softfail"}, frozenset({"smtp.mailfrom", "smtp.helo"})),
    # RFC 8601 2.7.1, RFC 6008
    "dkim": (_FULL, frozenset({"header.d", "header.s", "header.a", "header.i", "header.b"})),
    # RFC 8617 10
    "arc": (frozenset({"none", "pass", "fail"}), frozenset({"smtp.remote-ip", "header.oldest-pass"})),
    # RFC 7489 11, RFC 9989
    "dmarc": (
        frozenset({"none", "pass", "fail", "temperror", "permerror"}),
        frozenset({"header.from", "policy.dmarc"}),
    ),
}
"""By method its results and properties."""


@dataclass(frozen=True, slots=True)
class Read:
    """One result as a reader sees it.

    Attributes:
        method: The method.
        result: Its result.
        reason: The reason, empty without one.
        properties: Values by name.
        quoted: Of those, what stands in quotes.
    """

    method: str
    result: str
    reason: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    quoted: frozenset[str] = frozenset()


class NotByTheLetterError(Exception):
    """The field is none that RFC 8601 has; the text shows where."""


_CFWS: Final = re.compile(r"(?:[ \t]|\([^()\\\"\x00-\x1f\x7f]*\))*")
_KEYWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_QUOTED: Final = re.compile(r'"([^"\\\x00-\x1f\x7f]*)"')
_TOKEN: Final = re.compile(r"[^\x00-\x20\x7f-\U0010ffff()<>@,;:\\\"/\[\]?=]+")
_ADDRESS: Final = re.compile(r"(?:[^\x00-\x20\x7f-\U0010ffff()<>@,;:\\\"\[\]]+)?@[A-Za-z0-9.?_-]+")


def read_strictly(raw: bytes) -> list[Read]:
    """The results of a field.

    Raises:
        NotByTheLetterError: It is none.
    """
    return list(_Field(raw).results())


class _Field:
    """A field that is being read."""

    def __init__(self, raw: bytes) -> None:
        text = raw.decode()
        if re.search(r"\r\n(?![ \t]+[^ \t\r])", text.removesuffix("\r\n")) or not text.endswith("\r\n"):
            raise NotByTheLetterError(f"the lines of {text!r}")
        self._text = text.replace("\r\n", "")
        self._position = 0

    def _take(self, pattern: re.Pattern[str] | str) -> re.Match[str] | None:
        match = re.compile(pattern).match(self._text, self._position)
        if match is not None:
            self._position = match.end()
        return match

    def _need(self, pattern: re.Pattern[str] | str) -> str:
        match = self._take(pattern)
        if match is None:
            raise NotByTheLetterError(f"{self._text[self._position :][:60]!r} of {self._text!r}")
        return match[0]

    def results(self) -> Iterator[Read]:
        """Each result."""
        self._need("Authentication-Results: " + re.escape(ID) + ";")
        self._take(_CFWS)
        if self._take("none$"):
            return
        while True:
            yield self._result()
            if self._position == len(self._text):
                return
            self._need(";")
            self._take(_CFWS)

    def _result(self) -> Read:
        method = self._need(_KEYWORD)
        self._need("=")
        result = self._need(_KEYWORD)
        self._take(_CFWS)
        reason = ""
        if self._take("reason="):
            reason = self._value()[0]
            self._take(_CFWS)
        properties: dict[str, str] = {}
        quoted: set[str] = set()
        while self._position < len(self._text) and self._text[self._position] != ";":
            name = self._need(r"(?:smtp|header|body|policy)\.[A-Za-z0-9-]+")
            self._need("=")
            if name in properties:
                raise NotByTheLetterError(f"{name} is there twice")
            properties[name], is_quoted = self._value()
            quoted |= {name} if is_quoted else set()
            self._take(_CFWS)
        return Read(method, result, reason, properties, frozenset(quoted))

    def _value(self) -> tuple[str, bool]:
        match = self._take(_QUOTED)
        if match is not None:
            return match[1], True
        return (self._take(_ADDRESS) or [self._need(_TOKEN)])[0], False


JsonResults: TypeAlias = list[Any] | None


def by_program(command: Sequence[str], fields: Sequence[bytes]) -> list[JsonResults]:
    """What a program of ``authres_readers/`` reads of each field."""
    lines = "".join(f"{raw.hex()}\n" for raw in fields)
    result = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=100, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def by_spamassassin(fields: Sequence[bytes]) -> list[JsonResults]:
    """SpamAssassin: method, result, reason and properties of each; None for a field that it drops."""
    return by_program(["perl", str(_PROGRAMS / "spamassassin.pl")], fields)


def by_mail_authenticationresults(fields: Sequence[bytes]) -> list[JsonResults]:
    """Mail::AuthenticationResults: the same."""
    return by_program(["perl", str(_PROGRAMS / "mail_authenticationresults.pl")], fields)


def by_rspamd(fields: Sequence[bytes]) -> list[JsonResults]:
    """rspamd: the pairs that it reads of each result."""
    return by_program(["rspamadm", "lua", "-b", str(_PROGRAMS / "rspamd.lua")], fields)


_PIECES: Final = (
    *"aB7-_.@+=/%!?*{|~`^&#'\"\\;(),:<>[] \t\n\r\x00\x7f\u00fc\u2028\udcff",
    "joe", "example", "..", '\\"', '"\\', "((", "  ", "\r\n",
    "dmarc=pass", "spf=pass", "reason=", "header.d=", "smtp.mailfrom=", "none", "; dkim=pass", "x" * 70,
)  # fmt: skip
_LONG: Final = (
    "\u00e9" * 200,
    "\u20ac" * 150,
    "\U0001f600" * 290,
    "x" * 319 + "\U0001f600",
    "xn--bcher-kva",
    "\u00fc.example",
)
_REASONS: Final = (
    "", "the body was changed: its hash is not that of bh=", "the tag 'x\"y' is there twice", 'a="b\\" is no algorithm',
)  # fmt: skip


class Generator:
    """Makes fields of random results, with what senders might write in every place that is theirs.

    Args:
        seed: The same fields for the same seed.
        utf8: Whether they are those of internationalized messages, with long words in other scripts.
    """

    def __init__(self, seed: int, *, utf8: bool = False) -> None:
        self._utf8 = utf8
        self._pieces = (*_PIECES, *_LONG * 3) if utf8 else _PIECES
        self._random = random.Random(seed)  # noqa: S311 - test data

    def field(self) -> bytes:
        """The next field."""
        rng = self._random
        return authentication_results(
            ID,
            spf=self._maybe(self._spf),
            dkim=self._maybe(lambda: [self._signature() for _ in range(rng.randint(0, 4))]),
            arc=self._maybe(self._arc),
            dmarc=self._maybe(self._dmarc),
            mail_from=rng.choice(
                ["", f"{self._text()}@{self._name()}", "joe@example.org", "SRS0=a=b=c.example=joe@example.org"]
            ),
            helo_name=rng.choice([None, self._name()]),
            client_address=rng.choice(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]),
            client_name=self._maybe(lambda: ClientName(rng.choice([None, self._name()]), rng.choice(list(NameStatus)))),
            login=rng.choice([None, self._text(), "joe", "joe smith", "joe@example.org"]),
            smtputf8=self._utf8,
        )

    def _maybe(self, make: Any) -> Any:
        return make() if self._random.random() < 0.7 else None

    def _text(self) -> str:
        return "".join(self._random.choices(self._pieces, k=self._random.randint(0, 6)))

    def _name(self) -> str:
        return (
            self._text()
            if self._random.random() < 0.3
            else self._random.choice(["example.org", "[192.0.2.1]", "a_b.example"])
        )

    def _reason(self) -> str:
        return self._random.choice(_REASONS) if self._random.random() < 0.5 else self._text()

    def _check(self) -> SpfCheck:
        return SpfCheck(result=self._random.choice(list(SpfResult)), domain=self._name(), reason=self._reason())

    def _spf(self) -> Spf:
        return Spf(mail_from=self._check(), helo=self._maybe(self._check))

    def _signature(self) -> DkimSignature:
        rng = self._random
        return DkimSignature(
            result=rng.choice(list(DkimResult)),
            reason=self._reason(),
            domain=self._name(),
            selector=self._name(),
            algorithm=rng.choice(["", "rsa-sha256", self._text()]),
            auid=rng.choice(["", f"@{self._name()}", f"{self._text()}@{self._name()}"]),
            signature=rng.choice(["", "AbCd1234EfGh", "Ab/d1234EfGh", self._text()]),
            key_bits=rng.choice([None, 2048]),
            testing=rng.random() < 0.2,
        )

    def _arc(self) -> Arc:
        rng = self._random
        sets = tuple(
            ArcSet(instance=number, domain="x.example", selector="s", authentication_results="")
            for number in range(1, rng.randint(1, 4))
        )
        return Arc(
            result=rng.choice(list(ArcResult)),
            reason=self._reason(),
            oldest_pass=rng.choice([None, 0, 2]),
            sealer=rng.choice([None, self._name()]),
            sets=sets,
        )

    def _dmarc(self) -> Dmarc:
        rng = self._random
        return Dmarc(
            result=rng.choice(list(DmarcResult)),
            reason=self._reason(),
            domain=rng.choice(["", self._name()]),
            policy=rng.choice([None, *Disposition]),
            disposition=rng.choice(list(Disposition)),
            published=PolicyRecord(text="v=DMARC1", testing=rng.random() < 0.2),
            arc_sealer=rng.choice([None, self._name()]),
        )
