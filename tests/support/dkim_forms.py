"""Signatures and key records that the letter of RFC 6376 leaves open or forbids, and the verifiers that others use.

Each form is a message that is signed well but for its form, with the key record to it. ``by_...`` say what a verifier
makes of them: others than in Python by programs in ``dkim_verifiers/`` that take a line for each message. The table in
``docs/decisions/dkim.md`` holds what they say.
"""

import hashlib
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import dkim
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.header import header_fields
from gateway.mailauth.arc import ArcOptions, verify_chain
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.dkim import DkimOptions, overall, verify
from gateway.resolver import Answer, RecordType, Status
from tests.support.arc_sealing import sealed
from tests.support.dkim_signing import BODY, HEADER, NOW, canonical_body, picked, relaxed_field, rsa_key
from tests.support.peers import NODE

_PROGRAMS: Final = Path(__file__).parent / "dkim_verifiers"
_KEY: Final = rsa_key()
_P: Final = b64encode(_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
_HEAD, _TAIL = _P[:40], _P[40:]
_TAGS: Final = "v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=s1; h=from:to:subject; bh={bh}; b={b}"

Said: TypeAlias = dict[str, bool]
"""By the name of each form, whether a verifier says pass."""


@dataclass(frozen=True, slots=True)
class Form:
    """A message, and the record of the key that it is signed with.

    Attributes:
        name: What is special about it.
        message: The message.
        record: The TXT record.
        is_arc: Whether it is its ARC chain that counts.
    """

    name: str
    message: bytes
    record: bytes
    is_arc: bool = False


KEY_RECORDS: Final = {
    "a key record as it should be": f"v=DKIM1; k=rsa; p={_P}",
    "CRLF and a space in a key record": f"v=DKIM1;\r\n k\r\n =\r\n rsa;\r\n p={_HEAD}\r\n {_TAIL}",
    "CRLF alone in a key record": f"v=DKIM1;\r\nk=rsa;\r\np={_HEAD}\r\n{_TAIL}\r\n",
    "LF alone in a key record": f"v=DKIM1;\nk=rsa;\np={_HEAD}\n{_TAIL}\n",
    "`;;` in a key record": f"v=DKIM1;; k=rsa; ; p={_P}",
    "`;` before a key record": f"; v=DKIM1; k=rsa; p={_P}",
    "`;;` after a key record": f"v=DKIM1; k=rsa; p={_P};;",
    "`x-note=1` in a key record": f"v=DKIM1; x-note=1; k=rsa; p={_P}",
    "`1x=1` in a key record": f"v=DKIM1; 1x=1; k=rsa; p={_P}",
    "`=1` in a key record": f"v=DKIM1; =1; k=rsa; p={_P}",
    "a word without `=` in a key record": f"v=DKIM1; word; k=rsa; p={_P}",
    "`k=RSA`": f"v=DKIM1; k=RSA; p={_P}",
    "`h=SHA256`": f"v=DKIM1; h=SHA256; k=rsa; p={_P}",
    "`h=sha1 : sha256`": f"v=DKIM1; h=sha1 : sha256; k=rsa; p={_P}",
    "`h=sha1`": f"v=DKIM1; h=sha1; k=rsa; p={_P}",
    "`h=` without a word": f"v=DKIM1; h=; k=rsa; p={_P}",
    "`s=EMAIL`": f"v=DKIM1; s=EMAIL; k=rsa; p={_P}",
    "`s=web`": f"v=DKIM1; s=web; k=rsa; p={_P}",
    "`s=` without a word": f"v=DKIM1; s=; k=rsa; p={_P}",
    "`k=` without a word": f"v=DKIM1; k=; p={_P}",
    "`v=dkim1`": f"v=dkim1; k=rsa; p={_P}",
    "`v=DKIM1` not first": f"k=rsa; v=DKIM1; p={_P}",
    "`P=` for `p=`": f"v=DKIM1; k=rsa; P={_P}",
    "`n=` twice": f"v=DKIM1; n=a; n=b; k=rsa; p={_P}",
    "`p=` twice": f"v=DKIM1; k=rsa; p={_P}; p={_P}",
    "`p=` with padding too much": f"v=DKIM1; k=rsa; p={_P}====",
    "`p=` in quotes": f'v=DKIM1; k=rsa; p="{_P}"',
    "a key record in quotes": f'"v=DKIM1; k=rsa; p={_P}"',
}
SIGNATURES: Final = {
    "`h=from:to:subject:`": _TAGS.replace("subject;", "subject:;"),
    "`h=:from::to:subject`": _TAGS.replace("h=from:", "h=:from::"),
    "`h=` with a space in a name": _TAGS.replace("subject;", "subject:a b;"),
    "`;;` in a signature": _TAGS.replace("; s=", ";; s="),
    "`;` before a signature": "; " + _TAGS,
    "`;;` after a signature": _TAGS + ";;",
    "`x-note=1` in a signature": _TAGS.replace("; s=", "; x-note=1; s="),
    "`1x=1` in a signature": _TAGS.replace("; s=", "; 1x=1; s="),
    "a word without `=` in a signature": _TAGS.replace("; s=", "; word; s="),
    "`d=` twice": _TAGS.replace("; s=", "; d=example.com; s="),
    "`a=RSA-SHA256`": _TAGS.replace("rsa-sha256", "RSA-SHA256"),
    "`q=DNS/TXT`": _TAGS.replace("; s=", "; q=DNS/TXT; s="),
}
CHAINS: Final[Mapping[str, Callable[[], bytes]]] = {
    "a chain as it should be": lambda: sealed(HEADER, domain="example.com"),
    "a chain with `;;` in a message signature": lambda: sealed(
        HEADER, domain="example.com", message={"c": "relaxed/relaxed;"}
    ),
    "a chain with `x-note=1` in a message signature": lambda: sealed(
        HEADER, domain="example.com", message={"x-note": "1"}
    ),
    "a chain with `h=from:to:subject:`": lambda: sealed(
        HEADER, domain="example.com", message={"h": "from:to:subject:"}
    ),
    "a chain without `c=`, signed relaxed": lambda: sealed(
        HEADER, domain="example.com", message={"c": None}, way="relaxed"
    ),
    "a chain without `c=`, signed simple": lambda: sealed(
        HEADER, domain="example.com", message={"c": None}, way="simple"
    ),
    "a chain with a comment before `i=`": lambda: sealed(
        HEADER, domain="example.com", instance="(a (nested) comment) i=1;"
    ),
}


def _signed(template: str) -> bytes:
    """The signature field on ``HEADER``; relaxed, of From, To and Subject, whatever its text says."""
    body_hash = b64encode(hashlib.sha256(canonical_body(BODY, "relaxed")).digest()).decode()
    text = "DKIM-Signature: " + template.replace("{bh}", body_hash) + "\r\n"
    signed = b"".join(map(relaxed_field, picked(HEADER, ["from", "to", "subject"])))
    signed += relaxed_field(text.replace("{b}", "").encode()).removesuffix(b"\r\n")
    return text.replace("{b}", b64encode(_KEY.sign(signed, PKCS1v15(), SHA256())).decode()).encode()


@cache
def forms() -> tuple[Form, ...]:
    """All of them, in the order of the table."""
    good = KEY_RECORDS["a key record as it should be"].encode()
    plain = _signed(_TAGS) + HEADER + b"\r\n" + BODY
    return (
        *(Form(name, plain, record.encode()) for name, record in KEY_RECORDS.items()),
        *(Form(name, _signed(text) + HEADER + b"\r\n" + BODY, good) for name, text in SIGNATURES.items()),
        *(Form(name, header() + b"\r\n" + BODY, good, is_arc=True) for name, header in CHAINS.items()),
    )


class _OneKey:
    """A resolver that has one TXT record, under every name."""

    def __init__(self, record: bytes) -> None:
        self._answer = Answer(Status.FOUND, (record.decode("latin-1"),))

    def known(self, name: str, record_type: RecordType) -> Answer:
        del name, record_type
        return self._answer

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        del name, record_type
        return self._answer


async def _verified_here(form: Form) -> bool:
    header, _, body = form.message.partition(b"\r\n\r\n")
    header += b"\r\n"
    fields = tuple(header_fields(header))
    hashes = BodyHashes(fields, 10)
    hashes.update(body)
    resolver = _OneKey(form.record)
    if form.is_arc:
        return (await verify_chain(fields, hashes, resolver, NOW, ArcOptions())).result == "pass"
    return overall(await verify(fields, hashes, resolver, NOW, DkimOptions())) == "pass"


async def here() -> Said:
    """The gateway."""
    return {form.name: await _verified_here(form) for form in forms()}


def by_dkimpy() -> Said:
    """Dkimpy."""
    said = dict.fromkeys((form.name for form in forms()), False)
    for form in forms():
        with suppress(dkim.DKIMException):
            answer = lambda _name, timeout=5, record=form.record: record if timeout else None  # noqa: E731 - a closure over the form
            if form.is_arc:
                said[form.name] = dkim.arc_verify(form.message, dnsfunc=answer)[0] == dkim.CV_Pass
            else:
                said[form.name] = bool(dkim.verify(form.message, dnsfunc=answer))
    return said


def by_program(command: Sequence[str], *, arc: bool = True) -> Said:
    """What a program says that takes lines.

    Args:
        command: The program.
        arc: Whether it can validate ARC chains, with ``arc`` as one more argument.
    """
    said: Said = {}
    for of_arc in (False, True) if arc else (False,):
        some = [form for form in forms() if form.is_arc is of_arc]
        lines = "".join(f"{form.message.hex()}\t{form.record.hex()}\n" for form in some)
        result = subprocess.run(
            [*command, *(["arc"] if of_arc else [])],
            input=lines,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said |= {form.name: line == "pass" for form, line in zip(some, result.stdout.splitlines(), strict=True)}
    return said


def by_mail_dkim() -> Said:
    """Mail::DKIM."""
    return by_program(["perl", str(_PROGRAMS / "mail_dkim.pl")])


def by_opendkim() -> Said:
    """libopendkim, which knows no ARC."""
    return by_program([sys.executable, str(_PROGRAMS / "opendkim.py")], arc=False)


def by_mailauth() -> Said:
    """Mailauth."""
    return by_program([*NODE, str(_PROGRAMS / "mailauth.cjs")])
