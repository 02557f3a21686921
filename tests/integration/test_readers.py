"""The readers of mail that other tests ask: that they see, and that they differ where they are known to."""

from typing import Final

import pytest

from tests.support.readers.every import PEERS, READERS, read_all

pytestmark = pytest.mark.peer(*PEERS)

EVERY: Final = frozenset(reader.name for reader in READERS)

SHOW_THE_BANK: Final = {
    b"jane@bank.example": EVERY,
    b'"x@attack.example" <jane@bank.example>': EVERY,
    b'"jane@bank.example" <x@attack.example>': frozenset(),
    b"(jane@bank.example) <x@attack.example>": frozenset(),
    b"=?utf-8?q?jane=40bank.example?= <x@attack.example>": frozenset(),
    b'"jane@bank.example", <x@attack.example>': {"python-list-loose", "mailparser", "mailparser-3.6"},
    b"(jane@bank.example), <x@attack.example>": {"mailparser-3.6"},
    b"=?utf-8?b?amFuZUBiYW5rLmV4YW1wbGU=?=, <x@attack.example>": {"mail-message-full", "mailparser-3.6"},
    b"jane@bank.example <x@attack.example>": {"python-default", "email-mime", "mail-message-full"},
    b'"jane@bank.example"@attack.example': {"mailparser-3.6"},
    b"jane@=?utf-8?q?bank.example?=": {"python-default", "mailparser"},
    b"jane@bank.example@attack.example": {"email-mime", "mail-message-full"},
    b"<jane@bank.example> x@attack.example": {"mail-message", "mailparser", "email-mime"},
}
"""From fields, and who at least shows ``jane@bank.example``: nobody else of those whose version does not matter."""

_BY_VERSION: Final = {"python-list", "python-list-loose", "python-one", "python-one-loose"}
"""Readers that are stricter or laxer with the Python that runs them."""


@pytest.mark.parametrize("value", SHOW_THE_BANK, ids=bytes.decode)
def test_readers_differ_where_they_are_known_to(value: bytes) -> None:
    """Each shape is shown as the bank's by these readers: else the differential tests would look for nothing."""
    readings = read_all([b"To: a@t.example\r\nFrom: " + value + b"\r\n\r\nHello.\r\n"])
    show = {name for name, (reading,) in readings.items() if "jane@bank.example" in reading.authors}
    assert show >= SHOW_THE_BANK[value]
    if not SHOW_THE_BANK[value]:
        assert not show - _BY_VERSION


def test_readers_see_all_fields() -> None:
    """Names and unfolded values are those of the message, in order, with CRLF and with LF."""
    text = b"Received: from a\r\n\tby b\r\nFROM: J <a@b.example>\r\nX-Empty:\r\nSubject: a letter\r\n\r\nFrom: x\r\n"
    expected = [("Received", "from a by b"), ("FROM", "J <a@b.example>"), ("X-Empty", ""), ("Subject", "a letter")]
    for name, readings in read_all([text, text.replace(b"\r\n", b"\n")]).items():
        for reading in readings:
            assert [(field, " ".join(value.split())) for field, value in reading.fields] == expected, name
            assert reading.authors == ("a@b.example",), name


def test_a_batch_keeps_its_order() -> None:
    """Each message has its own reading, in a batch of any size."""
    texts = [b"From: a%d@b.example\r\n\r\n" % number for number in range(300)]
    for name, readings in read_all(texts).items():
        assert [reading.authors for reading in readings] == [(f"a{number}@b.example",) for number in range(300)], name
