"""The DMARC Policy Record: RFC 9989's tags, RFC 7489's records, and whatever else stands in the DNS."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mailauth.dmarc_record import (
    MAX_CACHED,
    MAX_REPORT_URIS,
    parse_record,
    policy_record,
)
from gateway.mailauth.results import AlignmentMode, Disposition, PolicyRecord, Psd, ReportUri


def uris(reports: tuple[ReportUri, ...]) -> tuple[str, ...]:
    """The addresses, without size limits."""
    return tuple(each.address for each in reports)


def _parse(text: str) -> PolicyRecord:
    record = parse_record(text)
    assert record is not None
    return record


def test_every_tag_is_read() -> None:
    """The tags of RFC 9989 4.7, in any order and case."""
    record = _parse(
        "v=DMARC1; np=Reject; SP=quarantine; p=none; psd=n; t=y; adkim=s; aspf=S; fo=1:d:s; "
        "rua=mailto:a@example.com, https://example.com/r; ruf=mailto:f@example.com"
    )
    assert record.policy is Disposition.NONE
    assert record.subdomain_policy is record.for_subdomains is Disposition.QUARANTINE
    assert record.nonexistent_policy is record.for_nonexistent is Disposition.REJECT
    assert record.psd is Psd.NO
    assert record.testing
    assert record.dkim_mode is record.spf_mode is AlignmentMode.STRICT
    assert record.failure_options == ("1", "d", "s")
    assert uris(record.aggregate_reports) == ("mailto:a@example.com", "https://example.com/r")
    assert uris(record.failure_reports) == ("mailto:f@example.com",)
    assert record.applies
    assert record.errors == ()


def test_a_record_has_defaults() -> None:
    """What is not said is relaxed, not testing, of no known suffix, with one policy for all."""
    record = _parse("v=DMARC1;p=reject")
    assert record.for_nonexistent is record.for_subdomains is record.policy is Disposition.REJECT
    assert record.dkim_mode is record.spf_mode is AlignmentMode.RELAXED
    assert (record.psd, record.testing, record.failure_options) == (Psd.UNSAID, False, ("0",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=DMARC1x; p=reject",
        "v=dmarc1; p=reject",
        "v=DMARC2; p=reject",
        " v=DMARC1; p=reject",
        "p=reject; v=DMARC1",
        "v=spf1 -all",
        "v=DMARC1 p=reject",
        "V DMARC1",
        "\tv=DMARC1; p=reject",
        " \r\nv=DMARC1; p=reject",
        "\r\nx; v=DMARC1; p=reject",
        '"v=DMARC1; p=reject',
    ],
)
def test_what_does_not_begin_with_the_version_is_no_record(text: str) -> None:
    """The version stands first and is exact (RFC 9989 4.7)."""
    assert parse_record(text) is None


@pytest.mark.parametrize("text", ["v=DMARC1;p=reject", "v = DMARC1 ;\tp\t=\treject ;", "V=DMARC1; ; ;p=reject;;"])
def test_white_space_and_empty_tags_do_not_matter(text: str) -> None:
    """White space may stand around each sign (RFC 9989 4.8)."""
    assert _parse(text).policy is Disposition.REJECT


def test_what_is_not_known_is_ignored() -> None:
    """Unknown tags, tags without a value and RFC 7489's tags say nothing (RFC 9989 4.7)."""
    record = _parse("v=DMARC1; foo=bar; =; p; x; pct=0; rf=afrf; ri=3600; p=reject; \x00\xff")
    assert (record.policy, record.applies, record.errors) == (Disposition.REJECT, True, ())


def test_wrong_values_become_defaults() -> None:
    """A value that a tag can't have is as if the tag were not there, and is noted (RFC 9989 4.7)."""
    record = _parse("v=DMARC1; p=reject; adkim=strict; aspf=; psd=yes; t=true; fo=x; ruf=nobody; rua=:,mailto:x")
    assert record.policy is Disposition.REJECT
    assert record.dkim_mode is record.spf_mode is AlignmentMode.RELAXED
    assert (record.psd, record.testing, record.failure_options) == (Psd.UNSAID, False, ("0",))
    assert record.failure_reports == record.aggregate_reports == ()
    assert len(record.errors) == 8


def test_a_tag_counts_where_it_stands_first() -> None:
    """A tag that is there twice is an error; the second is ignored."""
    record = _parse("v=DMARC1; p=none; p=reject")
    assert record.policy is Disposition.NONE
    assert record.errors == ("p is there twice",)


@pytest.mark.parametrize("policies", ["p=rejct", "", "p=reject; sp=nothing", "p=reject; np=", "p=; sp=reject"])
def test_without_valid_policies_a_record_only_asks_for_reports(policies: str) -> None:
    """It stands for p=none if it has an address for reports, and for nothing without (RFC 9989 4.10.1)."""
    record = _parse(f"v=DMARC1; {policies}; psd=n; rua=mailto:a@example.com")
    assert record.applies
    assert record.policy is record.for_subdomains is record.for_nonexistent is Disposition.NONE
    assert record.errors
    record = _parse(f"v=DMARC1; {policies}; psd=n; rua=example.com")
    assert not record.applies
    assert record.psd is Psd.NO


def test_reporting_addresses_are_uris() -> None:
    """The size limit of RFC 7489 stands apart; what is no URI is left out, and no list is endless."""
    record = _parse("v=DMARC1; p=none; rua=mailto:a@example.com!10m , dmarc@example.com,mailto:b@example.com,,x y:z")
    assert uris(record.aggregate_reports) == ("mailto:a@example.com", "mailto:b@example.com")
    assert record.aggregate_reports == (
        ReportUri("mailto:a@example.com", 10 * 1024**2),
        ReportUri("mailto:b@example.com"),
    )
    assert len(record.errors) == 2
    many = _parse("v=DMARC1; p=none; rua=" + ",".join(f"mailto:{number}@example.com" for number in range(1000)))
    assert len(uris(many.aggregate_reports)) == MAX_REPORT_URIS


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        ("", None), ("!0", 0), ("!500", 500), ("!1k", 1024), ("!2K", 2048), ("!10m", 10_485_760), ("!3G", 3 * 2**30),
        ("!1t", 2**40), ("!" + "9" * 15 + "t", 2**63 - 1), ("!" + "9" * 5000, 2**63 - 1),
    ],
)  # fmt: skip
def test_a_size_limit_is_in_octets(limit: str, size: int | None) -> None:
    """Units are powers of 1024 in any case (RFC 7489 6.2); a limit that no report reaches is the largest number."""
    record = _parse(f"v=DMARC1; p=none; ruf=mailto:x@y.example{limit}, https://z.example/a%21b{limit}")
    assert record.failure_reports == (
        ReportUri("mailto:x@y.example", size),
        ReportUri("https://z.example/a%21b", size),
    )
    assert uris(record.failure_reports) == ("mailto:x@y.example", "https://z.example/a%21b")


@pytest.mark.parametrize(
    "address",
    [
        "mailto:a@b.example!",
        "mailto:q@s.example!1m!2k",
        "mailto:a@b.example!!1m",
        "mailto:a@b.example!m",
        "mailto:a@b.example!1x",
        "mailto:a!b@c.example",
        "mailto:!@c.example",
        "!1m",
    ],
)
def test_an_exclamation_mark_begins_a_size_limit_and_nothing_else(address: str) -> None:
    """Within an address it is written %21 (RFC 7489 6.2), so what has more of them can't be read."""
    record = _parse(f"v=DMARC1; p=none; rua={address}")
    assert record.aggregate_reports == ()
    assert record.errors == ("rua has an address that can't be read",)
    kept = _parse("v=DMARC1; p=none; rua=mailto:a%21b@c.example!1k").aggregate_reports
    assert kept == (ReportUri("mailto:a%21b@c.example", 1024),)


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\r\n ", " \r\n\t"])
def test_line_ends_around_semicolons_are_skipped(end: str) -> None:
    """A record that was pasted with its line ends protects its domain all the same."""
    record = _parse(f"v=DMARC1{end};{end}p=reject;{end}sp{end}={end}quarantine{end};{end}rua=mailto:a@b.example{end}")
    assert (record.policy, record.subdomain_policy) == (Disposition.REJECT, Disposition.QUARANTINE)
    assert uris(record.aggregate_reports) == ("mailto:a@b.example",)
    assert record.errors == ()
    assert policy_record([f"v=DMARC1;{end}p=reject", "other"]) is not None
    before = end.lstrip(" ")
    assert _parse(f"{before}v=DMARC1;{end}p=reject").policy is Disposition.REJECT
    assert policy_record([f"{before}v=DMARC1; p=reject", "v=DMARC1; p=none"]) is None
    assert parse_record(f"v=DMARC1{end}p=reject") is None
    assert _parse(f"v=DMARC1; p=rej{end}ect; sp=reject").policy is Disposition.NONE


def test_one_record_counts_and_several_do_not() -> None:
    """Other TXT records don't matter; with two policy records there is none (RFC 9989 4.10)."""
    record = policy_record(["other", "v=DMARC1; p=reject", "v=spf1 -all"])
    assert record is not None
    assert record.policy is Disposition.REJECT
    assert policy_record(["v=DMARC1; p=reject", "v=DMARC1; p=none"]) is None
    assert policy_record(["other"]) is None
    assert policy_record([]) is None


def test_records_are_remembered_by_their_text_up_to_a_size() -> None:
    """A record that was read is not read again, unless it is too large to keep."""
    text = "v=DMARC1; p=reject; x=remembered"
    assert parse_record(text) is parse_record(text)
    large = text + "a" * MAX_CACHED
    assert parse_record(large) == parse_record(large)
    assert parse_record(large) is not parse_record(large)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=200))
@settings(max_examples=300)
def test_any_text_is_a_record_or_none(text: str) -> None:
    """Whatever stands in the DNS, behind the version or alone, it is read without an error."""
    assert parse_record(text) is None or text.lstrip("\r\n \t")[:1] in {"v", "V"}
    record = _parse("v=DMARC1;" + text)
    assert record.text == "v=DMARC1;" + text
    assert record.policy in Disposition


def test_a_long_record_is_read_once_over() -> None:
    """64 KB of any one sign are read; the errors that are kept are few."""
    for sign in (";", "=", ",", " ", "p=;", "rua=,", "!", ":", "a"):
        record = _parse("v=DMARC1; p=none; rua=" + (sign * 65_000)[:65_000])
        assert len(record.errors) <= MAX_REPORT_URIS
