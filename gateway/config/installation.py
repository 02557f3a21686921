"""The service's own code on disk: what is loaded, and what may yet be loaded when it has become another user.

Modules are imported at the first use, entry points are looked for at each reload: so the files of the gateway, of the
packages that it needs and of those that offer policies must be open to the service's user, and the folders above them.
"""

import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

from gateway.config.access import LIST, READ, Account, Hindrance, Question, in_the_way

GROUP: Final = "lychgate.policies"
"""The entry points of policies."""

_OWN: Final = "lychgate"
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")  # PEP 508: a name, extras of it
_CONDITION: Final = re.compile(r"\bextra\s*==\s*['\"]([^'\"]+)")

_Part: TypeAlias = tuple[str, str]
"""A package and one of its extras; no extra for the package itself."""


def closed(account: Account) -> list[Hindrance]:
    """What of the installation an account can't read; root can read all.

    Raises:
        OSError: This process may not become the account, not even for a look.
    """
    if account.uid == 0:
        return []
    files = {file for file in (*_loaded(), *_files(), *_sources()) if "__pycache__" not in file}
    folders = {os.path.dirname(file) for file in files}  # noqa: PTH120 - thousands of names
    questions: list[Question] = [(Path(folder), LIST) for folder in sorted(folders)]
    return in_the_way(account, [*questions, *((Path(file), READ) for file in sorted(files))])


def closed_here() -> Hindrance | None:
    """What keeps this process itself from finding or loading what is installed, as far as it can see that.

    What can't be read has no names: so it may be asked of what is not found only.
    """
    own = Account.of(None, None)
    folders = [Path(entry).absolute() for entry in sys.path]
    packages = [package for folder in folders for package in folder.glob("*.dist-info")]
    described = [(package / "entry_points.txt", READ) for package in packages]
    asked = [(folder, LIST) for folder in (*folders, *packages) if not folder.is_file()]
    found = in_the_way(own, [*asked, *described]) or closed(own)
    return found[0] if found else None


def _loaded() -> Iterator[str]:
    """The files of all modules so far, Python's own among them, and the interpreter."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            yield os.path.abspath(file)  # noqa: PTH100 - thousands of names
    if sys.executable:
        yield sys.executable


def _files() -> Iterator[str]:
    """The files of the packages that the service needs."""
    yield from (str(file.locate()) for package in packages() for file in package.files or ())


def packages() -> Iterator[Distribution]:
    """The packages that offer policies, with all of their extras that are installed, and what they need."""
    offers = [point.dist for point in entry_points(group=GROUP) if point.dist is not None]
    waiting: list[_Part] = [(_OWN, "")]
    for offer in offers:  # one that can't be read has no name
        names, extras = (offer.metadata.get_all(field) or [] for field in ("Name", "Provides-Extra"))
        waiting += [(_normal(name), part) for name in names for part in ("", *map(_normal, extras))]
    known, found = set(waiting), dict[str, Distribution]()
    while waiting:
        name, extra = waiting.pop()
        try:
            package = found.setdefault(name, distribution(name))
        except PackageNotFoundError:  # of an extra that is not installed, or for other machines
            continue
        needed = set(_needed(package, extra)) - known
        known |= needed
        waiting += needed
    yield from found.values()


def _needed(package: Distribution, extra: str) -> Iterator[_Part]:
    """What a package needs, or one of its extras."""
    for requirement in package.requires or ():
        condition = _CONDITION.search(requirement)
        name = _REQUIREMENT.match(requirement)
        if name is not None and (_normal(condition[1]) if condition is not None else "") == extra:
            extras = (name[2] or "").split(",")
            yield from ((_normal(name[1]), part) for part in {"", *(_normal(each.strip()) for each in extras)})


def _normal(name: str) -> str:
    """A name for comparison (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _sources() -> Iterator[str]:
    """What lies in the gateway's folders and those of policies, also where they are used from a checkout."""
    names = {point.module.partition(".")[0] for point in entry_points(group=GROUP)} | {__name__.partition(".")[0]}
    for name in sorted(names):
        spec = find_spec(name)
        for root in (spec.submodule_search_locations if spec is not None else None) or ():
            yield os.path.join(root, "")  # noqa: PTH118 - the folder itself, also where it can't be listed
            for folder, folders, files in os.walk(root):
                yield from (os.path.join(folder, file) for file in files)  # noqa: PTH118 - thousands of names
                yield from (os.path.join(folder, inner, "") for inner in folders)  # noqa: PTH118 - the same
