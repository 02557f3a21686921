"""SPF results that hold for a while: for whom, for how long, and how many of them."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from gateway.mailauth.results import Spf, SpfCheck, SpfResult
from gateway.mailauth.spf import check_sender
from gateway.mailauth.spf_memory import SpfMemory
from gateway.resolver import Answer, RecordType, Status
from gateway.smtp.path import Mailbox

CLIENT = ip_address("192.0.2.1")


class Zone:
    """A resolver whose answers hold for a while, and that counts what it is asked."""

    def __init__(self, texts: dict[str, str], ttls: dict[str, float] | None = None) -> None:
        self.texts = texts
        self.ttls = ttls or {}
        self.asked = 0
        self.fault: Status | None = None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        self.asked += 1
        ttl = self.ttls.get(name, 300.0)
        if self.fault is not None:
            return Answer(self.fault, (), ttl)
        if record_type is not RecordType.TXT or name not in self.texts:
            return Answer(Status.NXDOMAIN, (), ttl)
        return Answer(Status.FOUND, (self.texts[name],), ttl)

    def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - of the interface
        return None


class Clock:
    """A clock that stands still until it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _check(
    zone: Zone, memory: SpfMemory, *, client: str = "192.0.2.1", sender: str = "a", helo: str = "[192.0.2.1]"
) -> Spf:
    path = Mailbox(f"{sender}@example.com", sender, "example.com")
    return await check_sender(zone, address=ip_address(client), reverse_path=path, helo=helo, memory=memory)


async def test_the_same_check_again_asks_nothing_and_comes_to_the_same() -> None:
    """Another sender of the domain, and another HELO name, too; what the record shows of a fail stays with it."""
    zone = Zone({"example.com": "v=spf1 ip4:192.0.2.1 -all exp=why.example.com", "why.example.com": "not %{i}"})
    memory = SpfMemory()
    passed, failed = await _check(zone, memory), await _check(zone, memory, client="192.0.2.2")
    asked = zone.asked
    again = await _check(zone, memory, sender="b", helo="[192.0.2.9]")
    failed_again = await _check(zone, memory, client="192.0.2.2", sender="b")
    assert zone.asked == asked == 3
    assert (again, failed_again) == (passed, failed)
    assert passed.mail_from.result is SpfResult.PASS
    assert failed_again.mail_from.explanation == "not 192.0.2.2"
    assert failed_again.mail_from.steps == failed.mail_from.steps != ()


async def test_another_client_is_another_check() -> None:
    """What one client may do says nothing about the next."""
    zone, memory = Zone({"example.com": "v=spf1 ip4:192.0.2.1 -all"}), SpfMemory()
    assert (await _check(zone, memory)).mail_from.result is SpfResult.PASS
    assert (await _check(zone, memory, client="192.0.2.2")).mail_from.result is SpfResult.FAIL


async def test_a_result_holds_as_long_as_the_shortest_of_its_answers() -> None:
    """What a domain publishes counts as soon as the old record has run out."""
    zone = Zone({"example.com": "v=spf1 include:i.example.com -all", "i.example.com": "v=spf1 ip4:192.0.2.1"})
    zone.ttls["i.example.com"] = 60.0
    clock = Clock()
    memory = SpfMemory(clock=clock)
    assert (await _check(zone, memory)).mail_from.result is SpfResult.PASS
    zone.texts["i.example.com"] = "v=spf1 ip4:192.0.2.99"
    clock.now += 59.9
    assert (await _check(zone, memory)).mail_from.result is SpfResult.PASS
    clock.now += 0.1
    assert (await _check(zone, memory)).mail_from.result is SpfResult.FAIL


async def test_the_time_of_the_answers_runs_from_the_start_of_the_check() -> None:
    """What was known before the check waited may run out before it ends."""
    clock = Clock()
    memory = SpfMemory(clock=clock)
    since = memory.now()
    clock.now += 30.0
    check = SpfCheck(result=SpfResult.PASS, domain="a")
    memory.put((CLIENT, "a"), check, [Answer(Status.FOUND, ("v=spf1 +all",), 60.0)], since)
    clock.now += 29.9
    assert memory.get((CLIENT, "a")) == check
    clock.now += 0.1
    assert memory.get((CLIENT, "a")) is None


@pytest.mark.parametrize("macro", ["%{s}", "%{l}", "%{L}", "%{h}"])
async def test_a_result_that_depends_on_the_transaction_is_not_kept(macro: str) -> None:
    """A record may ask for the sender and the HELO name: the next message can come to something else."""
    zone, memory = Zone({"example.com": f"v=spf1 exists:{macro}.example.com -all"}), SpfMemory()
    await _check(zone, memory, helo="h.example.net")
    asked = zone.asked
    await _check(zone, memory, helo="h.example.net")
    assert zone.asked == asked + 2
    assert len(memory) == 1, "only that of the HELO name"


async def test_an_explanation_with_the_time_is_not_kept() -> None:
    """``%{t}`` is the time of the message."""
    zone, memory = Zone({"example.com": "v=spf1 -all exp=w.example.com", "w.example.com": "%{t}"}), SpfMemory()
    await _check(zone, memory)
    assert len(memory) == 0


async def test_macros_of_the_domain_and_the_client_do_not_matter() -> None:
    """``%{d}``, ``%{i}`` and ``%{o}`` are what a result is kept by."""
    zone, memory = Zone({"example.com": "v=spf1 exists:%{i}.%{d} exists:%{ir}.%{o2} -all"}), SpfMemory()
    first = await _check(zone, memory)
    asked = zone.asked
    assert await _check(zone, memory, sender="b") == first
    assert zone.asked == asked


@pytest.mark.parametrize("fault", [Status.SERVFAIL, Status.TIMEOUT])
async def test_a_fault_of_the_dns_is_not_kept(fault: Status) -> None:
    """As soon as the DNS answers, the answer counts; also where a fault was passed over."""
    zone, memory = Zone({"example.com": "v=spf1 ip4:192.0.2.1 -all"}), SpfMemory()
    zone.fault = fault
    assert (await _check(zone, memory)).mail_from.result is SpfResult.TEMPERROR
    zone.fault = None
    assert (await _check(zone, memory)).mail_from.result is SpfResult.PASS


def test_the_longest_unused_goes_first() -> None:
    """However many clients and domains there are, only so many results are kept."""
    memory = SpfMemory(size=2)
    check = SpfCheck(result=SpfResult.PASS, domain="example.com")
    answers = [Answer(Status.FOUND, ("v=spf1 +all",), 60.0)]
    for name in ("a", "b"):
        memory.put((CLIENT, name), replace(check, domain=name), answers, memory.now())
    assert memory.get((CLIENT, "a")) is not None
    memory.put((CLIENT, "c"), check, answers, memory.now())
    assert len(memory) == 2
    assert [memory.get((CLIENT, name)) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_what_went_by_no_answer_is_not_kept() -> None:
    """Nothing says for how long it would hold."""
    memory = SpfMemory()
    memory.put((CLIENT, "a"), SpfCheck(result=SpfResult.NONE, domain="a"), [], memory.now())
    assert len(memory) == 0


def test_a_large_result_is_not_kept() -> None:
    """Records of many kilobytes under many names do not fill the memory."""
    memory = SpfMemory()
    answers = [Answer(Status.FOUND, ("v=spf1 -all",), 60.0)]
    check = SpfCheck(result=SpfResult.FAIL, domain="a", record="x" * 3000, tell=lambda: ("y" * 1096,))
    memory.put((CLIENT, "a"), check, answers, memory.now())
    assert len(memory) == 1
    memory.put((CLIENT, "b"), replace(check, tell=lambda: ("y" * 1097,)), answers, memory.now())
    assert len(memory) == 1
