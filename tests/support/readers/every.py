"""All readers, and one call that asks them all.

``python-*`` are Python's package ``email``: policy compat32 with ``getaddresses`` and ``parseaddr``, as they are and
(``-loose``) as they were before they became strict, and policy default. ``email-mime`` is Perl's Email::MIME with
Email::Address::XS; ``mail-message`` Perl's Mail::Message with Mail::Address, ``-full`` with its own reading of the
field. ``mailparser`` is npm's, of now and of some years ago.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.support.readers.child import CHILD_READERS
from tests.support.readers.python_email import PYTHON_READERS
from tests.support.readers.reading import Reader, Reading

READERS: Final[tuple[Reader, ...]] = (*PYTHON_READERS, *CHILD_READERS)

PEERS: Final = ("email-mime", "email-address", "mail-message", "mailparser")
"""The rows of ``tests/peers.txt`` that they need."""


def read_all(messages: Sequence[bytes]) -> Mapping[str, list[Reading]]:
    """What each reader makes of each message, by the reader's name."""
    with ThreadPoolExecutor(2) as pool:
        return dict(
            zip(
                [reader.name for reader in READERS],
                pool.map(lambda reader: reader.read(messages), READERS),
                strict=True,
            )
        )
