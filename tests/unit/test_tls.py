"""TLS as a client: whom it believes, on every Python alike."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.tls import OFF, client_context

NAME = "mx.example.com"


def certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: str,
    signer: EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
) -> bytes:
    """A certificate as people make them by hand: without identifiers of keys."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture(name="folder")
def made(tmp_path: Path) -> Path:
    """A folder with the certificate of an authority, and one of a server with its key."""
    authority, server = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    alternative = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    key = server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ca.pem").write_bytes(certificate("ours", authority, "ours", authority, constraints))
    (tmp_path / "server.pem").write_bytes(certificate(NAME, server, "ours", authority, alternative) + key)
    return tmp_path


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """A handshake in memory; raises what the client finds wrong."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue


def test_a_handmade_authority_is_believed(folder: Path) -> None:
    """Python 3.13 by itself would want identifiers of keys in its certificates."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    client = client_context(folder / "ca.pem")
    assert not any(client.verify_flags & flag for flag in OFF)
    shake_hands(client, server, NAME)
    for context, name in ((client, "other.example.com"), (client_context(None), NAME)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, server, name)


def test_a_file_that_is_none_is_an_error(folder: Path) -> None:
    """It does not become the system's authorities."""
    with pytest.raises(OSError, match="No such file"):
        client_context(folder / "missing.pem")
