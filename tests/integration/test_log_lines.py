"""What the log says of clients: each line names the client, so that one who guards the ports needs no record to act."""

import socket
from pathlib import Path

import trustme

from tests.support.gateway import Gateway
from tests.support.ports import free_port

PLAIN, IMPLICIT = "smtp", "smtps"


def said(port: int, octets: bytes) -> bytes:
    """All that the gateway says to a client that sends these octets and waits for the connection's end."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(octets)
        answer = b""
        while received := client.recv(65_536):
            answer += received
        return answer


def test_lines_about_a_client_name_it(tmp_path: Path) -> None:
    """A client without TLS where TLS is due, and one that is sent away, stand in the log with address and reason."""
    pair = tmp_path / "pair.pem"
    trustme.CA().issue_cert("mx.example.com").private_key_and_cert_chain_pem.write_to_path(str(pair))
    listeners = {PLAIN: {}, IMPLICIT: {"tls": {"mode": "implicit", "certificate": str(pair)}}}
    with Gateway(listeners=listeners, backend=free_port()) as gateway:
        said(gateway.ports[IMPLICIT], b"EHLO client.example.org\r\n")
        assert b"421 4.7.0" in said(gateway.ports[PLAIN], b"GET / HTTP/1.1\r\n")
        failed = gateway.line("TLS handshake failed", client="127.0.0.1")
        assert failed["error"]
        gateway.line("session ended", client="127.0.0.1")
