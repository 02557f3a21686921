"""A listener's certificate, and its renewal under way."""

import ssl
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from gateway.doors.tls import Certificate


def write(authority: trustme.CA, folder: Path, name: str) -> None:
    """Put a certificate for a name in place, as renewal does: by renaming."""
    made = authority.issue_cert(name)
    made.cert_chain_pems[0].write_to_path(folder / "new.pem")
    made.private_key_pem.write_to_path(folder / "new.key")
    (folder / "new.key").rename(folder / "mx.key")
    (folder / "new.pem").rename(folder / "mx.pem")


def served_name(certificate: Certificate, authority: trustme.CA) -> str:
    """The name in the certificate that a client is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    authority.configure_trust(context)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server)
    done = False
    while not done:
        done = True
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                done = False
    found = client.getpeercert()
    assert found is not None
    return str(dict(found)["subjectAltName"][0][1])


def test_a_new_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """Changed files are loaded into a context of their own; unchanged ones are not read again."""
    authority = trustme.CA()
    write(authority, tmp_path, "old.example.com")
    certificate = Certificate(tmp_path / "mx.pem", tmp_path / "mx.key")
    assert served_name(certificate, authority) == "old.example.com"
    assert not certificate.refresh()
    write(authority, tmp_path, "new.example.com")
    assert certificate.refresh()
    assert served_name(certificate, authority) == "new.example.com"


def test_files_that_do_not_fit_leave_the_old_ones(tmp_path: Path) -> None:
    """A broken or half replaced pair is said once, and clients are shown the old certificate."""
    authority = trustme.CA()
    write(authority, tmp_path, "old.example.com")
    certificate = Certificate(tmp_path / "mx.pem", tmp_path / "mx.key")
    authority.issue_cert("x").private_key_pem.write_to_path(tmp_path / "mx.key")
    with capture_logs() as logs:
        assert not certificate.refresh()
        assert not certificate.refresh()
    assert [line["event"] for line in logs] == ["certificate not reloaded"]
    (tmp_path / "mx.pem").unlink()
    assert not certificate.refresh()
    assert served_name(certificate, authority) == "old.example.com"


def test_a_certificate_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    """A listener does not start without it."""
    with pytest.raises(OSError, match="No such file"):
        Certificate(tmp_path / "missing.pem", None)
