"""The chains of ValiMail/arc_test_suite: each comes to the status that it records (RFC 8617 5.2).

The data has four keys twice; both cases of each are run, so that there are more cases than names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.arc import ArcOptions, verify_chain
from gateway.mailauth.body import hash_body
from gateway.mailauth.results import Arc, ArcResult
from gateway.testing import message
from tests.support.conformance import conformance_file

NAMES = 171
CASES = 175

BROKEN_BEFORE = ""
"""What is recorded where a seal says ``cv=fail``: nothing. By RFC 8617 5.2 step 2 the status is fail."""


@dataclass(frozen=True, slots=True)
class Case:
    """One message and what its chain comes to."""

    name: str
    octets: bytes
    zone: Mapping[str, object]
    status: str


def cases() -> Iterator[Case]:
    """The data, with what is there twice told apart."""
    text = conformance_file("arc/arc-draft-validation-tests.yml").read_text("utf-8")
    seen: set[str] = set()

    def rename(match: re.Match[str]) -> str:
        name = match[1] if match[1] not in seen else f"{match[1]}_again"
        seen.add(name)
        return f"  {name}:"

    scenarios: list[dict[str, Any]] = list(
        YAML(typ="safe", pure=True).load_all(re.sub(r"^  ([a-z]\w*):$", rename, text, flags=re.MULTILINE))
    )
    for scenario in scenarios:
        zone = {name: {"TXT": [record.replace(" ", "")]} for name, record in scenario["txt-records"].items()}
        for name, test in scenario["tests"].items():
            octets = test["message"].replace("\n", "\r\n").encode()
            yield Case(name, octets, zone, test["cv"].strip())


async def validate(octets: bytes, zone: Mapping[str, object]) -> Arc:
    """What the chain of a message comes to."""
    received = message(octets)
    hashes = await hash_body(
        received.content.chunks(), header_size=len(received.header), fields=received.fields, signatures=0
    )
    return await verify_chain(received.fields, hashes, ZoneResolver(zone), 1_500_000_000.0, ArcOptions())


async def test_every_chain_comes_to_the_recorded_status() -> None:
    """None, pass or fail; a chain that passes has its sets, its sealer and its oldest pass."""
    all_cases = list(cases())
    assert len(all_cases) == CASES
    assert len({case.name.removesuffix("_again") for case in all_cases}) == NAMES
    wrong = []
    for case in all_cases:
        arc = await validate(case.octets, case.zone)
        expected = "fail" if case.status == BROKEN_BEFORE else case.status.lower()
        if arc.result.value != expected:
            wrong.append((case.name, expected, arc.result.value, arc.reason))
        passes = arc.result is ArcResult.PASS
        assert (arc.oldest_pass is not None) is passes
        assert not passes or (arc.sealer and arc.sets and not arc.reason)
        assert arc.result is not ArcResult.FAIL or arc.reason
    assert wrong == []


async def test_without_the_dns_a_chain_that_passes_is_a_temperror() -> None:
    """The same messages with every key out of reach: what is certain stays, nothing becomes a failure."""
    for case in cases():
        with_keys = (await validate(case.octets, case.zone)).result
        arc = await validate(case.octets, dict.fromkeys(case.zone, "SERVFAIL"))
        if with_keys is ArcResult.PASS:
            assert arc.result is ArcResult.TEMPERROR
        elif with_keys is ArcResult.NONE:
            assert arc.result is ArcResult.NONE
        else:
            assert arc.result in {ArcResult.FAIL, ArcResult.TEMPERROR}
