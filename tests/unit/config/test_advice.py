"""Warnings, and certificates and keys that can't be used."""

from datetime import date
from pathlib import Path
from textwrap import dedent

import pytest
import trustme

from gateway.config.advice import file_problems, warnings
from gateway.config.load import loads
from gateway.config.registry import Registry
from gateway.policy import NoOptions, Policy
from gateway.session import Recipient, Transaction
from tests.support.configuring import GOOD, Relay, SizeLimit, loaded

TODAY = date(2026, 11, 21)


class Known(Policy[NoOptions]):
    """Stands for the policy ``recipient``."""

    name = "recipient"

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        """Find nothing."""


REGISTRY = Registry.of(Relay, SizeLimit, Known)
SAFE = GOOD.replace("  - relay\n", "  - relay\n  - recipient\n")


def told(folder: Path, text: str) -> list[str]:
    """The warnings about a text, each as ``line:column: path: message``."""
    config = loaded(folder, text, registry=REGISTRY)
    return [str(warning).removeprefix(f"{config.path}:") for warning in warnings(config, TODAY)]


def test_a_safe_configuration_has_no_warnings(tmp_path: Path) -> None:
    """Nothing is told where nothing is wrong."""
    assert not told(tmp_path, SAFE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SAFE.replace("  - relay\n", ""),
            "3:5: listeners[0]: OPEN RELAY: this chain has no relay policy, so anyone can send through it to any",
        ),
        (
            SAFE.replace("- relay", "- relay: {on: {denied: pass}}"),
            "3:5: listeners[0]: OPEN RELAY: the relay policy of this chain refuses nothing, so anyone can send to any",
        ),
        (
            SAFE.replace("- relay", "- relay: {mode: observe}"),
            "3:5: listeners[0]: OPEN RELAY: the relay policy of this chain refuses nothing, so anyone can send to any",
        ),
        (
            GOOD,
            "3:5: listeners[0]: the recipients of example.com are never looked at: this chain has no recipient policy",
        ),
        (
            GOOD.replace("{recipients: {list: [alice, bob]}}", ""),
            "3:5: listeners[0]: this chain has no recipient policy; only the backend knows unknown recipients",
        ),
        (
            "mode: observe\n" + SAFE,
            "1:7: mode: everything is only observed: no policy refuses anything, not even relay",
        ),
        (SAFE.replace("mx1.example.com", "mx1"), "1:11: hostname: 'mx1' is not a full name; many servers refuse"),
        (SAFE + "records: {}\n", "12:1: records: decision records are written nowhere"),
        (
            SAFE.replace("backends:", "default_backend: postfix\nbackends:\n  other: {servers: [h]}"),
            "6:3: backends.other: nothing uses this backend",
        ),
        (
            SAFE.replace("0.0.0.0:25", "0.0.0.0:25\n    auth: {required: false}"),
            "4:5: listeners[0].auth: AUTH is not offered without TLS, and this listener has none",
        ),
        (
            SAFE + "exceptions:\n  - {policy: relay, domain: example.com, until: 2026-11-20, reason: old}\n",
            "13:5: exceptions[0]: has expired on 2026-11-20 and does nothing: old",
        ),
        (
            SAFE.replace("domains:\n  example.com: {recipients: {list: [alice, bob]}}\n", ""),
            "domains: no domain is ours",
        ),
    ],
)
def test_warnings(tmp_path: Path, text: str, expected: str) -> None:
    """What is probably not meant is told where it stands."""
    found = told(tmp_path, text)
    assert len(found) == 1
    assert found[0].removeprefix(" ").startswith(expected)


def test_an_exception_holds_on_its_last_day(tmp_path: Path) -> None:
    """On the day that ``until`` names nothing is told yet."""
    text = SAFE + "exceptions:\n  - {policy: relay, domain: example.com, until: 2026-11-21, reason: last day}\n"
    assert not told(tmp_path, text)


def test_submission_needs_no_relay_policy(tmp_path: Path) -> None:
    """A listener whose clients must authenticate may relay for them."""
    text = SAFE.replace(
        "0.0.0.0:25", "0.0.0.0:465\n    tls: {mode: implicit, certificate: c.pem}\n    auth: {}\n    policies: [size]"
    )
    assert not told(tmp_path, text)


def tls_text(certificate: str, key: str | None = None) -> str:
    """A configuration whose listener uses these files."""
    keys = "" if key is None else f", key: {key}"
    return SAFE.replace("0.0.0.0:25", f"0.0.0.0:25\n    tls: {{mode: starttls, certificate: {certificate}{keys}}}")


def found_in(folder: Path, text: str) -> list[str]:
    """The problems with files, each as ``line:column: path: message``."""
    config = loaded(folder, text, registry=REGISTRY)
    return [str(problem).removeprefix(f"{config.path}:") for problem in file_problems(config)]


def test_certificates_that_can_be_used(tmp_path: Path) -> None:
    """A certificate and its key, in two files or in one, are no problem."""
    issued = trustme.CA().issue_cert("mx1.example.com")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    assert not found_in(tmp_path, tls_text("cert.pem", "key.pem"))
    assert not found_in(tmp_path, tls_text("both.pem"))
    assert not found_in(tmp_path, SAFE)


def test_certificates_that_can_not_be_used(tmp_path: Path) -> None:
    """A missing file, a key that does not fit and what is no PEM are told with their places."""
    authority = trustme.CA()
    first, second = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    first.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    second.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "text.pem").write_text("no certificate", encoding="utf-8")
    assert found_in(tmp_path, tls_text("none.pem")) == [
        f"4:40: listeners[0].tls.certificate: there is no file '{tmp_path}/none.pem'"
    ]
    assert found_in(tmp_path, tls_text("cert.pem", "none.pem")) == [
        f"4:55: listeners[0].tls.key: there is no file '{tmp_path}/none.pem'"
    ]
    assert found_in(tmp_path, tls_text("cert.pem", "key.pem")) == [
        f"4:5: listeners[0].tls: the key '{tmp_path}/key.pem' does not belong to the certificate '{tmp_path}/cert.pem'"
    ]
    assert "are not a certificate and its unencrypted key" in found_in(tmp_path, tls_text("text.pem"))[0]
    assert "can't be read: Is a directory" in found_in(tmp_path, tls_text("."))[0]


def test_several_backends_and_trusted_clients_need_a_default(tmp_path: Path) -> None:
    """Which backend takes what trusted clients relay is not left to the order of the file without a word."""
    text = """
    hostname: mx.example.com
    listeners: [{smtp: "127.0.0.1:2525"}]
    backends: {one: {servers: ["127.0.0.1:1"]}, two: {servers: ["127.0.0.1:2"]}}
    domains: {example.com: {backend: one}, example.net: {backend: two}}
    policies: [{relay: {trusted: [192.0.2.0/24]}}]
    """
    told = [str(problem) for problem in warnings(loads(dedent(text), tmp_path / "c.yaml"), date(2026, 1, 1))]
    assert any("default_backend" in line for line in told)
    named = dedent(text) + "default_backend: one\n"
    told = [str(problem) for problem in warnings(loads(named, tmp_path / "c.yaml"), date(2026, 1, 1))]
    assert not any("default_backend" in line for line in told)


def test_folders_that_are_missing_are_told(tmp_path: Path) -> None:
    """A folder for records or the spool that does not exist is a warning: it may be made when the service starts."""
    text = dedent("""
    hostname: mx.example.com
    listeners: [{smtp: "127.0.0.1:2525"}]
    backends: {one: {servers: ["127.0.0.1:1"]}}
    domains: {example.com: {}}
    records: {file: missing/records.jsonl}
    spool: {directory: missing}
    policies: [relay]
    """)
    told = [problem.where for problem in warnings(loads(text, tmp_path / "c.yaml"), date(2026, 1, 1))]
    assert {"records.file", "spool.directory"} <= set(told)
    (tmp_path / "missing").mkdir()
    told = [problem.where for problem in warnings(loads(text, tmp_path / "c.yaml"), date(2026, 1, 1))]
    assert not {"records.file", "spool.directory"} & set(told)
