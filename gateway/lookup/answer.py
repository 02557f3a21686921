"""What asking whether an address exists comes to.

Yes and no are ``Answer``s; that it can't be told now is an ``UnverifiableError``, and so is everything that goes wrong:
only what a source says in so many words is a no. A source that said nothing at all (an ``UnansweredError``) may be
away, and is then left alone for a moment.
"""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol


class UnverifiableError(Exception):
    """Whether the address exists can't be told now; the text says why."""


class UnansweredError(UnverifiableError):
    """The source could not be reached, or did not answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source said.

    Attributes:
        exists: Whether the address exists.
        words: What it said, for people.
    """

    exists: bool
    words: str = ""


class Lookup(Protocol):
    """Something that is asked about addresses, each time anew.

    Attributes:
        folds_case: Whether the case of a local part makes no difference: then it is asked in lower case.
    """

    folds_case: bool

    def ask(self, local_part: str, domain: str) -> Coroutine[Any, Any, Answer]:
        """Ask whether an address exists.

        Args:
            local_part: Without quotes.
            domain: In lower case, A-labels.

        Raises:
            UnverifiableError: The source answered, but not with a yes or a no.
            Exception: It did not answer, whatever the reason.
        """
        ...

    def forget(self, domain: str | None) -> None:
        """Forget what was learned of a domain, or of all."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...
