"""A TLS handshake in small packets, as post-quantum key shares make it: its first message fits no single one."""

import socket
import ssl
from pathlib import Path

import trustme

from tests.support.gateway import Gateway
from tests.support.ports import free_port

_WITHIN = 10.0


def test_a_handshake_that_comes_in_pieces_is_put_together_in_order(tmp_path: Path) -> None:
    """Under implicit TLS pieces of the first message come before, while and after the connection is taken up."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    listener = {"tls": {"mode": "implicit", "certificate": str(tmp_path / "mx.pem")}}
    with Gateway(listeners={"smtps": listener}, backend=free_port()) as gateway:
        for _ in range(50):
            _shake_hands(gateway.port, context)


def _shake_hands(port: int, context: ssl.SSLContext) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), _WITHIN) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                connection.do_handshake()
            except ssl.SSLWantReadError:
                while piece := outgoing.read(13):
                    client.sendall(piece)
                received = client.recv(65536)
                assert received, "the server closed the connection"
                incoming.write(received)
            else:
                return
