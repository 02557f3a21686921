"""Thousands of Authentication-Results fields, hostile ones among them, and those who read such fields.

Each reader must see the methods, results, reasons and properties that a strict reader of RFC 8601 sees, and that one
must see nothing but registered words.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import authres
import authres.arc
import authres.dkim_b
import authres.dmarc
import pytest

from tests.support.authres_grammar import (
    REGISTERED,
    Generator,
    JsonResults,
    Read,
    by_mail_authenticationresults,
    by_rspamd,
    by_spamassassin,
    read_strictly,
)

FIELDS: Final = 4000


@cache
def fields() -> tuple[bytes, ...]:
    """The fields."""
    generator = Generator(1)
    return tuple(generator.field() for _ in range(FIELDS))


@cache
def expected() -> tuple[list[Read], ...]:
    """What the strict reader sees."""
    return tuple(read_strictly(raw) for raw in fields())


def _method(result: list[Any]) -> str:
    return str(result[0])


def as_json(results: Sequence[Read]) -> list[list[Any]]:
    """Results as the programs write them."""
    return [[each.method, each.result, each.reason, dict(each.properties)] for each in results]


def test_only_registered_words_are_written() -> None:
    """Every result and every property is one that the registry has for its method; all methods and words occur."""
    seen: dict[str, tuple[set[str], set[str]]] = {}
    for results in expected():
        for each in results:
            words, properties = seen.setdefault(each.method, (set(), set()))
            words.add(each.result)
            properties |= set(each.properties)
    assert seen.keys() == REGISTERED.keys()
    for method, (words, properties) in seen.items():
        assert words <= REGISTERED[method][0], method
        assert properties <= REGISTERED[method][1], method
    assert seen["arc"][0] == {"none", "pass", "fail"}
    assert len(seen["spf"][0]) == 7
    assert len(seen["dkim"][0]) == 7


def test_nothing_in_quotes_needs_a_backslash() -> None:
    """No field has one, wherever the words come from; quotes stand in pairs."""
    assert any("'" in each.reason for results in expected() for each in results)
    for raw in fields():
        assert b"\\" not in raw
        assert re.sub(rb'"[^"]*"', b"", raw).count(b'"') == 0


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(by_spamassassin, marks=pytest.mark.peer("spamassassin")),
        pytest.param(by_mail_authenticationresults, marks=pytest.mark.peer("mail-authenticationresults")),
    ],
)
def test_a_reader_sees_what_is_written(read: Callable[[Sequence[bytes]], list[JsonResults]]) -> None:
    """Each field is taken, with every method, result, reason and property."""
    found = read(fields())
    assert len(found) == FIELDS
    for raw, results, seen in zip(fields(), expected(), found, strict=True):
        wanted = as_json(results)
        if not wanted and seen is None:
            continue  # SpamAssassin drops a field without results
        assert seen is not None, raw
        # SpamAssassin keeps results by method; Mail::AuthenticationResults makes each octet of a fold a space.
        taken = [[method, result, " ".join(reason.split()), more] for method, result, reason, more in seen]
        assert sorted(taken, key=_method) == sorted(wanted, key=_method), raw


def test_authres_sees_what_is_written() -> None:
    """The same with Python's library."""
    reader = authres.FeatureContext(authres.arc, authres.dkim_b, authres.dmarc)
    for raw, results in zip(fields(), expected(), strict=True):
        header = reader.parse(raw.decode().replace("\r\n", ""))
        seen = [
            [
                each.method,
                each.result,
                each.reason or "",
                {f"{known.type}.{known.name}": known.value for known in each.properties},
            ]
            for each in header.results
        ]
        assert seen == as_json(results), raw


def rspamds(result: Read) -> Mapping[str, str]:
    """What rspamd can see of a result: its grammar has neither a value in quotes nor one with an equals sign."""
    seen = {result.method: result.result}
    if result.reason:
        return seen
    for name, value in result.properties.items():
        if name in result.quoted:
            break
        seen[name], equals, _ = value.partition("=")
        if equals:
            break
    return seen


@pytest.mark.peer("rspamd")
def test_rspamd_sees_what_is_written() -> None:
    """Every method and result, and the properties up to the first that its grammar has no form for."""
    for raw, results, seen in zip(fields(), expected(), by_rspamd(fields()), strict=True):
        wanted = [rspamds(each) for each in results]
        assert seen == wanted if wanted else seen == [[]], raw  # "none" is a result to it, of which it reads nothing
