"""SPF: what check_host() says, what it asks, and where it stops. The RFC's own cases are in ``tests/conformance``."""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.results import SpfCheck, SpfResult
from gateway.mailauth.spf import check_host, check_sender
from gateway.mailauth.spf_macros import macro_string
from gateway.mailauth.spf_memory import SpfMemory
from gateway.mailauth.spf_questions import Limits
from gateway.resolver import Answer, RecordType, Resolver, Status
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, ReversePath
from tests.support.dns_zone import ColdZone, SilentZone
from tests.support.virtual_time import SlowZone, run_virtually

CLIENT = "192.0.2.1"


async def check(zone: Mapping[str, object] | Resolver, domain: str = "example.com", **others: Any) -> SpfCheck:
    """Check a domain in a zone for the usual client."""
    resolver = ZoneResolver(zone) if isinstance(zone, Mapping) else zone
    address = ip_address(others.pop("address", CLIENT))
    return await check_host(resolver, address=address, domain=domain, **{"helo": "client.example.net"} | others)


def txt(record: str, **others: str | list[str]) -> dict[str, object]:
    """A zone in which example.com has a record; in other names ``_`` stands for a dot."""
    zone: dict[str, object] = {"example.com": {"TXT": record}}
    for name, more in others.items():
        zone[f"{name.replace('__', '.')}.example.com"] = {"TXT": more} if isinstance(more, str) else {"A": more}
    return zone


# What is asked


async def test_with_all_answers_at_hand_nothing_is_awaited() -> None:
    """With a warm cache the check is done in one step: the coroutine ends without giving the event loop a turn."""
    zone = {
        "example.com": {"TXT": "v=spf1 a mx -all", "A": "192.0.2.9", "MX": "10 m.example.com"},
        "m.example.com": {"A": CLIENT},
    }
    run = check(zone)
    with pytest.raises(StopIteration) as ended:
        run.send(None)
    assert ended.value.value.result is SpfResult.PASS


async def test_each_question_is_asked_once_and_those_of_an_mx_together() -> None:
    """A cold check asks for what it needs, nothing twice, and for all hosts of an mx at the same time."""
    hosts = [f"m{number}.example.com" for number in range(3)]
    zone = ColdZone(
        {
            "example.com": {"TXT": "v=spf1 a mx -all", "A": "192.0.2.9", "MX": [f"10 {host}" for host in hosts]},
            **{host: {"A": "192.0.2.8"} for host in hosts},
        }
    )
    found = await check(zone)
    assert found.result is SpfResult.FAIL
    assert zone.rounds == [
        {"example.com TXT"},
        {"example.com A"},
        {"example.com MX"},
        {f"{host} A" for host in hosts},
    ]
    assert len(zone.asked) == found.queries == 6


async def test_the_clients_names_are_asked_for_together() -> None:
    """The same holds for ptr."""
    names = ["a.example.com", "b.example.com"]
    zone = ColdZone(
        {
            "example.com": {"TXT": "v=spf1 ptr -all"},
            CLIENT: {"PTR": names},
            names[0]: {"A": "192.0.2.7"},
            names[1]: {"A": CLIENT},
        }
    )
    assert (await check(zone)).result is SpfResult.PASS
    assert zone.rounds[2] == {"a.example.com A", "b.example.com A"}


@pytest.mark.parametrize(
    ("address", "asked"),
    [("192.0.2.1", "A"), ("2001:db8::1", "AAAA"), ("::ffff:192.0.2.1", "A")],
)
async def test_the_clients_version_of_ip_decides_which_address_is_asked_for(address: str, asked: str) -> None:
    """An IPv4-mapped address is the IPv4 address (RFC 7208 5)."""
    zone = ColdZone({"example.com": {"TXT": "v=spf1 a -all", "A": "192.0.2.1", "AAAA": "2001:db8::1"}})
    assert (await check(zone, address=address)).result is SpfResult.PASS
    assert zone.asked == ["example.com TXT", f"example.com {asked}"]


async def test_checks_at_the_same_time_do_not_mix() -> None:
    """Many checks under way at once each have their own result."""
    zones = [ColdZone(txt(f"v=spf1 include:i.example.com {word}all", i="v=spf1 -all")) for word in "+-~?" * 10]
    found = await asyncio.gather(*(check(zone) for zone in zones))
    assert [one.result.value for one in found] == ["pass", "fail", "softfail", "neutral"] * 10


# Names that are no domains (RFC 7208 4.3)


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "localhost",
        "localhost.",
        "[192.0.2.1]",
        "[ipv6:2001:db8::1]",
        "192.0.2.1",
        "a..example.com",
        ".example.com",
        f"{'a' * 64}.example.com",
        ".".join(["a" * 60] * 5),
        "a b.example.com",
        "a\\.example.com",
        "a\0.example.com",
        "\u00fc\ufffd.example.com",
        "xn--\u00fc.example.com",
        "\u2024.com",
    ],
)
async def test_what_is_no_domain_gives_none_and_asks_nothing(domain: str) -> None:
    """A malformed name, one label or an address has no record, and the reason says so."""
    zone = ColdZone({})
    found = await check(zone, domain)
    assert found.result is SpfResult.NONE
    assert found.reason.endswith("is no domain name")
    assert found.reason.isascii()
    assert found.reason.isprintable()
    assert zone.asked == []


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("EXAMPLE.com.", "example.com"),
        ("_dmarc_x.example.com", "_dmarc_x.example.com"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        (f"{'a' * 63}.example.com", f"{'a' * 63}.example.com"),
    ],
)
async def test_domains_are_checked_as_a_labels_in_lower_case(domain: str, name: str) -> None:
    """Case, a final dot and the script do not matter."""
    found = await check({name: {"TXT": "v=spf1 -all"}}, domain)
    assert (found.result, found.domain) == (SpfResult.FAIL, name)


async def test_a_local_part_that_is_not_ascii_matches_nothing() -> None:
    """Mechanisms that ask for it do not match and ask nothing (RFC 8616 4); the others go on."""
    zone = ColdZone(txt("v=spf1 exists:%{l}.example.com include:%{S}.example.com ~all"))
    found = await check(zone, local_part="j\u00f6rg")
    assert found.result is SpfResult.SOFTFAIL
    assert zone.asked == ["example.com TXT"]
    zone = ColdZone(txt("v=spf1 redirect=%{l}.example.com"))
    assert (await check(zone, local_part="j\u00f6rg")).result is SpfResult.NEUTRAL
    assert zone.asked == ["example.com TXT"]
    found = await check(txt("v=spf1 -all exp=%{l}.example.com"), local_part="j\u00f6rg")
    assert (found.result, found.explanation) == (SpfResult.FAIL, None)
    assert (
        await check(txt("v=spf1 exists:%{l}.example.com -all", joerg=[CLIENT]), local_part="joerg")
    ).result == "pass"


async def test_a_quoted_local_part_with_an_at_sign_is_one() -> None:
    """The local part is not searched for the domain."""
    zone = ColdZone(txt("v=spf1 exists:%{l}.%{o} -all"))
    await check(zone, local_part="a@b")
    assert zone.asked[1] == "a@b.example.com A"


# Limits


async def test_includes_in_a_circle_end() -> None:
    """Records that include each other come to the limit of terms."""
    found = await check(txt("v=spf1 include:b.example.com", b="v=spf1 include:example.com"))
    assert found.result is SpfResult.PERMERROR
    assert "more than 10 terms" in found.reason
    assert found.queries == 2


async def test_a_redirect_counts_when_it_is_followed() -> None:
    """Ten terms and a redirect that is not reached are within the limit; one that is followed is the eleventh."""
    terms = " ".join(f"exists:e{number}.example.com" for number in range(10))
    record = f"v=spf1 {terms} redirect=r.example.com"
    zone = txt(record, e9=[CLIENT], r="v=spf1 -all")
    assert (await check(zone, limits=Limits(void_lookups=20))).result is SpfResult.PASS
    del zone["e9.example.com"]
    found = await check(zone, limits=Limits(void_lookups=20))
    assert (found.result, found.reason) == (SpfResult.PERMERROR, "more than 10 terms that ask the DNS")


@pytest.mark.parametrize(("limit", "result"), [(2, SpfResult.PERMERROR), (3, SpfResult.FAIL)])
async def test_void_lookups_are_limited(limit: int, result: SpfResult) -> None:
    """The third term that asks for what is not there is one too many, unless the limit is higher."""
    record = "v=spf1 a:x.example.com a:y.example.com a:z.example.com -all"
    assert (await check(txt(record), limits=Limits(void_lookups=limit))).result is result


async def test_the_reason_names_the_void_lookups() -> None:
    """An administrator sees which names to ask the domain's owner about."""
    zone = txt("v=spf1 a:x.example.com mx exists:%{i}.z.example.com -all") | {"www.x.example.com": {"A": "192.0.2.9"}}
    found = await check(zone)
    assert found.reason == (
        "more than 2 void lookups: A of x.example.com (no data), MX of example.com (no data), "
        "A of 192.0.2.1.z.example.com (nxdomain)"
    )
    assert found.steps[-1].startswith("exists:%{i}.z.example.com: can't be evaluated, so permerror (192.0.2.1.z")


IPV4_ONLY: dict[str, object] = {
    "example.com": {
        "TXT": "v=spf1 a mx include:esp.example -all",
        "A": "192.0.2.10",
        "MX": ["1 m1.x.example", "2 m2.x.example"],
    },
    "m1.x.example": {"A": "192.0.2.11"},
    "m2.x.example": {"A": "192.0.2.12"},
    "esp.example": {"TXT": "v=spf1 ip6:2001:db8::/32 -all"},
}


@pytest.mark.parametrize(("address", "result"), [("2001:db8::1", "pass"), ("2001:db9::1", "fail")])
async def test_hosts_of_the_other_family_are_not_void(address: str, result: str) -> None:
    """A domain whose own hosts have IPv4 only may have an IPv6 client elsewhere; both are told rightly."""
    cold = ColdZone(IPV4_ONLY)
    assert (await check(cold, address=address)).result == result
    assert "example.com A" not in cold.asked, "the limit was not reached, so nothing more was asked"


async def test_the_other_family_is_asked_for_only_at_the_limit() -> None:
    """One question for each name that would end the check, oldest first, until the check can go on."""
    hosts = [f"h{number}.example" for number in range(4)]
    zone: dict[str, object] = txt("v=spf1 " + " ".join(f"a:{host}" for host in hosts) + " -all")
    zone |= {host: {"A": "192.0.2.9"} for host in hosts}
    cold = ColdZone(zone)
    assert (await check(cold, address="2001:db8::1")).result is SpfResult.FAIL
    types = [question for question in cold.asked if "TXT" not in question]
    assert types == [
        "h0.example AAAA",
        "h1.example AAAA",
        "h2.example AAAA",
        "h0.example A",
        "h3.example AAAA",
        "h1.example A",
    ]


@pytest.mark.parametrize(
    ("hosts", "result"),
    [
        ({"A": "192.0.2.9"}, SpfResult.FAIL),
        ({"TXT": "nothing else"}, SpfResult.PERMERROR),
        (None, SpfResult.PERMERROR),
        ({"A": "SERVFAIL"}, SpfResult.TEMPERROR),
    ],
)
async def test_names_of_neither_family_are_void(hosts: object, result: SpfResult) -> None:
    """So are names that don't exist; where the DNS does not say it, nothing is refused."""
    names = ["x.example", "y.example", "z.example"]
    zone: dict[str, object] = txt("v=spf1 " + " ".join(f"a:{name}" for name in names) + " -all")
    if hosts is not None:
        zone |= dict.fromkeys(names, hosts)
    assert (await check(zone, address="2001:db8::1")).result is result


async def test_a_fault_at_the_limit_matters_only_if_nothing_else_decides() -> None:
    """Where one name's other family can't be told, another name's may bring the check below the limit."""
    names = ["x.example", "y.example", "z.example", "gone.example"]
    zone: dict[str, object] = txt("v=spf1 " + " ".join(f"a:{name}" for name in names) + " -all")
    zone |= {"x.example": {"A": "SERVFAIL"}, "y.example": {"A": "192.0.2.9"}, "z.example": {"A": "192.0.2.9"}}
    assert (await check(zone, address="2001:db8::1")).result is SpfResult.FAIL
    found = await check(zone | {"z.example": {"TXT": "nothing else"}}, address="2001:db8::1")
    assert (found.result, found.reason) == (
        SpfResult.TEMPERROR,
        "the DNS gave no answer: A of x.example (servfail)",
    )


async def test_the_first_name_that_can_not_be_told_is_the_reason() -> None:
    """Of several faults at the limit the oldest."""
    names = ["x.example", "y.example", "z.example", "gone.example", "lost.example"]
    zone: dict[str, object] = txt("v=spf1 " + " ".join(f"a:{name}" for name in names) + " -all")
    zone |= {"x.example": {"A": "SERVFAIL"}, "y.example": {"A": "TIMEOUT"}, "z.example": {"TXT": "nothing else"}}
    found = await check(zone, address="2001:db8::1")
    assert (found.result, found.reason) == (
        SpfResult.TEMPERROR,
        "the DNS gave no answer: A of x.example (servfail)",
    )


async def test_a_name_that_does_not_exist_is_asked_for_the_other_family_too() -> None:
    """Broken name servers say NXDOMAIN of one type though there is another; asked only where the limit would end it."""
    cold = ColdZone(txt("v=spf1 a:x.example a:y.example a:z.example -all"))
    assert (await check(cold, address="2001:db8::1")).result is SpfResult.PERMERROR
    assert cold.asked[:4] == ["example.com TXT", "x.example AAAA", "y.example AAAA", "z.example AAAA"]
    assert sorted(cold.asked[4:]) == ["x.example A", "y.example A", "z.example A"]
    broken = txt("v=spf1 a:x.example a:y.example a:z.example -all")
    broken["y.example"] = {"A": "192.0.2.9", "AAAA": "NXDOMAIN"}
    assert (await check(broken, address="2001:db8::1")).result is SpfResult.FAIL


@pytest.mark.parametrize("term", ["include:%{d1}", "redirect=%{d1}"])
async def test_a_name_of_one_label_is_not_asked_for(term: str) -> None:
    """It has no record (RFC 7208 4.3)."""
    cold = ColdZone(txt(f"v=spf1 {term}"))
    found = await check(cold)
    assert found.result is SpfResult.PERMERROR
    assert "com has no SPF record" in found.reason
    assert cold.asked == ["example.com TXT"]


async def test_a_term_is_void_only_if_all_that_it_asks_is() -> None:
    """Mail hosts without addresses make no void look-up of an ``mx`` that has hosts (RFC 7208 4.6.4)."""
    zone: dict[str, object] = txt("v=spf1 mx:x.example mx:y.example mx:z.example -all")
    zone |= {f"{name}.example": {"MX": [f"1 gone.{name}.example", f"2 lost.{name}.example"]} for name in "xyz"}
    assert (await check(zone)).result is SpfResult.FAIL


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 ip4:198.51.100.1 ptr:d.example -all",
        "v=spf1 ip4:198.51.100.1 ptr:d.example ptr:d.example ptr:d.example ptr:d.example -all",
        "v=spf1 exists:%{p}.x.example exists:%{p}.x.example -all",
        "v=spf1 -all exp=%{p}.x.example",
        "v=spf1 a:x.example a:x.example -all exp=x.example",
    ],
)
@pytest.mark.parametrize("names", [[], ["a.d.example"], ["a.d.example", "b.d.example", "c.d.example"]])
async def test_a_client_cant_make_an_error_by_its_names(record: str, names: list[str]) -> None:
    """Names of the client that don't resolve, and an explanation that is not there, make no void look-ups."""
    zone = txt(record) | ({CLIENT: {"PTR": names}} if names else {})
    assert (await check(zone)).result is SpfResult.FAIL


async def test_names_below_the_target_are_looked_at_first() -> None:
    """Of a client with many names those that could match are asked for, and no others (RFC 7208 5.5)."""
    names = [f"n{number}.example.net" for number in range(30)]
    zone = txt("v=spf1 ptr -all") | {CLIENT: {"PTR": [*names, "h.example.com"]}, "h.example.com": {"A": CLIENT}}
    cold = ColdZone(zone)
    found = await check(cold)
    assert found.reason == "192.0.2.1 matched ptr of example.com (h.example.com has 192.0.2.1)"
    assert cold.asked == ["example.com TXT", "1.2.0.192.in-addr.arpa PTR", "h.example.com A"]


async def test_other_names_of_the_client_are_asked_for_only_if_none_within_is_confirmed() -> None:
    """``%{p}`` is a name at or below the domain if there is one, so the others would be asked for in vain."""
    names = ["other.example.net", "h.example.com"]
    zone = txt("v=spf1 exists:%{p}.x.example -all") | {CLIENT: {"PTR": names}, names[0]: {"A": CLIENT}}
    cold = ColdZone(zone | {names[1]: {"A": CLIENT}})
    await check(cold)
    assert cold.asked[-2:] == ["h.example.com A", "h.example.com.x.example A"]
    assert "other.example.net A" not in cold.asked
    cold = ColdZone(zone)
    await check(cold)
    assert cold.asked[-3:] == ["h.example.com A", "other.example.net A", "other.example.net.x.example A"]


async def test_ten_names_of_a_client_are_asked_for_in_all() -> None:
    """However many terms look at them; then no name is confirmed that was not before."""
    names = [f"n{number}.{domain}.example" for domain in "abc" for number in range(8)]
    zone: dict[str, object] = txt("v=spf1 ptr:a.example ptr:b.example ptr:c.example exists:%{p}.x.example -all")
    zone[CLIENT] = {"PTR": names}
    cold = ColdZone(zone)
    assert (await check(cold)).result is SpfResult.FAIL
    assert [question for question in cold.asked if question.startswith("n")] == [f"{name} A" for name in names[:10]]


@pytest.mark.parametrize("queries", range(1, 20))
@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 ptr a:a1.example a:a2.example mx:m.example -all",
        "v=spf1 a:a1.example a:a2.example mx:m.example ptr -all",
        "v=spf1 a:a1.example exists:%{p}.x.example mx:m.example a:n0.example.com -all",
        "v=spf1 mx:m.example ptr a:n0.example.com mx:n.example -all exp=why.example",
    ],
)
async def test_the_clients_names_take_no_question_from_the_terms(record: str, queries: int) -> None:
    """However many names its reverse DNS has, and whichever, the limit of questions ends the same checks."""
    hosts = {f"h{number}.example": {"A": "198.51.100.1"} for number in range(3)}
    zone: dict[str, object] = txt(record) | hosts
    zone |= {"a1.example": {"A": "198.51.100.1"}, "a2.example": {"A": "198.51.100.1"}, "why.example": {"TXT": "no"}}
    zone |= {"m.example": {"MX": [f"1 {host}" for host in hosts]}, "n.example": {"MX": "1 n1.example.com"}}
    zone |= {f"n{number}.example.com": {"A": "198.51.100.2"} for number in range(10)}
    limits = Limits(queries=queries, void_lookups=9)
    without = await check(zone, limits=limits)
    cold = ColdZone(zone | {CLIENT: {"PTR": [f"n{number}.example.com" for number in range(10)]}})
    found = await check(cold, limits=limits)
    assert (found.result, found.reason, found.explanation) == (without.result, without.reason, without.explanation)
    assert len(cold.asked) <= queries + 1 + 10


async def test_a_client_of_many_names_passes_after_a_large_record() -> None:
    """A record near the limit, and ten names of the client to look up: the last of them is still looked at."""
    zone: dict[str, object] = txt("v=spf1 " + " ".join(f"mx:m{number}.example" for number in range(5)) + " ptr -all")
    for number in range(5):
        hosts = [f"h{host}.m{number}.example" for host in range(10)]
        zone[f"m{number}.example"] = {"MX": [f"10 {host}" for host in hosts]}
        zone |= {host: {"A": "198.51.100.1"} for host in hosts}
    names = [f"x{number}.example.com" for number in range(10)]
    zone |= {CLIENT: {"PTR": names}, names[-1]: {"A": CLIENT}}
    assert (await check(zone)).result is SpfResult.PASS


async def test_hosts_that_are_known_are_counted_once() -> None:
    """Hosts of one mx that another has, too, are asked for once and counted once."""
    hosts = [f"h{number}.example" for number in range(5)]
    zone: dict[str, object] = txt("v=spf1 mx:a.example mx:b.example -all") | {h: {"A": "192.0.2.9"} for h in hosts}
    zone |= {name: {"MX": [f"1 {host}" for host in hosts]} for name in ("a.example", "b.example")}
    found = await check(zone, limits=Limits(queries=8))
    assert (found.result, found.queries) == (SpfResult.FAIL, 8)
    assert (await check(zone, limits=Limits(queries=7))).result is SpfResult.PERMERROR


async def test_ten_mx_of_ten_hosts_are_bounded() -> None:
    """The 111 questions that the RFC's limits allow are not asked."""
    zone: dict[str, object] = txt("v=spf1 " + " ".join(f"mx:m{number}.example.com" for number in range(10)) + " -all")
    for number in range(10):
        hosts = [f"h{host}.m{number}.example.com" for host in range(10)]
        zone[f"m{number}.example.com"] = {"MX": [f"10 {host}" for host in hosts]}
        zone |= {host: {"A": "192.0.2.9"} for host in hosts}
    cold = ColdZone(zone)
    found = await check(cold, limits=Limits(queries=60))
    assert found.result is SpfResult.PERMERROR
    assert found.reason == "the check takes more than 60 DNS questions"
    assert len(cold.asked) <= 60
    assert (await check(ColdZone(zone), limits=Limits(queries=111))).result is SpfResult.FAIL


async def test_eleven_hosts_of_an_mx_are_too_many() -> None:
    """RFC 7208 4.6.4."""
    zone = {"example.com": {"TXT": "v=spf1 mx -all", "MX": [f"{number} h{number}.example.com" for number in range(11)]}}
    found = await check(zone)
    assert (found.result, found.reason) == (SpfResult.PERMERROR, "example.com has more than 10 MX records")


async def test_of_the_clients_names_ten_are_looked_at() -> None:
    """The eleventh name does not count, and nothing is wrong with it (RFC 7208 4.6.4)."""
    names = [f"n{number}.example.com" for number in range(11)]
    zone: dict[str, object] = {
        "example.com": {"TXT": "v=spf1 ptr ?all"},
        CLIENT: {"PTR": names},
        **{name: {"A": "192.0.2.9"} for name in names[:10]},
        names[10]: {"A": CLIENT},
    }
    assert (await check(zone)).result is SpfResult.NEUTRAL


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
async def test_a_fault_at_one_mail_host_matters_only_if_no_other_matches(fault: str) -> None:
    """Whatever their order: a host that has the client's address decides."""
    zone: dict[str, object] = {
        "example.com": {"TXT": "v=spf1 mx -all", "MX": ["1 bad.example.com", "2 good.example.com"]},
        "bad.example.com": fault,
        "good.example.com": {"A": CLIENT},
    }
    found = await check(zone)
    assert (found.result, found.reason) == (
        SpfResult.PASS,
        "192.0.2.1 matched mx of example.com (good.example.com has 192.0.2.1)",
    )
    assert (await check(zone | {"good.example.com": {"A": "192.0.2.9"}})).result is SpfResult.TEMPERROR


async def test_a_fail_stays_one_if_its_explanation_takes_too_long() -> None:
    """What is only told does not change what was found."""

    class Slow(SilentZone):
        def known(self, name: str, _record_type: RecordType) -> Answer | None:
            record = "v=spf1 -all exp=why.example.com"
            return Answer(Status.FOUND, (record,), 60.0) if name == "example.com" else None

    memory = SpfMemory()
    found = await check(Slow(), limits=Limits(time=0.01), memory=memory)
    assert (found.result, found.explanation) == (SpfResult.FAIL, None)
    assert len(memory) == 0, "the next one may get the explanation"


async def test_a_dns_that_never_answers_is_a_temperror() -> None:
    """The time is bounded, and what follows is no refusal."""
    found = await check(SilentZone(), limits=Limits(time=0.01))
    assert (found.result, found.reason) == (SpfResult.TEMPERROR, "the DNS took longer than 0.01 s")


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
@pytest.mark.parametrize(
    ("record", "name"),
    [
        (None, "example.com"),
        ("v=spf1 a:x.example.com -all", "x.example.com"),
        ("v=spf1 mx:x.example.com -all", "x.example.com"),
        ("v=spf1 include:x.example.com -all", "x.example.com"),
        ("v=spf1 exists:x.example.com -all", "x.example.com"),
        ("v=spf1 redirect=x.example.com", "x.example.com"),
    ],
)
async def test_a_fault_of_the_dns_is_a_temperror(fault: str, record: str | None, name: str) -> None:
    """Wherever the DNS fails the result is temperror, and the reason names the question."""
    zone: dict[str, object] = {} if record is None else txt(record)
    zone[name] = fault
    found = await check(zone)
    assert found.result is SpfResult.TEMPERROR
    assert f"of {name} ({'servfail' if fault == 'SERVFAIL' else 'timeout'})" in found.reason


FAULT_AT_NAMES: dict[str, dict[str, object]] = {
    "the names": {CLIENT: "fault"},
    "an address": {CLIENT: {"PTR": ["bad.example.com", "other.example.com"]}, "bad.example.com": "fault"},
    "an address of no other name": {CLIENT: {"PTR": ["bad.example.com"]}, "bad.example.com": "fault"},
}


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
@pytest.mark.parametrize("at", FAULT_AT_NAMES)
@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 ptr -all", SpfResult.TEMPERROR),
        ("v=spf1 ptr ~all", SpfResult.TEMPERROR),
        ("v=spf1 -ptr ?all", SpfResult.TEMPERROR),
        ("v=spf1 ptr", SpfResult.TEMPERROR),
        ("v=spf1 include:i.example.com -all", SpfResult.TEMPERROR),
        ("v=spf1 redirect=i.example.com", SpfResult.TEMPERROR),
        ("v=spf1 ptr include:none.example -all", SpfResult.TEMPERROR),
        ("v=spf1 exists:%{p}.x.example -all", SpfResult.TEMPERROR),
        ("v=spf1 exists:%{p}.x.example include:i.example.com ip4:192.0.2.1 -all", SpfResult.PASS),
        ("v=spf1 ptr ip4:192.0.2.1 -all", SpfResult.PASS),
        ("v=spf1 ip4:192.0.2.1 ptr -all", SpfResult.PASS),
        ("v=spf1 -ip4:192.0.2.1 ptr -all", SpfResult.FAIL),
        ("v=spf1 ptr:example.net -all", None),
        ("v=spf1 -all exp=%{p}.example", SpfResult.FAIL),
        ("v=spf1 -all exp=why.example.com", SpfResult.FAIL),
    ],
)
async def test_a_fault_at_the_clients_names_is_no_refusal(
    fault: str, at: str, record: str, result: SpfResult | None
) -> None:
    """A term that looks at them could have matched: only a pass by another term counts, or what was decided before."""
    zone = txt(record, i="v=spf1 ptr:example.com -all", why="not %{p}")
    zone |= {name: fault if value == "fault" else value for name, value in FAULT_AT_NAMES[at].items()}
    found = await check(zone)
    if result is None:  # names that can't match are not looked at
        result = SpfResult.TEMPERROR if at == "the names" else SpfResult.FAIL
    assert found.result is result
    assert (found.mechanism is None) == (result is SpfResult.TEMPERROR)
    if result is SpfResult.TEMPERROR:
        name = "PTR of 1.2.0.192.in-addr.arpa" if at == "the names" else "A of bad.example.com"
        assert found.reason == f"the DNS gave no answer: {name} ({fault.lower()})"
        assert found.steps[-1] == "the client's names could not be told, so temperror"
        assert found.explanation is None


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
async def test_a_name_that_is_confirmed_makes_up_for_one_that_is_not_told(fault: str) -> None:
    """Whatever their order, ``ptr`` matches then; a ``%{p}`` could have been the other name, if that goes before."""
    names = ["bad.example.com", "good.example.com"]
    for left in (names, names[::-1]):
        zone = txt("v=spf1 -ptr ?all") | {CLIENT: {"PTR": left}, "bad.example.com": fault}
        zone |= {"good.example.com": {"A": CLIENT}}
        found = await check(zone)
        assert (found.result, found.mechanism) == (SpfResult.FAIL, "-ptr")
        found = await check(zone | txt("v=spf1 exists:%{p}.x.example -all"))
        assert found.result is (SpfResult.TEMPERROR if left == names else SpfResult.FAIL)
    found = await check(
        txt("v=spf1 exists:%{p}.x.example -all") | {CLIENT: {"PTR": ["x.example.net"]}, "x.example.net": fault}
    )
    assert found.result is SpfResult.TEMPERROR, "a name elsewhere could have been the value, too"


async def test_an_earlier_fault_is_the_reason() -> None:
    """Where the record itself can't be told, that is said rather than what the client's names are."""
    zone = txt("v=spf1 ptr a:x.example.com -all") | {CLIENT: "TIMEOUT", "x.example.com": "SERVFAIL"}
    found = await check(zone)
    assert (found.result, found.reason) == (
        SpfResult.TEMPERROR,
        "the DNS gave no answer: A of x.example.com (servfail)",
    )


# Records


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 REDIRECT=x.example.com", SpfResult.FAIL),
        ("v=spf1 foo=1 foo=2 ?all", SpfResult.NEUTRAL),
        ("v=spf1 foo=%{i}-%% ?all", SpfResult.NEUTRAL),
        ("v=spf1 foo=%{ ?all", SpfResult.PERMERROR),
        ("v=spf1 foo=%x ?all", SpfResult.PERMERROR),
        ("v=spf1 exists:%{d.example.com ?all", SpfResult.PERMERROR),
        ("v=spf1 exists:%{d0}.example.com ?all", SpfResult.PERMERROR),
        ("v=spf1 exists:%{d!}.example.com ?all", SpfResult.PERMERROR),
        ("v=spf1 exists:%{c}.example.com ?all", SpfResult.PERMERROR),
        ("v=spf1 redirect=x.example.com redirect=x.example.com", SpfResult.PERMERROR),
        ("v=spf1 exp=x.example.com exp=x.example.com", SpfResult.PERMERROR),
        ("v=spf1 +all foo", SpfResult.PERMERROR),
        ("v=spf1 include:y.example.com +all", SpfResult.PERMERROR),
        (f"v=spf1 a/{'9' * 5000} +all", SpfResult.PERMERROR),
        (f"v=spf1 exists:%{{d{'9' * 5000}}}.example.com +all", SpfResult.PASS),
        (f"v=spf1 {'a:x.example.com ' * 600}+all", SpfResult.PERMERROR),
        (f"v=spf1 {'%{i}' * 101} +all", SpfResult.PERMERROR),
        ("v=spf1\t+all", SpfResult.NONE),
        ("v=spf1 +all\n", SpfResult.PERMERROR),
        ("v=spf1 ip4:192.0.2.0/33", SpfResult.PERMERROR),
        ("v=spf1 ip4:192.0.2", SpfResult.PERMERROR),
        ("v=spf1 ip4:2001:db8::1", SpfResult.PERMERROR),
        ("v=spf1 ip6:192.0.2.1", SpfResult.PERMERROR),
        ("v=spf1 ~IP4:192.0.2.0/24", SpfResult.SOFTFAIL),
        ("v=spf1 ip4:0.0.0.0/0", SpfResult.PASS),
        ("v=spf1 ip4:192.0.2.1/0", SpfResult.PASS),
        ("v=spf1 ip4:192.0.2.1/024", SpfResult.PERMERROR),
        ("v=spf1 ip4:192.0.02.1", SpfResult.PERMERROR),
        ("v=spf1 ip4:192.0.2.1//64", SpfResult.PERMERROR),
        ("v=spf1 ip4:", SpfResult.PERMERROR),
        ("v=spf1 ip6:fe80::1%1 +all", SpfResult.PERMERROR),
        ("v=spf1 ip6:::1/129 +all", SpfResult.PERMERROR),
        ("v=spf1 ip6:::1/128 ?all", SpfResult.NEUTRAL),
        ("v=spf1 ip4=192.0.2.1 ?all", SpfResult.NEUTRAL),
        ("v=spf1 ++all", SpfResult.PERMERROR),
        ("v=spf1 -ip4:192.0.2.1", SpfResult.FAIL),
        ("v=spf1 all:x.example.com", SpfResult.PERMERROR),
        ("v=spf1 all/8", SpfResult.PERMERROR),
        ("v=spf1 include", SpfResult.PERMERROR),
        ("v=spf1 include:x.example.com/24", SpfResult.PERMERROR),
        ("v=spf1 ptr/24", SpfResult.PERMERROR),
        ("v=spf1 a/33", SpfResult.PERMERROR),
        ("v=spf1 a//129", SpfResult.PERMERROR),
        ("v=spf1 a:x.example.com,", SpfResult.PERMERROR),
        ("v=spf1 a:example", SpfResult.PERMERROR),
        ("v=spf1 a:x.123", SpfResult.PERMERROR),
        ("v=spf1 include:%{d1} +all", SpfResult.PERMERROR),
        ("v=spf1 redirect=", SpfResult.PERMERROR),
        ("v=spf1 +redirect=x.example.com", SpfResult.PERMERROR),
        ("v=spf1 exists:%{d}..example.com ?all", SpfResult.NEUTRAL),
        (f"v=spf1 exists:{'y' * 64}.example.com ?all", SpfResult.NEUTRAL),
    ],
)
async def test_records_are_read_as_the_rfc_says(record: str, result: SpfResult) -> None:
    """Each term and modifier by the grammar of RFC 7208 12, where other readers are lenient, too."""
    found = await check(txt(record, x="v=spf1 -all"))
    assert found.result is result, found.reason


_FULL = "v=spf1 " + "x=%{i} " * 99 + "exp=%{d}"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("v=spf1 +all x=" + "y" * 8178, ""),
        ("v=spf1 +all x=" + "y" * 8179, "the record is longer than 8192 octets"),
        (f"{_FULL} +all", ""),
        (f"{_FULL} x=%{{i}} +all", "the record has more than 100 macros"),
        ("v=spf1 +all x=%%%_%-", ""),
    ],
)
async def test_the_limits_of_a_record_end_where_they_say(record: str, reason: str) -> None:
    """8192 octets and 100 macros are within them, and the reason names the limit that is not kept."""
    found = await check(txt(record))
    assert (found.result, found.reason) == (
        (SpfResult.PERMERROR, reason) if reason else (SpfResult.PASS, "192.0.2.1 matched +all of example.com")
    )


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("%{d3}", "sub.example.com"),
        ("%{d1r}.x.example", "a-b.x.example"),
        ("%{d-}.example", "a.b.sub.example.com.example"),
        ("%{l1r-}.example", "c.example"),
        ("%{lr-}.example", "d.c.example"),
        ("%{ir}.%{v}.example", "1.2.0.192.in-addr.example"),
        ("%{h}", "client.example.net"),
        ("%{p}.example", "unknown.example"),
        ("%{o}.example", "a-b.sub.example.com.example"),
        ("%{S}.example", "c-d%40a-b.sub.example.com.example"),
        ("%%%-.example", "%%20.example"),
    ],
)
async def test_macros_expand_as_the_rfc_says(spec: str, name: str) -> None:
    """RFC 7208 7.3: split at the delimiters, reversed, the rightmost taken, joined by dots."""
    domain = "a-b.sub.example.com"
    zone = ColdZone({domain: {"TXT": f"v=spf1 exists:{spec} -all"}})
    await check(zone, domain, local_part="c-d")
    assert zone.asked[-1] == f"{name} A"


async def test_a_long_name_loses_labels_at_its_left() -> None:
    """An exists of maximal length is cut to 253 characters, at a dot (RFC 7208 7.3)."""
    label = "b" * 50
    zone = ColdZone(txt(f"v=spf1 exists:{'%{s}.' * 90}{label}.example.com -all"))
    found = await check(zone, local_part="x" * 40)
    assert found.result is SpfResult.FAIL
    name = zone.asked[1].removesuffix(" A")
    assert 253 - 64 <= len(name) <= 253
    assert name.endswith(f".{label}.example.com")


@pytest.mark.parametrize("length", range(245, 265))
def test_a_name_loses_no_label_that_could_stay(length: int) -> None:
    """Of all lengths near the limit: what is left is the longest end of it, from a dot, of 253 characters at most."""
    labels = ["x", "yy", "zzz", *["w" * 49] * 5]
    labels[3] = "w" * (length - len(".".join(labels)) + 49)
    ends = [".".join(labels[start:]) for start in range(len(labels))]
    assert len(ends[0]) == length
    assert macro_string(ends[0]).name({}) == next(end for end in ends if len(end) <= 253)


async def test_the_clients_name_prefers_the_domain_being_checked() -> None:
    """``%{p}`` is the domain itself, else a name below it, else any (RFC 7208 7.3)."""
    names = ["other.example.net", "x.example.com", "example.com"]
    for left, right in ((names, "example.com"), (names[:2], "x.example.com"), (names[:1], "other.example.net")):
        zone: dict[str, object] = {name: {"A": CLIENT} for name in left}
        zone["example.com"] = {"TXT": "v=spf1 exists:%{p}.p.example -all", "A": CLIENT}
        zone[CLIENT] = {"PTR": left}
        cold = ColdZone(zone)
        await check(cold)
        assert cold.asked[-1] == f"{right}.p.example A"


# Explanations


async def test_the_explanation_is_asked_for_only_when_it_is_needed() -> None:
    """A pass asks nothing for ``exp=``; a fail does, and macros are expanded."""
    zone = txt("v=spf1 ip4:192.0.2.1 -all exp=why.example.com", why="%{i} may not send for %{d} to %{r} at %{t}")
    cold = ColdZone(zone)
    assert (await check(cold)).explanation is None
    assert cold.asked == ["example.com TXT"]
    found = await check(zone, address="192.0.2.2", receiver="mx.example.org", now=12.5)
    assert found.explanation == "192.0.2.2 may not send for example.com to mx.example.org at 12"


@pytest.mark.parametrize(
    "text",
    [
        "two\r\nlines",
        "a \x1b[31mcolour",
        "\u00fcber",
        "%{z} is no macro",
        "%",
        "x" * 2000,
        "",
    ],
)
async def test_an_unusable_explanation_is_none(text: str) -> None:
    """What is not a macro-string of printable US-ASCII of sensible length is not shown (RFC 7208 6.2)."""
    found = await check(txt("v=spf1 -all exp=why.example.com", why=text))
    assert found.result is SpfResult.FAIL
    assert not found.explanation


@pytest.mark.parametrize("answer", [{"TXT": ["one", "two"]}, {"A": "192.0.2.1"}, "SERVFAIL", "TIMEOUT"])
async def test_a_missing_explanation_changes_nothing(answer: object) -> None:
    """Several texts, none, or a fault of the DNS leave the fail as it is."""
    found = await check(txt("v=spf1 -all exp=why.example.com") | {"why.example.com": answer})
    assert (found.result, found.explanation) == (SpfResult.FAIL, None)


async def test_a_long_explanation_is_cut_and_a_senders_characters_are_made_harmless() -> None:
    """At most 250 characters of printable US-ASCII, whatever the macros bring in."""
    zone = txt("v=spf1 -all exp=why.example.com", why="%{l}" + " %{l}" * 50)
    found = await check(zone, local_part="j\u00f6rg\x7f")
    assert found.explanation is not None
    assert found.explanation.startswith("j?rg? j?rg? ")
    assert len(found.explanation) == 250


# What is told


async def test_the_steps_tell_what_was_tried() -> None:
    """Each mechanism that was tried is a line, in order, those of an included record indented below it."""
    zone = {
        "example.com": {
            "TXT": "v=spf1 ip4:198.51.100.1 ip4:198.51.100.2 ip4:198.51.100.3 a:mail.example.com include:i.example.com "
            "exists:%{i}.no.example.com mx redirect=r.example.com",
            "MX": "10 mail.example.com",
        },
        "mail.example.com": {"A": "198.51.100.9"},
        "i.example.com": {"TXT": "v=spf1 ip4:198.51.100.4 ~all"},
        "r.example.com": {"TXT": "v=spf1 ip4:192.0.2.0/24 -all"},
    }
    found = await check(zone)
    assert found.steps == (
        "ip4:198.51.100.1 to ip4:198.51.100.3: none of these 3 matched",
        "a:mail.example.com: did not match (mail.example.com has A: 198.51.100.9)",
        "include:i.example.com: did not match",
        "  ip4:198.51.100.4: did not match",
        "  ~all: matched, so softfail",
        "exists:%{i}.no.example.com: did not match (192.0.2.1.no.example.com has A: nxdomain)",
        "mx: did not match (example.com has MX: 10 mail.example.com; mail.example.com has A: 198.51.100.9)",
        "redirect=r.example.com: taken, as nothing matched",
        "  ip4:192.0.2.0/24: matched, so pass",
    )
    assert found.mechanism == "ip4:192.0.2.0/24"
    assert found.reason == "192.0.2.1 matched ip4:192.0.2.0/24 of r.example.com"


async def test_a_long_mechanism_is_cut() -> None:
    """A domain may publish kilobytes in one term; evidence, reason and steps have their bounds."""
    long = "exists:" + "%{d}" * 99 + "x" * 5000 + ".example"
    zone = txt(f"v=spf1 {long} -all")
    name = macro_string(long.removeprefix("exists:")).name({"d": "example.com"})
    found = await check(zone | {name: {"A": "127.0.0.2"}})
    assert (found.result, len(found.mechanism or ""), len(found.reason)) == (SpfResult.PASS, 200, 300)
    assert all(len(line) <= 200 for line in found.steps)


@pytest.mark.parametrize(
    ("zone", "steps"),
    [
        (
            txt("v=spf1 include:i.example.com -all", i="v=spf1 foo"),
            ("include:i.example.com: can't be evaluated, so permerror",),
        ),
        (
            txt("v=spf1 include:i.example.com -all", i="v=spf1 a:bad.example") | {"bad.example": "SERVFAIL"},
            (
                "include:i.example.com: could not be told",
                "  a:bad.example: could not be told (bad.example has A: servfail)",
            ),
        ),
        (
            txt("v=spf1 mx -all") | {"example.com": {"TXT": "v=spf1 mx -all", "MX": [f"1 m{n}" for n in range(11)]}},
            ("mx: can't be evaluated, so permerror (example.com has MX: 1 m0, 1 m1, 1 m2, 1 m3, ...)",),
        ),
        (
            txt("v=spf1 include:none.example"),
            ("include:none.example: can't be evaluated, so permerror", "  none.example has no SPF record"),
        ),
    ],
)
async def test_the_steps_part_what_is_wrong_from_what_is_not_known_now(
    zone: dict[str, object], steps: tuple[str, ...]
) -> None:
    """A permerror stays one until the domain's owner does something; a temperror is over when the DNS answers."""
    assert (await check(zone)).steps == steps


async def test_the_steps_end_where_the_check_did() -> None:
    """A fault leaves its mechanism as the last line, and what stands behind it is not told as tried."""
    zone = txt("v=spf1 ip4:198.51.100.1 a:x.example.com mx -all") | {"x.example.com": "SERVFAIL"}
    found = await check(zone)
    assert found.steps == (
        "ip4:198.51.100.1: did not match",
        "a:x.example.com: could not be told (x.example.com has A: servfail)",
    )


async def test_steps_are_bounded_and_printable() -> None:
    """However much a record has, and whatever the DNS says, the lines are few, short and clean."""
    record = "v=spf1 " + "ip4:198.51.100.7 ?ip4:198.51.100.8 " * 200
    included = {f"i{number}.example.com": {"TXT": record} for number in range(9)}
    zone = {
        **included,
        "example.com": {"TXT": "v=spf1 " + " ".join(f"include:{name}" for name in included) + f" mx {'?all ' * 200}"},
    }
    found = await check(zone)
    assert 20 < len(found.steps) < 60
    zone["example.com"] = {"TXT": "v=spf1 " + " ".join(["exists:%{l}.example.com"] * 90)}
    assert len((await check(zone, local_part="j\u00f6rg")).steps) == 2
    many: dict[str, object] = {"TXT": "v=spf1 mx", "MX": [f"1 m{number}.example" for number in range(10)]}
    assert (await check({"example.com": many})).steps[0].endswith("; ...)")
    assert all(len(line) <= 200 and line.isascii() and line.isprintable() for line in found.steps)


async def test_a_problem_in_another_record_is_named_with_it() -> None:
    """An administrator sees whose record is wrong."""
    found = await check(txt("v=spf1 include:i.example.com -all", i="v=spf1 foo -all"))
    assert found.reason == "unknown or malformed mechanism: foo (record of i.example.com)"
    found = await check(txt("v=spf1 foo -all"))
    assert found.reason == "unknown or malformed mechanism: foo"


async def test_without_a_record_the_result_is_none() -> None:
    """No record, and other TXT records."""
    for zone in ({}, txt("v=spf10 -all"), txt("v=spf2.0/pra -all")):
        found = await check(zone)
        assert (found.result, found.record) == (SpfResult.NONE, None)
        assert found.reason == "example.com has no SPF record"
        assert found.steps == ("example.com has no SPF record",)


async def test_two_records_are_a_permerror() -> None:
    """RFC 7208 4.5."""
    found = await check({"example.com": {"TXT": ["v=spf1 -all", "V=SPF1 +all"]}})
    assert (found.result, found.reason) == (SpfResult.PERMERROR, "example.com has more than one SPF record")


# The reverse-path and the HELO name


def _mailbox(address: str) -> Mailbox:
    local_part, _, domain = address.rpartition("@")
    return Mailbox(address, local_part, domain)


@pytest.mark.parametrize(
    ("reverse_path", "helo", "check_helo", "mail_from", "helo_result", "asked"),
    [
        (_mailbox("a@fail.example"), "pass.example", True, "fail", "pass", 2),
        (_mailbox("a@fail.example"), "pass.example", False, "fail", None, 1),
        (_mailbox("a@fail.example"), "[192.0.2.1]", True, "fail", None, 1),
        (_mailbox("a@fail.example"), "localhost", True, "fail", None, 1),
        (_mailbox("a@fail.example"), None, True, "fail", None, 1),
        (_mailbox("a@fail.example"), "FAIL.example", True, "fail", "fail", 1),
        (_mailbox("a@[192.0.2.1]"), "pass.example", True, "none", "pass", 1),
        (NULL_REVERSE_PATH, "fail.example", True, "fail", "fail", 1),
        (NULL_REVERSE_PATH, "fail.example", False, "fail", None, 1),
        (NULL_REVERSE_PATH, "[192.0.2.1]", True, "none", None, 0),
        (NULL_REVERSE_PATH, None, True, "none", None, 0),
    ],
)
async def test_both_names_are_checked(
    reverse_path: ReversePath,
    helo: str | None,
    check_helo: bool,  # noqa: FBT001 - a column of the table
    mail_from: str,
    helo_result: str | None,
    asked: int,
) -> None:
    """The reverse-path always, the HELO name where it is a domain and wanted, and one domain once."""
    zone = ColdZone({"fail.example": {"TXT": "v=spf1 -all"}, "pass.example": {"TXT": "v=spf1 +all"}})
    found = await check_sender(
        zone, address=ip_address(CLIENT), reverse_path=reverse_path, helo=helo, check_helo=check_helo
    )
    assert found.mail_from.result == mail_from
    assert (found.helo and found.helo.result) == helo_result
    assert len(zone.asked) == asked
    assert len(zone.rounds) == min(asked, 1), "both are asked at the same time"


async def test_a_record_that_asks_for_the_local_part_is_evaluated_for_each_name() -> None:
    """With the same domain in both the results may differ, because the HELO name's sender is postmaster."""
    zone = {"same.example": {"TXT": "v=spf1 exists:%{l}.same.example -all"}, "alice.same.example": {"A": "127.0.0.2"}}
    found = await check_sender(
        ZoneResolver(zone), address=ip_address(CLIENT), reverse_path=_mailbox("alice@same.example"), helo="same.example"
    )
    assert found.helo is not None
    assert (found.mail_from.result, found.helo.result) == (SpfResult.PASS, SpfResult.FAIL)


@pytest.mark.parametrize("record", ["v=spf1 a -all", "v=spf1 mx -all"])
async def test_a_resolver_that_lies_about_types_is_not_believed(record: str) -> None:
    """An address that is none is a fault of the DNS, and no refusal follows from it."""

    class Odd(SilentZone):
        def known(self, _name: str, record_type: RecordType) -> Answer | None:
            return Answer(Status.FOUND, (record,) if record_type is RecordType.TXT else ("no address.example",))

    found = await check(Odd())
    assert found.result is SpfResult.TEMPERROR
    assert "has A: no address.example" in found.reason


WAITS: dict[str, object] = {
    "d.example": {"TXT": "v=spf1 a:slow.example ip4:192.0.2.1 -all"},
    "slow.example": {"A": "192.0.2.9"},
    "helo.example": {"TXT": "v=spf1 a:slower.example -all"},
    "slower.example": {"A": "192.0.2.9"},
    "warm.example": {"TXT": "v=spf1 -all"},
    "same.example": {"TXT": "v=spf1 exists:%{l}.same.example a:slow.example ip4:192.0.2.1 -all"},
    "postmaster.same.example": {"A": "127.0.0.2"},
}


@pytest.mark.parametrize(
    ("domain", "helo", "delays", "mail_from", "helo_result", "seconds"),
    [
        ("d.example", "helo.example", {"slow.example": 19, "slower.example": 30}, "pass", "temperror", 20),
        ("d.example", "helo.example", {"slow.example": 30, "slower.example": 19}, "temperror", "fail", 20),
        ("d.example", "helo.example", {"d.example": 9, "helo.example": 9, "slow.example": 9}, "pass", "fail", 18),
        ("d.example", "helo.example", {"slow.example": 15, "slower.example": 15}, "pass", "fail", 15),
        ("d.example", "helo.example", {"slower.example": 19}, "pass", "fail", 19),
        ("d.example", "warm.example", {"slow.example": 19}, "pass", "fail", 19),
        ("d.example", "warm.example", {"d.example": 12, "slow.example": 12}, "temperror", "fail", 20),
        ("same.example", "same.example", {"slow.example": 19, "postmaster.same.example": 25}, "pass", "temperror", 20),
        ("same.example", "same.example", {"slow.example": 9, "postmaster.same.example": 9}, "pass", "pass", 18),
    ],
)
def test_both_checks_end_at_one_deadline(
    domain: str, helo: str, delays: dict[str, float], mail_from: str, helo_result: str, seconds: float
) -> None:
    """They wait at the same time wherever one has to, for 20 s in all; what one found stays if the other is cut off."""
    work = check_sender(
        SlowZone(WAITS, delays), address=ip_address(CLIENT), reverse_path=_mailbox(f"u@{domain}"), helo=helo
    )
    found, took = run_virtually(work)
    assert found.helo is not None
    assert (found.mail_from.result, found.helo.result, took) == (mail_from, helo_result, seconds)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_time_is_that_of_the_whole_check(count: int) -> None:
    """Each answer within the time, all of them together beyond it: the check ends at 20 s after the first wait."""
    names = [f"h{number}.example" for number in range(count)]
    zone = txt("v=spf1 " + " ".join(f"a:{name}" for name in names) + " ip4:192.0.2.1 -all")
    zone |= {name: {"A": "192.0.2.9"} for name in names}
    found, took = run_virtually(check(SlowZone(zone, dict.fromkeys(names, 9.0))))
    assert (found.result, took) == ((SpfResult.PASS, 9 * count) if count < 3 else (SpfResult.TEMPERROR, 20))


def test_who_ends_the_checks_ends_both() -> None:
    """Nothing goes on to wait for the DNS where nobody waits for the result."""
    reverse_path = _mailbox("a@d.example")

    async def cut_off() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await check_sender(
                    SilentZone(), address=ip_address(CLIENT), reverse_path=reverse_path, helo="helo.example"
                )
        return len(asyncio.all_tasks())

    assert run_virtually(cut_off()) == (1, 1)


async def test_with_all_answers_at_hand_both_checks_await_nothing() -> None:
    """The HELO name is no reason for a turn of the event loop."""
    reverse_path = _mailbox("a@d.example")
    run = check_sender(ZoneResolver(WAITS), address=ip_address(CLIENT), reverse_path=reverse_path, helo="helo.example")
    with pytest.raises(StopIteration) as ended:
        run.send(None)
    assert ended.value.value.helo.result is SpfResult.FAIL
