"""Names of domains, addresses to match, and endpoints."""

import re

import pytest

from gateway.config.names import Endpoint, address_pattern, domain_name, domain_pattern
from gateway.config.problems import listed, nearest, suggestion


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a_b.example", "a_b.example"),
        ("localhost", "localhost"),
    ],
)
def test_domain_names(text: str, name: str) -> None:
    """A domain is compared in lower case, as A-labels, without a final dot."""
    assert domain_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", ".", "a b", "a..b", "-a.example", "a-.example", "*.example", "@a", "a" * 64 + ".b", "ü" * 80, "a." * 130],
)
def test_what_is_no_domain_name(text: str) -> None:
    """Anything else is refused in words."""
    with pytest.raises(ValueError, match="is not a domain name"):
        domain_name(text)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("*.Example.com", ".example.com"), (".example.com", ".example.com"), ("example.com", "example.com")],
)
def test_domain_patterns(text: str, pattern: str) -> None:
    """Both ways to write all subdomains are one."""
    assert domain_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Ann@Example.com", "ann@example.com"),
        ("@Example.com", "@example.com"),
        ("<>", "<>"),
        ('"a@b"@c.example', "a@b@c.example"),
    ],
)
def test_address_patterns(text: str, pattern: str) -> None:
    """An address, a whole domain, and the null reverse-path can be matched."""
    assert address_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("example.com", "is not an address such as"),
        ("", "is not an address such as"),
        ("a b@c.example", "is not an address; one entry a line"),
        ("<a@c.example>", "'<' stands in none without quotes"),
        ("SMTP:a@c.example", "':' stands in none without quotes"),
        ("*@c.example", "is a pattern, and none are taken here"),
        ("a@c.example:25", "is not a domain name"),
        ("a@", "is not a domain name"),
    ],
)
def test_what_is_no_address_pattern(text: str, reason: str) -> None:
    """Anything else is refused in words: it could match no mail."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        address_pattern(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:25", "0.0.0.0", 25),
        ("[::]:465", "::", 465),
        ("[2001:DB8::0:1]:1", "2001:db8::1", 1),
        ("localhost:0", "localhost", 0),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    """An endpoint is an address or a name, and a port; its text can be read again."""
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "value", ["25", ":25", "0.0.0.0", "::25", "[::1]", "1.2.3:25", "0.0.0.0:65536", "[x]:1", "a b:1", 25]
)
def test_what_is_no_endpoint(value: object) -> None:
    """Anything else is refused in words."""
    with pytest.raises(ValueError, match="is not an address and port such as"):
        Endpoint.parse(value)


def test_suggestions() -> None:
    """What is near is suggested, in the case in which it is written, and what is not is left alone."""
    assert nearest("SofFail", ["softfail", "fail"]) == "softfail"
    assert nearest("xyz", ["softfail"]) is None
    assert suggestion("relya", ["relay"]) == " (did you mean 'relay'?)"
    assert not suggestion("xyz", ["relay"])


@pytest.mark.parametrize(
    ("words", "text"), [([], "none"), (["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")]
)
def test_lists_of_words(words: list[str], text: str) -> None:
    """Words are listed the way people do."""
    assert listed(words) == text
