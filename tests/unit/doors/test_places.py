"""The places for connections: in all, and of one client."""

from pathlib import Path

from gateway.config.load import loads
from gateway.doors.places import Places

CONFIG = """
hostname: mx.example.com
listeners: [{smtp: "127.0.0.1:2525"}]
backends: {mail: {servers: ["127.0.0.1:2526"]}}
domains: {example.com: {}}
workers: 1
limits: {connections: 4, connections_per_client: 2}
policies: [relay]
"""


def test_one_that_leaves_makes_room_for_one(tmp_path: Path) -> None:
    """Those of the client that are still there count, those of others do not."""
    places = Places(loads(CONFIG, tmp_path / "lychgate.yaml"))
    assert [places.take("192.0.2.1") for _ in range(3)] == [True, True, False]
    places.leave("192.0.2.1")
    places.leave("192.0.2.1")
    assert [places.take("192.0.2.1") for _ in range(2)] == [True, False]
    assert places.take("192.0.2.2")
    assert not places.take("192.0.2.3")  # the fifth of all


def test_a_site_has_one_network_and_a_mapped_address_is_its_own(tmp_path: Path) -> None:
    """IPv6 counts by /64; an IPv4-mapped address is the IPv4 one."""
    places = Places(loads(CONFIG, tmp_path / "lychgate.yaml"))
    assert places.take("2001:db8::1")
    assert places.take("2001:db8::2")
    assert not places.take("2001:db8::3")
    places.leave("2001:db8::1")
    places.leave("2001:db8::1")
    places.leave("2001:db8::1")
    assert [places.take(address) for address in ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1")] == [True, True, False]
