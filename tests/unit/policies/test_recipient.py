"""recipient: which addresses exist, subaddresses, postmaster, and what happens when the source can't be asked."""

from pathlib import Path

import pytest

from gateway.policy import OnError
from gateway.session import RecipientSource
from gateway.tables import AddressList
from gateway.testing import Site, domain, run
from gateway.verdict import Action, Finding, Stage
from policies.recipient import KnownRecipient


class Broken:
    """A source that can't be asked now."""

    async def find(self, local_part: str, domain: str) -> bool:
        """Fail."""
        raise ConnectionError(f"no server for {local_part}@{domain}")


async def _find(address: str, source: RecipientSource | None, separators: str = "") -> Finding | None:
    """What the policy says to an address of example.com."""
    site = Site(domains=[domain("example.com", recipients=source, subaddress_separators=separators)])
    transaction = site.transaction()
    return await run(site.policy(KnownRecipient), Stage.RCPT, transaction, site.recipient(transaction, address))


LIST = AddressList(["alice", "bob@example.com", "a+b", "a-b"], aliases=["info: alice"])


@pytest.mark.parametrize(
    ("address", "separators"),
    [
        ("alice@example.com", ""),
        ("ALICE@Example.COM", ""),
        ('"alice"@example.com', ""),
        ("bob@example.com", ""),
        ("info@example.com", ""),
        ("postmaster@example.com", ""),
        ("PostMaster@example.com", ""),
        ("postmaster", ""),
        ("alice+lists@example.com", "+"),
        ("alice+a+b@example.com", "+"),
        ("alice-x@example.com", "+-"),
        ("alice+x-y@example.com", "-+"),
        ("a+b@example.com", "+"),
        ("a-b@example.com", "-"),
        ("alice+@example.com", "+"),
        ("nobody@example.org", ""),
    ],
)
async def test_known_recipients_pass(address: str, separators: str) -> None:
    """Listed addresses, aliases, subaddresses and postmaster exist; other domains are not this policy's business."""
    assert await _find(address, LIST, separators) is None


@pytest.mark.parametrize(
    ("address", "separators"),
    [
        ("nobody@example.com", ""),
        ("alice+lists@example.com", ""),
        ("alice-lists@example.com", "+"),
        ("nobody+alice@example.com", "+"),
        ("+alice@example.com", "+"),
        ("a-b-c@example.com", "-"),
        ("postmaster+x@example.com", ""),
    ],
)
async def test_unknown_recipients_are_refused(address: str, separators: str) -> None:
    """What is not listed is unknown; the first separator parts user and detail, and a user is never empty."""
    finding = await _find(address, LIST, separators)
    assert finding is not None
    assert finding.outcome is KnownRecipient.unknown
    assert finding.outcome.action is Action.REJECT
    assert str(finding.reply) == "550 5.1.1 User unknown"
    assert finding.evidence["domain"] == "example.com"


async def test_every_address_of_a_domain_without_a_source_passes() -> None:
    """A domain without recipients takes every address."""
    assert await _find("anyone@example.com", None) is None


async def test_a_source_that_fails_defers() -> None:
    """A source that can't be asked never refuses for good, and the record has its error."""
    finding = await _find("alice@example.com", Broken())
    assert finding is not None
    assert finding.outcome is KnownRecipient.unverifiable
    assert finding.outcome.action is Action.DEFER
    assert finding.reply.is_transient
    assert finding.evidence["error"] == "ConnectionError: no server for alice@example.com"
    assert await _find("postmaster@example.com", Broken()) is None
    assert KnownRecipient.on_error is OnError.DEFER


async def test_an_alias_of_a_domain_has_the_addresses_of_its_target() -> None:
    """For a domain that is an alias, addresses of the target exist, too, and those of other domains do not."""
    source = AddressList(["bob@example.net", "carol@example.org"], also="example.net")
    assert await _find("bob@example.com", source) is None
    assert await _find("carol@example.com", source) is not None


async def test_domains_below_one_are_asked_for_by_their_own_name() -> None:
    """For settings that hold for all domains below one, an address is looked up with its own domain."""
    ours = domain(".example.com", recipients=AddressList(["bob@a.example.com"]))
    site = Site()
    transaction = site.transaction()
    for address, known in (("bob@a.example.com", True), ("bob@b.example.com", False)):
        recipient = site.recipient(transaction, address)
        recipient.domain = ours
        finding = await run(site.policy(KnownRecipient), Stage.RCPT, transaction, recipient)
        assert (finding is None) == known


async def test_a_file_of_recipients_decides(tmp_path: Path) -> None:
    """Addresses can come from a file."""
    file = tmp_path / "recipients.txt"
    file.write_text("alice  # the boss\n@example.net\n")
    source = AddressList(file=file)
    assert await _find("alice@example.com", source) is None
    assert await _find("boss@example.com", source) is not None
