"""The DNS questions of one SPF check: each is asked once, those of its terms are counted, and the time is bounded.

What is at hand is taken without waiting. Questions about the client's own names are not counted, or its reverse DNS
would decide whether a check ends at the limit; whoever asks them bounds them.

Void look-ups are counted by term (RFC 7208 4.6.4): the term asked one thing, and there is no such thing. A name that
has no address of the client's family is void only if it has none of the other family either. That costs a question of
its own, so it is asked only where the limit would end the check (``docs/decisions/spf.md``).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.mailauth.results import SpfResult
from gateway.mailauth.spf_macros import is_askable
from gateway.mailauth.spf_steps import Fault, Question
from gateway.resolver import Answer, RecordType, Resolver, Status

_OTHER_FAMILY: Final = {RecordType.A: RecordType.AAAA, RecordType.AAAA: RecordType.A}
_NOT_ASKED: Final = Answer(Status.FOUND)
"""The answer to what can't be asked: there are no records, and it is no void look-up, because it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one check may take.

    Attributes:
        lookups: Terms that ask the DNS (RFC 7208 4.6.4: 10).
        void_lookups: Terms that ask for what is not there (RFC 7208 4.6.4: 2).
        names: Hosts of one ``mx``, names of the client (RFC 7208 4.6.4: 10).
        queries: DNS questions of the terms. The limits of the RFC allow 111.
        time: Seconds in all (RFC 7208 4.6.4: at least 20), for both checks of a transaction together.
    """

    lookups: int = 10
    void_lookups: int = 2
    names: int = 10
    queries: int = 60
    time: float = 20.0


class Deadline:
    """Until when the DNS may answer. The time runs from the first wait, so nothing is lost where all is at hand.

    Args:
        seconds: How long.
        on_wait: Called once, with the deadline, when the first wait begins.
    """

    __slots__ = ("_on_wait", "_seconds", "_when")

    def __init__(self, seconds: float, on_wait: "Callable[[Deadline], object] | None" = None) -> None:
        self._seconds = seconds
        self._on_wait = on_wait
        self._when: float | None = None

    def wait(self) -> float:
        """A wait begins; until when it may last, by the clock of the event loop."""
        if self._when is None:
            self._when = asyncio.get_running_loop().time() + self._seconds
            if self._on_wait is not None:
                self._on_wait(self)
        return self._when


class Questions:
    """What one check asks.

    Args:
        resolver: Asks the DNS.
        limits: What the check may take.
        deadline: Until when; of its own if None.

    Attributes:
        known: The answers so far.
        asked: The questions in order, those that were asked again among them.
        limits: What the check may take.
        timer: Entered by whoever runs the check, ends it with ``TimeoutError`` at the deadline.
    """

    __slots__ = (
        "_counted",
        "_deadline",
        "_one_family",
        "_resolver",
        "_untold",
        "_void",
        "asked",
        "known",
        "limits",
        "timer",
    )

    def __init__(self, resolver: Resolver, limits: Limits, deadline: Deadline | None = None) -> None:
        self.known: dict[Question, Answer] = {}
        self.asked: list[Question] = []
        self.timer = asyncio.timeout(None)
        self._resolver = resolver
        self.limits = limits
        self._deadline = deadline
        self._counted: set[Question] = set()  # what terms asked, whether or not it was asked about the client before
        self._void: list[Question] = []
        self._one_family: list[Question] = []
        self._untold: Fault | None = None

    async def ask(self, name: str, record_type: RecordType) -> Answer | Fault:
        """The answer to a question, or why there is none."""
        question = name, record_type
        answer = self.known.get(question)
        if answer is None and not is_askable(name):
            return _NOT_ASKED
        if question not in self._counted:
            if len(self._counted) >= self.limits.queries:
                return self._too_many()
            self._counted.add(question)
        if answer is None:
            answer = self._resolver.known(name, record_type)
            if answer is None:
                self._start_timer()
                answer = await self._resolver.lookup(name, record_type)
            self.known[question] = answer
        self.asked.append(question)
        return no_answer(name, record_type, answer) if answer.status.is_temporary else answer

    async def ask_together(self, names: Iterable[str], record_type: RecordType) -> dict[str, Answer] | Fault:
        """The answers about names, faults of the DNS among them; names that can't be asked for are left out."""
        questions = _questions(names, record_type)
        counted = self._counted.union(questions)
        if len(counted) > self.limits.queries:
            return self._too_many()
        self._counted = counted
        return await self._answers(questions)

    async def ask_of_client(self, names: Iterable[str], record_type: RecordType) -> dict[str, Answer]:
        """The same about the client's own address and names, which are not counted."""
        return await self._answers(_questions(names, record_type))

    async def _answers(self, questions: Sequence[Question]) -> dict[str, Answer]:
        known = self.known
        missing = [question for question in questions if question not in known]
        at_hand = ((question, self._resolver.known(*question)) for question in missing)
        known.update((question, answer) for question, answer in at_hand if answer is not None)
        lookups = {question: self._resolver.lookup(*question) for question in missing if question not in known}
        if lookups:
            self._start_timer()
            only = len(lookups) == 1  # needs no task of its own
            answers = [await next(iter(lookups.values()))] if only else await asyncio.gather(*lookups.values())
            known.update(zip(lookups, answers, strict=True))
        self.asked += questions
        return {question[0]: known[question] for question in questions}

    async def look_up(self, name: str, record_type: RecordType, *, of_host: bool = False) -> Answer | Fault | None:
        """The answer to what a term asks; None for a void look-up within the limit.

        With ``of_host`` an address of the other family makes up for one of the client's.
        """
        answer = await self.ask(name, record_type)
        if isinstance(answer, Fault) or answer.status is Status.FOUND:
            return answer
        question = name, record_type
        self._void.append(question)
        if of_host:  # also after NXDOMAIN: broken name servers say it of a name that has the other family
            self._one_family.append(question)
        limit = self.limits.void_lookups
        while len(self._void) > limit and self._one_family:
            name, record_type = question = self._one_family.pop(0)
            other = await self.ask(name, _OTHER_FAMILY[record_type])
            if isinstance(other, Fault):
                self._untold = self._untold or other
            elif other.records:
                self._void.remove(question)
        if len(self._void) <= limit:
            return None
        void = ", ".join(f"{kind} of {name} ({self.known[name, kind].status})" for name, kind in self._void)
        return self._untold or Fault(SpfResult.PERMERROR, f"more than {limit} void lookups: {void}")

    def _start_timer(self) -> None:
        if self.timer.when() is None:
            self.timer.reschedule((self._deadline or Deadline(self.limits.time)).wait())

    def _too_many(self) -> Fault:
        return Fault(SpfResult.PERMERROR, f"the check takes more than {self.limits.queries} DNS questions")


def _questions(names: Iterable[str], record_type: RecordType) -> Sequence[Question]:
    """Those that can be asked, each once."""
    return list(dict.fromkeys((name, record_type) for name in names if is_askable(name)))


def no_answer(name: str, record_type: RecordType, answer: Answer) -> Fault:
    """The fault that the DNS did not answer (RFC 7208 4.4)."""
    return Fault(SpfResult.TEMPERROR, f"the DNS gave no answer: {record_type} of {name} ({answer.status})")
