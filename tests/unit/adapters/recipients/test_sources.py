"""The sources that a configuration names, and how several are one."""

from pathlib import Path

import pytest

from gateway.adapters.recipients.sources import InOrder, OfDomain, RecipientSources
from gateway.config.model import DomainOptions
from gateway.config.recipients import ProbeOptions
from gateway.lookup.answer import Answer, UnverifiableError
from gateway.tables import RecipientFile
from tests.support.configuring import loaded

CONFIG = """\
hostname: mx1.example.com
listeners: [{smtp: "127.0.0.1:25"}]
backends: {one: {servers: ["127.0.0.1:10025"]}, two: {servers: ["127.0.0.1:10026"]}}
default_backend: one
domains:
  a.test: {recipients: {probe: true}}
  b.test: {recipients: {probe: {}}}
  c.test: {backend: two, recipients: {probe: true}}
  d.test: {recipients: {list: [info], tcp: &table {server: "127.0.0.1:1", key: local_part}}}
  e.test: {recipients: [{tcp: *table}, {list: [abuse]}]}
  f.test: {alias_of: e.test}
  g.test: {alias_of: a.test}
  h.test: {recipients: {probe: {random_test: 0}}}
  any.test: {recipients: {any: true}}
  open.test: {}
policies: [relay]
"""


class Always:
    """A source that always says the same; it keeps what it was asked about."""

    folds_case = True

    def __init__(self, answer: bool | Exception) -> None:  # noqa: FBT001 - what it always says
        self.answer = answer
        self.asked: list[str] = []

    async def find(self, local_part: str, domain: str) -> bool:
        self.asked.append(f"{local_part}@{domain}")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def ask(self, local_part: str, domain: str) -> Answer:
        return Answer(await self.find(local_part, domain))

    def forget(self, domain: str | None) -> None:
        raise AssertionError(domain)

    async def close(self) -> None:
        self.asked.append("closed")


@pytest.fixture
def probes() -> dict[str, Always]:
    """What asks each backend."""
    return {"one": Always(True), "two": Always(False)}


@pytest.fixture
def sources(tmp_path: Path, probes: dict[str, Always]) -> RecipientSources:
    """Sources whose probes always say the same."""

    def probe(backend: str, options: ProbeOptions) -> Always:
        assert isinstance(options, ProbeOptions)
        return probes[backend]

    return RecipientSources(tmp_path, probe)


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, DomainOptions]:
    """The domains of the configuration above."""
    return dict(loaded(tmp_path, CONFIG).domains)


@pytest.mark.parametrize(
    ("answers", "wanted", "asked"),
    [
        ([True, False], True, 1),
        ([False, True], True, 2),
        ([False, False], False, 2),
        ([OSError("away"), True], True, 2),
        ([OSError("away"), False], None, 2),
        ([False, OSError("away")], None, 2),
    ],
)
async def test_several_sources_are_asked_in_order(
    answers: list[bool | Exception],
    wanted: bool | None,  # noqa: FBT001 - a parameter of pytest
    asked: int,
) -> None:
    """The first yes is the answer; without one, a source that can't tell leaves it open."""
    parts = [Always(answer) for answer in answers]
    source = InOrder(parts)
    if wanted is None:
        with pytest.raises(OSError, match="away"):
            await source.find("alice", "a.test")
    else:
        assert await source.find("alice", "a.test") is wanted
    assert sum(len(part.asked) for part in parts) == asked


async def test_domains_with_the_same_source_share_it(
    sources: RecipientSources, domains: dict[str, DomainOptions]
) -> None:
    """With its cache and connections; other settings or another backend make another."""
    assert sources.of(domains["a.test"]) is sources.of(domains["b.test"])
    assert sources.of(domains["a.test"]) is not sources.of(domains["c.test"])
    assert sources.of(domains["a.test"]) is not sources.of(domains["h.test"])
    sources.of(domains["d.test"])
    sources.of(domains["e.test"])
    assert [source.name for source in sources.caches] == ["probe one", "probe two", "probe one", "tcp 127.0.0.1:1"]


async def test_a_file_is_read_once_for_all_domains_that_name_it(tmp_path: Path) -> None:
    """One domain has its recipients, another the same as aliases, an alias of the first those of both names."""
    (tmp_path / "list").write_text("alice\nbob@a.test\n")
    text = CONFIG.replace(
        "domains:",
        "domains:\n  file.test: {recipients: {file: list}}\n  more.test: {recipients: {list: [carol], file: list}}\n"
        "  alias.test: {alias_of: file.test}\n"
        "  other.test: {recipients: {aliases: {file: list}}}",
    )
    domains = loaded(tmp_path, text).domains
    sources = RecipientSources(tmp_path)
    first, second, alias, other = (
        sources.of(domains[name]) for name in ("file.test", "more.test", "alias.test", "other.test")
    )
    assert isinstance(first, RecipientFile)
    assert isinstance(second, InOrder)
    assert isinstance(alias, InOrder)
    assert second.sources[1] is alias.sources[0] is first
    assert [(status.kind, status.entries) for status in sources.lists] == [("recipients", 2), ("aliases", 2)]
    assert other is not None
    for source, user, domain, exists in (
        (first, "alice", "file.test", True),
        (first, "carol", "file.test", False),
        (second, "carol", "more.test", True),
        (second, "bob", "a.test", True),
        (alias, "alice", "alias.test", True),
        (other, "bob", "a.test", True),
    ):
        assert await source.find(user, domain) is exists


async def test_open_domains_have_no_source(sources: RecipientSources, domains: dict[str, DomainOptions]) -> None:
    """Neither one without recipients nor one that takes any."""
    assert sources.of(domains["any.test"]) is None
    assert sources.of(domains["open.test"]) is None


async def test_tables_stand_before_what_is_asked_in_one_section(
    sources: RecipientSources, domains: dict[str, DomainOptions]
) -> None:
    """A listed address is known without asking; the order of a list of sections is as written."""
    source = sources.of(domains["d.test"])
    assert source is not None
    assert await source.find("info", "d.test") is True
    assert sources.caches[0].asked == 0
    with pytest.raises(UnverifiableError, match="ConnectionRefusedError"):
        await source.find("nobody", "d.test")
    both = sources.of(domains["e.test"])
    assert isinstance(both, InOrder)
    assert [type(part).__name__ for part in both.sources] == ["CachedSource", "AddressList"]
    assert await both.find("abuse", "e.test") is True
    assert sources.caches[0].asked == 2
    await sources.close()


async def test_an_alias_is_asked_about_under_both_names(
    sources: RecipientSources, domains: dict[str, DomainOptions], probes: dict[str, Always]
) -> None:
    """But a backend only about the name that the client gave: it knows the alias itself."""
    alias = sources.of(domains["f.test"])
    assert isinstance(alias, InOrder)
    assert [type(part) for part in alias.sources][1] is OfDomain
    probed = sources.of(domains["g.test"])
    assert probed is not None
    assert await probed.find("alice", "g.test") is True
    assert probes["one"].asked == ["alice@g.test"]
    other = Always(True)
    assert await OfDomain(other, "e.test").find("bob", "f.test") is True
    assert other.asked == ["bob@e.test"]


async def test_without_backends_what_only_they_know_is_taken(tmp_path: Path, domains: dict[str, DomainOptions]) -> None:
    """As when the chain is explained: the backend would be asked at RCPT."""
    assert RecipientSources(tmp_path).of(domains["a.test"]) is None


async def test_closing_closes_every_source(
    sources: RecipientSources, domains: dict[str, DomainOptions], probes: dict[str, Always]
) -> None:
    """Once each."""
    for options in domains.values():
        sources.of(options)
    await sources.close()
    assert probes["two"].asked == ["closed"]
