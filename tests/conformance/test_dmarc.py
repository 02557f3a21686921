"""The DMARC cases of postalsys/mailauth, by RFC 9989.

Each case is evaluated with its zone. Where the recorded value is not what the RFC says, the case stands in
``DIFFERENT`` with the value that it has and the section that says so; ``docs/decisions/dmarc.md`` has the choices.
"""

import json
from typing import Any

from gateway.mailauth.author import Author, read_from
from gateway.mailauth.dmarc import TreeWalks, evaluate
from gateway.mailauth.results import (
    AlignmentMode,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    Spf,
    SpfCheck,
    SpfResult,
)
from tests.support.conformance import conformance_file
from tests.support.counting_resolver import CountingResolver

CASES = 65
SKIPPED_UPSTREAM = 12

_SEVERAL = "does not inherit the org policy when the author domain publishes multiple records (§4.10 step 2)"
_NO_PCT = "4.7, A.6: pct is no tag any more, and unknown tags are ignored"

DIFFERENT: dict[tuple[str, str], tuple[object, str]] = {
    (_SEVERAL, "status.result"): (
        "fail",
        "4.10: several records are discarded as if there were none; 4.10.1: without a record the walk goes on",
    ),
    (_SEVERAL, "policy"): ("none", "4.10.1: the policy is that of the organizational domain, example.com"),
    ("Should return false for headerFrom array with multiple elements", ""): (
        "pass",
        "5.3.1: only more than one domain makes DMARC impossible; these are two addresses of one domain",
    ),
    ("Should parse all common tags", "pct"): (None, _NO_PCT),
    ("Should handle split TXT records", "pct"): (None, _NO_PCT),
}
"""Cases and paths where the recorded value is not RFC 9989's: the right one, and the section that says so."""

NOT_RESULTS = frozenset({"error", "status.comment", "alignment.dkim.underSized"})
"""Paths that are no part of DMARC: texts for people, and the octets that a signature with ``l=`` leaves out, which are
a matter of DKIM here (the signature's own result says it)."""


def cases() -> list[dict[str, Any]]:
    """The data."""
    vectors: list[dict[str, Any]] = json.loads(conformance_file("dmarc/mailauth-dmarc.json").read_text("utf-8"))[
        "vectors"
    ]
    return vectors


def zone_of(vector: dict[str, Any]) -> dict[str, object]:
    """The zone of a case, in the form of ``gateway.adapters.dns.zone``."""
    zone: dict[str, object] = {}
    for name, types in vector["zone"].items():
        zone[name] = {
            record_type: [f"{item['priority']} {item['exchange']}" for item in records]
            if record_type == "MX"
            else records
            for record_type, records in types.items()
        }
    return zone


def author_of(value: str | list[str]) -> Author:
    """The Author Domain; mailauth takes an array of addresses, and a domain alone."""
    addresses = value if isinstance(value, list) else [value]
    return read_from(f"From: {', '.join(a if '@' in a else f'user@{a}' for a in addresses)}\r\n".encode())


def domains_of(entries: list[dict[str, Any] | str]) -> list[str]:
    """The domains that pass."""
    return [entry if isinstance(entry, str) else entry["domain"] for entry in entries]


async def run(vector: dict[str, Any], resolver: CountingResolver) -> Dmarc | None:
    """Evaluate a case; None if there is not one Author Domain: what follows then is the policy's, and tested there."""
    author = author_of(vector["input"]["headerFrom"])
    if len(author.domains) != 1:
        assert len(vector["input"]["headerFrom"]) > 1
        return None
    spf = domains_of(vector["input"]["spfDomains"])
    assert len(spf) <= 1
    check = (
        SpfCheck(result=SpfResult.PASS, domain=spf[0]) if spf else SpfCheck(result=SpfResult.NONE, domain="x.example")
    )
    dkim = [DkimSignature(result=DkimResult.PASS, domain=d) for d in domains_of(vector["input"]["dkimDomains"])]
    return await evaluate(author.domains[0], Spf(mail_from=check), dkim, TreeWalks(resolver))


def value_at(path: str, dmarc: Dmarc, resolver: CountingResolver) -> object:
    """What a case's path means here."""
    record = dmarc.published
    failed = dmarc.result is DmarcResult.FAIL
    values: dict[str, object] = {
        "": dmarc.result.value,
        "pct": None,
        "status.result": dmarc.result.value,
        "status.header.from": dmarc.domain,
        "status.header.d": dmarc.record_domain,
        "policy": (dmarc.disposition if failed else dmarc.policy),
        "p": None if record is None else record.policy,
        "sp": None if record is None else record.subdomain_policy,
        "rr": None if record is None else record.shown,
        "domain": dmarc.organizational_domain or dmarc.record_domain,
        "dmarcQueries": [name for name in resolver.asked if name.startswith("_dmarc.")],
        "alignment.spf.result": dmarc.spf_aligned and (dmarc.organizational_domain or dmarc.spf_aligned),
        "alignment.dkim.result": dmarc.dkim_aligned and (dmarc.organizational_domain or dmarc.dkim_aligned),
        "alignment.spf.strict": record is not None and record.spf_mode is AlignmentMode.STRICT,
        "alignment.dkim.strict": record is not None and record.dkim_mode is AlignmentMode.STRICT,
    }
    return values[path]


def is_met(operator: str, value: object, recorded: object) -> bool:
    """Whether a value meets an expectation of the data."""
    if operator == "contains":
        return str(recorded) in str(value)
    words = {"true": True, "false": False, "undefined": None}
    if operator == "is":
        return value is words[str(recorded)]
    if operator == "not is":
        return value != recorded and value is None
    assert operator == "equal"
    return value == recorded


async def test_every_case_comes_to_what_rfc_9989_says() -> None:
    """Result, policy, domains, alignment and the questions asked are those of the data, or else the RFC's."""
    vectors = cases()
    assert len(vectors) == CASES
    assert sum(vector["skipped_upstream"] for vector in vectors) == SKIPPED_UPSTREAM
    wrong = []
    different = set()
    for vector in vectors:
        resolver = CountingResolver(zone_of(vector))
        evaluation = await run(vector, resolver)
        for expectation in vector["expect"]:
            path, operator, recorded = expectation["path"], expectation["op"], expectation["value"]
            if evaluation is None:
                if (path, operator, recorded) != ("", "is", "false"):
                    wrong.append((vector["name"], path, "no Author Domain"))
                continue
            if path in NOT_RESULTS:
                continue
            if operator == "not has":
                path, operator, recorded = recorded, "equal", None
            value = value_at(path, evaluation, resolver)
            key = (vector["name"], path)
            if key in DIFFERENT:
                different.add(key)
                assert not is_met(operator, value, recorded), f"{key} is no difference"
                operator, recorded = "equal", DIFFERENT[key][0]
            if not is_met(operator, value, recorded):
                wrong.append((vector["name"], path, f"{value!r}, not {operator} {recorded!r}"))
    assert wrong == []
    assert different == set(DIFFERENT), "a difference that no case has"


async def test_no_case_asks_more_than_a_walk_of_eight_for_each_domain() -> None:
    """Nobody is asked twice for one name, and no walk asks more than 8 questions."""
    for vector in cases():
        resolver = CountingResolver(zone_of(vector))
        await run(vector, resolver)
        domains = 1 + len(vector["input"]["dkimDomains"]) + len(vector["input"]["spfDomains"])
        policies = [name for name in resolver.asked if name.startswith("_dmarc.")]
        assert len(set(policies)) == len(policies) <= 8 * domains
        assert len(resolver.asked) <= len(policies) + 3  # whether a domain exists, by three types
