"""SPF: what check_host() says, what it asks, and where it stops. The RFC's own cases are in ``tests/conformance``."""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.results import SpfCheck, SpfResult
from gateway.mailauth.spf import check_host, check_sender
from gateway.mailauth.spf_questions import Limits
from gateway.resolver import Answer, RecordType, Resolver, Status
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, ReversePath
from tests.support.dns_zone import ColdZone, SilentZone

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
    """The third question to which there is nothing is one too many, unless the limit is higher."""
    record = "v=spf1 a:x.example.com a:y.example.com a:z.example.com -all"
    assert (await check(txt(record), limits=Limits(void_lookups=limit))).result is result


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


@pytest.mark.parametrize("fault", ["SERVFAIL", "TIMEOUT"])
async def test_a_fault_behind_ptr_does_not_match(fault: str) -> None:
    """A name of the client that can't be looked up is passed over, and so is the ptr itself (RFC 7208 5.5)."""
    zone: dict[str, object] = {
        "example.com": {"TXT": "v=spf1 ptr -all"},
        CLIENT: {"PTR": ["bad.example.com", "good.example.com"]},
        "bad.example.com": fault,
        "good.example.com": {"A": CLIENT},
    }
    assert (await check(zone)).result is SpfResult.PASS
    assert (await check(zone | {CLIENT: fault})).result is SpfResult.FAIL


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
    ],
)
async def test_records_are_read_as_the_rfc_says(record: str, result: SpfResult) -> None:
    """Also where pyspf by itself reads them otherwise."""
    found = await check(txt(record, x="v=spf1 -all"))
    assert found.result is result, found.reason


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
        "ip4:198.51.100.1 to ip4:198.51.100.3: none of these 3 networks matched",
        "a:mail.example.com: did not match (mail.example.com has A: 198.51.100.9)",
        "include:i.example.com: did not match",
        "  ip4:198.51.100.4: did not match",
        "  ~all: matched, so softfail",
        "exists:%{i}.no.example.com: did not match (192.0.2.1.no.example.com has A: nxdomain)",
        "mx: did not match (example.com has MX: 10 mail.example.com)",
        "redirect=r.example.com: taken, as nothing matched",
        "  ip4:192.0.2.0/24: matched, so pass",
    )
    assert found.mechanism == "ip4:192.0.2.0/24"
    assert found.reason == "192.0.2.1 matched ip4:192.0.2.0/24 of r.example.com"


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
    assert all(len(line) <= 200 and line.isascii() and line.isprintable() for line in found.steps)


async def test_a_problem_in_another_record_is_named_with_it() -> None:
    """An administrator sees whose record is wrong."""
    found = await check(txt("v=spf1 include:i.example.com -all", i="v=spf1 foo -all"))
    assert found.reason == "Unknown mechanism found: foo (record of i.example.com)"
    found = await check(txt("v=spf1 foo -all"))
    assert found.reason == "Unknown mechanism found: foo"


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


async def test_a_resolver_that_lies_about_types_is_not_believed() -> None:
    """An address that is none is the record's permerror, not a fault of the check."""

    class Odd(SilentZone):
        def known(self, _name: str, record_type: RecordType) -> Answer | None:
            return Answer(Status.FOUND, ("v=spf1 a -all",) if record_type is RecordType.TXT else ("no address",))

    assert (await check(Odd())).result is SpfResult.PERMERROR
