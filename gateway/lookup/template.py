"""Texts with parts of an address in them, as Postfix's ``ldap_table(5)`` writes them.

======= =====================================================
``%s``  the address: ``user@example.com``
``%u``  its local part, without quotes
``%d``  its domain
``%1``  the domain's last label (``com``), ``%2`` the one before, up to ``%9``; without so many labels nothing is found
``%%``  a percent sign
======= =====================================================

``%S``, ``%U`` and ``%D`` mean the same as in lower case. What is put in never becomes syntax: the one who expands a
template says how its value is escaped, or needs no escaping because values and syntax are apart.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

CODES: Final = frozenset("sud123456789")

Part: TypeAlias = "str | Code"


class Code(str):
    """What stands behind a percent sign."""

    __slots__ = ()


class NoSuchLabelError(Exception):
    """The domain has fewer labels than a template asks for: there can be no such address."""


def parts(text: str) -> Iterator[Part]:
    """A template taken apart.

    Raises:
        ValueError: A percent sign begins nothing known.
    """
    literal, *rest = text.split("%")
    index = 0
    while index < len(rest):
        piece = rest[index]
        if not piece:  # "%%": the piece behind it is plain text
            index += 1
            if index == len(rest):
                raise ValueError("a percent sign stands at the end; write %% for the character itself")
            literal += "%" + rest[index]
        else:
            code = piece[0].lower()
            if code not in CODES:
                raise ValueError(f"'%{piece[0]}' is not one of %s, %u, %d, %1 to %9 and %%")
            if literal:
                yield literal
            yield Code(code)
            literal = piece[1:]
        index += 1
    if literal:
        yield literal


def value(code: str, local_part: str, domain: str) -> str:
    """What a code stands for.

    Raises:
        NoSuchLabelError: The domain is too short.
    """
    if code == "s":
        return f"{local_part}@{domain}"
    if code == "u":
        return local_part
    if code == "d":
        return domain
    labels = domain.split(".")
    if int(code) > len(labels):
        raise NoSuchLabelError(f"{domain} has no label {code}")
    return labels[-int(code)]


def expand(template: tuple[Part, ...], local_part: str, domain: str, escape: Callable[[str], str]) -> str:
    """A template with an address put in.

    Raises:
        NoSuchLabelError: The domain is too short.
    """
    return "".join(escape(value(part, local_part, domain)) if isinstance(part, Code) else part for part in template)
