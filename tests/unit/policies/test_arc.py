"""arc: what is left on the transaction, which outcome that is, and what the record shows."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.results import ArcResult
from gateway.resolver import Answer, RecordType
from gateway.session import Message, Transaction
from gateway.testing import Site, message, run
from gateway.verdict import Action, Finding, Stage
from policies.arc import Arc
from policies.dmarc import Dmarc
from tests.support.arc_sealing import arc_zone, sealed
from tests.support.dkim_signing import BODY, HEADER, NOW, SELECTOR

SEALED = sealed(HEADER)


async def check(
    header: bytes, records: Mapping[str, object] | None = None, options: Mapping[str, object] | None = None
) -> tuple[Finding, Transaction]:
    """What the policy finds, and the transaction that it leaves."""
    site = Site(zone=arc_zone("list.example") if records is None else records)
    site.clock.set(NOW)
    transaction = site.transaction()
    finding = await run(site.policy(Arc, options), Stage.MESSAGE, transaction, message(header + b"\r\n" + BODY))
    assert finding is not None
    return finding, transaction


@pytest.mark.parametrize(
    ("header", "records", "outcome"),
    [
        (HEADER, None, Arc.none),
        (SEALED, None, Arc.passed),
        (SEALED.replace(b"alice", b"mallory"), None, Arc.fail),
        (SEALED, {}, Arc.fail),
        (SEALED, {f"{SELECTOR}._domainkey.list.example": "TIMEOUT"}, Arc.temperror),
    ],
)
async def test_every_outcome_passes_by_default_and_is_the_status_of_the_chain(
    header: bytes, records: Mapping[str, object] | None, outcome: Any
) -> None:
    """A chain decides nothing by itself (RFC 8617 5.2.1); what it came to is on the transaction."""
    finding, transaction = await check(header, records)
    assert finding.outcome is outcome
    assert finding.outcome.action is Action.PASS
    assert transaction.authentication.arc is not None
    assert transaction.authentication.arc.result.value == outcome.name


async def test_the_record_shows_the_chain() -> None:
    """Who sealed, in order, and why it fails if it does."""
    finding, _ = await check(SEALED)
    assert finding.evidence == {
        "reason": "",
        "oldest_pass": 0,
        "sealer": "list.example",
        "sets": [{"instance": 1, "domain": "list.example", "selector": SELECTOR, "from": True}],
    }
    finding, _ = await check(SEALED.replace(b"cv=none", b"cv=fail"))
    assert "cv=fail" in str(finding.evidence["reason"])


async def test_the_options_bound_what_is_accepted() -> None:
    """Sets, sizes of keys and the difference of clocks."""
    late = sealed(HEADER, message={"t": str(int(NOW) + 100)})
    for header, options, word in (
        (sealed(SEALED), {"sets": 1}, "more than 1"),
        (SEALED, {"minimum_key": 3072}, "2048 bits"),
        (late, {"clock_skew": "10s"}, "future"),
    ):
        finding, _ = await check(header, options=options)
        assert finding.outcome is Arc.fail
        assert word in str(finding.evidence["reason"])
        finding, _ = await check(header)
        assert finding.outcome is Arc.passed


async def test_hashes_made_while_the_message_came_are_used() -> None:
    """The body is not read again where the gateway has hashed it."""
    site = Site(zone=arc_zone("list.example"))
    site.clock.set(NOW)
    hashes = BodyHashes(tuple(header_fields(SEALED)), 0)
    hashes.update(BODY)
    whole = message(SEALED + b"\r\nanother body")
    received = Message(whole.content, whole.section, body_hashes=hashes)
    finding = await run(site.policy(Arc), Stage.MESSAGE, site.transaction(), received)
    assert finding is not None
    assert finding.outcome is Arc.passed
    assert Arc.hashes_body


class Stopped(ZoneResolver):
    """A resolver at which the policy is stopped while it waits."""

    def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - the interface's
        """Nothing."""
        return None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:  # noqa: ARG002 - the interface's
        """What a time-out of the chain looks like from within."""
        raise TimeoutError


async def test_a_time_out_leaves_a_temperror() -> None:
    """Should the policy be stopped while it waits, what stays says that it can't be told."""
    site = Site()
    site.clock.set(NOW)
    transaction = site.transaction()
    transaction.session.resolver = Stopped({})
    with pytest.raises(TimeoutError):
        await run(site.policy(Arc), Stage.MESSAGE, transaction, message(SEALED + b"\r\n" + BODY))
    assert transaction.authentication.arc is not None
    assert transaction.authentication.arc.result is ArcResult.TEMPERROR


async def test_dmarc_believes_a_trusted_sealer_about_mail_that_a_list_changed() -> None:
    """The whole way: sealed by a list, validated here, and rescued from the author's policy."""
    zone = arc_zone("list.example") | {"_dmarc.example.com": {"TXT": "v=DMARC1; p=reject"}}
    site = Site(zone=zone)
    site.clock.set(NOW)
    for trusted, header, outcome in (
        (["list.example"], SEALED, Dmarc.arc_trusted),
        (["other.example"], SEALED, Dmarc.reject),
        (["list.example"], SEALED.replace(b"dmarc=pass", b"dmarc=fail"), Dmarc.reject),
        (["list.example"], sealed(HEADER, recorded="dmarc=fail header.from=example.com"), Dmarc.reject),
        (["list.example"], sealed(HEADER, message={"h": "to:subject"}), Dmarc.reject),
    ):
        transaction = site.transaction()
        received = message(header + b"\r\n" + BODY)
        await run(site.policy(Arc), Stage.MESSAGE, transaction, received)
        finding = await run(site.policy(Dmarc, {"trust_arc": trusted}), Stage.MESSAGE, transaction, received)
        assert finding is not None
        assert finding.outcome is outcome
