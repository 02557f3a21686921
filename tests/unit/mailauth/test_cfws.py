"""Comments and white space between words: where the next word begins, and what is no comment."""

import pytest

from gateway.mailauth.cfws import comment_end, skip_cfws


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("a", 0),
        (" \t\r\n a", 5),
        ("(c)a", 3),
        (" (c) (d) a", 9),
        ("(a (b) c)d", 9),
        ("(a \\) (b)) c", 11),
        ("(\\\\)a", 4),
        ("(\\\n)a", 4),
        (")a", 0),
        ("(c", 0),
        ("  (c", 2),
        ("(a) (b (c) d", 4),
        ("(a)(b\\)", 3),
        ("(", 0),
        ("(c)", 3),
    ],
)
def test_the_next_word_begins_after_white_space_and_whole_comments(text: str, position: int) -> None:
    """A comment that is not closed is none: the word begins at its parenthesis (RFC 5322 3.2.2)."""
    assert skip_cfws(text, 0) == position


@pytest.mark.parametrize(("text", "end"), [("c)", 2), ("a(b)c)d", 6), ("a(b)", None), ("", None), ("\\)", None)])
def test_a_comment_ends_at_its_own_parenthesis(text: str, end: int | None) -> None:
    """Comments within it end before, and a backslash takes the meaning of a parenthesis."""
    assert comment_end(text, 0) == end
