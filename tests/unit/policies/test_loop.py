"""loop: how many Received fields a message may have, and how many of them may be our own."""

import pytest

from gateway.testing import Site, message, run
from gateway.verdict import Action, Stage
from policies.loop import Loop

SITE = Site(hostname="mx.example.com")

OTHER = b"Received: from a.example by b.example with ESMTP id 1; Thu, 1 Jan 2026 12:00:00 +0000\r\n"
OWN = b"Received: from a.example (unknown [192.0.2.1])\r\n\tby mx.example.com (Lychgate) with ESMTP id 1;\r\n\tdate\r\n"


async def _loops(fields: bytes, options: dict[str, object] | None = None) -> tuple[object, object] | None:
    """Hops and own fields of a message that is refused, None if it is not."""
    finding = await run(
        SITE.policy(Loop, options), Stage.MESSAGE, SITE.transaction(), message(fields + b"\r\nReceived: no\r\n")
    )
    if finding is None:
        return None
    assert finding.outcome is Loop.looping
    assert finding.outcome.action is Action.REJECT
    assert str(finding.reply).startswith("554 5.4.6")
    return finding.evidence["hops"], finding.evidence["own"]


@pytest.mark.parametrize(
    ("others", "own", "options", "found"),
    [
        (50, 0, {}, None),
        (51, 0, {}, (51, 0)),
        (0, 0, {}, None),
        (3, 0, {"hops": 3}, None),
        (4, 0, {"hops": 3}, (4, 0)),
        (0, 5, {}, None),
        (0, 6, {}, (6, 6)),
        (20, 6, {}, (26, 6)),
        (20, 5, {}, None),
        (1, 2, {"own": 1}, (3, 2)),
        (0, 40, {"own": 0}, None),
    ],
)
async def test_too_many_hops_are_a_loop(
    others: int, own: int, options: dict[str, object], found: tuple[int, int] | None
) -> None:
    """A message with more Received fields than allowed, in all or of our own, goes in circles."""
    assert await _loops(OTHER * others + OWN * own, options) == found


@pytest.mark.parametrize(
    ("field", "own"),
    [
        (b"Received: by mx.example.com; date", True),
        (b"RECEIVED: from a BY MX.Example.Com with SMTP; date", True),
        (b"Received: from a (b [192.0.2.1])by mx.example.com (x); date", True),
        (b"Received: from a by\r\n mx.example.com\r\n with SMTP; date", True),
        (b"Received: from a by mx.example.com.; date", True),
        (b"Received: from a by mx.example.com", True),
        (b"Received: from a by mx.example.com.example.org; date", False),
        (b"Received: from a by amx.example.com; date", False),
        (b"Received: from mx.example.com by a; date", False),
        (b"Received: from a by mxxexample.com; date", False),
        (b"Received: from aby mx.example.com; date", False),
        (b"X-Received: by mx.example.com; date", False),
    ],
)
async def test_our_own_fields_are_those_with_our_name_behind_by(
    field: bytes,
    own: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """A field is our own when our name, and nothing longer, stands behind ``by``."""
    assert (await _loops((field + b"\r\n") * 2, {"own": 1}) is not None) == own
