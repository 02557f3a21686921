"""The RFC 7208 suite: every case's result, and the explanation where it names one.

The data speaks of the DNS as its own driver has it: an ``SPF`` entry stands for a TXT record too, unless the name has
a ``TXT`` entry of its own (``TXT: NONE`` for none at all), ``TIMEOUT`` answers whatever the entries before it do not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from ruamel.yaml import YAML

from gateway.mailauth.results import SpfCheck
from gateway.mailauth.spf import check_host
from gateway.resolver import Answer, RecordType, Status
from tests.support.conformance import conformance_file

CASES = 203
SCENARIOS = 16
RECEIVER = "receiver.example.net"
MAX_CNAMES = 8


@dataclass(frozen=True, slots=True)
class Case:
    """One test of the suite."""

    name: str
    scenario: str
    zone: Mapping[str, Sequence[object]]
    test: Mapping[str, object]

    @property
    def results(self) -> set[str]:
        """The results that are right."""
        result = self.test["result"]
        return set(result) if isinstance(result, list) else {str(result)}


class SuiteZone:
    """The zone data of a scenario as a ``Resolver``."""

    def __init__(self, zone: Mapping[str, Sequence[object]]) -> None:
        self._names = {str(name).lower(): entries for name, entries in zone.items()}
        self.asked: list[tuple[str, RecordType]] = []

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """Nothing is at hand, so that each question is an open one."""
        assert (name, record_type) not in self.asked, "an answer was forgotten"
        return None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer one question, after a turn of the event loop as a real one takes."""
        await asyncio.sleep(0)
        assert (name, record_type) not in self.asked, "the same question was asked twice"
        self.asked.append((name, record_type))
        return self._answer(name, record_type, MAX_CNAMES)

    def _answer(self, name: str, record_type: RecordType, links: int) -> Answer:
        entries = self._names.get(name.lower().removesuffix("."))
        if entries is None:
            return Answer(Status.NXDOMAIN)
        pairs = [entry for entry in entries if isinstance(entry, dict)]
        has_txt = any("TXT" in pair for pair in pairs)
        records = []
        for pair in pairs:
            for kind, value in pair.items():
                if kind == record_type or (kind == "SPF" and record_type is RecordType.TXT and not has_txt):
                    if value == "TIMEOUT":
                        return Answer(Status.TIMEOUT)
                    if value != "NONE":
                        records.append(_text(record_type, value))
                elif kind == "CNAME":
                    return self._answer(str(value), record_type, links - 1) if links else Answer(Status.SERVFAIL)
        if records:
            return Answer(Status.FOUND, tuple(records), 60.0)
        return Answer(Status.TIMEOUT if "TIMEOUT" in entries else Status.NO_DATA)


def _text(record_type: RecordType, value: object) -> str:
    if record_type is RecordType.TXT:
        strings = value if isinstance(value, list) else [value]
        return "".join(str(string) for string in strings).encode().decode("latin-1")
    if isinstance(value, list):
        return f"{value[0]} {str(value[1]).removesuffix('.')}"
    return str(value).removesuffix(".")


def read_cases() -> list[Case]:
    """All tests of the suite."""
    scenarios = list(YAML(typ="safe").load_all(conformance_file("spf/rfc7208-tests.yml")))
    assert len(scenarios) == SCENARIOS
    return [
        Case(name, scenario["description"], scenario["zonedata"], test)
        for scenario in scenarios
        for name, test in scenario["tests"].items()
    ]


async def check(case: Case) -> SpfCheck:
    """What check_host() says of a case."""
    helo = str(case.test["helo"])
    local_part, at, domain = str(case.test["mailfrom"]).rpartition("@")
    return await check_host(
        SuiteZone(case.zone),
        address=ip_address(str(case.test["host"])),
        domain=domain if at else helo,
        local_part=local_part if at else "postmaster",
        helo=helo,
        receiver=RECEIVER,
    )


async def test_the_suite_passes() -> None:
    """All 203 cases give a result that the suite allows, with the explanation that it expects."""
    cases = read_cases()
    assert len(cases) == CASES
    wrong = []
    for case in cases:
        found = await check(case)
        explanation = case.test.get("explanation")
        if found.result.value not in case.results:
            wrong.append((case.scenario, case.name, case.results, found))
        elif explanation is not None and (found.explanation or "DEFAULT") != explanation:
            wrong.append((case.scenario, case.name, {str(explanation)}, found))
    assert wrong == []


@pytest.mark.parametrize("name", ["mx-limit", "ptr-limit", "void-over-limit", "redirect-loop", "include-loop"])
async def test_limits_are_told_in_words(name: str) -> None:
    """A check that ended at a limit says so."""
    (case,) = [case for case in read_cases() if case.name == name]
    found = await check(case)
    if found.result == "permerror":
        assert "more than" in found.reason
