"""pyspf's evaluation of one SPF check, made to run on what is known (RFC 7208 4 and 5).

``Query`` is pyspf's, with other ways to ask the DNS, to expand macros and to compare addresses. It never waits: where
an answer is missing it notes the question in ``Answers.open`` and raises ``Open``, which passes every ``except`` of
pyspf's that it can meet. Whoever runs it gets the answers and makes another one. It notes in ``Frame`` what it tried.

Raises nothing else: what is wrong with a record is one of pyspf's results.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, NamedTuple, TypeAlias

import spf
from spf import PermError, TempError

from gateway.mailauth.spf_record import (
    MAX_FIXED,
    Mechanism,
    Qualified,
    expand,
    expand_domain,
    fixed,
    is_askable,
    is_record,
    prepare,
)
from gateway.mailauth.spf_steps import ASKING, Frame, one_line
from gateway.resolver import Answer, RecordType, Status

MAX_EXPLANATION: Final = 250
"""Characters of an explanation that are kept: a reply line has 512 octets (RFC 5321 4.5.3.1.5)."""
_MAX_TEMPLATE: Final = 1024
_IPV6: Final = 6

Question: TypeAlias = tuple[str, RecordType]


class Open(BaseException):
    """A question is open; the run ends here. It is no ``Exception``, so that no handler for those takes it."""


class Answers:
    """What a check knows and what it wants to know.

    Attributes:
        known: The answers so far.
        open: What the last run could not go on without.
    """

    def __init__(self, cached: Callable[[str, RecordType], Answer | None], limit: int) -> None:
        """Begin with nothing.

        Args:
            cached: Gives an answer that is at hand.
            limit: The number of questions in all.
        """
        self.known: dict[Question, Answer] = {}
        self.open: list[Question] = []
        self._cached = cached
        self._limit = limit

    def at_hand(self, name: str, record_type: RecordType) -> Answer | None:
        """The answer, or None after the question was noted.

        Raises:
            PermError: It would be one question too many.
        """
        question = name, record_type
        answer = self.known.get(question)
        if answer is not None:
            return answer
        if len(self.known) + len(self.open) >= self._limit:
            raise PermError(f"the check takes more than {self._limit} DNS questions")
        answer = self._cached(name, record_type)
        if answer is None:
            if question not in self.open:
                self.open.append(question)
        else:
            self.known[question] = answer
        return answer


class Client(NamedTuple):
    """The client in the forms in which a check looks at it.

    Attributes:
        text: Its address (macro ``c``).
        number: The same as a number.
        bits: How many bits that has.
        record_type: The type of the records that hold such addresses.
        version: How ``v`` names the version of IP.
        dotted: The address with dots (macro ``i``).
    """

    text: str
    number: int
    bits: int
    record_type: str
    version: str
    dotted: str

    @classmethod
    def of(cls, address: IPv4Address | IPv6Address) -> "Client":
        """An IPv4 address within IPv6 counts as what it is."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        text, number = str(address), int(address)
        if address.version == _IPV6:
            return cls(text, number, address.max_prefixlen, "AAAA", "ip6", ".".join(f"{number:032X}"))
        return cls(text, number, address.max_prefixlen, "A", "in-addr", text)


class Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    """One run of a check.

    Attributes:
        top: The frame of the domain's own record.
        record: That record, None where there is none.
        failed_in: The domain whose record could not be evaluated.
        explanation: What ``exp`` says of a fail.
        letters: The macro letters that were asked for, in lower case.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        client: Client,
        domain: str,
        local_part: str,
        helo: str,
        receiver: str,
        now: float,
        lookups: int,
        void_lookups: int,
        names: int,
    ) -> None:
        super().__init__(None, f"{local_part}@{domain}", helo, receiver=receiver)
        self.l, self.o, self.d = local_part, domain, domain
        self.t = str(int(now))
        self.c, self._number, self._bits, self.A, self.v, self.i = client
        self.iplist = False
        self.cidrmax = self._bits
        self.top: Frame | None = None
        self.record: str | None = None
        self.failed_in: str | None = None
        self.explanation: str | None = None
        self.letters: set[str] = set()
        self._l_is_ascii = local_part.isascii()
        self._in_term = False
        self._has_redirect = False
        self._names: list[str] | None = None
        self._answers = answers
        self._frame: Frame | None = None
        self._max_lookups = lookups
        self._max_void_lookups = void_lookups
        self._max_names = names

    # The DNS

    def dns(self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:  # noqa: ARG002, FBT001, FBT002 - pyspf's signature
        """The records of a name, in pyspf's forms; the resolver has followed CNAMEs."""
        name = str(name).removesuffix(".").lower()
        if not is_askable(name):
            return []
        record_type = RecordType(qtype)
        answer = self._answers.at_hand(name, record_type)
        if answer is None:
            raise Open
        if answer.status.is_temporary:
            raise TempError(f"the DNS gave no answer: {record_type} of {name} ({answer.status.value})")
        if answer.status is not Status.FOUND and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > self._max_void_lookups:
                raise PermError(f"more than {self._max_void_lookups} void lookups")
        if record_type is not RecordType.MX:
            return list(answer.records)
        pairs = (record.partition(" ") for record in answer.records)
        return [(int(preference), exchange) for preference, _, exchange in pairs]

    def dns_spf(self, domain: str) -> str | None:
        """The SPF record of a domain, ready for pyspf; None where there is none."""
        frame = self._frame
        if frame is not None and not frame.is_including:
            self._count_lookup()  # it is for a redirect
        found = [text for text in self.dns(domain, "TXT") if is_record(text)]
        if len(found) > 1:
            raise PermError(f"{domain} has more than one SPF record")
        if not found:
            return None
        if frame is None:
            self.record = found[0]
        prepared = prepare(found[0])
        if prepared.problem is not None:
            self.failed_in = domain
            raise PermError(prepared.problem)
        self._has_redirect = prepared.has_redirect
        return prepared.text

    def dns_mx(self, domainname: str) -> list[str]:
        """The addresses of a domain's mail hosts, all asked for at once (RFC 7208 5.4)."""
        hosts = [host for _, host in sorted(self.dns(domainname, "MX"))]
        if len(hosts) > self._max_names:
            raise PermError(f"{domainname} has more than {self._max_names} MX records")
        self._ask_ahead(hosts)
        return [address for host in hosts for address in self.dns_a(host, self.A)]

    def validated_ptrs(self) -> list[str]:
        """The client's names that have its address (RFC 7208 5.5); what the DNS does not answer is not one.

        Each ``ptr`` counts anew what it asks in vain, as other terms do that are written twice.
        """
        try:
            names = self.dns_ptr(self.i)[: self._max_names]
        except TempError:
            return []
        self._ask_ahead(names)
        confirmed: list[str] = []
        for name in names:
            with suppress(TempError):
                if self.cidrmatch(self.dns_a(name, self.A), self._bits):
                    confirmed.append(name.removesuffix(".").lower())
        return confirmed

    def _client_name(self) -> str:
        """The value of ``%{p}``: the domain itself if it is one of the client's names, else one below it, else any."""
        if self._names is None:
            self._names = self.validated_ptrs()
        names = self._names
        domain = self.d.lower()
        if domain in names:
            return domain
        return next((name for name in names if name.endswith(f".{domain}")), names[0] if names else "unknown")

    def _ask_ahead(self, hosts: Iterable[str]) -> None:
        """Note all addresses that are not known yet, so that they are asked for together."""
        names = [host.removesuffix(".").lower() for host in hosts]
        answers = [self._answers.at_hand(name, RecordType(self.A)) for name in names if is_askable(name)]
        if None in answers:
            raise Open

    # Limits

    def check_lookups(self) -> None:
        """A term that asks the DNS begins; or pyspf reads a ``redirect``, which counts when it is followed."""
        frame = self._frame
        if frame is not None and frame.has_redirect and not frame.redirect_seen:
            frame.redirect_seen = True
            return
        if frame is not None:
            frame.begun += 1
        self._count_lookup()

    def _count_lookup(self) -> None:
        self.lookups += 1
        if self.lookups > self._max_lookups:
            raise PermError(f"more than {self._max_lookups} terms that ask the DNS")

    # Terms

    def validate_mechanism(self, mech: str) -> Mechanism:
        """Read a term; its result remembers it."""
        term = (fixed(mech) if len(mech) <= MAX_FIXED else None) or self._read_mechanism(mech)
        frame = self._frame
        if frame is not None:
            frame.terms.append(term)
            if term[1] in ASKING:
                frame.asking.append(term)
        return term

    def _read_mechanism(self, mech: str) -> Mechanism:
        self._in_term = False
        try:
            term, name, argument, length, result = super().validate_mechanism(mech)
        except ValueError:  # a number of thousands of digits
            raise PermError("invalid CIDR length", one_line(mech, 60)) from None
        if self._in_term and not self._l_is_ascii:
            # RFC 8616 4: it does not match. A network of the other version of IP never does.
            name, argument = ("ip6" if self.v == "in-addr" else "ip4"), 0
        return term, name, argument, length, Qualified(result, term)

    def expand_domain(self, arg: str) -> str:
        """Check and expand a domain-spec."""
        return expand_domain(arg, self._value)

    def _value(self, letter: str) -> str:
        """The value of a macro letter (RFC 7208 7.2)."""
        self.letters.add(letter)
        if letter in {"s", "l"}:
            self._in_term = True
        elif letter == "p":
            return self._client_name()
        return str(getattr(self, letter))

    def cidrmatch(self, ipaddrs: Iterable[str | int], n: int) -> bool:
        """Whether the client is in one of these networks: of ``fixed``, or addresses with a prefix length."""
        for item in ipaddrs:
            if isinstance(item, int):
                if self._number >> n == item:
                    return True
                continue
            try:
                number = int(ip_address(item))
            except ValueError as error:
                raise PermError(str(error)) from None
            shift = self._bits - n
            if self._number >> shift == number >> shift:
                return True
        return False

    # Records

    def check0(self, spf: str | None, recursion: int) -> tuple[str, int, str]:
        """Evaluate a record, and note how."""
        above = self._frame
        frame = Frame(self.d, is_missing=spf is None, has_redirect=self._has_redirect)
        if above is None:
            self.top = frame
        elif above.is_including:
            above.included[above.begun] = frame
        else:
            above.redirect = frame
        self._frame = frame
        try:
            found: tuple[str, int, str] = super().check0(spf, recursion)
            frame.ended = True
            if isinstance(found[0], Qualified) and frame.redirect is None:
                frame.matched = found[0]
            if found[0] == "fail" and not recursion and frame.explanation is not None and frame.redirect is None:
                self.explanation = self._explain(frame.explanation)
        except (PermError, TempError):
            self.failed_in = self.failed_in or frame.domain
            raise
        finally:
            self._frame = above
        return found

    def get_explanation(self, spec: str) -> None:
        """Remember where the explanation is; it is asked for only if the result is fail (RFC 7208 6.2)."""
        if self._frame is not None:
            self._frame.explanation = spec

    def _explain(self, name: str) -> str | None:
        """The explanation as one line of printable US-ASCII; None if there is not exactly one (RFC 7208 6.2)."""
        try:
            found = self.dns(name, "TXT", ignore_void=True)
            if len(found) != 1 or len(found[0]) > _MAX_TEMPLATE or one_line(found[0], _MAX_TEMPLATE) != found[0]:
                return None
            return one_line(expand(found[0], self._value), MAX_EXPLANATION)
        except (TempError, PermError):
            return None
