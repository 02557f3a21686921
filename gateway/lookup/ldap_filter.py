r"""LDAP search filters as text (RFC 4515), with places for parts of an address (``template``).

A filter is read once. What is asked about goes into its places as octets of the assertion value: it is never text that
is read again, so that no address can change what is searched for. The filter's own text has ``*`` for substrings and
``\2a`` for a star itself.

    filter     = "(" ( "&" *filter | "|" *filter | "!" filter | item ) ")"
    item       = attr ( "=" / "~=" / ">=" / "<=" ) value | attr "=*" | attr "=" [initial] any [final]
               | [attr] [":dn"] [":" rule] ":=" value
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.lookup import ber, template
from gateway.lookup.template import Code

MAX_DEPTH: Final = 32
"""Of nested filters: far more than any directory needs."""

# attributedescription = attributetype options (RFC 4512 2.5): a name or an OID, and options behind semicolons
_ATTRIBUTE: Final = r"[A-Za-z0-9][A-Za-z0-9.-]*(?:;[A-Za-z0-9-]+)*"
_ITEM: Final = re.compile(rf"({_ATTRIBUTE})(=|~=|>=|<=)")
_EXTENSIBLE: Final = re.compile(rf"({_ATTRIBUTE})?(:dn)?(?::([A-Za-z0-9.-]+))?:=", re.IGNORECASE)
_VALUE: Final = re.compile(r"[^()\0]*")
_ESCAPE: Final = re.compile(r"\\([0-9A-Fa-f]{2})?")

_AND, _OR, _NOT, _EQUAL, _SUBSTRINGS, _PRESENT, _EXTENSIBLE_TAG = 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x87, 0xA9
_MATCHES: Final = {"=": _EQUAL, ">=": 0xA5, "<=": 0xA6, "~=": 0xA8}
_INITIAL, _ANY, _FINAL = 0x80, 0x81, 0x82

_Value: TypeAlias = tuple["bytes | Code", ...]
_Expand: TypeAlias = Callable[[_Value], bytes]
_Node: TypeAlias = Callable[[_Expand], bytes]


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """A filter that was read.

    Attributes:
        text: As written.
    """

    text: str
    _node: _Node

    @classmethod
    def parse(cls, text: str) -> "SearchFilter":
        """Read a filter.

        Raises:
            ValueError: It is none.
        """
        node, end = _filter(text, 0, 0)
        if end != len(text):
            raise ValueError(f"{text[end:]!r} stands behind the filter")
        return cls(text, node)

    def encoded(self, local_part: str, domain: str) -> bytes:
        """The filter as LDAP sends it, about an address.

        Raises:
            NoSuchLabelError: The domain is too short for a place.
        """

        def expand(value: _Value) -> bytes:
            return b"".join(
                template.value(part, local_part, domain).encode("utf-8", "surrogateescape")
                if isinstance(part, Code)
                else part
                for part in value
            )

        return self._node(expand)


def all_of(*filters: bytes) -> bytes:
    """Encoded filters that must all hold."""
    return ber.element(_AND, *filters)


def any_of(*filters: bytes) -> bytes:
    """Encoded filters of which one must hold."""
    return ber.element(_OR, *filters)


def present(attribute: str) -> bytes:
    """The encoded filter that an attribute has a value."""
    return ber.octets(attribute.encode(), _PRESENT)


def _filter(text: str, start: int, depth: int) -> tuple[_Node, int]:
    """The filter that begins here, and where it ends."""
    if depth > MAX_DEPTH:
        raise ValueError(f"filters are nested more than {MAX_DEPTH} levels deep")
    if text[start : start + 1] != "(":
        raise ValueError(
            f"a filter begins with '(', not {text[start : start + 10]!r}" if text else "there is no filter"
        )
    kind = text[start + 1 : start + 2]
    if kind in {"&", "|"}:
        return _group(_AND if kind == "&" else _OR, text, start + 2, depth)
    if kind == "!":
        inner, end = _filter(text, start + 2, depth + 1)
        return (lambda expand: ber.element(_NOT, inner(expand))), _closed(text, end)
    return _item(text, start + 1)


def _group(tag: int, text: str, start: int, depth: int) -> tuple[_Node, int]:
    nodes: list[_Node] = []
    while text[start : start + 1] == "(":
        node, start = _filter(text, start, depth + 1)
        nodes.append(node)
    if not nodes:
        raise ValueError("'&' and '|' need a filter behind them")
    return (lambda expand: ber.element(tag, *(node(expand) for node in nodes))), _closed(text, start)


def _item(text: str, start: int) -> tuple[_Node, int]:
    match = _EXTENSIBLE.match(text, start)
    if match is not None:
        return _extensible(match, text)
    match = _ITEM.match(text, start)
    if match is None:
        raise ValueError(f"{text[start : start + 20]!r} is not an attribute with '=', '~=', '>=' or '<='")
    attribute, operator = match.groups()
    name = ber.octets(attribute.encode())
    written = _written(text, match.end())
    end = _closed(text, match.end() + len(written))
    pieces = written.split("*")
    if len(pieces) == 1 or operator != "=":
        if len(pieces) > 1:
            raise ValueError(f"'*' stands behind {operator!r}; write \\2a for the character itself")
        tag, value = _MATCHES[operator], _value(written)
        return (lambda expand: ber.element(tag, name, ber.octets(expand(value)))), end
    if written == "*":
        return (lambda _: present(attribute)), end
    return _substrings(name, pieces), end


def _substrings(name: bytes, pieces: list[str]) -> _Node:
    values = [_value(piece) for piece in pieces]
    last = len(values) - 1
    tags = [_INITIAL if index == 0 else _FINAL if index == last else _ANY for index in range(len(values))]
    if not all(values[1:-1]):
        raise ValueError("two '*' stand side by side; write \\2a for the character itself")

    def node(expand: _Expand) -> bytes:
        parts = [ber.octets(expand(value), tag) for value, tag in zip(values, tags, strict=True) if value]
        return ber.element(_SUBSTRINGS, name, ber.element(ber.SEQUENCE, *parts))

    return node


def _extensible(match: re.Match[str], text: str) -> tuple[_Node, int]:
    attribute, by_dn, rule = match.groups()
    if attribute is None and rule is None:
        raise ValueError("':=' needs an attribute or a matching rule before it")
    written = _written(text, match.end())
    end = _closed(text, match.end() + len(written))
    value = _value(written)

    def node(expand: _Expand) -> bytes:
        return ber.element(
            _EXTENSIBLE_TAG,
            b"" if rule is None else ber.octets(rule.encode(), 0x81),
            b"" if attribute is None else ber.octets(attribute.encode(), 0x82),
            ber.octets(expand(value), 0x83),
            b"" if by_dn is None else ber.boolean(by_dn, 0x84),
        )

    return node, end


def _written(text: str, start: int) -> str:
    match = _VALUE.match(text, start)
    return "" if match is None else match[0]


def _closed(text: str, position: int) -> int:
    if text[position : position + 1] != ")":
        raise ValueError(
            f"a ')' is missing before {text[position : position + 10]!r}" if text[position:] else "a ')' is missing"
        )
    return position + 1


def _value(written: str) -> _Value:
    """A value's octets and the places in it."""
    return tuple(part if isinstance(part, Code) else _unescaped(part) for part in template.parts(written))


def _unescaped(text: str) -> bytes:
    def octet(match: re.Match[str]) -> str:
        if match[1] is None:
            raise ValueError("a backslash needs two hexadecimal digits behind it, \\5c for the character itself")
        return chr(int(match[1], 16))

    plain = 0
    found = bytearray()
    for match in _ESCAPE.finditer(text):
        found += text[plain : match.start()].encode() + octet(match).encode("latin-1")
        plain = match.end()
    return bytes(found + text[plain:].encode())
