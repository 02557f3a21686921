"""The README's way to a Postfix behind the gateway: its lines of master.cf, in a real Postfix that trusts loopback."""

import asyncio
import re
import smtplib
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.postfix import Postfix

pytestmark = pytest.mark.peer("postfix")

PAGES = [Path(__file__).parents[2] / "README.md", Path(__file__).parents[2] / "docs" / "postfix.md"]
# Postfix's own defaults; a service's settings go before them.
TRUSTING = {
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination",
}


def service(page: Path) -> dict[str, str]:
    """The settings of the service on port 10025 that a page tells administrators to write."""
    block = page.read_text("utf-8").partition("    127.0.0.1:10025 inet n - y - 200 smtpd\n")[2].partition("\n\n")[0]
    settings = dict(re.findall(r"^ +-o (\w+)=(.*)$", block, re.MULTILINE))
    settings.pop("syslog_name")  # the test reads the log by another name
    return settings


def attempt(port: int, recipient: str) -> tuple[int, bytes]:
    """Send a message from 127.0.0.2; the first refusal, or the answer to the end of data."""
    with smtplib.SMTP("127.0.0.1", port, "client.example.org", source_address=("127.0.0.2", 0)) as client:
        client.ehlo()
        client.mail("carol@example.org")
        answer = client.rcpt(recipient)
        return client.data(b"Subject: test\r\n\r\nHello\r\n") if answer[0] == 250 else answer


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_postfix_takes_what_is_ours_and_sees_the_client(page: Path) -> None:
    """With the page's settings mail for a recipient is taken, and Postfix's log names the real client."""
    with Postfix({"page": service(page)}, TRUSTING) as postfix:
        options = {"client_info": "xclient"}
        with Gateway({"policies": ["relay"]}, backend=postfix.port, backend_options=options) as gateway:
            code, text = await asyncio.to_thread(attempt, gateway.port, "alice@example.com")
            assert (code, text[:12]) == (250, b"2.0.0 Ok: qu")
            assert "127.0.0.2" in await postfix.log_line(r"client=")
            refused = await asyncio.to_thread(attempt, gateway.port, "someone@elsewhere.example")
            assert refused[0] == 554
            assert refused[1].endswith(b"]")  # by the gateway, with its reference


@pytest.mark.parametrize("client_info", ["xclient", "xforward", "none"])
async def test_postfix_is_no_open_relay_by_itself(client_info: str) -> None:
    """Should the gateway let a relay attempt through, `mynetworks=` makes Postfix refuse it, XCLIENT or not."""
    with (
        Postfix({"page": service(PAGES[0])}, TRUSTING) as postfix,
        Gateway({"policies": ["size"]}, backend=postfix.port, backend_options={"client_info": client_info}) as gateway,
    ):
        code, text = await asyncio.to_thread(attempt, gateway.port, "someone@elsewhere.example")
        assert code in {454, 554}
        assert b"Relay access denied" in text
        assert not postfix.queue_ids()


async def test_the_trap_is_real() -> None:
    """Without `mynetworks=` and without XCLIENT Postfix relays for everybody who comes by the gateway."""
    settings = service(PAGES[0])
    del settings["mynetworks"]
    with (
        Postfix({"page": settings}, TRUSTING) as postfix,
        Gateway({"policies": ["size"]}, backend=postfix.port) as gateway,
    ):
        code, _ = await asyncio.to_thread(attempt, gateway.port, "someone@elsewhere.example")
        assert code == 250
