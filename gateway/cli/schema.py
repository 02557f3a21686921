"""``lychgate schema``: the JSON Schemas that Lychgate publishes."""

from gateway import records
from gateway.cli.screen import print_json
from gateway.config.registry import Registry
from gateway.config.schema import config_schema


def of_config() -> None:
    """Print that of the configuration file."""
    print_json(config_schema(Registry.installed()))


def of_record() -> None:
    """Print that of a decision record."""
    print_json(records.schema())
