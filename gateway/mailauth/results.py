"""What the verification of a message's sender found: values, with the standards' own words.

Policies leave them on the transaction; the Authentication-Results field, the decision record and ``explain`` are made
of them. ``reason`` always says in a sentence what an administrator wants to know, and holds nothing but what the
message, the DNS or the gateway said, in one line.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_SHOWN: Final = 1000
"""Characters of a DMARC record that reports show."""

_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


class SpfResult(StrEnum):
    """The result of check_host() (RFC 7208 2.6)."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class DkimResult(StrEnum):
    """The result of one signature (RFC 8601 2.7.1)."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    POLICY = "policy"
    NEUTRAL = "neutral"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class ArcResult(StrEnum):
    """The status of a chain of ARC sets (RFC 8617 4.4), or that it can't be told now."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    TEMPERROR = "temperror"


class DmarcResult(StrEnum):
    """The result of DMARC (RFC 9989; the words are those of RFC 8601 2.7 and RFC 7489 11.2)."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Disposition(StrEnum):
    """What the domain owner asks for: the policy in a DMARC record, and what follows from it for a message."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class AlignmentMode(StrEnum):
    """Whether an identifier must be the From domain itself or may share its organizational domain."""

    RELAXED = "relaxed"
    STRICT = "strict"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpfCheck:
    """One check_host() (RFC 7208 4).

    Attributes:
        result: Its result.
        domain: The domain that was checked, in lower case; A-labels.
        mechanism: The mechanism that matched, as written in the record, None where none did.
        reason: Why it came to this.
        explanation: What ``exp=`` says of a fail (RFC 7208 6.2), made safe; None without it.
        record: The domain's SPF record, None where there is none.
        queries: DNS questions that it took.
        letters: The macro letters that it asked for, in lower case: what it depends on besides domain and client.
        tell: Makes ``steps``.
    """

    result: SpfResult
    domain: str
    mechanism: str | None = None
    reason: str = ""
    explanation: str | None = None
    record: str | None = None
    queries: int = 0
    letters: frozenset[str] = frozenset()
    tell: Callable[[], tuple[str, ...]] = field(default=tuple, repr=False, compare=False)

    @property
    def steps(self) -> tuple[str, ...]:
        """Each mechanism that was tried, with what became of it, in words, in order; put together for each call.

        Empty for a result that passes, or has no record, and was remembered.
        """
        return self.tell()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spf:
    """SPF of a transaction: of the reverse-path, and of the HELO name.

    Attributes:
        mail_from: Of the reverse-path's domain, or with the null reverse-path of ``postmaster@`` the HELO name
            (RFC 7208 2.4).
        helo: Of the HELO name; None where it was not checked, because it is no domain name.
    """

    mail_from: SpfCheck
    helo: SpfCheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DkimSignature:
    """What one DKIM-Signature field came to (RFC 6376 6.1).

    Attributes:
        result: Its result.
        reason: Why, such as ``body hash did not verify``; empty with a plain pass.
        domain: The signing domain (``d=``) in lower case, A-labels; empty if it can't be read.
        selector: ``s=``; empty if it can't be read.
        algorithm: ``a=``, such as ``rsa-sha256``; empty if it can't be read.
        auid: ``i=``, or ``@`` and the domain (RFC 6376 3.5); empty if it can't be read.
        signature: The first octets of ``b=`` without white space, by which reports tell signatures apart (RFC 6008).
        key_bits: The size of the key, None where no key was read.
        testing: Whether the key says ``t=y``.
        body_length: ``l=``, None without it.
    """

    result: DkimResult
    reason: str = ""
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    auid: str = ""
    signature: str = ""
    key_bits: int | None = None
    testing: bool = False
    body_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArcSet:
    """One ARC set of a chain (RFC 8617 4.2).

    Attributes:
        instance: ``i=``.
        domain: Who sealed it: ``d=`` of its ARC-Seal, in lower case.
        selector: ``s=`` of its ARC-Seal.
        authentication_results: The value of its ARC-Authentication-Results field, unfolded, without ``i=``.
        signs_from: Whether its message signature covers the From field, so that it binds the set to the author.
    """

    instance: int
    domain: str
    selector: str
    authentication_results: str
    signs_from: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arc:
    """What the chain of ARC sets came to (RFC 8617 5.2).

    Attributes:
        result: The chain's status.
        reason: Why; empty with none and pass.
        oldest_pass: The lowest instance whose message signature still verifies, 0 if all do (RFC 8617 5.2), None
            unless the chain passed.
        sealer: Who sealed last, None without a chain.
        sets: The chain's sets in order; empty unless it is well-formed.
        untold: Instances of message signatures that can't be checked now because the DNS gave no answer; they count as
            not verifying in ``oldest_pass``.
    """

    result: ArcResult
    reason: str = ""
    oldest_pass: int | None = None
    sealer: str | None = None
    sets: tuple[ArcSet, ...] = ()
    untold: tuple[int, ...] = ()


class Psd(StrEnum):
    """Whether a record stands at a Public Suffix Domain (``psd``)."""

    YES = "y"
    NO = "n"
    UNSAID = "u"


@dataclass(frozen=True, slots=True)
class ReportUri:
    """Where a domain wants reports.

    Attributes:
        address: The URI, without a size limit.
        size: The most octets that a report to it may have, None without a limit (RFC 7489 6.2; RFC 9990 has none).
    """

    address: str
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """A DMARC Policy Record.

    Attributes:
        text: As published.
        applies: Whether DMARC applies at all; False for a record that asks for nothing (RFC 9989 4.10.1).
        policy: ``p``, or none where the record is read as ``p=none``.
        subdomain_policy: ``sp``, None without it.
        nonexistent_policy: ``np``, None without it.
        psd: ``psd``.
        testing: Whether ``t=y``.
        dkim_mode: ``adkim``.
        spf_mode: ``aspf``.
        failure_options: ``fo``: the values that it lists, ``0`` without it.
        aggregate_reports: ``rua``: the addresses that can be read.
        failure_reports: ``ruf``: the same.
        errors: What was ignored, in words, for the domain's owner.
    """

    text: str
    applies: bool = True
    policy: Disposition = Disposition.NONE
    subdomain_policy: Disposition | None = None
    nonexistent_policy: Disposition | None = None
    psd: Psd = Psd.UNSAID
    testing: bool = False
    dkim_mode: AlignmentMode = AlignmentMode.RELAXED
    spf_mode: AlignmentMode = AlignmentMode.RELAXED
    failure_options: tuple[str, ...] = ("0",)
    aggregate_reports: tuple[ReportUri, ...] = ()
    failure_reports: tuple[ReportUri, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The text as reports may show it: one line of printable characters, of bounded length."""
        return _UNPRINTABLE.sub("?", self.text[:MAX_SHOWN])

    @property
    def for_subdomains(self) -> Disposition:
        """The policy for a subdomain that exists: ``sp``, else ``p``."""
        return self.policy if self.subdomain_policy is None else self.subdomain_policy

    @property
    def for_nonexistent(self) -> Disposition:
        """The policy for a subdomain that does not exist: ``np``, else ``sp``, else ``p``."""
        return self.for_subdomains if self.nonexistent_policy is None else self.nonexistent_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmarc:
    """What DMARC came to (RFC 9989).

    Attributes:
        result: The result.
        reason: Why.
        domain: The Author Domain: that of the From field, in lower case, A-labels; empty if there is no usable one.
        policy: What the record asks for failing mail of this domain (``p``, ``sp`` or ``np``), None without a record.
        disposition: What follows from that for this message: none unless it failed; weakened by ``t=y``.
        record_domain: Where the record stands, None without one.
        published: What the record says, None without one.
        organizational_domain: The Author Domain's organizational domain, None if it was not needed.
        spf_aligned: The domain by which SPF passes in alignment, None if it does not.
        dkim_aligned: The signing domain by which DKIM passes in alignment, None if none does.
        arc_sealer: The trusted sealer whose recorded results rescued a failure, None otherwise.
    """

    result: DmarcResult
    reason: str = ""
    domain: str = ""
    policy: Disposition | None = None
    disposition: Disposition = Disposition.NONE
    record_domain: str | None = None
    published: PolicyRecord | None = None
    organizational_domain: str | None = None
    spf_aligned: str | None = None
    dkim_aligned: str | None = None
    arc_sealer: str | None = None

    @property
    def testing(self) -> bool:
        """Whether the record says ``t=y``."""
        return self.published is not None and self.published.testing
