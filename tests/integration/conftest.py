"""What the integration tests share: one Postfix for all of them that is given the gateway's mail."""

from collections.abc import Iterator

import pytest

from tests.support.peers import is_installed, peers, unavailable
from tests.support.postfix import DOMAIN, Postfix

OTHER_DOMAIN = "other.example"
"""A second domain whose mail the shared Postfix takes."""


@pytest.fixture(scope="session")
def postfix() -> Iterator[Postfix]:
    """A Postfix with its defaults, that lets loopback use XCLIENT at one service and lacks CHUNKING at another."""
    if not is_installed("postfix"):
        unavailable(f"needs postfix: apt-get install {peers()['postfix'].package}")
    services = {
        "plain": {},
        "xclient": {"smtpd_authorized_xclient_hosts": "127.0.0.1"},
        "chunkless": {"smtpd_discard_ehlo_keywords": "chunking"},
        "strict": {"smtpd_soft_error_limit": "10", "smtpd_hard_error_limit": "20"},  # Postfix's own limits
    }
    # in_flow_delay waits for a queue manager that hears nothing of messages that were given up.
    settings = {
        "virtual_mailbox_domains": f"{DOMAIN}, {OTHER_DOMAIN}",
        "in_flow_delay": "0",
        "local_header_rewrite_clients": "",
    }
    with Postfix(services, settings) as instance:
        yield instance
