"""How servers and their options are written."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config.backend import BackendOptions, NextHop, NextHopKind

HOST, UNIX, MX = NextHopKind.HOST, NextHopKind.UNIX, NextHopKind.MX


@pytest.mark.parametrize(
    ("text", "hop", "written"),
    [
        ("127.0.0.1:10025", NextHop(HOST, "127.0.0.1", 10025), None),
        ("mail.example.com", NextHop(HOST, "mail.example.com"), None),
        ("mail.example.com.:2525", NextHop(HOST, "mail.example.com", 2525), "mail.example.com:2525"),
        ("[::1]:10025", NextHop(HOST, "::1", 10025), None),
        ("[2001:DB8:0::7]", NextHop(HOST, "2001:db8::7"), "[2001:db8::7]"),
        ("mx:example.com", NextHop(MX, "example.com"), None),
        ("mx:example.com:2525", NextHop(MX, "example.com", 2525), None),
        ("unix:/run/lmtp", NextHop(UNIX, "/run/lmtp"), None),
    ],
)
def test_next_hops(text: str, hop: NextHop, written: str | None) -> None:
    """Each form is read, and written back the same way."""
    assert NextHop.parse(text) == hop
    assert str(hop) == (written or text)
    assert NextHop.parse(str(hop)) == hop


@pytest.mark.parametrize(
    "text",
    ["", ":25", "a:0", "a:65536", "a:b", "a:25:26", "::1", "[::1", "[1.2.3]:25", "mx:[::1]", "unix:run/lmtp", "a b:25",
     "-a", "a..b", "mx:", 25, None],
)  # fmt: skip
def test_what_is_no_next_hop(text: object) -> None:
    """Anything else is an error that names it."""
    with pytest.raises(ValueError):  # noqa: PT011 - the message differs by case
        NextHop.parse(text)


def test_defaults() -> None:
    """One server is enough; time-outs do not exceed those of RFC 5321 4.5.3.2."""
    options = BackendOptions(servers=["127.0.0.1:25"])
    assert options.servers == (NextHop(HOST, "127.0.0.1", 25),)
    assert options.timeouts.end_of_data == 600
    assert options.timeouts.data_block == 180
    assert options.model_dump(mode="json")["servers"] == ["127.0.0.1:25"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"servers": []},
        {"servers": ["a"], "server": "b"},
        {"servers": ["a"], "protocol": "esmtp"},
        {"servers": ["a"], "connections": 0},
        {"servers": ["unix:/a"], "tls": {"mode": "verified"}},
        {"servers": ["a"], "tls": {"mode": "verified", "ca": "no-such-file"}},
        {"servers": ["a"], "tls": {"implicit": True}},
        {"servers": ["a"], "tls": {"implicit": True, "mode": "opportunistic"}},
        {"servers": ["a"], "tls": {"implicit": "yes", "mode": "required"}},
        {"servers": ["a"], "timeouts": {"command": "soon"}},
        {"servers": ["a"], "connections": "50"},
        {"servers": ["a"], "messages": True},
        {"servers": ["a"], "health": {"failures": 2.0}},
    ],
)
def test_wrong_options(fields: dict[str, object]) -> None:
    """Options that can't work are errors."""
    with pytest.raises(ValidationError):
        BackendOptions.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "port"),
    [({}, 25), ({"protocol": "lmtp"}, 24), ({"tls": {"mode": "required", "implicit": True}}, 465)],
)
def test_the_port_of_servers_that_name_none(fields: dict[str, object], port: int) -> None:
    """SMTP has 25, LMTP 24, implicit TLS 465."""
    assert BackendOptions.model_validate({"servers": ["a"], **fields}).port == port


def test_the_authorities_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    """A relative file name starts in the configuration's folder."""
    (tmp_path / "ca.pem").write_text("")
    fields = {"servers": ["a"], "tls": {"mode": "verified", "ca": "ca.pem"}}
    options = BackendOptions.model_validate(fields, context={"folder": tmp_path})
    assert options.tls.ca == tmp_path / "ca.pem"


def test_the_schema_documents_each_option() -> None:
    """Every option has a description in the JSON Schema."""
    properties = BackendOptions.model_json_schema()["properties"]
    assert all("description" in each for each in properties.values())
