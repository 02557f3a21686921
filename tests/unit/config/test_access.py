"""What another account may do with files: the kernel is asked as that account, and what is in the way is found."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.config.access import CONNECT, LIST, MAKE, READ, Account, in_the_way
from tests.support.installation import NOBODY

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, which no folder of pytest's is."""
    made = Path(tempfile.mkdtemp(prefix="lychgate test "))
    made.chmod(0o755)
    yield made
    for inner in made.rglob("*"):
        if inner.is_dir() and not inner.is_symlink():
            inner.chmod(0o700)
    shutil.rmtree(made)


def made(path: Path, mode: int = 0o644) -> Path:
    """A file, in folders that everybody may enter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("alice\n")
    path.chmod(mode)
    return path


def shut(path: Path, mode: int = 0o700) -> Path:
    """A folder that is root's alone."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


def own_file(folder: Path) -> tuple[Path, int, str | None]:
    """A file that is root's alone."""
    return made(folder / "key.pem", 0o600), READ, "key.pem"


def folder_above(folder: Path) -> tuple[Path, int, str | None]:
    """A folder above is root's alone, as /root is."""
    path = made(folder / "root" / "in" / "list.txt")
    shut(folder / "root")
    return path, READ, "root"


def two_folders_above(folder: Path) -> tuple[Path, int, str | None]:
    """Two folders above are, and the outer one is told first."""
    path = made(folder / "outer" / "inner" / "list.txt")
    shut(folder / "outer" / "inner")
    shut(folder / "outer")
    return path, READ, "outer"


def link_into_a_closed_folder(folder: Path) -> tuple[Path, int, str | None]:
    """A link that everybody sees leads where nobody may go."""
    path = made(folder / "root" / "list.txt")
    shut(folder / "root")
    (folder / "list.txt").symlink_to(path)
    return folder / "list.txt", READ, "root"


def link_below_two_closed_folders(folder: Path) -> tuple[Path, int, str | None]:
    """Where a link leads, the outer one is told first, too."""
    path = made(folder / "outer" / "inner" / "list.txt")
    shut(folder / "outer" / "inner")
    shut(folder / "outer")
    (folder / "list.txt").symlink_to(path)
    return folder / "list.txt", READ, "outer"


def linked_folder(folder: Path) -> tuple[Path, int, str | None]:
    """A folder above is a link into one that is closed."""
    made(folder / "root" / "tls" / "key.pem")
    shut(folder / "root")
    (folder / "tls").symlink_to(folder / "root" / "tls")
    return folder / "tls" / "key.pem", READ, "root"


def roots_folder(folder: Path) -> tuple[Path, int, str | None]:
    """A folder in which only root makes files, such as /var/log."""
    return shut(folder / "log", 0o755), MAKE, "log"


def unlisted_folder(folder: Path) -> tuple[Path, int, str | None]:
    """A folder of packages that may be entered and not listed: nothing in it can be imported."""
    return shut(folder / "site", 0o711), LIST, "site"


def readable_socket(folder: Path) -> tuple[Path, int, str | None]:
    """One connects only to what one may write to."""
    return made(folder / "socket", 0o644), CONNECT, "socket"


def open_file(folder: Path) -> tuple[Path, int, str | None]:
    """Everybody may read it."""
    return made(folder / "list.txt"), READ, None


def file_of_the_group(folder: Path) -> tuple[Path, int, str | None]:
    """The account's group may."""
    path = made(folder / "list.txt", 0o640)
    os.chown(path, -1, pwd.getpwnam(NOBODY).pw_gid)
    return path, READ, None


def missing_file(folder: Path) -> tuple[Path, int, str | None]:
    """What is not there is in nobody's way."""
    return folder / "missing", READ, None


CLOSED = [
    own_file, folder_above, two_folders_above, link_into_a_closed_folder, link_below_two_closed_folders, linked_folder,
    roots_folder, unlisted_folder, readable_socket,
]  # fmt: skip


@needs_root
@pytest.mark.parametrize("case", [*CLOSED, open_file, file_of_the_group, missing_file], ids=lambda case: case.__name__)
def test_what_is_in_the_way_is_found(folder: Path, case: Callable[[Path], tuple[Path, int, str | None]]) -> None:
    """The path itself or the outermost folder above that is closed, links followed; nothing where nothing is."""
    path, mode, expected = case(folder)
    found = in_the_way(Account.of(NOBODY, None), [(path, mode)])
    assert [hindrance.place for hindrance in found] == ([] if expected is None else [folder / expected])


@needs_root
@pytest.mark.parametrize("case", CLOSED, ids=lambda case: case.__name__)
def test_what_it_says_to_do_opens_the_way(folder: Path, case: Callable[[Path], tuple[Path, int, str | None]]) -> None:
    """The commands between the brackets, run until nothing is told any more: each time one thing less is in the way."""
    path, mode, _ = case(folder)
    account = Account.of(NOBODY, None)
    for _ in range(3):
        found = in_the_way(account, [(path, mode)])
        if not found:
            break
        command = found[0].remedy(account).partition("(")[2].partition(")")[0]
        subprocess.run(["sh", "-c", command], check=True)
    assert not in_the_way(account, [(path, mode)])


@needs_root
def test_it_is_told_with_mode_and_owner(folder: Path) -> None:
    """As ``ls -l`` shows them, so that the administrator need not look."""
    path, mode, _ = folder_above(folder)
    (hindrance,) = in_the_way(Account.of(NOBODY, None), [(path, mode)])
    assert str(hindrance) == f"'{path}': '{folder}/root' is closed to it (drwx------ root root)"
    (hindrance,) = in_the_way(Account.of(NOBODY, None), [(made(folder / "key.pem", 0o600), READ)])
    assert str(hindrance) == f"'{folder}/key.pem' (-rw------- root root)"


@needs_root
def test_many_questions_are_answered_in_their_order(folder: Path) -> None:
    """Also more answers than a pipe holds at once, and those alone that are refused."""
    closed, opened = made(folder / "closed", 0o600), made(folder / "open")
    found = in_the_way(Account.of(NOBODY, None), [(opened, READ), (closed, READ)] * 50_000)
    assert [hindrance.path for hindrance in found] == [closed] * 50_000


@needs_root
def test_asking_changes_nobody(folder: Path) -> None:
    """Who asks stays who it is."""
    before = (os.getresuid(), os.getresgid(), os.getgroups())
    in_the_way(Account.of(NOBODY, None), [(made(folder / "list.txt"), READ)])
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


@needs_root
def test_who_becomes_another_leaves_all_groups_of_its_own() -> None:
    """The user, its group and its further groups are taken on, and nothing is left of root's."""
    code = (
        "import os; from gateway.config.access import Account; os.setgroups([0, 4242]); "
        f"Account.of({NOBODY!r}, None).become(); print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    entry = pwd.getpwnam(NOBODY)
    groups = sorted(os.getgrouplist(NOBODY, entry.pw_gid))
    assert told == f"{(entry.pw_uid,) * 3} {(entry.pw_gid,) * 3} {groups}\n"


def test_who_one_is_needs_no_other_process() -> None:
    """Without a user it is oneself, who may always ask; another one is for root to ask for."""
    own = Account.of(None, None)
    assert (own.uid, own.gid, own.is_own, own.may_ask) == (os.geteuid(), os.getegid(), True, True)
    assert Account.of(NOBODY, None).may_ask is (os.geteuid() in {0, pwd.getpwnam(NOBODY).pw_uid})


@pytest.mark.parametrize(("user", "group"), [("no-such-user", None), (None, "no-such-group")])
def test_there_is_no_account_without_its_names(user: str | None, group: str | None) -> None:
    """A name that the machine does not know is a ``KeyError``."""
    with pytest.raises(KeyError):
        Account.of(user, group)


@needs_root
def test_an_account_that_can_not_be_taken_on_is_told(folder: Path) -> None:
    """As an error of the system; no answer is invented for it."""
    account = Account(name="nobody", uid=2**32 - 1, gid=2**32 - 1)  # no user: setuid(2) refuses it
    with pytest.raises(PermissionError, match="can not become the user 'nobody'"):
        in_the_way(account, [(made(folder / "list.txt"), READ)])
