"""All that is hostile to SPF, DKIM and DMARC at the same time, beside ordinary mail.

A worker, its DNS server, its backend and all clients live in one event loop, so that each has one chance in a turn of
it. How long ordinary mail waits is counted in turns, and how much is done in a turn in calls of functions. The loop
never rests, so that waiting for nothing takes turns, too. No answer of the DNS is remembered: each message asks anew.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.adapters.dns.resolver import DnsResolver
from gateway.config.registry import Registry
from gateway.records import DecisionRecord
from tests.support.calls import CallCount
from tests.support.dns_server import DnsServer
from tests.support.loops import on_uvloop
from tests.support.serving import Site, serving
from tests.support.signing import Signer, txt

BANK: Final = Signer("bank.example", 1)
BANK_CLIENT, STRANGER = "192.0.2.10", "192.0.2.66"
BANK_ZONE: Final[dict[str, Any]] = {
    "bank.example": {"TXT": [txt(f"v=spf1 ip4:{BANK_CLIENT} -all")]},
    "_dmarc.bank.example": {"TXT": [txt("v=DMARC1; p=reject")]},
    **BANK.zone,
}

ANYBODY: Final = {"TXT": [txt("v=spf1 +all")]}

CLIENTS, MESSAGES = 4, 6
"""Ordinary clients, and how many messages each of them sends, one behind the other."""

TURNS: Final = 300
"""Turns for one ordinary message; it takes some 30, and up to 60 while everybody begins."""

CALLS: Final = 300_000
"""Calls of functions in one turn, of all that is done for all who are there; there are up to 120,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A hostile message from a domain of its own, ``{d}`` in texts.

    Attributes:
        code: The reply that ends it.
        found: What one of the methods comes to, None where it is not looked at.
        zone: What the domain publishes.
        local_part: That of the reverse-path.
        fields: What stands above the From field, and how often.
        author: The From field's value.
        body: The body, and how often.
        step: How many octets of the message are sent at a time.
    """

    code: int
    found: tuple[str, str] | None
    zone: Callable[[str], dict[str, Any]] = lambda domain: {domain: ANYBODY}
    local_part: str = "joe"
    fields: tuple[str, int] = ("", 0)
    author: str = "joe@{d}"
    body: tuple[bytes, int] = (b"Hello,\r\nthis is a letter.\r\n", 1)
    step: int = 65_536

    def text(self, domain: str) -> bytes:
        """The message."""
        piece, times = self.fields
        header = f"{piece * times}From: {self.author}\r\nTo: alice@example.com\r\nSubject: a letter\r\n\r\n"
        body, times = self.body
        return header.replace("{d}", domain).encode() + body * times


TEN: Final = range(10)


def signatures(names: str = "from") -> str:
    """Ten that look right, each with a key of its own."""
    return "".join(
        f"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d={{d}}; s=s{number}; h={names}; "
        "bh=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=; b=AAAA\r\n"
        for number in TEN
    )


def keys(domain: str, record: Mapping[str, Any] | str) -> dict[str, Any]:
    """What stands where their keys are looked for."""
    return {domain: ANYBODY} | {f"s{number}._domainkey.{domain}": record for number in TEN}


def mx_records(domain: str) -> dict[str, Any]:
    """Ten names of ten hosts each."""
    hosts = [[f"h{number}.m{name}.{domain}" for number in TEN] for name in TEN]
    return {
        domain: {"TXT": [txt("v=spf1 " + "".join(f"mx:m{name}.{domain} " for name in TEN) + "-all")]},
        **{f"m{name}.{domain}": {"MX": [f"10 {host}." for host in hosts[name]]} for name in TEN},
        **{host: {"A": ["198.51.100.1"]} for each in hosts for host in each},
    }


ATTACKS: Final = {
    "circular": Attack(
        code=250,
        found=("spf", "permerror"),
        zone=lambda domain: {
            domain: {"TXT": [txt(f"v=spf1 include:other.{domain} -all")]},
            f"other.{domain}": {"TXT": [txt(f"v=spf1 include:{domain} -all")]},
        },
    ),
    "ten-mx-of-ten-hosts": Attack(code=250, found=("spf", "permerror"), zone=mx_records),
    "long-macros": Attack(
        code=250,
        found=("spf", "permerror"),
        zone=lambda domain: {domain: {"TXT": [txt("v=spf1 " + f"exists:{'%{s}%{l-}' * 9}.{domain} " * 10 + "-all")]}},
        local_part="-".join("abcdefghijklmnopqrstuvwxyz012345"),
    ),
    "silent-sender": Attack(code=451, found=None, zone=lambda domain: {domain: "TIMEOUT"}),
    "silent-keys": Attack(
        code=250,
        found=("dkim", "temperror"),
        zone=lambda domain: keys(domain, "TIMEOUT"),
        fields=(signatures(), 1),
    ),
    "silent-policy": Attack(
        code=451,
        found=("dmarc", "temperror"),
        zone=lambda domain: {domain: ANYBODY, f"_dmarc.{domain}": "TIMEOUT"},
    ),
    "octets-of-the-dns": Attack(code=250, found=("spf", "pass")),
    "octets-of-the-client": Attack(code=250, found=("spf", "pass"), step=1),
    "keys-of-16-kb": Attack(
        code=250,
        found=("dkim", "policy"),
        zone=lambda domain: keys(domain, {"TXT": [txt("v=DKIM1; p=" + "A" * 16_384)]}),
        fields=(signatures(), 1),
    ),
    "policies-of-16-kb": Attack(
        code=250,
        found=("dmarc", "none"),
        zone=lambda domain: {
            domain: ANYBODY,
            f"_dmarc.{domain}": {"TXT": [txt(f"v=DMARC1; p=reject; n={number}" + "; x=y" * 3200) for number in (1, 2)]},
        },
    ),
    "thousands-of-signatures": Attack(code=250, found=("dkim", "permerror"), fields=(signatures(), 550)),
    "too-many-signatures": Attack(code=552, found=None, fields=(signatures(), 1000)),
    "thousands-of-names": Attack(code=250, found=("dkim", "permerror"), fields=(signatures(":a" * 48_000), 1)),
    "huge-fields": Attack(
        code=552, found=None, fields=("X-Long: " + "x" * 990 + "\r\n" + (" " + "y" * 990 + "\r\n") * 100, 100)
    ),
    "author-of-comments": Attack(code=550, found=("dmarc", "permerror"), author="(a)" * 300_000 + "<joe@{d}>"),
    "table-of-tabs": Attack(
        code=250, found=("dkim", "permerror"), fields=(signatures(), 1), body=(b"a\t \tb \t" * 140 + b"\r\n", 1000)
    ),
    "line-of-spaces": Attack(
        code=250, found=("dkim", "permerror"), fields=(signatures(), 1), body=(b" " * 1_000_000 + b"a\r\n", 1)
    ),
}


def domain_of(name: str) -> str:
    """The domain of an attacker."""
    return f"{name}.example"


class Arena:
    """A site under attack.

    Args:
        site: The site.
        dns: The DNS that it asks.
    """

    def __init__(self, site: Site, dns: DnsServer) -> None:
        self.site = site
        self.dns = dns
        self._told: defaultdict[str, list[int]] = defaultdict(list)

    async def attack(self, name: str) -> None:
        """Attack once."""
        kind, domain = ATTACKS[name], domain_of(name)
        await self.send(STRANGER, f"{kind.local_part}@{domain}", kind.text(domain), kind.step)

    async def send(self, address: str, sender: str, text: bytes, step: int = 65_536) -> None:
        """Send a message, unless its envelope is refused."""
        async with self.site.client(greeting=None) as client:
            client.writer.write(f"PROXY TCP4 {address} 198.51.100.1 45678 25\r\n".encode())
            assert (await client.reply()).startswith("220")
            for line in ("EHLO client.example", f"MAIL FROM:<{sender}>", "RCPT TO:<alice@example.com>", "DATA"):
                code = int((await client.say(line))[:3])
                if code >= 400:
                    break
            else:
                octets = text + b".\r\n"
                for at in range(0, len(octets), step):
                    client.writer.write(octets[at : at + step])
                    await client.writer.drain()
                    await asyncio.sleep(0)
                code = int((await client.reply())[:3])
            self._told[sender.partition("@")[2]].append(code)

    async def ended(self) -> dict[str, tuple[list[int], list[DecisionRecord]]]:
        """The codes that each sender's domain was told and its records, once all sessions have ended."""
        await self.site.empty()
        found: defaultdict[str, list[DecisionRecord]] = defaultdict(list)
        for record in self.site.records:
            found[(record.reverse_path or "").partition("@")[2]].append(record)
        assert found.keys() == self._told.keys()
        return {domain: (codes, found[domain]) for domain, codes in self._told.items()}


@asynccontextmanager
async def arena(folder: Path, patience: float) -> AsyncIterator[Arena]:
    """A site whose DNS has the domains of all attackers, and waits so many seconds for an answer."""
    zone = dict(BANK_ZONE)
    for name, kind in ATTACKS.items():
        zone |= kind.zone(domain_of(name))
    config = {
        "listeners": [{"smtp": "127.0.0.1:0", "proxy_protocol": {"trusted": ["127.0.0.1"]}}],
        "dns": {"client_names": False},
        "policies": ["relay", "recipient", "size", "spf", "dkim", "arc", "dmarc"],
    }
    async with DnsServer(zone) as dns:
        dns.slow = {domain_of("octets-of-the-dns")}
        resolver = DnsResolver([dns.address], timeout=patience, cache=0)
        try:
            async with serving(folder, config, registry=Registry.installed(), resolver=resolver) as site:
                yield Arena(site, dns)
        finally:
            await resolver.close()


def check(name: str, codes: list[int], records: list[DecisionRecord]) -> None:
    """Each attack was answered as it should be, and left its record with what was found."""
    kind = ATTACKS[name]
    assert set(codes) == {kind.code}, name
    assert len(records) == len(codes), name
    for record in records:
        assert record.authentication is not None, name
        assert record.decision.result == {2: "accepted", 4: "deferred", 5: "rejected"}[kind.code // 100], name
        if kind.found is not None:
            assert kind.found in results(record), name


def results(record: DecisionRecord) -> set[tuple[str, str]]:
    """Methods and results."""
    known = record.authentication
    assert known is not None
    found = {("dkim", each.result.value) for each in known.dkim or ()}
    if known.spf is not None:
        found.add(("spf", known.spf.mail_from.value))
    if known.dmarc is not None:
        found.add(("dmarc", known.dmarc.result.value))
    return found


@pytest.mark.parametrize("name", ATTACKS)
@on_uvloop
async def test_an_attack_alone(tmp_path: Path, name: str) -> None:
    """What each attack comes to when nothing else is going on."""
    async with arena(tmp_path, patience=1 if name.startswith("silent") else 20) as under:
        await under.attack(name)
        check(name, *(await under.ended())[domain_of(name)])


class Turns:
    """Keeps the loop turning, and counts.

    Attributes:
        count: How many turns there were.
        longest: How many functions were called in the turn with the most calls.
    """

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0

    async def go_on(self) -> None:
        """Turn until cancelled."""
        with CallCount() as calls:
            while True:
                before = calls.count
                await asyncio.sleep(0)
                self.count += 1
                self.longest = max(self.longest, calls.count - before)


@on_uvloop
async def test_ordinary_mail_is_not_held_up_by_all_attacks_together(tmp_path: Path) -> None:
    """It gets its 250 in few turns, of which none is long; and each attack comes to the same as alone."""
    text = BANK.sign(b"From: joe@bank.example\r\nTo: alice@example.com\r\nSubject: a letter\r\n\r\nHello.\r\n")
    turns = Turns()
    waited: list[int] = []
    ordinary_has_ended = False

    async def attacker(name: str) -> None:
        await under.attack(name)
        while not ordinary_has_ended:
            await under.attack(name)

    async def client() -> None:
        for _ in range(MESSAGES):
            begun = turns.count
            await under.send(BANK_CLIENT, "joe@bank.example", text)
            waited.append(turns.count - begun)

    async with arena(tmp_path, patience=8) as under:  # what never comes is waited for until all else has ended
        turning = asyncio.create_task(turns.go_on())
        async with asyncio.TaskGroup() as attackers:
            for name in ATTACKS:
                attackers.create_task(attacker(name))
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(client())
            ordinary_has_ended = True
            turning.cancel()
            asked = {name for _, name, _ in under.dns.questions}
        told = await under.ended()
    assert {domain_of(name) for name in ATTACKS} <= asked, "an attack came too late to matter"
    assert told["bank.example"][0] == [250] * CLIENTS * MESSAGES
    assert max(waited) < TURNS, sorted(waited)
    assert turns.longest < CALLS
    for name in ATTACKS:
        check(name, *told[domain_of(name)])
    accepted = sum(code == 250 for codes, _ in told.values() for code in codes)
    assert len(under.site.backend.messages) == accepted
