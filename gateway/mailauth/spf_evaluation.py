"""The evaluation of SPF records: ``check_host()`` of RFC 7208 4 to 6, for one client and one sender.

One pass: each term awaits its answers. What belongs together (the hosts of an ``mx``, the names of a client) is asked
for at the same time, and nothing before it is needed. ``Frame`` keeps what was tried. What is wrong is a ``Fault``;
nothing is raised.

What a client's own reverse DNS says (``ptr``, ``%{p}``) and where an explanation would be (``exp``) makes no permerror:
the client makes the one, and the other is asked for when all is decided. A fault of the DNS at the client's names ends
nothing. But it could have kept a term from matching, so a check that does not pass is a temperror then.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from gateway.mailauth.results import SpfResult
from gateway.mailauth.spf_macros import MacroString, RecordError, is_askable, macro_string
from gateway.mailauth.spf_questions import Limits, Questions, no_answer
from gateway.mailauth.spf_record import Kind, Term, is_record, read_record
from gateway.mailauth.spf_steps import Fault, Frame, Match, Outcome, Tried, one_line
from gateway.resolver import Answer, RecordType

MAX_EXPLANATION: Final = 250
"""Characters of an explanation that are kept: a reply line has 512 octets (RFC 5321 4.5.3.1.5)."""
_MAX_TEMPLATE: Final = 1024

OF_LOCAL_PART: Final = frozenset("ls")
"""Macro letters that stand for the sender's local part."""

Address: TypeAlias = IPv4Address | IPv6Address

_MATCHED: Final = Tried(Match())


class Client(NamedTuple):
    """The client in the forms in which a check looks at it.

    Attributes:
        number: Its address as a number.
        kind: The mechanism that names networks of such addresses.
        record_type: The type of the records that hold them.
        values: Those of the macro letters that stand for it.
    """

    number: int
    kind: Kind
    record_type: RecordType
    values: Mapping[str, str]

    @classmethod
    def of(cls, address: Address) -> "Client":
        """An IPv4 address within IPv6 counts as what it is (RFC 7208 5)."""
        meant = (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
        text, number = str(meant), int(meant)
        if isinstance(meant, IPv4Address):
            return cls(number, Kind.IP4, RecordType.A, {"c": text, "i": text, "v": "in-addr"})
        dotted = ".".join(f"{number:032X}")
        return cls(number, Kind.IP6, RecordType.AAAA, {"c": text, "i": dotted, "v": "ip6"})

    def compare(self, name: str, answer: Answer, host_bits: int = 0) -> Outcome:
        """Whether one of a host's addresses is in one network with the client's."""
        if answer.status.is_temporary:
            return no_answer(name, self.record_type, answer)
        make = IPv4Address if self.kind is Kind.IP4 else IPv6Address
        number = self.number >> host_bits
        try:
            for text in answer.records:
                if int(make(text)) >> host_bits == number:
                    return Match(f"{name} has {text}")
        except AddressValueError:
            return Fault(SpfResult.TEMPERROR, f"the DNS says that {name} has {self.record_type}: {text}")
        return None


class Evaluation:
    """One evaluation.

    Args:
        questions: Asks the DNS.
        client: The client.
        values: Those of the macro letters that stand for the sender, ``h``, ``r`` and ``t`` (RFC 7208 7.2).
        limits: What it may take.

    Attributes:
        client: The client.
        letters: The macro letters that it asked for, in lower case.
        failed_in: The domain whose record could not be evaluated, None if there is none.
    """

    __slots__ = (
        "_limits",
        "_looked_up",
        "_lookups",
        "_questions",
        "_untold",
        "_values",
        "client",
        "failed_in",
        "letters",
    )

    def __init__(self, questions: Questions, client: Client, values: Mapping[str, str], limits: Limits) -> None:
        self.letters: set[str] = set()
        self.failed_in: str | None = None
        self._questions = questions
        self.client = client
        self._values = values
        self._limits = limits
        self._lookups = 0
        self._looked_up: set[str] = set()
        self._untold: Fault | None = None

    # Records

    async def check_host(self, domain: str) -> Frame:
        """Evaluate the record of a domain (RFC 7208 4.3 to 4.7)."""
        frame = Frame(domain)
        frame.fault = await self._evaluate(frame)
        if frame.fault is not None:
            frame.result = frame.fault.result
            self.failed_in = self.failed_in or domain
        return frame

    def judge(self, frame: Frame) -> None:
        """Make the result a temperror where the client's names were not told and could have changed it."""
        if self._untold is not None and frame.result not in {SpfResult.PASS, SpfResult.TEMPERROR}:
            frame.untold = self._untold
            frame.result = SpfResult.TEMPERROR

    async def _evaluate(self, frame: Frame) -> Fault | None:
        """Find the result for a domain; what hinders it."""
        fault = await self._find_record(frame)
        if fault is not None or frame.text is None:
            return fault
        number, kind, *_ = self.client
        is_ip6 = kind is Kind.IP6
        for reached, term in enumerate(frame.record.terms, 1):
            frame.reached = reached
            if term.prefix is None:
                tried = await self._try(term, frame.domain)
            else:
                tried = _MATCHED if term.kind is kind and number >> term.host_bits[is_ip6] == term.prefix else None
            if tried is None:
                continue
            frame.tried[reached] = tried
            if isinstance(tried.outcome, Fault):
                return tried.outcome
            if tried.outcome is not None:
                frame.result = term.result
                return None
        frame.result = SpfResult.NEUTRAL  # RFC 7208 4.7
        return await self._redirect(frame)

    async def _find_record(self, frame: Frame) -> Fault | None:
        """Take the domain's record, if there is one (RFC 7208 4.3 to 4.6)."""
        if "." not in frame.domain:
            return None
        answer = await self._questions.ask(frame.domain, RecordType.TXT)
        if isinstance(answer, Fault):
            return answer
        texts = [text for text in answer.records if is_record(text)]
        if len(texts) > 1:
            return Fault(SpfResult.PERMERROR, f"{frame.domain} has more than one SPF record")
        if not texts:
            return None
        frame.text = texts[0]
        frame.record = read_record(frame.text)
        return None if frame.record.problem is None else Fault(SpfResult.PERMERROR, frame.record.problem)

    async def _redirect(self, frame: Frame) -> Fault | None:
        """Go on with another record, if the record says so (RFC 7208 6.1)."""
        spec = frame.record.redirect
        if spec is None or not self._can_match(spec):
            return None
        fault = self._count_lookup()
        if fault is not None:
            return fault
        frame.redirect = target = await self.check_host(spec.name(await self._values_for(spec, frame.domain)))
        frame.result = target.result
        if target.result is SpfResult.NONE:
            return Fault(SpfResult.PERMERROR, f"{target.domain} has no SPF record to redirect to")
        return target.fault

    # Mechanisms

    async def _try(self, term: Term, domain: str) -> Tried | None:
        """Try a mechanism that names no network (RFC 7208 5); None for one that can't match whatever the DNS says."""
        if term.kind is Kind.ALL:
            return _MATCHED
        spec = term.spec
        if spec is not None and not self._can_match(spec):
            return None
        fault = self._count_lookup()
        if fault is not None:
            return Tried(fault)
        name = domain if spec is None else spec.name(await self._values_for(spec, domain))
        if term.kind is Kind.INCLUDE:
            return await self._include(name)
        before = len(self._questions.asked)
        host_bits = term.host_bits[self.client.kind is Kind.IP6]
        if term.kind is Kind.A:
            outcome = await self._a(name, host_bits)
        elif term.kind is Kind.MX:
            outcome = await self._mx(name, host_bits)
        else:
            outcome = await (self._ptr(name) if term.kind is Kind.PTR else self._exists(name))
        return Tried(outcome, tuple(self._questions.asked[before:]))

    async def _include(self, domain: str) -> Tried:
        """Whether the client passes by another record (RFC 7208 5.2)."""
        frame = await self.check_host(domain)
        outcome: Outcome = frame.fault
        if frame.result is SpfResult.NONE:
            outcome = Fault(SpfResult.PERMERROR, f"{domain} has no SPF record to include")
        elif frame.result is SpfResult.PASS:
            outcome = Match()
        return Tried(outcome, included=frame)

    async def _a(self, name: str, host_bits: int) -> Outcome:
        """Whether a name has the client's address (RFC 7208 5.3)."""
        found = await self._questions.look_up(name, self.client.record_type, of_host=True)
        return self.client.compare(name, found, host_bits) if isinstance(found, Answer) else found

    async def _mx(self, name: str, host_bits: int) -> Outcome:
        """Whether a mail host of a name has the client's address; then faults of others don't matter (RFC 7208 5.4)."""
        found = await self._questions.look_up(name, RecordType.MX)
        if not isinstance(found, Answer):
            return found
        if len(found.records) > self._limits.names:
            return Fault(SpfResult.PERMERROR, f"{name} has more than {self._limits.names} MX records")
        hosts = (record.rpartition(" ")[2].removesuffix(".").lower() for record in found.records)
        answers = await self._questions.ask_together(hosts, self.client.record_type)
        if isinstance(answers, Fault):
            return answers
        fault: Fault | None = None
        for host, answer in answers.items():
            outcome = self.client.compare(host, answer, host_bits)
            if isinstance(outcome, Match):
                return outcome
            fault = fault or outcome
        return fault

    async def _exists(self, name: str) -> Outcome:
        """Whether a name has an IPv4 address, whatever the client has (RFC 7208 5.7)."""
        found = await self._questions.look_up(name, RecordType.A)
        return found if isinstance(found, Fault) else Match() if found is not None and found.records else None

    async def _ptr(self, domain: str) -> Outcome:
        """Whether the client has a name that is a domain or below it (RFC 7208 5.5)."""
        names = await self._client_names()
        confirmed, fault = await self._confirmed(name for name in names if _is_within(name, domain))
        if confirmed is not None:
            return Match(f"{confirmed} has {self.client.values['c']}")
        self._untold = self._untold or fault
        return None

    async def _client_names(self) -> Sequence[str]:
        """What the client's reverse DNS says; nothing where the DNS does not answer (RFC 7208 5.5)."""
        values = self.client.values
        labels = values["i"].lower().split(".")
        name = f"{'.'.join(labels[::-1])}.{values['v']}.arpa"
        answer = (await self._questions.ask_of_client([name], RecordType.PTR))[name]
        if answer.status.is_temporary:
            self._untold = self._untold or no_answer(name, RecordType.PTR, answer)
        return [record.removesuffix(".").lower() for record in answer.records]

    async def _confirmed(self, names: Iterable[str]) -> tuple[str | None, Fault | None]:
        """The first of the client's names that has its address, and what hinders one before it to be that.

        Ten of them are asked for in all (RFC 7208 4.6.4).
        """
        fault: Fault | None = None
        answers = await self._questions.ask_of_client(filter(self._may_look_up, names), self.client.record_type)
        for name, answer in answers.items():
            outcome = self.client.compare(name, answer)
            if isinstance(outcome, Match):
                return name, fault
            fault = fault or outcome
        return None, fault

    def _may_look_up(self, name: str) -> bool:
        """Whether a name of the client is one of the ten."""
        if len(self._looked_up) < self._limits.names and is_askable(name):
            self._looked_up.add(name)
        return name in self._looked_up

    # Limits

    def _count_lookup(self) -> Fault | None:
        """A term that asks the DNS begins."""
        self._lookups += 1
        limit = self._limits.lookups
        return (
            Fault(SpfResult.PERMERROR, f"more than {limit} terms that ask the DNS") if self._lookups > limit else None
        )

    # Macros

    def _can_match(self, spec: MacroString) -> bool:
        """Whether a term can match: not if it asks for a local part that is not US-ASCII (RFC 8616 4)."""
        self.letters |= spec.letters
        return spec.letters.isdisjoint(OF_LOCAL_PART) or self._values["l"].isascii()

    async def _values_for(self, spec: MacroString, domain: str) -> Mapping[str, str]:
        """The values of its macro letters (RFC 7208 7.2)."""
        if not spec.letters:
            return self._values
        name = await self._client_name(domain) if "p" in spec.letters else ""
        return {**self._values, **self.client.values, "d": domain, "p": name}

    async def _client_name(self, domain: str) -> str:
        """The value of ``p``: the domain itself if it is one of the client's names, else one below it, else any."""
        names = await self._client_names()
        within = sorted((name for name in names if _is_within(name, domain)), key=lambda name: name != domain)
        others = (name for name in names if not _is_within(name, domain))
        confirmed, fault = await self._confirmed(within)
        self._untold = self._untold or fault
        if confirmed is None:
            confirmed, fault = await self._confirmed(others)
            self._untold = self._untold or fault
        return confirmed or "unknown"

    async def explanation(self, frame: Frame) -> str | None:
        """What the record of a fail says about it, as one line of printable US-ASCII, if anything (RFC 7208 6.2)."""
        spec = frame.record.explanation
        if spec is None or not self._can_match(spec):
            return None
        answer = await self._questions.ask(spec.name(await self._values_for(spec, frame.domain)), RecordType.TXT)
        texts = () if isinstance(answer, Fault) else answer.records
        if len(texts) != 1 or len(texts[0]) > _MAX_TEMPLATE or one_line(texts[0], _MAX_TEMPLATE) != texts[0]:
            return None
        try:
            text = macro_string(texts[0])
        except RecordError:
            return None
        self.letters |= text.letters
        return one_line(text.expand(await self._values_for(text, frame.domain)), MAX_EXPLANATION)


def _is_within(name: str, domain: str) -> bool:
    """Whether a name is a domain or below it."""
    return name == domain or name.endswith(f".{domain}")
