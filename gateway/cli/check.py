"""``lychgate check``: says what is wrong with a configuration, or what it comes to.

Exits with 0 when the configuration can be used (warnings included, but with ``--strict``), with 1 when it can't, and
with 2 when the command was called wrongly.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from gateway.cli.common import ExitCode, print_problems
from gateway.cli.common import problem_json as as_data
from gateway.cli.screen import complain, console, line, print_json, table
from gateway.config import lists, reach
from gateway.config.advice import file_problems, warnings
from gateway.config.backend import BackendOptions
from gateway.config.effective import differences, effective, policy, stages
from gateway.config.load import load
from gateway.config.model import ChainSettings, Config, DomainOptions, Listener, Mode
from gateway.config.problems import ConfigError, Problem, listed
from gateway.config.recipients import RecipientOptions
from gateway.units import counted, format_size

MAX_DOMAINS = 40
"""Domains that are listed one by one; ``--json`` has all."""


def check(config: Path, *, listener: str | None, strict: bool, as_json: bool) -> None:
    """Carry the command out.

    Args:
        config: The file.
        listener: The one listener that is shown, by its address; None for all.
        strict: Whether warnings fail it, too.
        as_json: Whether to print for programs.

    Raises:
        typer.Exit: The configuration can't be used, or not without warnings; with ``ExitCode.CONFIG``. There is no such
            listener; with ``ExitCode.USAGE``.
    """
    try:
        loaded = load(config)
    except ConfigError as error:
        _refuse(config, error.problems, as_json=as_json)
    problems = file_problems(loaded)
    if problems:
        _refuse(config, problems, as_json=as_json)
    listeners = [known for known in loaded.listeners if listener in {None, known.name}]
    if not listeners:
        names = listed((known.name for known in loaded.listeners), last="and")
        complain(f"lychgate: there is no listener {listener!r}; there are {names}")
        raise typer.Exit(ExitCode.USAGE)
    told = [*warnings(loaded, datetime.now(UTC).date()), *lists.warnings(loaded), *reach.warnings(loaded)]
    if as_json:
        told_data = [as_data(warning) for warning in told]
        head = {"file": str(loaded.path), "valid": True, "problems": [], "warnings": told_data}
        print_json(head | effective(loaded, listeners))
    else:
        _print(console(), loaded, listeners, told)
    if strict and told:
        raise typer.Exit(ExitCode.CONFIG)


def _refuse(path: Path, problems: Iterable[Problem], *, as_json: bool) -> NoReturn:
    if as_json:
        found = [as_data(problem) for problem in problems]
        print_json({"file": str(path.absolute()), "valid": False, "problems": found, "warnings": []})
    else:
        print_problems(problems)
    raise typer.Exit(ExitCode.CONFIG)


def _print(out: Console, config: Config, listeners: list[Listener], told: list[Problem]) -> None:
    out.print(line(f"{config.path} can be used. This gateway is {config.hostname}.", style="green"), soft_wrap=True)
    for warning in told:
        out.print(
            line(f"warning: {warning}", style="bold red" if "OPEN RELAY" in warning.message else "yellow"),
            soft_wrap=True,
        )
    for chain in {id(listener.chain): listener.chain for listener in listeners}.values():
        out.print()
        for listener in listeners:
            if listener.chain is chain:
                _print_listener(out, listener)
        _print_chain(out, config, chain)
    _print_domains(out, config)
    _print_backends(out, config)
    if config.exceptions:
        out.print()
        out.print(counted(len(config.exceptions), "exception"))
        for entry in config.exceptions:
            written = entry.model_dump(mode="json", exclude_none=True)
            out.print("  " + ", ".join(f"{key}: {value}" for key, value in written.items()), soft_wrap=True)


def _print_listener(out: Console, listener: Listener) -> None:
    facts = [f"tls {listener.tls.mode}", "a chain of its own" if listener.own_chain else "the common chain"]
    if listener.auth is not None:
        facts.append(f"auth by {listener.auth.backend}, {'required' if listener.auth.required else 'optional'}")
    if listener.proxy_protocol is not None:
        facts.append("PROXY protocol")
    size = format_size(listener.message_size) if listener.message_size else "of any size"
    facts.append(f"messages up to {size}" if listener.message_size else f"messages {size}")
    out.print(line((f"Listener {listener.name}", "bold"), f" ({', '.join(facts)})"))


def _print_chain(out: Console, config: Config, chain: ChainSettings) -> None:
    by_id = {settings.id: settings for settings in chain.policies}
    listing = table("Stage", "Policy", "Outcomes and actions", "Mode", "On error", "Timeout")
    for stage, ids in stages(chain).items():
        for index, name in enumerate(ids):
            data = policy(by_id[name])
            mode = line(data["mode"], style="yellow" if data["mode"] == Mode.OBSERVE else "")
            label = name if name == data["policy"] else f"{name} ({data['policy']})"
            listing.add_row("" if index else stage, label, _on(data["on"]), mode, data["on_error"], data["timeout"])
    out.print(listing)
    _print_differences(out, config, chain)


def _print_differences(out: Console, config: Config, chain: ChainSettings) -> None:
    names = [name for name in config.domains if name in chain.overrides]
    for name in names[:MAX_DOMAINS]:
        found = differences(chain.policies, chain.for_domain(name))
        for policy_id, changed in found.items():
            out.print(f"  for {name}: {policy_id} has {', '.join(_written(changed))}", soft_wrap=True)
    if len(names) > MAX_DOMAINS:
        rest = counted(len(names) - MAX_DOMAINS, "more domain differs", "more domains differ")
        out.print(f"  and {rest}; --json has all")


def _written(changed: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in changed.items():
        if key == "on":
            yield _on(value)
        else:
            yield f"{prefix}{key}: {value}"


def _on(on: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {_action(response)}" for name, response in on.items())


def _action(response: Any) -> str:
    if isinstance(response, str):
        return response
    detail = "; ".join(str(value) for key, value in response.items() if key != "action")
    return f"{response['action']} ({detail})"


def _print_domains(out: Console, config: Config) -> None:
    if not config.domains:
        return
    out.print()
    out.print(line(counted(len(config.domains), "domain"), style="bold"))
    listing = table("Domain", "Backend", "Recipients", "Message size")
    for domain in list(config.domains.values())[:MAX_DOMAINS]:
        name = domain.name if domain.alias_of is None else f"{domain.name} (as {domain.alias_of})"
        size = "" if domain.message_size is None else format_size(domain.message_size)
        listing.add_row(name, domain.backend, _recipients(domain), size)
    out.print(listing)
    if len(config.domains) > MAX_DOMAINS:
        out.print(f"  and {len(config.domains) - MAX_DOMAINS} more; --json has all")


def _recipients(domain: DomainOptions) -> str:
    if domain.recipients is None:
        return "the backend decides"
    return ", ".join(part for section in domain.recipients for part in _known(section))


def _known(section: RecipientOptions) -> Iterator[str]:
    if section.any:
        yield "any"
    if section.entries:
        yield f"{len(section.entries)} listed"
    if section.file is not None:
        yield str(section.file)
    if section.aliases is not None:
        yield "aliases"
    yield from section.asked


def _print_backends(out: Console, config: Config) -> None:
    out.print()
    out.print(line("Backends", style="bold"))
    for name, options in config.backends.items():
        default = " (default)" if name == config.default_backend else ""
        held = " (quarantine)" if config.quarantine is not None and name == config.quarantine.backend else ""
        out.print(f"  {name}{default}{held}: {_backend(options)}", soft_wrap=True)


def _backend(options: BackendOptions) -> str:
    servers = ", ".join(str(server) for server in options.servers)
    tls = f"{options.tls.mode}{', implicit' if options.tls.implicit else ''}"
    return f"{servers} ({options.protocol}, tls {tls}, client_info {options.client_info})"
