"""Octets received and not read yet: lines that only CRLF ends, with a limit, and blocks (RFC 5321 2.3.8, 4.5.3.1)."""

from typing import Final

OVERLONG: Final = b"\r\n"
"""Stands for a line that was too long; no line holds a CRLF."""


class InputBuffer:
    """A queue of octets; a line over its limit is dropped while it arrives, so that it never grows beyond a line.

    Attributes:
        is_empty: Whether everything was read.
        dropped: Octets of the present line that were dropped, because it is too long.
    """

    __slots__ = ("_data", "_overlong", "_start", "dropped", "is_empty")

    def __init__(self) -> None:
        self.is_empty = True
        self.dropped = 0
        self._data = b""
        self._start = 0  # what stands before it has been read
        self._overlong = False  # in a line that is dropped up to its CRLF

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Take octets as they arrive."""
        self._data = data if self.is_empty else self._data[self._start :] + data
        self._start = 0
        self.is_empty = not self._data

    def clear(self) -> None:
        """Drop everything."""
        self._data = b""
        self._start = 0
        self.is_empty = True

    def take_all(self) -> bytes:
        """Read all there is."""
        data = self._data[self._start :] if self._start else self._data
        self._data = b""
        self._start = 0
        self.is_empty = True
        return data

    def take(self, size: int) -> bytes:
        """Read at most ``size`` octets."""
        data, start = self._data, self._start
        if size >= len(data) - start:
            return self.take_all()
        block = data[start : start + size]
        self._start = start + len(block)
        return block

    def take_line(self, limit: int, auth_limit: int = 0) -> bytes | None:
        """Read the next line without its CRLF; ``OVERLONG`` in place of one that is too long, None if none is complete.

        Args:
            limit: Octets of a line with its CRLF.
            auth_limit: The same for a line that begins with AUTH, where it is greater.
        """
        data, start = self._data, self._start
        end = data.find(b"\r\n", start)
        if end < 0:
            self._incomplete(limit, auth_limit)
            return None
        self._start = following = end + 2
        self.is_empty = following == len(data)
        if self._overlong or (following - start > limit and following - start > self._limit(start, limit, auth_limit)):
            self._overlong = False
            self.dropped = 0
            return OVERLONG
        return data[start:end]

    def _incomplete(self, limit: int, auth_limit: int) -> None:
        """There is no whole line: drop the octets of one that is too long already."""
        data, start = self._data, self._start
        size = len(data) - start + 1  # at least: the LF is missing
        if self._overlong or (size > limit and size > self._limit(start, limit, auth_limit)):
            self._overlong = True
            self.dropped += size - 1
            self._data = b"\r" if data.endswith(b"\r") else b""
            self._start = 0
            self.is_empty = not self._data

    def _limit(self, start: int, limit: int, auth_limit: int) -> int:
        return max(limit, auth_limit) if self._data[start : start + 5].upper() == b"AUTH " else limit
