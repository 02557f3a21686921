"""The log: structured lines on standard error, for the journal or a terminal.

An event has a name and fields. As JSON each is one object a line; as text a line that begins with time and level. Lines
of libraries (``logging``) come out in the same form. What a client sent can be in any field, in the text of an
exception too, so nothing is written as it came: control characters, characters that turn the reading direction and
octets that are no UTF-8 are escaped, and no line of a traceback can be taken for an event.
"""

import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Final, TextIO

import structlog

from gateway.printable import printable

_FIRST: Final = ("timestamp", "level", "logger", "event")
_QUOTED: Final = frozenset(" \"'=\\")  # a text value with one of these is put into quotes


class Format(StrEnum):
    """How lines are written."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


def configure(level: str = "info", line_format: str = "auto", stream: TextIO | None = None) -> None:
    """Set up the log of this process; a second call replaces the first's settings.

    Args:
        level: The least important lines: ``debug``, ``info``, ``warning`` or ``error``.
        line_format: ``json``, ``text``, or ``auto``: text on a terminal and JSON elsewhere.
        stream: Where to; standard error unless given.

    Raises:
        ValueError: There is no such level or format.
    """
    stream = stream or sys.stderr
    chosen = Format(line_format)
    if chosen is Format.AUTO:
        chosen = Format.TEXT if stream.isatty() else Format.JSON
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is not a log level")
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _as_json if chosen is Format.JSON else _as_text,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # so that a reload can change the level
    )


def _clean(value: object) -> Any:
    """The value with harmless text, made of what JSON knows."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return printable(value.decode("utf-8", "surrogateescape"))
    if isinstance(value, Mapping):
        return {printable(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return printable(str(value))


def _as_json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    if "exception" in event:
        event["exception"] = str(event["exception"]).split("\n")
    ordered = {name: event.pop(name) for name in _FIRST if name in event} | dict(event)
    return json.dumps(_clean(ordered), ensure_ascii=False)


def _as_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    timestamp, level, logger, name = (printable(str(event.pop(key, "-"))) for key in _FIRST)
    exception = event.pop("exception", None)
    fields = "".join(f" {printable(key)}={_text_value(value)}" for key, value in event.items())
    line = f"{timestamp} {level:<7} {logger}: {name}{fields}"
    if exception is not None:
        line += "".join(f"\n  | {printable(part)}" for part in str(exception).split("\n"))
    return line


def _text_value(value: object) -> str:
    clean = _clean(value)
    if isinstance(clean, str) and clean and not _QUOTED.intersection(clean):
        return clean
    return json.dumps(clean, ensure_ascii=False)
