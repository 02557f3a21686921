"""The field that the gateway writes: its words, how an independent reader sees them, what senders can't do to it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import authres
import authres.arc
import authres.dkim_b
import authres.dmarc
import idna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mailauth.authentication_results import REASON, SIGNATURES, VALUE, authentication_results
from gateway.mailauth.results import (
    Arc,
    ArcResult,
    ArcSet,
    Disposition,
    DkimResult,
    DkimSignature,
    Dmarc,
    DmarcResult,
    PolicyRecord,
    Spf,
    SpfCheck,
    SpfResult,
)
from gateway.resolver import ClientName, NameStatus
from tests.support.authres_grammar import Generator, read_strictly

READER: Final = authres.FeatureContext(authres.arc, authres.dkim_b, authres.dmarc)
ID: Final = "mx.example.com"


def written(  # noqa: D103 - the field with values at hand
    *,
    spf: Spf | None = None,
    dkim: Sequence[DkimSignature] | None = None,
    arc: Arc | None = None,
    dmarc: Dmarc | None = None,
    mail_from: str = "joe@example.org",
    helo_name: str | None = "out.example.org",
    client_address: str = "192.0.2.1",
    client_name: ClientName | None = None,
    login: str | None = None,
    smtputf8: bool = False,
) -> str:
    field = authentication_results(
        ID,
        spf=spf,
        dkim=dkim,
        arc=arc,
        dmarc=dmarc,
        mail_from=mail_from,
        helo_name=helo_name,
        client_address=client_address,
        client_name=client_name,
        login=login,
        smtputf8=smtputf8,
    ).decode()
    assert_well_formed(field)
    return field


def assert_well_formed(field: str) -> None:
    """One field: it ends once, every line but the first continues it and has text, none is too long."""
    assert field.endswith("\r\n")
    first, *others = field[:-2].split("\r\n")
    assert first.startswith("Authentication-Results: ")
    assert all(line[0] in " \t" and line.strip() for line in others)
    assert all(len(line.encode()) <= 998 for line in [first, *others])
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", field.replace("\r\n", ""))


def results(field: str) -> list[str]:
    """The results as written, unfolded, white space made one space; beginning with the id."""
    return [" ".join(part.split()) for part in field.partition(":")[2].split(";")]


def read(field: str) -> list[dict[str, Any]]:
    """What the independent reader sees: method, result, reason and properties."""
    header = READER.parse(field.replace("\r\n", ""))
    assert header.authserv_id == ID
    return [
        {
            "method": each.method,
            "result": each.result,
            "reason": each.reason,
            **{f"{known.type}.{known.name}": known.value for known in each.properties},
        }
        for each in header.results
    ]


def spf(result: SpfResult, helo: SpfResult | None = None, reason: str = "") -> Spf:  # noqa: D103 - its name says it
    return Spf(
        mail_from=SpfCheck(result=result, domain="example.org", reason=reason),
        helo=None if helo is None else SpfCheck(result=helo, domain="out.example.org"),
    )


def signature(  # noqa: D103 - one that passes
    result: DkimResult = DkimResult.PASS, *, domain: str = "example.org", b: str = "AbCd1234EfGh", **more: Any
) -> DkimSignature:
    values: dict[str, Any] = {"selector": "s1", "algorithm": "rsa-sha256", "auid": f"@{domain}", "key_bits": 2048}
    return DkimSignature(result=result, domain=domain, signature=b, **(values | more))


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments and the results that come of them."""

    what: str
    arguments: dict[str, Any]
    expected: list[str]


CASES: Final = (
    Case("no method ran", {}, ["none"]),
    Case(
        "a pass, HELO not checked",
        {"spf": spf(SpfResult.PASS, reason="matched ip4:192.0.2.0/24")},
        ["spf=pass (client 192.0.2.1) smtp.mailfrom=joe@example.org"],
    ),
    Case(
        "both pass",
        {"spf": spf(SpfResult.PASS, SpfResult.PASS)},
        ["spf=pass (client 192.0.2.1) smtp.mailfrom=joe@example.org", "spf=pass smtp.helo=out.example.org"],
    ),
    Case(
        "a HELO that passes is no result of its own where the reverse-path does not",
        {"spf": spf(SpfResult.SOFTFAIL, SpfResult.PASS, "matched ~all")},
        [
            (
                "spf=softfail (client 192.0.2.1, helo out.example.org passes) "
                'reason="matched ~all" smtp.mailfrom=joe@example.org'
            )
        ],
    ),
    Case(
        "a HELO that fails",
        {"spf": spf(SpfResult.NONE, SpfResult.FAIL, "no record")},
        ["spf=none (client 192.0.2.1) smtp.mailfrom=joe@example.org", "spf=fail smtp.helo=out.example.org"],
    ),
    Case(
        "the null reverse-path",
        {"spf": spf(SpfResult.PASS, SpfResult.PASS), "mail_from": ""},
        ["spf=pass (client 192.0.2.1) smtp.helo=out.example.org"],
    ),
    Case("no signature", {"dkim": []}, ["dkim=none"]),
    Case(
        "signatures that pass stand first",
        {
            "dkim": [
                signature(DkimResult.FAIL, domain="list.example", reason="body hash did not verify", key_bits=None),
                signature(b="Xy/1234567", testing=True, auid="joe@sub.example.org"),
            ]
        },
        [
            (
                "dkim=pass (2048-bit key, test mode) header.d=example.org header.s=s1 header.a=rsa-sha256 "
                'header.i=joe@sub.example.org header.b="Xy/12345"'
            ),
            (
                'dkim=fail reason="body hash did not verify" header.d=list.example header.s=s1 header.a=rsa-sha256 '
                "header.i=@list.example header.b=AbCd1234"
            ),
        ],
    ),
    Case(
        "a signature of which nothing can be read",
        {"dkim": [DkimSignature(result=DkimResult.PERMERROR, reason="no d= tag")]},
        ['dkim=permerror reason="no d= tag"'],
    ),
    Case("no chain", {"arc": Arc(result=ArcResult.NONE)}, ["arc=none"]),
    Case(
        "a chain",
        {
            "arc": Arc(
                result=ArcResult.PASS,
                oldest_pass=0,
                sealer="lists.example",
                sets=(ArcSet(instance=1, domain="lists.example", selector="a", authentication_results=""),),
            )
        },
        ["arc=pass (i=1 d=lists.example) header.oldest-pass=0 smtp.remote-ip=192.0.2.1"],
    ),
    Case(
        "a broken chain, over IPv6",
        {"arc": Arc(result=ArcResult.FAIL, reason="seal 2 did not verify"), "client_address": "2001:db8::1"},
        ['arc=fail reason="seal 2 did not verify" smtp.remote-ip="2001:db8::1"'],
    ),
    Case(
        "a chain that can't be told now is left out, alone or beside others: RFC 8617 has no word for it",
        {"arc": Arc(result=ArcResult.TEMPERROR, reason="no answer", sealer="lists.example")},
        ["none"],
    ),
    Case(
        "the same beside a DMARC fault, which has its word",
        {
            "arc": Arc(result=ArcResult.TEMPERROR, reason="no answer"),
            "dmarc": Dmarc(result=DmarcResult.TEMPERROR, domain="example.org", reason="no answer"),
        },
        ['dmarc=temperror reason="no answer" header.from=example.org'],
    ),
    Case(
        "a reason with quotes and a backslash",
        {"dkim": [DkimSignature(result=DkimResult.PERMERROR, reason='a="x\\y"; is no algorithm')]},
        ["dkim=permerror reason=\"a='x/y', is no algorithm\""],
    ),
    Case(
        "an identity that needs quotes stands without its local part, since more stands behind it",
        {"dkim": [signature(auid="a..b@example.org", algorithm="")]},
        ["dkim=pass (2048-bit key) header.d=example.org header.s=s1 header.i=@example.org header.b=AbCd1234"],
    ),
    Case(
        "no DMARC record",
        {"dmarc": Dmarc(result=DmarcResult.NONE, domain="example.org", reason="no record")},
        ["dmarc=none header.from=example.org"],
    ),
    Case(
        "a DMARC failure",
        {
            "dmarc": Dmarc(
                result=DmarcResult.FAIL,
                domain="example.org",
                policy=Disposition.REJECT,
                disposition=Disposition.QUARANTINE,
                published=PolicyRecord(text="v=DMARC1", testing=True),
                reason="nothing aligned",
            )
        },
        [
            (
                'dmarc=fail (p=reject t=y dis=quarantine) reason="nothing aligned" policy.dmarc=quarantine '
                "header.from=example.org"
            )
        ],
    ),
    Case(
        "a DMARC failure that a trusted seal explains",
        {
            "dmarc": Dmarc(
                result=DmarcResult.FAIL,
                domain="example.org",
                policy=Disposition.REJECT,
                arc_sealer="lists.example",
            )
        },
        ["dmarc=fail (p=reject dis=none sealer=lists.example) policy.dmarc=none header.from=example.org"],
    ),
    Case(
        "more than one From field",
        {"dmarc": Dmarc(result=DmarcResult.PERMERROR, reason="two From fields")},
        ['dmarc=permerror reason="two From fields"'],
    ),
    Case("a login", {"login": "joe@example.com"}, ["auth=pass smtp.auth=joe@example.com"]),
    Case("a login with quotes", {"login": 'joe "x\\y"'}, ["auth=pass smtp.auth=\"joe 'x/y'\""]),
    Case("a login with a space", {"login": "joe smith"}, ['auth=pass smtp.auth="joe smith"']),
    Case(
        "a confirmed name",
        {"client_name": ClientName("out.example.org", NameStatus.CONFIRMED)},
        ["iprev=pass (out.example.org) policy.iprev=192.0.2.1"],
    ),
    Case(
        "an address without a name, IPv6",
        {"client_name": ClientName(None, NameStatus.UNKNOWN), "client_address": "2001:db8::1"},
        ['iprev=fail policy.iprev="2001:db8::1"'],
    ),
    Case(
        "a name that can't be told now",
        {"client_name": ClientName(None, NameStatus.TEMPORARY)},
        ["iprev=temperror policy.iprev=192.0.2.1"],
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_each_method_is_written_with_its_properties(case: Case) -> None:
    """The field holds exactly these results, in a form that the independent reader takes."""
    field = written(**case.arguments)
    assert results(field) == [ID, *case.expected]
    methods = [each.partition("=")[0] for each in case.expected]
    assert [each["method"] for each in read(field)] == [method for method in methods if method != "none"]


def test_all_methods_stand_in_one_field_that_is_folded() -> None:
    """Everything at once: one field, no line longer than 78 columns, and the reader finds each property."""
    field = written(
        login="joe",
        client_name=ClientName("out.example.org", NameStatus.CONFIRMED),
        spf=spf(SpfResult.PASS, SpfResult.PASS),
        dkim=[signature(), signature(DkimResult.TEMPERROR, domain="example.net", b="Zz" * 40, reason="no answer")],
        arc=Arc(result=ArcResult.PASS, oldest_pass=2, sealer="lists.example"),
        dmarc=Dmarc(result=DmarcResult.PASS, domain="example.org", policy=Disposition.REJECT),
    )
    assert all(len(line.expandtabs(8)) <= 78 for line in field.split("\r\n"))
    assert read(field) == [
        {"method": "auth", "result": "pass", "reason": None, "smtp.auth": "joe"},
        {"method": "iprev", "result": "pass", "reason": None, "policy.iprev": "192.0.2.1"},
        {"method": "spf", "result": "pass", "reason": None, "smtp.mailfrom": "joe@example.org"},
        {"method": "spf", "result": "pass", "reason": None, "smtp.helo": "out.example.org"},
        {
            "method": "dkim", "result": "pass", "reason": None, "header.d": "example.org", "header.s": "s1",
            "header.a": "rsa-sha256", "header.i": "@example.org", "header.b": "AbCd1234",
        },
        {
            "method": "dkim", "result": "temperror", "reason": "no answer", "header.d": "example.net",
            "header.s": "s1", "header.a": "rsa-sha256", "header.i": "@example.net", "header.b": "ZzZzZzZz",
        },
        {
            "method": "arc", "result": "pass", "reason": None, "header.oldest-pass": "2",
            "smtp.remote-ip": "192.0.2.1",
        },
        {
            "method": "dmarc", "result": "pass", "reason": None, "policy.dmarc": "none",
            "header.from": "example.org",
        },
    ]  # fmt: skip


def test_a_long_reason_is_folded_and_reads_the_same() -> None:
    """Folding puts line ends before spaces of the reason; taking them out gives the reason back, shortened if long."""
    reason = "the key of the selector is revoked, which " * 3
    field = written(dkim=[signature(DkimResult.PERMERROR, reason=reason)])
    assert read(field)[0]["reason"] == reason.strip()
    assert all(len(line.expandtabs(8)) <= 78 for line in field.split("\r\n"))
    assert len(read(written(dkim=[signature(DkimResult.FAIL, reason=reason * 9)]))[0]["reason"]) <= REASON


def test_signatures_that_begin_alike_are_told_apart() -> None:
    """``header.b`` has eight characters, or as many as it takes to tell the signatures apart (RFC 6008)."""
    field = written(dkim=[signature(b="AbCd12345678xx"), signature(b="AbCd12345679xx"), signature(b="Other678901234")])
    assert [each["header.b"] for each in read(field)] == ["AbCd12345678", "AbCd12345679", "Other6789012"]
    same = written(dkim=[signature(b="A" * 500), signature(b="A" * 500)])
    assert [each["header.b"] for each in read(same)] == ["AAAAAAAA", "AAAAAAAA"]


def test_ten_thousand_signatures_make_a_field_of_bounded_size() -> None:
    """Only so many are written, those that pass among them, and how many more there were."""
    many = [signature(DkimResult.FAIL, domain="x" * 250, b="B" * 500, reason="no " * 900) for _ in range(10_000)]
    field = written(dkim=[*many, signature()])
    assert len(field) < 25_000
    found = read(field)
    assert len(found) == SIGNATURES
    assert found[0]["header.d"] == "example.org"
    assert f"({10_001 - SIGNATURES} more signatures)" in results(field)[-1]


ADDRESSES: Final = (
    ("joe@example.org", "joe@example.org"),
    ("bounce+joe=example.com@list.example", "bounce+joe=example.com@list.example"),
    ('"joe smith"@example.org', "example.org"),
    (r'"a\"b"@example.org', "example.org"),
    (r"a\b@example.org", "example.org"),
    ("a..b@example.org", '"a..b@example.org"'),
    ("/a@example.org", '"/a@example.org"'),
    ("=a@example.org", '"=a@example.org"'),
    ("joe@[192.0.2.9]", '"joe@[192.0.2.9]"'),
    ('"; dmarc=pass header.from=bank.example"@example.org', "example.org"),
    ('"a;b"@example.org', "example.org"),
    ("dkim=pass@example.org", "example.org"),
    ("SPF=pass@example.org", "example.org"),
    ("x" * 400 + "@example.org", "example.org"),
    ("postmaster", "postmaster"),
)


@pytest.mark.parametrize(("address", "expected"), ADDRESSES)
def test_an_address_is_quoted_or_shortened_where_it_must_be(address: str, expected: str) -> None:
    """What RFC 2045 wants quoted is quoted; a local part that reads like a result, or is too long, is left out."""
    assert written(spf=spf(SpfResult.PASS), mail_from=address).endswith(f"smtp.mailfrom={expected}\r\n")


@pytest.mark.parametrize("utf8", [False, True])
def test_no_line_of_any_field_is_too_long(*, utf8: bool) -> None:
    """Whatever a sender writes, in octets: lines of 998, values of 320, reasons of 200 (RFC 5322 2.1.1, RFC 6532)."""
    generator = Generator(3, utf8=utf8)
    longest = 0
    for _ in range(1500):
        field = generator.field()
        assert_well_formed(field.decode())
        for each in read_strictly(field):
            assert len(each.reason.encode()) <= REASON
            values = [len(value.encode()) for value in each.properties.values()]
            assert all(size <= VALUE for size in values)
            longest = max(longest, *values, 0)
    assert longest > (VALUE - 10 if utf8 else 70)


@pytest.mark.parametrize("character", ["x", "\u00e9", "\u20ac", "\U0001f600"])
@pytest.mark.parametrize("count", [50, 77, 78, 79, 80, 99, 100, 150, 160, 200, 290, 321, 1000])
def test_the_bounds_count_octets(character: str, count: int) -> None:
    """A word in any script is cut between two characters, and says that it was; an address loses its local part."""
    text = character * count
    size = len(text.encode())
    long = written(
        spf=spf(SpfResult.FAIL, reason=text), login=text, mail_from=f"{text}@example.org", smtputf8=True,
        dkim=[signature(selector=text, auid=f"{text}@example.org")],
    )  # fmt: skip
    auth, checked, signed = read_strictly(long.encode())
    for value, limit in ((auth.properties["smtp.auth"], VALUE), (checked.reason, REASON)):
        assert value == text if size <= limit else value.endswith("...")
        assert limit - 7 < len(value.encode()) <= limit or value == text
    address = f"{text}@example.org" if size + 12 <= VALUE else "example.org"
    assert (checked.properties["smtp.mailfrom"], signed.properties["header.i"]) == (address, address)


def test_u_labels_that_are_too_long_stand_as_a_labels() -> None:
    """A domain is never cut where it can be written whole."""
    domain = ".".join([idna.encode("\u0915" * 40).decode()] * 4)
    assert len(idna.decode(domain).encode()) > VALUE
    field = written(dmarc=Dmarc(result=DmarcResult.PASS, domain=domain), smtputf8=True)
    assert f"header.from={domain}\r\n" in field


def test_internationalized_mail_has_utf8_and_other_mail_none() -> None:
    """In SMTPUTF8 mail domains stand as U-labels and addresses as written; elsewhere only A-labels (RFC 8616)."""
    dmarc = Dmarc(result=DmarcResult.PASS, domain="xn--bcher-kva.example")
    signed = [signature(domain="xn--bcher-kva.example", auid="jürgen@xn--bcher-kva.example")]
    field = written(spf=spf(SpfResult.PASS), mail_from="jürgen@bücher.example", dmarc=dmarc, dkim=signed, smtputf8=True)
    assert 'smtp.mailfrom="jürgen@bücher.example"' in field
    assert 'header.d="bücher.example"' in field
    assert 'header.i="jürgen@bücher.example"' in field
    assert 'header.from="bücher.example"' in field
    plain = written(dmarc=dmarc, dkim=signed)
    assert plain.isascii()
    assert "header.from=xn--bcher-kva.example" in plain
    assert "header.i=j?rgen@xn--bcher-kva.example" in plain
    broken = written(dmarc=Dmarc(result=DmarcResult.PASS, domain="xn--a.example"), smtputf8=True)
    assert "header.from=xn--a.example" in broken


HOSTILE: Final = (
    '"; dmarc=pass header.from=bank.example; spf=pass',
    "x\r\nBcc: joe@example.org",
    "x\r\n\r\nbody",
    "x\x00y\x1bz\x7f",
    "(comment; dmarc=pass",
    "\\",
    '\\"; dkim=pass header.d=bank.example',
    "\udcff\udc00",
    "\u2028\u202edmarc=pass",
    "dmarc =pass",
    " ",
)


@pytest.mark.parametrize("utf8", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_sender_wrote_leaves_its_place(text: str, *, utf8: bool) -> None:
    """Whatever stands in a name, a reason or a tag, the field has the gateway's results, and no words like others."""
    field = written(
        login=text,
        client_name=ClientName(text, NameStatus.CONFIRMED),
        spf=Spf(
            mail_from=SpfCheck(result=SpfResult.FAIL, domain=text, reason=text),
            helo=SpfCheck(result=SpfResult.PASS, domain=text),
        ),
        dkim=[signature(DkimResult.FAIL, domain=text, b=text, reason=text, selector=text, algorithm=text, auid=text)],
        arc=Arc(result=ArcResult.FAIL, reason=text, sealer=text),
        dmarc=Dmarc(result=DmarcResult.FAIL, reason=text, domain=text, policy=Disposition.NONE, arc_sealer=text),
        mail_from=f"{text}@example.org",
        helo_name=text,
        smtputf8=utf8,
    )
    unfolded = field.replace("\r\n", "")
    assert "dmarc=pass" not in unfolded
    assert "spf=pass" not in unfolded
    assert "dkim=pass" not in unfolded
    expected = ["auth", "iprev", "spf", "dkim", "arc", "dmarc"]
    assert [part.split("=")[0].strip() for part in unfolded.split(";")[1:]] == expected


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SpfResult),
    st.sampled_from(DkimResult),
    st.sampled_from(DmarcResult),
    st.text(st.characters(codec="ascii"), max_size=60),
    st.text(st.characters(codec="utf-8"), max_size=300),
)
def test_an_independent_reader_sees_what_was_found(
    spf_result: SpfResult, dkim_result: DkimResult, dmarc_result: DmarcResult, text: str, reason: str
) -> None:
    """For any words of a sender the reader takes the field and sees the methods, results and domains."""
    found = read(
        written(
            spf=spf(spf_result),
            dkim=[signature(dkim_result, reason=reason, selector=text)],
            dmarc=Dmarc(result=dmarc_result, domain="example.org", reason=reason),
            mail_from=f"{text}@example.org",
        )
    )
    assert [(each["method"], each["result"]) for each in found] == [
        ("spf", spf_result), ("dkim", dkim_result), ("dmarc", dmarc_result),
    ]  # fmt: skip
    assert found[0]["smtp.mailfrom"].endswith("example.org")
    assert found[1]["header.d"] == "example.org"
    assert found[2]["header.from"] == "example.org"
