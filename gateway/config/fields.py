"""What the sections of the configuration are made of: their base, and the kinds of fields that many have."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)


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


Flag: TypeAlias = Annotated[bool, Strict()]
Count: TypeAlias = Annotated[int, Strict(), Field(ge=0)]
Positive: TypeAlias = Annotated[int, Strict(), Field(ge=1)]
File: TypeAlias = Annotated[Path, AfterValidator(_in_folder), WithJsonSchema({"type": "string"})]


class Section(BaseModel):
    """The base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return _not_null(value)
