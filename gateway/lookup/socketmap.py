"""Sendmail's socketmap, as Postfix speaks it (socketmap_table(5)), the client's side without I/O.

A request is the netstring ``NAME KEY``; the reply is a netstring that begins with ``OK``, ``NOTFOUND``, ``TEMP``,
``TIMEOUT`` or ``PERM``. Whatever is neither ``OK`` nor ``NOTFOUND`` says nothing about the key: ``PERM`` is an error of
the server that asking again won't mend, and still no reason to refuse mail.
"""

import re
from typing import Final

from gateway.lookup.answer import Answer, UnverifiableError

MAX_REPLY: Final = 100_000
"""Octets of a reply (socketmap_table(5))."""

_LENGTH: Final = re.compile(rb"(0|[1-9][0-9]{0,5}):")  # netstrings: no leading zeros


class ReplyError(Exception):
    """What came is no reply; the connection is of no use any more."""


class Socketmap:
    """One map of a server.

    Args:
        name: The map's name.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def request(self, key: str) -> bytes:
        """The octets that ask for a key."""
        text = self._name + b" " + key.encode("utf-8", "surrogateescape")
        return b"%d:%b," % (len(text), text)

    def reply(self, received: bytes) -> Answer | None:
        """What the server answered; None while its reply is not whole.

        Raises:
            UnverifiableError: It could not tell.
            ReplyError: That is no reply.
        """
        match = _LENGTH.match(received)
        if match is None:
            if len(received) > 6 or not re.fullmatch(rb"(0|[1-9][0-9]*)?", received):  # noqa: PLR2004 - digits of MAX_REPLY
                raise ReplyError(f"{received[:20]!r} is no netstring")
            return None
        end = match.end() + int(match[1])
        if int(match[1]) > MAX_REPLY:
            raise ReplyError(f"a reply of more than {MAX_REPLY} octets")
        if len(received) <= end:
            return None
        if received[end : end + 1] != b"," or len(received) > end + 1:
            raise ReplyError("a netstring that does not end where it says")
        status, _, text = received[match.end() : end].partition(b" ")
        words = f"{status.decode('ascii', 'replace')} {text[:200].decode('utf-8', 'replace')}".strip()
        if status in {b"OK", b"NOTFOUND"}:
            return Answer(status == b"OK", words)
        if status in {b"TEMP", b"TIMEOUT", b"PERM"}:
            raise UnverifiableError(f"the server said {words}")
        raise ReplyError(f"{words!r} is no reply")
