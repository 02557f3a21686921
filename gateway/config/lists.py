"""The files of recipients that a configuration names, and what is wrong with them and with other tables' files.

``named_lists`` tells which files are kept by what of them was accepted (``gateway.tables.kept``); ``warnings`` looks at
them as ``lychgate check`` does, without writing anything.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from gateway.config.model import Config
from gateway.config.options import RecipientListOptions
from gateway.config.problems import Problem
from gateway.tables import KeptTable, ListKind, Losses, RecipientFile, Shelf, Table

Named: TypeAlias = tuple[Path, ListKind]
"""A file of recipients, and how it is read."""


def named_lists(config: Config) -> list[Named]:
    """The files of recipients, each once for each way in which it is read, in the configuration's order."""
    found: dict[Named, None] = {}
    for domain in config.domains.values():
        for section in domain.recipients or ():
            if section.file is not None:
                found[section.file, ListKind.RECIPIENTS] = None
            if section.aliases is not None and section.aliases.file is not None:
                found[section.aliases.file, ListKind.ALIASES] = None
    return list(found)


def shelf(options: RecipientListOptions, *, writes: bool) -> Shelf:
    """Where the accepted content of the lists is.

    Args:
        options: The settings.
        writes: Whether what is accepted is written; without it one only looks.
    """
    return Shelf(options.folder, Losses(share=options.max_loss, few=options.few), writes=writes)


def warnings(config: Config) -> list[Problem]:
    """What is held back, and what is empty."""
    kept = shelf(config.recipient_lists, writes=False)
    told: dict[Path, str] = {}
    for file, kind in named_lists(config):
        try:
            status = RecipientFile(file, kind, kept).table.status
        except ValueError:  # it has become unreadable since the configuration was loaded
            continue
        if status is not None and status.problem is not None:
            told[file] = status.problem
    for table in _tables(config):
        for file in table.named_files() if not isinstance(table, KeptTable) and not table.entries else ():
            told[file] = f"{str(file)!r} has no entries"
    return [
        Problem(config.path, named.position, named.where, told.pop(named.path))
        for named in config.files
        if named.path in told
    ]


def _tables(config: Config) -> Iterator[Table[Any]]:
    """The tables in the options of policies."""
    chains = {id(listener.chain): listener.chain for listener in config.listeners}.values()
    variants = [policies for chain in chains for policies in (chain.policies, *chain.overrides.values())]
    for settings in {id(each): each for policies in variants for each in policies}.values():
        yield from _within(settings.options)


def _within(value: object) -> Iterator[Table[Any]]:
    if isinstance(value, Table):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _within(getattr(value, name))
