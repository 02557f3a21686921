"""Base64 by the letter: the same on every Python."""

import pytest

from gateway.smtp.encoded import decode_base64


@pytest.mark.parametrize(
    ("text", "octets"),
    [("", b""), ("YQ==", b"a"), ("YWI=", b"ab"), ("YWJj", b"abc"), ("+/+/", b"\xfb\xff\xbf"), ("YR==", b"a")],
)
def test_groups_of_four_are_decoded(text: str, octets: bytes) -> None:
    """With the padding that fills the last one."""
    assert decode_base64(text) == octets


@pytest.mark.parametrize(
    "text",
    [
        "Y", "YQ", "YQ=", "YWJ", "YWJj=", "YWJj==", "YWJj====", "====", "=", "Y===", "YQ==YQ==", "YW=j", "YW Jj",
        "YWJj\n", "-_-_", "\u00e9AAA",
    ],
)  # fmt: skip
def test_all_else_is_an_error(text: str) -> None:
    """Padding that is missing, too much or in the middle, other characters, other lengths."""
    with pytest.raises(ValueError, match="not base64"):
        decode_base64(text)
