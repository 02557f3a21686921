"""Who tries out passwords: each try is on a backend's connection of its own, so the gateway has to count them."""

import ssl
from base64 import b64encode
from pathlib import Path

import trustme

from tests.support.gateway import Gateway
from tests.support.sink import Sink
from tests.support.wire import Wire


def test_a_session_can_not_try_out_passwords_for_ever(tmp_path: Path) -> None:
    """Failed logins count as errors: after as many as a session may have it ends with 421."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    listener = {"tls": {"mode": "implicit", "certificate": str(tmp_path / "mx.pem")}, "auth": {}}
    guess = "AUTH PLAIN " + b64encode(b"\0alice@example.com\0wrong").decode()
    with (
        Sink(auth=True) as sink,
        Gateway({"limits": {"errors": 3}}, listeners={"smtps": listener}, backend=sink.port) as gateway,
        Wire(gateway.port, context=context) as client,
    ):
        client.hello()
        assert [client.command(guess).code for _ in range(4)] == [535, 535, 535, 421]
        assert client.is_closed()
        assert gateway.record(result="disconnected")["decision"]["outcome"] == "too_many_errors"
