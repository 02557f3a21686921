"""Headers as large as the limits let them be: what the gateway does with one before anybody else has their turn.

Counted in calls, by the interpreter itself; where work is done by one call into C, it is linear in the header.
"""

import asyncio
from typing import Final

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.config.options import Limits
from gateway.form import HeaderReader
from gateway.mailauth.author import read_author
from gateway.mailauth.body import BodyHashes
from gateway.mailauth.dkim import DkimOptions, verify
from tests.support.calls import calls

LIMITS: Final = Limits()
READER: Final = HeaderReader(["mx.example.com"])
_SIGNATURE: Final = (
    "DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h=from{names};"
    " bh=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=; b=AAAA{tags}\r\n"
)

_LETTER: Final = "\u00e9"

HEADERS: Final = {
    "tiny fields": "a:b\r\n" * 20_000,
    "folds": "X: a\r\n" + " b\r\n" * 19_999,
    "signatures": _SIGNATURE.format(names="", tags="") * 7_000,
    "signatures of different domains": "".join(f"DKIM-Signature:d={number}.example\r\n" for number in range(19_999)),
    "signatures of long domains": "".join(f"DKIM-Signature:d={number}{'.a' * 100}\r\n" for number in range(4_300)),
    "signatures of domains in UTF-8": "".join(
        f"DKIM-Signature:d={number}{f'.{_LETTER}' * 20}\r\n" for number in range(11_000)
    ),
    "signatures of one label in UTF-8": "".join(
        f"DKIM-Signature:d={number}{_LETTER * 400}\r\n" for number in range(1_200)
    ),
    "signatures, and authors": "".join(f"DKIM-Signature:d={number}.a.b.c.d.e.example\r\n" for number in range(9_000))
    + "From: "
    + "".join(f"j@{number}.a.b.c.d.e.example, " for number in range(20_000))
    + "\r\n",
    "signatures that list a name often": _SIGNATURE.format(names=":a" * 48_000, tags="") * 10,
    "signatures that list many names": _SIGNATURE.format(
        names="".join(f":a{number}" for number in range(12_000)), tags=""
    )
    * 10,
    "signatures of many tags": _SIGNATURE.format(names="", tags="".join(f";a{n}=1" for n in range(11_000))) * 10,
    "message signatures": "".join(
        _SIGNATURE.replace("DKIM-S", "ARC-Message-S").format(names=":a" * 9_000, tags=f"; i={number}")
        for number in range(1, 51)
    ),
    "results": "Authentication-Results: (a) other.example (b); spf=pass\r\n" * 17_000,
    "results of comments": "Authentication-Results: " + '(a) "b" ' * 120_000 + "\r\n",
    "an author of comments": "From: " + "(a)" * 300_000 + "<joe@example.com>\r\n",
    "authors": "From: " + "joe@example.com, " * 60_000 + "\r\n",
    "spaces": "Subject: " + " \t" * 500_000 + "\r\n",
    "spaces before colons": "a :b\r\n" * 20_000,
    "lines of an mbox file": "From x\r\n" * 20_000,
    "fields that are ours": "X-Lychgate-Tag: b\r\n" * 20_000,
    "lines that are no fields": "no field\r\n" * 20_000,
    "fields after the end": "\x01: x\r\n" + "a:b\r\n" * 19_999,
    "marks after the end": ": " + "\x0b:" * 500_000 + "\r\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_within_the_limits_takes_few_calls(name: str) -> None:
    """Reading the fields, the signatures, the author and the claims of forged fields, and choosing what is verified."""
    header = HEADERS[name].encode()
    assert len(header) <= LIMITS.header_size
    assert header.count(b"\n") <= LIMITS.header_lines

    def look() -> None:
        fields = READER.read(header).fields
        hashes = BodyHashes(fields, 10)
        hashes.update(b"x\r\n")
        asyncio.run(verify(fields, hashes, ZoneResolver({}), 0.0, DkimOptions()))
        read_author(fields)

    assert calls(look) < 25 * LIMITS.header_lines
