"""Keys, and messages signed with them by dkimpy: an independent signer (DKIM, RFC 6376) and sealer (ARC, RFC 8617)."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import dkim
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SELECTOR: Final = "s1"
_SIGNED: Final = (b"from", b"to", b"subject", b"date", b"message-id")
_STRING: Final = 200  # octets of one string of a TXT record, which may have 255


@cache
def _keys(number: int) -> tuple[bytes, str]:
    """A key pair: the private key as PEM, the public key as the ``p=`` of a key record."""
    del number
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return private, b64encode(public).decode("ascii")


@dataclass(frozen=True, slots=True)
class Signer:
    """A domain that signs.

    Attributes:
        domain: Its name.
        key: Which key it has; domains of one number share a key.
    """

    domain: str
    key: int = 0

    @property
    def zone(self) -> dict[str, dict[str, Sequence[str]]]:
        """Its key record, for ``DnsServer``."""
        return {f"{SELECTOR}._domainkey.{self.domain}": {"TXT": [txt(f"v=DKIM1; k=rsa; p={_keys(self.key)[1]}")]}}

    @property
    def private_key(self) -> bytes:
        """As PEM."""
        return _keys(self.key)[0]

    def sign(self, message: bytes) -> bytes:
        """The message with a DKIM-Signature on top; dkimpy wants CRLF lines."""
        field: bytes = dkim.sign(
            message,
            SELECTOR.encode(),
            self.domain.encode(),
            self.private_key,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=[name for name in _SIGNED if b"\n" + name + b":" in b"\n" + message.lower()],
        )
        return field + message

    def seal(self, message: bytes, results: str) -> bytes:
        """The message with an ARC set on top.

        Args:
            message: As it is when it is sealed.
            results: What the sealer says it found, such as ``dkim=pass header.d=example.org; dmarc=pass``.
        """
        claim = f"Authentication-Results: {self.domain}; {results}\r\n".encode()
        fields: list[bytes] = dkim.arc_sign(
            claim + message,
            SELECTOR.encode(),
            self.domain.encode(),
            self.private_key,
            self.domain.encode(),
            include_headers=[name for name in _SIGNED if b"\n" + name + b":" in b"\n" + message.lower()],
        )
        assert fields, "dkimpy found nothing to seal"
        return b"".join(fields) + message


def txt(text: str) -> str:
    """A text as the strings of one TXT record, in zone file notation."""
    parts = [text[start : start + _STRING] for start in range(0, len(text), _STRING)]
    return " ".join(f'"{part}"' for part in parts)
