"""What a transaction holds in memory beside its message: counted, so that it can be bounded.

The figures are those of CPython on a 64-bit machine: a text or a number as the interpreter gives its size, an object
with its header, its slots and what refers to it. They are rather too high than too low: a test compares them with what
is really allocated.
"""

from collections.abc import Iterable
from sys import getsizeof
from typing import Final

from gateway.session import Recipient
from gateway.smtp.path import Parameter
from gateway.state import Reservation
from gateway.verdict import Check

SESSION: Final = 65_536
"""What a session holds beside its message and its transaction, at most: some 15 KB itself, and on its connection what
waits to be read or sent (``doors.link``)."""

_RECIPIENT: Final = 350
"""A ``Recipient``, its ``Mailbox`` and ``Verdict``, and its places in the lists of transaction and delivery."""

_PARAMETER: Final = 80
_REPLY: Final = 240
"""A ``Reply`` without its text."""

_CHECK: Final = 215
_FINDING: Final = 60
"""A ``Finding`` without its evidence."""

_RESERVATION: Final = 420
"""What was counted: a ``Reservation``, its ``Take`` with two numbers and its ``Answer``."""


def of_recipient(recipient: Recipient, before: Recipient | None = None) -> int:
    """Octets of a recipient whose RCPT was answered.

    Args:
        recipient: The recipient.
        before: The one before it; a reply that both have is counted once.
    """
    path = recipient.path
    octets = _RECIPIENT + getsizeof(path.text) + getsizeof(path.local_part) + getsizeof(path.domain)
    for host in path.source_route:
        octets += getsizeof(host) + 8
    octets += _of_parameters(recipient.parameters)
    reply = recipient.reply
    if reply is not None and (before is None or reply is not before.reply):
        octets += _REPLY + getsizeof(reply.text) + getsizeof(reply.wire)
    return octets


def _of_parameters(parameters: Iterable[Parameter]) -> int:
    return sum(_PARAMETER + getsizeof(each.keyword) + getsizeof(each.value) for each in parameters)


def of_checks(checks: Iterable[Check]) -> int:
    """Octets of what policies found."""
    octets = 0
    for check in checks:
        octets += _CHECK
        if check.evidence:
            octets += _FINDING + _of_value(check.evidence)
    return octets


def of_reservations(reservations: Iterable[Reservation]) -> int:
    """Octets of what was counted in advance."""
    return sum(_RESERVATION + getsizeof(each.operation.subject) for each in reservations)


def _of_value(value: object) -> int:
    """Octets of evidence: what JSON knows, at any depth."""
    if isinstance(value, dict):
        return getsizeof(value) + sum(map(_of_value, value.values()))
    if isinstance(value, list | tuple):
        return getsizeof(value) + sum(map(_of_value, value))
    return getsizeof(value)
