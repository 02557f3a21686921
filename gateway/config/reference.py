"""Documentation made from the code: tables of settings, and of a policy's options and outcomes.

Pages in ``docs/`` have blocks between two marks, of which this module writes the inside::

    <!-- made from the code: begin limits -->
    <!-- made from the code: end -->

In ``docs/configuration.md`` the word behind ``begin`` names the section; in ``docs/policies/NAME.md`` there is none,
and the block is about the policy that the page is named after. ``python -m gateway.config.reference`` in the
project's folder brings all pages up to date; a test compares them.
"""

import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from gateway.config.backend import BackendOptions, NextHop
from gateway.config.chains import CommonSettings, ResponseSection
from gateway.config.names import Endpoint
from gateway.config.options import DomainSection, ExceptionEntry, FileOptions, ListenerSection
from gateway.config.recipients import RecipientOptions
from gateway.config.registry import Registry
from gateway.policy import Policy
from gateway.tables import AddressList, Table
from gateway.units import Rate, format_duration, format_size, parse_duration, parse_size
from gateway.verdict import Outcome

BEGIN: Final = "<!-- made from the code: begin -->"
END: Final = "<!-- made from the code: end -->"

_BLOCK: Final = re.compile(
    r"<!-- made from the code: begin(?: (\w+))? -->\n.*?(?=<!-- made from the code: end -->)", re.DOTALL
)

# What a value is called; the order matters where one type is a subtype of another.
_TYPE_WORDS: Final[dict[Any, str]] = {
    bool: "true or false", int: "number", float: "number", str: "text", SecretStr: "text", Path: "file name",
    date: "date",
    IPv4Network: "network", IPv6Network: "network", IPv4Address: "address", IPv6Address: "address",
    Endpoint: "address:port", NextHop: "server", Rate: "rate", type(None): "", Any: "any",
}  # fmt: skip

_SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "file": FileOptions,
    "listeners": ListenerSection,
    "backends": BackendOptions,
    "domains": DomainSection,
    "recipients": RecipientOptions,
    "exceptions": ExceptionEntry,
    "policies": CommonSettings,
    "on": ResponseSection,
}
"""What a block of ``docs/configuration.md`` can be about, besides the sections of the file that stand once."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a table.

    Attributes:
        name: The key, with the keys above it: ``tls.mode``.
        kind: What a value looks like.
        default: What holds without it; None when it must be given.
        help: What it is for.
    """

    name: str
    kind: str
    default: str | None
    help: str


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """The settings of a model, those of its sections behind each section's own."""
    for field_name, info in model.model_fields.items():
        name = prefix + (info.alias or field_name)
        form = _form(info)
        description = _help(info)
        if info.is_required():
            default: str | None = None
        else:
            default = _default(info.get_default(call_default_factory=True), form)
        section = _section(info.annotation)
        if section is not None and not _repeats(info.annotation):
            yield Setting(name, "section", "" if default is not None else None, description)
            yield from settings(section, f"{name}.")
        else:
            yield Setting(name, form.words, default, description)


@dataclass(frozen=True, slots=True)
class _Form:
    """What a value is called, and how a default is written."""

    words: str
    write: Callable[[Any], str]


def _form(info: FieldInfo) -> _Form:
    readers = [item.func for item in info.metadata if isinstance(item, BeforeValidator)]
    return _named(readers) or _form_of(info.annotation)


def _named(readers: list[Any]) -> _Form | None:
    if parse_duration in readers:
        return _Form("duration", format_duration)
    if parse_size in readers:
        return _Form("size", format_size)
    return None


def _form_of(annotation: Any) -> _Form:
    """The form of an annotation."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return _named([item.func for item in arguments[1:] if isinstance(item, BeforeValidator)]) or _form_of(
            arguments[0]
        )
    if origin in {typing.Union, types.UnionType}:
        forms = [_form_of(argument) for argument in arguments if argument is not type(None)]
        words = " or ".join(dict.fromkeys(form.words for form in forms if form.words))
        return _Form(words, forms[0].write)
    if origin is Literal:
        return _Form(_choices(arguments), _plain)
    if origin is dict:
        return _Form(f"mapping of {_form_of(arguments[1]).words}".removesuffix(" of any"), _plain)
    if origin in {list, tuple, set, frozenset}:
        return _Form(f"list of {_plural(_form_of(arguments[0]).words)}".removesuffix(" of anys"), _plain)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _Form(_choices(member.value for member in annotation), _plain)
    if isinstance(annotation, type) and issubclass(annotation, Table | AddressList):
        return _Form("list, or `{file: PATH}`, or `{list: [...], file: PATH}`", _plain)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _Form("section", _plain)
    return _Form(_TYPE_WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)).lower()), _plain)


def _plural(words: str) -> str:
    return "address:port" if words == "address:port" else "text" if words == "text" else f"{words}s"


def _choices(values: Any) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value)


def _default(value: object, form: _Form) -> str:
    if value is None or isinstance(value, BaseModel | Table | AddressList) or value in ((), [], {}, "", frozenset()):
        return ""
    return f"`{form.write(value)}`"


def _help(info: FieldInfo) -> str:
    """A field's documentation on one line of Markdown."""
    return " ".join((info.description or "").split()).replace("``", "`")


def _outer_words(info: FieldInfo) -> str:
    """What a setting of the whole file looks like."""
    if _section(info.annotation) is None:
        return _form(info).words
    if not _repeats(info.annotation):
        return "section"
    return "sections by name" if get_origin(info.annotation) is dict else "list of sections"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_section, get_args(annotation)) if found is not None), None)


def _repeats(annotation: Any) -> bool:
    """Whether there may be several, in a list or by name."""
    if get_origin(annotation) in {tuple, list, dict}:
        return True
    return any(_repeats(argument) for argument in get_args(annotation))


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def settings_table(model: type[BaseModel]) -> str:
    """The table of a model's settings, in Markdown."""
    rows = [
        (f"`{setting.name}`", setting.kind, "**needed**" if setting.default is None else setting.default, setting.help)
        for setting in settings(model)
    ]
    return table(("Setting", "Value", "Default", "Meaning"), rows)


def summary(policy: type[Policy[Any]]) -> str:
    """What a policy does, in one sentence: the first paragraph of its docstring."""
    return " ".join((policy.__doc__ or "").strip().split("\n\n")[0].split())


def manual(policy: type[Policy[Any]]) -> str:
    """A policy's documentation: what its module's and its class's docstrings say behind their first paragraph."""
    module = sys.modules.get(policy.__module__)
    texts = [(module.__doc__ or "") if module is not None else "", policy.__doc__ or ""]
    paragraphs = [text.strip().partition("\n\n")[2] for text in texts]
    return "\n\n".join(_dedented(text) for text in paragraphs if text)


def _dedented(text: str) -> str:
    first, newline, rest = text.partition("\n")
    return first.strip() + newline + textwrap.dedent(rest) if newline else first.strip()


def _reply(outcome: Outcome) -> str:
    """What the client is told; where the default action tells it nothing, only what it would be told."""
    silent = outcome.action.reply_class is None
    return f"none; where it is refused `{outcome.reply}`" if silent else f"`{outcome.reply}`"


def policy_tables(policy: type[Policy[Any]]) -> str:
    """A policy's options, outcomes and defaults, in Markdown; stands in its page between ``BEGIN`` and ``END``."""
    stages = ", ".join(policy.hooks()) or "no stage"
    timeout = format_duration(policy.timeout)
    facts = f"Runs at: {stages}. Without other settings: `on_error: {policy.on_error}`, `timeout: {timeout}`.\n"
    if policy.writes:
        facts += f"It may add these header fields: {', '.join(f'`{name}`' for name in policy.writes)}.\n"
    options = settings_table(policy.options_type) if policy.options_type.model_fields else "None of its own.\n"
    outcomes = [
        (f"`{name}`", f"`{outcome.action}`", _reply(outcome), outcome.help) for name, outcome in policy.outcomes.items()
    ]
    found = table(("Outcome", "Default action", "Reply", "Meaning"), outcomes) if outcomes else "None.\n"
    return f"{facts}\n### Options\n\n{options}\n### Outcomes\n\n{found}"


def section_table(name: str) -> str:
    """The table of one section of the configuration, in Markdown.

    Raises:
        KeyError: There is no such section.
    """
    if name in _SECTIONS:
        model = _SECTIONS[name]
        if model is not FileOptions:
            return settings_table(model)
        rows = [
            (
                f"`{field_name}`",
                _outer_words(info),
                "**needed**"
                if info.is_required()
                else _default(info.get_default(call_default_factory=True), _form(info)),
                _help(info),
            )
            for field_name, info in model.model_fields.items()
        ]
        return table(("Setting", "Value", "Default", "Meaning"), rows)
    section = _section(FileOptions.model_fields[name].annotation)
    if section is None:
        raise KeyError(name)
    return settings_table(section)


def refreshed(page: str, content: Callable[[str], str]) -> str:
    """A page with its blocks written anew.

    Args:
        page: The page.
        content: Gives a block's inside by the word behind ``begin``, empty if there is none.
    """

    def block(match: re.Match[str]) -> str:
        head = match[0].partition("\n")[0]
        return f"{head}\n\n{content(match[1] or '')}\n"

    return _BLOCK.sub(block, page)


def refreshed_page(path: Path, registry: Registry) -> str:
    """What a page should hold: ``configuration.md``, or the page of a policy.

    Raises:
        UnknownPolicyError: A page below ``policies/`` is about none.
    """
    page = path.read_text(encoding="utf-8")
    if path.parent.name == "policies":
        return refreshed(page, lambda _: policy_tables(registry.get(path.stem)))
    return refreshed(page, section_table)


def pages(docs: Path) -> list[Path]:
    """The pages with blocks that are made from the code."""
    return [path for path in sorted(docs.rglob("*.md")) if END in path.read_text(encoding="utf-8")]


def main() -> None:
    """Bring the pages below ``docs/`` up to date."""
    registry = Registry.installed()
    for path in pages(Path("docs")):
        path.write_text(refreshed_page(path, registry), encoding="utf-8")


if __name__ == "__main__":
    main()
