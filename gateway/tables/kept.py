"""Lists that must not come out empty by a slip: what holds of such a file is its last accepted content.

Content is accepted when it is the first that is known and has entries, when it has not lost too much (``Losses``), or
when somebody says so (``Shelf.accept``). Anything else changes nothing: the accepted content goes on to hold, and the
log says so. While none was ever accepted an empty file says nothing about anybody (``KeptTable.is_known``).

The accepted content lies in a folder, the ``Shelf``, as a plain copy of the file: it survives restarts, and can be
compared with the file by ``diff``. Several processes share the folder. Each decides by itself, by the same rules. When
one of them, or a command, writes there, the others notice at their next look, within a second of being asked.

Of a file that is being written in place a part may be read. So what has lost entries is taken, or held back, only when
the file is still the same at the next look.

A folder that can't be written keeps no mail up: what was accepted holds until the process ends, and the log says so.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

import structlog

from gateway.tables.content import Content, read_content
from gateway.tables.table import Change, IndexT, Losses, Table, count, signature_of

_LONGEST_NAME: Final = 200
"""Octets of a copy's name before its kind: file systems take 255."""

_log = structlog.get_logger("lychgate.tables")


class Shelf:
    """The folder of accepted contents.

    Args:
        folder: Where; it is made when it is needed.
        losses: Which losses are held back.
        writes: Whether what is accepted is written, and the log told; without it one only looks.

    Attributes:
        losses: Which losses are held back.
        writes: Whether it is the service's own.
    """

    __slots__ = ("_folder", "losses", "writes")

    def __init__(self, folder: Path, losses: Losses | None = None, *, writes: bool = True) -> None:
        self._folder = folder
        self.writes = writes
        self.losses = losses or Losses()

    def place(self, file: Path, kind: str) -> Path:
        """Where the accepted content of a file lies: its whole path is the name."""
        name = quote(str(file), safe="")
        if len(name) > _LONGEST_NAME:
            name = f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{name[17 - _LONGEST_NAME :]}"
        return self._folder / f"{name}.{kind}"

    def read(self, place: Path) -> Content | None:
        """The accepted content; None where there is none, or where it can't be read, which the log tells."""
        try:
            return read_content(place)
        except ValueError as error:
            if self.writes and (signature_of(place) is not None or self.hindrance(place) is not None):
                _log.warning("accepted content can't be used", reason=str(error))
            return None

    @staticmethod
    def hindrance(place: Path) -> str | None:
        """Why this process can't see what was accepted; None where it can, or where there is nothing."""
        try:
            with place.open("rb"):
                return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return error.strerror or str(error)

    def keep(self, place: Path, content: Content) -> None:
        """Write what was accepted, unless one only looks; that it can't be written is told in the log."""
        if not self.writes:
            return
        try:
            self.accept(place, content)
        except OSError as error:
            reason = error.strerror or str(error)
            _log.warning("accepted content is not kept: a restart forgets it", path=str(place), reason=reason)

    def accept(self, place: Path, content: Content) -> None:
        """Write what is accepted, whole or not at all, for whoever the folder belongs to.

        Raises:
            OSError: It can't be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(content.pieces())
                file.flush()
                os.fsync(file.fileno())
                if os.geteuid() == 0:  # the service must read and replace it
                    owner = self._folder.stat()
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.replace(name, place)  # noqa: PTH105 - the pair of mkstemp
        except BaseException:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - the same
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStatus:
    """How it stands with a list.

    Attributes:
        file: The file.
        kind: What it is a list of.
        entries: How many of its entries are in force.
        is_known: Whether content was ever accepted.
        held: What the file has become, where that is held back.
        hindrance: Why what was accepted can't be seen by this user, None if it can.
    """

    file: Path
    kind: str
    entries: int
    is_known: bool
    held: Change | None
    hindrance: str | None = None

    @property
    def state(self) -> str:
        """The same in a few words."""
        if self.hindrance is not None:
            return "not to be seen by this user"
        if self.held is not None:
            return "held back"
        return "in force" if self.is_known else "empty, never accepted"

    @property
    def problem(self) -> str | None:
        """What is wrong, and what to do."""
        if self.hindrance is not None:
            told = f"what was accepted of {str(self.file)!r} can't be seen by this user ({self.hindrance})"
            return f"{told}: ask as root, or as the service's user"
        accept = f"run 'lychgate recipients accept {self.file}' if that is right"
        if not self.is_known:
            return f"{str(self.file)!r} has no entries, and none were ever accepted: recipients are deferred; {accept}"
        if self.held is None:
            return None
        lost = f"has lost {self.held.went} of {self.held.had} entries" if self.held.has else "has no entries any more"
        return f"{str(self.file)!r} {lost}: its last accepted content goes on to hold; {accept}"


class KeptTable(Table[IndexT]):
    """A table whose file is kept by what of it was accepted.

    Args:
        entries: Those written in the configuration.
        file: A file of more of them.
        shelf: Where accepted content is; without one every content is accepted.
        monotonic: Tells seconds that never go back.
    """

    kind: ClassVar[str]

    __slots__ = ("_copy", "_doubted", "_held", "_is_known", "_place", "_shelf")

    def __init__(
        self,
        entries: Iterable[str] = (),
        file: Path | None = None,
        *,
        shelf: Shelf | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelf = shelf
        self._place = None if shelf is None or file is None else shelf.place(file, self.kind)
        self._held: Change | None = None
        self._is_known = True
        self._doubted: object = None  # a state of the file that has lost entries, and may still be being written
        self._copy: object = None  # the state of the accepted content that is in the index
        super().__init__(entries, file, monotonic=monotonic)

    @property
    def is_known(self) -> bool:
        """Whether it can be told who is on the list."""
        return self._is_known

    @property
    def status(self) -> ListStatus | None:
        """How it stands with the file, None without one."""
        if self._file is None:
            return None
        return ListStatus(
            file=self._file,
            kind=self.kind,
            entries=self.entries,
            is_known=self._is_known,
            held=self._held,
            hindrance=self.hindrance,
        )

    @property
    def hindrance(self) -> str | None:
        """Why what was accepted can't be seen by this process; None if it can."""
        return None if self._shelf is None or self._place is None else self._shelf.hindrance(self._place)

    def accept(self) -> Change:
        """Accept the file as it is now; every process that uses it notices.

        Returns:
            What is different from what held before.

        Raises:
            ValueError: The file can't be read, or has a bad line.
            OSError: The content can't be kept.
        """
        if self._file is None or self._place is None or self._shelf is None:
            raise ValueError("nothing is kept of this list")
        content = read_content(self._file)
        index = self._build(content)
        change = Change.between(self._index, index)
        if self._shelf.read(self._place) != content:
            self._shelf.accept(self._place, content)
        self._take(index, change)
        return change

    def _watched(self) -> tuple[Path, ...]:
        files = super()._watched()
        return files if self._place is None else (*files, self._place)

    def _begin(self, content: Content | None, index: IndexT) -> IndexT:
        if content is None or self._shelf is None or self._place is None:
            return index
        self._copy = signature_of(self._place)
        kept = self._shelf.read(self._place)
        accepted = None if kept is None or kept == content else self._read(kept)
        if accepted is not None:
            change = Change.between(accepted, index)
            if self._shelf.losses.are_too_many(change):
                self._hold(change)
                return accepted
            self._tell("list read", change)
        elif kept != content and count(index) == 0:
            self._is_known = False
            if self._shelf.writes:
                _log.warning("list is empty, and no content was ever accepted", file=str(self._file))
        if self._is_known and kept != content:
            self._keep(self._shelf, self._place, content)
        return index

    def _renew(self, content: Content, index: IndexT) -> None:
        if self._shelf is None or self._place is None:
            super()._renew(content, index)
            return
        seen = self._seen
        kept = self._shelf.read(self._place)
        if kept == content:
            change = Change.between(self._index, index)
        else:
            self._index = self._newest(self._place, kept)
            change = Change.between(self._index, index)
            if (change.went or not change.has) and seen != self._doubted:
                self._doubted = seen
                self._seen = ()  # the next look tells whether it is still being written
                return
            if self._shelf.losses.are_too_many(change):
                self._hold(change)
                return
            if not change.has and not self._is_known:
                return
            self._keep(self._shelf, self._place, content)
        self._copy = signature_of(self._place)
        self._take(index, change)

    def _newest(self, place: Path, kept: Content | None) -> IndexT:
        """What is accepted: what this process has, or what another one has written since."""
        copy = signature_of(place)
        if kept is None or copy == self._copy:
            return self._index
        self._copy = copy
        accepted = self._read(kept)
        if accepted is None:
            return self._index
        self._is_known = True
        return accepted

    def _read(self, kept: Content) -> IndexT | None:
        """The index of accepted content; None if a line is bad, as it may be for a later version."""
        try:
            return self._build(kept)
        except ValueError as error:
            if self._shelf is not None and self._shelf.writes:
                _log.warning("accepted content can't be used", file=str(self._place), reason=str(error))
            return None

    def _keep(self, shelf: Shelf, place: Path, content: Content) -> None:
        shelf.keep(place, content)
        self._copy = signature_of(place)
        self._seen = (*self._seen[:1], self._copy)  # what one wrote oneself is no news

    def _take(self, index: IndexT, change: Change) -> None:
        """From now on this holds."""
        self._index = index
        self._held = self._doubted = None
        self._is_known = True
        self._tell("list read again", change)

    def _hold(self, change: Change) -> None:
        """What is accepted goes on to hold."""
        self._held = change
        self._tell("list keeps its last accepted content", change, "warning")

    def _tell(self, event: str, change: Change, level: str = "info") -> None:
        """Tell the log, where the service is what looks."""
        if self._shelf is not None and self._shelf.writes:
            told = {"entries": change.has, "came": change.came, "went": change.went}
            getattr(_log, level)(event, file=str(self._file), **told)
