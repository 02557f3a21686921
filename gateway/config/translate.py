"""Pydantic's errors in an administrator's words, with the place in the file.

What a message says depends on the kind of error alone; no type of Python's and no internal name is shown. Where a
value may have several forms and fits none, the messages for each are joined.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import Position, Problem, suggestion
from gateway.config.reading import Document, YamlList, YamlMapping, join

_WORDS: Final = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "bytes_type": "must be text; put it in quotes",
    "path_type": "must be a file name",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "iterable_type": "must be a list",
    "dict_type": "must be a mapping (key: value)",
    "mapping_type": "must be a mapping (key: value)",
    "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)",
    "dataclass_type": "must be a mapping (key: value)",
    "none_required": "must be empty",
    "date_type": "must be a date such as 2027-01-31",
    "date_parsing": "must be a date such as 2027-01-31",
    "date_from_datetime_parsing": "must be a date such as 2027-01-31",
    "date_from_datetime_inexact": "must be a date such as 2027-01-31",
    "ip_any_address": "must be an IP address",
    "ip_v4_address": "must be an IPv4 address",
    "ip_v6_address": "must be an IPv6 address",
    "ip_any_network": "must be a network such as 192.0.2.0/24",
    "ip_v4_network": "must be an IPv4 network such as 192.0.2.0/24",
    "ip_v6_network": "must be an IPv6 network such as 2001:db8::/32",
    "missing": "is missing",
    "extra_forbidden": "is not a setting here",
    "string_pattern_mismatch": "does not have the form {pattern}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_long": "has too many entries: {actual_length}, and at most {max_length} are allowed",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A value of the file and where it stands.

    Attributes:
        value: The value.
        position: Where it stands; for a mapping, a list or nothing at all, its key where it has one.
        where: Its path.
    """

    value: Any
    position: Position
    where: str

    def at(self, part: str | int) -> "Place | None":
        """The value of a key or the item of an index; None when there is none."""
        value = self.value
        if isinstance(value, YamlMapping) and part in value and isinstance(part, str):
            inner = value[part]
            marks = value.keys_at if isinstance(inner, YamlMapping | YamlList | None) else value.values_at
            return Place(inner, marks[part], join(self.where, part))
        if isinstance(value, YamlList) and isinstance(part, int) and part < len(value):
            return Place(value[part], value.items_at[part], f"{self.where}[{part}]")
        return None

    def key(self, part: str) -> "Place":
        """A key of this mapping as such, also one that is missing."""
        position = self.value.keys_at.get(part, self.position) if isinstance(self.value, YamlMapping) else self.position
        return Place(part, position, join(self.where, part))

    def down(self, parts: Iterable[str | int]) -> "Place":
        """Follow a path; parts that lead nowhere (pydantic's names of forms) are skipped."""
        place = self
        for part in parts:
            place = place.at(part) or place
        return place


def problems_of(
    error: ValidationError, model: type[BaseModel], document: Document, place: Place, also_known: Iterable[str] = ()
) -> Iterator[Problem]:
    """The problems that a validation found.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
        document: The file.
        place: The value that was validated.
        also_known: Keys that may stand beside the model's own.
    """
    found: dict[tuple[Position, str], list[str]] = {}
    for details in error.errors(include_url=False):
        location = details["loc"]
        if details["type"] in {"missing", "extra_forbidden"}:
            at = place.down(location[:-1]).key(str(location[-1]))
        else:
            at = place.down(location)
        given = len(at.value) if isinstance(at.value, (list, dict)) else 1  # one value may stand for a list of one
        if details["type"] == "too_short" and given >= details["ctx"]["min_length"]:
            continue  # only because entries are wrong, which is told
        message = _message(details, model, at, also_known if len(location) == 1 else ())
        messages = found.setdefault((at.position, at.where), [])
        if message not in messages:
            messages.append(message)
    for (position, where), messages in found.items():
        yield Problem(document.path, position, where, ", or ".join(messages))


def _message(details: ErrorDetails, model: type[BaseModel], at: Place, also_known: Iterable[str]) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    if kind in {"value_error", "assertion_error"}:
        return str(context["error"])
    if kind == "too_short":
        return (
            "must not be empty" if context["min_length"] == 1 else f"must have at least {context['min_length']} entries"
        )
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    if details["input"] is None and kind != "missing":
        return "has no value"
    if kind == "extra_forbidden":
        known = [*keys_at(model, details["loc"][:-1]), *also_known]
        return _WORDS[kind] + suggestion(str(details["loc"][-1]), known)
    if kind in {"enum", "literal_error"}:
        words = str(context["expected"]).replace("'", "")
        meant = suggestion(str(at.value), words.replace(" or ", ", ").split(", "))
        return f"{at.value!r} is not allowed; it must be {words}{meant}"
    template = _WORDS.get(kind)
    if template is not None:
        return template.format(**context) + _right_form(kind, at.value)
    return details["msg"].replace("Input should be", "must be").replace("Value should", "must")


def _right_form(kind: str, value: object) -> str:
    """What was probably meant, where a value stands in another form than the one that is wanted."""
    if not isinstance(value, str):
        return ""
    if kind in _LISTS:
        plain = value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
        return f"; write [{plain}]"
    meant = _FLAGS.get(value.lower()) if kind in {"bool_type", "bool_parsing"} else None
    return "" if meant is None else f"; write {meant}"


_LISTS: Final = frozenset({"list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"})
_PLAIN: Final = re.compile(r"[A-Za-z0-9./_-]+")
_FLAGS: Final = {"yes": "true", "on": "true", "no": "false", "off": "false", "true": "true", "false": "false"}


def keys_at(model: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    """The keys that may stand at a place below a model."""
    models = [model]
    for part in location:
        inner = [found for candidate in models for found in _models_of(candidate, part)]
        models = inner or models
    return [info.alias or name for candidate in models for name, info in candidate.model_fields.items()]


def _models_of(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    for name, info in model.model_fields.items():
        if part in {name, info.alias}:
            return list(_models_in(info.annotation))
    return []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
