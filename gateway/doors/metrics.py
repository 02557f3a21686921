"""The page that Prometheus fetches: HTTP on an address of the administrator's network.

Python's own small HTTP handler, in a thread for each reader, so that mail waits neither for a reader nor for the page.
Whichever worker takes the request answers for all.

A reader holds nobody up: there is a time for its whole request and the whole page together (``READ_WITHIN``), and
several are served at a time (``READERS``). One more cuts the oldest off, which is the one that has been slow for
longest. Nothing is waited for at the end.
"""

import asyncio
import io
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TextIO, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog

log = structlog.get_logger("lychgate.metrics")

READ_WITHIN: Final = 10.0
"""Seconds that a reader has to ask and to take the page: Prometheus's own limit by default (scrape_timeout)."""

READERS: Final = 16
"""Readers at a time. Prometheus, its stand-in and a person make three."""

LEAVING: Final = 16
"""Readers that were cut off and whose threads have not ended yet; while there are so many, nobody is taken."""

REST: Final = 1.0
"""Seconds without accepting after it could not be done: out of descriptors."""

_Page = Callable[..., Iterable[bytes]]


class _Faults(io.StringIO):
    """What wsgiref writes of a page that could not be made, as a line of the log."""

    def flush(self) -> None:
        if text := self.getvalue():
            log.error("metrics page failed", reason=text)
            self.seek(0)
            self.truncate()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - BaseHTTPRequestHandler's name
        """Say nothing of requests."""

    def get_stderr(self) -> TextIO:
        return _Faults()


class _Server(WSGIServer):
    """What a handler asks of its server: the page, and the address for the environment. It accepts nothing itself."""

    def __init__(self, listening: socket.socket, page: _Page) -> None:
        self.address_family = listening.family
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.server_name, self.server_port = listening.getsockname()[:2]
        self.setup_environ()
        self.set_app(page)


class MetricsDoor:
    """Serves the page.

    Args:
        sockets: Where to listen; it closes them.
        page: The page, as a WSGI application.
    """

    def __init__(self, sockets: Sequence[socket.socket], page: _Page) -> None:
        making = threading.Lock()

        def one_at_a_time(*request: Any) -> Iterable[bytes]:
            with making:
                return page(*request)

        self._servers = {listening: _Server(listening, one_at_a_time) for listening in sockets}
        self._readers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._cut_off: set[socket.socket] = set()
        self._loop: asyncio.AbstractEventLoop

    def open(self) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()
        for listening in self._servers:
            listening.setblocking(False)
            self._listen(listening)

    def close(self) -> None:
        """Take no more requests, and cut off who reads. Nothing is waited for."""
        for listening in self._servers:
            if listening.fileno() >= 0:
                self._loop.remove_reader(listening)
                listening.close()
        for connection in list(self._readers):
            self._cut(connection)

    def _listen(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(READERS):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("accept failed", listener="metrics", error=str(error))
                self._loop.remove_reader(listening)
                self._loop.call_later(REST, self._listen, listening)
                return
            self._take(connection, address, self._servers[listening])

    def _take(self, connection: socket.socket, address: Any, server: _Server) -> None:
        if len(self._readers) >= READERS:
            self._cut(next(iter(self._readers)))
        if len(self._cut_off) > LEAVING:
            connection.close()
            return
        connection.setblocking(True)
        self._readers[connection] = self._loop.call_later(READ_WITHIN, self._cut, connection)
        threading.Thread(target=self._serve, args=(connection, address, server), daemon=True).start()

    def _cut(self, connection: socket.socket) -> None:
        """End what a reader's thread waits for."""
        self._readers.pop(connection).cancel()
        self._cut_off.add(connection)
        with suppress(OSError):  # it has just gone
            connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, address: Any, server: _Server) -> None:
        """In a thread: one request and its reply."""
        try:
            with connection:
                _Handler(cast("Any", connection), address, server)
                connection.shutdown(socket.SHUT_WR)
        except Exception:  # noqa: BLE001 - whatever a reader sends or does, no page is fetched, and no more
            log.info("metrics not fetched", client=str(address[0]), error=str(sys.exc_info()[1]))
        finally:
            with suppress(RuntimeError):  # the loop is closed: the worker has ended
                self._loop.call_soon_threadsafe(self._ended, connection)

    def _ended(self, connection: socket.socket) -> None:
        self._cut_off.discard(connection)
        if (timer := self._readers.pop(connection, None)) is not None:
            timer.cancel()
