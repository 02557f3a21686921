"""The log of the test's own process, written to a file or a terminal of the test's.

with restored_log(), Output() as output:
    log.configure("info", "json", descriptor=output.descriptor)
    ...
    output.text()
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import structlog

from gateway import log


class Output:
    """A file that the log is written to; a terminal, if ``is_terminal``. A context manager."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        if is_terminal:
            self._reader, self.descriptor = os.openpty()
        else:
            self.descriptor, path = tempfile.mkstemp()
            self._reader = os.open(path, os.O_RDONLY)
            Path(path).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        log.finish()
        for descriptor in (self.descriptor, self._reader):
            with suppress(OSError):
                os.close(descriptor)

    def text(self) -> str:
        """What was written since the last call."""
        log.finish()
        return os.read(self._reader, 1_000_000).decode()

    def lines(self) -> list[str]:
        """The same by lines."""
        return self.text().splitlines()


@contextmanager
def restored_log() -> Iterator[None]:
    """Leave the log of other tests as it was."""
    root = logging.getLogger()
    handlers, level, settings = list(root.handlers), root.level, structlog.get_config()
    before, log._handler = log._handler, None
    try:
        yield
    finally:
        for handler in root.handlers:
            if isinstance(handler, log._Handler):
                handler.writer.close(10)
        log._handler = before
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**settings)
