"""What is allowed and most often a slip: each is told with its place, and what is honest is not."""

from datetime import UTC, date, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.config.advice import warnings
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.tables import AddressList, NetworkTable

TODAY = date(2026, 11, 21)

SAFE = """\
hostname: mx1.example.com
listeners:
  - smtp: 192.0.2.1:25
backends:
  postfix: {servers: ["127.0.0.1:10025"]}
domains:
  example.com: {recipients: {list: [alice]}}
policies:
  - relay
  - recipient
"""


def told(folder: Path, text: str, today: date = TODAY) -> list[str]:
    """The warnings about a text, each as ``line:column: path: message``."""
    path = folder / "lychgate.yaml"
    path.write_text(text, "utf-8")
    return [str(warning).removeprefix(f"{path}:") for warning in warnings(load(path), today)]


def with_policies(*policies: str) -> str:
    """The safe file with another chain."""
    return SAFE.partition("policies:\n")[0] + "policies:\n" + "".join(f"  - {policy}\n" for policy in policies)


SLIPS = {
    "everybody may relay": (
        with_policies("relay: {trusted: [0.0.0.0/0]}", "recipient"),
        "9:5: policies[0]: trusts 0.0.0.0/0; OPEN RELAY: anyone there can send to any domain",
    ),
    "everybody may relay, in pieces": (
        with_policies("relay: {trusted: [0.0.0.0/1, 128.0.0.0/1, '::/0']}", "recipient"),
        "9:5: policies[0]: trusts 0.0.0.0/0, ::/0; OPEN RELAY",
    ),
    "everybody may relay, as an IPv4-mapped network": (
        with_policies("relay: {trusted: ['::ffff:0:0/96']}", "recipient"),
        "9:5: policies[0]: trusts 0.0.0.0/0; OPEN RELAY",
    ),
    "the whole of the IPv6 Internet may relay": (
        with_policies("relay: {trusted: ['2000::/3']}", "recipient"),
        "9:5: policies[0]: trusts 2000::/3; OPEN RELAY",
    ),
    "a listener's own chain": (
        SAFE.replace("192.0.2.1:25", "192.0.2.1:25\n    policies: [{relay: {trusted: [0.0.0.0/0]}}, recipient]"),
        "4:16: listeners[0].policies[0]: trusts 0.0.0.0/0; OPEN RELAY",
    ),
    "everybody's PROXY header is believed": (
        SAFE.replace("192.0.2.1:25", "192.0.2.1:25\n    proxy_protocol: {trusted: [10.0.0.0/8, '::/0']}"),
        "4:5: listeners[0].proxy_protocol: trusts ::/0: anyone there can pass for any client",
    ),
    "a limit by the SPF domain without SPF": (
        with_policies("relay", "recipient", "rate_limit: {key: spf_domain, limit: 9/h}"),
        "11:5: policies[2]: counts by spf_domain, which spf finds: put spf before it, or it counts nobody",
    ),
    "a limit by the SPF domain before SPF": (
        with_policies("relay", "recipient", "rate_limit: {key: spf_domain, limit: 9/h}", "spf"),
        "11:5: policies[2]: counts by spf_domain, which spf finds",
    ),
    "a limit by the DKIM domain before DKIM": (
        with_policies("relay", "recipient", "rate_limit: {key: [client_address, dkim_domain], limit: 9/h}", "dkim"),
        "11:5: policies[2]: counts by dkim_domain, which dkim finds",
    ),
    "greylisting of recipients that do not exist": (
        with_policies("relay", "greylist", "recipient"),
        "10:5: policies[1]: stands before recipient: senders to addresses that do not exist are told to come again",
    ),
    "an exception for a domain of others": (
        SAFE + "exceptions:\n  - {policy: recipient, domain: example.con, reason: typing}\n",
        "12:5: exceptions[0]: 'example.con' is none of our domains: it is about mail that clients relay",
    ),
    "an exception for a recipient of others": (
        SAFE + "exceptions:\n  - {policy: recipient, recipient: alice@example.con, reason: typing}\n",
        "12:5: exceptions[0]: 'example.con' is none of our domains: it is about mail that clients relay",
    ),
    "an exception from relay": (
        SAFE + "exceptions:\n  - {policy: relay, recipient: '@example.con', reason: typing}\n",
        "12:5: exceptions[0]: 'example.con' is none of our domains: anyone may send to it",
    ),
    "a list that names a domain of others": (
        SAFE.replace("[alice]", "[alice, bob@example.con]"),
        "7:17: domains.example.com.recipients: the list of example.com names addresses of example.con, which is",
    ),
    "an exception for a recipient that nobody is": (
        SAFE + "exceptions: [{policy: recipient, recipient: <>, reason: a}]\n",
        "11:14: exceptions[0]: recipient: no recipient is <>",
    ),
    "a domain that stands as a user": (
        SAFE.replace("[alice]", "[alice, example.com]"),
        "7:17: domains.example.com.recipients: the list of example.com names the user 'example.com'; write @",
    ),
    "a domain that stands as a user, as in other programs": (
        SAFE.replace("[alice]", "[alice, .Example.com]"),
        "7:17: domains.example.com.recipients: the list of example.com names the user '.example.com'; write @",
    ),
    "a size that nobody looks at": (
        SAFE.replace("{recipients:", "{message_size: 5MB, recipients:"),
        "7:3: domains.example.com: has a message_size, and a chain has no size policy, which alone looks at it",
    ),
    "a backend that is the listener": (
        SAFE.replace("127.0.0.1:10025", "192.0.2.1:25"),
        "5:3: backends.postfix: 192.0.2.1:25 is where this gateway listens itself (port 25)",
    ),
    "a backend that is the listener by the default port": (
        SAFE.replace("127.0.0.1:10025", "192.0.2.1"),
        "5:3: backends.postfix: 192.0.2.1 is where this gateway listens itself (port 25)",
    ),
    "a backend at loopback, a listener everywhere": (
        SAFE.replace("127.0.0.1:10025", "127.0.0.1").replace("192.0.2.1:25", "0.0.0.0:25"),
        "5:3: backends.postfix: 127.0.0.1 is where this gateway listens itself (port 25)",
    ),
    "a backend by name": (
        SAFE.replace("127.0.0.1:10025", "localhost:2525").replace("192.0.2.1:25", "127.0.0.1:2525"),
        "5:3: backends.postfix: localhost:2525 is where this gateway listens itself (port 2525)",
    ),
    "a backend by the gateway's own name": (
        SAFE.replace("127.0.0.1:10025", "mx1.example.com").replace("192.0.2.1:25", "'[::]:25'"),
        "5:3: backends.postfix: mx1.example.com is where this gateway listens itself (port 25)",
    ),
    "a backend with TLS at once, by the default port": (
        SAFE.replace(':10025"]', '"], tls: {mode: required, implicit: true}').replace("192.0.2.1:25", "0.0.0.0:465"),
        "5:3: backends.postfix: 127.0.0.1 is where this gateway listens itself (port 465)",
    ),
}  # fmt: skip

HONEST = {
    "the safe file": SAFE,
    "networks of one's own": with_policies("relay: {trusted: [10.0.0.0/8, 'fd00::/16', 127.0.0.1]}", "recipient"),
    "a limit behind SPF": with_policies("relay", "recipient", "spf", "rate_limit: {key: spf_domain, limit: 9/h}"),
    "a limit of a later stage, before SPF": with_policies(
        "relay", "recipient", "rate_limit: {key: [spf_domain, recipient], limit: 9/h}", "spf"
    ),
    "a limit behind DKIM": with_policies("relay", "recipient", "dkim", "rate_limit: {key: dkim_domain, limit: 9/h}"),
    "greylisting behind recipient": with_policies("relay", "recipient", "greylist"),
    "exceptions of our own": SAFE + (
        "exceptions:\n  - {policy: recipient, recipient: alice@example.com, reason: a}\n"
        "  - {policy: recipient, sender: <>, reason: b}\n"
    ),
    "a list with our domain": SAFE.replace("[alice]", "[alice, bob@example.com]"),
    "a size that is looked at": with_policies("relay", "recipient", "size").replace(
        "{recipients:", "{message_size: 5MB, recipients:"
    ),
    "a backend at another port": SAFE.replace("192.0.2.1:25", "0.0.0.0:25"),
    "a backend at another address": SAFE.replace("127.0.0.1:10025", "203.0.113.9").replace("192.0.2.1", "0.0.0.0"),
    "a backend at IPv6, a listener at IPv4": SAFE.replace("127.0.0.1:10025", "[::1]").replace("192.0.2.1", "0.0.0.0"),
    "a backend by LMTP's own port": SAFE.replace('["127.0.0.1:10025"]', '["127.0.0.1"], protocol: lmtp').replace(
        "192.0.2.1:25", "0.0.0.0:25"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    """One warning, which names line, column and setting, and says what follows."""
    text, expected = SLIPS[name]
    (warning,) = told(tmp_path, text)
    assert warning.startswith(expected)


@pytest.mark.parametrize("name", HONEST)
def test_what_is_honest_is_not_told(tmp_path: Path, name: str) -> None:
    """No warning where what was written can be meant."""
    assert told(tmp_path, HONEST[name]) == []


def test_a_domains_own_trust_is_told(tmp_path: Path) -> None:
    """A domain whose relay policy trusts everybody."""
    text = SAFE.replace("{recipients:", "{policies: {relay: {trusted: [0.0.0.0/0]}}, recipients:")
    assert told(tmp_path, text) == [
        "7:3: domains.example.com: its relay trusts 0.0.0.0/0, and that is the Internet",
    ]


def test_domains_in_files_of_recipients(tmp_path: Path) -> None:
    """A file is named, and once, however many domains use it; aliases are looked at, too."""
    (tmp_path / "users.txt").write_text("alice@example.com\nbob@example.con\n@example.ogr\n", "utf-8")
    (tmp_path / "aliases").write_text("info@example.nte: alice\n", "utf-8")
    recipients = "{recipients: {file: users.txt, aliases: {file: aliases}}}"
    text = SAFE.replace("{recipients: {list: [alice]}}", recipients + "\n  example.net: " + recipients)
    names = "example.con, example.nte, example.ogr, which are none of our domains"
    assert told(tmp_path, text) == [
        f"7:17: domains.example.com.recipients: {tmp_path}/users.txt or {tmp_path}/aliases names addresses of {names}"
    ]


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ((2026, 1, 1), (2026, 11, 20), "the certificate has expired on 2026-11-20"),
        ((2026, 1, 1), (2026, 11, 21), "the certificate expires on 2026-11-21, in 0 days"),
        ((2026, 1, 1), (2026, 12, 5), "the certificate expires on 2026-12-05, in 14 days"),
        ((2026, 1, 1), (2026, 12, 6), None),
        ((2026, 11, 21), (2027, 12, 6), None),
        ((2026, 11, 22), (2027, 12, 6), "the certificate is not valid before 2026-11-22"),
    ],
)
def test_certificates_that_clients_will_not_believe(
    tmp_path: Path, first: tuple[int, int, int], last: tuple[int, int, int], words: str | None
) -> None:
    """One that has run out, soon does, or does not hold yet is told where it is named."""
    certificate = trustme.CA().issue_cert(
        "mx1.example.com", not_before=datetime(*first, 12, tzinfo=UTC), not_after=datetime(*last, 12, tzinfo=UTC)
    )
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    text = SAFE.replace("192.0.2.1:25", "192.0.2.1:25\n    tls: {certificate: own.pem}")
    expected = [] if words is None else [f"4:24: listeners[0].tls.certificate: {words}"]
    assert told(tmp_path, text) == expected


def test_tables_tell_what_they_have() -> None:
    """Networks and domains, of entries in every form."""
    networks = NetworkTable(["192.0.2.0/24", "192.0.2.1", "::ffff:198.51.100.0/120", "2001:db8::/32"])
    assert set(networks.networks()) == {
        ip_network(text) for text in ("192.0.2.0/24", "192.0.2.1/32", "198.51.100.0/24", "2001:db8::/32")
    }
    listed: Any = AddressList(["alice", "bob@B.example", "@c.example"], aliases=["info@d.example: x", "root: alice"])
    assert listed.named_domains() == {"b.example", "c.example", "d.example"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns: {servers: [localhost]}", "dns.servers[0]: 'localhost' is not the address of a name server"),
        ("dns: {servers: ['192.0.2.1:99999']}", "dns.servers[0]: '192.0.2.1:99999': there is no port 99999"),
        ("dns: {servers: 192.0.2.1}", "dns.servers: must be a list; write [192.0.2.1]"),
        ("dns: {servers: '[::1]:53'}", 'dns.servers: must be a list; write ["[::1]:53"]'),
        ("records: records.jsonl", "records: must be stdout, or a mapping (key: value); write records: {file: records"),
        ("dns: {client_names: 'off'}", "dns.client_names: must be true or false; write false"),
    ],
)
def test_what_can_not_start_is_an_error_with_the_right_form(tmp_path: Path, text: str, expected: str) -> None:
    """What ``serve`` can't start with is no configuration, and the error says how to write what was meant."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(SAFE + text + "\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert f"{problem.where}: {problem.message}".startswith(expected)


@pytest.mark.parametrize(
    ("recipients", "expected"),
    [
        ("recipients.txt", "write recipients: {file: recipients.txt}"),
        ("probe", "write recipients: {probe: true}"),
        ("any", "write recipients: {any: true}"),
        ("{probe: yes}", "write probe: true"),
        ("{file: [a.txt]}", "must be a file name"),
        ("{list: alice}", "must be a list; write [alice]"),
    ],
)
def test_recipients_in_the_wrong_form(tmp_path: Path, recipients: str, expected: str) -> None:
    """The error says how to write it."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(SAFE.replace("{list: [alice]}", recipients), "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert expected in str(caught.value)
