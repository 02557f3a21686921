"""The author that is judged is the author that is shown: other readers of mail are asked what they show.

Each From field is read by ``read_author`` and by every reader of ``tests/support/readers``. What any of them shows as
the author's domain is among the domains that are judged, or the field is one that is refused.
"""

import os
import re
from itertools import islice
from random import Random
from typing import Final

import pytest

from gateway.header import header_fields
from gateway.mailauth.author import Author, a_label_domain, read_author
from tests.support.readers.every import PEERS, read_all
from tests.support.readers.generate import from_values

SEEDS: Final = range(int(os.environ.get("READERS_SEEDS", "4")))
VALUES: Final = 1500
"""From fields of each seed."""

BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
"""What is refused or normalized before anything is judged."""

pytestmark = pytest.mark.peer(*PEERS)


def judged(message: bytes) -> Author:
    """What the gateway reads as the author."""
    header, _, _ = message.partition(b"\r\n\r\n")
    header += b"\r\n"
    return read_author(tuple(header_fields(header)))


def shown_domain(address: str) -> str | None:
    """The domain of an address as a person reads it, None where there is none: no dot, or no name of a domain."""
    domain = a_label_domain(address.rpartition("@")[2].strip()) if "@" in address else None
    return domain if domain is not None and "." in domain else None


def is_cut(reader: str, message: bytes) -> bool:
    """Whether this reader cuts addresses short where they have octets above 127: what it shows is no address at all."""
    return reader == "mail-message-full" and re.search(rb"@[^,;]*[\x80-\xff]", message) is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_every_author_that_is_shown_is_judged(seed: int) -> None:
    """No reader shows a domain as the author's that DMARC does not evaluate, for thousands of From fields."""
    every = from_values(Random(seed))  # noqa: S311 - it chooses cases, not secrets
    values = list(islice((value for value in every if BARE.search(value) is None), VALUES))
    messages = [b"To: a@t.example\r\nFrom: " + value + b"\r\nSubject: s\r\n\r\nHello.\r\n" for value in values]
    authors = [judged(message) for message in messages]
    missed = []
    for reader, readings in read_all(messages).items():
        for value, message, author, reading in zip(values, messages, authors, readings, strict=True):
            if author.fault is None and not is_cut(reader, message):
                shown = {shown_domain(address) for address in reading.authors} - {None, *author.domains}
                if shown:
                    missed.append(f"{value!r}: {reader} shows {sorted(map(str, shown))}, judged {author.domains}")
    assert not missed, "\n".join(missed[:40])
    read = sum(author.fault is None for author in authors)
    assert read > VALUES / 5, f"only {read} of {VALUES} were judged at all"
