"""SPF against whatever a domain may publish: always a result of the RFC, bounded questions, linear time.

Growth is compared, not seconds: eight times the input may take about eight times as long, and nothing near the 64 times
of a quadratic pattern.
"""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from time import process_time
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.results import SpfCheck
from gateway.mailauth.spf import check_host, check_sender
from gateway.mailauth.spf_macros import RecordError, domain_spec
from gateway.mailauth.spf_memory import SpfMemory
from gateway.mailauth.spf_questions import Limits
from gateway.mailauth.spf_record import _read_cached, _term_cached
from gateway.resolver import Answer, RecordType, Resolver, Status
from gateway.smtp.path import Mailbox

LIMITS: Final = Limits(queries=30, time=60.0)
NAMES: Final = [f"{letter}.example" for letter in "abcd"]
CLIENTS: Final = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "198.51.100.77"]

PIECES = st.sampled_from(
    [
        *"+-~? :/=%{}.,_\\\t\0",
        *["a", "mx", "ptr", "all", "include", "exists", "ip4", "ip6", "redirect", "exp", "v=spf1", "//", "/24", "//64"],
        *["%{i}", "%{s}", "%{L}", "%{p}", "%{d2r}", "%{h-}", "%{t}", "%%", "%_", "%-", "192.0.2.1", "2001:db8::"],
        *NAMES,
        *["\u00fc", "9" * 5000, "x" * 70],
    ]
)
TERMS = st.builds(
    lambda qualifier, name, mark, spec, length: f"{qualifier}{name}{mark}{spec}{length}",
    st.sampled_from(["", "+", "-", "~", "?"]),
    st.sampled_from(["a", "mx", "ptr", "exists", "include", "ip4", "ip6", "all", "redirect", "exp", "foo"]),
    st.sampled_from([":", "=", ""]),
    st.sampled_from(
        [*NAMES, "", "%{d}", "%{p}.b.example", "%{l}.c.example", "192.0.2.0", "2001:db8::", "x.%{i}.d.example"]
    ),
    st.sampled_from(["", "", "/24", "//64", "/99"]),
)
RECORDS = st.one_of(
    st.lists(TERMS, max_size=12).map(lambda terms: " ".join(["v=spf1", *terms])),
    st.lists(PIECES, max_size=40).map(lambda pieces: "v=spf1 " + "".join(pieces)),
    st.text(max_size=60),
)
STATUSES = st.sampled_from([Status.NO_DATA, Status.NXDOMAIN, Status.SERVFAIL, Status.TIMEOUT])


def _found(*records: str) -> Answer:
    return Answer(Status.FOUND, records, 60.0)


ANSWERS = {
    RecordType.TXT: st.one_of(
        st.lists(RECORDS.map(lambda text: text.encode().decode("latin-1")), min_size=1, max_size=2).map(
            lambda records: _found(*records)
        ),
        STATUSES.map(Answer),
    ),
    RecordType.A: st.sampled_from(
        [_found("192.0.2.1"), _found("198.51.100.1", "198.51.100.2"), Answer(Status.NO_DATA)]
    ),
    RecordType.AAAA: st.sampled_from([_found("2001:db8::1"), Answer(Status.NXDOMAIN), Answer(Status.SERVFAIL)]),
    RecordType.MX: st.sampled_from([_found("0 ."), _found("10 a.example", "10 b.example"), Answer(Status.NXDOMAIN)]),
    RecordType.PTR: st.sampled_from([_found("a.example", "B.Example", "x" * 80), Answer(Status.TIMEOUT)]),
}


class AnyZone:
    """A ``Resolver`` that draws an answer for each question, as the question comes."""

    def __init__(self, draw: Any) -> None:
        self.asked: list[tuple[str, RecordType]] = []
        self._draw = draw

    def known(self, _name: str, _record_type: RecordType) -> Answer | None:
        """Nothing is at hand."""
        return None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Whatever comes."""
        assert 0 < len(name) <= 253
        self.asked.append((name, record_type))
        answer: Answer = self._draw(ANSWERS[record_type])
        return answer


def run(resolver: Resolver, domain: str = "a.example", client: str = CLIENTS[0], local_part: str = "user") -> SpfCheck:
    """Check a domain."""
    return asyncio.run(
        check_host(
            resolver, address=ip_address(client), domain=domain, local_part=local_part, helo="h.example", limits=LIMITS
        )
    )


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(CLIENTS), st.text(max_size=20))
def test_whatever_is_published_there_is_a_result(data: st.DataObject, client: str, local_part: str) -> None:
    """No record and no answer raises, asks without bound or asks twice; all that is told is printable."""
    zone = AnyZone(data.draw)
    found = run(zone, client=client, local_part=local_part)
    assert len(zone.asked) == len(set(zone.asked)) == found.queries <= LIMITS.queries
    for text in (found.reason, found.domain, found.explanation or "", found.record or "", *found.steps):
        assert text.isascii()
        assert not text or text.isprintable()
    assert found.reason


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_whatever_the_domain_is_there_is_a_result(domain: str) -> None:
    """A domain from the wire may be anything."""
    found = run(ZoneResolver({}), domain=domain)
    assert found.result == "none"
    assert found.domain.isascii()


class SteadyZone(AnyZone):
    """Names with records of few terms, and names that are there or not; what was asked before is answered as before."""

    def __init__(self, draw: Any) -> None:
        super().__init__(draw)
        self._answers: dict[tuple[str, RecordType], Answer] = {}

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Whatever came before, or comes."""
        answer = self._answers.get((name, record_type))
        if answer is None:
            records: list[str] = self._draw(EXPLANATIONS if name == "why.example" else STEADY[record_type])
            answer = Answer(Status.FOUND if records else Status.NO_DATA, tuple(records), 60.0)
            self._answers[name, record_type] = answer
        return answer


_SOME_TERMS = st.lists(
    st.sampled_from(
        [
            "exists:%{l}.x.example",
            "exists:%{h}.x.example",
            "exists:%{d}.%{i}.x.example",
            "ip4:192.0.2.1",
            "include:b.example",
        ]
    ),
    max_size=2,
)
EXPLANATIONS = st.sampled_from([["at %{t}"], ["not from %{i}"]])
STEADY = {
    RecordType.TXT: st.builds(
        lambda terms, end: [" ".join(["v=spf1", *terms, end])],
        _SOME_TERMS,
        st.sampled_from(["-all", "~all", "-all exp=%{s}.example", "-all exp=why.example"]),
    ),
    RecordType.A: st.sampled_from([["127.0.0.2"], []]),
    RecordType.AAAA: st.just([]),
}


@settings(max_examples=300, deadline=None)
@given(
    st.data(),
    st.lists(
        st.tuples(
            st.sampled_from(CLIENTS[:2]),
            st.sampled_from("ab"),
            st.sampled_from(NAMES[:2]),
            st.integers(0, 10**9),
        ),
        min_size=2,
        max_size=6,
    ),
)
def test_what_is_remembered_is_what_a_new_check_comes_to(
    data: st.DataObject, messages: list[tuple[str, str, str, int]]
) -> None:
    """Whatever is published, whoever sends: results from memory are those that an evaluation would give."""

    async def compare() -> None:
        zone, memory = SteadyZone(data.draw), SpfMemory()
        for client, local_part, helo, now in messages:
            path = Mailbox(f"{local_part}@a.example", local_part, "a.example")
            both = [
                await check_sender(
                    zone,
                    address=ip_address(client),
                    reverse_path=path,
                    helo=helo,
                    now=now,
                    limits=LIMITS,
                    memory=each,
                )
                for each in (None, memory)
            ]
            assert both[0] == both[1]

    asyncio.run(compare())


# Growth

Made: TypeAlias = Callable[[int], str]

SPECS: Final[dict[str, Made]] = {
    "one label": lambda n: "x." + "a" * n + "!",
    "digits": lambda n: "x." + "1" * n,
    "hyphens": lambda n: "x." + "a-" * n + "!",
    "labels": lambda n: "a." * n + "!",
    "dots": lambda n: "." * n,
    "percent": lambda n: "%%" * n + "!",
    "open braces": lambda n: "%{" * n,
    "a long transformer": lambda n: "%{d" + "1" * n,
    "delimiters": lambda n: "%{s" + ".-+" * n + "}",
    "many macros": lambda n: "%{s}" * n + ".example",
    "slashes": lambda n: "x" + "//1" * n + "!",
}
TEXTS: Final[dict[str, Made]] = {
    "mechanisms": lambda n: "v=spf1" + " a" * n,
    "modifiers": lambda n: "v=spf1" + "".join(f" m{number}=" for number in range(n // 4)),
    "one modifier": lambda n: "v=spf1 " + "a" * n,
    "equals": lambda n: "v=spf1 a" + "=" * n,
    "spaces": lambda n: "v=spf1" + " " * n,
    "networks": lambda n: "v=spf1" + " ip4:192.0.2.1" * (n // 8),
}


def _cost(work: Any, count: int) -> float:
    """The least CPU time of a few tries."""
    costs = []
    for _ in range(5):
        started = process_time()
        for _ in range(count):
            work()
        costs.append(process_time() - started)
    return min(costs)


def _grows_linearly(work: Any, small: object, large: object) -> bool:
    count = 10
    while _cost(lambda: work(small), count) < 0.001:
        count *= 2
    return _cost(lambda: work(large), count) < 24 * _cost(lambda: work(small), count)


@pytest.mark.parametrize("name", SPECS)
def test_expanding_takes_linear_time(name: str) -> None:
    """Whatever a domain-spec is, eight times as much of it costs about eight times as much."""

    def expand(spec: str) -> None:
        try:
            domain_spec(spec).name(values)
        except RecordError:
            return

    values = dict.fromkeys("slodipvh", "user@a.example")

    assert _grows_linearly(expand, SPECS[name](1000), SPECS[name](8000))


@pytest.mark.parametrize("name", TEXTS)
def test_reading_a_record_takes_linear_time(name: str) -> None:
    """The same for records as long as they may be, of one kind of term."""

    def check(text: str) -> None:
        _read_cached.cache_clear()
        _term_cached.cache_clear()
        run(ZoneResolver({"a.example": {"TXT": text}}))

    assert _grows_linearly(check, TEXTS[name](400), TEXTS[name](3200))


VALUES: Final[dict[str, Made]] = {
    "labels": lambda n: "a." * n,
    "delimiters": lambda n: ".-+,/_=" * (n // 4),
    "one label": lambda n: "a" * n,
}


@pytest.mark.parametrize("name", VALUES)
def test_macros_take_time_linear_in_what_they_stand_for(name: str) -> None:
    """The same for the sender and the HELO name, which a client may make as long as SMTP lets it."""
    spec = domain_spec("%{S1r.-+,/_=}.%{sr-}.%{h9999}.example")

    def expand(value: str) -> None:
        spec.name(dict.fromkeys("sh", value))

    assert _grows_linearly(expand, VALUES[name](1000), VALUES[name](8000))


@pytest.mark.parametrize("record", ["v=spf1 ptr -all", "v=spf1 exists:%{p}.x.example -all"])
def test_a_clients_names_take_linear_time(record: str) -> None:
    """The same for the names that a client's reverse DNS gives it, as many as an answer holds."""

    def zone(count: int) -> ZoneResolver:
        names = [f"n{number}.{place}.example" for number in range(count // 2) for place in "ab"]
        return ZoneResolver({"a.example": {"TXT": record}, CLIENTS[0]: {"PTR": names}})

    assert _grows_linearly(run, zone(250), zone(2000))
