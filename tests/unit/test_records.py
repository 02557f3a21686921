"""The decision record as a published format."""

import json
from typing import Any

import jsonschema
import pytest

from gateway import records
from gateway.records import ClientRecord, DecisionPart, DecisionRecord, HeloRecord
from gateway.verdict import Action, Check, Stage
from tests.support.records import ACCEPTED, record

CONNECTION = record(
    id="0K3F5Z8Q2M7A1B",
    kind="connection",
    client=ClientRecord(address="2001:db8::1", port=0, name=None, tls=None, login=None),
    helo=None,
    reverse_path=None,
    recipients=[],
    message=None,
    checks=[],
    decision=DecisionPart(result="none", policy=None, stage=None, outcome=None),
    reply=None,
    backend=None,
)
HOSTILE = record(helo=HeloRecord(name='\udcff\udc0a"\\\r\n\u202e', extended=False), reverse_path="caf\xe9@example.com")


def check(evidence: dict[str, Any]) -> Check:
    """A check with this evidence."""
    return Check(
        policy="access",
        stage=Stage.CONNECT,
        recipient=None,
        outcome="denied",
        action=Action.REJECT,
        observed=True,
        exempted=None,
        evidence=evidence,
        duration_us=1,
    )


@pytest.mark.parametrize("example", [ACCEPTED, CONNECTION, HOSTILE], ids=["accepted", "connection", "hostile"])
def test_records_follow_the_published_schema(example: DecisionRecord) -> None:
    """What is written is one line of UTF-8 JSON that the schema allows, whatever a client sent."""
    schema = records.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    line = records.encode(example)
    assert b"\n" not in line
    jsonschema.validate(json.loads(line.decode("utf-8")), schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kind",), "other"),
        (("id",), None),
        (("decision", "result"), "maybe"),
        (("client", "port"), "40000"),
        (("recipients", 0, "verdict"), "bounced"),
        (("checks", 0, "action"), "explode"),
    ],
)
def test_the_schema_refuses_what_is_no_record(path: tuple[str | int, ...], value: object) -> None:
    """The schema says which words and types there are."""
    data = json.loads(records.encode(ACCEPTED))
    part = data
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, records.schema(), cls=jsonschema.Draft202012Validator)


def test_octets_that_are_no_utf8_stay_readable() -> None:
    """An octet that a client sent outside UTF-8 is shown as an escape, so that the record is not lost."""
    data = json.loads(records.encode(HOSTILE))
    assert data["helo"]["name"] == '\\xff\\udc0a"\\\r\n\u202e'
    assert data["reverse_path"] == "caf\xe9@example.com"


def test_evidence_that_json_lacks_becomes_text() -> None:
    """A policy of somebody else's may put any object into its evidence; the record is written nevertheless."""

    class Odd:
        def __str__(self) -> str:
            return "odd"

    data = json.loads(records.encode(record(checks=[check({"what": Odd(), "count": 3})])))
    assert data["checks"][0]["evidence"] == {"what": "odd", "count": 3}


def test_every_field_is_required() -> None:
    """A reader may rely on every key: absent values are null, keys are never left out. Only a check has one that is."""
    schema = records.schema()
    parts = [schema, *(part for part in schema["$defs"].values() if part.get("type") == "object")]
    assert len(parts) > 8
    for part in parts:
        left_out = {"delay_ms"} if part["title"] == "Check" else set()
        assert set(part["required"]) == set(part["properties"]) - left_out, part["title"]


def test_a_delay_is_written_where_there_is_one() -> None:
    """A check without one is as it always was; what is written follows the schema."""
    slow = check({})
    slow.delay_ms = 1500
    line = records.encode(record(checks=[check({}), slow]))
    first, second = json.loads(line)["checks"]
    assert "delay_ms" not in first
    assert second == first | {"delay_ms": 1500}
    jsonschema.validate(json.loads(line), records.schema(), cls=jsonschema.Draft202012Validator)
    slow.evidence = {"octets": "\udcff"}  # written by another way
    assert json.loads(records.encode(record(checks=[slow])))["checks"][0]["delay_ms"] == 1500
