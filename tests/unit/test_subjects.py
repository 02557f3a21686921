"""Whom limits count: which hosts are of one organization."""

import pytest

from gateway.subjects import organizational_domain
from tests.support.calls import calls


@pytest.mark.parametrize(
    ("name", "organization"),
    [
        # A suffix of one label, of several, one that is not listed, and none.
        ("example.com", "example.com"),
        ("mx1.mail.example.com", "example.com"),
        ("example.co.uk", "example.co.uk"),
        ("mail.example.co.uk", "example.co.uk"),
        ("example.uk", "example.uk"),
        ("mail.lan.internal", "lan.internal"),
        ("localhost", "localhost"),
        # A public suffix stands for itself, and shares nothing with what is below it.
        ("uk", "uk"),
        ("co.uk", "co.uk"),
        # Wildcards and their exceptions: *.ck, !www.ck.
        ("mail.example.co.ck", "example.co.ck"),
        ("co.ck", "co.ck"),
        ("mail.www.ck", "www.ck"),
        # The private part of the list: customers of one provider are not one organization.
        ("mail.alice.github.io", "alice.github.io"),
        ("github.io", "github.io"),
        ("mail.github.com", "github.com"),
        # Internationalized names, of which the second has a suffix of several labels.
        ("mail.xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("mail.xn--bcher-kva.xn--55qx5d.cn", "xn--bcher-kva.xn--55qx5d.cn"),
        ("xn--55qx5d.cn", "xn--55qx5d.cn"),
        # Case and the dot of the root make no other name.
        ("MAIL.Example.CO.UK", "example.co.uk"),
        ("mail.example.co.uk.", "example.co.uk"),
        ("Co.UK.", "co.uk"),
        ("LOCALHOST.", "localhost"),
        # Names as the DNS allows them, and those that it does not.
        ("_smtp.my_host.example.com", "example.com"),
        (".".join(["a"] * 120) + ".co.uk", "a.co.uk"),
        ("mail..co.uk", "mail..co.uk"),
    ],
)
def test_the_organizational_domain_is_by_the_public_suffix_list(name: str, organization: str) -> None:
    """The suffix and one label more, in lower case; what has none stands for itself."""
    assert organizational_domain(name) == organization


def test_an_organizational_domain_is_remembered() -> None:
    """Each connection and message of a client asks again: that costs one call."""
    organizational_domain("mail.other.example")  # the list is read
    first = calls(lambda: organizational_domain("mail.remembered.example"))
    assert calls(lambda: organizational_domain("mail.remembered.example")) < first
