"""The JSON Schema of the configuration: it accepts what ``load`` accepts, and refuses what an editor should mark."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.reading import read, read_text
from gateway.config.registry import Registry
from gateway.config.schema import config_schema
from tests.support.configuring import GOOD, REGISTRY, loaded

PATH = Path("/etc/lychgate/lychgate.yaml")
EXAMPLES = sorted((Path(__file__).parents[3] / "deploy").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """Validates by the schema with the tests' small policies."""
    schema = config_schema(REGISTRY)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def plain(text: str) -> Any:
    """The data of a text."""
    return read_text(text, PATH).root


VALID = [
    GOOD,
    GOOD + "records: stdout\n",
    GOOD + "records: {file: a.jsonl, stdout: true}\n",
    GOOD + "limits: {message_size: 25MB, recipients: 200}\ntimeouts: {command: 5m}\n",
    GOOD + "exceptions: [{policy: size, client: 192.0.2.0/24, until: 2027-01-31, reason: x}]\n",
    GOOD.replace("{recipients: {list: [alice, bob]}}", ""),
    GOOD.replace("[alice, bob]", "[alice], aliases: ['info: alice']"),
    GOOD.replace("[alice, bob]", "[alice], aliases: {list: ['info: alice']}"),
    GOOD.replace("- relay", "- relay:"),
    GOOD.replace("{limit: 2KB}", "{id: big, mode: observe, on_error: pass, timeout: 5s, on: {too_large: defer}}"),
    GOOD.replace("{limit: 2KB}", "{on: {nearly: {action: tag, header: 'X: y'}}, inner: {depth: 5}}"),
    GOOD.replace("{limit: 2KB}", "{trusted: [192.0.2.0/24]}"),
    GOOD.replace("example.com: {", "example.com: {policies: {size: {limit: 1}}, "),
    GOOD.replace("0.0.0.0:25", "'[::]:25'\n    tls: {mode: none}\n    policies: [relay]"),
]

WRONG = [
    GOOD.replace("hostname", "hostnam"),
    GOOD.replace("listeners", "listener"),
    GOOD.replace("smtp", "smpt"),
    GOOD.replace("0.0.0.0:25", "25"),
    GOOD.replace("- relay", "- rely"),
    GOOD.replace("- relay", "- relay: {limit: 5}"),
    GOOD.replace("limit: 2KB", "limt: 2KB"),
    GOOD.replace("limit: 2KB", "limit: big"),
    GOOD.replace("limit: 2KB", "inner: {dept: 5}"),
    GOOD.replace("limit: 2KB", "on: {to_large: defer}"),
    GOOD.replace("limit: 2KB", "on: {too_large: refuse}"),
    GOOD.replace("limit: 2KB", "mode: observer"),
    GOOD.replace("limit: 2KB", "timeout: 5"),
    GOOD.replace("example.com: {", "example.com: {policies: {size: {limt: 1}}, "),
    GOOD.replace("servers", "server"),
    GOOD + "records: sdtout\n",
    GOOD + "workers: two\n",
    GOOD + "exceptions: [{policy: size, client: 192.0.2.0/24}]\n",
]


@pytest.mark.parametrize("text", VALID)
def test_what_loads_is_valid(tmp_path: Path, validator: jsonschema.Draft202012Validator, text: str) -> None:
    """What ``load`` accepts, in long and in short forms, the schema accepts."""
    loaded(tmp_path, text)
    assert [error.message for error in validator.iter_errors(plain(text))] == []


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_invalid(tmp_path: Path, validator: jsonschema.Draft202012Validator, text: str) -> None:
    """Wrong keys, names, outcomes and forms of values are marked by the schema, and refused by ``load``."""
    assert not validator.is_valid(plain(text))
    with pytest.raises(ConfigError):
        loaded(tmp_path, text)


def test_installed_policies_are_described() -> None:
    """The schema of an installation has every policy's options with their descriptions."""
    schema = config_schema(Registry.installed())
    jsonschema.Draft202012Validator.check_schema(schema)
    size = schema["$defs"]["policy-size"]
    assert "largest message" in size["properties"]["limit"]["description"]
    assert set(size["properties"]["on"]["properties"]) == {"too_large"}
    assert "on_error" in size["properties"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_our_examples_are_valid(path: Path) -> None:
    """The configurations that we ship load, and the schema accepts them."""
    load(path)
    validator = jsonschema.Draft202012Validator(config_schema(Registry.installed()))
    assert [error.message for error in validator.iter_errors(read(path).root)] == []
