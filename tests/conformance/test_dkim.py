"""The DKIM examples of stalwartlabs/mail-auth: real messages with their keys; the first is RFC 8463's."""

from pathlib import Path

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.dkim import DkimOptions, verify
from gateway.mailauth.results import DkimResult, DkimSignature

# What each example shows: the time at which its signatures hold, and the algorithms and domains that pass.
EXAMPLES = {
    "001": (1528637909, ["ed25519-sha256 football.example.com", "rsa-sha256 football.example.com"]),
    "002": (1615825284, ["rsa-sha256 example.com"]),
    "003": (1667592145, ["rsa-sha256 ietf.org", "rsa-sha256 ietf.org"]),
    "004": (1667862801, ["rsa-sha256 facebookmail.com"]),
    "005": (1667843664, ["rsa-sha256 topicbox.com"]),
    "006": (1667843664, ["rsa-sha256 github.com"]),
}


def read(file: Path) -> tuple[dict[str, object], bytes]:
    """An example's zone and message, its lines ended by CRLF as they travel."""
    keys, _, message = file.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
    zone: dict[str, object] = {}
    for line in keys.decode().splitlines():
        name, _, record = line.partition(" ")
        zone[name] = {"TXT": record}
    return zone, message.replace(b"\n", b"\r\n")


async def results(zone: dict[str, object], message: bytes, now: float) -> tuple[DkimSignature, ...]:
    """What the signatures of a message come to."""
    header, _, body = message.partition(b"\r\n\r\n")
    header += b"\r\n"
    fields = tuple(header_fields(header))
    hashes = BodyHashes(fields, 10)
    hashes.update(body)
    return await verify(fields, hashes, ZoneResolver(zone), now, DkimOptions())


@pytest.mark.parametrize("name", EXAMPLES)
async def test_every_signature_of_an_example_passes(name: str, conformance_data: Path) -> None:
    """Each verifies at its time, and none does when an octet of the body or of From is another."""
    now, expected = EXAMPLES[name]
    zone, message = read(conformance_data / "dkim" / f"{name}.txt")
    found = await results(zone, message, now)
    assert [(each.result, each.reason) for each in found] == [(DkimResult.PASS, "")] * len(expected)
    assert [f"{each.algorithm} {each.domain}" for each in found] == expected
    for changed in (message + b"x\r\n", message.replace(b"\r\nFrom: ", b"\r\nFrom: x", 1)):
        assert {each.result for each in await results(zone, changed, now)} == {DkimResult.FAIL}


def test_no_example_is_left_out(conformance_data: Path) -> None:
    """All the files that there are."""
    assert {file.stem for file in (conformance_data / "dkim").glob("0*.txt")} == set(EXAMPLES)
