"""DMARC's evaluation: walks, alignment, policies, faults, and how few questions it asks (RFC 9989)."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.dmarc import TreeWalks, evaluate, walk_names
from gateway.mailauth.dmarc_record import parse_record
from gateway.mailauth.results import (
    MAX_SHOWN,
    Disposition,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    Spf,
    SpfCheck,
    SpfResult,
)
from gateway.resolver import Answer, RecordType
from tests.support.dns_zone import ColdZone

REJECT = "v=DMARC1; p=reject"

T = TypeVar("T")


class Resolver(ZoneResolver):
    """Answers from a zone; what is in its cache it knows, and it notes what it is asked for besides."""

    def __init__(self, zone: Mapping[str, object], cache: Mapping[str, object] | None = None) -> None:
        super().__init__(zone)
        self.asked: list[str] = []
        self._cache = None if cache is None else ZoneResolver(cache)
        self._cached = set() if cache is None else set(cache)

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """What the cache has of it."""
        if self._cache is None or name not in self._cached:
            return None
        return _finish(self._cache.lookup(name, record_type))

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer after a while, and note the question."""
        self.asked.append(f"{name} {record_type}")
        await asyncio.sleep(0)
        return await super().lookup(name, record_type)


def _finish(call: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never waits returns; fails if it waits."""
    try:
        call.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    call.close()
    raise AssertionError("it waits")


def txt(**records: str) -> dict[str, object]:
    """A zone of DMARC records; names have underscores for dots and ``_dmarc`` before them."""
    return {"_dmarc." + name.replace("_", "."): {"TXT": [record]} for name, record in records.items()}


def spf(domain: str, result: SpfResult = SpfResult.PASS, reason: str = "") -> Spf:
    """What SPF came to."""
    return Spf(mail_from=SpfCheck(result=result, domain=domain, reason=reason))


def dkim(*domains: str, result: DkimResult = DkimResult.PASS) -> list[DkimSignature]:
    """What DKIM came to."""
    return [DkimSignature(result=result, domain=domain, reason="why") for domain in domains]


async def run(
    domain: str,
    zone: Mapping[str, object],
    spf_result: Spf | None = None,
    signatures: Sequence[DkimSignature] | None = None,
) -> tuple[Dmarc, list[str]]:
    """Evaluate; what it came to, and what was asked."""
    resolver = Resolver(zone)
    return await evaluate(domain, spf_result, signatures, TreeWalks(resolver)), resolver.asked


async def test_an_author_domain_with_a_record_of_its_own_costs_one_question() -> None:
    """Where all domains are the same, no walk is needed (RFC 9989 4.10.2)."""
    zone = txt(example_com=REJECT)
    dmarc, asked = await run("example.com", zone, spf("example.com"), dkim("example.com"))
    assert dmarc == Dmarc(
        result=DmarcResult.PASS,
        domain="example.com",
        policy=Disposition.REJECT,
        record_domain="example.com",
        published=parse_record(REJECT),
        spf_aligned="example.com",
        dkim_aligned="example.com",
    )
    assert asked == ["_dmarc.example.com TXT"]


async def test_what_cannot_be_aligned_is_not_asked_about() -> None:
    """Nothing is asked of a stranger's domain: it can't share the organizational domain."""
    dmarc, asked = await run("example.com", txt(example_com=REJECT), spf("bounce.example.net"), dkim("mailer.example"))
    assert dmarc.result is DmarcResult.FAIL
    assert dmarc.disposition is Disposition.REJECT
    assert "bounce.example.net" in dmarc.reason
    assert "mailer.example" in dmarc.reason
    assert asked == ["_dmarc.example.com TXT"]
    _, asked = await run("example.com", txt(example_com=REJECT), spf("bounce.other.com"), dkim("mailer.com"))
    assert asked == ["_dmarc.example.com TXT", "_dmarc.com TXT"]


async def test_in_strict_mode_nothing_is_asked_about_other_domains() -> None:
    """A comparison of names is all that strict alignment takes (RFC 9989 4.10.2)."""
    zone = txt(example_com=REJECT + "; adkim=s; aspf=s")
    dmarc, asked = await run("example.com", zone, spf("a.example.com"), dkim("b.example.com"))
    assert dmarc.result is DmarcResult.FAIL
    assert asked == ["_dmarc.example.com TXT"]


async def test_a_sub_domain_is_aligned_by_a_walk() -> None:
    """The identifier's walk finds the same organizational domain, and no name is asked for twice."""
    dmarc, asked = await run("example.com", txt(example_com=REJECT), spf("a.b.example.com"), dkim("c.example.com"))
    assert (dmarc.spf_aligned, dmarc.dkim_aligned) == ("a.b.example.com", "c.example.com")
    assert dmarc.organizational_domain == "example.com"
    assert asked == [
        "_dmarc.example.com TXT",
        "_dmarc.com TXT",
        "_dmarc.a.b.example.com TXT",
        "_dmarc.b.example.com TXT",
        "_dmarc.c.example.com TXT",
    ]


@pytest.mark.parametrize(
    ("zone", "author", "identifier", "aligned"),
    [
        (txt(example_com=REJECT), "a.example.com", "example.com", True),
        (txt(example_com=REJECT), "a.example.com", "b.example.com", True),
        (txt(example_com=REJECT), "example.com", "com", False),
        (txt(example_com=REJECT), "example.com", "ample.com", False),
        (txt(example_com=REJECT), "example.com", "notexample.com", False),
        (txt(example_com=REJECT, com="v=DMARC1; p=none"), "example.com", "com", False),
        (txt(example_com=REJECT, com="v=DMARC1; p=none"), "example.com", "other.com", False),
        (txt(example_com=REJECT, com="v=DMARC1; p=none; psd=y"), "example.com", "com", False),
        (txt(com=REJECT), "example.com", "com", False),
        (txt(corp="v=DMARC1; p=reject; psd=n"), "a.corp", "b.corp", True),
        (txt(example_com=REJECT, dept_example_com=REJECT + ";psd=n"), "dept.example.com", "example.com", False),
        (txt(example_com=REJECT, dept_example_com=REJECT + ";psd=n"), "a.dept.example.com", "b.example.com", False),
        (txt(example_com=REJECT, dept_example_com=REJECT + ";psd=n"), "a.dept.example.com", "dept.example.com", True),
        (txt(example_com=REJECT, dept_example_com=REJECT + ";psd=n"), "example.com", "a.dept.example.com", False),
        (txt(bank_example=REJECT + ";psd=y"), "a.bank.example", "b.bank.example", False),
        (txt(bank_example=REJECT + ";psd=y"), "a.bank.example", "mail.a.bank.example", True),
        (txt(bank_example=REJECT + ";psd=y"), "a.bank.example", "bank.example", False),
        (txt(bank_example=REJECT + ";psd=y"), "bank.example", "bank.example", True),
        (txt(bank_example=REJECT + ";psd=y"), "bank.example", "a.bank.example", False),
    ],
)
async def test_organizational_domains_decide_on_relaxed_alignment(
    zone: dict[str, object],
    author: str,
    identifier: str,
    aligned: bool,  # noqa: FBT001 - a column
) -> None:
    """Author and identifier are aligned if their walks end at the same domain (RFC 9989 4.10.2); both ways."""
    dmarc, _ = await run(author, zone, spf(identifier))
    assert (dmarc.result is DmarcResult.PASS) is aligned
    dmarc, _ = await run(author, zone, None, dkim("x.invalid", identifier))
    assert (dmarc.result is DmarcResult.PASS) is aligned


@pytest.mark.parametrize(
    ("zone", "author", "place", "policy"),
    [
        (txt(example_com="v=DMARC1; p=none; sp=reject"), "example.com", "example.com", "none"),
        (txt(example_com="v=DMARC1; p=none; sp=reject"), "a.b.example.com", "example.com", "reject"),
        (txt(example_com="v=DMARC1; p=none; np=reject"), "a.example.com", "example.com", "reject"),
        (txt(example_com=REJECT, b_example_com="v=DMARC1; p=none"), "a.b.example.com", "example.com", "reject"),
        (txt(example_com=REJECT, b_example_com="v=DMARC1; psd=n; p=none"), "a.b.example.com", "b.example.com", "none"),
        (txt(example_com=REJECT, a_b_example_com="v=DMARC1; p=none"), "a.b.example.com", "a.b.example.com", "none"),
        (txt(com="v=DMARC1; p=none; psd=y; sp=quarantine"), "example.com", "com", "quarantine"),
        (txt(com="v=DMARC1; p=none; psd=y; sp=quarantine", example_com=REJECT), "example.com", "example.com", "reject"),
        (txt(com="v=DMARC1; p=none; psd=y", b_example_com=REJECT), "a.b.example.com", "com", "none"),
        (txt(com="v=DMARC1; p=none; sp=reject"), "example.com", "com", "reject"),
    ],
)
async def test_the_policy_is_that_of_the_author_the_organization_or_the_suffix(
    zone: dict[str, object], author: str, place: str, policy: str
) -> None:
    """Records in between don't count (RFC 9989 4.10.1)."""
    dmarc, _ = await run(author, zone)
    assert (dmarc.result, dmarc.record_domain, dmarc.policy) == (DmarcResult.FAIL, place, policy)


async def test_testing_makes_the_disposition_one_step_weaker() -> None:
    """t=y turns reject into quarantine and quarantine into none, for sub-domains, too (RFC 9989 4.7)."""
    zone = txt(example_com="v=DMARC1; p=reject; sp=quarantine; t=y")
    dmarc, _ = await run("example.com", zone)
    assert (dmarc.policy, dmarc.disposition, dmarc.testing) == (Disposition.REJECT, Disposition.QUARANTINE, True)
    dmarc, _ = await run("a.example.com", zone)
    assert (dmarc.policy, dmarc.disposition) == (Disposition.QUARANTINE, Disposition.NONE)


async def test_without_a_record_that_applies_the_result_is_none() -> None:
    """No record, or one that asks for nothing: it ends the search, and DMARC does not apply (RFC 9989 4.10.1)."""
    dmarc, asked = await run("a.example.com", {}, spf("a.example.com"))
    assert (dmarc.result, dmarc.record_domain, dmarc.policy) == (DmarcResult.NONE, None, None)
    assert len(asked) == 3
    zone = txt(a_example_com="v=DMARC1; p=rejekt", example_com=REJECT)
    dmarc, _ = await run("a.example.com", zone)
    assert (dmarc.result, dmarc.record_domain, dmarc.policy) == (DmarcResult.NONE, "a.example.com", None)
    assert "p has none of its values" in dmarc.reason


EXISTING = "v=DMARC1; p=none; sp=quarantine; np=reject"


async def test_a_domain_exists_unless_it_is_nxdomain() -> None:
    """Np is for names that give NXDOMAIN to each question; no data is existence (RFC 9989 3.2.13)."""
    zone = txt(example_com=EXISTING)
    dmarc, asked = await run("a.example.com", zone)
    assert dmarc.policy is Disposition.REJECT
    assert asked[-3:] == ["a.example.com A", "a.example.com MX", "a.example.com AAAA"]
    for broken in ({"A": "NXDOMAIN", "MX": "10 mx.example.com"}, {"A": "NXDOMAIN", "MX": "NXDOMAIN", "TXT": "x"}):
        dmarc, _ = await run("a.example.com", {**zone, "a.example.com": broken})
        assert dmarc.policy is Disposition.QUARANTINE, "NXDOMAIN to one type of question"
    dmarc, _ = await run("a.example.com", {**zone, "a.example.com": {"A": "NXDOMAIN", "MX": "SERVFAIL"}})
    assert (dmarc.result, dmarc.disposition) == (DmarcResult.TEMPERROR, Disposition.NONE)
    dmarc, _ = await run("a.example.com", {**zone, "a.example.com": {"MX": "10 mx.example.com"}})
    assert dmarc.policy is Disposition.QUARANTINE
    dmarc, _ = await run("a.example.com", {**zone, "b.a.example.com": {"A": "192.0.2.1"}})
    assert dmarc.policy is Disposition.QUARANTINE
    dmarc, _ = await run("a.example.com", {**zone, "a.example.com": "SERVFAIL"})
    assert (dmarc.result, dmarc.disposition) == (DmarcResult.TEMPERROR, Disposition.NONE)


async def test_existence_is_not_asked_for_in_vain() -> None:
    """Not where the policies are the same, nor where a cached answer tells."""
    _, asked = await run("a.example.com", txt(example_com="v=DMARC1; p=none; np=none"))
    assert asked[-1] == "_dmarc.com TXT"
    resolver = Resolver(txt(example_com=EXISTING), cache={"a.example.com": {"MX": "10 mx.example.com"}})
    dmarc = await evaluate("a.example.com", None, None, TreeWalks(resolver))
    assert dmarc.policy is Disposition.QUARANTINE
    assert "a.example.com A" not in resolver.asked


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
@pytest.mark.parametrize("name", ["_dmarc.a.example.com", "_dmarc.example.com", "_dmarc.com"])
async def test_a_fault_on_the_way_to_the_record_is_temperror(name: str, fault: str) -> None:
    """Without an answer there is no telling which record counts."""
    dmarc, _ = await run("a.example.com", {**txt(example_com=REJECT), name: fault}, spf("a.example.com"))
    assert (dmarc.result, dmarc.policy, dmarc.disposition) == (DmarcResult.TEMPERROR, None, Disposition.NONE)
    assert name in dmarc.reason


async def test_a_fault_does_not_matter_where_a_pass_is_certain() -> None:
    """One aligned identifier is enough, whatever the other's walk meets."""
    zone = {**txt(example_com=REJECT), "_dmarc.com": "TIMEOUT"}
    dmarc, _ = await run("example.com", zone, spf("a.example.com"), dkim("example.com"))
    assert (dmarc.result, dmarc.spf_aligned, dmarc.dkim_aligned) == (DmarcResult.PASS, None, "example.com")
    dmarc, _ = await run("example.com", zone, spf("a.example.com"), dkim("other.example"))
    assert dmarc.result is DmarcResult.TEMPERROR


async def test_a_temperror_of_spf_or_dkim_is_temperror_if_it_could_have_passed() -> None:
    """A fault is never a refusal; but a stranger's fault changes nothing."""
    zone = txt(example_com=REJECT)
    dmarc, _ = await run("example.com", zone, spf("a.example.com", SpfResult.TEMPERROR, "no answer"))
    assert (dmarc.result, dmarc.disposition) == (DmarcResult.TEMPERROR, Disposition.NONE)
    assert "no answer" in dmarc.reason
    dmarc, _ = await run("example.com", zone, None, dkim("a.example.com", result=DkimResult.TEMPERROR))
    assert dmarc.result is DmarcResult.TEMPERROR
    dmarc, _ = await run("example.com", zone, None, dkim("", result=DkimResult.TEMPERROR))
    assert dmarc.result is DmarcResult.TEMPERROR
    dmarc, _ = await run("example.com", zone, spf("example.com"), dkim("example.com", result=DkimResult.TEMPERROR))
    assert dmarc.result is DmarcResult.PASS
    stranger = spf("example.net", SpfResult.TEMPERROR)
    dmarc, _ = await run("example.com", zone, stranger, dkim("mailer.example", result=DkimResult.TEMPERROR))
    assert dmarc.result is DmarcResult.FAIL


@pytest.mark.parametrize("result", [each for each in SpfResult if each not in {SpfResult.PASS, SpfResult.TEMPERROR}])
async def test_only_a_pass_of_spf_counts(result: SpfResult) -> None:
    """Whatever else SPF says of the very domain is a failure."""
    dmarc, _ = await run("example.com", txt(example_com=REJECT), spf("example.com", result))
    assert dmarc.result is DmarcResult.FAIL


@pytest.mark.parametrize("result", [each for each in DkimResult if each not in {DkimResult.PASS, DkimResult.TEMPERROR}])
async def test_only_a_pass_of_dkim_counts(result: DkimResult) -> None:
    """Whatever else a signature comes to is a failure."""
    dmarc, _ = await run("example.com", txt(example_com=REJECT), None, dkim("example.com", result=result))
    assert dmarc.result is DmarcResult.FAIL


def test_a_warm_cache_suspends_nothing() -> None:
    """With all answers known, walks and the question for existence included, nothing waits."""
    cache = txt(example_com=EXISTING, com="none", a_example_com="none", b_example_com="none") | {
        "a.example.com": {"A": "192.0.2.1"}
    }
    for signatures in (dkim("b.example.com"), dkim("example.net")):
        resolver = Resolver({}, cache=cache)
        dmarc = _finish(evaluate("a.example.com", spf("b.example.net"), signatures, TreeWalks(resolver)))
        assert dmarc.record_domain == "example.com"
        assert resolver.asked == []


async def test_a_walks_questions_are_asked_at_the_same_time() -> None:
    """A new sender's message waits for its own domain's record, then once for all that the walk may need."""
    resolver = ColdZone(txt(example_com=REJECT) | {"deep.mail.example.com": {"A": "192.0.2.1"}})
    dmarc = await evaluate("deep.mail.example.com", None, [], TreeWalks(resolver))
    assert dmarc.record_domain == "example.com"
    assert [{name.removesuffix(" TXT") for name in asked} for asked in resolver.rounds] == [
        {"_dmarc.deep.mail.example.com"},
        {"_dmarc.mail.example.com", "_dmarc.example.com", "_dmarc.com"},
    ]


async def test_a_fault_above_a_record_that_ends_the_walk_does_not_matter() -> None:
    """What was asked for ahead and is not needed can't spoil the result."""
    zone = txt(example_com="v=DMARC1; p=reject; psd=n") | {"_dmarc.com": "SERVFAIL"}
    found, _ = await run("mail.example.com", zone)
    assert (found.result, found.record_domain) == (DmarcResult.FAIL, "example.com")


def test_a_walk_has_at_most_eight_names() -> None:
    """The names are those of RFC 9989 4.10's example; short domains are walked whole."""
    assert list(walk_names("a.b.c.d.e.f.g.h.i.j.mail.example.com")) == [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
        "h.i.j.mail.example.com",
        "i.j.mail.example.com",
        "j.mail.example.com",
        "mail.example.com",
        "example.com",
        "com",
    ]
    assert list(walk_names("1.2.3.4.5.6.example.com")) == [
        "1.2.3.4.5.6.example.com", "2.3.4.5.6.example.com", "3.4.5.6.example.com", "4.5.6.example.com",
        "5.6.example.com", "6.example.com", "example.com", "com",
    ]  # fmt: skip
    assert list(walk_names("example.com")) == ["example.com", "com"]
    assert list(walk_names("com")) == ["com"]


async def test_a_name_too_long_for_the_dns_is_not_asked_for() -> None:
    """A domain may be so long that ``_dmarc`` does not fit before it; it has no record."""
    domain = ".".join(["a" * 60] * 4) + ".com"
    dmarc, asked = await run(domain, txt(com="v=DMARC1; p=none; psd=y"))
    assert dmarc.record_domain == "com"
    assert all(len(question.split()[0]) <= 253 for question in asked)


async def test_a_record_is_shown_in_one_line_of_bounded_length() -> None:
    """What a stranger publishes can't fill the record or break a line of it."""
    dmarc, _ = await run("example.com", txt(example_com="v=DMARC1; p=reject; x=\r\n\x1b" + "a" * 5000))
    assert dmarc.published is not None
    assert len(dmarc.published.shown) == MAX_SHOWN
    assert dmarc.published.shown.isprintable()


labels = st.sampled_from(["a", "b", "com", "_dmarc", "xn--p1ai", "x" * 63])
domains = st.lists(labels, min_size=1, max_size=12).map(".".join)
records = st.one_of(
    st.text(max_size=40),
    st.text(max_size=40).map(lambda text: "v=DMARC1;" + text),
    st.sampled_from(
        [REJECT, "SERVFAIL", "TIMEOUT", REJECT + "; psd=y", "v=DMARC1; sp=reject; p=none; psd=n; np=none; t=y"]
    ),
)


@given(author=domains, others=st.lists(domains, max_size=4), texts=st.lists(records, max_size=6), data=st.data())
@settings(max_examples=150)
async def test_whatever_is_published_the_result_is_one_of_the_rfc(
    author: str, others: list[str], texts: list[str], data: st.DataObject
) -> None:
    """Any domains and records: a result that fits its policy, within the questions of the walks."""
    names = sorted({name for domain in (author, *others) for name in walk_names(domain)})
    zone: dict[str, object] = {}
    for text in texts:
        value = text if text in {"SERVFAIL", "TIMEOUT"} else {"TXT": [text]}
        zone["_dmarc." + data.draw(st.sampled_from(names))] = value
    resolver = Resolver(zone)
    signatures = dkim(*others[1:])
    dmarc = await evaluate(author, spf(others[0]) if others else None, signatures, TreeWalks(resolver))
    assert len(resolver.asked) <= 8 * (1 + len(others)) + 3
    assert len(set(resolver.asked)) == len(resolver.asked)
    assert (dmarc.policy is None) is (dmarc.result is DmarcResult.NONE or dmarc.record_domain is None)
    if dmarc.result is not DmarcResult.FAIL:
        assert dmarc.disposition is Disposition.NONE
    assert (dmarc.result is DmarcResult.PASS) is ((dmarc.spf_aligned or dmarc.dkim_aligned) is not None)
    if author in others and dmarc.policy is not None:
        assert dmarc.result is DmarcResult.PASS


async def test_a_failure_says_what_became_of_each_check() -> None:
    """The reason repeats why SPF and each signature did not pass, in bounded length."""
    failed = Spf(mail_from=SpfCheck(result=SpfResult.SOFTFAIL, domain="x.example", reason="matched ~all"))
    signatures = [
        DkimSignature(result=DkimResult.FAIL, domain="example.com", reason="the body was changed"),
        DkimSignature(result=DkimResult.PERMERROR, reason="the signature can't be read" + "!" * 200),
        *dkim("other.example"),
    ]
    dmarc, _ = await run("example.com", txt(example_com=REJECT), failed, signatures * 5)
    assert dmarc.reason.startswith(
        "neither SPF nor DKIM passes in alignment with example.com: "
        "DKIM passes for other.example, which is not aligned; "
        "SPF is softfail for x.example (matched ~all); DKIM is fail for example.com (the body was changed); "
        "DKIM is permerror for a signature (the signature can't be read!!!"
    )
    assert dmarc.reason.endswith("; and 7 more")
    assert len(dmarc.reason) < 1000
    for count, end in ((3, "DKIM is fail for d2.example"), (4, "DKIM is fail for d3.example"), (5, "and 1 more")):
        broken = [DkimSignature(result=DkimResult.FAIL, domain=f"d{number}.example") for number in range(count)]
        dmarc, _ = await run("example.com", txt(example_com=REJECT), failed, broken)
        assert dmarc.reason.endswith(f"; {end}")
    for spf_result, found, said in (
        (None, None, "SPF was not looked at; DKIM was not looked at"),
        (failed, [], "SPF is softfail for x.example (matched ~all); there is no DKIM signature"),
    ):
        dmarc, _ = await run("example.com", txt(example_com=REJECT), spf_result, found)
        assert dmarc.reason.endswith(said)
