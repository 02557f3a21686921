"""What Prometheus fetches: numbers of all workers together, from the real service."""

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway import Gateway, poll
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.sink import Sink
from tests.support.wire import Wire


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The mail server behind."""
    with Sink() as running:
        yield running


class Page:
    """The page on a port."""

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def setting(self) -> str:
        """The setting ``metrics``."""
        return f"127.0.0.1:{self.port}"

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples if sample.name == f"lychgate_{name}"]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def send(gateway: Gateway, recipient: str = "alice@example.com") -> int:
    """One message on a connection of its own; the last reply's code."""
    with Wire(gateway.port) as client:
        client.hello()
        client.command("MAIL FROM:<you@example.org>")
        answer = client.command(f"RCPT TO:<{recipient}>").code
        if answer == 250:
            client.command("DATA")
            client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            answer = client.reply().code
        client.command("QUIT")
    return answer


def test_the_page_adds_up_all_workers_and_outlives_them(sink: Sink) -> None:
    """Decisions and outcomes of two workers; still there when one is killed, and after a reload."""
    page = Page()
    with Gateway({"workers": 2, "metrics": page.setting, "policies": ["relay"]}, backend=sink.port) as gateway:
        gateway.expected.add("worker died")
        for _ in range(20):
            assert send(gateway) == 250
        assert send(gateway, "x@elsewhere.example") == 554
        assert {len(gateway.records()), page.value("decisions_total")} == {21}
        assert page.value("decisions_total", kind="transaction", result="accepted") == 20
        outcome = {"policy": "relay", "stage": "rcpt", "outcome": "denied", "action": "reject", "observed": "false"}
        assert page.value("policy_outcomes_total", **outcome) == 1
        poll(lambda: page.value("backend_server_up") == 1)
        with Wire(gateway.port) as client:
            client.hello()
            poll(lambda: page.value("connections", listener=str(gateway.settings["listeners"][0]["smtp"])) == 1)

        killed = gateway.workers()[0]
        os.kill(killed.pid, signal.SIGKILL)
        gateway.line("worker replaced")
        assert send(gateway) == 250
        assert page.value("decisions_total", result="accepted") == 21

        gateway.send(signal.SIGHUP)
        gateway.line("configuration reloaded")
        assert send(gateway) == 250
        poll(lambda: page.value("decisions_total", result="accepted") == 22)


def test_an_outage_of_the_state_is_a_number(sink: Sink) -> None:
    """Up, away, up again: one outage, however many messages came in it."""
    page = Page()
    limit = {"rate_limit": {"id": "few", "key": "client_address", "count": "messages", "limit": "1000/h"}}
    with RedisServer() as redis:
        settings = {"state": redis.url, "metrics": page.setting, "policies": ["relay", limit]}
        with Gateway(settings, backend=sink.port) as gateway:
            assert send(gateway) == 250
            poll(lambda: page.value("state_up") == 1)
            assert page.value("state_outages_total") == 0
            redis.stop()
            for _ in range(5):
                assert send(gateway) == 250  # the policy's on_error
            poll(lambda: (page.value("state_up"), page.value("state_outages_total")) == (0, 1))
            assert page.value("state_calls_failed_total") >= 5
            redis.start()
            gateway.line("state available again")
            poll(lambda: page.value("state_up") == 1)
            assert page.value("state_outages_total") == 1


def test_metrics_begin_and_end_with_a_reload(sink: Sink) -> None:
    """A file that names the page opens it; one that does not closes it."""
    page = Page()
    with Gateway(backend=sink.port) as gateway:
        gateway.write(gateway.settings | {"metrics": page.setting})
        gateway.send(signal.SIGHUP)
        gateway.line("configuration reloaded")
        assert send(gateway) == 250
        poll(lambda: page.value("decisions_total") >= 1)
        gateway.write(gateway.settings)
        gateway.send(signal.SIGHUP)

        def is_closed() -> bool:
            try:
                page.value("decisions_total")
            except (urllib.error.URLError, OSError):
                return True
            return False

        poll(is_closed)
        assert send(gateway) == 250
