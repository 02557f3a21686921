"""Not known is not a no: every sort of half an answer of the DNS, at every question that decides something.

``USES`` has, for each place where an answer becomes a word that somebody acts on, the question, and the words for an
answer, for "there is none", and for all that is neither. A half answer has to lead to the last, whatever it looks like,
and is forgotten when a failure is. ``docs/decisions/not-known.md`` says the same in words.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

from gateway.adapters.dns.cache import Lifetimes
from gateway.adapters.dns.resolver import DnsResolver
from gateway.admission.trace import sender_authentication
from gateway.backend.client_info import identity
from gateway.backend.next_hop import expand
from gateway.config.backend import NextHop
from gateway.policy import Policy
from gateway.resolver import Resolver, SessionResolver, client_name
from gateway.session import Session, Transaction
from gateway.testing import SettableClock, Site, message, run
from gateway.verdict import Action, Stage
from policies.access import Access
from policies.arc import Arc
from policies.concurrency import Concurrency
from policies.dkim import Dkim
from policies.dmarc import Dmarc
from policies.sender_domain import SenderDomain
from policies.spf import Spf
from tests.support.arc_sealing import sealed
from tests.support.dkim_signing import BODY, HEADER, NOW, SELECTOR, key_record, rsa_key, signature
from tests.support.dns_server import DnsServer
from tests.support.half_answers import Half
from tests.support.signing import txt

CLIENT: Final = "192.0.2.1"
NAMED: Final = "1.2.0.192.in-addr.arpa"
KEY: Final = txt(key_record(rsa_key()))
TIMEOUT: Final = 1.0  # seconds: a name server on loopback takes a thousandth of it
FAILURE: Final = 5.0

Look: TypeAlias = Callable[[Resolver], Awaitable[str]]


class Use(NamedTuple):
    """One place.

    Attributes:
        question: What is asked, as name and type.
        records: The answer.
        look: Asks, and gives the word that it comes to.
        found: The word for the answer.
        none: That for the answer that there is none.
        unknown: That for everything else.
        beside: What the zone has besides.
    """

    question: tuple[str, str]
    records: tuple[str, ...]
    look: Look
    found: str
    none: str
    unknown: str
    beside: Mapping[str, Mapping[str, tuple[str, ...]]] = {}


def _at(resolver: Resolver, client: str = CLIENT) -> tuple[Site, Session]:
    """A site and a client whose DNS this is."""
    site = Site(domains=["example.net"])
    site.clock.set(NOW)
    session = site.session(client, helo_name="localhost")
    session.resolver = resolver
    session.find_client_name = partial(client_name, resolver)
    return site, session


async def _found(policy: Policy[Any], stage: Stage, *arguments: object) -> str:
    """The outcome's name; a refusal for good is marked."""
    finding = await run(policy, stage, *arguments)
    if finding is None:
        return "none"
    return f"5xx {finding.outcome.name}" if finding.outcome.action is Action.REJECT else finding.outcome.name


def _field(transaction: Transaction) -> str:
    """The results in the Authentication-Results field, without what is beside them."""
    (field,) = sender_authentication(transaction, authserv_id="mx.example.com", address=CLIENT)
    return " ".join(
        word.strip(";")
        for word in field.decode().split()
        if word.startswith(("spf=", "dkim=", "dmarc=", "iprev=", "arc="))
    )


def sender_domain(domain: str, **options: object) -> Look:
    """What ``sender_domain`` finds."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver)
        return await _found(
            site.policy(SenderDomain, options), Stage.MAIL, site.transaction(f"a@{domain}", session=session)
        )

    return look


def spf(domain: str, client: str = CLIENT) -> Look:
    """What ``spf`` finds, and what the field says."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver, client)
        transaction = site.transaction(f"a@{domain}", session=session)
        found = await _found(site.policy(Spf), Stage.MAIL, transaction)
        return f"{found}, {_field(transaction)}"

    return look


def signed(policy: type[Policy[Any]], header: bytes) -> Look:
    """What ``dkim`` or ``arc`` finds, and what the field says."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver)
        transaction = site.transaction(session=session)
        on = message(header + b"\r\n" + BODY)
        return f"{await _found(site.policy(policy), Stage.MESSAGE, transaction, on)}, {_field(transaction)}"

    return look


def dmarc(domain: str, *, is_signed: bool = False) -> Look:
    """What ``dmarc`` finds, with ``dkim`` before it where the message is signed, and what the field says."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver)
        transaction = site.transaction(session=session)
        header = b"From: a@" + domain.encode() + b"\r\n"
        if is_signed:
            header = signature(header, BODY, rsa_key(), {"d": domain, "h": "from"}) + header
        on = message(header + b"\r\n" + BODY)
        if is_signed:
            await run(site.policy(Dkim), Stage.MESSAGE, transaction, on)
        return f"{await _found(site.policy(Dmarc), Stage.MESSAGE, transaction, on)}, {_field(transaction)}"

    return look


def name(client: str) -> Look:
    """What the field, XCLIENT and the record say of the client's name."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver, client)
        assert identity(session).attributes["NAME"] == "[TEMPUNAVAIL]", "it is not known before it was asked for"
        found = await session.resolve_client_name()
        transaction = site.transaction(session=session)
        transaction.authentication.dkim = ()
        return f"{_field(transaction).partition(' ')[0]} {identity(session).attributes['NAME']} {found.status}"

    return look


def access(client: str, options: Mapping[str, object]) -> Look:
    """What ``access`` finds when the client connects."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver, client)
        return await _found(site.policy(Access, options), Stage.CONNECT, session)

    return look


def concurrency(client: str) -> Look:
    """What ``concurrency`` finds of a second connection of a client whose name may be allowed more."""

    async def look(resolver: Resolver) -> str:
        site, session = _at(resolver, client)
        policy = site.policy(Concurrency, {"limit": 1, "allow_names": [".good.test"]})
        await session.resolve_client_name()
        await run(policy, Stage.CONNECT, session)
        return await _found(policy, Stage.CONNECT, _named(site, session))

    return look


def _named(site: Site, like: Session) -> Session:
    """A further session of the same client."""
    session = site.session(str(like.client_address))
    session.client_name = like.client_name
    return session


def next_hop(domain: str) -> Look:
    """Which servers a backend has."""

    async def look(resolver: Resolver) -> str:
        found = await expand(resolver, NextHop.parse(f"mx:{domain}"), 25)
        return "keep the old" if found is None else " ".join(map(str, found.endpoints)) or "no servers"

    return look


def _client(last: int) -> tuple[str, str]:
    return f"192.0.2.{last}", f"{last}.2.0.192.in-addr.arpa"


def _signature(domain: str) -> bytes:
    return signature(HEADER, BODY, rsa_key(), {"d": domain}) + HEADER


def _of_name(last: int, look: Callable[[str], Look], found: str, none: str, unknown: str) -> list[Use]:
    """The two questions for the name of a client of its own each."""
    uses = []
    for number, kind in ((last, "PTR"), (last + 1, "A")):
        address, reverse = _client(number)
        host = f"h{number}.good.test"
        steps = {(reverse, "PTR"): (f"{host}.",), (host, "A"): (address,)}
        question = (reverse, "PTR") if kind == "PTR" else (host, "A")
        beside = {of: {of_type: records} for (of, of_type), records in steps.items() if (of, of_type) != question}
        told = found.format(host=host)
        uses.append(Use(question, steps[question], look(address), told, none, unknown, beside))
    return uses


MX: Final = ("10 mx.ok.test.",)
V4: Final = ("8.8.8.8",)
FAILED: Final = "temperror, spf=temperror"

USES: Final = [
    Use(("sd-mx.test", "MX"), MX, sender_domain("sd-mx.test"), "none", "5xx unreachable", "unverifiable",
        {"sd-mx.test": {"TXT": ("x",)}}),
    Use(("sd-gone.test", "MX"), MX, sender_domain("sd-gone.test"), "none", "5xx unknown", "unverifiable"),
    Use(("sd-a.test", "A"), V4, sender_domain("sd-a.test"), "none", "5xx unreachable", "unverifiable",
        {"sd-a.test": {"TXT": ("x",)}}),
    Use(("sd-aaaa.test", "AAAA"), ("2001:4860:4860::8888",), sender_domain("sd-aaaa.test"), "none",
        "5xx unreachable", "unverifiable", {"sd-aaaa.test": {"TXT": ("x",)}}),
    Use(("mx.sd-host.test", "A"), V4, sender_domain("sd-host.test", mx_hosts=True), "none", "bogus_mx", "unverifiable",
        {"sd-host.test": {"MX": ("10 mx.sd-host.test.",)}}),
    Use(("spf.test", "TXT"), ('"v=spf1 ip4:192.0.2.1 -all"',), spf("spf.test"), "pass, spf=pass", "none, spf=none",
        FAILED),
    Use(("in.test", "TXT"), ('"v=spf1 ip4:192.0.2.1 -all"',), spf("include.test"), "pass, spf=pass",
        "permerror, spf=permerror", FAILED, {"include.test": {"TXT": ('"v=spf1 include:in.test -all"',)}}),
    Use(("to.test", "TXT"), ('"v=spf1 ip4:192.0.2.1 -all"',), spf("redirect.test"), "pass, spf=pass",
        "permerror, spf=permerror", FAILED, {"redirect.test": {"TXT": ('"v=spf1 redirect=to.test"',)}}),
    Use(("host.a.test", "A"), (CLIENT,), spf("a.test"), "pass, spf=pass", "5xx fail, spf=fail", FAILED,
        {"a.test": {"TXT": ('"v=spf1 a:host.a.test -all"',)}}),
    Use(("mx.test", "MX"), ("10 host.mx.test.",), spf("mx.test"), "pass, spf=pass", "5xx fail, spf=fail", FAILED,
        {"mx.test": {"TXT": ('"v=spf1 mx -all"',)}, "host.mx.test": {"A": (CLIENT,)}}),
    Use(("host.mxa.test", "A"), (CLIENT,), spf("mxa.test"), "pass, spf=pass", "5xx fail, spf=fail", FAILED,
        {"mxa.test": {"TXT": ('"v=spf1 mx -all"',), "MX": ("10 host.mxa.test.",)}}),
    Use(("yes.exists.test", "A"), ("127.0.0.2",), spf("exists.test"), "pass, spf=pass", "5xx fail, spf=fail", FAILED,
        {"exists.test": {"TXT": ('"v=spf1 exists:yes.exists.test -all"',)}}),
    Use((NAMED, "PTR"), ("host.ptr.test.",), spf("ptr.test"), "pass, spf=pass", "5xx fail, spf=fail", FAILED,
        {"ptr.test": {"TXT": ('"v=spf1 ptr -all"',)}, "host.ptr.test": {"A": (CLIENT,)}}),
    Use(("host.ptra.test", "A"), ("192.0.2.2",), spf("ptra.test", "192.0.2.2"), "pass, spf=pass",
        "5xx fail, spf=fail", FAILED,
        {"ptra.test": {"TXT": ('"v=spf1 ptr -all"',)}, "2.2.0.192.in-addr.arpa": {"PTR": ("host.ptra.test.",)}}),
    Use((f"{SELECTOR}._domainkey.dkim.test", "TXT"), (KEY,), signed(Dkim, _signature("dkim.test")), "pass, dkim=pass",
        "permerror, dkim=permerror", "temperror, dkim=temperror"),
    Use((f"{SELECTOR}._domainkey.list.example", "TXT"), (KEY,), signed(Arc, sealed(HEADER)), "pass, arc=pass",
        "fail, arc=fail", "temperror, "),
    Use((f"{SELECTOR}._domainkey.signed.test", "TXT"), (KEY,), dmarc("signed.test", is_signed=True),
        "pass, dkim=pass dmarc=pass", "5xx reject, dkim=permerror dmarc=fail",
        "temperror, dkim=temperror dmarc=temperror", {"_dmarc.signed.test": {"TXT": ('"v=DMARC1; p=reject"',)}}),
    Use(("_dmarc.own.test", "TXT"), ('"v=DMARC1; p=reject"',), dmarc("own.test"), "5xx reject, dmarc=fail",
        "none, dmarc=none", "temperror, dmarc=temperror"),
    Use(("_dmarc.org.test", "TXT"), ('"v=DMARC1; p=reject"',), dmarc("below.org.test"), "5xx reject, dmarc=fail",
        "none, dmarc=none", "temperror, dmarc=temperror"),
    Use(("there.np.test", "A"), V4, dmarc("there.np.test"), "fail, dmarc=fail", "5xx reject, dmarc=fail",
        "temperror, dmarc=temperror", {"_dmarc.np.test": {"TXT": ('"v=DMARC1; p=none; np=reject"',)}}),
    *_of_name(10, name, "iprev=pass {host} confirmed", "iprev=fail [UNAVAILABLE] unknown",
              "iprev=temperror [TEMPUNAVAIL] temporary"),
    *_of_name(20, lambda client: access(client, {"deny": {"client_names": [".good.test"]}}), "5xx denied", "none",
              "skipped"),
    *_of_name(30, lambda client: access(client, {"deny": {"clients": ["192.0.2.0/24"]},
                                                 "allow": {"client_names": [".good.test"]}}),
              "allowed", "5xx denied", "unverifiable"),
    *_of_name(40, concurrency, "none", "exceeded", "unverifiable"),
    Use(("hop.test", "MX"), MX, next_hop("hop.test"), "mx.ok.test:25", "no servers", "keep the old"),
    Use(("host.hop.test", "A"), V4, next_hop("hop2.test"), "host.hop.test:25", "no servers", "keep the old",
        {"hop2.test": {"MX": ("10 host.hop.test.",)}}),
]  # fmt: skip

ZONE: Final[dict[str, dict[str, tuple[str, ...]]]] = {"mx.ok.test": {"A": V4}}


def _zone(*, whole: bool) -> dict[str, Mapping[str, tuple[str, ...]]]:
    """All records that the table speaks of, with or without those that it asks for."""
    zone = {of: dict(records) for of, records in ZONE.items()}
    for use in USES:
        for of, records in use.beside.items():
            zone.setdefault(of, {}).update(records)
        if whole:
            of, record_type = use.question
            zone.setdefault(of, {})[record_type] = use.records
    return dict(zone)


class World(NamedTuple):
    """A name server, who asks it, and the clock of their memory."""

    server: DnsServer
    resolver: DnsResolver
    clock: SettableClock

    async def words(self) -> list[str]:
        """What all uses come to, in the order of the table."""
        return await asyncio.gather(*(use.look(self.resolver) for use in USES))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world where all is well."""
    clock = SettableClock()
    async with DnsServer(_zone(whole=True)) as server:
        lifetimes = Lifetimes(floor=60.0, failure=FAILURE)
        resolver = DnsResolver([server.address], timeout=TIMEOUT, lifetimes=lifetimes, clock=clock.now)
        yield World(server, resolver, clock)
        await resolver.close()


def _wrong(words: list[str], wanted: str) -> dict[str, tuple[str, str]]:
    """Questions whose word is another than the table's: what it is, and what is wanted."""
    return {
        " ".join(use.question): (word, getattr(use, wanted))
        for use, word in zip(USES, words, strict=True)
        if word != getattr(use, wanted)
    }


async def test_answers_and_their_absence_lead_to_the_words_of_the_table(world: World) -> None:
    """A whole answer is a yes, a name that has no such record a no: the table says what follows."""
    assert _wrong(await world.words(), "found") == {}
    world.server.zone = dict(_zone(whole=False))
    world.clock.advance(100_000)
    assert _wrong(await world.words(), "none") == {}


@pytest.mark.parametrize("half", Half)
async def test_half_an_answer_is_neither_a_yes_nor_a_no(world: World, half: Half) -> None:
    """Nobody is refused for good, no field says "none", and it is forgotten as soon as a failure is."""
    world.server.halves = {use.question: half for use in USES}
    words = await world.words()
    assert _wrong(words, "unknown") == {}
    assert not any("5xx" in word or "=none" in word or "[UNAVAILABLE]" in word for word in words)
    world.server.halves = {}
    world.clock.advance(FAILURE + 0.001)
    assert _wrong(await world.words(), "found") == {}


async def test_a_no_without_a_term_is_forgotten_like_a_failure(world: World) -> None:
    """A negative answer without an SOA says not how long it holds, and is kept for no longer than a failure."""
    whole, world.server.zone = world.server.zone, dict(_zone(whole=False))
    world.server.soa = False
    assert _wrong(await world.words(), "none") == {}
    world.server.zone = whole
    world.clock.advance(FAILURE + 0.001)
    assert _wrong(await world.words(), "found") == {}


async def test_a_session_that_may_ask_no_more_knows_nothing(world: World) -> None:
    """What is not asked because the session's questions or time are used up is not known, everywhere."""
    for queries, seconds in ((0, 60.0), (1000, 0.0)):
        bounded = SessionResolver(world.resolver, queries, seconds)
        words = [await use.look(bounded) for use in USES]
        assert not any("5xx" in word or "=none" in word or "[UNAVAILABLE]" in word for word in words)
        assert world.server.questions == []
