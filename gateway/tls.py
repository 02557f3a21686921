"""TLS as a client: whom the gateway believes that its server is who it says."""

import ssl
from pathlib import Path
from typing import Final

OFF: Final = (ssl.VerifyFlags.VERIFY_X509_STRICT, ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN)
"""What Python asks of certificates from 3.13 on only: many authorities that people make by hand do not comply."""


def client_context(authorities: Path | None) -> ssl.SSLContext:
    """Settings that verify the server's certificate and name.

    Args:
        authorities: A file of certificates of authorities, None for the system's.

    Raises:
        OSError: The file can't be used.
    """
    context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
    for flag in OFF:
        context.verify_flags &= ~flag
    return context
