"""Who sent this, end to end: real DNS and real mail in front of a real Postfix.

The client's address comes by the PROXY protocol; the DNS is a server of the tests', and for one test Debian's unbound
before it. dkimpy signs and seals.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import authres
import authres.arc
import authres.dkim_b
import authres.dmarc
import pytest

from tests.support.dns_server import DnsServer
from tests.support.dns_thread import Unbound, dns_thread
from tests.support.gateway import Gateway, poll
from tests.support.ports import free_port
from tests.support.postfix import Postfix
from tests.support.rspamd import Rspamd
from tests.support.signing import SELECTOR, Signer, txt
from tests.support.wire import Answer, Wire

pytestmark = pytest.mark.peer("postfix")

ID: Final = "gateway.example"
BANK: Final = Signer("bank.example", 1)
LIST: Final = Signer("list.example", 2)
SILENT: Final = Signer("silent.example", 2)
BANK_CLIENT, LIST_CLIENT, STRANGER = "192.0.2.10", "192.0.2.20", "192.0.2.66"

ZONE: Final[dict[str, Any]] = {
    "bank.example": {"TXT": [txt(f"v=spf1 ip4:{BANK_CLIENT} -all")], "MX": ["10 mx.bank.example."]},
    "_dmarc.bank.example": {"TXT": [txt("v=DMARC1; p=reject")]},
    **BANK.zone,
    "list.example": {"TXT": [txt(f"v=spf1 ip4:{LIST_CLIENT} -all")], "MX": ["10 mx.list.example."]},
    **LIST.zone,
    "stranger.example": {"TXT": [txt(f"v=spf1 ip4:{STRANGER} -all")]},
    "loop.example": {"TXT": [txt("v=spf1 include:other.loop.example -all")]},
    "other.loop.example": {"TXT": [txt("v=spf1 include:loop.example -all")]},
    "slow.example": "TIMEOUT",
    f"{SELECTOR}._domainkey.{SILENT.domain}": "SERVFAIL",
}

CHAIN: Final[list[Any]] = [
    "relay", "recipient", "size", "spf", "dkim", "arc", {"dmarc": {"trust_arc": ["list.example"]}},
]  # fmt: skip


def settings(dns: str, **more: Any) -> dict[str, Any]:
    """A configuration with all of sender authentication on."""
    return {
        "dns": {"servers": [dns], "client_names": False, "timeout": "1s"},
        "authentication_results": {"authserv_id": ID},
        "limits": {"header_size": "2MB"},  # room for ten thousand signatures
        "policies": CHAIN,
        **more,
    }


@contextmanager
def gateway_with(dns: str, postfix: Postfix) -> Iterator[Gateway]:
    """A gateway before Postfix that asks this DNS server, and is told clients' addresses by the PROXY protocol."""
    listeners = {"smtp": {"proxy_protocol": {"trusted": ["127.0.0.1"]}}}
    with Gateway(settings(dns), listeners=listeners, backend=postfix.port) as running:
        yield running


@pytest.fixture(scope="module")
def dns() -> Iterator[DnsServer]:
    """The DNS."""
    with dns_thread(ZONE) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(dns: DnsServer, postfix: Postfix) -> Iterator[Gateway]:
    """The gateway of most tests."""
    with gateway_with(dns.address, postfix) as running:
        yield running


def client(gateway: Gateway, address: str) -> Wire:
    """A client of an address."""
    return Wire(gateway.port, first=[f"PROXY TCP4 {address} 198.51.100.1 45678 25\r\n".encode()])


def message(author: str, body: str = "Hello,\r\nthis is a letter.\r\n", *, fields: str = "") -> bytes:
    """A message to alice."""
    return (
        f"{fields}From: {author}\r\nTo: alice@example.com\r\nSubject: a letter\r\n"
        f"Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\n{body}"
    ).encode()


def send(gateway: Gateway, address: str, sender: str, text: bytes) -> Answer:
    """Send a message; the reply to its end, or the first refusal."""
    with client(gateway, address) as wire:
        wire.hello()
        for line in (f"MAIL FROM:<{sender}>", "RCPT TO:<alice@example.com>", "DATA"):
            answer = wire.command(line)
            if answer.code >= 400:
                return answer
        wire.send(re.sub(rb"(?m)^\.", b"..", text) + b".\r\n")
        return wire.reply()


def queued(postfix: Postfix, answer: Answer) -> bytes:
    """The message as Postfix has it."""
    assert answer.code == 250, answer
    found = re.search(r"queued as (\w+)", answer.text)
    assert found, answer
    return postfix.message(found[1])


def results(text: bytes) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """The gateway's field, which stands on top: each method's results with their properties."""
    field = re.search(rb"(?m)^Authentication-Results: gateway\.example;[^\n]*\n([ \t][^\n]*\n)*", text)
    assert field, text[:500]
    reader = authres.FeatureContext(authres.arc, authres.dkim_b, authres.dmarc)
    header = reader.parse(field[0].decode().replace("\n", "\r\n").replace("\r\n", ""))
    assert header.authserv_id == ID
    found: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for each in header.results:
        properties = {f"{known.type}.{known.name}": known.value for known in each.properties}
        found.setdefault(each.method, []).append((each.result, properties))
    return found


def words(text: bytes) -> dict[str, list[str]]:
    """The gateway's results, without properties."""
    return {method: [result for result, _ in each] for method, each in results(text).items()}


def test_signed_mail_passes_and_says_so(gateway: Gateway, postfix: Postfix) -> None:
    """SPF, DKIM and DMARC pass; the field and the record tell it, and nothing else was changed."""
    text = BANK.sign(message("joe@bank.example"))
    kept = queued(postfix, send(gateway, BANK_CLIENT, "joe@bank.example", text))
    added = kept.removesuffix(text.replace(b"\r\n", b"\n"))
    assert re.findall(rb"(?m)^[A-Z][A-Za-z-]*(?=:)", added) == [b"Received", b"Authentication-Results", b"Received"]
    found = results(kept)
    assert found["spf"][0] == ("pass", {"smtp.mailfrom": "joe@bank.example"})
    ((result, properties),) = found["dkim"]
    assert result == "pass"
    assert properties["header.d"] == "bank.example"
    assert properties["header.s"] == "s1"
    assert properties["header.a"] == "rsa-sha256"
    assert found["dmarc"] == [("pass", {"header.from": "bank.example", "policy.dmarc": "none"})]
    record = gateway.records()[-1]["authentication"]
    assert record["spf"]["mail_from"] == "pass"
    assert [each["result"] for each in record["dkim"]] == ["pass"]
    assert record["dmarc"]["result"] == "pass"
    assert record["dmarc"]["alignment"]["dkim"] == "bank.example"


def test_junk_signatures_on_top_hide_no_good_one(gateway: Gateway, postfix: Postfix) -> None:
    """Twelve of strangers stand above the bank's, and ten are verified: the bank's is one of them, and DMARC passes."""
    junk = "".join(
        f"DKIM-Signature: v=1; a=rsa-sha256; d=junk{number}.example; s=s1; h=from; bh={'A' * 43}=; b=AAAA\r\n"
        for number in range(12)
    )
    text = junk.encode() + BANK.sign(message("joe@bank.example"))
    found = words(queued(postfix, send(gateway, STRANGER, "x@stranger.example", text)))
    assert found["dmarc"] == ["pass"]
    assert found["dkim"].count("pass") == 1
    assert len(found["dkim"]) == 10


def test_signed_mail_of_another_way_passes_by_its_signature(gateway: Gateway, postfix: Postfix) -> None:
    """A forwarder that changes nothing breaks SPF's alignment, not DKIM's."""
    text = BANK.sign(message("joe@bank.example"))
    found = words(queued(postfix, send(gateway, STRANGER, "x@stranger.example", text)))
    assert (found["spf"][0], found["dkim"], found["dmarc"]) == ("pass", ["pass"], ["pass"])


def test_mail_of_a_domain_that_does_not_name_the_client_is_refused_by_spf(gateway: Gateway) -> None:
    """The domain says ``-all``, and the client is none of its own: 550 5.7.23 (RFC 7372)."""
    answer = send(gateway, STRANGER, "joe@bank.example", message("joe@bank.example"))
    assert (answer.code, answer.text[:6]) == (550, "5.7.23")


def test_forged_mail_is_refused_by_dmarc(gateway: Gateway, postfix: Postfix) -> None:
    """SPF passes for the envelope's own domain, and the From field names the bank: refused after the data."""
    before = postfix.queue_ids()
    answer = send(gateway, STRANGER, "x@stranger.example", message("joe@bank.example"))
    assert answer.code == 550
    record = gateway.records()[-1]
    assert record["decision"]["policy"] == "dmarc"
    assert record["authentication"]["dmarc"]["disposition"] == "reject"
    assert postfix.queue_ids() == before


def test_signed_mail_that_was_changed_is_refused_by_dmarc(gateway: Gateway) -> None:
    """One octet of the body differs from what was signed."""
    text = BANK.sign(message("joe@bank.example")).replace(b"a letter.", b"A letter.")
    assert send(gateway, STRANGER, "x@stranger.example", text).code == 550
    record = gateway.records()[-1]["authentication"]
    assert [each["result"] for each in record["dkim"]] == ["fail"]


def through_a_list(sealer: Signer, results: str) -> bytes:
    """The bank's signed letter after a mailing list added a footer and sealed it."""
    text = BANK.sign(message("joe@bank.example")) + b"-- \r\nYou get this because you are on the list.\r\n"
    return sealer.seal(text, results)


FORWARDED: Final = (
    "spf=pass smtp.mailfrom=bank.example; dkim=pass header.d=bank.example; "  # what the list found
    "dmarc=pass header.from=bank.example"
)


def test_forwarded_mail_with_a_trusted_seal_passes(gateway: Gateway, postfix: Postfix) -> None:
    """The list broke the signature; its seal, which is trusted, says that DMARC passed there."""
    text = through_a_list(LIST, FORWARDED)
    kept = queued(postfix, send(gateway, LIST_CLIENT, "bounces@list.example", text))
    found = words(kept)
    assert found["arc"] == ["pass"]
    assert found["dkim"] == ["fail"]
    record = gateway.records()[-1]["authentication"]
    assert record["arc"]["sealer"] == "list.example"
    assert record["dmarc"]["trusted_sealer"] == "list.example"


def test_a_seal_that_is_not_trusted_or_not_whole_rescues_nothing(gateway: Gateway) -> None:
    """Anyone can seal: only who is named counts, and only with a chain that verifies."""
    sealed_by_the_bank = through_a_list(BANK, FORWARDED)
    assert send(gateway, LIST_CLIENT, "bounces@list.example", sealed_by_the_bank).code == 550
    changed = through_a_list(LIST, FORWARDED).replace(b"on the list", b"on The list")
    assert send(gateway, LIST_CLIENT, "bounces@list.example", changed).code == 550
    failed_there = through_a_list(LIST, "dkim=fail header.d=bank.example; dmarc=fail header.from=bank.example")
    assert send(gateway, LIST_CLIENT, "bounces@list.example", failed_there).code == 550


def test_forged_fields_of_ours_are_removed_and_others_kept(gateway: Gateway, postfix: Postfix) -> None:
    """Whatever claims our id goes; every other octet stays as it was."""
    forged = (
        f"Authentication-Results: {ID}; dmarc=pass header.from=bank.example\r\n",
        f"AUTHENTICATION-results :\r\n\t(x) {ID.upper()}. 1\r\n ; spf=pass\r\n",
        f'Authentication-Results: "{ID}"; dkim=pass\r\n',
    )
    others = (
        f"Authentication-Results: mx.other.example;\r\n\tspf=pass  smtp.helo={ID}\r\n",
        f"X-Authentication-Results: {ID}; spf=pass\r\n",
        "X-Odd:   kept   as it is \t\r\n",
    )
    rest = message("joe@stranger.example")
    text = (forged[0] + others[0] + forged[1] + others[1] + others[2] + forged[2]).encode() + rest
    kept = queued(postfix, send(gateway, STRANGER, "joe@stranger.example", text))
    expected = ("".join(others).encode() + rest).replace(b"\r\n", b"\n")
    assert kept.endswith(b"\n" + expected)
    assert kept.lower().count(b"\nauthentication-results") == 2  # the gateway's, and the other's
    assert words(kept)["dmarc"] == ["none"]


SPAMASSASSIN: Final = f"""\
loadplugin Mail::SpamAssassin::Plugin::Check
loadplugin Mail::SpamAssassin::Plugin::AuthRes
authres_trusted_authserv {ID}
header SPF_PASS eval:check_authres_result('spf', 'pass')
header DKIM_FAIL eval:check_authres_result('dkim', 'fail')
header ARC_PASS eval:check_authres_result('arc', 'pass')
header DMARC_FAIL eval:check_authres_result('dmarc', 'fail')
header DMARC_PASS eval:check_authres_result('dmarc', 'pass')
add_header all Tests _TESTS_
"""


def spamassassin_tests(text: bytes, folder: Path) -> set[str]:
    """Which of the rules above SpamAssassin finds to hold for a message."""
    (folder / "rules.cf").write_text(SPAMASSASSIN)
    command = ["spamassassin", "-L", "-t", f"--siteconfigpath={folder}", f"--configpath={folder}", "-p", "/dev/null"]
    checked = subprocess.run(command, input=text, capture_output=True, check=True, timeout=60).stdout.decode()
    found = re.search(r"(?m)^X-Spam-Tests: (.*)$", checked)
    assert found, checked
    return set(found[1].split(","))


@pytest.mark.peer("spamassassin")
def test_spamassassin_believes_the_field(gateway: Gateway, postfix: Postfix, tmp_path: Path) -> None:
    """SpamAssassin's own plugin, which takes nothing that stands below a stranger's Received, finds each result."""
    sent = through_a_list(LIST, FORWARDED)
    kept = queued(postfix, send(gateway, LIST_CLIENT, "bounces@list.example", sent))
    assert spamassassin_tests(kept, tmp_path) == {"SPF_PASS", "DKIM_FAIL", "ARC_PASS", "DMARC_FAIL"}


@pytest.mark.peer("spamassassin")
def test_a_chain_that_cannot_be_told_now_spoils_no_other_result(
    gateway: Gateway, postfix: Postfix, tmp_path: Path
) -> None:
    """Where the sealer's DNS fails the field leaves arc out, the record has it, and SpamAssassin takes the field."""
    sent = SILENT.seal(message("joe@stranger.example"), "spf=pass smtp.mailfrom=stranger.example")
    kept = queued(postfix, send(gateway, STRANGER, "joe@stranger.example", sent))
    assert words(kept) == {"spf": ["pass", "none"], "dkim": ["none"], "dmarc": ["none"]}
    assert gateway.records()[-1]["authentication"]["arc"]["result"] == "temperror"
    assert spamassassin_tests(kept, tmp_path) == {"SPF_PASS"}


@pytest.mark.peer("rspamd")
def test_rspamd_matches_the_field(gateway: Gateway, postfix: Postfix) -> None:
    """The rule that the documentation gives finds a failure in the gateway's field, and in nobody else's."""
    patterns = {
        "GATEWAY_DMARC_FAIL": r"/^gateway\.example;.*dmarc=fail/s",
        "GATEWAY_DMARC_PASS": r"/^gateway\.example;.*dmarc=pass/s",
    }
    sent = through_a_list(LIST, FORWARDED)
    forged = f"Authentication-Results: {ID}; dmarc=pass header.from=bank.example\r\n".encode()
    kept = queued(postfix, send(gateway, LIST_CLIENT, "bounces@list.example", forged + sent))
    with Rspamd(patterns) as rspamd:
        assert rspamd.symbols(kept) == {"GATEWAY_DMARC_FAIL"}
        assert rspamd.symbols(kept.replace(b"Authentication-Results: gateway.", b"Authentication-Results: g.")) == set()


@pytest.mark.peer("unbound")
def test_it_works_with_unbound(dns: DnsServer, postfix: Postfix) -> None:
    """The same mail through unbound: what passes passes, what is forged is refused."""
    with Unbound(dns) as unbound, gateway_with(unbound.address, postfix) as gateway:
        text = BANK.sign(message("joe@bank.example"))
        found = words(queued(postfix, send(gateway, BANK_CLIENT, "joe@bank.example", text)))
        assert (found["spf"][0], found["dkim"], found["dmarc"]) == ("pass", ["pass"], ["pass"])
        assert send(gateway, STRANGER, "x@stranger.example", message("joe@bank.example")).code == 550


def test_a_resolver_that_is_down_defers_and_never_refuses(postfix: Postfix) -> None:
    """Nobody answers where the DNS should be: every kind of mail is deferred with 4xx, none refused, none let in."""
    before = postfix.queue_ids()
    with gateway_with(f"127.0.0.1:{free_port()}", postfix) as gateway:
        for sender, text in (
            ("joe@bank.example", BANK.sign(message("joe@bank.example"))),
            ("x@stranger.example", message("joe@bank.example")),
            ("", message("joe@bank.example")),
        ):
            answer = send(gateway, STRANGER, sender, text)
            assert 400 <= answer.code < 500, (sender, answer)
    assert postfix.queue_ids() == before


def test_a_dns_server_that_never_answers_holds_up_nobody_else(gateway: Gateway, dns: DnsServer) -> None:
    """While one session waits for the DNS, others come, are checked, and go; then the first is deferred."""
    with client(gateway, STRANGER) as waiting:
        waiting.hello()
        waiting.send(b"MAIL FROM:<joe@slow.example>\r\nRCPT TO:<alice@example.com>\r\n")
        poll(lambda: any(name == "slow.example" for _, name, _ in dns.questions))
        for number in range(3):
            text = BANK.sign(message("joe@bank.example", body=f"{number}\r\n"))
            assert send(gateway, BANK_CLIENT, "joe@bank.example", text).code == 250
        codes = [answer.code for answer in waiting.replies(2)]
    assert codes[0] == 250
    assert 400 <= codes[1] < 500


def test_spf_records_that_include_each_other_are_a_permanent_error(gateway: Gateway, postfix: Postfix) -> None:
    """The limit of RFC 7208 4.6.4 ends it, and by default the mail passes."""
    kept = queued(postfix, send(gateway, STRANGER, "joe@loop.example", message("joe@loop.example")))
    assert words(kept)["spf"][0] == "permerror"


def test_ten_thousand_signatures_are_handled_in_bounded_time(gateway: Gateway, postfix: Postfix) -> None:
    """What fits into the header's limit is received; few signatures are looked at and told. The next mail is served."""
    signature = (
        "DKIM-Signature: v=1; a=rsa-sha256; d=bank.example; s=s1; h=from; "
        "bh=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=; b={0}AAAA\r\n"
    )
    many = "".join(signature.format(number) for number in range(100_000, 110_000))
    text = message("joe@stranger.example", fields=many)
    kept = queued(postfix, send(gateway, STRANGER, "joe@stranger.example", text))
    assert len(words(kept)["dkim"]) <= 20
    too_many = message("joe@stranger.example", fields=many * 2)
    assert send(gateway, STRANGER, "joe@stranger.example", too_many).code in {552, 554}
    assert send(gateway, BANK_CLIENT, "joe@bank.example", BANK.sign(message("joe@bank.example"))).code == 250


def test_huge_header_fields_are_refused_in_bounded_memory(gateway: Gateway) -> None:
    """500 fields of 100 KB: refused when the limit is passed, and the worker has not grown by what was sent."""
    before = gateway.worker().memory_info().rss
    with client(gateway, STRANGER) as wire:
        wire.hello()
        for line in ("MAIL FROM:<joe@stranger.example>", "RCPT TO:<alice@example.com>", "DATA"):
            assert wire.command(line).code < 400
        field = b"X-Long: " + b"x" * 990 + b"\r\n" + (b" " + b"y" * 990 + b"\r\n") * 100
        for _ in range(500):
            wire.send(field)
        wire.send(b"\r\nx\r\n.\r\n")
        assert wire.reply().code in {552, 554}
    assert gateway.worker().memory_info().rss < before + 30_000_000
    assert send(gateway, BANK_CLIENT, "joe@bank.example", BANK.sign(message("joe@bank.example"))).code == 250
