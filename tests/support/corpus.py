"""The corpus of honest oddities: messages made after what real senders do (``tests/corpus/honest.yaml``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

_FOLDER: Final = Path(__file__).parents[1] / "corpus"


@dataclass(frozen=True, slots=True)
class HonestMessage:
    """One message.

    Attributes:
        text: Its octets as they are sent.
        reverse_path: The sender of its envelope, "" for the null one.
        domains: The domains of its author in order; none in some bounces.
    """

    text: bytes
    reverse_path: str
    domains: tuple[str, ...]


def _read() -> dict[str, HonestMessage]:
    index = YAML(typ="safe").load(_FOLDER / "honest.yaml")
    return {
        name: HonestMessage(
            (_FOLDER / f"honest/{name}.eml").read_bytes(), entry["reverse_path"], tuple(entry["domains"])
        )
        for name, entry in index.items()
    }


HONEST: Final[Mapping[str, HonestMessage]] = _read()
"""All of them by name."""
