"""``lychgate check``: what it prints, for people and for programs, and its exit codes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import app

CONFIG = """\
hostname: mx1.example.com
listeners:
  - smtp: 0.0.0.0:25
  - smtp: "[::1]:2525"
    policies: [relay, size]
backends:
  postfix: {servers: ["127.0.0.1:10025"], client_info: xclient}
domains:
  example.com: {recipients: {list: [alice]}, message_size: 25MB}
  example.net: {policies: {size: {limit: 5MB, on: {too_large: defer}}}}
  example.org: {alias_of: example.net}
policies:
  - relay
  - recipient
  - size: {timeout: 3s}
  - limits: {id: bounds, mode: observe}
exceptions:
  - {policy: size, client: 192.0.2.0/24, until: 2020-01-31, reason: "a partner"}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration file."""
    file = tmp_path / "lychgate.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, arguments, env=environment)


def test_listeners_that_share_a_chain_are_shown_with_it_once(path: Path) -> None:
    """The common chain stands below all its listeners, and a listener's own below that one."""
    path.write_text(CONFIG.replace("backends:", '  - smtp: "[::]:25"\nbackends:'), encoding="utf-8")
    lines = [line.split() for line in run("check", "--config", str(path)).output.split("\n")]
    shown = [
        line[1] if line[0] == "Listener" else "chain" for line in lines if line and line[0] in {"Listener", "Stage"}
    ]
    assert shown == ["0.0.0.0:25", "[::]:25", "chain", "[::1]:2525", "chain"]


def test_what_a_configuration_comes_to(path: Path) -> None:
    """Each listener's chain is shown by stage, with what differs for domains, the domains, backends and exceptions."""
    result = run("check", "--config", str(path))
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.split("\n")]
    assert f"{path} can be used. This gateway is mx1.example.com." in lines
    assert "Listener 0.0.0.0:25 (tls none, the common chain, messages up to 50MB)" in lines
    assert "Listener [::1]:2525 (tls none, a chain of its own, messages up to 50MB)" in lines
    assert "rcpt relay denied: reject, source_route: pass enforce defer 10s" in lines
    assert "mail size too_large: reject enforce defer 3s" in lines
    assert any(line.startswith("bounds (limits) too_many_recipients: defer") and "observe" in line for line in lines)
    assert "for example.net: size has too_large: defer, limit: 5000000" in lines
    assert "example.org (as example.net) postfix the backend decides" in lines
    assert "example.com postfix 1 listed 25MB" in lines
    assert "postfix (default): 127.0.0.1:10025 (smtp, tls off, client_info xclient)" in lines
    assert {"3 domains", "1 exception"} <= set(lines)
    assert "policy: size, client: 192.0.2.0/24, until: 2020-01-31, reason: a partner" in lines


def test_warnings_come_first(path: Path) -> None:
    """Warnings stand above the chains, with their places, and do not change the exit code."""
    result = run("check", "-c", str(path))
    assert (
        f"warning: {path}:18:5: exceptions[0]: has expired on 2020-01-31 and does nothing: a partner" in result.output
    )
    assert f"warning: {path}:4:5: listeners[1]: the recipients of example.com are never looked at" in result.output
    assert result.output.index("warning:") < result.output.index("Listener")


def test_an_open_relay_is_warned_of(path: Path) -> None:
    """A chain without the relay policy is told loudly."""
    path.write_text(CONFIG.replace("[relay, size]", "[size]"), encoding="utf-8")
    result = run("check", "-c", str(path))
    assert result.exit_code == 0
    assert "listeners[1]: OPEN RELAY: this chain has no relay policy" in result.output


def test_one_listener(path: Path) -> None:
    """``--listener`` shows that listener alone; one that does not exist is a wrong call."""
    result = run("check", "-c", str(path), "--listener", "[::1]:2525")
    assert "Listener [::1]:2525" in result.output
    assert "Listener 0.0.0.0:25" not in result.output
    wrong = run("check", "-c", str(path), "--listener", "1.2.3.4:25")
    assert wrong.exit_code == 2
    assert "there is no listener '1.2.3.4:25'; there are 0.0.0.0:25 and [::1]:2525" in wrong.stderr


def test_problems(path: Path) -> None:
    """Every problem stands on a line of standard error, and the exit code is 1."""
    path.write_text(
        CONFIG.replace("timeout: 3s", "timout: 3s").replace("bounds, mode", "bounds, mood"), encoding="utf-8"
    )
    result = run("check", "-c", str(path))
    assert result.exit_code == 1
    assert not result.stdout
    assert result.stderr.split("\n") == [
        f"{path}:15:12: policies[2].size.timout: is not a setting here (did you mean 'timeout'?)",
        f"{path}:16:26: policies[3].limits.mood: is not a setting here (did you mean 'mode'?)",
        "",
    ]


def test_missing_certificates_are_problems(path: Path) -> None:
    """What serving would need and is not there is a problem, too."""
    text = CONFIG.replace("smtp: 0.0.0.0:25", "smtp: 0.0.0.0:25\n    tls: {mode: starttls, certificate: none.pem}")
    path.write_text(text, encoding="utf-8")
    result = run("check", "-c", str(path))
    assert result.exit_code == 1
    assert result.stderr == f"{path}:4:40: listeners[0].tls.certificate: there is no file '{path.parent}/none.pem'\n"


def test_json(path: Path) -> None:
    """Programs get everything as one JSON object."""
    result = run("check", "-c", str(path), "--json", "-l", "0.0.0.0:25")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (found["file"], found["valid"], found["problems"]) == (str(path), True, [])
    assert [(warning["path"], warning["line"]) for warning in found["warnings"] if warning["path"] != "user"] == [
        ("listeners[1]", 4),
        ("exceptions[0]", 18),
    ]
    (listener,) = found["listeners"]
    assert listener["stages"]["rcpt"] == ["relay", "recipient", "size", "bounds"]
    assert listener["policies"][2]["timeout"] == "3s"
    assert listener["policies"][3]["mode"] == "observe"
    different = {"size": {"on": {"too_large": "defer"}, "limit": 5_000_000}}
    assert listener["domains"] == {"example.net": different, "example.org": different}
    assert found["domains"]["example.org"]["alias_of"] == "example.net"
    assert found["domains"]["example.com"]["recipients"] == {"list": ["alice"]}
    assert found["backends"]["postfix"]["servers"] == ["127.0.0.1:10025"]


def test_problems_as_json(path: Path) -> None:
    """For programs problems are on standard output, and the exit code is 1."""
    path.write_text("listeners: []\n", encoding="utf-8")
    result = run("check", "-c", str(path), "--json")
    assert result.exit_code == 1
    problem = {"file": str(path), "line": 1, "column": 1, "path": "listeners", "message": "must not be empty"}
    assert json.loads(result.stdout) == {"file": str(path), "valid": False, "problems": [problem], "warnings": []}


def test_the_configuration_is_found_by_the_environment(path: Path) -> None:
    """``$LYCHGATE_CONFIG`` names the file where the option does not."""
    assert run("check", environment={"LYCHGATE_CONFIG": str(path)}).exit_code == 0


def test_a_missing_configuration(tmp_path: Path) -> None:
    """A file that is not there is told in words, with exit code 1."""
    result = run("check", "-c", str(tmp_path / "none.yaml"))
    assert result.exit_code == 1
    assert result.stderr == f"{tmp_path}/none.yaml: can't be read: No such file or directory\n"


def test_a_wrong_call() -> None:
    """An unknown option is a wrong call: exit code 2."""
    assert run("check", "--nothing").exit_code == 2


def test_many_domains_are_cut_for_people(path: Path) -> None:
    """Of very many domains only the first are listed, and JSON has all."""
    many = "".join(f"  d{n}.test: {{policies: {{size: {{limit: {n + 1}}}}}}}\n" for n in range(100))
    path.write_text(CONFIG.replace("policies:\n  - relay", f"{many}policies:\n  - relay"), encoding="utf-8")
    output = run("check", "-c", str(path)).output
    assert "103 domains" in output
    assert "and 63 more; --json has all" in output
    assert "d99.test" not in output
    assert "d99.test" in json.loads(run("check", "-c", str(path), "--json").stdout)["domains"]


def test_colours_only_on_a_terminal(path: Path) -> None:
    """On a terminal the output has colours, in a pipe none, whatever comes of the width."""
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "check", "-c", str(path)]
    root = Path(__file__).parents[3]
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    environment["TERM"] = "xterm"
    piped = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout
    terminal, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=root, env=environment, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            shown += part
    os.close(terminal)
    assert process.returncode == 0
    assert b"\x1b[" in shown


def test_strict_fails_on_warnings_alone(path: Path, tmp_path: Path) -> None:
    """With ``--strict`` warnings are printed as ever and the exit status is 1; without any it is 0."""
    for form in ([], ["--json"]):
        plain, strict = (run("check", "--config", str(path), *form, *more) for more in ([], ["--strict"]))
        assert (plain.exit_code, strict.exit_code) == (0, 1)
        assert plain.output == strict.output
        assert "has expired on 2020-01-31" in strict.output
    clean = tmp_path / "clean.yaml"
    user = "user: root\n" if os.geteuid() == 0 else ""  # root is warned that the service would stay root
    clean.write_text(
        user
        + 'hostname: mx1.example.com\nlisteners: [{smtp: "192.0.2.1:25"}]\nbackends: {a: {servers: [198.51.100.1]}}\n'
        "domains: {example.com: {recipients: {list: [alice]}}}\npolicies: [relay, recipient]\n"
    )
    result = run("check", "--config", str(clean), "--strict")
    assert (result.exit_code, "warning: " in result.output) == (0, False), result.output
