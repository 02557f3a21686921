"""Greylisting with a real Postfix as the client that comes again."""

import re
import smtplib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from tests.support.gateway import Gateway, poll
from tests.support.postfix import Postfix
from tests.support.redis import RedisServer
from tests.support.sink import Sink
from tests.support.wire import Wire

pytestmark = pytest.mark.peer("postfix", "redis-server")

T = TypeVar("T")
PASSED = ("passed", "accepted")
GREYLIST = {"delay": "2s", "window": "1h", "clients_after": 2}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The mail server behind the gateways."""
    with Sink() as running:
        yield running


@pytest.fixture
def gateways(sink: Sink) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways that share what they know."""
    with RedisServer() as redis:
        settings = {"state": {"url": redis.url, "timeout": "5s"}, "policies": ["relay", {"greylist": GREYLIST}]}
        with Gateway(settings, backend=sink.port) as one, Gateway(settings, backend=sink.port) as other:
            yield one, other


@pytest.fixture
def sender(gateways: tuple[Gateway, Gateway]) -> Iterator[Postfix]:
    """A Postfix that sends by the first gateway."""
    settings = {
        "myhostname": "client.example.org",
        "relay_domains": "example.com",
        "virtual_mailbox_domains": "",
        "smtpd_recipient_restrictions": "",
        "relay_transport": f"smtp:[127.0.0.1]:{gateways[0].port}",
    }
    with Postfix(settings=settings) as running:
        yield running


def send(sender: Postfix, author: str, recipient: str) -> None:
    """Give Postfix a message."""
    with smtplib.SMTP("127.0.0.1", sender.port) as client:
        client.sendmail(author, [recipient], f"Subject: from {author}\r\n\r\ntext\r\n")


def until(sender: Postfix, what: Callable[[], T]) -> T:
    """What a function gives once it is true, with Postfix trying again at once whenever it is not."""

    def look() -> T:
        found = what()
        if not found:
            sender.flush()
        return found

    found: T = poll(look)
    return found


def statuses(gateway: Gateway) -> list[tuple[str, str]]:
    """What the greylist found, for each record with a recipient: what is known, and what became of it."""
    found: list[tuple[str, str]] = []
    for record in gateway.records():
        checks: list[dict[str, Any]] = [check for check in record["checks"] if check["policy"] == "greylist"]
        found += [(check["evidence"]["status"], record["decision"]["result"]) for check in checks]
    return found


def test_a_postfix_that_comes_again_is_let_in_and_then_known(
    gateways: tuple[Gateway, Gateway], sink: Sink, sender: Postfix
) -> None:
    """A new sender waits and is told how long; its next message goes through at once, also by another gateway."""
    one, other = gateways
    send(sender, "carol@example.org", "alice@example.com")
    found = until(sender, lambda: statuses(one) if PASSED in statuses(one) else [])
    assert (found[0], found[-1]) == (("new", "deferred"), PASSED)
    assert set(found[1:-1]) <= {("early", "deferred")}
    told = re.search(r"status=deferred .*450 4\.7\.1 Greylisted, try again in ([12]) seconds \[\S+\]", sender.log())
    assert told is not None, sender.log()

    send(sender, "carol@example.org", "alice@example.com")
    poll(lambda: statuses(one)[len(found) :] == [("known", "accepted")])
    assert len(sink.messages) == 2
    with Wire(other.port) as client:
        client.hello()
        assert client.transaction("carol@example.org").code == 250
    poll(lambda: statuses(other) == [("known", "accepted")])


def test_a_postfix_whose_triplets_came_again_needs_not_wait_any_more(
    gateways: tuple[Gateway, Gateway], sink: Sink, sender: Postfix
) -> None:
    """After two triplets the client is known, whoever writes to whomever."""
    for author in ("carol@example.org", "dave@example.org"):
        send(sender, author, "alice@example.com")
    before = len(until(sender, lambda: found if (found := statuses(gateways[0])).count(PASSED) == 2 else []))
    send(sender, "erin@example.net", "bob@example.com")
    poll(lambda: statuses(gateways[0])[before:] == [("client", "accepted")])
    assert sorted(message.sender for message in sink.messages) == [
        "carol@example.org", "dave@example.org", "erin@example.net",
    ]  # fmt: skip
