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

from gateway.form import HeaderReader
from gateway.mailauth.author import Author, AuthorFault, a_label_domain, read_author
from tests.support.corpus import HONEST, HonestMessage
from tests.support.readers.every import PEERS, read_all
from tests.support.readers.generate import from_values

SEEDS: Final = range(int(os.environ.get("READERS_SEEDS", "4")))
VALUES: Final = 1500
"""From fields of each seed."""

BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
"""What is refused or normalized before anything is judged."""


def judged(message: bytes) -> tuple[Author | None, bytes]:
    """What the gateway reads as the author, None where it refuses the message for its form; and what it forwards."""
    header, end, body = message.partition(b"\r\n\r\n")
    section = HeaderReader().read(header + b"\r\n")
    return None if section.malformed else read_author(section.fields), section.forwarded + end[2:] + body


def shown_domain(address: str) -> str | None:
    """The domain of an address as a person reads it, None where there is none: no dot, or no name of a domain."""
    domain = a_label_domain(address.rpartition("@")[2].strip()) if "@" in address else None
    return domain if domain is not None and "." in domain else None


def is_cut(reader: str, message: bytes) -> bool:
    """Whether this reader cuts addresses short where they have octets above 127: what it shows is no address at all."""
    return reader == "mail-message-full" and re.search(rb"@[^,;]*[\x80-\xff]", message) is not None


@pytest.mark.peer(*PEERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_author_that_is_shown_is_judged(seed: int) -> None:
    """No reader shows a domain as the author's that DMARC does not evaluate, for thousands of From fields."""
    every = from_values(Random(seed))  # noqa: S311 - it chooses cases, not secrets
    values = list(islice((value for value in every if BARE.search(value) is None), VALUES))
    sent = [b"To: a@t.example\r\nFrom: " + value + b"\r\nSubject: s\r\n\r\nHello.\r\n" for value in values]
    authors, messages = zip(*map(judged, sent), strict=True)
    missed = []
    for reader, readings in read_all(messages).items():
        for value, message, author, reading in zip(values, messages, authors, readings, strict=True):
            if author is not None and author.fault is None and not is_cut(reader, message):
                shown = {shown_domain(address) for address in reading.authors} - {None, *author.domains}
                if shown:
                    missed.append(f"{value!r}: {reader} shows {sorted(map(str, shown))}, judged {author.domains}")
    assert not missed, "\n".join(missed[:40])
    read = sum(author is not None and author.fault is None for author in authors)
    assert read > VALUES / 5, f"only {read} of {VALUES} were judged at all"


@pytest.mark.parametrize("message", HONEST.values(), ids=HONEST.keys())
def test_the_author_of_honest_mail_is_read(message: HonestMessage) -> None:
    """However oddly an honest sender writes, the author's domains are read; a bounce may have none."""
    author, _ = judged(message.text)
    assert author is not None
    assert author.domains == message.domains
    if message.domains:
        assert author.fault is None
    else:
        assert author.fault in {AuthorFault.MISSING, AuthorFault.NO_ADDRESS}
        assert not message.reverse_path


@pytest.mark.peer(*PEERS)
def test_readers_show_the_author_of_honest_mail() -> None:
    """Of honest mail that has an author, each reader shows no other; most show it."""
    names = [name for name in HONEST if HONEST[name].domains]
    for reader, readings in read_all([HONEST[name].text for name in names]).items():
        shown = 0
        for name, reading in zip(names, readings, strict=True):
            domains = {shown_domain(address) for address in reading.authors} - {None}
            if not is_cut(reader, HONEST[name].text):
                assert domains <= set(HONEST[name].domains), f"{reader}: {name}"
                shown += bool(domains)
        assert shown > len(names) / 2, f"{reader} shows {shown} authors of {len(names)}"
