"""Comments and white space between the words of a structured header field (RFC 5322 3.2.2, CFWS).

Comments nest, and a backslash takes the meaning from the next character. Time is linear in the text, however deep they
nest.
"""

import re
from typing import Final

_WHITE_SPACE: Final = re.compile(r"[ \t\r\n]*")
_IN_COMMENT: Final = re.compile(r"\\.|[()]", re.DOTALL)


def comment_end(text: str, position: int) -> int | None:
    """Where a comment ends, None if it does not.

    Args:
        text: The field's value.
        position: Behind the comment's first parenthesis.
    """
    depth = 1
    for mark in _IN_COMMENT.finditer(text, position):
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
        if depth == 0:
            return mark.end()
    return None


def skip_cfws(text: str, position: int) -> int:
    """Where the next word begins: behind white space and whole comments; an unclosed comment is no comment."""
    while (position := _end_of_white_space(text, position)) < len(text) and text[position] == "(":
        end = comment_end(text, position + 1)
        if end is None:
            break
        position = end
    return position


def _end_of_white_space(text: str, position: int) -> int:
    match = _WHITE_SPACE.match(text, position)
    return position if match is None else match.end()
