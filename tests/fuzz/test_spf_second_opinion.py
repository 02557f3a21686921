"""SPF against pyspf, on records, zones and clients of all kinds: each difference is one of a closed list.

The list is ``REPAIRS`` of ``tests/support/pyspf.py``, by section of RFC 7208.
"""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.results import SpfCheck
from gateway.mailauth.spf import check_host
from gateway.mailauth.spf_questions import Limits
from tests.support.pyspf import REPAIRS, opinion

CLIENTS: Final = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "198.51.100.77"]
DOMAINS: Final = [f"{letter}.example" for letter in "abcd"]
HOSTS: Final = [f"h{number}.b.example" for number in range(4)]
HELO: Final = "h0.b.example"

Zone = Mapping[str, object]


def _mostly(usual: st.SearchStrategy[object], other: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """One of two; the other in one of 30 cases."""
    return st.integers(0, 29).flatmap(lambda number: usual if number else other)


_TARGETS = st.sampled_from([*DOMAINS, *HOSTS, *HOSTS, "%{d}", "%{h}", "none.example", "%{d2}"])
_BODIES = st.one_of(
    st.builds(
        lambda name, target, length: f"{name}{target and ':'}{target}{length}",
        st.sampled_from(["a", "a", "mx"]),
        st.one_of(st.just(""), _TARGETS),
        st.sampled_from(["", "", "", "/24", "//64", "/24//32"]),
    ),
    st.builds("ptr:{}".format, st.sampled_from([*DOMAINS, "%{d1}", "%{d}"])),
    st.builds("include:{}".format, st.sampled_from([*DOMAINS[1:] * 4, DOMAINS[0], "%{p}"])),
    st.builds(
        "exists:{}.x.example".format, st.sampled_from(["%{i}", "%{l1r-}", "%{p}", "%{ir}.%{v}", "%{O}", "%{h2}", "y"])
    ),
    st.sampled_from(["ip4:10.0.0.1", "ip6:fe80::1", "ip4:203.0.113.0/24", "ptr", "A:C.EXAMPLE"]),
    st.sampled_from(["all", "ip4:192.0.2.0/24", "ip6:2001:db8::/32", "ip4:192.0.2.1/0"]),
)
_WRONG = st.sampled_from(["foo", "exists", "include:", "a:%{d", "ip4:1.2.3", "mx/33", "a:x", "include:none.example"])
_TERMS = st.builds(str.__add__, st.sampled_from(["", "", "+", "-", "~", "?"]), _mostly(_BODIES, _WRONG))
_MODIFIERS = _mostly(
    st.sampled_from(["", "", "", *(f" redirect={name}" for name in DOMAINS), " exp=why.example", " x=%{p}"]),
    st.sampled_from([" redirect=none.example", " redirect=%{p}", " exp=%{p}.example", " exp=", " exp=x.y exp=x.y"]),
)
RECORDS = st.builds(
    lambda terms, modifiers: " ".join(["v=spf1", *terms]) + modifiers,
    _mostly(st.lists(_TERMS, min_size=1, max_size=5), st.lists(_TERMS, min_size=9, max_size=12)),
    _MODIFIERS,
)
_TXT = RECORDS.map(lambda record: [record])
_OTHER_TXT = _mostly(_TXT, st.sampled_from([[], ["v=spf1 -all", "v=spf1 +all"], "SERVFAIL"]))
_A = st.sampled_from([["192.0.2.1"], *[["192.0.2.200"], ["198.51.100.1", "198.51.100.2"], []] * 3, "SERVFAIL"])
_AAAA = st.sampled_from([["2001:db8::1"], *[["2001:db8:1::1"], []] * 4, "TIMEOUT"])
_FAULT = st.just("SERVFAIL")
_MX = _mostly(
    st.lists(st.sampled_from([*HOSTS, "none.example"]), max_size=3, unique=True).map(
        lambda hosts: [f"{number} {host}" for number, host in enumerate(hosts)]
    ),
    _FAULT,
)
_PTR = _mostly(st.lists(st.sampled_from([*HOSTS, "c.example", "none.example"]), max_size=4, unique=True), _FAULT)


def _name(**records: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """A name with records: those that were drawn empty are not there."""
    return st.fixed_dictionaries(records).map(
        lambda drawn: {kind: value for kind, value in drawn.items() if value != []}
    )


@st.composite
def zones(draw: st.DrawFn, client: str) -> Zone:
    """Domains with records, hosts of one family, both or none, and what the client's reverse DNS says."""
    zone = {
        domain: draw(_name(TXT=_OTHER_TXT if number else _TXT, A=_A, AAAA=_AAAA, MX=_MX))
        for number, domain in enumerate(DOMAINS)
    }
    zone |= {host: draw(_name(A=_A, AAAA=_AAAA, TXT=st.sampled_from([[], ["v=spf1 a -all"]]))) for host in HOSTS}
    zone["192.0.2.1.x.example"] = zone["x.x.example"] = {"A": ["127.0.0.2"]}
    zone["why.example"] = {"TXT": ["not %{i}"]}
    address = ip_address(client)
    mapped = getattr(address, "ipv4_mapped", None)
    zone[str(mapped or address)] = draw(_name(PTR=_PTR))
    return zone


def run(zone: Zone, client: str, limits: Limits) -> SpfCheck:
    """What the gateway says."""
    return asyncio.run(
        check_host(
            ZoneResolver(zone),
            address=ip_address(client),
            domain="a.example",
            local_part="x-y",
            helo=HELO,
            limits=limits,
        )
    )


def ask(zone: Zone, client: str, *repairs: str) -> str:
    """What pyspf says."""
    return opinion(ZoneResolver(zone), repairs, client=client, sender="x-y@a.example", helo=HELO)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(CLIENTS))
def test_pyspf_says_the_same_but_for_what_the_list_explains(data: st.DataObject, client: str) -> None:
    """By itself, or with the repairs of the list: then the difference is explained by their sections."""
    zone = data.draw(zones(client))
    found = run(zone, client, Limits(queries=1000))
    if ask(zone, client) == found.result:
        event(f"the same: {found.result}")
        return
    assert ask(zone, client, *REPAIRS) == found.result, (found, zone)
    needed = [name for name in REPAIRS if ask(zone, client, *(REPAIRS.keys() - {name})) != found.result]
    event(f"explained: {found.result}, {needed}")


DIFFERENCES: Final[dict[str, tuple[str, Zone]]] = {
    "4.6.4": (
        "pass",
        {
            "a.example": {
                "TXT": "v=spf1 a mx include:b.example -all",
                "AAAA": "2001:db8::9",
                "MX": ["1 h0.b.example", "2 h1.b.example"],
            },
            "h0.b.example": {"AAAA": "2001:db8::9"},
            "h1.b.example": {"AAAA": "2001:db8::9"},
            "b.example": {"TXT": "v=spf1 ip4:192.0.2.0/24"},
        },
    ),
    "4.6.4 redirect": (
        "pass",
        {
            "a.example": {"TXT": f"v=spf1 {'a ' * 9} exists:%{{i}}.x.example redirect=b.example", "A": "192.0.2.9"},
            "192.0.2.1.x.example": {"A": "127.0.0.2"},
        },
    ),
    "5.2": ("pass", {"a.example": {"TXT": "v=spf1 ip4:192.0.2.1 include:a.example"}}),
    "5.4": (
        "pass",
        {
            "a.example": {"TXT": "v=spf1 mx -all", "MX": ["1 h0.b.example", "2 h1.b.example"]},
            "h0.b.example": "SERVFAIL",
            "h1.b.example": {"A": "192.0.2.1"},
        },
    ),
    "5.5": ("pass", {"a.example": {"TXT": "v=spf1 ptr ip4:192.0.2.1 -all"}, "192.0.2.1": "SERVFAIL"}),
    "5.7": ("permerror", {"a.example": {"TXT": "v=spf1 +exists -all"}}),
    "7.3": (
        "pass",
        {
            "a.example": {"TXT": "v=spf1 exists:%{p}.no.example include:b.example -all"},
            "b.example": {"TXT": "v=spf1 exists:%{p}.x.example"},
            "192.0.2.1": {"PTR": ["h.a.example", "h.b.example"]},
            "h.a.example": {"A": "192.0.2.1"},
            "h.b.example": {"A": "192.0.2.1"},
            "h.b.example.x.example": {"A": "127.0.0.2"},
        },
    ),
}


@pytest.mark.parametrize("name", REPAIRS)
def test_each_explanation_is_needed(name: str) -> None:
    """For each entry of the list there is a zone where pyspf differs for that reason alone."""
    result, zone = DIFFERENCES[name]
    assert run(zone, CLIENTS[0], Limits(queries=1000)).result == result
    assert ask(zone, CLIENTS[0], *REPAIRS) == result
    assert ask(zone, CLIENTS[0], *(REPAIRS.keys() - {name})) != result
