"""Readers in other languages: a child process for each batch, a message in base64 a line, the answer as JSON a line."""

import base64
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tests.support.peers import NODE
from tests.support.readers.reading import Reading, unfolded

_FOLDER: Final = Path(__file__).parent
_WITHIN: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildReader:
    """A program that reads messages.

    Attributes:
        name: Its name.
        command: How it is started, in the folder of this file.
    """

    name: str
    command: Sequence[str]

    def read(self, messages: Sequence[bytes]) -> list[Reading]:
        """What it makes of each message."""
        lines = b"".join(base64.b64encode(message) + b"\n" for message in messages)
        ended = subprocess.run(
            self.command, input=lines, capture_output=True, cwd=_FOLDER, timeout=_WITHIN, check=False
        )
        assert ended.returncode == 0, ended.stderr.decode("utf-8", "replace")
        assert not ended.stderr, ended.stderr.decode("utf-8", "replace")
        readings = [msgspec.json.decode(line, type=Reading) for line in ended.stdout.splitlines()]
        assert len(readings) == len(messages)
        return [
            Reading(
                authors=reading.authors,
                author_text=reading.author_text,
                fields=tuple((name, unfolded(value)) for name, value in reading.fields),
                error=reading.error,
            )
            for reading in readings
        ]


CHILD_READERS: Final = (
    *(
        ChildReader(name=name, command=("perl", "read.pl", name))
        for name in ("email-mime", "mail-message", "mail-message-full")
    ),
    *(ChildReader(name=name, command=(*NODE, "read.js", name)) for name in ("mailparser", "mailparser-3.6")),
)
