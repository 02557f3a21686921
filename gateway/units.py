"""Durations, sizes and rates the way people write them: ``5s``, ``25MB``, ``100/h``.

The annotated types are used in option models; each shows its written form in the JSON Schema.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_RATE: Final = r"(\d+(?:[KMGkmg][iI]?[bB])?)/(\d*)(ms|s|min|m|h|d|w)"
_OCTETS: Final = {
    "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3,
}  # fmt: skip
_LONGEST: Final = 100 * 366 * 86400.0
"""Seconds of a duration, so that every clock can add it to its time: a hundred years."""
_LARGEST: Final = 2**63 - 1
"""Octets of a size, and what a rate may count: what every counter here, Redis's too, can hold."""


_WORDS: Final = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "mins": "m", "minute": "m", "minutes": "m", "hr": "h",
    "hour": "h", "hours": "h", "day": "d", "days": "d", "week": "w", "weeks": "w", "msec": "ms", "millisecond": "ms",
    "milliseconds": "ms",
}  # fmt: skip
"""How people also write units of time."""


def _meant_duration(text: str) -> str | None:
    """The duration that was probably meant: ``5 min``, ``5 seconds``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]+)", text.strip().lower(), re.ASCII)
    if match is None:
        return f"{text}s" if re.fullmatch(r"\d+", text, re.ASCII) else None
    unit = _WORDS.get(match[2], match[2])
    return f"{match[1]}{unit}" if unit in _SECONDS else None


def _meant_size(text: str) -> str | None:
    """The size that was probably meant: ``25M``, ``1 Mi``, ``5 mbytes``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmg])(i?)(?:b|byte|bytes)?", text.strip().lower(), re.ASCII)
    return None if match is None else f"{match[1]}{match[2].upper()}{match[3]}B"


def _meant_rate(text: str) -> str | None:
    """The rate that was probably meant: ``100/hour``, ``100 per 5 minutes``, ``500M/h``."""
    count, slash, period = re.sub(r"\s+per\s+", "/", text.lower()).partition("/")
    match = re.fullmatch(r"(\d*) ?([a-z]+)", period.strip(), re.ASCII)
    if not slash or match is None:
        return None
    unit = _WORDS.get(match[2], match[2])
    amount = count.strip() if count.strip().isdecimal() else _meant_size(count)
    return f"{amount}/{match[1]}{unit}" if amount and unit in _SECONDS else None


def _told(value: object, what: str, meant: Callable[[str], str | None]) -> ValueError:
    """The error for a value in the wrong form, with the right form of what was probably meant."""
    written = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    right = meant(written) if len(written) <= _LONGEST_GUESS else None
    return ValueError(f"{value!r} is not {what}" + ("" if right is None else f"; write {right}"))


_LONGEST_GUESS: Final = 40


def parse_duration(value: object) -> float:
    """Read a duration such as ``500ms``, ``5s``, ``10m``, ``1h``, ``30d`` (or ``1h30m``); returns seconds.

    Raises:
        ValueError: It is none, or it has no unit.
    """
    if isinstance(value, str) and re.fullmatch(r"(\d+(\.\d+)?(ms|s|min|m|h|d|w))+", value, re.ASCII):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d|w)", value)
        seconds = math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)
        if seconds > _LONGEST:
            raise ValueError(f"{value!r} is too long: a duration has at most a hundred years")
        return seconds
    if isinstance(value, float | int) and not isinstance(value, bool) and value == 0:
        return 0.0
    raise _told(value, "a duration such as 500ms, 5s, 10m, 1h or 30d", _meant_duration)


def format_duration(seconds: float) -> str:
    """Write seconds as ``parse_duration`` reads them."""
    for unit in ("w", "d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{round(seconds * 1000)}ms" if seconds else "0s"


def parse_size(value: object) -> int:
    """Read a size such as ``512``, ``64KB``, ``25MB`` (decimal) or ``10MiB`` (binary); returns octets.

    Raises:
        ValueError: It is none.
    """
    octets: float | None = None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        octets = value
    elif isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]i?b|b)?", value, re.ASCII | re.IGNORECASE)
        if match is not None:
            octets = float(match[1]) * _OCTETS[(match[2] or "b").lower()]
    if octets is not None and octets <= _LARGEST:
        return int(octets)
    if octets is not None:
        raise ValueError(f"{value!r} is too large for a size")
    raise _told(value, "a size such as 64KB, 25MB or 10MiB", _meant_size)


def format_size(octets: int) -> str:
    """Write octets as ``parse_size`` reads them."""
    for unit in ("GB", "GiB", "MB", "MiB", "KB", "KiB"):
        octets_of_unit = _OCTETS[unit.lower()]
        if octets >= octets_of_unit and octets % octets_of_unit == 0:
            return f"{octets // octets_of_unit}{unit}"
    return str(octets)


def rough_duration(seconds: float) -> str:
    """How people say how long it is: its two largest units, ``34d 23h``."""
    rest = max(1, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def counted(count: int, noun: str, plural: str = "") -> str:
    """How many there are: ``1 entry``, ``2 entries``.

    Args:
        count: How many.
        noun: The name of one.
        plural: The name of several; with an ``s`` behind it by default.
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|min|m|h|d|w))+$", "examples": ["5s", "10m"]}),
]
"""Seconds, written ``5s``."""

Size: TypeAlias = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\d+(\.\d+)? ?([kKmMgG]?[iI]?[bB])?$"},
            ],
            "examples": ["25MB"],
        }
    ),
]
"""Octets, written ``25MB``."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a period, written ``100/h`` or ``10/5m``; of octets ``500MB/h``.

    Attributes:
        count: How many.
        period: In how many seconds.
    """

    count: int
    period: float

    @classmethod
    def parse(cls, value: object) -> "Rate":
        """Read a rate.

        Raises:
            ValueError: It is none.
        """
        if isinstance(value, Rate):
            return value
        match = re.fullmatch(_RATE, value, re.ASCII) if isinstance(value, str) else None
        count = 0 if match is None else parse_size(match[1])
        period = 0.0 if match is None else parse_duration(f"{match[2] or 1}{match[3]}")
        if count == 0 or period == 0:
            raise _told(value, "a rate such as 100/h, 10/5m or 500MB/h", _meant_rate)
        return cls(count, period)

    def __str__(self) -> str:
        period = format_duration(self.period)
        return f"{self.count}/{re.sub('^1(?=[a-z])', '', period)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_RATE}$", "examples": ["100/h"]}
