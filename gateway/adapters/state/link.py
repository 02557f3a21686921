"""What a way to Redis is: scripts and calls of them go in, results come out.

A ``Link`` carries calls there and their answers back; those given to it together travel together, in one round trip to
each server. ``server`` has the way to one, ``cluster`` to many, and ``ways`` chooses by the configuration.

Scripts are loaded when a connection is made and called by their digests; one that Redis does not have after all
(``NOSCRIPT``: somebody flushed them, or a slot has moved) is sent whole.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from redis.exceptions import AskError, NoScriptError, TryAgainError

from gateway.adapters.state.line import Result

CONNECT: Final = 2.0
"""Seconds in which a connection must stand that is made while no message waits for it."""


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
    """One call of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[object]

    def command(self, *, whole: bool = False) -> tuple[Any, ...]:
        """The command, with the digest or with the whole script."""
        how = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.digest)
        return (*how, len(self.keys), *self.keys, *self.arguments)


class ElsewhereError(Exception):
    """A call was not carried out because its key is moving, or because of another server than the one it was for."""


class Link(Protocol):
    """A way to Redis. What fails is a result, too: an exception in the place of the answer.

    Attributes:
        spread: Whether keys are on several servers, so that only those of one slot can be used together.
    """

    spread: bool

    def depart(self, calls: Sequence[Call], timeout: float, arrived: Callable[[list[Result]], None]) -> bool:
        """Send calls at once, where a connection is at hand.

        What the server did not carry out because the script or the key is not there is for ``execute``: ``is_astray``.

        Args:
            calls: Calls whose first keys have the same home.
            timeout: The seconds that they may take.
            arrived: Gets the results in a callback of the event loop.

        Returns:
            Whether they were sent.
        """
        ...

    async def execute(self, calls: Sequence[Call], timeout: float) -> list[Result]:  # noqa: ASYNC109 - see ``within``
        """Carry calls out, whatever that takes: a new connection, the whole script, another server."""
        ...

    def home(self, key: str) -> str:
        """The name of the server that has a key: what fails and recovers as one."""
        ...

    async def renew(self, key: str) -> None:
        """Disconnect from the server that has a key, and connect anew, or raise: it may be another one by now."""
        ...

    def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """All keys of a pattern; raises when an answer does not come within ``CONNECT``."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete a key within ``CONNECT``, or raise; says whether it was there."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def is_astray(result: Result) -> bool:
    """Whether the server did not carry a call out because the script or the key is not there."""
    return isinstance(result, NoScriptError | AskError | TryAgainError)  # MovedError is an AskError
