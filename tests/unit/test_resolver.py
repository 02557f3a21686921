"""The client's name: what its PTR says and its address records confirm."""

import pytest

from gateway.adapters.zone import ZoneResolver
from gateway.resolver import ClientName, NameStatus, Status, client_name

CONFIRMED, UNKNOWN, TEMPORARY = NameStatus.CONFIRMED, NameStatus.UNKNOWN, NameStatus.TEMPORARY


@pytest.mark.parametrize(
    ("zone", "address", "expected"),
    [
        ({}, "192.0.2.1", ClientName(None, UNKNOWN)),
        ({"192.0.2.1": "SERVFAIL"}, "192.0.2.1", ClientName(None, TEMPORARY)),
        ({"192.0.2.1": {"PTR": "Mail.example.org"}}, "192.0.2.1", ClientName(None, UNKNOWN)),
        (
            {"192.0.2.1": {"PTR": "Mail.example.org"}, "mail.example.org": {"A": "192.0.2.1"}},
            "192.0.2.1",
            ClientName("mail.example.org", CONFIRMED),
        ),
        (
            {"192.0.2.1": {"PTR": ["a.example.org", "b.example.org"]}, "b.example.org": {"A": "192.0.2.1"}},
            "192.0.2.1",
            ClientName("b.example.org", CONFIRMED),
        ),
        (
            {"192.0.2.1": {"PTR": ["a.example.org", "b.example.org"]}, "b.example.org": "TIMEOUT"},
            "192.0.2.1",
            ClientName(None, TEMPORARY),
        ),
        (
            {"2001:db8::1": {"PTR": "mail.example.org"}, "mail.example.org": {"AAAA": "2001:db8:0:0::1"}},
            "2001:db8::1",
            ClientName("mail.example.org", CONFIRMED),
        ),
        (
            {"192.0.2.1": {"PTR": [f"n{n}.example.org" for n in range(9)]}, "n8.example.org": {"A": "192.0.2.1"}},
            "192.0.2.1",
            ClientName(None, UNKNOWN),
        ),
    ],
)
async def test_a_name_counts_when_it_leads_back(zone: dict[str, object], address: str, expected: ClientName) -> None:
    """The first name with the address is the client's; of more than five the rest is not asked; faults stay apart."""
    assert await client_name(ZoneResolver(zone), address) == expected


def test_only_faults_are_temporary() -> None:
    """A name that does not exist will not exist a moment later either."""
    assert {status for status in Status if status.is_temporary} == {Status.SERVFAIL, Status.TIMEOUT}
