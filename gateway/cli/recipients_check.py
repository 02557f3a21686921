"""``lychgate recipients check``: what the sources of recipients say now."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.recipients.cache import CachedSource
from gateway.adapters.recipients.sources import InOrder, RecipientSources
from gateway.assembly import build_groups, build_sources
from gateway.cli.common import ANSWER_COLOURS, load_config, parse_recipient
from gateway.cli.screen import bad_parameter, console, line, print_json
from gateway.config.model import Config, DomainOptions
from gateway.lookup.answer import UnverifiableError
from gateway.session import without_detail
from gateway.smtp.path import Mailbox

EXIT: Final = {True: 0, None: 3, False: 4}
"""Exit statuses: the address exists, it can't be told, it does not; as with ``explain``."""

_WORDS: Final = {True: "yes", False: "no", None: "unknown"}


def check(config: Path, address: str, *, as_json: bool) -> None:
    """Carry the command out.

    Raises:
        typer.Exit: Always, with what ``EXIT`` has for the answer, or because the configuration can't be used.
        typer.BadParameter: It is no address, or not of a domain of ours.
    """
    settings = load_config(config)
    mailbox = parse_recipient(address)
    options = settings.domain(mailbox.domain)
    if options is None:
        raise bad_parameter(f"{mailbox.domain} is none of our domains", param_hint="ADDRESS")
    said = asyncio.run(_ask(settings, options, mailbox))
    found = _verdict(said)
    if as_json:
        steps = [{"source": step.source, "address": step.address, "answer": _WORDS[step.exists], "said": step.words}
                 for step in said]  # fmt: skip
        print_json({"address": address, "answer": _WORDS[found], "steps": steps})
    else:
        out = console()
        for step in said:
            word = _WORDS[step.exists]
            words = f" ({step.words})" if step.words else ""
            out.print(line(f"{step.source}: {step.address}: ", (word, ANSWER_COLOURS[word]), words), soft_wrap=True)
        if not said:
            out.print("every address of the domain is taken, and the backend has its say")
        out.print(line(f"Result: {_WORDS[found]}", style="bold"))
    raise typer.Exit(EXIT[found])


@dataclass(frozen=True, slots=True)
class _Said:
    """What one source said of one address; ``exists`` is None when it could not tell."""

    source: str
    address: str
    exists: bool | None
    words: str = ""


async def _ask(config: Config, domain: DomainOptions, mailbox: Mailbox) -> list[_Said]:
    resolver = DnsResolver.from_options(config.dns)
    groups = build_groups(config, resolver)
    sources = build_sources(config, groups)
    asks_backend = any(section.probe is not None for section in domain.recipients or ())
    if asks_backend:
        await groups[domain.backend].start()
    try:
        return [said async for said in _answers(sources, domain, mailbox)]
    finally:
        await sources.close()
        if asks_backend:
            await groups[domain.backend].stop()
        await resolver.close()


async def _answers(sources: RecipientSources, domain: DomainOptions, mailbox: Mailbox) -> AsyncIterator[_Said]:
    """What each source says, in order, up to the first yes; with and then without the detail of a subaddress."""
    if domain.recipients is None or any(section.any for section in domain.recipients):
        return
    plain = without_detail(mailbox.local_part, domain.subaddress)
    for local_part in [mailbox.local_part] if plain is None else [mailbox.local_part, plain]:
        for section in domain.recipients:
            if section.has_tables:
                said = await _listed(InOrder(sources.tables(section, domain)), local_part, mailbox.domain)
                yield said
                if said.exists:
                    return
            for source, name in sources.asked(section, domain, mailbox.domain):
                said = await _said(source, local_part, name)
                yield said
                if said.exists:
                    return


async def _listed(tables: InOrder, local_part: str, domain: str) -> _Said:
    address = f"{local_part}@{domain}"
    try:
        return _Said("tables", address, await tables.find(local_part, domain))
    except UnverifiableError as error:
        return _Said("tables", address, None, str(error))


async def _said(source: CachedSource, local_part: str, domain: str) -> _Said:
    address = f"{local_part}@{domain}"
    try:
        answer = await source.ask(local_part, domain)
    except UnverifiableError as error:
        return _Said(source.name, address, None, str(error))
    return _Said(source.name, address, answer.exists, answer.words)


def _verdict(said: list[_Said]) -> bool | None:
    if not said or any(step.exists for step in said):
        return True
    return None if any(step.exists is None for step in said) else False
