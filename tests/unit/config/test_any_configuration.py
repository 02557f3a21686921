"""Whatever stands in the file: a configuration, or a ``ConfigError`` with places and words."""

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.load import loads
from gateway.config.model import Config
from gateway.config.problems import ConfigError
from gateway.config.reading import read_text
from tests.support.configuring import REGISTRY

PATH = Path("/nowhere/lychgate.yaml")

FULL = """\
hostname: mx1.example.com
listeners:
  - smtp: 0.0.0.0:25
    tls: {mode: starttls, certificate: a.pem, key: b.pem}
    auth: {backend: postfix, required: true}
    proxy_protocol: {trusted: [192.0.2.0/24]}
    policies: [size]
  - {smtp: "[::]:25", message_size: 5MB, bare_newlines: normalize, nul: accept}
backends:
  postfix: {servers: ["127.0.0.1:10025"], tls: {mode: verified, name: a}, health: {interval: 5s, failures: 3}}
default_backend: postfix
domains:
  example.com: {recipients: {list: [alice], aliases: ["info: alice"]}, subaddress: "+", mode: observe}
  "*.example.net": {backend: postfix, policies: {size: {limit: 1KB, on: {nearly: tag}}}}
  example.org: {alias_of: example.com}
  a.example: {recipients: [{probe: {random_test: 1h, cache: {yes: 1h, stale: 1d}}}, {tcp: {server: "127.0.0.1:1"}}]}
  b.example: {recipients: {ldap: {server_host: a.example, search_base: "dc=%1", query_filter: "(&(a=%u)(!(b=*)))"}}}
  c.example: {recipients: {sql: {url: "sqlite:///a", query: "SELECT :address", password: x}}}
  d.example: {recipients: {http: {url: "http://a.example/{address}", not_found: no}}}
  e.example: {recipients: {socketmap: {server: "unix:/a", map: b, key: domain}}}
policies:
  - relay
  - size: {id: size, on: {too_large: {action: reject, reply: "552 5.3.4 No"}}, timeout: 1s, inner: {depth: 1}}
exceptions:
  - {policy: size, client: 192.0.2.0/24, sender: a@b.example, domain: a.example, until: 2027-01-31, reason: x}
records: {file: a.jsonl, stdout: true}
limits: {connections: 5, message_size: 1MB}
timeouts: {command: 5m}
dns: {servers: [127.0.0.1], timeout: 5s}
"""

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(
        ["", "observe", "reject", "5s", "1MB", "relay", "example.com", "a@b", "@", "<>", "*.", "::1", "\x85"]
    ),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["list", "file", "on", "id", "x"]), st.integers(), max_size=2),
)


def outcome(text: str) -> Config | ConfigError:
    """What a text comes to; anything but these two is a fault."""
    try:
        return loads(text, PATH, registry=REGISTRY)
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either way is right
        for problem in error.problems:
            assert not any(word in problem.message for word in ("Input should", "pydantic", "<class"))
        return error


def test_the_example_loads() -> None:
    """What is changed below is a configuration to begin with."""
    assert isinstance(outcome(FULL), Config)


@given(st.integers(0, len(FULL)), st.integers(0, 12), st.text(max_size=4))
def test_any_change_of_the_text(start: int, length: int, put: str) -> None:
    """With any piece of the text replaced there is a configuration or a list of problems."""
    outcome(FULL[:start] + put + FULL[start + length :])


@given(st.data())
@settings(max_examples=300)
def test_any_value_anywhere(data: st.DataObject) -> None:
    """With any value in the place of any other there is a configuration or a list of problems."""
    changed = copy.deepcopy(_plain(read_text(FULL, PATH).root))
    holder: Any = changed
    while True:
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(VALUES)
    outcome(_written(changed))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _written(value: Any) -> str:
    """Data as YAML: flow style with quoted text, which every reader understands alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key)}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value)
