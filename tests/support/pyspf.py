"""pyspf as the second opinion on SPF: what it says by itself, and what it would say if it followed the RFC.

``REPAIRS`` is the closed list of what pyspf does otherwise than RFC 7208 as the gateway reads it; each is a few lines
in ``Repaired`` that put it right, independent of the gateway's own code. A result that differs from the gateway's must
be the gateway's with the repairs made.

Not in the list, because no zone of the tests holds them: names of more than 253 characters (7.3), unknown modifiers
that come twice (6), ``%{d0}`` and macros without their brace (7.1), local parts that are not US-ASCII (RFC 8616 4),
clients of more than ten names (5.5).
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final
from unittest.mock import patch

import spf

from gateway.resolver import RecordType, Resolver

REPAIRS: Final = {
    "4.6.4": "void look-ups are counted by term; hosts of the other family, and the client's names, are none",
    "4.6.4 redirect": "a redirect counts as a term that asks the DNS when it is followed",
    "5.2": "an include of the record's own domain is no error before it is reached",
    "5.4": "a mail host that has the client's address decides, whatever the DNS says about others",
    "5.5": "a fault of the DNS at the client's names is passed over, and a temperror if the check does not pass then",
    "5.7": "exists needs a domain, also with a qualifier",
    "7.3": "the client's name is that which suits the domain whose record is evaluated",
}


_DOMAINMATCH: Final = spf.domainmatch
_UNTOLD: Final = "untold--"
"""Stands before a ``%{p}`` that can't be told, until it is asked for."""


class _Addresses(list[str]):
    """The addresses of mail hosts, and that the DNS did not answer for one of them."""

    fault: spf.TempError | None = None


class Repaired(spf.query):  # type: ignore[misc]  # pyspf has no types
    """pyspf's query with some of the repairs."""

    p: Any

    def __init__(self, resolver: Resolver, repairs: frozenset[str], client: str, sender: str, helo: str) -> None:
        super().__init__(client, sender, helo)
        self._repairs = repairs
        self._resolver = resolver
        self._is_term = True
        self._is_including = False
        self._is_reading_redirect = False
        self._is_first = True
        self._void: list[str] = []
        self._untold = 0
        self._names: list[str] | None = None
        self._faulty: list[str] = []
        self.is_untold = False

    # 4.6.4

    def dns(self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:  # noqa: FBT001, FBT002 - pyspf's signature
        if qtype != "TXT":
            self._is_including = False
        name = self._asked(name)
        found: list[Any] = super().dns(name, qtype, cnames, ignore_void or "4.6.4" in self._repairs)
        if qtype == "MX" and not found:
            self._count_void(name, has_family=False)
        return found

    def dns_a(self, domainname: str, A: str = "A") -> list[str]:  # noqa: N803 - pyspf's signature
        domainname = self._asked(domainname)
        found: list[str] = super().dns_a(domainname, A)
        if self._is_term and not found and all(0 < len(label) < 64 for label in domainname.split(".")):
            self._count_void(domainname, has_family=True)
        return found

    def _count_void(self, name: str, *, has_family: bool) -> None:
        """Count a name; if these are too many, those with an address of any family don't count."""
        if "4.6.4" not in self._repairs:
            return
        self._void.append(name.lower() if has_family else "")
        while len(self._void) + self._untold > spf.MAX_VOID_LOOKUPS:
            if not any(self._void):
                raise spf.TempError("the other family") if self._untold else spf.PermError("void lookups")
            name = next(filter(None, self._void))
            self._void.remove(name)
            answers = [self._resolver.known(name, kind) for kind in (RecordType.A, RecordType.AAAA)]
            if any(answer is not None and answer.status.is_temporary for answer in answers):
                self._untold += 1
            elif not any(answer is not None and answer.records for answer in answers):
                self._void.append("")

    # 4.6.4 redirect

    def check0(self, spf: str | None, recursion: int) -> Any:
        self._is_reading_redirect = "4.6.4 redirect" in self._repairs and " redirect=" in (spf or "")
        return super().check0(spf, recursion)

    def check_lookups(self) -> None:
        if self._is_reading_redirect:
            self._is_reading_redirect = False
            return
        self._is_including = True  # or the next question is another term's
        super().check_lookups()

    def dns_spf(self, domain: str) -> str | None:
        if not self._is_including and not self._is_first and "4.6.4 redirect" in self._repairs:
            super().check_lookups()
        self._is_including = self._is_first = False
        found: str | None = super().dns_spf(domain)
        return found

    # 5.2, 5.7

    def validate_mechanism(self, mech: str) -> Any:
        if "5.7" in self._repairs and mech.lstrip("+-?~").lower() == "exists":
            raise spf.PermError("exists without a domain")
        try:
            return super().validate_mechanism(mech)
        except spf.PermError as error:
            if "5.2" not in self._repairs or error.msg != "include has trivial recursion":
                raise
            return mech, "include", self.d, self.cidrmax, spf.RESULTS.get(mech[0], "pass")

    # 5.4

    def dns_mx(self, domainname: str) -> list[str]:
        self._is_term = False
        try:
            if "5.4" not in self._repairs:
                plain: list[str] = super().dns_mx(domainname)
                return plain
            found = _Addresses()
            self._is_term = True
            hosts = sorted(self.dns(domainname, "MX"))
            self._is_term = False
            for _, host in hosts:
                try:
                    found += self.dns_a(host, self.A)
                except spf.TempError as error:
                    found.fault = error
            return found
        finally:
            self._is_term = True

    def cidrmatch(self, ipaddrs: Any, n: int) -> bool:
        if super().cidrmatch(ipaddrs, n):
            return True
        if isinstance(ipaddrs, _Addresses) and ipaddrs.fault is not None:
            raise ipaddrs.fault
        return False

    # 5.5

    def validated_ptrs(self) -> list[str]:
        self._is_term = False
        try:
            if "5.5" not in self._repairs:
                plain: list[str] = super().validated_ptrs()
                return plain
            self._names, self._faulty, found = None, [], []
            with suppress(spf.TempError):
                self._names = self.dns_ptr(self.i)
            for name in self._names or ():
                try:
                    if self.cidrmatch(self.dns_a(name, self.A), self.cidrmax):
                        found.append(name)
                except spf.TempError:
                    self._faulty.append(name)
            return found
        finally:
            self._is_term = True

    def matches(self, found: list[str], target: str) -> bool:
        """Whether a ``ptr`` matches; it can't be told if a name could have matched, and none does."""
        is_match = bool(_DOMAINMATCH(found, target))
        if "5.5" in self._repairs and not is_match:
            self.is_untold |= self._names is None or bool(_DOMAINMATCH(self._faulty, target))
        return is_match

    def _asked(self, name: str) -> str:
        """A name that a term asks for; with a name of the client in it that can't be told, no more can the term."""
        self.is_untold |= _UNTOLD in name
        return name.replace(_UNTOLD, "")

    def check1(self, spf: str | None, domain: str, recursion: int) -> Any:
        return super().check1(spf, domain.replace(_UNTOLD, ""), recursion)

    def get_explanation(self, spec: str) -> Any:
        return super().get_explanation(spec.replace(_UNTOLD, ""))

    # 7.3

    def getp(self) -> str:
        if "7.3" in self._repairs:
            self.p = None
        elif self.p:
            return str(self.p)
        name: str = super().getp()
        if "5.5" in self._repairs:
            ordered = sorted(self._names or (), key=lambda each: (not _DOMAINMATCH([each], self.d), each != self.d))
            before = ordered[: ordered.index(name)] if name in ordered else ordered
            if self._names is None or any(each in self._faulty for each in before):
                self.p = name = _UNTOLD + name
        return name


def opinion(resolver: Resolver, repairs: Iterable[str], *, client: str, sender: str, helo: str) -> str:
    """The result that pyspf comes to with some repairs.

    Args:
        resolver: Has all answers at hand.
        repairs: The names of the repairs.
        client: The client's address.
        sender: The reverse-path.
        helo: The HELO name.
    """

    def lookup(name: str, kind: str, *_: object) -> list[tuple[tuple[str, str], Any]]:
        answer = resolver.known(name, RecordType(kind))
        if answer is None or answer.status.is_temporary:
            raise spf.TempError("no answer")
        values: list[Any] = list(answer.records)
        if kind == "TXT":
            values = [(record.encode(),) for record in values]
        if kind == "MX":
            values = [(int(record.split()[0]), record.split()[1]) for record in values]
        return [((name, kind), value) for value in values]

    query = Repaired(resolver, frozenset(repairs), client, sender, helo)
    with patch.object(spf, "DNSLookup", lookup), patch.object(spf, "domainmatch", query.matches):
        result = str(query.check()[0])
    return "temperror" if query.is_untold and result not in {"pass", "temperror"} else result
