"""Numbers and flags of the configuration are what YAML says they are."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.policy import Options
from gateway.verdict import Action


class Inner(Options):
    """Options within options."""

    depth: int = 1


class Every(Options):
    """Every kind of field that holds a number or a flag."""

    count: int = Field(default=1, ge=1)
    flag: bool = False
    share: float = 0.5
    maybe: int | None = None
    several: tuple[int, ...] = ()
    by_name: dict[str, bool] = Field(default_factory=dict)
    inner: Inner = Inner()
    more: tuple[Inner, ...] = ()
    action: Action = Action.PASS
    type: int = 0


def test_what_yaml_says_is_taken() -> None:
    """Numbers, flags, lists, words of an enum; a whole number may stand for a fraction."""
    every = Every.model_validate(
        {"count": 5, "flag": True, "share": 1, "maybe": 3, "several": [1, 2], "by_name": {"a": True},
         "inner": {"depth": 2}, "more": [{"depth": 3}], "action": "defer", "type": 1}
    )  # fmt: skip
    assert (every.several, every.inner.depth, every.more[0].depth, every.action) == ((1, 2), 2, 3, Action.DEFER)


@pytest.mark.parametrize(
    "fields",
    [
        {"count": "5"}, {"count": True}, {"count": 5.0}, {"flag": "yes"}, {"flag": 1}, {"flag": "true"},
        {"share": "0.5"}, {"share": True}, {"maybe": "3"}, {"several": ["1"]}, {"several": [True]},
        {"by_name": {"a": "yes"}}, {"inner": {"depth": "2"}}, {"more": [{"depth": True}]}, {"type": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_what_only_looks_like_it_is_an_error(fields: dict[str, Any]) -> None:
    """Text and true are no numbers; text and numbers are no flags."""
    with pytest.raises(ValidationError):
        Every.model_validate(fields)


def test_the_error_says_where_and_what(tmp_path: Path) -> None:
    """In the file, sections of backends and options of policies alike, with line and column."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(
        'listeners: [{smtp: "127.0.0.1:25"}]\n'
        'backends: {a: {servers: ["127.0.0.1:26"], connections: "50"}}\n'
        "domains: {example.com: }\n"
        "policies:\n"
        "  - limits: {recipients: true}\n"
        '  - spf: {helo: "yes"}\n'
        'limits: {errors: "5"}\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "2:56: backends.a.connections: must be a whole number",
        "5:26: policies[0].limits.recipients: must be a whole number",
        "6:17: policies[1].spf.helo: must be true or false; write true",
        "7:18: limits.errors: must be a whole number",
    ]
