"""From a policy's name to its class, through the entry-point group ``lychgate.policies``.

A class is imported when its name is used, so that a broken package hurts only a configuration that names its policy.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Protocol, Self

from gateway.config.access import Hindrance
from gateway.config.installation import GROUP, closed_here
from gateway.config.problems import suggestion
from gateway.policy import Policy


class UnknownPolicyError(Exception):
    """There is no such policy, or its class can't be used."""


class Source(Protocol):
    """Where a class comes from: an entry point, or the class itself."""

    def load(self) -> Any:
        """The class."""
        ...


class _Given:
    """A class that needs no import."""

    def __init__(self, policy: type[Policy[Any]]) -> None:
        self._policy = policy

    def load(self) -> type[Policy[Any]]:
        return self._policy


class Registry:
    """The policies that a configuration can name.

    Args:
        sources: Each name with what offers it; more than one is an error once the name is used.
    """

    def __init__(self, sources: Mapping[str, Iterable[Source]]) -> None:
        self._sources = {name: tuple(offers) for name, offers in sources.items()}

    @classmethod
    def installed(cls) -> Self:
        """The policies of all installed packages."""
        sources: dict[str, dict[str, Source]] = {}
        for entry_point in entry_points(group=GROUP):
            sources.setdefault(entry_point.name, {})[entry_point.value] = entry_point
        return cls({name: offers.values() for name, offers in sources.items()})

    @classmethod
    def of(cls, *policies: type[Policy[Any]]) -> Self:
        """These classes by their own names."""
        return cls({policy.name: [_Given(policy)] for policy in policies})

    @cached_property
    def _closed(self) -> Hindrance | None:
        """What this process can't read of what is installed."""
        return closed_here()

    @property
    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._sources)

    def get(self, name: str) -> type[Policy[Any]]:
        """The class of a name.

        Raises:
            UnknownPolicyError: There is none, two packages offer one, or it can't be imported.
        """
        offers = self._sources.get(name)
        if offers is None:
            meant = suggestion(name, self.names)
            if (closed := self._closed) is not None:
                raise UnknownPolicyError(f"the policy {name!r} is not found{meant}: this user can't read {closed}")
            known = ", ".join(self.names) or "none"
            raise UnknownPolicyError(
                f"there is no policy {name!r}{meant}; installed are: {known}. A policy of "
                "another package is found once that package is installed in the same environment (pip install PACKAGE)"
            )
        if len(offers) > 1:
            raise UnknownPolicyError(f"more than one installed package offers a policy {name!r}; remove one of them")
        try:
            policy = offers[0].load()
        except Exception as error:  # the import runs the package's own code
            closed = self._closed if isinstance(error, ImportError | OSError) else None
            why = f"{type(error).__name__}: {error}" if closed is None else f"this user can't read {closed}"
            raise UnknownPolicyError(f"the policy {name!r} can't be loaded: {why}") from error
        if not (isinstance(policy, type) and issubclass(policy, Policy)):
            raise UnknownPolicyError(f"the policy {name!r} is not a subclass of gateway.policy.Policy")
        return policy
