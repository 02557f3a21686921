"""The table of ``docs/decisions/dkim.md``: what verifiers make of forms that the letter leaves open, measured again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.support.dkim_forms import (
    Said,
    by_dkimpy,
    by_mail_dkim,
    by_mailauth,
    by_opendkim,
    forms,
    here,
)

PAGE: Final = Path(__file__).parents[2] / "docs/decisions/dkim.md"
WORDS: Final = {True: "pass", False: "no", None: "-"}


def table() -> Mapping[str, Mapping[str, str]]:
    """The table: by verifier, then by form, the word that stands there."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").partition("| form | here |")[2].partition("\n\n")[0].splitlines()[2:]
    ]
    names = ("here", "Mail::DKIM", "mailauth", "OpenDKIM", "dkimpy")
    return {name: {row[0]: row[number] for row in rows} for number, name in enumerate(names, 1)}


def shown(said: Said) -> Mapping[str, str]:
    """What a verifier says, in the words of the table."""
    return {form.name: WORDS[said.get(form.name)] for form in forms()}


async def test_the_gateway_does_what_the_table_says() -> None:
    """Each form, and the table has no other."""
    assert table()["here"] == shown(await here())


@pytest.mark.parametrize(
    ("name", "verifier"),
    [
        pytest.param("Mail::DKIM", by_mail_dkim, marks=pytest.mark.peer("mail-dkim")),
        pytest.param("mailauth", by_mailauth, marks=pytest.mark.peer("mailauth")),
        pytest.param("OpenDKIM", by_opendkim, marks=pytest.mark.peer("opendkim")),
        ("dkimpy", by_dkimpy),
    ],
)
def test_other_verifiers_do_what_the_table_says(name: str, verifier: Callable[[], Said]) -> None:
    """As they are installed here; a new release that differs changes the table."""
    assert table()[name] == shown(verifier())


def test_what_is_well_formed_passes_everywhere() -> None:
    """The rows that are as they should be: no other row says anything if these do not pass."""
    for name, said in table().items():
        assert said["a key record as it should be"] == "pass"
        assert said["a chain as it should be"] == ("-" if name == "OpenDKIM" else "pass")
