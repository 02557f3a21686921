"""Whether the service reaches what it needs once it is the user that the configuration names.

Looked at are its own code, the configuration file and all that it names: every path, and the folders above it, as that
user. What keeps the workers from starting or from ever doing their work is a problem; what they can do without until a
file changes or a reload is asked for is a warning. So is a service that would stay root: ``check`` says it to root, who
is likely to start it, too, and to nobody else.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

from gateway.config import installation
from gateway.config.access import CONNECT, MAKE, READ, Account, Hindrance, Question, in_the_way, is_missing
from gateway.config.files import FileUse, NamedFile
from gateway.config.model import Config
from gateway.config.problems import Problem
from gateway.config.registry import Registry
from gateway.units import counted


@dataclass(frozen=True, slots=True)
class _Need:
    """What a path is needed for.

    Attributes:
        verb: What the user does with it.
        without: What comes of it where the user can't.
        is_vital: Whether the service can't do its work then.
    """

    verb: str
    without: str
    is_vital: bool = False

    def told(self, account: Account, hindrance: Hindrance, remedy: str) -> str:
        """What is wrong and what to do."""
        return f"the user {account.name!r} can't {self.verb} {hindrance}, so {self.without}; {remedy}"


_SYSTEMS_OWN: Final = ("/tmp", "/var/tmp")  # noqa: S108 - only asked about
_CONFIGURATION: Final = _Need("read", "every reload is refused")
_NEEDS: Final[Mapping[FileUse, _Need]] = {
    FileUse.VALUE: _Need("read", "every reload is refused"),
    FileUse.TABLE: _Need("read", "changes of it are not noticed, and every reload is refused"),
    FileUse.RECIPIENTS: _Need("read", "the workers can't start", is_vital=True),
    FileUse.LISTS: _Need("write to", "a restart forgets which recipients were accepted last"),
    FileUse.CERTIFICATE: _Need("read", "a renewed one is not noticed, and every reload is refused"),
    FileUse.AUTHORITIES: _Need("read", "no certificate can be verified", is_vital=True),
    FileUse.DATABASE: _Need("read", "the database can't be asked", is_vital=True),
    FileUse.RECORDS: _Need("write to", "decision records can't be written"),
    FileUse.SPOOL: _Need("write to", "large messages are deferred"),
    FileUse.RUNTIME: _Need("write to", "commands can't ask the service"),
    FileUse.PID: _Need("write to", "it can't start the service"),
    FileUse.SOCKET: _Need("connect to", "what listens there can't be asked"),
}


def problems(config: Config) -> list[Problem]:
    """What keeps the service from working as its user."""
    account = _account(config)
    if account is None or not account.may_ask:
        return []
    try:
        code = code_problem(account)
        found = list(_closed(config, account, are_vital=True))
    except OSError as error:
        return [_at_user(config, str(error))]
    return found if code is None else [_at_user(config, code), *found]


def warnings(config: Config) -> list[Problem]:
    """What the service will miss as its user."""
    account = _account(config)
    if account is None:
        return []
    if not account.may_ask:
        told = f"only root and the user {account.name!r} can see whether it may read the installation and these files"
        return [_at_user(config, told)]
    try:
        return [
            *_on_root(config, account),
            *_on_configuration(config, account),
            *_closed(config, account, are_vital=False),
            *_on_temporary_files(config, account),
        ]
    except OSError:
        return []  # it is a problem, and told as one


def code_problem(account: Account) -> str | None:
    """What keeps an account from reading the gateway's own code, with what to do about it.

    Raises:
        OSError: This process may not become the account, not even for a look.
    """
    found = installation.closed(account)
    if not found and account.is_own and not Registry.installed().names and (hidden := installation.closed_here()):
        found = [hidden]
    if not found:
        return None
    places = dict.fromkeys(hindrance.place for hindrance in found)
    more = f" and {counted(len(places) - 1, 'more place')}" if len(places) > 1 else ""
    return f"the user {account.name!r} can't read the installation, {found[0]}{more}; {_code_remedy(found[0].place)}"


def _code_remedy(place: Path) -> str:
    whole = Path(sys.prefix)
    if place in whole.parents:
        opened = f"let the user through: chmod o+x {quote(str(place))}"
    else:
        opened = f"let everyone read it: chmod -R a+rX {quote(str(whole if place.is_relative_to(whole) else place))}"
    return f"install it where everyone may read it, such as under /opt, or {opened}"


def _account(config: Config) -> Account | None:
    """Whom the service will be; None where there is no such user, which is told elsewhere."""
    try:
        return Account.of(config.user, config.group)
    except KeyError:
        return None


def _at_user(config: Config, message: str) -> Problem:
    key = "user" if config.user is not None else "group" if config.group is not None else ""
    return Problem(config.path, config.positions.get(key), key, message)


def _on_root(config: Config, account: Account) -> Iterator[Problem]:
    """Whoever starts it as root gives every fault of it the whole machine; who writes ``user: root`` knows."""
    if account.uid == 0 and config.user is None:
        told = "started by root, the service stays root; name whom to become (user: lychgate), or start it as that user"
        yield Problem(config.path, config.positions.get("group"), "user", told)


def _on_configuration(config: Config, account: Account) -> Iterator[Problem]:
    for hindrance in in_the_way(account, [(config.path, READ)]):
        yield _at_user(config, _CONFIGURATION.told(account, hindrance, hindrance.remedy(account)))


def _closed(config: Config, account: Account, *, are_vital: bool) -> Iterator[Problem]:
    """What of the files that the configuration names is closed; one problem for each use and place in the way."""
    files = [file for file in config.files if _NEEDS[file.use].is_vital is are_vital and _opens(file, account)]
    questions = {file: _question(file, account) for file in files}
    refused = {(each.path, each.mode): each for each in in_the_way(account, list(dict.fromkeys(questions.values())))}
    found: dict[tuple[FileUse, Path], list[NamedFile]] = {}
    for file, question in questions.items():
        if question in refused:
            found.setdefault((file.use, refused[question].place), []).append(file)
    for (use, _), closed in found.items():
        first, hindrance = closed[0], refused[questions[closed[0]]]
        told = _NEEDS[use].told(account, hindrance, _remedy(first, hindrance, account))
        more = f" (and so it is with {counted(len(closed) - 1, 'more file')})" if len(closed) > 1 else ""
        yield Problem(config.path, first.position, first.where, told + more)


def _opens(file: NamedFile, account: Account) -> bool:
    """Whether the user opens the file itself: what is opened before by whoever starts the service needs less."""
    if file.use is FileUse.CERTIFICATE:
        return not account.is_own  # to this process it is a problem already (advice.file_problems)
    return file.use is not FileUse.PID or (account.is_own and is_missing(file.path))  # a running service has its own


def _question(file: NamedFile, account: Account) -> Question:
    """What the user must be allowed."""
    path, folder = file.path, file.path.parent
    match file.use:
        case FileUse.RECORDS | FileUse.PID if is_missing(path):
            return folder, MAKE
        case FileUse.RECORDS | FileUse.PID:
            return path, os.W_OK
        case FileUse.RUNTIME if is_missing(path):
            return folder, MAKE if account.is_own else os.X_OK  # root makes it before
        case FileUse.LISTS if is_missing(path):
            there = next(parent for parent in path.parents if not is_missing(parent))
            return there, MAKE if account.is_own else os.X_OK  # root makes it before
        case FileUse.RUNTIME | FileUse.SPOOL | FileUse.LISTS:
            return path, MAKE
        case FileUse.SOCKET:
            return path, os.X_OK if path.is_dir() else CONNECT  # libpq is given the socket's folder
        case _:
            return path, READ


def _remedy(file: NamedFile, hindrance: Hindrance, account: Account) -> str:
    """What to do; a folder of the system's, such as /run or /var/log, is not made the user's."""
    if (
        file.use in {FileUse.RUNTIME, FileUse.LISTS}
        and hindrance.mode == MAKE
        and hindrance.path != file.path
        and not hindrance.is_above
    ):
        return f"make it before (install -d -m 700 -o {quote(account.name)} {quote(str(file.path))})"
    if file.use in {FileUse.RECORDS, FileUse.PID} and hindrance.mode == MAKE and not hindrance.is_above:
        own = quote(str(hindrance.path / "lychgate"))
        return f"name a file in a folder of its own (install -d -o {quote(account.name)} {own})"
    return hindrance.remedy(account)


def _on_temporary_files(config: Config, account: Account) -> Iterator[Problem]:
    """The folder for large messages where none is named: the first of these that can be used (tempfile)."""
    if config.spool.directory is not None:
        return
    names = [*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), *_SYSTEMS_OWN]
    questions = [(Path(name), MAKE) for name in names if name and not is_missing(Path(name))]
    closed = in_the_way(account, questions)
    if closed and len(closed) == len(questions):
        told = _NEEDS[FileUse.SPOOL].told(account, closed[0], "name a folder of its own here")
        yield Problem(config.path, config.positions.get("spool"), "spool.directory", told)
