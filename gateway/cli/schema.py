"""``lychgate schema``: the JSON Schemas that Lychgate publishes."""

from enum import StrEnum
from typing import Annotated

import typer

from gateway import records
from gateway.cli.screen import print_json
from gateway.config.registry import Registry
from gateway.config.schema import config_schema


class Which(StrEnum):
    """The schemas."""

    CONFIG = "config"
    RECORD = "record"


def schema(
    which: Annotated[Which, typer.Argument(help="Of the configuration file, or of a decision record.")] = Which.CONFIG,
) -> None:
    """Print a JSON Schema.

    That of the configuration knows the options of every installed policy. An editor with a YAML language server
    uses it when the file begins with the comment `# yaml-language-server: $schema=lychgate.schema.json`.
    """
    print_json(config_schema(Registry.installed()) if which is Which.CONFIG else records.schema())
