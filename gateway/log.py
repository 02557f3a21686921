"""The log: structured lines on standard error, for the journal or a terminal.

An event has a name and fields. As JSON each is one object a line; as text a line that begins with time and level. Lines
of libraries (``logging``) come out in the same form. What a client sent can be in any field, in the text of an
exception too, so nothing is written as it came: control characters, characters that turn the reading direction and
octets that are no UTF-8 are escaped, and no line of a traceback can be taken for an event.

Nobody waits for whoever reads the log (``lines``). What comes while too much waits is lost, counted (``lost``), and
said once lines are written again: ``log lines were lost``. Lines below ``warning`` use half of the room only, so that
clients who make many of them push out none that matters. ``take_over`` lets the rest of standard error go the same way.
"""

import atexit
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Final

import structlog

from gateway.lines import LineStream, LineWriter
from gateway.printable import printable

WAITING: Final = 4_000_000
"""How many octets wait for a slow reader: some 20,000 lines."""

END_WITHIN: Final = 2.0
"""Seconds that the end of a process waits for the log to be written."""

STANDARD_ERROR: Final = 2

_FIRST: Final = ("timestamp", "level", "logger", "event")
_QUOTED: Final = frozenset(" \"'=\\")  # a text value with one of these is put into quotes
_UNIMPORTANT: Final = 0.5  # of the room, for lines below warning


class Format(StrEnum):
    """How lines are written."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class _Handler(logging.Handler):
    """Hands lines to the writer.

    Args:
        writer: Writes them.
        render: Makes a line of an event.
    """

    def __init__(self, writer: LineWriter, render: structlog.typing.Processor) -> None:
        super().__init__()
        self.writer = writer
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        """Make a line and hand it over."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - of whatever was logged: no line may stop its writer
            self._say("error", "a line could not be made", logger=record.name, error=type(error).__name__)
        else:
            self._put(line, record.levelno)

    def say_lost(self, count: int) -> bytes:
        """The line that says how many were lost."""
        return _octets(self._made("warning", "log lines were lost", lost=count))

    def _say(self, level: str, event: str, **fields: object) -> None:
        self._put(self._made(level, event, **fields), logging.getLevelNamesMapping()[level.upper()])

    def _made(self, level: str, event: str, **fields: object) -> str:
        made = {"level": level, "logger": "lychgate.log", "event": event, **fields}
        return str(self._render(None, level, _stamped(None, level, made)))

    def _put(self, line: str, level: int) -> None:
        self.writer.put(_octets(line), share=1.0 if level >= logging.WARNING else _UNIMPORTANT)


_stamped: Final = structlog.processors.TimeStamper(fmt="iso", utc=True)
_handler: _Handler | None = None


def _octets(line: str) -> bytes:
    return line.encode("utf-8", "backslashreplace") + b"\n"


def configure(
    level: str = "info", line_format: str = "auto", *, descriptor: int = STANDARD_ERROR, waiting: int = WAITING
) -> None:
    """Set up the log of this process; a second call replaces the first's settings.

    Args:
        level: The least important lines: ``debug``, ``info``, ``warning`` or ``error``.
        line_format: ``json``, ``text``, or ``auto``: text on a terminal and JSON elsewhere.
        descriptor: Where to.
        waiting: How many octets may wait for a slow reader.

    Raises:
        ValueError: There is no such level or format.
    """
    global _handler  # noqa: PLW0603 - the log is one of the process, as logging's own state is
    chosen = Format(line_format)
    if chosen is Format.AUTO:
        chosen = Format.TEXT if os.isatty(descriptor) else Format.JSON
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is not a log level")
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _stamped,
        structlog.processors.format_exc_info,
    ]
    render = _as_json if chosen is Format.JSON else _as_text
    if _handler is None:
        atexit.register(finish)
    if _handler is not None and _handler.writer.descriptor == descriptor:
        writer = _handler.writer
        writer.room = waiting
    else:
        writer = LineWriter(descriptor, room=waiting, name="log", ends=_lost)
    _handler = _Handler(writer, render)
    _handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [_handler]
    root.setLevel(number)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # so that a reload can change the level
    )


def _lost(count: int) -> bytes | None:
    return None if _handler is None else _handler.say_lost(count)


def lost() -> int:
    """How many lines of this process were lost."""
    return 0 if _handler is None else _handler.writer.lost


def finish(within: float = END_WITHIN) -> None:
    """Let what waits be written before the process ends, for so many seconds at most."""
    if _handler is not None:
        _handler.writer.flush(within)


def take_over() -> None:
    """Let all go the log's way that would be written to standard error, or printed, in this process.

    Exceptions that nobody caught and warnings become events. What is printed goes to standard error line by line:
    standard output is for decision records, and a policy of somebody's may print.
    """
    assert _handler is not None  # noqa: S101 - configured before
    sys.stdout = sys.stderr = LineStream(_handler.writer)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_failed
    logging.captureWarnings(capture=True)


_log: Final = structlog.get_logger("lychgate.log")


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("uncaught exception", exc_info=(kind, error, trace))


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    where = ""
    with suppress(Exception):  # the object's own code
        where = repr(unraisable.object)
    event = unraisable.err_msg or "exception ignored"
    _log.error(event, object=where, exc_info=(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback))


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if not issubclass(failed.exc_type, SystemExit):
        name = "" if failed.thread is None else failed.thread.name
        _log.error("thread failed", thread=name, exc_info=(failed.exc_type, failed.exc_value, failed.exc_traceback))


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
