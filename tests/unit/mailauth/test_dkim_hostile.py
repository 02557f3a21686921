"""Hostile messages cost DKIM no more than their octets do: counted in calls, and in sizes at which more would not end.

Where work is done by one call into C, the sizes are such that quadratic work would take hours; pytest's time-out ends
the test then. Everywhere else the calls are counted, by the interpreter itself.
"""

import asyncio
import tracemalloc
from base64 import b64encode
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.canonicalization import Canonicalization, canonical_field, without_signature
from gateway.mailauth.dkim import DkimOptions
from gateway.mailauth.keys import parse_key
from gateway.mailauth.results import DkimResult
from gateway.mailauth.signature import Malformed, Signature, parse_signature
from tests.support.calls import calls
from tests.support.dkim_signing import BODY, HEADER, checked, key_record, rsa_key, signature, zone

MEGABYTE = 1_000_000


FLOODS = {
    "spaces": b" ",
    "tabs": b"\t",
    "empty lines": b"\r\n",
    "lines of a space": b" \r\n",
    "spaces and letters": b"a ",
    "pairs of spaces and letters": b"a  ",
    "seven spaces and a letter": b"       a",
    "line feeds and lines": b"\n\r\n",
    "carriage returns": b"\r",
    "spaces and carriage returns": b" \r",
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("kind", Canonicalization)
@pytest.mark.parametrize("end", [b"", b"a", b"\r\na\r\n"])
def test_a_flood_in_the_body_takes_calls_in_proportion(name: str, kind: Canonicalization, end: bytes) -> None:
    """Four megabytes take at most a little more than four times the calls of one, and these are few."""
    fields = tuple(header_fields(signature(HEADER, BODY, rsa_key(1024), {"c": f"simple/{kind}"})))
    read = parse_signature(fields[0])
    assert isinstance(read, Signature)

    def work(size: int) -> int:
        hashes = BodyHashes(fields, 10)
        body = FLOODS[name] * (size // len(FLOODS[name])) + end
        return calls(lambda: hashes.update(body)) + calls(lambda: hashes.of(read))

    small, large = work(MEGABYTE), work(4 * MEGABYTE)
    assert small < 2000
    assert large < 4.5 * small


@pytest.mark.parametrize("name", FLOODS)
def test_memory_does_not_grow_with_the_body(name: str) -> None:
    """What a megabyte in one piece needs at its peak beside itself is a few blocks, and nothing stays."""
    field = signature(HEADER, BODY, rsa_key(1024), {"c": "relaxed/relaxed"})
    hashes = BodyHashes(tuple(header_fields(field)), 10)
    body = FLOODS[name] * (4 * MEGABYTE // len(FLOODS[name]))
    tracemalloc.start()
    try:
        hashes.update(body)
        hashes.update(b"a")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000
    assert peak < 600_000


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_in_the_header_ends(name: str) -> None:
    """Four megabytes before the colon, behind it and in a signature are read and canonicalized."""
    flood = FLOODS[name] * (4 * MEGABYTE // len(FLOODS[name]))
    assert all(field.raw for field in header_fields(flood + b": x\r\n"))
    assert all(field.raw for field in header_fields(b"a" + flood + b"b\r\n"))
    assert canonical_field(b"A:" + flood + b"b\r\n", Canonicalization.RELAXED)
    assert without_signature(b"DKIM-Signature:" + flood + b"b" + flood + b"= x;" + flood + b"\r\n")
    for field in header_fields(b"DKIM-Signature: v=1; a=" + flood.replace(b"\r\n", b"\r\n ") + b"; b=x\r\n"):
        assert isinstance(parse_signature(field), Malformed)


@pytest.mark.parametrize(
    "value",
    [
        "; " * 500_000,
        "a=" * 500_000,
        "".join(f"t{number}=1;" for number in range(100_000)),
        "=" * MEGABYTE,
        ";b=" * 300_000,
    ],
    ids=["semicolons", "equals", "tags", "signs", "b="],
)
def test_long_tag_lists_take_calls_in_proportion(value: str) -> None:
    """Whatever a signature field is made of: at most some calls for each tag."""
    raw = f"DKIM-Signature: {value}\r\n".encode()

    def work(octets: bytes) -> int:
        return calls(lambda: [parse_signature(field) for field in header_fields(octets)])

    assert work(raw) <= 5 * work(raw[: len(raw) // 4] + b"\r\n") + 100
    assert without_signature(raw)


def test_a_list_of_thousands_of_fields_takes_calls_in_proportion() -> None:
    """h= with one name ten thousand times, or ten thousand names, there or not."""

    def work(names: list[str]) -> int:
        header = signature(HEADER, BODY, rsa_key(1024), {"h": "from"})
        header = header.replace(b"h=from", b"h=from:" + ":".join(names).encode()) + HEADER

        def verified() -> None:
            with suppress(StopIteration):  # with the key at hand it ends in one step
                checked(header, BODY, zone(key_record(rsa_key(1024))), chunk=1000).send(None)

        return calls(verified)

    for name in ("from", "x-absent{}", "subject"):
        small, large = ([name.format(number) for number in range(count)] for count in (200, 800))
        assert work(large) < 4.5 * work(small)
        beyond = [name.format(number) for number in range(10_000)]
        assert work(beyond) < work(small), "what lists too many is not read"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"h": ":".join(["from"] * 1001)}, "h= lists more than 1000 fields"),
        ({f"x{number}": "1" for number in range(100)}, "it has more than 100 tags"),
    ],
)
async def test_signatures_of_too_many_parts_are_permanent_errors(changes: dict[str, str], reason: str) -> None:
    """No signer lists so many, and each costs time."""
    key = rsa_key(1024)
    header = signature(HEADER, BODY, key, changes) + HEADER
    (found,) = await checked(header, BODY, zone(key_record(key)))
    assert (found.result, found.reason) == (DkimResult.PERMERROR, f"the signature can't be read: {reason}")


async def test_ten_thousand_signatures_cost_ten() -> None:
    """Those behind the limit are not read; the DNS is asked for one key."""
    one = signature(HEADER, BODY, rsa_key(1024), {})
    found = await checked(one * 10_000 + HEADER, BODY, zone(key_record(rsa_key(1024))))
    assert [each.result for each in found] == [DkimResult.PASS] * 10


def test_the_calls_do_not_grow_with_signatures_behind_the_limit() -> None:
    """Beyond the limit a signature field is a header field like any other."""
    one = signature(HEADER, BODY, rsa_key(1024), {})

    def work(count: int) -> int:
        fields = tuple(header_fields(one * count + HEADER))
        return calls(lambda: BodyHashes(fields, 10))

    assert work(10_000) - work(1000) < 9000 * 4


async def test_a_header_of_ten_megabytes_is_canonicalized_once() -> None:
    """A hundred fields of 100 kB under three signatures: the memory is that of one more header, and each passes."""
    header = b"".join(b"X-Large: " + b"a  " * 33_000 + b"\r\n" for _ in range(100)) + HEADER
    names = ":".join(["from"] + ["x-large"] * 100)
    signatures = [
        signature(header, BODY, rsa_key(1024), {"h": names, "i": f"{number}@example.com"}) for number in range(3)
    ]
    message = b"".join(signatures) + header
    tracemalloc.start()
    try:
        found = await checked(message, BODY, zone(key_record(rsa_key(1024))), chunk=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [each.result for each in found] == [DkimResult.PASS] * 3
    assert peak < 3 * len(message)


async def test_others_get_their_turn_between_signatures_of_a_large_header() -> None:
    """A header of a megabyte holds the event loop for one signature at a time."""
    header = b"X-Large: " + b"a " * 500_000 + b"\r\n" + HEADER
    message = signature(header, BODY, rsa_key(1024), {"h": "from:x-large"}) * 5 + header
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    found = await checked(message, BODY, zone(key_record(rsa_key(1024))), chunk=1000)
    task.cancel()
    assert [each.result for each in found] == [DkimResult.PASS] * 5
    assert turns >= 4


@pytest.mark.parametrize(
    "record",
    [
        "v=DKIM1; p=" + "A" * 16_384,
        "v=DKIM1; p=" + b64encode(b"\x30\x82\x2f\xfc" + bytes(6000)).decode(),
        "v=DKIM1; n=" + "x" * 16_384 + "; p=" + key_record(rsa_key(1024)).partition("p=")[2],
        "v=DKIM1; " + ";" * 16_384,
        "v=DKIM1; h=" + ":" * 16_384 + "; p=AAAA",
        "p=" + " " * 16_384 + "AAAA",
    ],
    ids=["large p", "large DER", "note", "semicolons", "hashes", "spaces"],
)
async def test_keys_of_16_kilobytes(record: str) -> None:
    """A key record of any size is read or refused, and large ones are not kept."""
    found = await checked(signature(HEADER, BODY, rsa_key(1024), {}) + HEADER, BODY, zone(record))
    assert found[0].result is (DkimResult.PASS if "n=" in record else found[0].result)
    assert found[0].reason.isprintable()
    assert calls(lambda: parse_key(record)) < 20_000
    assert len(record) > 8000


EXPONENT = "the key has an exponent that is too large (s1._domainkey.example.com)"


def rsa_record(exponent: int, modulus: int) -> str:
    """A key record of any numbers."""
    public = RSAPublicNumbers(exponent, modulus).public_key()
    return "v=DKIM1; p=" + b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


async def test_a_key_with_a_large_exponent_is_not_used() -> None:
    """It would make each verification cost as much as a signature."""
    modulus = rsa_key(1024).public_key().public_numbers().n
    found = await checked(
        signature(HEADER, BODY, rsa_key(1024), {}) + HEADER, BODY, zone(rsa_record((1 << 1000) + 1, modulus))
    )
    assert (found[0].result, found[0].reason) == (DkimResult.POLICY, EXPONENT)


def test_the_reading_of_a_usual_key_is_remembered() -> None:
    """The same text gives the same object; another text another one."""
    record = key_record(rsa_key(1024))
    assert parse_key(record) is parse_key(record)
    assert parse_key(record) is not parse_key(record + ";")


def test_a_usual_signature_is_read() -> None:
    """What the tests above feed is hostile by its size alone: the small form is a signature."""
    (field,) = header_fields(signature(HEADER, BODY, rsa_key(1024), {}))
    assert isinstance(parse_signature(field), Signature)
    assert DkimOptions().signatures == 10
