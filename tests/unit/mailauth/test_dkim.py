"""DKIM: each way in which a signature can be good, bad or unknowable has its result and a reason that says so."""

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.adapters.dns.zone import ZoneResolver
from gateway.header import header_fields
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.dkim import DkimOptions, overall, verify
from gateway.mailauth.keys import KeyLimits
from gateway.mailauth.results import DkimResult, DkimSignature
from gateway.resolver import Answer, RecordType, Status
from tests.support.dkim_signing import (
    BODY,
    DOMAIN,
    HEADER,
    NOW,
    SELECTOR,
    canonical_body,
    checked,
    ed25519_key,
    key_record,
    rsa_key,
    signature,
    zone,
)

PASS, FAIL, POLICY = DkimResult.PASS, DkimResult.FAIL, DkimResult.POLICY
NEUTRAL, TEMPERROR, PERMERROR = DkimResult.NEUTRAL, DkimResult.TEMPERROR, DkimResult.PERMERROR
KEY_NAME = f"{SELECTOR}._domainkey.{DOMAIN}"

Tags = dict[str, str | None]


def signed(tags: Mapping[str, str | None] | None = None, header: bytes = HEADER, body: bytes = BODY) -> bytes:
    """A header with a signature on top."""
    return signature(header, body, rsa_key(), tags or {}) + header


async def one(
    header: bytes, body: bytes = BODY, records: Mapping[str, object] | None = None, **more: Any
) -> DkimSignature:
    """What the only signature comes to."""
    (found,) = await checked(header, body, zone() if records is None else records, **more)
    return found


async def test_a_good_signature_passes_with_all_that_identifies_it() -> None:
    """The result carries what reports and the Authentication-Results field need."""
    found = await one(signed({"i": "alice@mail.example.com", "t": str(int(NOW))}))
    assert found == DkimSignature(
        result=PASS,
        domain="example.com",
        selector="s1",
        algorithm="rsa-sha256",
        auid="alice@mail.example.com",
        signature=found.signature,
        key_bits=2048,
    )
    assert len(found.signature) == 16
    assert f"b={found.signature}".encode() in signed({"i": "alice@mail.example.com", "t": str(int(NOW))})


@pytest.mark.parametrize("header", ["simple", "relaxed"])
@pytest.mark.parametrize("body", ["simple", "relaxed"])
@pytest.mark.parametrize("key", [rsa_key(1024), rsa_key(), ed25519_key()], ids=["rsa1024", "rsa2048", "ed25519"])
@pytest.mark.parametrize(
    "text", [BODY, b"", b"\r\n\r\n", b"a", b" \t\r\n"], ids=["text", "empty", "lines", "open", "space"]
)
async def test_algorithms_and_canonicalizations(header: str, body: str, key: Any, text: bytes) -> None:
    """Every combination passes, and fails with another body."""
    message = signature(HEADER, text, key, {"c": f"{header}/{body}"}) + HEADER
    assert (await one(message, text, zone(key_record(key)))).result is PASS
    assert (await one(message, b"x" + text, zone(key_record(key)))).result is FAIL


@pytest.mark.parametrize(
    ("tags", "result", "reason"),
    [
        # what is allowed
        ({"c": None}, PASS, ""),
        ({"c": "relaxed"}, PASS, ""),
        ({"c": "RELAXED/Simple", "bh": None}, PERMERROR, "bh= is missing"),
        ({"q": "dns/txt"}, PASS, ""),
        ({"q": "http/x:dns/txt"}, PASS, ""),
        ({"i": "@example.com"}, PASS, ""),
        ({"i": "a=20b=3Bc=40d@x.example.com"}, PASS, ""),
        ({"i": "=C3=BC@EXAMPLE.com"}, PASS, ""),
        ({"i": "=F0=9F=AB=A8@example.com"}, PASS, ""),  # of Unicode 15, which not every Python knows
        ({"z": "From:x=7Cy|To:z"}, PASS, ""),
        ({"x-unknown": "1"}, PASS, ""),
        ({"x.y": "1", "1x": "", "_": "", "x y": "z"}, PASS, ""),
        ({"z": "a;;"}, PASS, ""),
        ({"z": "a; ; "}, PASS, ""),
        ({"z": "a; word"}, PERMERROR, "'word' is not of the form name=value"),
        ({"xunknown": ""}, PASS, ""),
        ({"h": " From :\tTo:Subject : from : from"}, PASS, ""),
        ({"h": "from:x-absent:to:x-absent"}, PASS, ""),
        ({"h": "from:to:"}, PASS, ""),
        ({"h": ":from::to: :"}, PASS, ""),
        ({"d": "EXAMPLE.com"}, PASS, ""),
        ({"t": "0", "x": "999999999999"}, PASS, ""),
        ({"x": str(int(NOW) - 299)}, PASS, ""),
        ({"t": str(int(NOW) + 299)}, PASS, ""),
        # syntax
        ({"v": None}, PERMERROR, "v= is missing"),
        ({"v": "2"}, NEUTRAL, "version '2' is not known"),
        ({"a": None}, PERMERROR, "a= is missing"),
        ({"a": ""}, PERMERROR, "a= is empty"),
        ({"a": "rsa-sha1"}, PERMERROR, "must not be used any more (RFC 8301)"),
        ({"a": "rsa-sha512"}, NEUTRAL, "'rsa-sha512' is not known"),
        ({"a": "rsa"}, PERMERROR, "a='rsa' is no algorithm"),
        ({"b": None}, PERMERROR, "b= is missing"),
        ({"b": ""}, PERMERROR, "b= is empty"),
        ({"b": "abc"}, PERMERROR, "b= is not base64"),
        ({"b": "ab=c"}, PERMERROR, "b= is not base64"),
        ({"b": "abcd="}, PERMERROR, "b= is not base64"),
        ({"b": "abcd===="}, PERMERROR, "b= is not base64"),
        ({"b": "===="}, PERMERROR, "b= is not base64"),
        ({"b": "a==="}, PERMERROR, "b= is not base64"),
        ({"b": "\u00a0YWJj"}, PERMERROR, "b= is not base64"),
        ({"bh": "YWJj"}, PERMERROR, "bh= has 3 octets"),
        ({"c": "nofws"}, NEUTRAL, "canonicalization 'nofws' is not known"),
        ({"c": "relaxed/"}, PASS, ""),
        ({"c": "relaxed/x"}, NEUTRAL, "is not known"),
        ({"d": None}, PERMERROR, "d= is missing"),
        ({"d": "example..com"}, PERMERROR, "is no domain name"),
        ({"d": "example.com."}, PERMERROR, "is no domain name"),
        ({"d": "b\u00fc..example"}, PERMERROR, "is no domain name"),
        ({"d": "x" * 64 + ".com"}, PERMERROR, "is no domain name"),
        ({"d": "-x.com"}, PERMERROR, "is no domain name"),
        ({"d": "a.b/c"}, PERMERROR, "is no domain name"),
        ({"d": "x." * 120 + "com", "s": "y" * 20}, PERMERROR, "too long"),
        ({"s": None}, PERMERROR, "s= is missing"),
        ({"s": "a b*"}, PERMERROR, "is no domain name"),
        ({"h": None}, PERMERROR, "h= is missing"),
        ({"h": "to:subject"}, PERMERROR, "From field is not signed"),
        ({"h": ": :"}, PERMERROR, "From field is not signed"),
        ({"h": "from:a b"}, PERMERROR, "no field name"),
        ({"i": "@example.org"}, PERMERROR, "is not under d="),
        ({"i": "@notexample.com"}, PERMERROR, "is not under d="),
        ({"i": "example.com"}, PERMERROR, "is no identity"),
        ({"i": "=0D=0A@example.com"}, PERMERROR, "is no identity"),
        ({"i": "=E2=80=A8@example.com"}, PERMERROR, "is no identity"),
        ({"i": "=FF@example.com"}, PERMERROR, "not UTF-8"),
        ({"i": "=4@example.com"}, PERMERROR, "not quoted-printable"),
        ({"l": "-1"}, PERMERROR, "is no number"),
        ({"l": "1" * 77}, PERMERROR, "is no number"),
        ({"l": "\u0663"}, PERMERROR, "is no number"),
        ({"q": "dns/srv"}, NEUTRAL, "the way to the key"),
        ({"t": "x"}, PERMERROR, "is no number"),
        ({"x": "1" * 13}, PERMERROR, "is no number"),
        ({"t": "5", "x": "5"}, PERMERROR, "expires (x=) before it was made"),
        # time
        ({"x": str(int(NOW) - 301)}, POLICY, "expired at 2023-11-14 22:08:19 UTC"),
        ({"t": str(int(NOW) + 301)}, POLICY, "from the future: it was made at 2023-11-14 22:18:21 UTC"),
        ({"t": "999999999999"}, POLICY, "from the future: it was made at 999999999999"),
        # part of the body
        ({"l": "0"}, POLICY, "covers only the first 0 of the body's 27"),
        ({"l": "26"}, POLICY, "covers only the first 26 of the body's 27"),
        ({"l": "27"}, PASS, ""),
        ({"l": "28"}, FAIL, "it has 27 octets, l= says 28"),
        ({"l": "9" * 76}, FAIL, "it has 27 octets"),
    ],
)  # fmt: skip
async def test_tags_of_a_signature(tags: Tags, result: DkimResult, reason: str) -> None:
    """Each tag's rules (RFC 6376 3.5), with a reason that names it."""
    found = await one(signed(tags))
    assert (found.result, found.reason) == (result, found.reason)
    assert reason in found.reason
    assert bool(found.reason) is (result is not PASS)
    assert found.reason.isprintable()


def test_the_length_of_the_body_in_the_table_is_right() -> None:
    """The table above counts octets of the relaxed body."""
    assert len(canonical_body(BODY, "relaxed")) == 27


async def test_duplicate_tags_are_an_error() -> None:
    """RFC 6376 3.2: a list with a name twice is invalid, whatever the values say."""
    header = signed().replace(b"d=example.com;", b"d=example.com; d=example.com;")
    found = await one(header)
    assert (found.result, found.reason) == (PERMERROR, "the signature can't be read: the tag d= is there twice")


async def test_what_can_be_read_of_a_broken_signature_is_shown() -> None:
    """A report names the domain of a signature that is broken elsewhere."""
    found = await one(signed({"bh": "!"}))
    assert (found.domain, found.selector, found.algorithm) == ("example.com", "s1", "rsa-sha256")
    assert found.signature


@pytest.mark.parametrize("octets", [b"\x00", b"\xff", b"\x7f", b"\xc2\x85", b"\r\n\x01"])
async def test_octets_that_do_not_belong_in_a_signature(octets: bytes) -> None:
    """Controls and octets that are not UTF-8 make it unreadable."""
    found = await one(signed().replace(b"; s=", b";" + octets + b" s="), now=NOW)
    assert found.result is PERMERROR


@pytest.mark.parametrize(
    ("records", "result", "reason"),
    [
        ({}, PERMERROR, f"{KEY_NAME} does not exist"),
        ({KEY_NAME: {"A": "192.0.2.1"}}, PERMERROR, f"{KEY_NAME} has no TXT record"),
        ({KEY_NAME: "SERVFAIL"}, TEMPERROR, f"servfail for {KEY_NAME}"),
        ({KEY_NAME: "TIMEOUT"}, TEMPERROR, f"timeout for {KEY_NAME}"),
    ],
)
async def test_no_answer_no_name_and_no_record_stay_apart(
    records: Mapping[str, object], result: DkimResult, reason: str
) -> None:
    """A DNS that fails is temporary, a key that is not there is not."""
    found = await one(signed(), records=records)
    assert found.result is result
    assert reason in found.reason
    assert found.key_bits is None


EC = b64encode(
    generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
PKCS1 = b64encode(rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode()


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        (key_record(rsa_key(), n="a note", x="y"), PASS, ""),
        (key_record(rsa_key(), t="y:s", s="email:web", h="sha1:sha256"), PASS, ""),
        (key_record(rsa_key(), s="*", g="alice"), PASS, ""),
        (key_record(rsa_key()).replace("v=DKIM1; k=rsa; ", ""), PASS, ""),
        (key_record(rsa_key()) + " ;  ", PASS, ""),
        (f"v=DKIM1; p={PKCS1[:40]} {PKCS1[40:]}", PASS, ""),
        (key_record(rsa_key(), n="f\u00fcr"), PASS, ""),
        (key_record(rsa_key()).replace("; ", ";\r\n "), PASS, ""),
        (key_record(rsa_key()).replace("=", "\r\n\t=\r\n ", 3), PASS, ""),
        (key_record(rsa_key(), h="sha1\r\n :\r\n sha256"), PASS, ""),
        (f"v=DKIM1;\r\n p={PKCS1[:40]}\r\n {PKCS1[40:]}\r\n", PASS, ""),
        (f"v=DKIM1;\np={PKCS1[:40]}\n{PKCS1[40:]}\n", PASS, ""),
        (key_record(rsa_key(), n="a\x0bb"), PERMERROR, "the control character '\\x0b'"),
        ("; " + key_record(rsa_key()).replace("; ", ";; ") + "; ;", PASS, ""),
        (key_record(rsa_key()).replace("; p", "; x-note=1; 1x=; =; p"), PASS, ""),
        (key_record(rsa_key()) + "; word", PERMERROR, "'word' is not of the form name=value"),
        (key_record(rsa_key(), k="RSA", h="sha1:SHA256", s="Email"), PASS, ""),
        (key_record(rsa_key(), h="", s=""), PASS, ""),
        (key_record(rsa_key(), h=" : ", s=":"), PASS, ""),
        (key_record(rsa_key(), k=""), PERMERROR, "unknown type: k=''"),
        (key_record(rsa_key(), p=""), PERMERROR, "revoked"),
        ("v=DKIM1", PERMERROR, "it has no p="),
        (key_record(rsa_key(), p="a"), PERMERROR, "p= is not base64"),
        (key_record(rsa_key(), p="YWJj"), PERMERROR, "p= holds no RSA key"),
        (key_record(rsa_key(), p=EC), PERMERROR, "p= holds no RSA key"),
        (key_record(rsa_key(), k="dsa"), PERMERROR, "unknown type: k='dsa'"),
        (key_record(ed25519_key()), PERMERROR, "of the type ed25519, the signature's algorithm is rsa-sha256"),
        (key_record(ed25519_key(), p="YWJj"), PERMERROR, "an Ed25519 key has 32 octets, p= has 3"),
        (key_record(rsa_key(), h="sha1"), PERMERROR, "not for SHA-256: h='sha1'"),
        (key_record(rsa_key(), s="web"), PERMERROR, "not for mail: s='web'"),
        (key_record(rsa_key(), v="DKIM2"), PERMERROR, "no key record"),
        ("k=rsa; v=DKIM1; p=x", PERMERROR, "v= must be its first tag"),
        ("v=spf1 -all", PERMERROR, "no key record"),
        ("", PERMERROR, "no key record"),
        ("some text", PERMERROR, "malformed"),
        (key_record(rsa_key()) + "; p=x", PERMERROR, "p= is there twice"),
        (key_record(rsa_key(1024)), FAIL, "another key made it"),
        (key_record(rsa_key(), p="A" * 16_384), POLICY, "p= has 16384 characters"),
    ],
)  # fmt: skip
async def test_key_records(record: str, result: DkimResult, reason: str) -> None:
    """What a key record may say and what it must not (RFC 6376 3.6.1, 6.1.2)."""
    found = await one(signed(), records=zone(record))
    assert (found.result, reason in found.reason) == (result, True), found.reason
    assert found.testing is (found.result is PASS and "t=y" in record)


@pytest.mark.parametrize("flag", ["s", "S", "x : s", "y:\r\n S :"])
async def test_a_key_that_allows_no_subdomains(flag: str) -> None:
    """t=s: the domain of i= must be d= itself; without i= it is."""
    records = zone(key_record(rsa_key(), t=flag))
    assert (await one(signed(), records=records)).result is PASS
    found = await one(signed({"i": "@mail.example.com"}), records=records)
    assert (found.result, found.key_bits) == (PERMERROR, 2048)
    assert "t=s" in found.reason


@pytest.mark.parametrize(
    ("bits", "limits", "result"),
    [
        (1024, KeyLimits(), PASS),
        (1024, KeyLimits(minimum=2048), POLICY),
        (2048, KeyLimits(minimum=2048), PASS),
        (2048, KeyLimits(maximum=2047), POLICY),
        (2048, KeyLimits(maximum=2048), PASS),
    ],
)
async def test_sizes_of_keys(bits: int, limits: KeyLimits, result: DkimResult) -> None:
    """RFC 8301 3.2: 1024 to 4096 bits, unless the operator says otherwise."""
    assert (KeyLimits().minimum, KeyLimits().maximum) == (1024, 4096)
    header = signature(HEADER, BODY, rsa_key(bits), {}) + HEADER
    found = await one(header, records=zone(key_record(rsa_key(bits))), options=DkimOptions(keys=limits))
    assert (found.result, found.key_bits) == (result, bits)


async def test_keys_that_are_too_small_are_not_even_tried() -> None:
    """A 512-bit key, which anyone can break, is policy; it is no malformed key and raises nothing."""
    record = (
        "v=DKIM1; k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKJ2lzDLZ8XlVambQfMXn3LRGKOD5o6lMIgulclWjZwP56LRqdg5ZX15"
        "bhc/GsvW8xW/R5Sh1NnkJNyL/cqY1a+GzzL47t7EXzVc+nRLWT1kwTvFNGIoAUsFUq+J6+OprwIDAQAB"
    )
    found = await one(signed(), records=zone(record))
    assert found.result in {POLICY, PERMERROR}


@pytest.mark.parametrize(
    "others",
    [
        ["v=spf1 -all", "google-site-verification=x"],
        [key_record(rsa_key(1024))],
        [key_record(ed25519_key()), key_record(rsa_key(1024))],
        ["v=DKIM1; p="],
    ],
)
@pytest.mark.parametrize("first", ["key", "others"])
async def test_the_order_of_several_records_does_not_matter(others: list[str], first: str) -> None:
    """Of several TXT records the key that made the signature is found."""
    mine = [key_record(rsa_key())]
    found = await one(signed(), records=zone(mine + others if first == "key" else others + mine))
    assert (found.result, found.key_bits) == (PASS, 2048)


async def test_of_several_records_the_most_telling_fault_is_shown() -> None:
    """A revoked key beside other text, and a wrong key beside one of another type."""
    revoked = await one(signed(), records=zone(["v=spf1 -all", "v=DKIM1; p="]))
    assert "revoked" in revoked.reason
    wrong = await one(signed(), records=zone([key_record(ed25519_key()), key_record(rsa_key(1024))]))
    assert (wrong.result, wrong.key_bits) == (FAIL, 1024)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ((b"alice@", b"mallory@"), "header field was changed"),
        ((b"Subject: About", b"Subject: about"), "header field was changed"),
        ((b"Subject: About  the\r\n  lychgate \r\n", b""), "header field was changed"),
    ],
)
async def test_changed_header_fields(changed: tuple[bytes, bytes], reason: str) -> None:
    """What is signed can't be changed or removed."""
    found = await one(signed().replace(*changed))
    assert found.result is FAIL
    assert reason in found.reason


async def test_a_changed_body_is_told_from_a_changed_header() -> None:
    """The reason says which of the two it was."""
    found = await one(signed(), BODY.replace(b"Bob", b"Rob"))
    assert (found.result, found.reason) == (FAIL, "the body was changed: its hash is not that of bh=")


async def test_a_field_that_was_signed_as_absent_can_not_be_added() -> None:
    """Oversigning: h= lists a name once more than it is there (RFC 6376 8.15)."""
    header = signed({"h": "from:from:to:subject:subject:reply-to"})
    assert (await one(header)).result is PASS
    for added in (b"Subject: x\r\n", b"From: x@example.org\r\n", b"Reply-To: x@example.org\r\n"):
        assert (await one(added + header)).result is FAIL
        assert (await one(header + added)).result is FAIL


@pytest.mark.parametrize("name", [b"From", b"FROM ", b"Subject", b"to"])
@pytest.mark.parametrize("place", ["top", "bottom"])
async def test_no_unsigned_field_may_stand_beside_a_signed_one(name: bytes, place: str) -> None:
    """A second From or Subject that is not signed: a reader may show it, so the signature does not pass."""
    header = signed()
    added = name + b": Mallory <mallory@example.org>\r\n"
    found = await one(added + header if place == "top" else header + added)
    assert found.result is (POLICY if place == "top" else FAIL)
    if place == "top":
        assert found.reason == (f"the message has 2 fields {name.strip().lower().decode()}, of which only 1 is signed")


async def test_which_fields_may_not_be_repeated_is_a_setting() -> None:
    """From always; the others as the options say; what is not signed at all does not count."""
    none = DkimOptions(single=frozenset())
    assert (await one(b"Subject: x\r\n" + signed(), options=none)).result is PASS
    assert (await one(b"From: x\r\n" + signed(), options=none)).result is POLICY
    assert (await one(b"Date: x\r\n" + signed())).result is PASS
    assert (await one(b"X-A: x\r\n" + signed(header=b"X-A: y\r\n" + HEADER))).result is PASS


async def test_all_from_fields_may_be_signed() -> None:
    """Two From fields that are both signed: the signature is good, and DMARC has its say about them."""
    header = b"From: second@example.com\r\n" + HEADER
    assert (await one(signed({"h": "from:from"}, header))).result is PASS


async def test_white_space_before_the_colon() -> None:
    """A From field with white space before its colon is one, for selection and for relaxed canonicalization."""
    header = signed(header=HEADER.replace(b"From:", b"From \t:"))
    assert (await one(header)).result is PASS
    assert (await one(header.replace(b"From \t:", b"From:"))).result is PASS


async def test_octets_above_127_in_header_and_body() -> None:
    """They are signed as they are (RFC 6532), valid UTF-8 or not."""
    header = HEADER.replace(b"About", b"\xc3\xbcber \xff")
    body = b"\xff \xfe\r\n"
    message = signature(header, body, rsa_key(), {}) + header
    assert (await one(message, body)).result is PASS
    assert (await one(message.replace(b"\xff\r\n", b"\xfe\r\n"), body)).result is PASS
    assert (await one(message.replace(b"ber \xff", b"ber \xfe"), body)).result is FAIL


async def test_domains_in_utf_8() -> None:
    """RFC 8616: U-labels in d=, s= and i= mean their A-labels, by which the key is found."""
    name = "xn--schl-3ra._domainkey.xn--bcher-kva.example"
    tags = {"d": "B\u00fccher.example", "s": "schl\u00fc", "i": "m\u00fcller@post.b\u00fccher.example"}
    found = await one(signed(tags), records={name: {"TXT": key_record(rsa_key())}})
    assert (found.result, found.reason) == (PASS, "")
    assert (found.domain, found.selector) == ("xn--bcher-kva.example", "xn--schl-3ra")
    assert found.auid == "m\u00fcller@post.xn--bcher-kva.example"


async def test_part_of_the_body_can_be_trusted_by_option() -> None:
    """Then what stands behind it does not matter, and the length is still reported."""
    options = DkimOptions(trust_body_length=True)
    header = signed({"l": "20"})
    found = await one(header, BODY + b"-- \r\nappended by the list\r\n", options=options)
    assert (found.result, found.body_length) == (PASS, 20)
    assert (await one(header, b"x" + BODY, options=options)).result is FAIL


async def test_signatures_are_looked_at_from_the_top_up_to_a_limit() -> None:
    """Others are not even read."""
    header = HEADER
    for number in range(5):
        header = signature(header, BODY, rsa_key(), {"i": f"u{number}@example.com"}) + header
    found = await checked(header, BODY, zone(), options=DkimOptions(signatures=3))
    assert [(each.result, each.auid) for each in found] == [(PASS, f"u{number}@example.com") for number in (4, 3, 2)]


async def test_a_signature_may_sign_earlier_ones() -> None:
    """h= that lists dkim-signature means those below, and never the field itself."""
    header = signature(HEADER, BODY, rsa_key(), {}) + HEADER
    header = signature(header, BODY, rsa_key(), {"h": "from:dkim-signature:dkim-signature"}) + header
    assert [each.result for each in await checked(header, BODY, zone())] == [PASS, PASS]
    header = header.replace(b"h=from:to:subject", b"h=from:subject:to")
    assert [each.result for each in await checked(header, BODY, zone())] == [FAIL, FAIL]


class CountingResolver:
    """A resolver that knows nothing, answers when all that is to be asked has been asked, and notes the questions."""

    def __init__(self, expected: int) -> None:
        self.asked: list[str] = []
        self._expected = expected
        self._all = asyncio.Event()

    def known(self, _name: str, _record_type: RecordType) -> Answer | None:
        return None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        assert record_type is RecordType.TXT
        self.asked.append(name)
        if len(self.asked) == self._expected:
            self._all.set()
        await self._all.wait()
        return Answer(Status.FOUND, (key_record(rsa_key()),))


async def test_keys_are_asked_for_at_the_same_time_and_once() -> None:
    """Four signatures of three keys: three questions, none of which waits for another's answer."""
    header = HEADER
    for selector in ("a", "b", "c", "a"):
        header = signature(header, BODY, rsa_key(), {"s": selector}) + header
    resolver = CountingResolver(3)
    found = await checked(header, BODY, resolver)
    assert [each.result for each in found] == [PASS] * 4
    assert sorted(resolver.asked) == [f"{selector}._domainkey.example.com" for selector in "abc"]


def test_known_keys_need_no_waiting() -> None:
    """With the keys in the cache the verification is done in one step of the task."""
    header = signature(signed(), BODY, rsa_key(), {"s": "b"}) + signed()
    records = zone() | {f"b._domainkey.{DOMAIN}": {"TXT": key_record(rsa_key())}}
    coroutine = checked(header, BODY, records)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert [each.result for each in stopped.value.value] == [PASS, PASS]


async def test_a_message_without_a_signature_has_no_results() -> None:
    """And nothing is asked."""
    assert await checked(HEADER, BODY, {}) == ()


async def test_a_body_that_was_not_hashed_for_it_does_not_pass() -> None:
    """What can't be compared is temporary, not good."""
    fields = tuple(header_fields(signed()))
    (found,) = await verify(fields, BodyHashes(fields, 0), ZoneResolver(zone()), NOW, DkimOptions())
    assert found.result is TEMPERROR


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("", DkimResult.NONE),
        ("fail pass temperror", PASS),
        ("fail temperror policy", TEMPERROR),
        ("permerror fail policy", POLICY),
        ("neutral permerror fail", FAIL),
        ("neutral permerror", PERMERROR),
        ("neutral", NEUTRAL),
        ("testing-fail", NEUTRAL),
        ("testing-pass", PASS),
        ("testing-fail fail", FAIL),
    ],
)
def test_what_several_signatures_come_to(results: str, expected: DkimResult) -> None:
    """A pass if there is one, else what says most; a testing domain's failure counts as nothing."""
    found = [
        DkimSignature(result=DkimResult(word.removeprefix("testing-")), testing=word.startswith("testing-"))
        for word in results.split()
    ]
    assert overall(found) is expected
