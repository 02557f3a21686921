"""Opening a connection to a server with several addresses."""

import socket

from gateway.backend.opening import Endpoint, Opener
from tests.support import backend
from tests.support.backend import short
from tests.support.fault_server import FaultServer


async def test_an_address_that_never_answers_leaves_time_for_the_next() -> None:
    """A server whose first address swallows every packet is reached by its second one."""
    async with FaultServer() as server:
        with socket.socket() as hole, socket.socket() as first, socket.socket() as second:
            hole.bind(("127.0.0.9", server.port))
            hole.listen(0)
            for filling in (first, second):  # a full queue drops further attempts without a word
                filling.setblocking(False)
                filling.connect_ex(("127.0.0.9", server.port))
            endpoint = Endpoint(name="mx.example", addresses=("127.0.0.9", "127.0.0.1"), port=server.port)
            options = backend.options(server.port, timeouts=short(connect="400ms"))
            connection = await Opener(endpoint, options, None, "gateway.example").open()
            assert connection.fault is None
            connection.abort("test")
