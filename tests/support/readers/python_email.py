"""Readers that are Python's own: the package ``email`` with its two policies, and ``email.utils``.

What ``email`` raises for odd input counts as showing nothing; the error is kept.
"""

import email.parser
import email.policy
import email.utils
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.support.readers.reading import Reading, unfolded

_LOOSE: Final[dict[str, Any]] = (
    {"strict": False} if getattr(email.utils, "supports_strict_parsing", False) else {}
)  # Python's own parsers are strict since 2024; those before had no such argument, and were loose


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonReader:
    """``email.parser`` with a policy, and a way to see the addresses in the From field that it gives.

    Attributes:
        name: Its name.
        policy: The policy.
        addresses: The addresses of the From field.
    """

    name: str
    policy: "email.policy.Policy[Any]"
    addresses: Callable[[Any], list[str]]

    def read(self, messages: Sequence[bytes]) -> list[Reading]:
        """What it makes of each message."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [self._reading(message) for message in messages]

    def _reading(self, text: bytes) -> Reading:
        message = email.parser.BytesParser(policy=self.policy).parsebytes(text, headersonly=True)
        fields = tuple((_shown(name), _shown(unfolded(str(value)))) for name, value in message.raw_items())
        try:
            author = message["From"]
            if author is None:
                return Reading(fields=fields)
            authors = tuple(_shown(address) for address in self.addresses(author) if address)
            return Reading(authors=authors, author_text=_shown(str(author)), fields=fields)
        except Exception as error:  # noqa: BLE001 - it raises whatever its parser runs into
            raw = [value for name, value in fields if name.lower() == "from"]
            return Reading(
                author_text=_shown("".join(raw[:1])), fields=fields, error=f"{type(error).__name__}: {error}"
            )


def _shown(text: str) -> str:
    """The text as it is printed: octets that came as surrogates (PEP 383) are UTF-8 where they can be."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _of_list(author: Any, **options: Any) -> list[str]:
    return [address for _, address in email.utils.getaddresses([str(author)], **options)]


def _of_one(author: Any, **options: Any) -> list[str]:
    return [email.utils.parseaddr(str(author), **options)[1]]


PYTHON_READERS: Final = (
    PythonReader(name="python-list", policy=email.policy.compat32, addresses=_of_list),
    PythonReader(
        name="python-list-loose", policy=email.policy.compat32, addresses=lambda author: _of_list(author, **_LOOSE)
    ),
    PythonReader(name="python-one", policy=email.policy.compat32, addresses=_of_one),
    PythonReader(
        name="python-one-loose", policy=email.policy.compat32, addresses=lambda author: _of_one(author, **_LOOSE)
    ),
    PythonReader(
        name="python-default",
        policy=email.policy.default,
        addresses=lambda author: [address.addr_spec for address in author.addresses],
    ),
)
"""``getaddresses`` and ``parseaddr``, each as they are and as they were, and the policy ``default``."""
