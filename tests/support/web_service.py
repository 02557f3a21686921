"""A web service of Python's own server, in a thread, that knows recipients.

    with WebService({"/alice%40example.com": (200, b"true")}) as service:
        ... service.url ...

What it does not know it answers with 404. ``requests`` has what it was asked: the path and the header fields.
"""

import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class WebService:
    """One service; a context manager.

    Args:
        answers: Status and body by path.
        certificates: A folder with ``cert.pem`` and ``key.pem``, None without TLS.

    Attributes:
        requests: What it was asked.
        headers: Further header fields of its answers.
        gate: Not set: it answers nothing.
    """

    def __init__(self, answers: Mapping[str, tuple[int, bytes]], *, certificates: Path | None = None) -> None:
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.headers: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.requests.append((self.path, dict(self.headers)))
                service.gate.wait(30)
                status, body = answers.get(self.path, (404, b"no"))
                self.send_response(status)
                for name, value in service.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._secure = certificates is not None
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Its address, without a path."""
        scheme = "https" if self._secure else "http"
        return f"{scheme}://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
