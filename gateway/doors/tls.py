"""TLS of a listener: the context, and the certificate that renews itself under it.

``Certificate`` loads the files once and again when they change on disk, into the same context: sessions under way keep
theirs, new handshakes get the new one. New files that can't be read or don't fit together leave the old ones in place
and say so once.
"""

import ssl
from pathlib import Path

import structlog

from gateway.config.model import Listener
from gateway.session import TlsInfo

log = structlog.get_logger("lychgate.tls")


class Certificate:
    """A certificate and its key, in the context that uses them.

    Args:
        certificate: PEM file with the chain.
        key: PEM file with the private key; None if it stands in the certificate's file.

    Attributes:
        context: For the server side of handshakes; TLS 1.2 and later (RFC 8996). Another one once the files have
            changed.

    Raises:
        OSError: The files can't be read.
        ssl.SSLError: They are no certificate and key that fit together.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._stamp()
        self.context = self._loaded()

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        return context

    def refresh(self) -> bool:
        """Load the files again if they have changed; returns whether new ones are in use.

        It may wait for a file system that does not answer, so it is meant for a thread.
        """
        try:
            stamp = self._stamp()
        except OSError:
            return False  # in the middle of being replaced
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.context = self._loaded()
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate not reloaded", certificate=str(self._certificate), error=str(error))
            return False
        log.info("certificate reloaded", certificate=str(self._certificate))
        return True

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        files = [self._certificate] if self._key is None else [self._certificate, self._key]
        stats = [file.stat() for file in files]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def certificate_of(listener: Listener) -> Certificate | None:
    """A listener's certificate, None without TLS. Loaded before privileges are dropped: only root may read most keys.

    Raises:
        OSError, ssl.SSLError: It can't be used.
    """
    tls = listener.tls
    return None if tls.certificate is None else Certificate(tls.certificate, tls.key)


def tls_info(connection: ssl.SSLObject) -> TlsInfo:
    """What was agreed on in a handshake."""
    cipher, version, bits = connection.cipher() or ("unknown", "unknown", 0)
    return TlsInfo(version=connection.version() or version, cipher=cipher, bits=bits)
