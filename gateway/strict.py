"""The base of whatever is read from the configuration: frozen, no unknown keys, and numbers that are numbers.

YAML says what is a number, what is true or false and what is text. Pydantic's own rules would take ``"5"`` and ``true``
for a number and ``"yes"`` for true; its strict mode would take no list for a tuple and no word for one of an enum. So
numbers and flags alone are strict here, and authors of policies need not think of it. Models within a model are strict
where they are of this base, too.

The mark is set in the schema that pydantic has made of the annotations, because none of its switches says this.
``ConfigDict(strict=True)`` and ``model_validate(strict=True)`` hold for lists, enums and paths as well; their JSON mode
takes these, but no Python value, as authors and defaults give it. ``Strict()`` in an annotation holds for the container
and not for what is in it (``dict[str, bool]`` still takes ``"yes"``), and on a union such as ``int | str`` is an error.
``StrictInt`` and the like would have to stand in every annotation. A validator of a field sees a number, and no more
whether ``"5"`` or what ``5s`` was read to made it. The keys that are used here, ``type`` and ``strict``, are those
that ``pydantic_core.core_schema`` documents.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema


def _make_strict(schema: Any) -> None:
    """Mark the numbers and flags in a schema."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for part, inner in schema.items():
            if part not in {"default", "metadata", "serialization"}:
                _make_strict(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            _make_strict(inner)


class StrictModel(BaseModel):
    """A model whose numbers and flags take nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(handler.resolve_ref_schema(schema))
        return schema
