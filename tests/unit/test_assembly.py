"""From a configuration to the things it speaks of."""

from pathlib import Path

from gateway.adapters.dns.zone import ZoneResolver
from gateway.adapters.state.memory import MemoryState
from gateway.assembly import Sinks, build_chains, build_sink, build_sources, our_domains
from gateway.records import DecisionRecord
from gateway.testing import SettableClock
from tests.support.configuring import loaded
from tests.support.records import record
from tests.support.scenario import REGISTRY

CONFIG = """
hostname: mx.example.com
listeners:
  - smtp: 127.0.0.1:25
  - smtp: 127.0.0.1:26
  - {smtp: "127.0.0.1:27", message_size: 1MB}
  - {smtp: "127.0.0.1:28", policies: [relay]}
backends: {one: {servers: ["127.0.0.1:10025"]}, two: {servers: ["127.0.0.1:10026"]}}
default_backend: one
domains:
  example.com: {backend: two, recipients: {list: [alice, "@sub.example"], aliases: [info]}, subaddress: "+"}
  example.net: {alias_of: example.com}
  "*.example.org": {message_size: 5MB}
  open.example: {recipients: {any: true}}
policies: [relay, size]
records: {file: records.jsonl, stdout: true}
"""


async def test_domains_are_found_by_name_alias_and_parent(tmp_path: Path) -> None:
    """With the settings that hold for them; other names are not ours."""
    config = loaded(tmp_path, CONFIG, registry=REGISTRY)
    find = our_domains(config, build_sources(config))
    own, alias, below, open_ = (find(n) for n in ("example.com", "example.net", "a.b.example.org", "open.example"))
    assert own is not None and alias is not None and below is not None and open_ is not None  # noqa: PT018 - for the types
    assert (own.backend, own.subaddress_separators, below.backend, below.message_size) == ("two", "+", "one", 5_000_000)
    assert alias.backend == "two"
    for domain, name in ((own, "example.com"), (alias, "example.net")):
        assert domain.recipients is not None
        assert [await domain.recipients.find(user, name) for user in ("alice", "info", "bob")] == [True, True, False]
    assert open_.recipients is None
    assert find("example.org") is None
    assert find("") is None
    assert find("elsewhere.example") is None


def test_listeners_with_the_same_settings_share_a_chain(tmp_path: Path) -> None:
    """A limit or a chain of its own makes another one, so that policies see the listener's."""
    config = loaded(tmp_path, CONFIG, registry=REGISTRY)
    domain = our_domains(config, build_sources(config))
    clock = SettableClock()
    chains = build_chains(config, domain=domain, resolver=ZoneResolver({}), clock=clock, state=MemoryState(clock))
    assert chains[0] is chains[1]
    assert len({id(chain) for chain in chains}) == 3
    sizes = [chain.common.by_id["size"].policy.context.message_size for chain in chains[:3]]
    assert sizes == [50_000_000, 50_000_000, 1_000_000]
    assert list(chains[3].common.by_id) == ["relay"]


class Kept:
    """A sink."""

    def __init__(self) -> None:
        self.records: list[DecisionRecord] = []
        self.closed = False
        self.lost = 0

    def write(self, each: DecisionRecord) -> None:
        self.records.append(each)

    async def close(self) -> None:
        self.closed = True


async def test_several_sinks_are_one(tmp_path: Path) -> None:
    """Each gets every record and is closed; the configuration names which there are."""
    sinks = [Kept(), Kept()]
    both = Sinks(*sinks)
    both.write(record())
    sinks[0].lost = 2
    assert both.lost == 2
    await both.close()
    assert [(len(sink.records), sink.closed) for sink in sinks] == [(1, True), (1, True)]
    built = build_sink(loaded(tmp_path, CONFIG, registry=REGISTRY))
    assert isinstance(built, Sinks)
    await built.close()
