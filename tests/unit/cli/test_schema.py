"""``lychgate schema``: the published JSON Schemas."""

import json

import jsonschema
import pytest
from typer.testing import CliRunner

from gateway.cli.app import app


@pytest.mark.parametrize(
    ("arguments", "known"), [((), "listeners"), (("config",), "listeners"), (("record",), "session_id")]
)
def test_schemas(arguments: tuple[str, ...], known: str) -> None:
    """Both schemas are valid JSON Schemas of the things they are named after."""
    result = CliRunner().invoke(app, ["schema", *arguments])
    schema = json.loads(result.stdout)
    assert result.exit_code == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    assert known in schema["properties"]


def test_another_schema_is_a_wrong_call() -> None:
    """There is no third one."""
    assert CliRunner().invoke(app, ["schema", "other"]).exit_code == 2
