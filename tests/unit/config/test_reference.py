"""Documentation made from the code, and that the pages in ``docs/`` are up to date."""

from pathlib import Path

import pytest

from gateway.config.options import FileOptions
from gateway.config.reference import (
    BEGIN,
    END,
    pages,
    policy_tables,
    refreshed,
    refreshed_page,
    section_table,
    settings,
    summary,
)
from gateway.config.registry import Registry
from tests.support.configuring import Relay, SizeLimit, SizeOptions

DOCS = Path(__file__).parents[3] / "docs"


def test_settings_of_a_model() -> None:
    """Each option has its form, default and help; a section's own options follow it."""
    rows = [(row.name, row.kind, row.default, row.help) for row in settings(SizeOptions)]
    assert rows == [
        ("limit", "size", "`1KB`", "The largest message."),
        ("wait", "duration", "`2s`", "How long it waits."),
        (
            "trusted",
            "list, or `{file: PATH}`, or `{list: [...], file: PATH}`",
            "",
            "Networks that may send more.",
        ),
        ("inner", "section", "", "What lies within."),
        ("inner.depth", "number", "`1`", "How deep."),
    ]


def test_tables_of_a_policy() -> None:
    """A policy's tables have its stages, defaults, options and outcomes."""
    text = policy_tables(SizeLimit)
    assert text.startswith("Runs at: mail. Without other settings: `on_error: pass`, `timeout: 3s`.\n")
    assert "| `limit` | size | `1KB` | The largest message. |" in text
    assert "| `too_large` | `reject` | `552 5.3.4 Too large` | It is larger than the limit. |" in text
    assert "None of its own." in policy_tables(Relay)
    assert summary(Relay) == "Refuses what is not ours."


def test_every_setting_is_documented() -> None:
    """No setting of the configuration is without a description."""
    assert [row.name for row in settings(FileOptions) if not row.help] == []
    for name in ("listeners", "backends", "domains", "exceptions", "policies", "on"):
        assert "|  |\n" not in section_table(name)


def test_every_installed_policy_is_documented() -> None:
    """Every option and outcome of our policies has a description, and every policy a page."""
    registry = Registry.installed()
    for name in registry.names:
        policy = registry.get(name)
        assert summary(policy)
        assert [row.name for row in settings(policy.options_type) if not row.help] == []
        assert all(outcome.help for outcome in policy.outcomes.values())
        assert END in (DOCS / "policies" / f"{name}.md").read_text(encoding="utf-8")


def test_only_the_blocks_of_a_page_change() -> None:
    """What stands around the marks stays, and writing a page again changes nothing."""
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nText\n\n<!-- made from the code: begin log -->\n{END}\n"
    once = refreshed(page, lambda word: f"new {word}\n")
    assert once == (
        f"# Title\n\n{BEGIN}\n\nnew \n\n{END}\n\nText\n\n<!-- made from the code: begin log -->\n\nnew log\n\n{END}\n"
    )
    assert refreshed(once, lambda word: f"new {word}\n") == once


def test_an_unknown_section_is_an_error() -> None:
    """A block about a section that does not exist is not left empty."""
    with pytest.raises(KeyError):
        section_table("nothing")


@pytest.mark.parametrize("page", pages(DOCS), ids=lambda page: page.name)
def test_pages_are_up_to_date(page: Path) -> None:
    """What the pages say of settings is what the code has; ``python -m gateway.config.reference`` writes them anew."""
    wanted = refreshed_page(page, Registry.installed())
    assert page.read_text(encoding="utf-8") == wanted, "run: python -m gateway.config.reference"


def test_the_configuration_has_a_page_with_every_section() -> None:
    """``docs/configuration.md`` has a block for the whole file and for each of its sections."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    names = ["file", "listeners", "backends", "domains", "policies", "on", "exceptions"]
    names += ["limits", "timeouts", "dns", "records", "spool", "log"]
    assert [name for name in names if f"<!-- made from the code: begin {name} -->" not in page] == []
