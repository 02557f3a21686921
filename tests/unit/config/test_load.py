"""Loading a configuration: what it comes to, and everything that can be wrong with it."""

import socket
from datetime import date
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.config.load import load, loads
from gateway.config.model import DelayReject, Endpoint, Mode, TlsMode
from gateway.config.problems import ConfigError
from tests.support.configuring import GOOD, REGISTRY, loaded, problems


def test_the_least_configuration_has_defaults(tmp_path: Path) -> None:
    """A listener and a chain are enough; everything else has a default."""
    config = loaded(tmp_path, "listeners: [{smtp: '127.0.0.1:25'}]\npolicies: [relay]\n")
    assert config.hostname == socket.getfqdn()
    assert config.folder == tmp_path
    assert config.listeners[0].smtp == Endpoint("127.0.0.1", 25)
    assert config.listeners[0].tls.mode is TlsMode.NONE
    assert config.listeners[0].message_size == 50_000_000
    assert (config.mode, config.delay_reject) == (Mode.ENFORCE, DelayReject.RCPT)
    assert config.records.stdout
    assert config.default_backend is None


def test_a_full_configuration(tmp_path: Path) -> None:
    """Every section reaches its place, with units, names and files read."""
    (tmp_path / "recipients.txt").write_text("carol\n", encoding="utf-8")
    config = loaded(
        tmp_path,
        """
        hostname: MX1.Example.com
        listeners:
          - smtp: "[::]:465"
            tls: {mode: implicit, certificate: tls/chain.pem, key: tls/key.pem}
            auth: {}
            proxy_protocol: {trusted: [10.0.0.0/8]}
            bare_newlines: normalize
            message_size: 10MB
        backends: {a: {servers: ["127.0.0.1:25"]}, b: {servers: ["unix:/run/lmtp"], protocol: lmtp}}
        default_backend: a
        domains:
          Example.com: {backend: b, recipients: {file: recipients.txt, aliases: ["info: carol"]}, message_size: 25MB}
          bücher.example:
          "*.example.net": {subaddress: "+", recipients: {any: true}}
          example.org: {alias_of: EXAMPLE.com}
        policies: [relay]
        exceptions:
          - {policy: relay, client: 192.0.2.0/24, sender: "Ann@Example.ORG", until: 2027-01-31, reason: "a partner"}
        records: {file: records.jsonl}
        limits: {recipients: 100, message_size: 1MiB}
        timeouts: {command: 1m}
        workers: 2
        """,
    )
    listener = config.listeners[0]
    assert config.hostname == "mx1.example.com"
    assert str(listener.smtp) == "[::]:465"
    assert listener.tls.certificate == tmp_path / "tls/chain.pem"
    assert listener.auth is not None
    assert listener.auth.backend == "a"
    assert listener.proxy_protocol is not None
    assert listener.proxy_protocol.trusted == (ip_network("10.0.0.0/8"),)
    assert (listener.message_size, config.limits.message_size) == (10_000_000, 1_048_576)
    assert list(config.domains) == ["example.com", "xn--bcher-kva.example", ".example.net", "example.org"]
    assert config.domains["example.com"].backend == "b"
    assert config.domains["xn--bcher-kva.example"].backend == "a"
    alias = config.domains["example.org"]
    assert (alias.alias_of, alias.backend, alias.message_size) == ("example.com", "b", 25_000_000)
    assert alias.recipients is config.domains["example.com"].recipients
    entry = config.exceptions[0]
    assert (entry.client, entry.sender, entry.until) == (
        ip_network("192.0.2.0/24"),
        "ann@example.org",
        date(2027, 1, 31),
    )
    assert (config.records.file, config.records.stdout) == (tmp_path / "records.jsonl", False)
    assert config.timeouts.command == 60.0


def test_domains_are_found_by_name_and_by_parent(tmp_path: Path) -> None:
    """A name of its own wins over a wildcard, and the nearer wildcard over the farther."""
    domains = '{a.example.com: , "*.example.com": , .b.example.com: , example.org: }'
    config = loaded(
        tmp_path,
        "listeners: [{smtp: '127.0.0.1:25'}]\npolicies: [relay]\n"
        f"backends: {{p: {{servers: [a]}}}}\ndomains: {domains}\n",
    )
    found = {
        name: options.name
        for name in (
            "a.example.com",
            "x.a.example.com",
            "x.b.example.com",
            "b.example.com",
            "example.com",
            "example.org",
        )
        if (options := config.domain(name)) is not None
    }
    assert found == {
        "a.example.com": "a.example.com",
        "x.a.example.com": ".example.com",
        "x.b.example.com": ".b.example.com",
        "b.example.com": ".example.com",
        "example.org": "example.org",
    }


def test_the_word_stdout_is_a_place_for_records(tmp_path: Path) -> None:
    """``records: stdout`` is short for the section."""
    assert loaded(tmp_path, GOOD + "records: stdout\n").records.stdout


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    """Problems of syntax, types, names and references come together, in the order of the file."""
    text = """\
hostnam: mx1.example.com
listeners: [{smtp: "0.0.0.0:25:"}, {smtp: "0.0.0.0:26", tls: {mode: startls}}, {tls: {mode: starttls}}]
backends: {postfix: {servers: "127.0.0.1:10025"}, other: {servers: [a], timeouts: {connect: 5}}}
domains:
  example.com:
  example.net: {backend: posfix, policies: {size: {limit: five}, sise: {}}}
  "*.example.org": {alias_of: example.ne}
policies: [relay, size: {on: {to_large: defer, too_large: {reply: "454 4.1.1 no"}}, limits: 5}]
workers: "2"
workers: yes
exceptions:
  - {policy: size, client: 192.0.2.1/24, until: 2027-01-32, reason: "x"}
  - {policy: sise}
"""
    assert problems(tmp_path, text) == [
        "1:1: hostnam: is not a setting here (did you mean 'hostname'?)",
        "2:20: listeners[0].smtp: '0.0.0.0:25:' is not an address and port such as 0.0.0.0:25 or [::]:25",
        (
            "2:69: listeners[1].tls.mode: 'startls' is not allowed; it must be none, starttls,"
            " starttls_required or implicit (did you mean 'starttls'?)"
        ),
        "2:80: listeners[2].smtp: is missing",
        "2:81: listeners[2].tls: mode starttls needs a certificate",
        '3:31: backends.postfix.servers: must be a list; write ["127.0.0.1:10025"]',
        "3:93: backends.other.timeouts.connect: 5 is not a duration such as 500ms, 5s, 10m, 1h or 30d; write 5s",
        (
            "5:3: domains.example.com: names no backend, and there is more than one;"
            " give 'backend' here or 'default_backend' for all"
        ),
        (
            "6:26: domains.example.net.backend: there is no backend 'posfix' (did you mean 'postfix'?);"
            " there are postfix and other"
        ),
        (
            "6:66: domains.example.net.policies.sise: no chain has a policy 'sise' (did you mean 'size'?);"
            " the policies of the chain are relay and size"
        ),
        "7:31: domains.*.example.org.alias_of: there is no domain 'example.ne' (did you mean 'example.net'?)",
        (
            "8:31: policies[1].size.on.to_large: is not an outcome of size (did you mean 'too_large'?);"
            " it has too_large and nearly"
        ),
        "8:67: policies[1].size.on.too_large.reply: the reply of reject begins with 5, and this with 454",
        "8:85: policies[1].size.limits: is not a setting here (did you mean 'limit'?)",
        "10:1: workers: the key 'workers' stands here twice; the first is in line 9",
        "10:10: workers: must be a whole number",
        "12:28: exceptions[0].client: '192.0.2.1/24' has bits behind its prefix; the network is 192.0.2.0/24",
        "12:49: exceptions[0].until: must be a date such as 2027-01-31",
        "13:5: exceptions[1].reason: is missing",
        (
            "13:14: exceptions[1].policy: no chain has a policy 'sise' (did you mean 'size'?);"
            " the policies of the chain are relay and size"
        ),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("hostname: 5", "1:11: hostname: must be text; put it in quotes"),
        ("hostname: 'a b'", "1:11: hostname: 'a b' is not a domain name"),
        ("workers:", "1:1: workers: has no value"),
        ("limits: 5", "1:9: limits: must be a mapping (key: value)"),
        ("limits: {recipients: 5}", "1:22: limits.recipients: must be 100 or more"),
        ("limits: {recipients: true}", "1:22: limits.recipients: must be a whole number"),
        ("limits: {recipients: 150.5}", "1:22: limits.recipients: must be a whole number"),
        ("limits: {message_size: -1}", "1:24: limits.message_size: -1 is not a size such as 64KB, 25MB or 10MiB"),
        ("dns: {client_names: yes}", "1:21: dns.client_names: must be true or false"),
        ("dns: {servers: 127.0.0.1}", "1:16: dns.servers: must be a list"),
        ("dns: {servers: ['']}", "1:17: dns.servers[0]: must not be empty"),
        (
            "mode: enfocre",
            "1:7: mode: 'enfocre' is not allowed; it must be enforce or observe (did you mean 'enforce'?)",
        ),
        ("domains: [example.com]", "1:1: domains: must be a mapping (key: value)"),
        ("domains: {'a b.example': }", "1:11: domains.'a b.example': 'a b.example' is not a domain name"),
        ("domains: {a.test: , A.TEST: }", "1:21: domains.A.TEST: is the same domain as in line 1"),
        (
            "domains: {a.test: {backend: postfix, alias_of: b.test}, b.test: }",
            "1:11: domains.a.test: alias_of takes everything from the other domain; leave out backend",
        ),
        (
            "domains: {a.test: {alias_of: b.test}, b.test: {alias_of: c.test}, c.test: }",
            "1:30: domains.a.test.alias_of: 'b.test' is an alias itself; name the domain that has the settings",
        ),
        (
            "domains: {a.test: {recipients: {file: none.txt}}}",
            "1:39: domains.a.test.recipients.file: there is no file '{folder}/none.txt'",
        ),
        (
            "domains: {a.test: {recipients: {list: [a, b c]}}}",
            "1:43: domains.a.test.recipients.list[1]: 'b c' is not",
        ),
        (
            "domains: {a.test: {recipients: {any: true, list: [a]}}}",
            (
                "1:20: domains.a.test.recipients: 'any: true' takes every address; leave out 'list', 'file' and"
                " 'aliases', or 'any'"
            ),
        ),
        (
            "domains: {a.test: {recipients: {}}}",
            "1:20: domains.a.test.recipients: names none: give 'list', 'file', a source to ask, or 'any: true'",
        ),
        ("default_backend: posfix", "1:18: default_backend: there is no backend 'posfix' (did you mean 'postfix'?); "),
        (
            "exceptions: [{policy: relay, reason: x}]",
            "1:14: exceptions[0]: names no mail: give client, sender, recipient or domain",
        ),
        (
            "exceptions: [{policy: relay, sender: example.com, reason: x}]",
            "1:38: exceptions[0].sender: 'example.com' is not an address such as user@example.com, @example.com or <>",
        ),
        (
            "exceptions: [{policy: relay, client: 192.0.2.300, reason: x}]",
            "1:38: exceptions[0].client: '192.0.2.300' is not a network such as 192.0.2.0/24, or an address",
        ),
        (
            "domains: {a.test: {recipients: {aliases: ['@: x']}}}",
            "1:43: domains.a.test.recipients.aliases[0]: '@': '' is not a domain name",
        ),
        (
            "domains: {a.test: {recipients: {aliases: {file: none}}}}",
            "1:49: domains.a.test.recipients.aliases.file: there is no file '{folder}/none'",
        ),
        (
            "exceptions: [{policy: relay, client: 5, reason: x}]",
            "1:38: exceptions[0].client: must be a network such as 192.0.2.0/24, or an address",
        ),
        (
            "exceptions: [{policy: relay, domain: a.b, until: 86400, reason: x}]",
            "1:50: exceptions[0].until: must be a date such as 2027-01-31",
        ),
        ("exceptions: [{policy: relay, domain: a.b, reason: ''}]", "1:51: exceptions[0].reason: must not be empty"),
        (
            "listeners: [{smtp: '0.0.0.0:25'}, {smtp: '0.0.0.0:25'}]",
            "1:35: listeners[1]: listens on 0.0.0.0:25 like the one in line 1",
        ),
        ("listeners: []", "1:1: listeners: must not be empty"),
        (
            "listeners: [{smtp: 'a:1', auth: {backend: x}}]",
            "1:43: listeners[0].auth.backend: there is no backend 'x'; there are postfix",
        ),
        ("policies: {relay: {}}", "1:1: policies: must be a list"),
        ("records: sdtout", "1:10: records: must be stdout, or a mapping (key: value); write records: {file: sdtout}"),
    ],
)
def test_what_is_wrong(tmp_path: Path, change: str, expected: str) -> None:
    """Each fault is told where it stands, in words without Python's types."""
    key = change.partition(":")[0]
    keep = [block for block in _blocks(GOOD) if not block.startswith(f"{key}:")]
    found = problems(tmp_path, "\n".join([change, *keep]))
    assert found[0].startswith(expected.replace("{folder}", str(tmp_path)))
    assert not any(word in line for line in found for word in ("Input should", "pydantic", "str'", "dict"))


def _blocks(text: str) -> list[str]:
    """The top-level settings of a text, each with what is indented below it."""
    blocks: list[str] = []
    for line in text.split("\n"):
        if line.startswith(" "):
            blocks[-1] += "\n" + line
        else:
            blocks.append(line)
    return blocks


def test_without_backends_a_domain_has_none(tmp_path: Path) -> None:
    """A domain needs a backend, and the problem says that there is none at all."""
    text = "listeners: [{smtp: '127.0.0.1:25'}]\npolicies: [relay]\ndomains: {example.com: }\n"
    assert problems(tmp_path, text) == [
        (
            "3:11: domains.example.com: names no backend, and there is none;"
            " give 'backend' here or 'default_backend' for all"
        )
    ]


def test_a_listener_without_a_chain_is_told(tmp_path: Path) -> None:
    """Without a common chain each listener needs one of its own, and with that nothing is missing."""
    own = "listeners: [{smtp: 'localhost:1', policies: [relay]}, {smtp: 'localhost:2'%s}]\n"
    assert problems(tmp_path, own % "") == ["1:1: policies: is missing, and not every listener has a chain of its own"]
    assert loaded(tmp_path, own % ", policies: [size]").chain is None


def test_an_empty_file_names_what_is_missing(tmp_path: Path) -> None:
    """Nothing at all is a configuration without listeners."""
    assert problems(tmp_path, "") == ["1:1: listeners: is missing"]


def test_a_secret_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value from the environment never stands in a message; its reference does."""
    monkeypatch.setenv("LYCHGATE_TEST_SECRET", "hunter two")
    found = problems(tmp_path, GOOD.replace("mx1.example.com", "${env:LYCHGATE_TEST_SECRET}"))
    assert found == ["1:11: hostname: '${env:LYCHGATE_TEST_SECRET}' is not a domain name"]


def test_text_without_a_file(tmp_path: Path) -> None:
    """``loads`` reads text as if it stood in the file."""
    assert loads(GOOD, tmp_path / "x.yaml", registry=REGISTRY) == load(_written(tmp_path), registry=REGISTRY)


def _written(folder: Path) -> Path:
    path = folder / "x.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_installed_policies_are_found() -> None:
    """Without a registry the policies of installed packages can be named, and the error for another lists them."""
    with pytest.raises(ConfigError) as caught:
        loads("listeners: [{smtp: 'localhost:1'}]\npolicies: [relay, recipeint]\n", "/nowhere/x.yaml")
    assert len(caught.value.problems) == 1
    message = caught.value.problems[0].message
    assert "did you mean 'recipient'?" in message
    assert "installed are: access, " in message
    assert ", recipient, refusals, relay, " in message
    assert "pip install" in message


def test_ten_thousand_domains_share_equal_settings(tmp_path: Path) -> None:
    """Domains with the same settings have the same objects, so that memory grows with what differs."""
    lines = [f"  d{n}.example: {{policies: {{size: {{limit: {n % 3}KB}}}}}}" for n in range(10_000)]
    config = loaded(tmp_path, GOOD.replace("policies:\n", "\n".join(lines) + "\npolicies:\n", 1))
    assert config.chain is not None
    assert len(config.domains) == 10_001
    assert len({id(chain[1]) for chain in config.chain.overrides.values()}) == 2
    assert all(chain[0] is config.chain.policies[0] for chain in config.chain.overrides.values())
    assert "d2.example" not in config.chain.overrides  # 2KB is what the chain has
