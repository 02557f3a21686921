"""The page that Prometheus fetches: HTTP on an address of the administrator's network.

Python's own small HTTP server, in a thread of each worker, one request at a time: a page is made in milliseconds, and
mail does not wait for it. Whichever worker takes the request answers for all.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog

log = structlog.get_logger("lychgate.metrics")

REQUEST_WITHIN: Final = 5.0
"""Seconds in which a client must go on with its request, or with taking the page."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_WITHIN

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - BaseHTTPRequestHandler's name
        """Say nothing of requests."""


class _Server(WSGIServer):
    def __init__(self, listening: socket.socket, page: Callable[..., Iterable[bytes]]) -> None:
        self.address_family = listening.family
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening.dup()
        self.server_name, self.server_port = listening.getsockname()[:2]
        self.setup_environ()
        self.set_app(page)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - what is fetched fails, no more
        log.info("metrics not fetched", client=str(client_address[0]), error=str(sys.exc_info()[1]))


class MetricsDoor:
    """Serves the page.

    Args:
        sockets: Where to listen.
        page: The page, as a WSGI application.
    """

    def __init__(self, sockets: Sequence[socket.socket], page: Callable[..., Iterable[bytes]]) -> None:
        self._servers = [_Server(listening, page) for listening in sockets]
        self._threads = [threading.Thread(target=each.serve_forever, daemon=True) for each in self._servers]

    def open(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more requests."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
