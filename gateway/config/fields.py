"""What the sections of the configuration are made of: their base, and the kinds of fields that many have."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from gateway.strict import StrictModel


def _in_folder(path: Path, info: ValidationInfo) -> Path:
    """Relative names start in the folder of the configuration."""
    return path if not info.context else Path(info.context["folder"]) / path


def existing(path: Path) -> Path:
    """The path of a file that must be there.

    Raises:
        ValueError: It is not.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    return path


def _not_null(value: object) -> object:
    """An entry without settings, such as ``example.com:``, is one with all defaults."""
    return {} if value is None else value


Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
File: TypeAlias = Annotated[Path, AfterValidator(_in_folder), WithJsonSchema({"type": "string"})]


class Section(StrictModel):
    """The base of every section."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return _not_null(value)
