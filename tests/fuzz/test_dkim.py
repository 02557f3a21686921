"""DKIM on any input: the verdicts of dkimpy on what it signed, no pass for what was changed, a result for any octets.

dkimpy is signer and second opinion. Where it is known to be wrong or laxer, it is not asked: it takes bare line feeds
for line ends, drops white space before a colon also with simple canonicalization, and does not mind fields that are
there more often than they are signed.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import cache

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.header import header_fields
from gateway.mailauth.keys import Fault, Key, parse_key
from gateway.mailauth.results import DkimResult
from gateway.mailauth.signature import Form, Malformed, Signature, parse_signature
from tests.support.dkim_signing import (
    BODY,
    DOMAIN,
    HEADER,
    SELECTOR,
    canonical_body,
    checked,
    ed25519_key,
    key_record,
    picked,
    relaxed_field,
    rsa_key,
    signature,
    zone,
)

KEYS: Mapping[str, RSAPrivateKey | Ed25519PrivateKey] = {
    "rsa1024": rsa_key(1024),
    "rsa2048": rsa_key(),
    "ed25519": ed25519_key(),
}
NAMES = ["From", "To", "Subject", "X-One", "X-Two", "DATE"]

values = st.lists(
    st.sampled_from(["a", "B", "\u00fc", " ", "  ", "\t", "\r\n ", "\r\n\t", ":", ";", "=", "<x@y.example>"]),
    max_size=8,
).map("".join)
kinds = st.sampled_from(["simple", "relaxed"])
lines = st.lists(st.sampled_from([b"a", b"Bc", b" ", b"  ", b"\t", b"\xff", b".", b"=", b"x" * 70]), max_size=6)
bodies = st.lists(lines.map(b"".join), max_size=8).map(lambda parts: b"".join(part + b"\r\n" for part in parts))


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A header with one From field, and other fields any number of times."""
    names = draw(st.lists(st.sampled_from(NAMES[1:]), max_size=6))
    names.insert(draw(st.integers(0, len(names))), "From")
    colons = [draw(st.sampled_from([":", ": ", ":\t "])) for _ in names]
    # The full stop keeps a folded value from ending in a line of white space, which readers may take for an empty one.
    return "".join(f"{name}{colon}{draw(values)}.\r\n" for name, colon in zip(names, colons, strict=True)).encode()


@cache
def private(kind: str) -> bytes:
    """A private key in the form that dkimpy takes."""
    key = KEYS[kind]
    if isinstance(key, Ed25519PrivateKey):
        return b64encode(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def signed_by_dkimpy(
    header: bytes, body: bytes, kind: str, canonicalization: tuple[str, str], names: Sequence[str]
) -> bytes:
    """The signature field that dkimpy makes."""
    field: bytes = dkim.sign(
        header + b"\r\n" + body,
        SELECTOR.encode(),
        DOMAIN.encode(),
        private(kind),
        canonicalize=(canonicalization[0].encode(), canonicalization[1].encode()),
        signature_algorithm=b"ed25519-sha256" if kind == "ed25519" else b"rsa-sha256",
        include_headers=[name.encode() for name in names],
    )
    return field


def verified_by_dkimpy(message: bytes, record: str) -> bool:
    """What dkimpy says, its own errors taken for a no."""
    try:
        return bool(dkim.verify(message, dnsfunc=lambda _name, timeout=5: record.encode() if timeout else None))
    except dkim.DKIMException:
        return False


@settings(max_examples=60, deadline=None)
@given(
    headers(),
    bodies,
    st.sampled_from(list(KEYS)),
    st.tuples(kinds, kinds),
    st.lists(st.sampled_from(NAMES), max_size=8),
    st.integers(1, 100),
)
def test_what_dkimpy_signs_passes(
    header: bytes, body: bytes, kind: str, canonicalization: tuple[str, str], names: list[str], chunk: int
) -> None:
    """Any message, key, canonicalization and list of fields: both say pass."""
    field = signed_by_dkimpy(header, body, kind, canonicalization, ["From", *names])
    record = key_record(KEYS[kind])
    assert verified_by_dkimpy(field + header + b"\r\n" + body, record)
    found = asyncio.run(checked(field + header, body, zone(record), now=2e9, chunk=chunk))[0]
    # The fields that are there more often than they are signed are the only thing that dkimpy does not mind.
    assert found.result is DkimResult.PASS or (found.result is DkimResult.POLICY and "of which only" in found.reason)


@settings(max_examples=120, deadline=None)
@given(headers(), bodies, st.tuples(kinds, kinds), st.integers(0, 5000), st.sampled_from([b"a", b"Z", b"7", b"F"]))
def test_a_changed_letter_gets_dkimpys_verdict(
    header: bytes, body: bytes, canonicalization: tuple[str, str], place: int, letter: bytes
) -> None:
    """One letter of header, body or signature becomes another: both say pass, or both do not."""
    names = ["From", "X-One", "X-One"]
    field = signed_by_dkimpy(header, body, "rsa1024", canonicalization, names)
    message = field + header + b"\r\n" + body
    letters = [place for place, octet in enumerate(message) if chr(octet).isalnum() and octet < 128]
    place = letters[place % len(letters)]  # signatures have the time in them, so they differ from run to run
    changed = message[:place] + letter + message[place + 1 :]
    record = key_record(KEYS["rsa1024"])
    size = len(field + header)
    fields = tuple(header_fields(changed[:size]))
    if not fields or fields[0].name != "dkim-signature" or sum(each.name == "from" for each in fields) != 1:
        return  # dkimpy looks no further than that
    found = asyncio.run(checked(changed[:size], changed[size + 2 :], zone(record), now=2e9))[0]
    if found.result is not DkimResult.POLICY:
        assert (found.result is DkimResult.PASS) == verified_by_dkimpy(changed, record), found.reason


@settings(max_examples=200, deadline=None)
@given(st.tuples(kinds, kinds), st.integers(0, 10_000), st.integers(1, 255), st.sampled_from(["rsa1024", "ed25519"]))
@example(("relaxed", "relaxed"), 0, 0x20, "rsa1024")
def test_one_flipped_octet_never_passes(canonicalization: tuple[str, str], place: int, bits: int, kind: str) -> None:
    """Whatever octet of header, signature or body is changed: no pass, unless what is signed stays the same."""
    names = "from:to:subject:date:message-id:received"
    tags = {"c": "/".join(canonicalization), "h": names}
    header = signature(HEADER, BODY, KEYS[kind], tags) + HEADER
    message = bytearray(header + BODY)
    message[place % len(message)] ^= bits
    changed, body = bytes(message[: len(header)]), bytes(message[len(header) :])
    found = asyncio.run(checked(changed, body, zone(key_record(KEYS[kind]))))
    if any(each.result is DkimResult.PASS for each in found):
        assert canonical_body(body, canonicalization[1]) == canonical_body(BODY, canonicalization[1])
        own = [relaxed_field(next(header_fields(each)).raw).rpartition(b" b=")[0] for each in (header, changed)]
        assert own[0] == own[1]
        before, after = (
            [relaxed_field(raw) if canonicalization[0] == "relaxed" else raw for raw in picked(each, names.split(":"))]
            for each in (header, changed)
        )
        assert before == after


parts = st.sampled_from(
    b"DKIM-Signature:|From:|v=1|; |a=rsa-sha256|b=|bh=|c=relaxed/relaxed|d=example.com|s=s1|h=from|i=@|l=1|t=1|x=2"
    b"|q=dns/txt|\r\n|\r\n |\r|\n|:|=|;|47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=|\xff|\xc3\xbc| |=3D|xn--".split(
        b"|"
    )
)


@settings(max_examples=200)
@given(st.lists(parts | st.binary(max_size=5), max_size=40).map(b"".join), st.binary(max_size=40))
def test_any_octets_as_a_message_give_results(header: bytes, body: bytes) -> None:
    """No exception, one printable reason for whatever is not good, and never a pass."""
    found = asyncio.run(checked(b"DKIM-Signature:" + header + b"\r\n", body, zone()))
    for each in found:
        assert each.result is not DkimResult.PASS
        assert each.reason
        assert each.reason.isprintable()


@settings(max_examples=300)
@given(st.sampled_from(Form), st.lists(parts | st.binary(max_size=5), max_size=40).map(b"".join))
def test_any_octets_as_a_signature_field_are_read(form: Form, value: bytes) -> None:
    """A field that was read can be verified; one that was not says why."""
    for field in header_fields(form.value.encode() + b":" + value + b"\r\n"):
        read = parse_signature(field, form)
        assert isinstance(read, Signature | Malformed)


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            ["v=DKIM1", "k=rsa", "k=ed25519", "p=", "t=s:y", "h=sha256", "s=email", ";", "; ", "n=\xff", "p=AAAA"]
        )
        | st.text(st.characters(max_codepoint=255), max_size=6),
        max_size=12,
    ).map("".join)
    | st.binary(max_size=80).map(lambda octets: "v=DKIM1; p=" + b64encode(octets).decode())
    | st.binary(max_size=40).map(lambda noise: key_record(rsa_key(1024), p=b64encode(b"\x30" + noise).decode()))
)
def test_any_text_as_a_key_record_is_read(record: str) -> None:
    """It is a key, or there is a reason why it is none; a record that was cut or changed raises nothing."""
    read = parse_key(record)
    assert isinstance(read, Key | Fault)
    found = asyncio.run(checked(signature(HEADER, BODY, rsa_key(1024), {}) + HEADER, BODY, zone(record)))[0]
    assert found.result is not DkimResult.PASS
    assert found.reason.isprintable()


@settings(max_examples=200)
@given(st.integers(0, 200), st.integers(1, 255))
def test_a_damaged_key_raises_nothing(place: int, bits: int) -> None:
    """Each octet of a real key changed: a fault, or a key with which nothing verifies."""
    record = key_record(rsa_key(1024))
    octets = bytearray(b64decode(record.partition("p=")[2]))
    octets[place % len(octets)] ^= bits
    damaged = key_record(rsa_key(1024), p=b64encode(octets).decode())
    found = asyncio.run(checked(signature(HEADER, BODY, rsa_key(1024), {}) + HEADER, BODY, zone(damaged)))[0]
    assert found.result is not DkimResult.PASS
