"""Mail for many recipients, by the limits as they are: a list host delivers to all of them, in as many transactions."""

from pathlib import Path
from typing import Any, Final

import pytest

from gateway.config.registry import Registry
from tests.support.serving import Client, Site, serving

CONFIG: Final[dict[str, Any]] = {
    "policies": [
        "relay",
        "recipient",
        {"rate_limit": {"key": "recipient", "count": "recipients", "limit": "100/h"}},
        "size",
    ],
    "dns": {"client_names": False},
}
AT_LEAST: Final = 100
"""Recipients of one message that every server must take (RFC 5321 4.5.3.1.8)."""


async def _offer(client: Client, recipients: list[str]) -> list[str]:
    """Offer recipients, all at once; returns the codes."""
    client.writer.write("".join(f"RCPT TO:{recipient}\r\n" for recipient in recipients).encode())
    return [(await client.reply())[:3] for _ in recipients]


async def _deliver(client: Client, recipients: list[str]) -> int:
    """Send a message to all, in as many transactions as it takes; returns how many."""
    transactions = 0
    while recipients:
        assert (await client.say("MAIL FROM:<list@example.org>"))[:3] == "250"
        codes = await _offer(client, recipients)
        assert set(codes) <= {"250", "452"}, codes
        assert (await client.send("Subject: to the list\r\n\r\nHello"))[:3] == "250"
        recipients = [each for each, code in zip(recipients, codes, strict=True) if code == "452"]
        transactions += 1
    return transactions


async def test_a_list_host_delivers_to_everybody_on_one_connection(tmp_path: Path) -> None:
    """Ten messages to 1,500 recipients each: what does not fit comes in further transactions, and nothing ends."""
    recipients = [f"<recipient-{number}@example.com>" for number in range(1500)]
    async with serving(tmp_path, CONFIG, registry=Registry.installed()) as site, site.client() as client:
        assert (await client.say("EHLO list.example.org"))[:3] == "250"
        for _ in range(10):
            await _deliver(client, recipients)
        assert len(site.backend.messages) == len(site.records)
        delivered = [text for message in site.backend.messages for text in message.recipients]
    assert len(delivered) == 10 * len(recipients)
    _holds_every_check(site)


def _holds_every_check(site: Site) -> None:
    """A record has the checks of each recipient that it names, in their order, however many they are."""
    for record in site.records:
        names = [recipient.address for recipient in record.recipients if recipient.decided_by != "smtp"]
        assert len(names) >= min(AT_LEAST, len(record.recipients))
        for policy in ("relay", "recipient", "rate_limit"):
            checks = [check for check in record.checks if check.policy == policy and check.stage.value == "rcpt"]
            assert [check.recipient for check in checks] == names


@pytest.mark.parametrize("parameters", ["", " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + "y" * 200])
async def test_a_hundred_recipients_always_fit(tmp_path: Path, parameters: str) -> None:
    """Also with parameters, and with policies that look at each of them."""
    recipients = [f"<a-longer-recipient-name-{number}@example.com>{parameters}" for number in range(AT_LEAST)]
    async with serving(tmp_path, CONFIG, registry=Registry.installed()) as site, site.client() as client:
        assert (await client.say("EHLO list.example.org"))[:3] == "250"
        assert await _deliver(client, recipients) == 1
