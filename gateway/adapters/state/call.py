"""A call of a Lua script in Redis, and its result."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Result: TypeAlias = Any
"""What a call gave; an exception where it failed."""

CONNECT: Final = 2.0
"""Seconds in which a connection must stand that is made while no message waits for it, and in which a command must be
answered that no message waits for."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> "Script":
        """A script of its text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a script; in a cluster the first key says which server has it."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any]

    def command(self, *, whole: bool = False) -> tuple[Any, ...]:
        """The command, with the digest or with the whole script."""
        how = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.digest)
        return (*how, len(self.keys), *self.keys, *self.arguments)


class ElsewhereError(Exception):
    """A call was not carried out because its key is moving, or because of another server than the one it was for."""
