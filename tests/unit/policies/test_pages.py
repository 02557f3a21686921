"""The pages of the policies: there is one for each, made from the code where it can be, and its examples are valid."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.config.load import load
from gateway.config.reference import BEGIN, END, refreshed_page
from gateway.config.registry import Registry

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs" / "policies").glob("*.md"))
REGISTRY = Registry.installed()


def _policies() -> list[str]:
    """The names of the policies in this repository."""
    return sorted(path.stem for path in (ROOT / "policies").glob("*.py") if path.stem != "__init__")


def test_every_policy_has_a_page_and_an_entry_point() -> None:
    """Each module of the package is a policy by its own name, and has a page with the block for its tables."""
    assert [page.stem for page in PAGES] == _policies()
    for name in _policies():
        policy = REGISTRY.get(name)
        assert policy.name == name
        assert policy.__module__ == f"policies.{name}"
    for page in PAGES:
        text = page.read_text()
        assert text.startswith(f"# {page.stem}\n")
        assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_each_page_are_up_to_date(page: Path) -> None:
    """What is made from the code is what the code says (if not: python -m gateway.config.reference)."""
    assert page.read_text() == refreshed_page(page, REGISTRY)


@pytest.mark.parametrize("name", _policies())
def test_every_outcome_and_option_is_documented(name: str) -> None:
    """Options and outcomes have a sentence each, names are identifiers, and outcomes are found by their attribute."""
    policy = REGISTRY.get(name)
    assert policy.outcomes
    for outcome_name, outcome in policy.outcomes.items():
        attribute = "passed" if outcome_name == "pass" else outcome_name  # pass is a keyword
        assert getattr(policy, attribute) is outcome
        assert outcome.help.endswith(".")
    for field in policy.options_type.model_fields.values():
        assert field.description is not None
        assert field.description.endswith(".")


def _examples() -> list[Any]:
    """The YAML blocks of all pages."""
    return [
        pytest.param(page.stem, block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))
    ]


def _files(value: object) -> list[str]:
    """The files that a configuration names."""
    if isinstance(value, dict):
        own = [value["file"]] if isinstance(value.get("file"), str) else []
        return own + [name for item in value.values() for name in _files(item)]
    return [name for item in value for name in _files(item)] if isinstance(value, list) else []


@pytest.mark.parametrize(("name", "example"), _examples())
def test_each_example_is_a_valid_configuration(name: str, example: str, tmp_path: Path) -> None:
    """An example, with listeners and a backend added, is read without complaint, and its chain has the policy."""
    yaml = YAML(typ="safe")
    written = yaml.load(example)
    for file in _files(written):
        if not Path(file).is_absolute():
            (tmp_path / file).write_text("# empty\n")
    base = {
        "hostname": "mx.example.com",
        "listeners": [{"smtp": "127.0.0.1:2525"}],
        "backends": {"postfix": {"servers": ["127.0.0.1:10025"]}},
        "domains": {"example.com": {}},
    }
    with (tmp_path / "lychgate.yaml").open("w") as file_:
        yaml.dump(base | written, file_)
    config = load(tmp_path / "lychgate.yaml")
    assert config.chain is not None
    assert name in {settings.policy.name for settings in config.chain.policies}
