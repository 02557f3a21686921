"""DNS answers from a mapping: every record type, every way to fail, CNAMEs, and what is refused."""

from pathlib import Path

import pytest

from gateway.adapters.dns.zone import MAX_CNAMES, ZoneResolver
from gateway.resolver import RecordType, Status

ZONE: dict[str, object] = {
    "Example.com.": {
        "A": ["192.0.2.1", "192.0.2.2"],
        "AAAA": "2001:DB8:0::1",
        "MX": ["10 mx.example.com.", [20, "MX2.example.com"]],
        "TXT": ["v=spf1 -all", ["two ", "strings"], "höre"],
        "NS": ["ns.example.com"],
        "SOA": ["ns.example.com. hostmaster.example.com. 1 7200 900 1209600 300"],
    },
    "null.example": {"MX": [[0, "."]]},
    "192.0.2.1": {"PTR": ["mail.example.com."]},
    "2001:db8::1": {"PTR": ["mail.example.com"]},
    "a.b.deep.example": {"A": "192.0.2.9"},
    "alias.example": {"CNAME": "Example.com"},
    "dangling.example": {"CNAME": "nowhere.example"},
    "loop.example": {"CNAME": "loop.example"},
    "failing-alias.example": {"CNAME": "SERVFAIL"},
    "broken.example": "SERVFAIL",
    "pasted.example": {"TXT": ['"v=spf1 " "-all"', r'"a\"b\\c"', '"open', '"a" b']},
    "partly.example": {"A": "TIMEOUT", "TXT": "fine"},
    "empty.example": {},
}


@pytest.mark.parametrize(
    ("name", "record_type", "status", "records"),
    [
        ("example.com", "A", Status.FOUND, ("192.0.2.1", "192.0.2.2")),
        ("EXAMPLE.com.", "A", Status.FOUND, ("192.0.2.1", "192.0.2.2")),
        ("example.com", "AAAA", Status.FOUND, ("2001:db8::1",)),
        ("example.com", "MX", Status.FOUND, ("10 mx.example.com", "20 MX2.example.com")),
        ("example.com", "TXT", Status.FOUND, ("v=spf1 -all", "two strings", "h\u00c3\u00b6re")),
        ("pasted.example", "TXT", Status.FOUND, ("v=spf1 -all", 'a"b\\c', '"open', '"a" b')),
        ("example.com", "NS", Status.FOUND, ("ns.example.com",)),
        ("example.com", "SOA", Status.FOUND, ("ns.example.com. hostmaster.example.com. 1 7200 900 1209600 300",)),
        ("null.example", "MX", Status.FOUND, ("0 .",)),
        ("1.2.0.192.in-addr.arpa", "PTR", Status.FOUND, ("mail.example.com",)),
        ("1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa", "PTR", Status.FOUND, ("mail.example.com",)),
        ("example.com", "PTR", Status.NO_DATA, ()),
        ("empty.example", "A", Status.NO_DATA, ()),
        ("deep.example", "A", Status.NO_DATA, ()),
        ("b.deep.example", "A", Status.NO_DATA, ()),
        ("c.deep.example", "A", Status.NXDOMAIN, ()),
        ("x.a.b.deep.example", "A", Status.NXDOMAIN, ()),
        ("nowhere.test", "A", Status.NXDOMAIN, ()),
        ("alias.example", "A", Status.FOUND, ("192.0.2.1", "192.0.2.2")),
        ("alias.example", "CNAME", Status.FOUND, ("Example.com",)),
        ("alias.example", "PTR", Status.NO_DATA, ()),
        ("dangling.example", "A", Status.NXDOMAIN, ()),
        ("loop.example", "A", Status.SERVFAIL, ()),
        ("failing-alias.example", "A", Status.SERVFAIL, ()),
        ("broken.example", "A", Status.SERVFAIL, ()),
        ("partly.example", "A", Status.TIMEOUT, ()),
        ("partly.example", "TXT", Status.FOUND, ("fine",)),
    ],
)
async def test_questions_are_answered_from_the_mapping(
    name: str, record_type: str, status: Status, records: tuple[str, ...]
) -> None:
    """A question ends as the mapping says, and as a recursive server would put it."""
    answer = await ZoneResolver(ZONE).lookup(name, RecordType(record_type))
    assert (answer.status, answer.records) == (status, records)


async def test_cnames_are_followed_up_to_a_bound() -> None:
    """As many CNAMEs in a row as the bound are followed, and one more is a failure."""
    zone: dict[str, object] = {
        f"c{number}.example": {"CNAME": f"c{number + 1}.example"} for number in range(MAX_CNAMES + 1)
    }
    zone[f"c{MAX_CNAMES + 1}.example"] = {"A": "192.0.2.1"}
    resolver = ZoneResolver(zone)
    assert (await resolver.lookup("c1.example", RecordType.A)).status is Status.FOUND
    assert (await resolver.lookup("c0.example", RecordType.A)).status is Status.SERVFAIL


@pytest.mark.parametrize(
    ("zone", "reason"),
    [
        ([], "a zone is a mapping of names"),
        ({1: {}}, "1: a name must be text"),
        ({"a..b": {}}, "not a domain name"),
        ({"bücher.example": {}}, "not a domain name in A-labels"),
        ({"*.example.com": {}}, "wildcards are not supported"),
        ({"a.example": {}, "A.example.": {}}, "the name is there twice"),
        ({"a.example": ["192.0.2.1"]}, "a.example: write types with records"),
        ({"a.example": "NXDOMAIN"}, "a.example: write types with records"),
        ({"a.example": {"SRV": ["x"]}}, "a.example: SRV: not a type; there are A, AAAA"),
        ({"a.example": {"a": ["192.0.2.1"]}}, "a: not a type"),
        ({"a.example": {"A": []}}, "a.example: A: no records"),
        ({"a.example": {"A": ["2001:db8::1"]}}, "A: '2001:db8::1' is not an IPv4 address"),
        ({"a.example": {"AAAA": ["192.0.2.1"]}}, "is not an IPv6 address"),
        ({"a.example": {"A": [1]}}, "A: 1 is not an IPv4 address"),
        ({"a.example": {"MX": ["mx.example"]}}, "is not a preference and a name"),
        ({"a.example": {"MX": ["70000 mx.example"]}}, "is not a preference and a name"),
        ({"a.example": {"MX": [[10]]}}, "is not a preference and a name"),
        ({"a.example": {"MX": 10}}, "is not a preference and a name"),
        ({"a.example": {"TXT": [[1]]}}, "1 is not text"),
        ({"a.example": {"CNAME": "b.example", "A": "192.0.2.1"}}, "a CNAME stands alone"),
        ({"a.example": {"CNAME": ["b.example", "c.example"]}}, "a CNAME stands alone"),
    ],
)
def test_a_malformed_zone_is_refused(zone: dict[str, object], reason: str) -> None:
    """What is not a zone is an error that names the place."""
    with pytest.raises(ValueError, match=reason):
        ZoneResolver(zone)


async def test_a_zone_is_read_from_yaml(tmp_path: Path) -> None:
    """A zone file is YAML, and its errors name the file."""
    file = tmp_path / "zone.yaml"
    file.write_text("example.com: {A: [192.0.2.1], MX: [[10, mx.example.com], 20 mx2.example.com], TXT: TIMEOUT}\n")
    resolver = ZoneResolver.load(file)
    assert (await resolver.lookup("example.com", RecordType.MX)).records == ("10 mx.example.com", "20 mx2.example.com")
    assert (await resolver.lookup("example.com", RecordType.TXT)).status is Status.TIMEOUT
    file.write_text("")
    assert (await ZoneResolver.load(file).lookup("example.com", RecordType.A)).status is Status.NXDOMAIN


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a: [", "not YAML"), (b"a: 1", "a: write types"), (b"\xff\xfe\xff", "not YAML"), (b"- a", "a zone is")],
)
def test_a_zone_file_that_is_none_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    """A file that is no zone is an error with its name."""
    file = tmp_path / "zone.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"zone.yaml: {reason}"):
        ZoneResolver.load(file)
    with pytest.raises(ValueError, match=r"can't read .*missing.yaml: No such file"):
        ZoneResolver.load(tmp_path / "missing.yaml")
