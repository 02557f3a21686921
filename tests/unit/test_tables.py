"""The look-up tables: what each kind of entry matches, what is refused, what a look-up costs, how files reload."""

import asyncio
import os
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from structlog.testing import capture_logs

from gateway.smtp.grammar import parse_mailbox
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox
from gateway.tables import AddressList, AddressTable, NameTable, NetworkTable
from gateway.tables import table as table_module
from gateway.tables.content import Content, read_content


class Options(BaseModel):
    """Tables as a policy's options have them."""

    networks: NetworkTable = NetworkTable()
    names: NameTable = NameTable()
    addresses: AddressTable = AddressTable()
    recipients: AddressList = AddressList()


class Seconds:
    """A clock of seconds that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Tell them."""
        return self.now


@pytest.mark.parametrize(
    ("entries", "address", "found"),
    [
        (["192.0.2.0/24"], "192.0.2.255", "192.0.2.0/24"),
        (["192.0.2.0/24"], "192.0.3.0", None),
        (["192.0.2.1"], "192.0.2.1", "192.0.2.1"),
        (["192.0.2.1/32"], "192.0.2.1", "192.0.2.1"),
        (["0.0.0.0/0"], "203.0.113.9", "0.0.0.0/0"),
        (["0.0.0.0/0"], "2001:db8::1", None),
        (["::/0"], "2001:db8::1", "::/0"),
        (["::/0"], "192.0.2.1", None),
        (["2001:db8::/32"], "2001:db8:ffff::1", "2001:db8::/32"),
        (["2001:db8::/32"], "2001:db9::1", None),
        (["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"], "10.1.2.3", "10.1.2.0/24"),
        (["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"], "10.2.0.1", "10.0.0.0/8"),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", "192.0.2.0/24"),
        (["::ffff:192.0.2.0/120"], "192.0.2.7", "192.0.2.0/24"),
        ([], "192.0.2.1", None),
    ],
)
def test_network_table_finds_the_smallest_network(entries: list[str], address: str, found: str | None) -> None:
    """An address is found in the smallest network that has it, an IPv4-mapped one as the IPv4 address it carries."""
    table = NetworkTable(entries)
    assert table.find(ip_address(address)) == found
    assert (ip_address(address) in table) == (found is not None)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("192.0.2.1/24", "write 192.0.2.0/24"),
        ("2001:db8::1/64", "write 2001:db8::/64"),
        ("::ffff:192.0.2.1/120", "write 192.0.2.0/24"),
        ("192.0.2.0/33", "a number from 0 to 32"),
        ("2001:db8::/129", "a number from 0 to 128"),
        ("192.0.2.0/255.255.255.0", "a number from 0 to 32"),
        ("192.0.2.0/", "a number from 0 to 32"),
        ("192.0.2.0/+4", "a number from 0 to 32"),
        ("192.0.2", "not a network"),
        ("192.0.2.01", "not a network"),
        ("mail.example.com", "not a network"),
        ("", "not a network"),
        ("fe80::1%eth0", "a zone has no meaning"),
    ],
)
def test_network_table_refuses_what_is_no_network(entry: str, reason: str) -> None:
    """A malformed or ambiguous network is an error that names the entry and says what to write."""
    with pytest.raises(ValueError, match=reason) as caught:
        NetworkTable(["192.0.2.0/24", entry])
    assert str(caught.value).startswith("entry 2: ")


ADDRESSES = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 40).map(IPv4Address), st.integers(0, 40).map(IPv6Address)
)


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Any network, often one near others."""
    address = draw(ADDRESSES)
    length = draw(st.integers(0, address.max_prefixlen))
    return str(ip_network((int(address) if address.version == 4 else address, length), strict=False))


@given(st.lists(networks(), max_size=30), st.lists(ADDRESSES, min_size=1, max_size=10))
def test_network_table_agrees_with_a_loop_over_all(
    entries: list[str], addresses: list[IPv4Address | IPv6Address]
) -> None:
    """The table finds what a loop over ipaddress's networks finds, the longest prefix first."""

    def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
        return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address

    def carried(entry: str) -> IPv4Network | IPv6Network:
        network = ip_network(entry)
        if isinstance(network, IPv4Network) or network.prefixlen < 96 or network[0].ipv4_mapped is None:
            return network
        return IPv4Network((network[0].ipv4_mapped, network.prefixlen - 96))

    table = NetworkTable(entries)
    known = [carried(entry) for entry in entries]
    for address in [*addresses, *(network.network_address for network in known), *(network[-1] for network in known)]:
        plain = unmapped(address)
        having = [network for network in known if plain in network]
        expected = max(having, key=lambda network: network.prefixlen, default=None)
        found = table.find(address)
        assert (None if found is None else ip_network(found)) == expected


@pytest.mark.parametrize(
    ("entries", "name", "found"),
    [
        (["mail.example.com"], "MAIL.Example.COM", "mail.example.com"),
        (["mail.example.com"], "mail.example.com.", "mail.example.com"),
        (["mail.example.com."], "mail.example.com", "mail.example.com"),
        (["mail.example.com"], "x.mail.example.com", None),
        (["mail.example.com"], "amail.example.com", None),
        ([".example.com"], "a.b.example.com", ".example.com"),
        (["*.Example.com"], "a.example.com", ".example.com"),
        ([".example.com"], "example.com", None),
        ([".example.com"], "notexample.com", None),
        ([".com", ".example.com"], "a.example.com", ".example.com"),
        (["[192.0.2.1]"], "[192.0.2.1]", "[192.0.2.1]"),
        (["[IPv6:2001:DB8:0:0::1]"], "[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
        (["localhost"], "localhost", "localhost"),
        (["a_b.example.com"], "a_b.example.com", "a_b.example.com"),
        (["bücher.example"], "xn--bcher-kva.example", "xn--bcher-kva.example"),
        (["xn--bcher-kva.example"], "BÜCHER.example", "xn--bcher-kva.example"),
        ([".example.com"], "", None),
        ([".example.com"], "...", None),
        ([".com"], "a." * 2000 + "com", None),
        (["example.com"], "\udcff.example.com", None),
    ],
)
def test_name_table_finds_exact_names_and_names_below(entries: list[str], name: str, found: str | None) -> None:
    """A name is found as it is or below a parent, without regard to case, final dot and script."""
    table = NameTable(entries)
    assert table.find(name) == found
    assert (name in table) == (found is not None)


@pytest.mark.parametrize(
    "entry", ["", ".", "*", "a b", "a..b", "-a.example", "user@example.com", "a*.example.com", "a" * 256, "ü.\udcff"]
)
def test_name_table_refuses_what_is_no_name(entry: str) -> None:
    """A malformed name is an error."""
    with pytest.raises(ValueError, match="is not a domain name"):
        NameTable([entry])


@pytest.mark.parametrize(
    ("entries", "address", "found"),
    [
        (["user@example.com"], "User@EXAMPLE.com", "user@example.com"),
        (["User@Example.com"], "user@example.com", "user@example.com"),
        (["user@example.com"], "user@sub.example.com", None),
        (["user@example.com"], "auser@example.com", None),
        (["@example.com"], "any@example.com", "@example.com"),
        (["example.com"], "any@example.com", "@example.com"),
        (["@example.com"], "any@sub.example.com", None),
        ([".example.com"], "any@sub.example.com", ".example.com"),
        (["@.example.com"], "any@a.b.example.com", ".example.com"),
        ([".example.com"], "any@example.com", None),
        (["user@"], "USER@example.org", "user@"),
        (["user@", "@example.org", "user@example.org"], "user@example.org", "user@example.org"),
        (["user@", "@example.org"], "user@example.org", "@example.org"),
        (['"john doe"@example.com'], '"John Doe"@example.com', "john doe@example.com"),
        (["john@example.com"], '"j\\ohn"@example.com', "john@example.com"),
        (['"a@b"@example.com'], '"a@b"@example.com', "a@b@example.com"),
        (["@[192.0.2.1]"], "user@[192.0.2.1]", "@[192.0.2.1]"),
        (["müller@bücher.example"], "MÜLLER@xn--bcher-kva.example", "müller@xn--bcher-kva.example"),
        (["<>"], "user@example.com", None),
        (["#a@example.com"], "#a@example.com", "#a@example.com"),
    ],
)
def test_address_table_finds_addresses_domains_and_local_parts(
    entries: list[str], address: str, found: str | None
) -> None:
    """An address is found by itself, its domain, a parent of its domain or its local part, the narrowest first."""
    table = AddressTable(entries)
    assert table.find(parse_mailbox(address)) == found
    assert (parse_mailbox(address) in table) == (found is not None)


def test_address_table_knows_the_null_reverse_path_only_by_its_entry() -> None:
    """``<>`` matches the null reverse-path, and nothing else does."""
    assert AddressTable(["<>"]).find(NULL_REVERSE_PATH) == "<>"
    assert AddressTable(["user@", "example.com"]).find(NULL_REVERSE_PATH) is None


def test_address_table_finds_postmaster_without_a_domain() -> None:
    """``user@`` matches a path without a domain, too."""
    assert AddressTable(["postmaster@"]).find(Mailbox("Postmaster", "Postmaster", "")) == "postmaster@"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("user@example.com REJECT", "not a domain name"),
        ("a b@example.com", "nothing behind it"),
        ("user", "write @user for a domain, user@ for a local part"),
        ("", "is not an address"),
        ("@", "not a domain name"),
        ("user@exa mple.com", "not a domain name"),
        ('"a"b c@example.com', "is not an address"),
        ("SMTP:user@example.com", "':' stands in none without quotes"),
        ("<user@example.com>", "'<' stands in none without quotes"),
        ("<>@example.com", "'<' stands in none without quotes"),
        ("*@example.com", "is a pattern"),
        ("news-*@", "is a pattern"),
        ("user@example.com:25", "not a domain name"),
        ("user@[example]", "not a domain name"),
    ],
)
def test_address_table_refuses_what_is_no_address(entry: str, reason: str) -> None:
    """A malformed address is an error that says what is wrong."""
    with pytest.raises(ValueError, match=reason):
        AddressTable([entry])


@pytest.mark.parametrize(
    ("local_part", "domain", "known"),
    [
        ("alice", "example.com", True),
        ("ALICE", "example.net", True),
        ("bob", "example.com", True),
        ("bob", "example.net", False),
        ("anyone", "all.example", True),
        ("anyone", "sub.all.example", False),
        ("info", "example.com", True),
        ("sales team", "example.com", True),
        ("virtual", "example.com", True),
        ("virtual", "example.net", False),
        ("anyone", "virtual.example", True),
        ("target", "example.com", False),
        ("continued", "example.com", False),
        ("", "example.com", False),
    ],
)
async def test_address_list_knows_recipients_and_aliases(
    local_part: str,
    domain: str,
    known: bool,  # noqa: FBT001 - a column of the table
    tmp_path: Path,
) -> None:
    """Recipients come from addresses, bare users, whole domains and the names of aliases; targets are none."""
    aliases = tmp_path / "aliases"
    aliases.write_text(
        "# comment\n"
        "info: target, |/bin/command\n"
        "    continued\n"
        '"sales team": target\n\n'
        "virtual@example.com\ttarget@example.org\n"
        "@virtual.example target\n"
    )
    source = AddressList(["alice", "Bob@example.com", "@all.example"], aliases_file=aliases)
    assert await source.find(local_part, domain) is known


@pytest.mark.parametrize(
    ("entries", "aliases", "reason"),
    [
        (["user@"], [], "write the user alone"),
        (["a b"], [], "is not an address"),
        ([], [": target"], "is not an alias"),
        ([], ['"open: target'], "is not an alias"),
        ([], ["user@bad domain"], None),
        (["user@bad domain"], [], "not a domain name"),
        (["SMTP:user@example.com"], [], "':' stands in none without quotes"),
        (["smtp:user"], [], "':' stands in none without quotes"),
        (["mailto:user@example.com"], [], "':' stands in none"),
        (["<user@example.com>"], [], "'<' stands in none"),
        (["user@example.com:25"], [], "is not a domain name"),
        (["user@example.com,"], [], "is not a domain name"),
        (["user@example..com"], [], "is not a domain name"),
        (["user@-example.com"], [], "is not a domain name"),
        (["user@.example.com"], [], "is not a domain name"),
        ([f"user@{'a' * 64}.com"], [], "is not a domain name"),
        (["user@[example]"], [], "is not a domain name"),
        (["user@[192.0.2.256]"], [], "is not a domain name"),
        (["*@example.com"], [], "is a pattern, and none are taken here"),
        (["*"], [], "is a pattern"),
        (["sales-*@example.com"], [], "is a pattern"),
        (["user@*.example.com"], [], "is not a domain name"),
        (["@*.example.com"], [], "is not a domain name"),
        (["user;other@example.com"], [], "';' stands in none"),
        (["user@example.com@example.org"], [], "'@' stands in none"),
        (["(comment)user"], [], r"'\(' stands in none"),
        (["us\x07er"], [], "has a control character"),
        ([f"{'u' * 254}@example.com"], [], "is longer than an address can be"),
        (["user@example.com other"], [], "is not a domain name"),
        ([], ["<info>: target"], "'<' stands in none"),
        ([], ["*@example.com target"], "is a pattern"),
        (
            ['"*"@example.com', '"smtp:user"@example.com', "user@[192.0.2.1]", "a..b@example.com", "a_b@c_d.example"],
            [],
            None,
        ),
        (["ü@example.com", "o'neil/x=y@example.com", "user%host", "user!host", "user+x", "first.last"], [], None),
    ],
)
def test_address_list_refuses_malformed_entries(entries: list[str], aliases: list[str], reason: str | None) -> None:
    """A malformed recipient or alias is an error; what stands behind an alias is not looked at."""
    if reason is None:
        AddressList(entries, aliases=aliases)
    else:
        with pytest.raises(ValueError, match=reason):
            AddressList(entries, aliases=aliases)


@given(st.text('ab1*@.:;<>()[]"\\ ,-=!ü\t', max_size=12))
@example("SMTP:a@b.example")
@example("*@b.example")
@example("a@[1]")
@example('"\t"')
@example("a@[1.2.3.4]")
def test_an_entry_that_is_taken_matches_an_address(entry: str) -> None:
    """Whatever stands in a list of recipients is refused, or there is an address that a client can send."""
    try:
        table = AddressList([entry])
    except ValueError:
        return
    local_part, at, domain = (
        entry.rpartition("@") if "@" in entry and not entry.endswith('"') else (entry, "@", "x.example")
    )
    text = local_part if local_part.startswith('"') else f'"{local_part or "anybody"}"'
    sent = parse_mailbox(f"{text}{at}{domain.removesuffix('.')}")
    assert asyncio.run(table.find(sent.local_part, sent.domain))


def test_options_take_lists_files_and_both(tmp_path: Path) -> None:
    """A table is written as a list, a file relative to the configuration's folder, or both."""
    (tmp_path / "networks.txt").write_text("\ufeff# partners\n192.0.2.0/24  # one\r\n\n  198.51.100.1\t\n")
    (tmp_path / "aliases").write_text("info: alice\n")
    options = Options.model_validate(
        {
            "networks": {"list": ["203.0.113.0/24"], "file": "networks.txt"},
            "names": ["mail.example.com"],
            "recipients": {"list": ["alice"], "aliases": {"file": "aliases"}},
        },
        context={"folder": tmp_path},
    )
    for address in ("192.0.2.1", "198.51.100.1", "203.0.113.1"):
        assert ip_address(address) in options.networks
    assert "mail.example.com" in options.names
    assert not options.networks.is_empty
    assert options.addresses.is_empty
    assert options.model_dump(mode="json") == {
        "networks": {"list": ["203.0.113.0/24"], "file": str(tmp_path / "networks.txt")},
        "names": ["mail.example.com"],
        "addresses": [],
        "recipients": {"list": ["alice"], "aliases": {"file": str(tmp_path / "aliases")}},
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("192.0.2.1", "write a list"),
        (None, "write a list"),
        ({}, "nothing where 'list' or 'file' is wanted"),
        ({"files": "x"}, "files where 'list' or 'file'"),
        ({"file": 1}, "1 is not the name of a file"),
        ({"file": ""}, "'' is not the name of a file"),
        ({"list": "192.0.2.1"}, "write a list"),
        ([192.0], "entry 1: 192.0 is not text"),
        ({"file": "missing.txt"}, "can't read .*missing.txt: No such file"),
    ],
)
def test_options_refuse_another_shape(value: object, reason: str, tmp_path: Path) -> None:
    """What is neither a list nor a file is an error in plain words."""
    with pytest.raises(ValidationError, match=reason):
        Options.model_validate({"networks": value}, context={"folder": tmp_path})


def test_bad_lines_of_a_file_are_named(tmp_path: Path) -> None:
    """Each bad line is named with file and number, and of many the first ten."""
    file = tmp_path / "networks.txt"
    file.write_text("192.0.2.1\n\nwrong\n" + "bad\n" * 20)
    with pytest.raises(ValueError, match="and 11 more") as caught:
        NetworkTable(file=file)
    assert f"{file}:3: 'wrong' is not a network" in str(caught.value)
    assert f"{file}:12: 'bad'" in str(caught.value)
    assert f"{file}:13:" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    """The line that is not UTF-8 is named."""
    file = tmp_path / "names.txt"
    file.write_bytes(b"a.example\nb\xff.example\n")
    with pytest.raises(ValueError, match=r"names.txt:2: not UTF-8"):
        NameTable(file=file)


def test_a_changed_file_is_read_again_after_a_second(tmp_path: Path) -> None:
    """A changed file is in force at the first use a second after the last look, and not looked at before."""
    file, seconds = tmp_path / "names.txt", Seconds()
    file.write_text("old.example\n")
    table = NameTable(["inline.example"], file, monotonic=seconds)
    file.write_text("new.example.com\n")
    seconds.now = table_module.LOOK_EVERY - 0.1
    assert "old.example" in table
    seconds.now = table_module.LOOK_EVERY
    with capture_logs() as logs:
        assert "old.example" not in table
    assert "new.example.com" in table
    assert "inline.example" in table
    assert [entry["event"] for entry in logs] == ["table read again"]


def test_half_a_file_is_not_taken(tmp_path: Path) -> None:
    """A file that ends within a line is still being written, unless it is the same at two looks."""
    file, now = tmp_path / "names.txt", 0.0
    file.write_text("one.example\ntwo.example\n")
    table = NameTable((), file, monotonic=lambda: now)
    for text, found in (
        ("one.exa", "two.example"),
        ("one.example\ntwo.exam", "two.example"),
        ("one.example\nthree.example\n", "three.example"),
        ("four.example", "three.example"),
        ("four.example", "four.example"),
        ("four.example\nfive", "four.example"),
        ("five.example\n", "five.example"),
    ):
        if file.read_text() != text:
            file.write_text(text)
        now += table_module.LOOK_EVERY
        assert found in table, text


def test_a_file_of_the_same_size_and_time_is_read_again_when_replaced(tmp_path: Path) -> None:
    """A file that was renamed over the old one is noticed by its inode alone."""
    file, seconds = tmp_path / "names.txt", Seconds()
    file.write_text("old.example\n")
    table = NameTable(file=file, monotonic=seconds)
    status = file.stat()
    (tmp_path / "new").write_text("new.example\n")
    (tmp_path / "new").rename(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    seconds.now = 1.0
    assert "new.example" in table


def _write_nonsense(file: Path) -> None:
    file.write_text("good.example\nno name\n")


@pytest.mark.parametrize("spoil", [_write_nonsense, Path.unlink], ids=["broken", "vanished"])
def test_a_broken_or_vanished_file_keeps_the_old_content_and_logs_once(
    spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    """A file that is no good changes nothing, is logged once, and counts again as soon as it is good."""
    file, seconds = tmp_path / "names.txt", Seconds()
    file.write_text("old.example\n")
    table = NameTable(file=file, monotonic=seconds)
    spoil(file)
    with capture_logs() as logs:
        for _ in range(3):
            seconds.now += 1.0
            assert "old.example" in table
            assert "good.example" not in table
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("table kept its old content", "error")]
    file.write_text("new.example.com\n")
    seconds.now += 1.0
    assert "new.example.com" in table


def test_a_large_file_is_read_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large file is read the old content answers and no second reading begins; then the new one answers."""
    file, seconds, go_on = tmp_path / "names.txt", Seconds(), threading.Event()
    file.write_text("old.example\n")
    table = NameTable(file=file, monotonic=seconds)
    table.settle()

    def read_slowly(file: Path) -> Content:
        assert go_on.wait(60)
        return read_content(file)

    monkeypatch.setattr(table_module, "read_content", read_slowly)
    monkeypatch.setattr(table_module, "_SMALL_FILE", 20)
    file.write_text("new.example.com\nmore.example.com\n")
    seconds.now = 1.0
    assert "old.example" in table
    reading = table._loading
    assert reading is not None
    file.write_text("newest.example.com\nmore.example.com\n")
    seconds.now = 2.0
    assert "old.example" in table
    assert table._loading is reading
    go_on.set()
    table.settle()
    assert "old.example" not in table
    seconds.now = 3.0
    table.find("any")
    table.settle()
    assert "newest.example.com" in table


class CountedSet(set[int]):
    """A set that counts how often it is asked."""

    asked = 0

    def __contains__(self, item: object) -> bool:
        CountedSet.asked += 1
        return super().__contains__(item)


def _questions(count: int) -> int:
    """How many hash look-ups one question costs in a table of so many networks of two prefix lengths."""
    addresses = [str(IPv4Address(0x0A000000 + number)) for number in range(count)]
    table = NetworkTable([*addresses, "192.0.2.0/24"])
    index = table.current()
    index.by_version[4] = [(shift, CountedSet(numbers)) for shift, numbers in index.by_version[4]]
    CountedSet.asked = 0
    assert table.find(ip_address("203.0.113.1")) is None
    return CountedSet.asked


def test_a_large_network_table_costs_no_more_than_a_small_one() -> None:
    """A question costs one hash look-up for each prefix length, with ten networks as with 100,000."""
    assert _questions(10) == _questions(100_000) == 2


def test_large_name_and_address_tables_are_hash_tables() -> None:
    """Names and addresses are kept in sets, so that 100,000 entries cost no more to look up than ten."""
    names = NameTable([f"host{number}.example.com" for number in range(100_000)])
    addresses = AddressTable([f"user{number}@example.com" for number in range(100_000)])
    assert "host99999.example.com" in names
    assert parse_mailbox("user99999@example.com") in addresses
    assert isinstance(names.current().exact, set)
    assert isinstance(addresses.current().addresses, set)
    assert len(names.current().exact) == len(addresses.current().addresses) == 100_000


def test_tables_of_the_same_settings_are_equal(tmp_path: Path) -> None:
    """Equal settings make equal tables, so that two domains with the same options share a policy."""
    file = tmp_path / "names.txt"
    file.write_text("")
    assert NameTable(["a.example"], file) == NameTable(["a.example"], file)
    assert hash(NameTable(["a.example"])) == hash(NameTable(["a.example"]))
    assert NameTable(["a.example"]) != NameTable(["b.example"])
    assert NameTable() != AddressTable()
    assert NameTable() != "other"
    assert repr(AddressList(["a"])) == "AddressList(['a'])"
    assert repr(NameTable(["a.example"], file)) == f"NameTable({{'list': ['a.example'], 'file': '{file}'}})"


def test_the_schema_describes_both_forms() -> None:
    """The JSON Schema of a table allows a list, or an object with list and file."""
    properties = Options.model_json_schema()["properties"]
    entries, together = properties["networks"]["anyOf"]
    assert entries["type"] == "array"
    assert set(together["properties"]) == {"list", "file"}
    assert properties["networks"]["default"] == []
    assert set(properties["recipients"]["anyOf"][1]["properties"]) == {"list", "file", "aliases"}


def test_what_is_no_ordinary_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A pipe in the place of a list is an error at once, and the content from before stays."""
    file = tmp_path / "list.txt"
    file.write_text("192.0.2.1\n")
    now = [0.0]
    table = NetworkTable(file=file, monotonic=lambda: now[0])
    file.unlink()
    os.mkfifo(file)
    now[0] += 10
    assert ip_address("192.0.2.1") in table
    with pytest.raises(ValueError, match="no ordinary file"):
        NetworkTable(file=file)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match="Is a directory"):
        NetworkTable(file=file)
    file.rmdir()
    file.symlink_to("/dev/null")
    assert ip_address("192.0.2.1") not in NetworkTable(file=file)
