"""Paths and parameters as values: what MAIL and RCPT name (RFC 5321 4.1.2, RFC 6531).

``grammar`` makes them from the wire; everything else only reads them. The null reverse-path is its own value, so that
nothing ever tests an address for truth.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address.

    Attributes:
        text: The address as the client wrote it, without angle brackets and source route; a local part that RFC 5321
            has only in quotes has them (``"a..b"@example.com``). It is forwarded in angle brackets.
        local_part: The local part's meaning: quotes and backslashes of a quoted string removed, case kept.
        domain: The domain for comparison: lower-case, as A-labels (``xn--``), or an address literal in brackets;
            empty for ``postmaster`` without a domain (RFC 5321 4.5.1).
        source_route: The hosts of the source route, which is ignored (RFC 5321 appendix C).
    """

    text: str
    local_part: str
    domain: str
    source_route: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def is_ascii(self) -> bool:
        """Whether it can travel without SMTPUTF8."""
        return self.text.isascii()


@dataclass(frozen=True, slots=True)
class NullReversePath:
    """``<>``: the reverse-path of notifications, which must not be answered with one (RFC 5321 4.5.5)."""

    text: ClassVar[str] = ""

    def __str__(self) -> str:
        return ""


NULL_REVERSE_PATH: Final = NullReversePath()

ReversePath: TypeAlias = Mailbox | NullReversePath


@dataclass(frozen=True, slots=True)
class Parameter:
    """One esmtp-param of MAIL or RCPT; the value is None where there is no ``=``.

    Attributes:
        keyword: In upper case.
        value: As the client wrote it.
    """

    keyword: str
    value: str | None

    def __str__(self) -> str:
        return self.keyword if self.value is None else f"{self.keyword}={self.value}"
