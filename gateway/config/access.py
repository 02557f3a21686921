"""What an account of this machine may do with files: ask for another account before one becomes it.

``Account`` is whom the service is once it serves. ``in_the_way`` looks at paths as that account would: a child process
becomes it and asks access(2), so that groups, ACLs and read-only file systems count as they will later. Where something
is refused, the folder above that lets nobody through is found, and told with what to do about it.

Known limits: only root can look as somebody else (``may_ask``). Security modules that go by the program and not by the
account are not asked.
"""

import grp
import os
import pwd
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Self, TypeAlias

READ = os.R_OK
CONNECT = os.R_OK | os.W_OK
LIST = os.R_OK | os.X_OK
MAKE = os.W_OK | os.X_OK
"""To make files in a folder."""

Question: TypeAlias = tuple[Path, int]
"""A path and what is wanted of it, as access(2) has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user and a group.

    Attributes:
        name: The user's name; its number where it has none.
        uid: The user's number.
        gid: The number of the group.
        groups_of: The user whose further groups are taken on, None to keep those that one has.
    """

    name: str
    uid: int
    gid: int
    groups_of: str | None = None

    @classmethod
    def of(cls, user: str | None, group: str | None) -> Self:
        """Whom ``user`` and ``group`` of the configuration mean; who one is where they are left out.

        Raises:
            KeyError: There is none.
        """
        if user is None:
            uid, gid, name = os.geteuid(), os.getegid(), _user(os.geteuid())
        else:
            entry = pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        return cls(name=name, uid=uid, gid=gid if group is None else grp.getgrnam(group).gr_gid, groups_of=user)

    @property
    def is_own(self) -> bool:
        """Whether this process has it already."""
        return (self.uid, self.gid) == (os.geteuid(), os.getegid())

    @property
    def may_ask(self) -> bool:
        """Whether it can be told what this account may do."""
        return self.is_own or os.geteuid() == 0

    def become(self) -> None:
        """Take it on for good.

        Raises:
            OSError: This process may not.
        """
        if self.groups_of is not None:
            os.initgroups(self.groups_of, self.gid)
        os.setgid(self.gid)
        os.setuid(self.uid)


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why something is refused.

    Attributes:
        path: What was wanted.
        mode: What was wanted of it.
        place: What is in the way: the path itself, or a folder above it.
    """

    path: Path
    mode: int
    place: Path

    def __str__(self) -> str:
        """The path, what is in the way, and whose that is."""
        if self._is_read_only:
            return f"{str(self.path)!r}, which is mounted read-only"
        if self.is_above:
            return f"{str(self.path)!r}: {str(self.place)!r} is closed to it{_described(self.place)}"
        return f"{str(self.path)!r}{_described(self.place)}"

    def remedy(self, account: Account) -> str:
        """What opens the way."""
        place = quote(str(self.place))
        if self._is_read_only:
            return "name a place that can be written"
        if self.is_above:
            return f"let it through (chmod o+x {place}), or keep this elsewhere"
        if self.mode & os.W_OK:
            return f"let it write there (chown {quote(account.name)} {place})"
        bits = "g+rx" if self.mode & os.X_OK else "g+r"
        return f"let its group read it (chgrp {quote(_group(account.gid))} {place} && chmod {bits} {place})"

    @property
    def is_above(self) -> bool:
        """Whether a folder above is in the way."""
        return self.place != self.path.resolve()

    @property
    def _is_read_only(self) -> bool:
        try:
            return bool(self.mode & os.W_OK and not self.is_above and os.statvfs(self.place).f_flag & os.ST_RDONLY)
        except OSError:
            return False


def in_the_way(account: Account, questions: Sequence[Question]) -> list[Hindrance]:
    """What an account is refused of paths that are there; what is missing is no business of this.

    Raises:
        OSError: This process may not become the account, not even for a look.
    """
    there = [question for question in questions if not is_missing(question[0])]
    answers = _allowed(account, there)
    refused = [question for question, may in zip(there, answers, strict=True) if not may]
    folders = {path.parent: _way(path.parent) for path, _ in refused}
    ways = {path: (*folders[path.parent], *reversed(path.resolve().parents)) for path, _ in refused}
    above = list(dict.fromkeys(folder for way in ways.values() for folder in way))
    passable = dict(zip(above, _allowed(account, [(folder, os.X_OK) for folder in above]), strict=True))
    return [
        Hindrance(path, mode, next((folder for folder in ways[path] if not passable[folder]), path.resolve()))
        for path, mode in refused
    ]


def is_missing(path: Path) -> bool:
    """Whether there is no such file, as far as this process may see."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _way(folder: Path) -> tuple[Path, ...]:
    """The folders through which one comes into a folder, itself among them, from the root on, none of them a link."""
    real = [step.resolve() for step in (*reversed(folder.absolute().parents), folder)]
    return tuple(dict.fromkeys(each for step in real for each in (*reversed(step.parents), step)))


def _allowed(account: Account, questions: Sequence[Question]) -> list[bool]:
    """Ask for an account.

    Raises:
        OSError: This process may not become it.
    """
    if account.is_own or not questions:
        return [os.access(path, mode) for path, mode in questions]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            account.become()
            with os.fdopen(writer, "wb") as answer:
                answer.write(bytes(os.access(path, mode) for path, mode in questions))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    if len(told) != len(questions):
        raise PermissionError(f"this process can not become the user {account.name!r}")
    return [bool(may) for may in told]


def _described(place: Path) -> str:
    """Its mode and whose it is, as ``ls -l`` tells it, in brackets; nothing where that can't be seen."""
    try:
        status = place.stat()
    except OSError:
        return ""
    return f" ({stat.filemode(status.st_mode)} {_user(status.st_uid)} {_group(status.st_gid)})"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
