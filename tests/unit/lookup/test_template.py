"""Texts with parts of an address in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.template import NoSuchLabelError, expand, parts


def expanded(text: str, local_part: str = "alice", domain: str = "mail.example.com") -> str:
    """A template about an address, with what is put in marked."""
    return expand(tuple(parts(text)), local_part, domain, lambda value: f"<{value}>")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""),
        ("plain", "plain"),
        ("%s", "<alice@mail.example.com>"),
        ("%S", "<alice@mail.example.com>"),
        ("uid=%u,dc=%d", "uid=<alice>,dc=<mail.example.com>"),
        ("dc=%2,dc=%1", "dc=<example>,dc=<com>"),
        ("%3", "<mail>"),
        ("100%%", "100%"),
        ("%%u", "%u"),
        ("%%%u", "%<alice>"),
        ("%u%%%d", "<alice>%<mail.example.com>"),
        ("%u%u", "<alice><alice>"),
    ],
)
def test_parts_of_the_address_are_put_in(text: str, wanted: str) -> None:
    """Each code stands for its part, escaped as the caller says; everything else stays."""
    assert expanded(text) == wanted


@pytest.mark.parametrize("text", ["%", "a%", "%x", "%0", "%%%", "% s"])
def test_an_unknown_code_is_an_error(text: str) -> None:
    """A percent sign stands before a code or another one."""
    with pytest.raises(ValueError, match="%%"):
        list(parts(text))


def test_a_domain_without_the_label_is_no_domain_of_the_template() -> None:
    """As in Postfix, nothing is looked up then."""
    with pytest.raises(NoSuchLabelError):
        expanded("%3", domain="example.com")


@given(st.text())
def test_what_is_put_in_is_never_read_again(local_part: str) -> None:
    """A local part of percent signs and codes stays what it is."""
    assert expanded("a%ub", local_part) == f"a<{local_part}>b"
