"""Which signatures are looked at: those of the author's organization first, whatever stands on top of them."""

import random
from collections.abc import Sequence

import pytest

from gateway.header import HeaderField
from gateway.mailauth import selection
from gateway.mailauth.author import a_label_domain
from gateway.mailauth.results import DkimResult
from gateway.mailauth.selection import MAX_CONVERTED, Selection
from tests.support.dkim_signing import BODY, HEADER, checked, rsa_key, signature, zone


def fields(*domains: str, author: str = "alice@mail.example.co.uk") -> list[HeaderField]:
    """A header with a signature for each domain."""
    raws = [f"DKIM-Signature: v=1; a=rsa-sha256; d={domain}; b=AAAA\r\n" for domain in domains]
    signatures = [HeaderField("dkim-signature", raw.encode()) for raw in raws]
    return [*signatures, HeaderField("from", f"From: {author}\r\n".encode())]


def chosen(found: Sequence[HeaderField]) -> list[str]:
    """Their domains."""
    return [each.raw.decode().partition("d=")[2].partition(";")[0] for each in found]


def test_without_too_many_all_are_looked_at() -> None:
    """In the order of the header, and nothing else is."""
    header = fields("b.example", "mail.example.co.uk", "a.example")
    assert Selection(header).first(3) == header[:3]
    assert Selection(header[3:]).first(3) == []


@pytest.mark.parametrize(
    "good",
    [
        "mail.example.co.uk",
        "example.co.uk",
        "news.example.co.uk",
        "a.mail.example.co.uk",
        " MAIL.Example.co.UK ",
        "mail.example.co.uk.",
        "mail.exa\r\n mple.co.uk",
    ],
)
def test_ten_of_strangers_on_top_hide_none_of_the_authors_organization(good: str) -> None:
    """Strangers under the same public suffix, beside it, and without any domain."""
    strangers = ["evil.co.uk", "co.uk", "uk", "notexample.co.uk", "", "-", "\u00fc", "example.com", "a.example.uk", "b"]
    assert chosen(Selection(fields(*strangers, good)).first(10)).count(good) == 1


def test_the_nearest_domains_come_first() -> None:
    """The author's own, then what shares most labels with it, then the others from the top; shown as they stand."""
    domains = ["x.example", "example.co.uk", "evil.co.uk", "y.example", "mail.example.co.uk", "z.mail.example.co.uk"]
    header = fields(*domains)
    order = ["mail.example.co.uk", "z.mail.example.co.uk", "example.co.uk", "evil.co.uk", "x.example", "y.example"]
    for limit in range(1, 6):
        assert chosen(Selection(header).first(limit)) == [each for each in domains if each in order[:limit]]


def test_the_authors_own_domain_goes_before_those_below_it() -> None:
    """Also where these stand on top, and share as many labels with it."""
    below = [f"{letter}.mail.example.co.uk" for letter in "abc"]
    assert chosen(Selection(fields(*below, "mail.example.co.uk")).first(1)) == ["mail.example.co.uk"]


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "-",
        "a..b",
        "[192.0.2.1]",
        "\u2024",
        "\udcff",
        "x" * 300 + ".co.uk",
        ".",
        '"',
        "mail.example.co.uk..",
        "..uk",
    ],
)
def test_what_is_no_domain_comes_last(junk: str) -> None:
    """A value that can't be read shares nothing with anybody, and neither does a field without one."""
    header = [HeaderField("dkim-signature", f"DKIM-Signature: v=1; d={junk}\r\n".encode("utf-8", "surrogateescape"))]
    header += [HeaderField("dkim-signature", b"DKIM-Signature: v=1\r\n")]
    header += fields("example.uk")
    assert Selection(header).first(1) == [header[2]]


@pytest.mark.parametrize(
    "value",
    [
        "z=Subject:d=20foo; d={}",
        "z=From:d=a.test|To:d=b.test; d={}",
        "i=@x:d=y; d={}",
        "h=a:d; d={}",
        "h=a:d=b; d={}",
        " d = {}",
        "d={}; z=A:d=b",
        "b=AA\r\n\td=b.test; d={}",
        "\r\n\td={}",
    ],
)
def test_a_tag_begins_where_another_ends(value: str) -> None:
    """A colon within a value begins no ``d=``; only the one behind the field's name does."""
    good = HeaderField("dkim-signature", f"DKIM-Signature:{value.format('mail.example.co.uk')}\r\n".encode())
    header = [*fields("evil.co.uk", "co.uk"), good]
    assert Selection(header).first(1) == [good]


@pytest.mark.parametrize(
    ("above", "is_chosen"), [(MAX_CONVERTED - 1, True), (MAX_CONVERTED, False), (MAX_CONVERTED + 9, False)]
)
def test_so_many_different_u_labels_are_compared(above: int, is_chosen: bool) -> None:  # noqa: FBT001 - of the table
    """Each takes as long as a hundred A-labels; values that came before, and those of US-ASCII, don't count."""
    strangers = [f"\u00fc{number}.example" for number in range(above)]
    plain = [f"{number}.example" for number in range(100)]
    u_label, a_label = "b\u00fccher.example", "xn--bcher-kva.example"
    header = fields(*strangers, *strangers, *plain, u_label, author=f"a@{a_label}")
    assert (u_label in chosen(Selection(header).first(10))) == is_chosen
    header = fields(*strangers, *strangers, *plain, a_label, author=f"a@{u_label}")
    assert a_label in chosen(Selection(header).first(10))


async def test_the_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who verifies takes what the body was hashed for; nothing is put in order a second time."""
    asked: list[str] = []

    def convert(domain: str) -> str | None:
        asked.append(domain)
        return a_label_domain(domain)

    monkeypatch.setattr(selection, "a_label_domain", convert)
    junk = b"".join(b"DKIM-Signature: d=%d.com\r\n" % number for number in range(20))
    found = await checked(junk + signature(HEADER, BODY, rsa_key(), {}) + HEADER, BODY, zone())
    assert found[-1].result is DkimResult.PASS
    assert len(asked) == len(set(asked)) == 21


def test_u_labels_are_a_labels() -> None:
    """RFC 8616: a domain in UTF-8 and its A-labels are the same, in From and in d=."""
    u_label, a_label = "b\u00fccher.example", "xn--bcher-kva.example"
    for good, author in ((u_label, a_label), (a_label, u_label)):
        header = fields(*["other.example"] * 10, good, author=f"a@{author}")
        assert chosen(Selection(header).first(10)).count(good) == 1


@pytest.mark.parametrize("author", ["nobody", "a@b.example, c@d.example", "a@[192.0.2.1]", '"'])
def test_without_an_author_they_are_taken_from_the_top(author: str) -> None:
    """A From field that can't be read is no reason to look at none."""
    header = fields(*[f"{number}.test" for number in range(20)], author=author)
    assert Selection(header).first(10) == header[:10]


def test_what_a_smaller_limit_selects_is_part_of_what_a_larger_one_does() -> None:
    """So that the body is hashed for all that any policy looks at."""
    rng = random.Random(1)  # noqa: S311 - test data
    for _ in range(50):
        domains = [rng.choice(["a.example", "example", "b.a.example", "c.example", "x.test"]) for _ in range(15)]
        header = fields(*domains, author="x@a.example")
        some, more = (
            {header.index(each) for each in Selection(header).first(limit)}
            for limit in sorted(rng.sample(range(1, 15), 2))
        )
        assert some <= more


async def test_ten_junk_signatures_on_top_hide_no_good_eleventh() -> None:
    """The author's own passes, with a body that was hashed while it came; nine of the junk are looked at besides."""
    good = signature(HEADER, BODY, rsa_key(), {}) + HEADER
    junk = b"".join(
        b"DKIM-Signature: v=1; a=rsa-sha256; d=junk%d.example; s=s1; h=from; bh=%s=; b=AAAA\r\n" % (number, b"A" * 43)
        for number in range(10)
    )
    found = await checked(junk + good, BODY, zone())
    assert [each.domain for each in found] == [*(f"junk{number}.example" for number in range(9)), "example.com"]
    assert [each.result for each in found].count(DkimResult.PASS) == 1
    assert found[-1].result is DkimResult.PASS
