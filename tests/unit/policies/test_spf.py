"""The policy spf: who is checked, what each result comes to, and what the client and the record are told."""

import asyncio
from dataclasses import replace

import pytest

from gateway.mailauth.results import SpfResult
from gateway.policy import OnError
from gateway.session import Transaction
from gateway.smtp.reply import MAX_REPLY_LINE
from gateway.testing import Site, run
from gateway.verdict import Action, Finding, Stage
from policies.spf import Spf
from tests.support.dns_zone import SilentZone

CLIENT = "192.0.2.1"
ZONE: dict[str, object] = {
    **{
        f"{result}.example": {"TXT": f"v=spf1 {mark}all"}
        for result, mark in {"pass": "+", "fail": "-", "softfail": "~", "neutral": "?"}.items()
    },
    "permerror.example": {"TXT": "v=spf1 foo"},
    "temperror.example": "SERVFAIL",
    "told.example": {"TXT": "v=spf1 -all exp=why.told.example"},
    "why.told.example": {"TXT": "See http://told.example/%{i}"},
    "many.example": {
        "TXT": "v=spf1 " + " ".join(f"exists:{letter}.many.example" for letter in "abcdefghijkl") + " -all"
    },
    "void.example": {"TXT": "v=spf1 a a:x.void.example a:y.void.example ?all"},
}
SITE = Site(zone=ZONE)


def _mail(
    sender: str = "a@fail.example",
    *,
    client: str = CLIENT,
    helo: str | None = "[192.0.2.1]",
    login: str | None = None,
    site: Site = SITE,
) -> Transaction:
    return site.transaction(sender, session=site.session(client, helo_name=helo, login=login))


async def _find(transaction: Transaction, options: dict[str, object] | None = None) -> Finding | None:
    return await run(SITE.policy(Spf, options), Stage.MAIL, transaction)


@pytest.mark.parametrize("result", [result for result in SpfResult if result is not SpfResult.NONE])
async def test_each_result_is_an_outcome_and_stays_on_the_transaction(result: SpfResult) -> None:
    """The seven results are outcomes of the same name, and later policies find the result."""
    transaction = _mail(f"a@{result}.example")
    finding = await _find(transaction)
    assert finding is not None
    assert finding.outcome.name == result.value
    assert transaction.authentication.spf is not None
    assert transaction.authentication.spf.mail_from.result is result
    assert finding.evidence["identity"] == "mailfrom"
    assert finding.evidence["domain"] == f"{result}.example"
    assert finding.evidence["reason"] == transaction.authentication.spf.mail_from.reason
    assert ("steps" in finding.evidence) == (result is not SpfResult.PASS)


@pytest.mark.parametrize("sender", ["a@unknown.example", "a@[192.0.2.1]", ""])
async def test_what_has_no_record_is_none(sender: str) -> None:
    """A domain without a record, an address literal, and the null reverse-path of a client without a HELO domain."""
    finding = await _find(_mail(sender))
    assert finding is not None
    assert finding.outcome is Spf.none
    assert finding.evidence["result"] == "none"


async def test_the_null_reverse_path_is_the_helo_name() -> None:
    """RFC 7208 2.4: notifications are checked by the HELO name, and a fail is a fail."""
    finding = await _find(_mail("", helo="fail.example"))
    assert finding is not None
    assert finding.outcome is Spf.fail
    assert finding.reply.text == "SPF: 192.0.2.1 may not send for fail.example"


@pytest.mark.parametrize(
    ("sender", "helo", "outcome"),
    [
        ("pass", "fail.example", "helo_fail"),
        ("none", "fail.example", "helo_fail"),
        ("temperror", "fail.example", "helo_fail"),
        ("fail", "fail.example", "fail"),
        ("fail", "pass.example", "fail"),
        ("pass", "softfail.example", "pass"),
        ("pass", "temperror.example", "pass"),
        ("pass", "permerror.example", "pass"),
        ("softfail", None, "softfail"),
    ],
)
async def test_only_a_fail_of_the_helo_name_counts(sender: str, helo: str | None, outcome: str) -> None:
    """The HELO name's fail is an outcome of its own, unless the reverse-path fails, too; nothing else of it is."""
    transaction = _mail(f"a@{sender}.example", helo=helo)
    finding = await _find(transaction)
    assert finding is not None
    assert finding.outcome.name == outcome
    if outcome == "helo_fail":
        assert finding.evidence["identity"] == "helo"
        assert finding.evidence["mail_from"] == sender
        assert finding.reply.text == "SPF: 192.0.2.1 may not say HELO fail.example"
    assert transaction.authentication.spf is not None
    assert (transaction.authentication.spf.helo is None) == (helo is None)


async def test_helo_false_checks_no_helo_name() -> None:
    """The operator's choice."""
    transaction = _mail("a@pass.example", helo="fail.example")
    finding = await _find(transaction, {"helo": False})
    assert finding is not None
    assert finding.outcome is Spf.passed
    assert transaction.authentication.spf is not None
    assert transaction.authentication.spf.helo is None


@pytest.mark.parametrize(
    ("client", "login", "options"),
    [
        ("127.0.0.1", None, {}),
        ("::1", None, {}),
        ("::ffff:127.0.0.1", None, {}),
        (CLIENT, "alice", {}),
        (CLIENT, "", {}),
        (CLIENT, None, {"trusted": ["192.0.2.0/24"]}),
    ],
)
async def test_who_may_send_for_others_is_not_checked(
    client: str, login: str | None, options: dict[str, object]
) -> None:
    """The machine itself, authenticated and trusted clients: no outcome, no result, no question."""
    transaction = _mail(client=client, login=login)
    transaction.session.resolver = SilentZone()
    assert await _find(transaction, options) is None
    assert transaction.authentication.spf is None


async def test_the_list_of_trusted_clients_replaces_the_default() -> None:
    """With an empty list even the machine itself is checked."""
    finding = await _find(_mail(client="127.0.0.1"), {"trusted": []})
    assert finding is not None
    assert finding.outcome is Spf.fail


@pytest.mark.parametrize(("shown", "lines"), [(True, 2), (False, 1)])
async def test_the_explanation_is_marked_as_the_domains(shown: bool, lines: int) -> None:  # noqa: FBT001 - a column
    """What exp= says comes in a line of its own, with the domain before it, unless it is switched off."""
    finding = await _find(_mail("a@told.example"), {"explanation": shown})
    assert finding is not None
    told = finding.reply.text.split("\n")
    assert len(told) == lines
    assert told[0] == "SPF: 192.0.2.1 may not send for told.example"
    assert told[1:] == ["told.example explains: See http://told.example/192.0.2.1"][: lines - 1]
    assert finding.evidence["explanation"] == "See http://told.example/192.0.2.1"
    assert (finding.reply.code, finding.reply.enhanced) == (550, "5.7.23")


async def test_the_longest_reply_fits() -> None:
    """A domain of 253 characters with an explanation of any length gives a reply that can be sent."""
    domain = ".".join(["d" * 62] * 3 + ["e" * 57, "example"])[-253:].lstrip(".")
    site = Site(zone={domain: {"TXT": "v=spf1 -all exp=why.example"}, "why.example": {"TXT": "x" * 1000}})
    transaction = _mail("", helo=domain, client="2001:db8:1111:2222:3333:4444:5555:6666", site=site)
    finding = await run(site.policy(Spf), Stage.MAIL, transaction)
    assert finding is not None
    reply = finding.reply.with_reference("0123456789ABCD.100")
    assert all(len(line) + 2 <= MAX_REPLY_LINE for line in reply.wire.split(b"\r\n"))


@pytest.mark.parametrize(
    ("sender", "options", "outcome"),
    [
        ("a@many.example", {"void_lookups": 50}, "permerror"),
        ("a@many.example", {"void_lookups": 50, "lookups": 12}, "fail"),
        ("a@many.example", {"void_lookups": 50, "lookups": 12, "queries": 11}, "permerror"),
        ("a@void.example", {}, "permerror"),
        ("a@void.example", {"void_lookups": 3}, "neutral"),
    ],
)
async def test_limits_can_be_set(sender: str, options: dict[str, object], outcome: str) -> None:
    """Each limit of the options is the one that holds."""
    finding = await _find(_mail(sender), options)
    assert finding is not None
    assert finding.outcome.name == outcome


async def test_the_time_is_bounded() -> None:
    """A DNS that never answers is a temperror, and the client is told to come again."""
    transaction = _mail("a@fail.example", helo="pass.example")
    transaction.session.resolver = SilentZone()
    finding = await _find(transaction, {"time": "10ms"})
    assert finding is not None
    assert finding.outcome is Spf.temperror
    assert (finding.outcome.action, finding.reply.code) == (Action.DEFER, 451)


async def test_a_check_that_is_cut_off_leaves_a_temperror() -> None:
    """Should the policy's time-out end the hook, DMARC finds a temperror and not nothing."""
    transaction = _mail()
    transaction.session.resolver = SilentZone()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await _find(transaction)
    assert transaction.authentication.spf is not None
    assert transaction.authentication.spf.mail_from.result is SpfResult.TEMPERROR
    assert transaction.authentication.spf.mail_from.domain == "fail.example"


def test_a_fault_is_never_a_refusal() -> None:
    """What the DNS or the policy itself fails at defers."""
    assert Spf.temperror.action is Action.DEFER
    assert Spf.on_error is OnError.DEFER
    assert Spf.temperror.reply == replace(Spf.temperror.reply, code=451, enhanced="4.7.24")
