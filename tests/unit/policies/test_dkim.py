"""dkim: what is left on the transaction, which outcome that is, and what the record shows."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.chain.chain import Chain
from gateway.config.model import Mode, PolicySettings
from gateway.form import HeaderReader
from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.results import DkimResult
from gateway.policy import OnError, Policy
from gateway.resolver import Answer, RecordType
from gateway.session import Message, Transaction
from gateway.testing import Site, message, run
from gateway.verdict import Action, Finding, Stage
from policies.arc import Arc
from policies.dkim import Dkim, DkimPolicyOptions
from policies.size import Size
from tests.support.dkim_signing import BODY, DOMAIN, HEADER, NOW, SELECTOR, key_record, rsa_key, signature, zone

KEY_NAME = f"{SELECTOR}._domainkey.{DOMAIN}"


def signed(tags: Mapping[str, str | None] | None = None, header: bytes = HEADER) -> bytes:
    """A header with a signature on top."""
    return signature(header, BODY, rsa_key(), tags or {}) + header


async def check(
    header: bytes,
    *,
    options: Mapping[str, object] | None = None,
    records: Mapping[str, object] | None = None,
    body: bytes = BODY,
) -> tuple[Finding, Transaction]:
    """What the policy finds, and the transaction that it leaves."""
    site = Site(zone=zone() if records is None else records)
    site.clock.set(NOW)
    transaction = site.transaction()
    finding = await run(site.policy(Dkim, options), Stage.MESSAGE, transaction, message(header + b"\r\n" + body))
    assert finding is not None
    return finding, transaction


@pytest.mark.parametrize(
    ("header", "records", "outcome"),
    [
        (HEADER, {}, Dkim.none),
        (signed(), None, Dkim.passed),
        (signed().replace(b"alice", b"mallory"), None, Dkim.fail),
        (b"Subject: another\r\n" + signed(), None, Dkim.policy),
        (signed({"x": "1"}), None, Dkim.policy),
        (signed({"v": "9"}), None, Dkim.neutral),
        (signed(), {KEY_NAME: "TIMEOUT"}, Dkim.temperror),
        (signed(), {}, Dkim.permerror),
        (signed({"h": "to"}), None, Dkim.permerror),
        (signed().replace(b"alice", b"mallory"), zone(key_record(rsa_key(), t="y")), Dkim.neutral),
    ],
)
async def test_every_outcome_passes_by_default_and_has_its_word(
    header: bytes, records: Mapping[str, object] | None, outcome: Any
) -> None:
    """The outcomes have RFC 8601's words; none refuses mail unless the operator says so."""
    finding, transaction = await check(header, records=records)
    assert finding.outcome is outcome
    assert finding.outcome.action is Action.PASS
    assert transaction.authentication.dkim is not None
    assert len(transaction.authentication.dkim) == (0 if outcome is Dkim.none else 1)


def test_outcomes_are_the_results() -> None:
    """Each result of RFC 8601 2.7.1 is an outcome, and there is no other; a temporary one defers if it is to refuse."""
    assert set(Dkim.outcomes) == {result.value for result in DkimResult}
    codes = {name: outcome.reply.code for name, outcome in Dkim.outcomes.items()}
    assert codes == dict.fromkeys(codes, 550) | {"temperror": 451}


async def test_one_good_signature_is_enough_and_all_are_shown() -> None:
    """A broken one on top of a good one: pass, with both in the evidence."""
    header = signature(HEADER, b"another body", rsa_key(), {"d": "list.example", "s": "l"}) + signed()
    records = zone() | {"l._domainkey.list.example": {"TXT": key_record(rsa_key())}}
    finding, transaction = await check(header, records=records)
    assert finding.outcome is Dkim.passed
    assert transaction.authentication.dkim is not None
    assert [each.result for each in transaction.authentication.dkim] == [DkimResult.FAIL, DkimResult.PASS]
    broken, good = (each.signature for each in transaction.authentication.dkim)
    assert finding.evidence == {
        "ignored": 0,
        "signatures": [
            {
                "result": "fail",
                "domain": "list.example",
                "selector": "l",
                "reason": "the body was changed: its hash is not that of bh=",
                "algorithm": "rsa-sha256",
                "key_bits": 2048,
                "signature": broken,
            },
            {
                "result": "pass",
                "domain": "example.com",
                "selector": "s1",
                "algorithm": "rsa-sha256",
                "key_bits": 2048,
                "signature": good,
            },
        ],
    }


async def test_what_is_out_of_the_ordinary_is_shown() -> None:
    """An identity below the domain, a testing domain, a length of zero."""
    header = signed({"i": "a@mail.example.com", "l": "0"})
    finding, _ = await check(header, records=zone(key_record(rsa_key(), t="y")))
    shown = finding.evidence["signatures"]
    assert isinstance(shown, list)
    assert shown[0].items() >= {"auid": "a@mail.example.com", "testing": True, "body_length": 0}.items()


@pytest.mark.parametrize(
    ("options", "tags", "expected"),
    [
        ({"partial_body": True}, {"l": "5"}, Dkim.passed),
        ({}, {"l": "5"}, Dkim.policy),
        ({"minimum_key": 3072}, {}, Dkim.policy),
        ({"clock_skew": "1h"}, {"x": str(int(NOW) - 3599)}, Dkim.passed),
        ({"clock_skew": "10s"}, {"t": str(int(NOW) + 11)}, Dkim.policy),
        ({"clock_skew": "0s"}, {"t": str(int(NOW))}, Dkim.passed),
    ],
)
async def test_options_decide_what_is_accepted(
    options: Mapping[str, object], tags: Mapping[str, str | None], expected: Any
) -> None:
    """Each option changes a verdict."""
    finding, _ = await check(signed(tags), options=options)
    assert finding.outcome is expected


async def test_single_fields_is_a_list_in_any_case() -> None:
    """What it does not name may be repeated; From may not, whatever it names."""
    doubled = b"X-Priority: 1\r\n" + signed({"h": "from:x-priority:subject"}, b"X-Priority: 2\r\n" + HEADER)
    assert (await check(doubled))[0].outcome is Dkim.passed
    assert (await check(doubled, options={"single_fields": ["X-PRIORITY"]}))[0].outcome is Dkim.policy
    assert (await check(b"From: x\r\n" + signed(), options={"single_fields": []}))[0].outcome is Dkim.policy
    assert (await check(b"Subject: x\r\n" + signed(), options={"single_fields": []}))[0].outcome is Dkim.passed


@pytest.mark.parametrize("options", [{"minimum_key": 512}, {"maximum_key": 2048}, {"signatures": 0}])
def test_what_the_standards_forbid_can_not_be_set(options: Mapping[str, object]) -> None:
    """RFC 8301 3.2: smaller keys must not count, and keys up to 4096 bits must be verified."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Site().policy(Dkim, options)


async def test_signatures_behind_the_limit_are_counted() -> None:
    """The record says how many were not looked at."""
    header = signature(HEADER, BODY, rsa_key(), {}) * 4 + HEADER
    finding, transaction = await check(header, options={"signatures": 3})
    assert finding.evidence["ignored"] == 1
    assert transaction.authentication.dkim is not None
    assert len(transaction.authentication.dkim) == 3


@pytest.mark.parametrize(("prepared", "read"), [(10, False), (3, False), (2, True), (None, True)])
async def test_the_body_is_read_again_only_if_it_was_not_hashed_for_enough_signatures(
    prepared: int | None,
    read: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """What was hashed while the message came is used; a domain with a higher limit still gets its results."""
    header = signature(HEADER, BODY, rsa_key(), {"c": "relaxed/simple"}) + signed({"l": "27"}) + b"X: 1\r\n"
    header = signature(HEADER, BODY, rsa_key(), {}) + header
    received = message(header + b"\r\n" + BODY)
    hashes = None
    if prepared is not None:
        hashes = BodyHashes(tuple(header_fields(header)), prepared)
        hashes.update(BODY)

    class Content:
        size = received.size
        ends_with_newline = True
        parts = None
        reads = 0

        def chunks(self) -> Any:
            self.reads += 1
            return received.content.chunks()

    content = Content()
    site = Site(zone=zone())
    site.clock.set(NOW)
    transaction = site.transaction()
    await run(site.policy(Dkim), Stage.MESSAGE, transaction, Message(content, HeaderReader().read(header), hashes))
    assert transaction.authentication.dkim is not None
    assert [each.result for each in transaction.authentication.dkim] == [DkimResult.PASS] * 3
    assert content.reads == read


class Stalling:
    """A resolver that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def known(self, _name: str, _record_type: RecordType) -> Answer | None:
        return None

    async def lookup(self, _name: str, _record_type: RecordType) -> Answer:
        self.asked.set()
        return await asyncio.Event().wait()  # type: ignore[return-value] # it never returns


async def test_a_verification_that_is_cut_off_leaves_a_temperror() -> None:
    """Whoever ends it, what later policies see is that nothing is known, and not that there was no signature."""
    site = Site()
    transaction = site.transaction()
    resolver = Stalling()
    transaction.session.resolver = resolver
    task = asyncio.create_task(run(site.policy(Dkim), Stage.MESSAGE, transaction, message(signed() + b"\r\n" + BODY)))
    await resolver.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transaction.authentication.dkim is not None
    assert [each.result for each in transaction.authentication.dkim] == [DkimResult.TEMPERROR]


def test_the_chain_has_bodies_hashed_for_as_many_signatures_as_the_option_says() -> None:
    """What streams in is hashed for those that will be verified; for none without a policy that verifies."""

    def chain(**written: dict[str, object] | None) -> Chain:
        settings = []
        for name, options in written.items():
            policy: type[Policy[Any]] = {"dkim": Dkim, "arc": Arc, "size": Size}[name]
            made = PolicySettings(
                id=name,
                policy=policy,
                options=policy.options_type.model_validate(options or {}),
                on={},
                mode=Mode.ENFORCE,
                on_error=OnError.PASS,
                timeout=1.0,
            )
            settings.append(made)
        return Chain(settings, {}, [], Site().context)

    assert chain(dkim=None).signatures == DkimPolicyOptions().signatures == 10
    assert chain(size=None, dkim={"signatures": 3}, arc=None).signatures == 3
    assert chain(arc=None).signatures == 0
    assert chain(size=None).signatures is None
