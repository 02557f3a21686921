"""A certificate on a file system that does not answer holds nobody up."""

import os
import smtplib
import ssl
from contextlib import suppress
from pathlib import Path

import trustme

from tests.support.gateway import Gateway, poll


def test_a_certificate_that_can_not_be_read_to_its_end_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe in its place, which the worker opens and whose end never comes: mail goes on with the old certificate."""
    authority, file = trustme.CA(), tmp_path / "mx.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    listeners = {"smtp": {"tls": {"mode": "starttls", "certificate": str(file)}}}
    with Gateway({"dns": {"client_names": False}}, listeners=listeners, backend=9) as gateway:
        file.unlink()
        os.mkfifo(file)
        writer = poll(lambda: _opened(file))
        try:
            with smtplib.SMTP("localhost", gateway.port) as client:
                client.starttls(context=trusting)
                assert client.noop()[0] == 250
            assert gateway.stop() == 0
        finally:
            os.close(writer)


def _opened(pipe: Path) -> int | None:
    """The pipe's other end, once somebody waits for octets there."""
    with suppress(OSError):
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    return None
