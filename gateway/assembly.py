"""From a configuration to the things it speaks of: our domains, the policies' context, chains, sinks.

The worker and ``explain`` build the same things here, so that what is explained is what would happen.
"""

import asyncio
from collections.abc import Callable, Mapping

from gateway.adapters.recipients.sources import RecipientSources
from gateway.adapters.records import FileSink, StdoutSink
from gateway.admission.trace import Identity
from gateway.backend import ServerGroup
from gateway.backend.probe import BackendProbe
from gateway.chain.chain import Chain
from gateway.config.lists import shelf
from gateway.config.model import ChainSettings, Config, DomainOptions, Listener
from gateway.form import HeaderReader
from gateway.policy import Clock, Context
from gateway.records import DecisionRecord, RecordSink
from gateway.resolver import Resolver
from gateway.session import Domain
from gateway.state import State


def build_groups(config: Config, resolver: Resolver) -> dict[str, ServerGroup]:
    """The backends by name."""
    return {name: ServerGroup(name, options, resolver, config.hostname) for name, options in config.backends.items()}


def build_sources(
    config: Config, groups: Mapping[str, ServerGroup] | None = None, *, accepts: bool = False
) -> RecipientSources:
    """What is asked about recipients.

    Args:
        config: The configuration.
        groups: The backends that may be asked; without them none is, and what only a backend knows is taken.
        accepts: Whether the content of files that is accepted is written, for the next start.
    """
    kept = shelf(config.recipient_lists, writes=accepts)
    if groups is None:
        return RecipientSources(config.folder, shelf=kept)
    return RecipientSources(config.folder, lambda backend, options: BackendProbe(groups[backend], options), kept)


def our_domains(config: Config, sources: RecipientSources) -> Callable[[str], Domain | None]:
    """A function that finds our domain of a name in lower case, A-labels."""
    domains = {name: _domain(options, sources) for name, options in config.domains.items()}
    exact = domains.get

    def find(name: str) -> Domain | None:
        found = exact(name)
        if found is not None:
            return found
        options = config.domain(name)
        return None if options is None else domains[options.name]

    return find


def _domain(options: DomainOptions, sources: RecipientSources) -> Domain:
    return Domain(
        name=options.name,
        backend=options.backend,
        recipients=sources.of(options),
        subaddress_separators=options.subaddress,
        message_size=options.message_size,
    )


def identity_of(config: Config) -> Identity:
    """The gateway's names."""
    options = config.authentication_results
    name = options.authserv_id or config.hostname
    return Identity(hostname=config.hostname, authserv_id=name if options.add else None)


def header_reader(config: Config, listener: Listener) -> HeaderReader:
    """What reads the headers of a listener's messages."""
    options = config.authentication_results
    names = frozenset(name.lower() for name in (options.authserv_id or config.hostname, *options.remove))
    return HeaderReader(names, config.written_fields, strict=listener.malformed_header == "strict")


def build_chains(
    config: Config, *, domain: Callable[[str], Domain | None], resolver: Resolver, clock: Clock, state: State
) -> list[Chain]:
    """Each listener's chain, in the configuration's order; listeners with the same settings share one."""
    made: list[tuple[ChainSettings, int, Chain]] = []
    chains: list[Chain] = []
    for listener in config.listeners:
        known = next(
            (c for settings, size, c in made if settings is listener.chain and size == listener.message_size), None
        )
        if known is None:
            context = Context(
                hostname=config.hostname,
                folder=config.folder,
                resolver=resolver,
                clock=clock,
                domain=domain,
                message_size=listener.message_size,
                state=state,
            )
            known = Chain(listener.chain.policies, listener.chain.overrides, config.exceptions, context, config.mode)
            made.append((listener.chain, listener.message_size, known))
        chains.append(known)
    return chains


class Sinks:
    """Several sinks as one."""

    def __init__(self, *sinks: RecordSink) -> None:
        self._sinks = sinks

    @property
    def lost(self) -> int:
        """How many records could not be written, somewhere."""
        return sum(sink.lost for sink in self._sinks)

    def write(self, record: DecisionRecord) -> None:
        """Give the record to each."""
        for sink in self._sinks:
            sink.write(record)

    async def close(self) -> None:
        """Close each."""
        await asyncio.gather(*(sink.close() for sink in self._sinks))


def build_sink(config: Config) -> RecordSink:
    """Where the records go."""
    sinks: list[RecordSink] = []
    if config.records.file is not None:
        sinks.append(FileSink(config.records.file, queue_octets=config.records.waiting))
    if config.records.stdout:
        sinks.append(StdoutSink(queue_octets=config.records.waiting))
    return sinks[0] if len(sinks) == 1 else Sinks(*sinks)
