"""Where recipients are known: what may stand in the configuration, what is wrong with it, and what is never shown."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from gateway.adapters.recipients.sources import RecipientSources
from gateway.cli.app import app
from gateway.config import recipients
from gateway.config.reading import read_text
from gateway.config.recipients import LdapOptions, RecipientOptions
from gateway.config.schema import config_schema
from tests.support.configuring import GOOD, REGISTRY, loaded, problems

SQL = "sql: {url: 'postgresql://u@db/mail', query: 'SELECT 1 FROM users WHERE address = :address'}"
LDAP = "ldap: {server_host: 'ldap://ldap.test', search_base: 'dc=x', query_filter: '(mail=%s)'}"
SOCKETMAP = "socketmap: {server: '127.0.0.1:5000', map: virtual}"
HTTP = "http: {url: 'https://api.test/{address}'}"

VALID = {
    "probe: true": ["probe"],
    "probe: {sender: 'probe@x.test', random_test: 0s, timeout: 2s, cache: {yes: 2h, no: 0s, entries: 5}}": ["probe"],
    "probe: false, list: [alice]": [],
    f"{SQL}, list: [alice], aliases: ['info: alice']": ["sql"],
    "sql: {url: 'mariadb://u:p%40ss@db:3307/mail', query: 'SELECT :domain, :local_part'}": ["sql"],
    "sql: {url: 'mysql://db/mail', query: \"SELECT a::text, '10\\\\:30' FROM t WHERE b = :address\"}": ["sql"],
    "sql: {url: 'sqlite:///users.db', query: 'SELECT :address'}": ["sql"],
    LDAP: ["ldap"],
    "ldap: {server_host: [ldap.test, 'ldaps://b.test:636', 'ldapi://%2Frun%2Fldapi'], search_base: 'dc=%2,dc=%1'}": [
        "ldap"
    ],
    "ldap: {server_host: 'ldap://[::1]:389', search_base: x, result_attribute: [mail, uid], scope: one, version: 2}": [
        "ldap"
    ],
    SOCKETMAP: ["socketmap"],
    "tcp: {server: 'unix:/run/table', key: local_part}": ["tcp"],
    "tcp: {server: '[::1]:5000'}": ["tcp"],
    HTTP: ["http"],
    "http: {url: 'http://127.0.0.1:8080/{domain}/{local_part}', user: u, password: p, not_found: no, field: known}": [
        "http"
    ],
}


def with_recipients(text: str) -> str:
    """A configuration whose only domain has these recipients."""
    return GOOD.replace("{list: [alice, bob]}", text)


@pytest.mark.parametrize("text", [text for text, asked in VALID.items() if asked or "list" in text])
def test_every_source_can_be_written(tmp_path: Path, text: str) -> None:
    """In its shortest form and with all settings; the schema takes the same; and each can be made."""
    config = loaded(tmp_path, with_recipients("{" + text + "}"))
    domain = config.domains["example.com"]
    assert domain.recipients is not None
    (section,) = domain.recipients
    assert list(section.asked) == VALID[text]
    schema = jsonschema.Draft202012Validator(config_schema(REGISTRY))
    document = read_text(with_recipients("{" + text + "}"), tmp_path / "x.yaml").root
    assert [error.message for error in schema.iter_errors(document)] == []
    assert (RecipientSources(tmp_path).of(domain) is None) is ("probe: " in text and "list" not in text)


def test_several_sources_stand_in_a_list(tmp_path: Path) -> None:
    """In the order in which they are asked."""
    text = with_recipients("[{list: [alice]}, {%s}, {probe: true}]" % SQL)  # noqa: UP031 - braces of YAML
    found = loaded(tmp_path, text).domains["example.com"].recipients
    assert found is not None
    assert [list(section.asked) for section in found] == [[], ["sql"], ["probe"]]
    schema = jsonschema.Draft202012Validator(config_schema(REGISTRY))
    schema.validate(read_text(text, tmp_path / "x.yaml").root)


WRONG = [
    ("{}", "recipients: names none: give 'list', 'file', a source to ask, or 'any: true'"),
    ("null", "recipients: has no value: give a source, or 'any: true' to take every address"),
    ("{probe: null}", "recipients: 'probe' without a value"),
    ("{list: [a], sql: }", "recipients: 'sql' without a value"),
    ("{list: , file: }", "recipients: 'list' and 'file' without a value"),
    ("[{list: [a]}, null]", "recipients[1]: names none"),
    ("{probe: false}", "recipients: names none"),
    ("[]", "recipients: must not be empty"),
    ("[{any: true}, {list: [a]}]", "recipients: 'any: true' takes every address; leave out the others"),
    ("{any: true, probe: true}", "recipients: 'any: true' takes every address; leave out 'probe', or 'any'"),
    (
        "{probe: true, tcp: {server: 'a:1'}}",
        "recipients: names 'probe' and 'tcp': write a list of sections, in the order in which they are asked",
    ),
    ("[{list: [a]}, {prob: true}]", "recipients[1].prob: is not a setting here (did you mean 'probe'?)"),
    ("{probe: yes}", "recipients.probe: must be true, or settings in a mapping (key: value); write probe: true"),
    ("{probe: {timeout: 0}}", "recipients.probe: timeout must be more than 0"),
    ("{probe: {cache: {yes: 5}}}", "recipients.probe.cache.yes: 5 is not a duration"),
    ("{probe: {cache: {stales: 5s}}}", "is not a setting here (did you mean 'stale'?)"),
    ("{sql: {query: 'SELECT :address'}}", "recipients.sql.url: is missing"),
    ("{sql: {url: 'oracle://db', query: 'SELECT :address'}}", "recipients.sql.url: is not a URL such as postgresql:"),
    ("{sql: {url: 'sqlite:///x', query: 'SELECT 1'}}", "recipients.sql.query: asks for no address: name :address"),
    ("{sql: {url: 'sqlite:///x', query: 'SELECT :adress'}}", "recipients.sql.query: :adress is not one of :address"),
    ("{ldap: {search_base: x}}", "recipients.ldap.server_host: is missing"),
    ("{ldap: {server_host: [], search_base: x}}", "recipients.ldap.server_host: must not be empty"),
    ("{ldap: {server_host: 'http://x', search_base: x}}", "'http://x' is not a server such as ldap://host"),
    ("{ldap: {server_host: 'ldap://x:99999', search_base: x}}", "is not a server such as ldap://host"),
    ("{ldap: {server_host: 'ldapi:///run/x', search_base: x}}", "write the socket's path with %2F"),
    ("{ldap: {server_host: x, search_base: 'dc=%x'}}", "recipients.ldap.search_base: '%x' is not one of"),
    (
        "{ldap: {server_host: x, search_base: x, query_filter: '(mail=%s'}}",
        "recipients.ldap.query_filter: a ')' is missing",
    ),
    ("{ldap: {server_host: x, search_base: x, bind_dn: 'cn=a'}}", "recipients.ldap: bind_dn needs bind_pw"),
    ("{ldap: {server_host: x, search_base: x, version: 2, start_tls: true}}", "version 2 has no start_tls"),
    ("{ldap: {server_host: 'ldaps://x', search_base: x, start_tls: true}}", "start_tls goes with ldap:// only"),
    ("{ldap: {server_host: x, search_base: x, tls_ca_cert_file: none.pem}}", "there is no file"),
    ("{ldap: {server_host: x, search_base: x, result_attribute: 'a b'}}", "recipients.ldap.result_attribute"),
    ("{socketmap: {server: '127.0.0.1:1'}}", "recipients.socketmap.map: is missing"),
    ("{socketmap: {server: '127.0.0.1:1', map: 'a b'}}", "recipients.socketmap.map: does not have the form"),
    ("{tcp: {server: '127.0.0.1'}}", "recipients.tcp.server: '127.0.0.1' is not a server such as 127.0.0.1:5000"),
    ("{tcp: {server: '127.0.0.1:0'}}", "is not a server such as 127.0.0.1:5000"),
    ("{http: {url: 'https://api.test/users'}}", "recipients.http.url: asks for no address: name {address}"),
    ("{http: {url: 'https://api.test/{user}'}}", "{user} is not one of {address}, {local_part}, {domain}"),
    ("{http: {url: 'ftp://api.test/{address}'}}", "is not a URL such as https://host/recipients/{address}"),
    ("{http: {url: 'https://{domain}/{address}'}}", "is not a URL such as"),
    ("{http: {url: 'https://u:p@api.test/{address}'}}", "has a user in it: give user and password beside it"),
    ("{http: {url: 'https://x/{address}', user: u}}", "recipients.http: user and password go together"),
    ("{http: {url: 'https://x/{address}', user: u, password: p, token: t}}", "give user and password, or token"),
    ("{http: {url: 'https://x/{address}', user: 'a:b', password: p}}", "a user has no colon"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    """One problem each, at its line and column, in an administrator's words."""
    (found,) = problems(tmp_path, with_recipients(text))
    place, _, words = found.partition(": ")
    assert place.startswith("7:")
    assert message in words.removeprefix("domains.example.com.")


@pytest.mark.parametrize("text", ["null", "{sql: , list: [a]}", "{list: }", "{file: , any: true}"])
def test_the_schema_takes_no_recipients_without_a_value(tmp_path: Path, text: str) -> None:
    """An editor marks a source that was left empty, too."""
    schema = jsonschema.Draft202012Validator(config_schema(REGISTRY))
    assert not schema.is_valid(read_text(with_recipients(text), tmp_path / "x.yaml").root)


def test_a_library_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, before any mail comes."""
    monkeypatch.setattr(recipients, "find_spec", lambda _: None)
    for text, extra in ((SQL, "sql"), (HTTP, "http")):
        (found,) = problems(tmp_path, with_recipients("{" + text + "}"))
        assert f"needs a library that is not installed: pip install 'lychgate[{extra}]'" in found


SECRETS: dict[str, dict[str, Any]] = {
    "sql": {"url": "postgresql://u:geheim1@db/mail", "password": "geheim2", "query": "SELECT :address"},
    "ldap": {"server_host": "ldap://x", "search_base": "x", "bind_dn": "cn=a", "bind_pw": "geheim3"},
    "http": {"url": "https://x/{address}", "token": "geheim4"},
}


@pytest.mark.parametrize("key", SECRETS)
def test_secrets_are_never_shown(tmp_path: Path, key: str) -> None:
    """Neither by ``check`` nor where an object is printed; nor as the name of a source."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(with_recipients(json.dumps({key: SECRETS[key]})))
    for arguments in (["--json"], []):
        result = CliRunner().invoke(app, ["check", "--config", str(path), *arguments])
        assert key in result.output
        assert "geheim" not in result.output
    options = RecipientOptions.model_validate({key: SECRETS[key]})
    assert "geheim" not in repr(options)
    sources = RecipientSources(tmp_path)
    sources.of(loaded(tmp_path, path.read_text()).domains["example.com"])
    assert "geheim" not in sources.caches[0].name


def test_a_password_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or from the environment."""
    (tmp_path / "password").write_text("in a file\n")
    monkeypatch.setenv("LDAP_PASSWORD", "outside")
    for written, wanted in (("${file:password}", "in a file"), ("${env:LDAP_PASSWORD}", "outside")):
        text = LDAP.replace("search_base", f"bind_dn: 'cn=a', bind_pw: '{written}', search_base")
        sections = loaded(tmp_path, with_recipients("{" + text + "}")).domains["example.com"].recipients
        assert sections is not None
        options = sections[0].ldap
        assert isinstance(options, LdapOptions)
        assert options.bind_pw is not None
        assert options.bind_pw.get_secret_value() == wanted


def _examples() -> list[str]:
    page = (Path(__file__).parents[3] / "docs/recipients.md").read_text("utf-8")
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("example", _examples())
def test_the_examples_of_the_page_can_be_used(tmp_path: Path, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are a file, domains, or sources."""
    for name in ("recipients.txt", "db-password", "ldap-password"):
        (tmp_path / name).write_text("alice\n")
    monkeypatch.setenv("ACCOUNTS_TOKEN", "x")
    base = "\n".join(line for line in GOOD.splitlines() if "example.com: {" not in line and "size" not in line)
    base = base.replace("  postfix:", "  exchange: {servers: [x]}\n  postfix:") + "\ndefault_backend: postfix\n"
    if example.startswith("domains:"):
        text = re.sub(r"domains:\npolicies:\n  - relay\n", example.replace("  - recipient\n", ""), base)
    elif example.startswith("example."):
        text = base.replace("domains:\n", "domains:\n" + textwrap.indent(example, "  "))
    else:
        sources = "".join(f"      {'  ' if line[:1] == ' ' else '- '}{line}\n" for line in example.splitlines())
        text = base.replace("domains:\n", f"domains:\n  a.test:\n    recipients:\n{sources}")
    found = loaded(tmp_path, text)
    asked = [key for domain in found.domains.values() for section in domain.recipients or () for key in section.asked]
    assert asked


def test_check_names_the_sources_of_each_domain(tmp_path: Path) -> None:
    """So that one sees what is asked, and in which order."""
    path = tmp_path / "lychgate.yaml"
    path.write_text(with_recipients("[{list: [alice, bob]}, {%s}]" % LDAP))  # noqa: UP031 - braces of YAML
    result = CliRunner().invoke(app, ["check", "--config", str(path)])
    assert "2 listed, ldap" in result.output
